"""The contestants behind one face: fit from a given start, and say what came out.

`CONTESTANTS[name](x, start, covariance)` prepares everything that is not work; its `fit(steps, tol=0)` runs EM and
returns an `Outcome`. tol is the gain in the mean log-likelihood below which a fit stops; 0 means all steps.
"""

import warnings
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.problems import n_features, precisions


class Outcome(NamedTuple):
    """n_steps actually taken; params as (weights, means, covariances)."""

    n_steps: int
    params: tuple


class Jaxem:
    def __init__(self, x, start, covariance, chunk_size=None):
        import jaxem

        self.x = jnp.asarray(x)
        self.model = jaxem.gaussian_mixture(len(start.weights), covariance=covariance)
        self.start = jaxem.MixtureParams(start.weights, jaxem.GaussianParams(start.means, start.covs))
        self.fit_ = partial(jaxem.fit, self.model, self.x, self.start, chunk_size=chunk_size)

    def fit(self, steps, tol=0.0):
        result = jax.block_until_ready(self.fit_(tol=tol, max_steps=steps))
        params = result.params
        return Outcome(int(result.n_steps), (params.weights, params.components.mean, params.components.cov))


class ScikitLearn:
    def __init__(self, x, start, covariance):
        from sklearn.mixture import GaussianMixture

        self.x = np.asarray(x)
        self.make = partial(
            GaussianMixture,
            len(start.weights),
            covariance_type=covariance,
            reg_covar=0.0,
            weights_init=start.weights,
            means_init=start.means,
            precisions_init=precisions(start.covs, covariance),
        )

    def fit(self, steps, tol=0.0):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it did not converge is the point of a fixed number of steps
            fitted = self.make(max_iter=steps, tol=tol).fit(self.x)
        return Outcome(fitted.n_iter_, (fitted.weights_, fitted.means_, fitted.covariances_))


class Gmmx:
    covariances = ("full", "diag")

    def __init__(self, x, start, covariance):
        from gmmx import EMFitter, GaussianMixtureModelJax

        self.x = jnp.asarray(x)
        self.fitter = partial(EMFitter, reg_covar=0.0)
        self.start = GaussianMixtureModelJax.from_squeezed(start.means, start.covs, start.weights, covariance)

    def fit(self, steps, tol=0.0):
        fitted = jax.block_until_ready(self.fitter(max_iter=steps, tol=tol).fit(self.x, self.start))
        gmm = fitted.gmm
        return Outcome(int(fitted.n_iter), (gmm.weights_numpy, gmm.means_numpy, gmm.covariances.values_numpy))


CONTESTANTS = {"jaxem": Jaxem, "scikit-learn": ScikitLearn, "gmmx": Gmmx}


def takes(name, covariance):
    """Whether a contestant knows this covariance structure."""
    return covariance in getattr(CONTESTANTS[name], "covariances", (covariance,))


def mean_log_lik(x, params, covariance, rows=4096):
    """Mean log-likelihood per row in float64 by NumPy, in chunks: one referee for everybody."""
    weights, means, covs = (np.asarray(leaf, np.float64) for leaf in params)
    k, d = means.shape
    if covariance in ("full", "tied"):
        factors = np.broadcast_to(np.linalg.inv(np.linalg.cholesky(covs)), (k, d, d))
    else:
        deviations = np.broadcast_to(np.sqrt(covs).reshape(k, -1), (k, d))
        factors = np.eye(d) / deviations[:, None, :]
    constants = np.log(weights) + np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(1) - 0.5 * d * np.log(2 * np.pi)
    total = 0.0
    for first in range(0, len(x), rows):
        piece = np.asarray(x[first : first + rows], np.float64)
        joint = np.stack(
            [c - 0.5 * (((piece - m) @ f.T) ** 2).sum(1) for c, m, f in zip(constants, means, factors, strict=True)]
        )
        total += np.logaddexp.reduce(joint, axis=0).sum()
    return total / len(x)


class Floor:
    """The two bare matrix products of one EM step: features [n, f] by parameters [f, k], and back; nothing else.

    Whatever an implementation on dense responsibilities does, it does these. Four layouts exist; the best one counts.
    """

    layouts = ("T W, T'R", "W'T', T'R'", "T W, R'T", "W'T', R T")

    def __init__(self, n, d, k, covariance, dtype):
        f = n_features(d, covariance)
        keys = jax.random.split(jax.random.key(0))
        tall = jax.random.normal(keys[0], (n, f), dtype)
        self.data = tall, jax.jit(jnp.transpose)(tall)
        self.weights = 0.01 * jax.random.normal(keys[1], (f, k), dtype)

    def run(self, steps, layout):
        jax.block_until_ready(_bare_products(self.data, self.weights, steps, layout))


@partial(jax.jit, static_argnames="layout")
def _bare_products(data, weights, steps, layout):
    tall, wide = data
    dot = partial(jnp.dot, precision=jax.lax.Precision.HIGHEST)
    products = {
        "T W, T'R": lambda w: dot(wide, dot(tall, w)),
        "W'T', T'R'": lambda w: dot(dot(w.T, wide), tall).T,
        "T W, R'T": lambda w: dot(dot(tall, w).T, tall).T,
        "W'T', R T": lambda w: dot(wide, dot(w.T, wide).T),
    }[layout]
    # Each step depends on the one before, by next to nothing, so that none can be left out.
    return jax.lax.fori_loop(0, steps, lambda _, w: w + 1e-30 * products(w), weights)
