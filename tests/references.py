"""Log densities (params, x) -> log p [n] for models of the zoo, by code that is not ours: scipy and hmmlearn."""

import jax
import numpy as np
from hmmlearn import hmm as hmmlearn
from scipy.special import logsumexp
from scipy.stats import expon, multivariate_normal, multivariate_t, norm, poisson

import jaxem


def gaussian_covariances(covariance, cov, k, d):
    """[k, d, d] from the covariances of a structure, by its definition."""
    cov = np.asarray(cov, np.float64)
    if covariance in ("full", "tied"):
        return np.broadcast_to(cov, (k, d, d))
    if covariance in ("diag", "diag_tied"):
        return np.broadcast_to(cov, (k, d))[..., None] * np.eye(d)
    return np.broadcast_to(cov, (k,))[:, None, None] * np.eye(d)


def gaussian_joint(covariance, params, x):
    """log(weights_k N(x_i | k)) [n, k] by scipy."""
    mean = np.asarray(params.components.mean, np.float64)
    covs = gaussian_covariances(covariance, params.components.cov, *mean.shape)
    columns = [multivariate_normal(m, c).logpdf(np.asarray(x, np.float64)) for m, c in zip(mean, covs, strict=True)]
    return np.log(np.asarray(params.weights, np.float64)) + np.stack(columns, 1)


def marginal(log_density):
    """The reference of a mixture: log sum_k weights_k p(x | k), from a function (component, x) -> log p [n]."""

    def reference(params, x):
        x = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), x)
        leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(params.components)]
        each = [log_density(*component, x) for component in zip(*leaves, strict=True)]
        return logsumexp(np.log(np.asarray(params.weights, np.float64)) + np.stack(each, 1), axis=1)

    return reference


def student_t_mixture(covariance):
    """The reference of a mixture of Student-t distributions, their df shared or not."""

    def reference(params, x):
        mean, cov, dfs = (np.asarray(leaf, np.float64) for leaf in params.components)
        covs = gaussian_covariances(covariance, cov, *mean.shape)
        each = zip(mean, covs, np.broadcast_to(dfs, len(mean)), strict=True)
        columns = [multivariate_t(m, c, v).logpdf(np.asarray(x, np.float64)) for m, c, v in each]
        return logsumexp(np.log(np.asarray(params.weights, np.float64)) + np.stack(columns, 1), axis=1)

    return reference


def factor_mixture(noise_kind):
    """The reference of a mixture of factor analysers."""

    def log_density(mean, loadings, noise, x):
        return multivariate_normal(mean, loadings @ loadings.T + noise * np.eye(len(mean))).logpdf(x)

    def reference(params, x):
        mean, loadings, noise = (np.asarray(leaf) for leaf in params.components)
        noise = noise[:, None] if noise_kind == "spherical" else np.broadcast_to(noise, mean.shape)
        return marginal(log_density)(params._replace(components=(mean, loadings, noise)), x)

    return reference


def lines_of_one_variance(params, x):
    """A mixture of linear regressions with one residual variance."""
    coef, var = params.components
    each = params._replace(components=(coef, np.broadcast_to(var, len(coef))))
    return marginal(lambda b, v, x: norm.logpdf(x[1], x[0] @ b, np.sqrt(v)))(each, x)


def seen_normals(covariance):
    """A Gaussian mixture of incomplete, noisy rows: the normal density of what was seen of each row."""

    def reference(params, x):
        values, noise = x if isinstance(x, tuple) else (x, np.zeros(np.shape(x)))
        mean = np.asarray(params.components.mean, np.float64)
        covs = gaussian_covariances(covariance, params.components.cov, *mean.shape)
        total = []
        for row, own in zip(np.asarray(values, np.float64), np.asarray(noise, np.float64), strict=True):
            seen = np.flatnonzero(~np.isnan(row))
            extra = np.diag(own) if own.ndim == 1 else own
            each = [
                multivariate_normal(m[seen], (c + extra)[np.ix_(seen, seen)]).logpdf(row[seen])
                for m, c in zip(mean, covs, strict=True)
            ]
            total.append(logsumexp(np.log(np.asarray(params.weights, np.float64)) + np.array(each)))
        return np.array(total)

    return reference


def of_intervals(rate, x):
    """An exponential time that was seen, or is known to lie between two ends."""
    lower, upper = x
    between = np.log(np.maximum(expon.sf(lower, scale=1 / rate) - expon.sf(upper, scale=1 / rate), 1e-300))
    return np.where(lower == upper, expon.logpdf(lower, scale=1 / rate), between)


def of_groups_of_counts(rate, x):
    """Counts of one group share their rate."""
    inside = np.arange(x.values.shape[1]) < x.lengths[:, None]
    return (inside * poisson.logpmf(x.values, rate)).sum(1)


def of_labelled_normals(params, x):
    """The evidence of every component times its density."""
    with np.errstate(divide="ignore"):
        return logsumexp(gaussian_joint("full", params, x.rows) + np.log(np.asarray(x.evidence)), axis=1)


def mixture_of_mixtures(params, x):
    """The same as one flat mixture."""
    flat = jaxem.MixtureParams(
        np.ravel(np.asarray(params.weights)[:, None] * np.asarray(params.components.weights)),
        jax.tree.map(lambda leaf: np.reshape(leaf, (-1, np.shape(leaf)[-1])), params.components.components),
    )
    return logsumexp(gaussian_joint("diag", flat, x), axis=1)


def hmmlearn_scores(make):
    """The reference of a hidden Markov model: `make(n_states, emissions)` is hmmlearn's, with its emissions set."""

    def reference(params, x):
        params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
        theirs = make(len(params.initial), params.emissions)
        theirs.startprob_ = params.initial / params.initial.sum()
        theirs.transmat_ = params.transition / params.transition.sum(1, keepdims=True)
        lengths = np.asarray(x.n_observations).astype(int)
        return np.array([theirs.score(row[:t]) for row, t in zip(_columns(x.values), lengths, strict=True)])

    return reference


def _columns(values):
    values = np.asarray(values, np.float64)
    return values[..., None] if values.ndim == 2 else values


def of_gaussians(k, emissions):
    theirs = hmmlearn.GaussianHMM(k, "diag" if emissions.cov.ndim == 2 else "full")
    theirs.means_, theirs.covars_ = emissions
    theirs.n_features = emissions.mean.shape[1]
    return theirs


def of_counts(k, emissions):
    theirs = hmmlearn.PoissonHMM(k)
    theirs.lambdas_, theirs.n_features = emissions.rate[:, None], 1
    return theirs


def of_codes(k, emissions):
    theirs = hmmlearn.CategoricalHMM(k)
    theirs.emissionprob_, theirs.n_features = emissions.prob[:, 0], emissions.prob.shape[-1]
    score = theirs.score
    theirs.score = lambda rows: score(rows.astype(int))
    return theirs


def dense_normal(params, x):
    """A linear Gaussian state space as one big normal distribution."""
    mean, cov, move, loadings, offset, noise = (np.asarray(leaf, np.float64) for leaf in params)
    n, t, d = np.shape(x.values)
    means, covs = [mean], [cov]
    for _ in range(t - 1):
        means.append(move @ means[-1])
        covs.append(move @ covs[-1] @ move.T + np.eye(len(mean)))
    blocks = [[covs[min(i, j)] for j in range(t)] for i in range(t)]
    for i in range(t):
        for j in range(t):
            power = np.linalg.matrix_power(move, abs(i - j))
            blocks[i][j] = power @ blocks[i][j] if i >= j else blocks[i][j] @ power.T
    big = np.kron(np.eye(t), loadings)
    total = big @ np.block(blocks) @ big.T + np.kron(np.eye(t), np.diag(noise))
    centre = big @ np.concatenate(means) + np.tile(offset, t)
    return multivariate_normal(centre, total).logpdf(np.asarray(x.values, np.float64).reshape(n, t * d))
