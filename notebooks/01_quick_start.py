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
# # Quick start
#
# From data to a fit in six lines, and then what one wants next: what the result holds, how many components, weights,
# saving, a start of one's own, a model of one's own. What EM is and why it works is the subject of
# [02_what_em_does](02_what_em_does.ipynb).
#
# JAX computes in float32 unless told otherwise. `jaxem` is made to be right in both; here we ask for float64, once,
# before anything else.

# %%
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.scipy.special import gammaln, logsumexp

import jaxem
import jaxem.plot

jax.config.update("jax_enable_x64", True)
plt.rcParams["figure.dpi"] = 85

# %% [markdown]
# ## Six lines
#
# 272 eruptions of the Old Faithful geyser: how long each lasted and how long one waited for the next, in minutes. A
# mixture of three Gaussians that share one covariance, from 64 random starts, all of them in one compiled program.

# %%
x = jaxem.datasets.old_faithful()
model = jaxem.gaussian_mixture(3, covariance="tied")
best, every = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=64)
print(best.message)
print(f"log-likelihood {best.log_lik:.3f}, {jaxem.optima(every)[0].n_restarts} of 64 starts got there")
jaxem.plot.density(model, best.params, x, names=["eruption (minutes)", "waiting (minutes)"])
plt.show()

# %% [markdown]
# The functions of `jaxem.plot` take and return matplotlib's Axes. Rows are coloured by the component that most
# probably made them. (The legend counts from 1, arrays from 0.)
#
# ## What is in a result
#
# A `Result` is a tuple of arrays. The parameters are in the data's units (minutes here) and have the shapes that one
# would write by hand: `weights` $[k]$, `mean` $[k, d]$, and `cov` $[d, d]$ since it is tied ($[k, d, d]$ for
# `"full"`, $[k, d]$ for `"diag"`, $[k]$ for `"spherical"`).

# %%
print("weights", best.params.weights)
print("mean\n", best.params.components.mean)
print("cov\n", best.params.components.cov)

# %% [markdown]
# | field | meaning |
# | --- | --- |
# | `log_lik` | log-likelihood at exactly these params: total, in nats, with every constant |
# | `objective` | `log_lik` plus the log prior, where the model has one: what is maximised |
# | `status`, `message`, `converged` | how the fit ended |
# | `n_steps`, `n_evaluations` | M-steps taken, passes over the data |
# | `history` | the objective after each step, NaN beyond the last |
# | `degenerate` | which components collapsed |
#
# The status is meant to be believed. `CONVERGED` says that the last step gained less than `tol` nats per example and
# that the params are finite and proper. A fit that ran out of steps says so:

# %%
start = model.init(jax.random.key(3), x)
print(jaxem.fit(model, x, start, max_steps=5).message)
one = jaxem.fit(model, x, start)
print(one.message, f"({one.n_steps} steps)")

# %% [markdown]
# (`fit` is the same from one start. `tol` and `max_steps` are operands of the compiled program, so the second call
# compiled nothing.)
#
# `fit_restarts` returns `Restarts(best, all)`: the best honest fit, and every fit, with a leading axis of 64 on every
# array. A component that collapses onto a few rows has a likelihood without bound; such a fit is called `DEGENERATE`,
# and it never wins. `optima` groups the restarts by where they ended:

# %%
print("shapes:", every.params.components.mean.shape, every.log_lik.shape, every.history.shape)
for optimum in jaxem.optima(every):
    print(f"{optimum.n_restarts:3d} restarts at {optimum.objective:10.3f}  {optimum.statuses}")

# %% [markdown]
# Left, where they ended; right, the way there, with the best drawn boldly. The plateaus on the right are why `tol` is
# small by default: a fit may gain little for many steps and then go on.

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(11, 3.4), layout="constrained")
jaxem.plot.optima(every, ax=left)
jaxem.plot.history(every, ax=right).set_ylim(-1300, -1110)
plt.show()

# %% [markdown]
# Restarts that found the same optimum number its components differently. `align` renumbers them all after one of
# them:

# %%
same = every.log_lik > best.log_lik - 1e-3
aligned, order = jaxem.align(model, every.params, best.params, x)
for name, params in [("as they came", every.params), ("aligned", aligned)]:
    shares = params.weights[same, 0]
    print(f"share of component 0 over {same.sum()} restarts, {name:12s}: {shares.min():.4f} to {shares.max():.4f}")

# %% [markdown]
# ## After the fit
#
# A model holds no state: its methods are functions of the params, and they can be compiled, vmapped and
# differentiated.

# %%
eruptions = np.array([[1.8, 54.0], [3.1, 68.0], [4.4, 80.0], [2.0, 95.0]])
print("component      ", model.predict(best.params, eruptions))
print("probabilities\n", model.posterior(best.params, eruptions).round(3))
print("log density    ", model.log_prob(best.params, eruptions).round(2), " (the last eruption is unlike any seen)")
print("three draws\n", model.sample(best.params, jax.random.key(1), 3).round(2))

# %% [markdown]
# ## How many components, and of what shape?
#
# `select` fits every model that it is given and ranks them by the Bayesian information criterion,
# $\mathrm{BIC} = -2\,\ell(\hat\theta) + p \ln n$, where $p$ counts the free parameters: small is good. (`aic` and
# `icl` are there as well.)

# %%
models = {
    (covariance, k): jaxem.gaussian_mixture(k, covariance=covariance)
    for covariance in ("full", "tied")
    for k in range(1, 6)
}
candidates = jaxem.select(models, x, jax.random.key(0), n_restarts=32)
print("covariance  k  parameters  log-likelihood      BIC   reached by")
for c in candidates[:6]:
    covariance, k = c.name
    print(f"{covariance:10s}{k:3d}{c.n_free_params:12d}{c.best.log_lik:16.3f}{c.bic:10.2f}{c.n_reached:6d} of 32")

# %%
jaxem.plot.criterion(candidates)
plt.show()

# %% [markdown]
# Three components with one covariance for all are chosen. On the scale of Kass and Raftery (1995) a difference in BIC
# above 2 is positive evidence, above 6 strong, above 10 very strong. "Reached by" is worth a look: where one start of
# 32 found the best optimum, more starts may find a better one.
#
# ## Weights
#
# A row of weight $w$ counts as $w$ rows, and a row of weight 0 is not there. Counts of repeated observations, survey
# weights, bootstrap samples and cross-validation folds all go in this way. Weights are operands as well: new ones
# compile nothing.

# %%
weights = np.where(np.arange(272) < 200, 1.0, 0.0)
first_200 = jaxem.fit(model, x, best.params, weights=weights)
print(f"log-likelihood of the rows of weight 1: {first_200.log_lik:.6f}")
print(f"the sum over those 200 rows alone:      {model.log_prob(first_200.params, x[:200]).sum():.6f}")

# %% [markdown]
# `fit` itself can be vmapped. A bootstrap draws rows with replacement, that is, multinomial weights: 200 fits in one
# program, each from the best params, give an idea of how certain the smallest group's share and mean waiting time
# are.


# %%
@jax.jit
@jax.vmap
def refit(weights):
    return jaxem.fit(model, jnp.asarray(x), best.params, weights=weights, tol=1e-6, max_steps=500)


drawn = jax.vmap(lambda key: jnp.bincount(jax.random.choice(key, 272, (272,)), length=272))
boot = refit(drawn(jax.random.split(jax.random.key(2), 200)).astype(float))
small = int(jnp.argmin(best.params.weights))
for name, values, estimate in [
    ("share", boot.params.weights[:, small], best.params.weights[small]),
    ("waiting (min)", boot.params.components.mean[:, small, 1], best.params.components.mean[small, 1]),
]:
    low, high = np.quantile(values, [0.05, 0.95])
    print(f"{name:14s}{estimate:8.3f}   90 % of the bootstrap between {low:.3f} and {high:.3f}")
print({jaxem.Status(int(s)).name: int((boot.status == s).sum()) for s in set(boot.status.tolist())})

# %% [markdown]
# ## A start of your own
#
# Params are named tuples of arrays in the data's units, so a start is written down by hand. A start that cannot be
# right is refused, with the reason:

# %%
means = np.array([[2.0, 55.0], [3.5, 70.0], [4.3, 80.0]])
by_hand = jaxem.MixtureParams(np.array([0.3, 0.3, 0.4]), jaxem.GaussianParams(means, np.diag([0.1, 30.0])))
fit = jaxem.fit(model, x, by_hand)
print(f"{fit.message}\n{fit.n_steps} steps to {fit.log_lik:.3f}\n")

try:
    jaxem.fit(model, x, by_hand._replace(weights=np.array([0.3, 0.3, 0.5])))
except ValueError as error:
    print("ValueError:", error)

# %% [markdown]
# ## Saving
#
# One file holds the model and its fit: arrays under a JSON header that is checked on the way in. It is not a pickle,
# so opening one cannot run code.

# %%
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "old_faithful.npz"
    jaxem.save(path, model, best)
    loaded_model, loaded = jaxem.load(path)
    print(path.stat().st_size, "bytes")
print(loaded_model, "\n", loaded.message)
assert (loaded.params.components.mean == best.params.components.mean).all()

# %% [markdown]
# ## Two functions of your own
#
# EM is two functions. Here are those of another problem: five times, one of two coins was picked at random and thrown
# ten times; we know the heads, not the coins (Do and Batzoglou, 2008, *What is the expectation maximization
# algorithm?*). `from_steps` runs any such pair in the same loop, with the same result.

# %%
heads = jnp.array([5.0, 9.0, 8.0, 4.0, 7.0])


def e_step(bias, heads):
    """Responsibilities [n, 2] by Bayes' rule, and the log-probability of each row."""
    log_choose = gammaln(11.0) - gammaln(heads + 1) - gammaln(11 - heads)
    joint = jnp.log(0.5) + heads[:, None] * jnp.log(bias) + (10 - heads[:, None]) * jnp.log1p(-bias)
    return jax.nn.softmax(joint, axis=1), log_choose + logsumexp(joint, axis=1)


def m_step(resp, heads):
    """Heads over throws, each row counted by its responsibilities."""
    return resp.T @ heads / (10 * resp.sum(0))


coins = jaxem.from_steps(e_step, m_step)
for steps in (1, 10, 1000):
    result = jaxem.fit(coins, heads, jnp.array([0.6, 0.5]), max_steps=steps, tol=1e-10)
    print(f"after {result.n_steps:2d} steps: {result.params.round(3)}  {jaxem.Status(int(result.status)).name}")

# %% [markdown]
# The paper prints 0.71 and 0.58 after one step and 0.80 and 0.52 after ten. The status adds that ten steps were not
# yet convergence.
#
# Two functions are enough for a fit and its restarts. A `Model` (statistics that add up over examples) also gets
# weights, chunks, unconstrained coordinates and the gradient baseline; an exponential family needs four small
# functions for it. `CONTRIBUTING.md` shows how.
#
# ## Where to go next
#
# * [02_what_em_does](02_what_em_does.ipynb): the E-step, the M-step, the bound, local maxima, k-means, and EM against
#   gradient methods, on twenty numbers.
# * `python -m jaxem data.csv` does the whole of this page for a file of your own: the models, the one of smallest BIC,
#   and a figure.
# * `help(jaxem.fit)` and `help(jaxem.fit_restarts)`: every argument. `chunk_size=` for data whose responsibilities do
#   not fit in memory, `algorithm=jaxem.Gradient(...)` for any optax optimiser.
# * `jaxem.testing.check_model` tests a model of your own against the laws that every correct EM model obeys.
