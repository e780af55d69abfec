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
# # Every model
#
# One contract carries them all: whatever a component looks like and whatever is hidden, a fit is the same call, with
# the same restarts, statuses and criteria. Below, each model meets data that it was made for; most data are drawn
# from a known truth, so that what comes out can be compared with what went in.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxem
from jaxem.families.log_partition import Negative

jax.config.update("jax_enable_x64", True)
plt.rcParams |= {"figure.dpi": 85, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
rng = np.random.default_rng(0)
member = rng.integers(2, size=400)  # the hidden group of every simulated row


def fit(name, model, x, n_restarts=8):
    """Fit, say one line about it, and return the params of the best restart."""
    best, every = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=n_restarts)
    n_best = jaxem.optima(every)[0].n_restarts
    n_free = jaxem.n_free_params(model, best.params)
    status = jaxem.Status(int(best.status)).name
    print(f"{name:34s} log-likelihood {best.log_lik:10.3f}  {n_free:3d} params  {status}, {n_best} of {n_restarts}")
    return best.params


# %% [markdown]
# ## Vectors
#
# **Gaussians** with six covariance structures: each component its own (`full`, `diag`, `spherical`), or one for all
# (`tied`, `diag_tied`, `spherical_tied`).

# %%
faithful = jaxem.datasets.old_faithful()
for covariance in ("full", "tied", "diag"):
    fit(f"gaussian_mixture(2, {covariance!r})", jaxem.gaussian_mixture(2, covariance), faithful)

# %% [markdown]
# **Student-t** components, and **Gaussians with uniform noise**, are two answers to outliers: tails that expect them,
# or one more component that takes them up. Thirty rows of the 302 here are noise. **Directions** (rows of length 1)
# are a matter for von Mises-Fisher components.

# %%
noisy = np.concatenate([faithful, rng.uniform([0, 30], [8, 120], (30, 2))])
plain = fit("gaussian_mixture(2)", jaxem.gaussian_mixture(2), noisy)
robust = fit("student_t_mixture(2)", jaxem.student_t_mixture(2), noisy)
low, high = noisy.min(0), noisy.max(0)
with_noise = fit("gaussian_mixture_with_noise(2)", jaxem.gaussian_mixture_with_noise(2, low, high), noisy)
print("degrees of freedom", np.round(robust.components.df, 2), " share of noise", np.round(with_noise.weights[-1], 3))

angles = np.where(member, 0.4, 2.2) + 0.3 * rng.normal(size=400)
compass = np.stack([np.cos(angles), np.sin(angles)], 1)
directions = fit("von_mises_fisher_mixture(2)", jaxem.von_mises_fisher_mixture(2), compass)

# %%
fig, axes = plt.subplots(1, 4, figsize=(12, 3), layout="constrained")
shown = {
    "Gaussians": (jaxem.gaussian_mixture(2), plain),
    "Student-t": (jaxem.student_t_mixture(2), robust),
    "Gaussians and noise": (jaxem.gaussian_mixture_with_noise(2, low, high), with_noise),
}
for ax, (title, (model, params)) in zip(axes, shown.items(), strict=False):
    colours = np.array(["tab:blue", "tab:orange", "0.7"])[np.asarray(model.predict(params, noisy))]
    ax.scatter(*noisy.T, s=5, c=colours)
    ax.set_title(title)
group = np.asarray(jaxem.von_mises_fisher_mixture(2).predict(directions, compass))
axes[3].scatter(
    *(compass * (1 + 0.05 * rng.normal(size=(400, 1)))).T, s=3, c=np.array(["tab:blue", "tab:orange"])[group]
)
axes[3].set(title="directions (von Mises-Fisher)", aspect="equal")
plt.show()

# %% [markdown]
# Left, a plain mixture spends one of its two components on the outliers, and the two kinds of eruption become one. The
# other two keep them apart; the third also says which rows it takes for noise.
#
# ## Counts and times
#
# The number of deaths of women over 80 that *The Times* reported on each of 1,096 days: two Poissons, -1989.9459 in
# the literature. Counts with unequal exposures, counts more spread than a Poisson, counts of failures, and three
# families of waiting times:

# %%
deaths = fit("poisson_mixture(2)", jaxem.poisson_mixture(2), jaxem.datasets.deaths_of_women())
print("    rates", np.round(deaths.components.rate, 3), "weights", np.round(deaths.weights, 3))

exposure = rng.uniform(0.5, 2.0, 400)
exposed = rng.poisson(np.where(member, 2.0, 9.0) * exposure), exposure
fit("poisson_mixture(2, exposure=True)", jaxem.poisson_mixture(2, exposure=True), exposed)
spread = rng.negative_binomial(4, np.where(member, 0.7, 0.2))
fit("negative_binomial_mixture(2)", jaxem.negative_binomial_mixture(2), spread)
fit("geometric_mixture(2)", jaxem.geometric_mixture(2), rng.geometric(np.where(member, 0.7, 0.1)) - 1)
zeros = np.where(rng.random(400) < 0.3, 0, rng.poisson(4.0, 400))
inflated = fit("zero_inflated_poisson()", jaxem.zero_inflated_poisson(), zeros)
print(f"    certain zeros {inflated.weights[0]:.3f} (drawn with 0.3)")

times = rng.gamma(4.0, np.where(member, 0.5, 3.0))
for name, model in {
    "exponential_mixture(2)": jaxem.exponential_mixture(2),
    "gamma_mixture(2)": jaxem.gamma_mixture(2),
    "log_normal_mixture(2)": jaxem.log_normal_mixture(2),
}.items():
    fit(name, model, times)

# %% [markdown]
# Log-likelihoods hold every constant, so the last three compare: the times were drawn from two gammas.
#
# ## Bits, codes and tables
#
# A mixture of items that are independent within a class is latent class analysis.

# %%
answers = (rng.random((400, 6)) < np.where(member[:, None], 0.8, 0.3)).astype(float)
fit("bernoulli_mixture(2)", jaxem.bernoulli_mixture(2), answers)
codes = (rng.integers(2, size=(400, 4)) + member[:, None]) % 3
fit("categorical_mixture(2, 3)", jaxem.categorical_mixture(2, 3), codes)
words = rng.multinomial(20, np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]])[member])
topics = fit("multinomial_mixture(2)", jaxem.multinomial_mixture(2), words)
print(np.round(topics.components.prob, 2))

# %% [markdown]
# ## Given inputs
#
# A regression in every component: `x` is the pair (inputs, targets), and no intercept is added. With a gate, the
# weights of the components depend on inputs too: a mixture of experts.

# %%
v = rng.uniform(-2, 2, 400)
inputs = np.stack([np.ones(400), v], 1)
lines = np.where(member, 1.0 + 1.5 * v, -1.0 - v)
straight = inputs, lines + 0.4 * rng.normal(size=400)
linear = fit("linear_regression_mixture(2)", jaxem.linear_regression_mixture(2), straight)
fit("poisson_regression_mixture(2)", jaxem.poisson_regression_mixture(2), (inputs, rng.poisson(np.exp(lines))))
trials = np.full(400, 10.0)
successes = rng.binomial(10, 1 / (1 + np.exp(-lines)))
binomial = inputs, np.stack([successes, trials], 1)
fit("logistic_regression_mixture(2)", jaxem.logistic_regression_mixture(2), binomial)

side = rng.random(400) < 1 / (1 + np.exp(-4 * v))
bent = inputs, np.where(side, v, -v) + 0.2 * rng.normal(size=400)
experts = jaxem.GatedMixture(jaxem.LinearRegression(), 2)
gated = fit("GatedMixture(LinearRegression(), 2)", experts, (bent, inputs))

fig, (left, right) = plt.subplots(1, 2, figsize=(11, 3), layout="constrained")
grid = np.linspace(-2, 2, 100)
for ax, (_, y), params, title in [
    (left, straight, linear, "two lines, anywhere"),
    (right, bent, gated, "two experts, and which of them to ask"),
]:
    ax.plot(v, y, ".", ms=3, color="0.6")
    for (a, b), colour in zip(params.components.coef, ("tab:blue", "tab:orange"), strict=True):
        ax.plot(grid, a + b * grid, color=colour)
    ax.set_title(title)
odds = np.stack([np.ones(100), grid], 1) @ np.asarray(gated.gate[0])
right.plot(grid, 1 / (1 + np.exp(-odds)), "k--", lw=1, label="probability of the second")
right.legend()
plt.show()

# %% [markdown]
# ## Sequences
#
# Hidden Markov models over any of these families have a notebook of their own,
# [04_hidden_markov](04_hidden_markov.ipynb).

# %%
fit("gaussian_hmm(2)", jaxem.gaussian_hmm(2), faithful)
fit("poisson_hmm(3)", jaxem.poisson_hmm(3), jaxem.datasets.earthquakes())
long = (faithful[:, 0] > 3).astype(float)
fit("categorical_hmm(2, 2)", jaxem.categorical_hmm(2, 2), long)
space = jaxem.StateSpace(1)
truth = jaxem.StateSpaceParams(
    mean=np.zeros(1), cov=np.ones((1, 1)), transition=np.array([[0.9]]),
    loadings=np.array([[1.0], [-0.5], [0.3]]), offset=np.zeros(3), noise=np.full(3, 0.64),
)  # fmt: skip
states, views = space.sample_joint(truth, jax.random.key(1), 20, t=30)
smooth = fit("StateSpace(1)", space, views, n_restarts=4)
found = np.asarray(space.posterior(smooth, views))
seen, known = (np.corrcoef(np.ravel(a), np.ravel(states))[0, 1] for a in (views[..., 0], found))
print(f"    memory {smooth.transition[0, 0]:.2f} (drawn with 0.9)")
print(f"    correlation with the hidden state: first column {seen:.3f}, smoothed {abs(known):.3f}")

# %% [markdown]
# ## Continuous latents
#
# Probabilistic PCA and factor analysis are Gaussians whose covariance has few factors: fewer parameters where columns
# are many. Mixtures of them are clusters with their own subspaces.

# %%
scores = rng.normal(size=(400, 2)) + 3 * member[:, None]
tests = scores @ rng.normal(size=(2, 8)) + rng.uniform(0.3, 1.0, 8) * rng.normal(size=(400, 8))
fit("gaussian_mixture(1): a full one", jaxem.gaussian_mixture(1), tests, n_restarts=1)
fit("ppca(2)", jaxem.ppca(2), tests, n_restarts=1)
fit("factor_analysis(2)", jaxem.factor_analysis(2), tests, n_restarts=2)
fit("Mixture(FactorAnalyzer(2), 2)", jaxem.Mixture(jaxem.FactorAnalyzer(2), 2), tests, n_restarts=8)

# %% [markdown]
# ## Hard assignments
#
# `Hard(model)` assigns every row wholly to its most probable component: classification EM. Of equal-weight, shared,
# spherical Gaussians it is k-means, step for step.

# %%
clusters = fit("kmeans(2)", jaxem.kmeans(2), faithful)
print("    inertia", np.round(faithful.size * clusters.components.cov, 2))
fit("Hard(gaussian_mixture(2))", jaxem.Hard(jaxem.gaussian_mixture(2)), faithful)

# %% [markdown]
# ## Compositions
#
# Columns of several kinds (`Product`), a model inside a model (`Mixture` or `HMM` around a whole model), and a family
# of your own from its features and log-partition alone: the M-step of the last one is derived by differentiation.

# %%
columns = tests[:, :2], spread, answers
fit(
    "Mixture(Product(...), 2)",
    jaxem.Mixture(jaxem.Product((jaxem.Gaussian(), jaxem.NegativeBinomial(), jaxem.Bernoulli())), 2),
    columns,
)
fit("Mixture(Mixture(Gaussian(), 2), 2)", jaxem.Mixture(jaxem.Mixture(jaxem.Gaussian("diag"), 2), 2), tests[:, :2])
chains = np.where(rng.random((30, 40)) < np.where(np.arange(30) % 2, 0.5, 0.1)[:, None], 0, rng.poisson(5.0, (30, 40)))
fit("Mixture(HMM(Poisson(), 2), 2)", jaxem.Mixture(jaxem.HMM(jaxem.Poisson(), 2), 2), chains)


@jaxem.model_class
class InverseGaussian(jaxem.LogPartitionFamily):
    """exp(eta_1 x + eta_2 / x) x^(-3/2): first-passage times."""

    domain = (Negative(), Negative())
    row_ndim = 0

    def features(self, x):
        return jnp.stack([x, 1 / x])

    def log_partition(self, eta):
        return -2 * jnp.sqrt(eta[0] * eta[1]) - 0.5 * jnp.log(-2 * eta[1])

    def log_base(self, x):
        return -0.5 * jnp.log(2 * jnp.pi * x**3)


passages = rng.wald(np.where(member, 1.0, 6.0), np.where(member, 8.0, 40.0))
own = fit("your own: inverse Gaussian", jaxem.Mixture(InverseGaussian(), 2), passages)
eta = np.asarray(own.components.natural)
print("    means", np.round(np.sort(np.sqrt(eta[:, 1] / eta[:, 0])), 2), "(drawn with 1 and 6)")
