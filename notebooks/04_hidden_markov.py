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
# # Hidden Markov models
#
# A mixture forgets: every row draws its hidden value anew. In a hidden Markov model the hidden value is a chain, and
# the row before says something about this one. EM for it is called Baum-Welch: the E-step is the forward-backward
# recursion, the M-step counts expected transitions and fits every state's emissions as a mixture would.
#
# We follow one series from the first plot to a forecast: the number of major earthquakes (magnitude 7 or more) in the
# world in each year from 1900 to 2006, the running example of Zucchini and MacDonald, *Hidden Markov Models for Time
# Series* (2009). Their published values stand beside ours.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import poisson

import jaxem

jax.config.update("jax_enable_x64", True)
plt.rcParams |= {"figure.dpi": 85, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}

x = jaxem.datasets.earthquakes()
years = 1900 + np.arange(len(x))
print(f"{len(x)} years, mean {x.mean():.2f}, variance {x.var(ddof=1):.2f}")


def autocorrelation(series, n_lags=8):
    centred = series - series.mean()
    return np.array([centred[h:] @ centred[: len(series) - h] for h in range(1, n_lags + 1)]) / (centred @ centred)


fig, (left, right) = plt.subplots(1, 2, figsize=(11, 3), width_ratios=[2.2, 1], layout="constrained")
left.plot(years, x, ".-", color="0.4", lw=0.8)
left.set(title="major earthquakes a year", ylabel="count")
right.bar(np.arange(1, 9), autocorrelation(x), width=0.25, color="0.4")
right.axhline(1.96 / np.sqrt(len(x)), color="tab:red", lw=0.8, ls="--")
right.set(title="autocorrelation", xlabel="years apart")
plt.show()

# %% [markdown]
# A Poisson distribution has its mean as its variance; here the variance is two and a half times the mean, so one
# rate is not enough. And years resemble the years before them: neighbours are correlated far above what chance would
# give (the dashed line). A mixture of Poissons can explain the first, but not the second.
#
# ## How many states?
#
# The same call as for a mixture: 64 random starts, fitted side by side in one program. `x` is one sequence `[t]`;
# many would be `[n, t]`, and unequal ones a pair `(values, lengths)`. The chain is taken to have been running for
# ever: it starts in the distribution that its transitions keep (`initial="stationary"`).

# %%
states = range(1, 5)
mixtures = jaxem.select({k: jaxem.poisson_mixture(k) for k in states}, x, jax.random.key(0), n_restarts=16)
chains = jaxem.select({k: jaxem.poisson_hmm(k, "stationary") for k in states}, x, jax.random.key(0), n_restarts=64)
published = {1: 391.9189, 2: 342.3183, 3: 329.4603, 4: 327.8316}
independent = {candidate.name: candidate for candidate in mixtures}
chains = {candidate.name: candidate for candidate in chains}
print("           minus log-likelihood             free                      starts at")
print("states    mixture      HMM   published    params     AIC      BIC      the best")
for k, c in sorted(chains.items()):
    print(
        f"{k:4d}   {-independent[k].best.log_lik:10.4f} {-c.best.log_lik:10.4f} {published[k]:10.4f}"
        f"{c.n_free_params:8d} {c.aic:9.2f} {c.bic:8.2f} {c.n_reached:7d} of 64"
    )
for criterion in ("aic", "bic"):
    print(criterion.upper(), "chooses", min(chains, key=lambda k: getattr(chains[k], criterion)), "states")

# %% [markdown]
# From two states on, the chain gains some twenty nats over a mixture with the same emissions: that is what the
# order of the years says. Three states it is, by both criteria. The last column is worth a look: with more states the
# best optimum is found by fewer starts.
#
# ## What was found

# %%
model = jaxem.poisson_hmm(3, initial="stationary")
best = chains[3].best
params = model.permute(best.params, np.argsort(best.params.emissions.rate))
print(best.message)
print("rates     ", np.round(params.emissions.rate, 3))
print("stationary", np.round(params.initial, 3))
print("transition", *np.round(params.transition, 3), sep="\n   ")

# %% [markdown]
# Calm, middling and violent years: about 13, 20 and 30 earthquakes. Diagonal entries near 1 say that states last.
#
# The M-step of such a chain has no closed form, since the transitions appear in the initial term too; it is solved
# inside the M-step. Baum and Welch estimate the initial distribution by itself, which has a closed form. With one
# sequence that spends parameters on a single observation, and the estimate is a unit vector:

# %%
published_free = {2: 341.8787, 3: 328.5275}
for k, value in published_free.items():
    free, _ = jaxem.fit_restarts(jaxem.poisson_hmm(k), x, jax.random.key(0), n_restarts=32)
    first = np.round(free.params.initial, 3)
    print(f"{k} states, free start: {-free.log_lik:.4f} (published {value:.4f}), initial {first}")

# %% [markdown]
# ## Decoding
#
# Two questions are often confused. *Which state was year $t$ in?* is answered by the smoothed posterior
# $p(z_t \mid x)$, one year at a time. *Which path did the chain take?* is answered by Viterbi's algorithm, all years
# together. They need not agree.

# %%
posterior = model.posterior(params, x)
path, local = model.decode(params, x), model.predict(params, x)
rates = np.asarray(params.emissions.rate)
print("years in each state, by the path", np.bincount(path), "and one by one", np.bincount(local))
print("they differ in", [int(year) for year in years[path != local]])

fig, (top, bottom) = plt.subplots(2, 1, figsize=(11, 4.4), height_ratios=[2, 1], sharex=True, layout="constrained")
top.plot(years, x, ".", color="0.5")
top.step(years, rates[path], where="mid", color="tab:blue", label="most probable path (its rates)")
top.plot(years, posterior @ rates, color="tab:orange", lw=1, label="smoothed mean")
top.set_ylabel("count")
top.legend(loc="upper right")
bottom.stackplot(years, posterior.T, colors=["#c6dbef", "#6baed6", "#08519c"])
bottom.set(ylabel="p(state | x)", ylim=(0, 1), xlim=(years[0], years[-1]))
plt.show()

# %% [markdown]
# ## Does the model look like the data?
#
# Series drawn from the fitted model should have the spread and the memory of the one that was seen.

# %%
draws = np.asarray(model.sample(params, jax.random.key(1), 500, t=len(x)))
spread = draws.var(1, ddof=1) / draws.mean(1)
memory = np.array([autocorrelation(series, 1)[0] for series in draws])
for name, values, seen in [
    ("variance / mean", spread, x.var(ddof=1) / x.mean()),
    ("lag-1 correlation", memory, autocorrelation(x, 1)[0]),
]:
    low, high = np.quantile(values, [0.05, 0.95])
    print(f"{name:18s} seen {seen:.2f}; nine of ten drawn series lie in {low:.2f} to {high:.2f}")

# %% [markdown]
# ## Forecasting
#
# `forecast` gives the distribution over states after the end of the series; the next counts are Poissons mixed by it.
# One year ahead the chain remembers where it was; far ahead it forgets, and the forecast becomes the stationary
# distribution, whatever the last year was.

# %%
horizon = 30
ahead = np.asarray(model.forecast(params, x, horizon))
counts = np.arange(0, 46)
fig, axes = plt.subplots(1, 3, figsize=(11, 2.6), sharey=True, layout="constrained")
for ax, h in zip(axes, (1, 5, horizon), strict=True):
    ax.bar(counts, poisson.pmf(counts[:, None], rates) @ ahead[h - 1], color="tab:blue")
    ax.set(title=f"{2006 + h}: expected {ahead[h - 1] @ rates:.1f}", xlabel="earthquakes")
axes[0].set_ylabel("probability")
plt.show()

# %% [markdown]
# Is the memory worth something? Fit both models to the first 77 years, then score each of the last 30 years by its
# log-probability given all the years before it. Histories of 77, 78, ..., 106 years are sequences of unequal length:
# one call forecasts after all of them.

# %%
n_train = 77
hmm, _ = jaxem.fit_restarts(model, x[:n_train], jax.random.key(0), n_restarts=64)
mixture = jaxem.poisson_mixture(3)
iid, _ = jaxem.fit_restarts(mixture, x[:n_train], jax.random.key(0), n_restarts=16)
lengths = np.arange(n_train, len(x))
histories = np.tile(x, (len(lengths), 1))  # what lies beyond a length is ignored, so the future does not leak
scores = np.asarray(model.forecast_log_prob(hmm.params, (histories, lengths), x[lengths][:, None]))[:, 0]
without = np.asarray(mixture.log_prob(iid.params, x[lengths]))
print(f"mean log score of 1977 to 2006: HMM {scores.mean():.3f}, mixture {without.mean():.3f} nats a year")

# %% [markdown]
# ## More than counts
#
# Emissions are any family, or any model of one observation. Two states that each emit a mixture of two normals, for
# the Old Faithful eruptions in their order:

# %%
faithful = jaxem.datasets.old_faithful()
for name, candidate in {
    "2 normals, no memory": jaxem.gaussian_mixture(2),
    "HMM, a normal a state": jaxem.gaussian_hmm(2),
    "HMM, two normals a state": jaxem.HMM(jaxem.Mixture(jaxem.Gaussian("tied"), 2), 2),
}.items():
    fit, _ = jaxem.fit_restarts(candidate, faithful, jax.random.key(0), n_restarts=16)
    print(f"{name:26s} log-likelihood {fit.log_lik:9.2f}   BIC {jaxem.bic(candidate, fit, faithful):8.2f}")

# %% [markdown]
# A short eruption is nearly always followed by a long one, and the order of the eruptions is worth far more than the
# extra parameters. What else there is: `initial="fixed"`, forbidden transitions (`allowed=`, left-to-right models),
# Student-t or regression emissions, `filtered` and `pairwise` posteriors, `Mixture(HMM(...), k)` to sort sequences
# into groups, and `Hard(model)` for Viterbi training.
