# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Many restarts
#
# EM promises a local maximum, and which one depends on the start. The cure is many starts, and three questions follow:
# how many are enough, what do they cost, and can the hopeless ones be stopped early?

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxem

jax.config.update("jax_enable_x64", True)
plt.rcParams |= {"figure.dpi": 85, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}

x = jaxem.datasets.old_faithful()
model = jaxem.gaussian_mixture(6, covariance="diag")
seen = []
best, every = jaxem.fit_restarts(
    model, x, jax.random.key(0), n_restarts=256, algorithm=jaxem.SQUAREM(), callback=seen.append
)
print(best.message)
for optimum in jaxem.optima(every)[:8]:
    print(f"{optimum.objective:11.3f}  reached by {optimum.n_restarts:3d} of 256  {optimum.statuses}")

# %% [markdown]
# ## How many are enough?
#
# If a share $p$ of the starts leads to the best optimum, $r$ of them all miss it with probability $(1 - p)^r$. The
# share is not known beforehand, but the restarts estimate it themselves: an optimum that only one of many found is a
# sign that a better one may not have been found at all.

# %%
good = np.asarray(every.objective)
good = np.where(np.isin(np.asarray(every.status), jaxem.engine.result.PROPER), good, -np.inf)
share = float(np.mean(good >= good.max() - 1e-3))
rng = np.random.default_rng(0)
sizes = np.array([1, 2, 4, 8, 16, 32, 64, 128])
best_of = np.array([[good[rng.choice(256, r, replace=False)].max() for _ in range(400)] for r in sizes])

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
left.plot(sizes, np.mean(best_of < good.max() - 1e-3, 1), "o-", color="#30638e", label="seen")
left.plot(sizes, (1 - share) ** sizes, "--", color="#d1495b", label="$(1-p)^r$")
left.set(xscale="log", xlabel="restarts", ylabel="chance to miss the best", title=f"p = {share:.2f}")
left.legend()
finite = good[np.isfinite(good)]
right.hist(finite[finite > finite.max() - 25], 40, color="#8d96a3")
right.set(xlabel="log-likelihood at the end", ylabel="restarts", title="where they end (the best 25 nats)")
plt.show()
needed = int(np.ceil(np.log(0.01) / np.log(1 - share)))
print(f"{needed} restarts miss the best with a chance below 1 %")

# %% [markdown]
# ## What they cost
#
# Restarts differ in how many steps they need. Side by side in one program, a plain loop would run all of them until the
# slowest is done. Here a *lane* that finishes takes the next start of the queue, and near the end the few that are left
# move to a narrower loop.

# %%
looks = np.asarray(every.n_evaluations)
print(f"looks at the data per restart: {looks.mean():.0f} on average, {looks.max()} at most")
print(f"all side by side until the slowest is done: lanes busy {looks.mean() / looks.max():.0%} of the time")

big = jnp.concatenate([x + 0.1 * jax.random.normal(key, x.shape) for key in jax.random.split(jax.random.key(1), 8)])
_ = jaxem.fit_restarts(
    model, big, jax.random.key(0), n_restarts=512, tol=1e-6, algorithm=jaxem.SQUAREM(), callback=seen.append
)
print(f"512 restarts of {len(big):,} rows, refilled and narrowed: {seen[-1].occupancy:.0%}")

# %% [markdown]
# ## Stopping the hopeless ones
#
# A *ladder* runs all starts for a few steps, keeps the best quarter, runs these a little longer, and so on. It costs a
# fraction. It can also lose the best optimum, for what leads early need not win: how often, one has to measure. Here it
# is, with eight sets of 64 starts, for four components and for six, and for six with a wider ladder:

# %%
narrow, wide = jaxem.Screening(), jaxem.Screening(steps=(40,), keep=0.5)
for k, ladder in ((4, narrow), (6, narrow), (6, wide)):
    each = jaxem.gaussian_mixture(k, covariance="diag")
    lost, looks_full, looks_short = [], 0, 0
    for seed in range(8):
        options = dict(n_restarts=64, algorithm=jaxem.SQUAREM())
        full = jaxem.fit_restarts(each, x, jax.random.key(100 + seed), **options)
        short = jaxem.fit_restarts(each, x, jax.random.key(100 + seed), screening=ladder, **options)
        lost.append(float(full.best.objective - short.best.objective))
        looks_full += int(full.all.n_evaluations.sum())
        looks_short += int(short.all.n_evaluations.sum())
    worse = [loss for loss in lost if loss > 1e-3]
    print(f"k = {k}, {ladder}: {looks_full / looks_short:.1f} times fewer looks; worse in {len(worse)} of 8", end="")
    print(f", by {np.mean(worse):.2f} nats on average" if worse else "")

# %% [markdown]
# With four components nothing is lost. With six the best optimum is a late starter: its climbers look no better than
# others for many steps, and the narrow ladder lets all of them go; the wide one keeps them and saves less. Use a ladder
# where data are large, and check it once against a full run.

# %% [markdown]
# ## Many data sets at once
#
# Data sets of different sizes are padded with rows of weight 0, and `vmap` fits all of them in one program. Here the
# geyser is resampled ten times, with a different number of rows each: how sure are we of the two means?

# %%
rng = np.random.default_rng(1)
samples = [x[rng.choice(len(x), size)] for size in rng.integers(120, 272, 10)]
stacked, weights = jaxem.pad_datasets(samples)
two, keys = jaxem.gaussian_mixture(2, covariance="tied"), jax.random.split(jax.random.key(0), 10)


def waiting_times(rows, weights, key):
    fit = jaxem.fit_restarts(two, rows, key, weights=weights, n_restarts=4).best
    return jnp.sort(fit.params.components.mean[:, 1])


means = jax.jit(jax.vmap(waiting_times))(stacked, weights, keys)
for size, (low, high) in zip([len(sample) for sample in samples], np.asarray(means), strict=True):
    print(f"{size:4d} rows: short waits {low:.1f} min, long waits {high:.1f} min")
