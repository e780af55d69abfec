"""ONE table of models with small data: every law, and every algorithm, is tried on each row."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.special import logsumexp
from scipy.stats import (
    bernoulli,
    expon,
    gamma,
    geom,
    lognorm,
    multinomial,
    multivariate_normal,
    poisson,
    vonmises_fisher,
)

import jaxem


class Row(NamedTuple):
    """A model of the zoo.

    data: makes x (float64). reference: (params, x) -> log p(x_i) [n], by code that is not ours.
    affine: x -> (changed x, log volume per row) under which the model is equivariant.
    skipped: parts of the descriptions of those checks that do not apply to it.
    """

    name: str
    model: Any
    data: Callable[[], Any]
    reference: Callable | None = None
    affine: Callable | None = None
    exact_m_step: bool = True
    skipped: tuple[str, ...] = ()


def groups(n, d, k=3, seed=0):
    """n rows in d dimensions: k overlapping groups of different spread and tilt."""
    rng = np.random.default_rng(seed)
    member = rng.integers(k, size=n)
    centre = 3 * rng.standard_normal((k, d))
    tilt = rng.standard_normal((k, d, d)) * 0.4 + np.eye(d)
    return centre[member] + np.einsum("nij,nj->ni", tilt[member], rng.standard_normal((n, d)))


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


def _affine(matrix):
    def change(x):
        a = np.asarray(matrix(x.shape[1]), x.dtype)
        return x @ a + np.asarray(1.5, x.dtype), np.asarray(np.linalg.slogdet(a.astype(float))[1], x.dtype)

    return change


def _any_matrix(d):
    return np.eye(d) * 2.0 + 0.5 * np.random.default_rng(5).standard_normal((d, d))


AFFINE = {
    "full": _affine(_any_matrix),
    "diag": _affine(lambda d: np.diag(10.0 ** np.arange(d))),
    "spherical": _affine(lambda d: 0.01 * np.eye(d)),
}


def gaussian(covariance, d, k=3, n=90):
    """The row of a Gaussian mixture."""
    shape = {"tied": "full", "diag_tied": "diag", "spherical_tied": "spherical"}.get(covariance, covariance)
    return Row(
        f"gaussian-{covariance}-{d}d",
        jaxem.gaussian_mixture(k, covariance),
        lambda: groups(n, d, k),
        reference=lambda params, x: logsumexp(gaussian_joint(covariance, params, x), axis=1),
        affine=AFFINE[shape],
    )


# --- families with scipy's densities ----------------------------------------------------------------------------


def marginal(log_density):
    """The reference of a mixture: log sum_k weights_k p(x | k), from a function (component, x) -> log p [n]."""

    def reference(params, x):
        x = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), x)
        leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(params.components)]
        each = [log_density(*component, x) for component in zip(*leaves, strict=True)]
        return logsumexp(np.log(np.asarray(params.weights, np.float64)) + np.stack(each, 1), axis=1)

    return reference


def _member(n, k=3):
    return np.random.default_rng(7).integers(k, size=n)


def counts(n=90):
    return np.random.default_rng(1).poisson(np.array([1.0, 6.0, 20.0])[_member(n)]).astype(float)


def exposed_counts(n=90):
    rng = np.random.default_rng(1)
    exposure = rng.uniform(0.5, 3.0, n)
    return rng.poisson(np.array([1.0, 6.0, 20.0])[_member(n)] * exposure).astype(float), exposure


def inflated_counts(n=90):
    return np.where(_member(n) == 0, 0.0, counts(n))


def failures(n=90):
    return np.random.default_rng(1).geometric(np.array([0.1, 0.5, 0.3])[_member(n)]) - 1.0


def times(n=90):
    return np.random.default_rng(1).gamma(3.0, np.array([0.2, 2.0, 10.0])[_member(n)])


def bits(n=90):
    prob = np.array([[0.2, 0.3, 0.5, 0.7], [0.8, 0.7, 0.2, 0.6], [0.5, 0.5, 0.5, 0.5]])
    return (np.random.default_rng(1).random((n, 4)) < prob[_member(n)]).astype(float)


def codes(n=90):
    rng, member = np.random.default_rng(1), _member(n)
    columns = (member + rng.integers(2, size=n)) % 3, rng.random(n) < 0.3 + 0.2 * member, rng.integers(4, size=n)
    return np.stack(columns, 1).astype(float)


def table(n=90):
    prob = np.array([[0.2, 0.3, 0.5], [0.6, 0.2, 0.2], [0.3, 0.6, 0.1]])
    return np.random.default_rng(1).multinomial(5 + np.arange(n) % 4, prob[_member(n)]).astype(float)


def directions(n=90):
    rows = 0.4 * np.random.default_rng(1).standard_normal((n, 3)) + np.eye(3)[_member(n)]
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def scaled(x):
    """Times in another unit."""
    return x * np.asarray(3, x.dtype), np.log(np.asarray(3, x.dtype))


def one(name, preset, data, log_density, *, affine=None, skipped=()):
    """The row of a family with two components and a density by scipy."""
    missing = () if affine else ("affine",)
    return Row(name, preset, data, marginal(log_density), affine, skipped=(*missing, *skipped))


UNITS, DRAWS = "standard units", "add up to 1"

FAMILIES = (
    # In standard units counts carry the exposures that `sample` does not draw.
    one("poisson", jaxem.poisson_mixture(2), counts, lambda rate, x: poisson.logpmf(x, rate), skipped=(DRAWS,)),
    one(
        "poisson-exposure",
        jaxem.poisson_mixture(2, exposure=True),
        exposed_counts,
        lambda rate, x: poisson.logpmf(x[0], rate * x[1]),
        skipped=(DRAWS,),
    ),
    one(
        "bernoulli",
        jaxem.bernoulli_mixture(2),
        bits,
        lambda prob, x: bernoulli.logpmf(x, prob).sum(1),
        skipped=(UNITS, DRAWS),
    ),
    one(
        "categorical",
        jaxem.categorical_mixture(2, (3, 2, 4)),
        codes,
        lambda prob, x: np.log(prob[np.arange(3), x.astype(int)]).sum(1),
        skipped=(UNITS, DRAWS),
    ),
    one(
        "multinomial",
        jaxem.multinomial_mixture(2),
        table,
        lambda prob, x: multinomial.logpmf(x, x.sum(1), prob / prob.sum()),
        skipped=(UNITS, DRAWS),
    ),
    one(
        "geometric",
        jaxem.geometric_mixture(2),
        failures,
        lambda prob, x: geom.logpmf(x, prob, loc=-1),
        skipped=(UNITS, DRAWS),
    ),
    one(
        "exponential",
        jaxem.exponential_mixture(2),
        times,
        lambda rate, x: expon.logpdf(x, scale=1 / rate),
        affine=scaled,
        skipped=(DRAWS,),
    ),
    one(
        "gamma",
        jaxem.gamma_mixture(2),
        times,
        lambda shape, rate, x: gamma.logpdf(x, shape, scale=1 / rate),
        affine=scaled,
        skipped=(DRAWS,),
    ),
    one(
        "log-normal",
        jaxem.log_normal_mixture(2),
        times,
        lambda mean, var, x: lognorm.logpdf(x, np.sqrt(var), scale=np.exp(mean)),
        affine=scaled,
        skipped=(DRAWS,),
    ),
    one(
        "von-mises-fisher",
        jaxem.von_mises_fisher_mixture(2),
        directions,
        lambda mean, concentration, x: vonmises_fisher(mean / np.linalg.norm(mean), concentration).logpdf(x),
        skipped=(UNITS, DRAWS),
    ),
    Row(
        "gaussian-with-noise",
        jaxem.gaussian_mixture_with_noise(2, [-8.0, -8.0], [8.0, 8.0]),
        lambda: groups(90, 2, 2),
        skipped=("affine", "reference", "numbering", DRAWS),
    ),
    Row(
        "zero-inflated-poisson",
        jaxem.zero_inflated_poisson(3),
        inflated_counts,
        skipped=("affine", "reference", "numbering", DRAWS),
    ),
    Row(
        "mixed-columns",
        jaxem.Mixture(jaxem.Product((jaxem.Gaussian("diag"), jaxem.Poisson(), jaxem.Bernoulli())), 2),
        lambda: (groups(90, 2), counts(), bits()),
        skipped=("affine", "reference", DRAWS),
    ),
)


ZOO = (
    gaussian("full", 2),
    gaussian("tied", 2),
    gaussian("diag", 2),
    gaussian("spherical", 2),
    gaussian("diag_tied", 2),
    gaussian("spherical_tied", 2),
    gaussian("full", 1, k=2),
    gaussian("full", 6, k=2),
    *FAMILIES,
)
