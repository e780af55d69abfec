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
# # Your own model
#
# Three ways to bring a model of your own, from the quickest to the most powerful:
#
# 1. **two plain functions**, an E-step and an M-step;
# 2. **an exponential family** in four small functions, which is then a component of anything;
# 3. **a whole model**, whose statistics add up, so that weights, chunks, restarts and all the rest come for free.
#
# Each is worked on a classic, and each is put through `check_model`, which tries the ten laws of EM on it: that the
# statistics add up, that the M-step is where the gradient of Q vanishes, that the objective never falls...

# %%
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from jax.scipy.special import gammaln, xlogy

import jaxem
from jaxem.contract.constraints import Positive, Simplex, UnitInterval
from jaxem.families.exponential_family import ExponentialFamily
from jaxem.testing import check_model

jax.config.update("jax_enable_x64", True)
plt.rcParams |= {"figure.dpi": 85, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
key = jax.random.key(0)

# %% [markdown]
# ## 1. Two plain functions: Rao's genetic linkage
#
# 197 animals fall into four classes with probabilities $\tfrac12 + \tfrac\theta4, \tfrac{1-\theta}4, \tfrac{1-\theta}4,
# \tfrac\theta4$ (Rao 1965; the first example of Dempster, Laird and Rubin 1977). If the first class were split into
# its two parts, $\tfrac12$ and $\tfrac\theta4$, the estimate would be a simple proportion. So: expect how many of the
# 125 are of the second part, then take the proportion. A row is an animal.


# %%
def e_step(theta, x):
    """(chance that each animal is of the hidden part, log-likelihood of each animal)."""
    chance = jnp.stack([2 + theta, 1 - theta, 1 - theta, theta]) / 4
    return jnp.where(x == 0, theta / (2 + theta), 0), jnp.log(chance)[x.astype(int)]


def m_step(second, x):
    ours = second.sum() + (x == 3).sum()
    return ours / (ours + (x == 1).sum() + (x == 2).sum())


animals = jnp.repeat(jnp.arange(4.0), jnp.array([125, 18, 20, 34]))
rao = jaxem.from_steps(e_step, m_step, init=lambda key, x: jax.random.uniform(key, dtype=x.dtype))
fit = jaxem.fit(rao, animals, jnp.array(0.5), tol=1e-15)
print(f"theta = {fit.params:.7f}   ({fit.message.split(':')[0]}, {int(fit.n_steps)} steps)")
print(str(check_model(rao, key, animals)).splitlines()[0])

# %% [markdown]
# The skipped checks are those that speak of statistics: two functions have none that the library could weigh or add.
# (The report says of every one why; the next section shows a whole one.)
#
# Where is EM on its way? The bound that each step maximises touches the log-likelihood at the current $\theta$ and
# lies below it elsewhere.

# %%
theta = np.linspace(0.05, 0.95, 200)
log_lik = np.array([e_step(value, animals)[1].sum() for value in theta])
fig, (left, right) = plt.subplots(1, 2, figsize=(11, 3.2), layout="constrained")
left.plot(theta, log_lik, color="k", label="log-likelihood")
for start, colour in ((0.1, "tab:blue"), (0.4, "tab:orange")):
    second, here = e_step(start, animals)
    ours = second.sum() + 34
    q, q_here = (xlogy(ours, value) + xlogy(38, 1 - value) for value in (theta, start))
    left.plot(theta, q - q_here + here.sum(), color=colour, ls="--", label=f"bound at {start}")
left.set(ylim=(log_lik.max() - 60, log_lik.max() + 5), xlabel="theta", title="each step climbs a bound")
left.legend()
path = [0.05]
for _ in range(9):
    path.append(float(m_step(e_step(path[-1], animals)[0], animals)))
right.semilogy(np.abs(np.array(path) - float(fit.params)), ".-", color="k")
right.set(xlabel="step", title="distance to the maximum: a constant factor a step")
plt.show()

# %% [markdown]
# ## 2. An exponential family in four functions: wave heights
#
# The height of sea waves follows a Rayleigh distribution, $p(x) = \tfrac{x}{s} e^{-x^2 / 2s}$. It is an exponential
# family with the one feature $T(x) = x^2$. Four functions, written for one row and one component, say so; mixtures,
# hidden Markov models, weights, chunks and gradients follow.


# %%
class RayleighParams(NamedTuple):
    """scale [k]: half the mean of x^2."""

    scale: Any


@jaxem.model_class
class Rayleigh(ExponentialFamily):
    """p(x) = x / s exp(-x^2 / (2 s)), x [n] > 0."""

    row_ndim = 0

    def features(self, x):
        return x[None] ** 2

    def natural(self, params):
        return -0.5 / params.scale[None]

    def log_normalizer(self, params):
        return jnp.log(params.scale)

    def from_moments(self, moments):
        return RayleighParams(0.5 * moments[0])

    # and, beyond the four: what the density holds besides, the way back (for priors), and where params live
    def log_base(self, x):
        return jnp.log(x)

    def moments(self, params):
        return 2 * params.scale[None]

    def constraints(self):
        return RayleighParams(Positive())

    def sample(self, params, key, n):
        draws = jax.random.rayleigh(key, params.scale**0.5, (n, *params.scale.shape))
        return draws.astype(params.scale.dtype)


calm_and_storm = RayleighParams(jnp.array([0.5, 8.0]))
waves = jaxem.Mixture(Rayleigh(), 2)
x = waves.sample(jaxem.MixtureParams(jnp.array([0.7, 0.3]), calm_and_storm), key, 600)
best, every = jaxem.fit_restarts(waves, x, key, n_restarts=16)
print("scales", np.sort(best.params.components.scale).round(2), " weights", np.sort(best.params.weights).round(2))
print(check_model(waves, key, x[:90], laws=(1, 2, 3, 4, 5, 6, 8, 10)))

# %% [markdown]
# A component of anything: as the emission of a chain, with a conjugate prior, with every fourth entry missing.

# %%
chain = jaxem.HMM(jaxem.missing(Rayleigh()), 2)
series = jnp.where(jnp.arange(600) % 4 == 3, jnp.nan, x)
print("states:", jaxem.fit_restarts(chain, series, key, n_restarts=4).best.message.split(":")[0])
believed = jaxem.weak_prior(waves, x, strength=10.0)
print("with a prior:", np.sort(jaxem.fit(believed, x, best.params).params.components.scale).round(2))

# %% [markdown]
# ## 3. A whole model: the genes behind blood groups
#
# Blood groups A, B, AB and O come from three genes, A, B (which dominate) and O. A person of group A has the genes AA
# or AO, and which is hidden. Gene counting (Ceppellini, Siniscalco and Smith 1955) is EM before it had a name. As a
# `Model`, a row is a person, the statistics are expected numbers of genes, and they add up: 521 persons are four rows
# with weights.


# %%
class GeneParams(NamedTuple):
    """freq [3]: of the genes A, B and O."""

    freq: Any


#: The pairs of genes behind every group, as numbers of A, B and O; and in how many orders each pair comes.
PAIRS = np.array([[2, 0, 0], [1, 0, 1], [0, 2, 0], [0, 1, 1], [1, 1, 0], [0, 0, 2]])
ORDERS = np.array([1, 2, 1, 2, 2, 1])
GROUP = np.array([0, 0, 1, 1, 2, 3])  # A, A, B, B, AB, O


@jaxem.model_class
class BloodGroups(jaxem.Model):
    """Groups x [n] coded 0 to 3 for A, B, AB, O, of persons whose two genes are drawn independently."""

    def log_pairs(self, params):
        """log p of every pair of genes [6]."""
        dtype = params.freq.dtype
        return jnp.log(jnp.asarray(ORDERS, dtype)) + xlogy(jnp.asarray(PAIRS, dtype), params.freq).sum(-1)

    def init(self, key, x, weights=None, kind=0):
        return GeneParams(jax.random.dirichlet(key, jnp.ones(3), dtype=x.dtype))

    def e_step(self, params, x):
        joint = jnp.where(x[:, None] == GROUP, self.log_pairs(params), -jnp.inf)
        log_prob = jax.nn.logsumexp(joint, -1)
        return jaxem.EStep(jnp.exp(joint - log_prob[:, None]), log_prob)

    def sufficient_statistics(self, resp, x, weights=None):
        return resp.sum(0) if weights is None else weights @ resp

    def maximize(self, stats, params=None):
        genes = stats @ jnp.asarray(PAIRS, stats.dtype)
        return GeneParams(genes / genes.sum())

    def constraints(self):
        return GeneParams(Simplex())

    # Optional: with Q the laws look deeper.
    def expected_log_joint(self, params, stats):
        return stats @ self.log_pairs(params)


groups, persons = jnp.arange(4.0), jnp.array([186.0, 38.0, 13.0, 284.0])  # Clarke and others (1959)
best, every = jaxem.fit_restarts(BloodGroups(), groups, key, n_restarts=8, weights=persons, tol=1e-14)
print("A, B, O:", np.asarray(best.params.freq).round(6), f"  log-likelihood {best.log_lik:.5f}")
print(
    jaxem.optima(every)[0].n_restarts,
    "of 8 starts end there;",
    "free params:",
    jaxem.n_free_params(BloodGroups(), best.params),
)
print(str(check_model(BloodGroups(), key, jnp.arange(60.0) % 4)).splitlines()[0])

# %% [markdown]
# ### Zero-inflated counts
#
# Many counts have more zeros than a Poisson distribution gives. With probability $\pi$ a row is a structural zero, else
# it is Poisson; of a zero we do not see which. `jaxem.zero_inflated_poisson` is a composition of parts; here it is
# written out, to show that nothing else is needed.


# %%
class InflatedParams(NamedTuple):
    zero: Any  # probability of a structural zero
    rate: Any


class InflatedStats(NamedTuple):
    n: Any
    structural: Any  # expected number of structural zeros
    total: Any  # sum of the counts
    log_factorials: Any


@jaxem.model_class
class ZeroInflated(jaxem.Model):
    """p(x) = zero [x = 0] + (1 - zero) Poisson(x | rate), x [n]; Lambert (1992)."""

    def init(self, key, x, weights=None, kind=0):
        low, high = jax.random.uniform(key, (2,), x.dtype)
        return InflatedParams(0.1 + 0.8 * low, (0.5 + high) * (1 + x.mean()))

    def e_step(self, params, x):
        log_poisson = xlogy(x, params.rate) - params.rate - gammaln(x + 1)
        structural = jnp.where(x == 0, jnp.log(params.zero), -jnp.inf)
        log_prob = jnp.logaddexp(structural, jnp.log1p(-params.zero) + log_poisson)
        return jaxem.EStep(jnp.exp(structural - log_prob), log_prob)

    def sufficient_statistics(self, resp, x, weights=None):
        weights = jnp.ones_like(x) if weights is None else weights
        return InflatedStats(weights.sum(), weights @ resp, weights @ x, weights @ gammaln(x + 1))

    def maximize(self, stats, params=None):
        return InflatedParams(stats.structural / stats.n, stats.total / (stats.n - stats.structural))

    def constraints(self):
        return InflatedParams(UnitInterval(), Positive())

    def expected_log_joint(self, params, stats):
        counted = stats.n - stats.structural
        choice = xlogy(stats.structural, params.zero) + counted * jnp.log1p(-params.zero)
        return choice + xlogy(stats.total, params.rate) - counted * params.rate - stats.log_factorials


rng = np.random.default_rng(0)
x = jnp.asarray(np.where(rng.random(400) < 0.4, 0.0, rng.poisson(2.5, 400)))
best, _ = jaxem.fit_restarts(ZeroInflated(), x, key, n_restarts=4, tol=1e-13)
gradient = jaxem.fit(
    ZeroInflated(), x, ZeroInflated().init(key, x), algorithm=jaxem.Gradient(optax.lbfgs()), max_steps=100
)
composed, _ = jaxem.fit_restarts(jaxem.zero_inflated_poisson(), x, key, n_restarts=4, tol=1e-13)
print(f"zero {best.params.zero:.4f}, rate {best.params.rate:.4f}, log-likelihood {best.log_lik:.6f}")
print(f"by L-BFGS {gradient.log_lik:.6f}, composed of parts {composed.log_lik:.6f}")
print(str(check_model(ZeroInflated(), key, x[:90])).splitlines()[0])

# %% [markdown]
# What came without a line of code for it: weights, restarts, chunks, L-BFGS on the same objective, degrees of freedom.
# Priors, held and tied params, and missing entries are wrappers around what was written here.
