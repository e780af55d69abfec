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
# # What is missing
#
# EM was invented for data that are not all there. A mixture is one case (the component is missing); this notebook is
# about the others: missing entries, errors of measurement, times that were still running, and labels of which only
# some are known. Each is one idea, and the loop that fits them is the same.
#
# ## Three numbers, of which one is missing
#
# $x_1 = 1$, $x_2 = 2$ and $x_3$ are draws from $N(\mu, 1)$, and $x_3$ was lost. If we knew $\mu$ we would expect
# $x_3$ to be $\mu$; if we knew $x_3$ we would estimate $\mu$ as the mean of the three. Neither is known, so take turns:

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxem

jax.config.update("jax_enable_x64", True)
plt.rcParams |= {"figure.dpi": 85, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}


def e_step(mu, seen):
    """What x_3 is expected to be, and log p of what was seen."""
    return mu, -0.5 * (seen - mu) ** 2 - 0.5 * jnp.log(2 * jnp.pi)


def m_step(x3, seen):
    return (seen.sum() + x3) / 3


seen = jnp.array([1.0, 2.0])
mu = jnp.array(0.0)
for step in range(6):
    print(f"step {step}: mu = {mu:.4f}   x3 is expected at {e_step(mu, seen)[0]:.4f}")
    mu = m_step(e_step(mu, seen)[0], seen)
fit = jaxem.fit(jaxem.from_steps(e_step, m_step), seen, jnp.array(0.0), tol=1e-15)
print(f"\nin the end mu = {fit.params:.6f} after {int(fit.n_steps)} steps: the mean of what was seen")

# %% [markdown]
# Each step closes two thirds of the distance: the rate at which EM converges is the share of the information that is
# missing, here one third. The answer is no surprise (a row that is not there says nothing), and it is not what one
# gets from filling the missing entry once with some number and then forgetting that it was one.
#
# ## Holes in a table
#
# Now rows of several columns, in which single entries are missing at random. What was seen of a row still says
# something about the rest of it. `missing=True` takes NaN for a missing entry and maximises the likelihood of what was
# seen, $\log p(x_{\text{seen}})$, with nothing filled in. We remove 40 % of the waiting times of Old Faithful and
# compare with what people do instead; the truth is the fit to the complete table.

# %%
x = np.asarray(jaxem.datasets.old_faithful())
rng = np.random.default_rng(1)
missing = rng.random(len(x)) < 0.4
with_missing = x.copy()
with_missing[missing, 1] = np.nan
filled = np.where(np.isnan(with_missing), np.nanmean(with_missing, 0), with_missing)


def best_of(model, rows, n_restarts=8, **options):
    return jaxem.fit_restarts(model, rows, jax.random.key(0), n_restarts=n_restarts, **options).best


plain, incomplete = jaxem.gaussian_mixture(2), jaxem.gaussian_mixture(2, missing=True)
fits = {
    "all entries (the truth)": best_of(plain, x),
    "missing=True": best_of(incomplete, with_missing),
    "incomplete rows dropped": best_of(plain, with_missing[~missing]),
    "filled with the mean": best_of(plain, filled),
}
order = {name: np.argsort(fit.params.components.mean[:, 0]) for name, fit in fits.items()}
print(f"{'':28s}  share   mean wait   sd wait   mean wait   sd wait")
print(f"{'':28s}          after short           after long")
for name, fit in fits.items():
    params = plain.permute(fit.params, order[name])
    mean, sd = params.components.mean[:, 1], params.components.cov[:, 1, 1] ** 0.5
    print(f"{name:28s}   {params.weights[0]:.3f}   {mean[0]:6.2f}    {sd[0]:6.2f}      {mean[1]:6.2f}    {sd[1]:6.2f}")

# %% [markdown]
# Filling with the mean puts a heap of points where no eruption is: the two means move towards each other, and the
# spread after short eruptions comes out half as large again.
# Dropping rows is harmless to the waiting times here, but it throws away 40 % of the eruption lengths. With missing
# entries, the fit is as good as the entries that are there allow.
#
# `conditional_mean` says what is expected in a missing entry, given the rest of its row. It is what to show, and not
# what to put into a table and analyse as if it had been seen: expectations have no scatter.

# %%
best = fits["missing=True"]
expected = np.asarray(incomplete.conditional_mean(best.params, with_missing))
fig, (left, right) = plt.subplots(1, 2, figsize=(11, 3.4), sharex=True, sharey=True, layout="constrained")
left.plot(*x[~missing].T, ".", color="0.6", label="seen")
left.plot(x[missing, 0], expected[missing, 1], "x", color="tab:red", ms=4, label="expected")
left.set(title="what is expected in the missing entries", xlabel="eruption (minutes)", ylabel="wait (minutes)")
left.legend()
right.plot(*x[~missing].T, ".", color="0.6")
right.plot(x[missing, 0], x[missing, 1], "x", color="tab:blue", ms=4, label="what was removed")
right.set(title="what had been there", xlabel="eruption (minutes)")
right.legend()
plt.show()
error = np.sqrt(np.mean((expected[missing, 1] - x[missing, 1]) ** 2))
print(
    f"root mean square error: {error:.2f} minutes; with the mean in every missing entry: "
    f"{np.sqrt(np.mean((filled[missing, 1] - x[missing, 1]) ** 2)):.2f}"
)

# %% [markdown]
# The same word works elsewhere: `jaxem.missing(family)` for items of a questionnaire, for mixed columns in a
# `Product`, and for hidden Markov models, where whole observations may be missing.
#
# ## Rows with errors of known size
#
# A catalogue gives each measurement with its error bar, and the bars differ. The row that we want is hidden behind
# its noise: $x_i = v_i + e_i$, $e_i \sim N(0, S_i)$. EM expects the noiseless rows, and what it estimates is the
# distribution *before* the noise: extreme deconvolution.

# %%
n = len(x)
member = rng.random(n) < 0.4
truth = np.where(
    member[:, None],
    rng.multivariate_normal([0, 0], [[1.0, 0.9], [0.9, 1.0]], n),
    rng.multivariate_normal([3, 1], [[0.2, 0.0], [0.0, 0.2]], n),
)
noise = rng.gamma(1.5, 0.6, (n, 2))  # variances, one of each entry
noisy = truth + rng.normal(size=(n, 2)) * noise**0.5
deconvolved = best_of(jaxem.gaussian_mixture(2, noise="diag"), (noisy, noise))
blurred = best_of(jaxem.gaussian_mixture(2), noisy)
fig, axes = plt.subplots(1, 3, figsize=(11, 3.4), sharex=True, sharey=True, layout="constrained")
panels = {"the truth": (truth, None), "as seen": (noisy, blurred), "noise taken out": (noisy, deconvolved)}
angle = np.linspace(0, 2 * np.pi, 100)
for ax, (title, (rows, fit)) in zip(axes, panels.items(), strict=True):
    ax.plot(*rows.T, ".", color="0.75", ms=2)
    if fit is not None:
        for mean, cov in zip(*fit.params.components, strict=True):
            ring = mean + 2 * np.stack([np.cos(angle), np.sin(angle)], 1) @ np.linalg.cholesky(cov).T
            ax.plot(*ring.T, color="tab:red")
    ax.set(title=title, xlim=(-5, 7), ylim=(-5, 6))
plt.show()
tight = np.argmin([np.trace(cov) for cov in deconvolved.params.components.cov])
print(
    "variances of the tight group (0.2, 0.2):",
    np.round(np.diag(deconvolved.params.components.cov[tight]), 2),
    " as seen:",
    np.round(np.diag(blurred.params.components.cov[np.argmax(blurred.params.components.mean[:, 0])]), 2),
)

# %% [markdown]
# ## Times that had not ended
#
# Twenty-one leukaemia patients were given 6-mercaptopurine (Freireich and others, 1963). For nine of them we know how
# many weeks the remission lasted; for twelve only that it was longer than the time they had been followed. Leaving
# these out, or taking their times for the whole, makes the drug look worse than it is. With an exponential
# distribution the E-step is what every patient knows: a time that has lasted $c$ weeks is expected to last $1/\lambda$
# more.

# %%
weeks = "6 6 6 6+ 7 9+ 10 10+ 11+ 13 16 17+ 19+ 20+ 22 23 25+ 32+ 32+ 34+ 35+"
lower = np.array([float(week.strip("+")) for week in weeks.split()])
running = np.array([week.endswith("+") for week in weeks.split()])
upper = np.where(running, np.inf, lower)
model = jaxem.exponential_mixture(1, censored=True)
fit = best_of(model, (lower, upper), n_restarts=1, tol=1e-14)
rate = float(fit.params.components.rate[0])
print(f"mean remission {1 / rate:.2f} weeks: 359 weeks in all, over the 9 that ended, = {359 / 9:.2f}")
print(f"twelve left out: {lower[~running].mean():.2f}; taken as ended: {lower.mean():.2f}")
print(
    "expected of the one followed for 35 weeks:",
    round(float(model.conditional_mean(fit.params, (lower, upper))[-1]), 1),
)

# %% [markdown]
# Intervals work the same way: a time known to lie between two visits is the pair of them.
#
# ## Labels that are known for some rows
#
# If somebody has looked at a few rows and knows their component, say so: `labels` is an int for every row, -1 where
# it is not known. A table of bool says which components each row allows, and a table of numbers how likely each was
# beforehand. One formula serves all three: the component's density times what is known of the row.
#
# Two long groups side by side, which a mixture by itself likes to cut the wrong way; ten rows are labelled. The shares
# are means over 20 data sets.

# %%
model = jaxem.gaussian_mixture(2)
truth = np.arange(len(x)) % 2
ways = {"no labels": None, "10 labels": np.where(np.arange(len(x)) < 10, truth, -1), "all labels": truth}
right, steps = {name: [] for name in ways}, {}
for _ in range(20):
    rows = rng.multivariate_normal([0, 0], [[9.0, 0], [0, 1.0]], len(x)) + truth[:, None] * np.array([1.0, 2.5])
    for name, labels in ways.items():
        fit = best_of(model, rows, labels=labels)
        hits = (np.asarray(model.predict(fit.params, rows)) == truth).mean()
        right[name].append(max(hits, 1 - hits) if labels is None else hits)
        steps[name] = int(fit.n_steps)
for name, shares in right.items():
    print(f"{name:10s}  {100 * np.mean(shares):.1f} % right   ({steps[name]} steps in the last data set)")

# %% [markdown]
# With all labels known there is nothing to expect: one M-step is the closed form of the generative classifier, and
# `predict` classifies.
#
# ## Rows that belong together
#
# Repeated measurements of one patient share that patient's component. `Repeated(family)` makes a group the unit: its
# density is the product over its rows, and responsibilities belong to groups. Four readings of each of 60 patients,
# each of them alone hard to place:

# %%
patient = np.repeat(np.arange(60), 4)
kind = np.arange(60) % 2
readings = rng.normal(2.0 * kind[patient], 1.5)[:, None]
one_by_one = jaxem.gaussian_mixture(2)
together = jaxem.Mixture(jaxem.Repeated(jaxem.Gaussian()), 2)
groups = jaxem.group_rows(readings, patient)
for name, model, rows, truth in (
    ("readings", one_by_one, readings, kind[patient]),
    ("patients", together, groups, kind),
):
    fit = best_of(model, rows)
    predicted = np.asarray(model.predict(fit.params, rows))
    share = max((predicted == truth).mean(), (predicted != truth).mean())
    print(f"{name} placed: {100 * share:.0f} % right, means {np.sort(np.round(fit.params.components.mean[:, 0], 2))}")

# %% [markdown]
# ## What is believed
#
# The last thing that data may lack is enough of them. Where a component holds a few rows its covariance can collapse,
# and the likelihood has no maximum: jaxem says DEGENERATE. A conjugate prior counts like rows that were seen;
# `weak_prior` adds to every component one row that looks like all of the data.

# %%
model = jaxem.gaussian_mixture(5)
few = x[:40]
for name, candidate in {"no prior": model, "weak prior": jaxem.weak_prior(model, few)}.items():
    every = jaxem.fit_restarts(candidate, few, jax.random.key(0), n_restarts=32).all
    statuses = [jaxem.Status(int(status)).name for status in every.status]
    print(f"{name:10s}", {status: statuses.count(status) for status in sorted(set(statuses))})

# %% [markdown]
# The objective is then the log-likelihood plus the log prior, and it never falls either. `jaxem.restrict` holds or
# ties what is known for sure. `CONTRIBUTING.md` has the table of what works with which model.
