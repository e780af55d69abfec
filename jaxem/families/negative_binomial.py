"""Overdispersed counts: the negative binomial with its size estimated."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln, polygamma

from jaxem.constraints import Positive
from jaxem.exponential_family import Family
from jaxem.families.support import numbers, require_counts, require_shape
from jaxem.model import EStep, model_class

#: Sizes are looked for in this range: at its upper end the variance is the Poisson's to seven digits.
SIZE_RANGE = (1e-6, 1e7)


class NegativeBinomialParams(NamedTuple):
    """size [k] and mean [k]: the variance is mean + mean^2 / size."""

    size: Any
    mean: Any


class Newton(NamedTuple):
    """The Newton step for log size that each row asks for: minus the curvature [n, k], and that times its target."""

    weight: Any
    target: Any


class CountMoments(NamedTuple):
    """count, sum of x, of x^2, and the sums of `Newton` (0 for a start, which then goes by the moments); each [k]."""

    count: jax.Array
    total: jax.Array
    square: jax.Array
    weight: jax.Array
    target: jax.Array


@model_class
class NegativeBinomial(Family):
    """NB(x | size_k, mean_k), x [n] counts: the mean in closed form, log size by one Newton step on Q.

    The step at the current params is part of what the E-step expects, so its statistics add up; a step that went too
    far is halved by the loop. Lawless (1987), equations (2.3) and (2.4).

    >>> import jax, jax.numpy as jnp, jaxem
    >>> x = jnp.array([0.0, 0, 0, 1, 1, 2, 2, 3, 5, 9])
    >>> model = jaxem.negative_binomial_mixture(1)
    >>> result = jaxem.fit(model, x, model.init(jax.random.key(0), x))
    >>> round(float(result.params.components.mean[0]), 4)
    2.3
    """

    row_ndim = 0

    def e_step(self, params, x):
        size, mean, x = params.size, params.mean, x[:, None]
        both = size + mean
        log_prob = gammaln(x + size) - gammaln(size) - gammaln(x + 1) - size * jnp.log1p(mean / size)
        log_prob += jnp.where(x > 0, x * jnp.log(jnp.where(mean > 0, mean, 1) / both), 0)
        log_prob = jnp.where((mean > 0) | (x == 0), log_prob, -jnp.inf)
        slope = digamma(x + size) - digamma(size) - jnp.log1p(mean / size) + (mean - x) / both
        bend = polygamma(1, x + size) - polygamma(1, size) + mean / (size * both) - (mean - x) / both**2
        # In log size: d = size * slope, d2 = size * slope + size^2 * bend.
        weight = -(size * slope + size**2 * bend)
        return EStep(Newton(weight, weight * jnp.log(size) + size * slope), log_prob)

    def sufficient_statistics(self, resp, x, weights):
        resp = Newton(jnp.zeros_like(weights), jnp.zeros_like(weights)) if resp is None else resp
        powers = weights.T @ jnp.stack([jnp.ones_like(x), x, x * x], 1)
        count, total, square = powers.T
        return CountMoments(count, total, square, (weights * resp.weight).sum(0), (weights * resp.target).sum(0))

    def maximize(self, stats, params=None):
        alive = stats.count > stats.count.sum() * jnp.finfo(stats.count.dtype).eps ** 2
        count = jnp.where(alive, stats.count, 1)
        mean = stats.total / count
        by_moments = mean**2 / jnp.maximum(stats.square / count - mean**2 - mean, 1e-3 * mean**2 + 1e-30)
        # Where Q is not concave in log size the step would go the wrong way: it waits until it is.
        concave = stats.weight > 0
        fallback = by_moments if params is None else jnp.where(stats.weight == 0, by_moments, params.size)
        stepped = jnp.exp(stats.target / jnp.where(concave, stats.weight, 1))
        size = jnp.clip(jnp.where(concave, stepped, fallback), *SIZE_RANGE)
        if params is not None:
            # One step changes the size by a factor of 10 at most: Newton's method far from its target is no guide.
            size = jnp.clip(size, params.size / 10, params.size * 10)
        new = NegativeBinomialParams(size, mean)
        return new if params is None else self.keep_where(alive, new, params)

    def constraints(self):
        return NegativeBinomialParams(Positive(), Positive())

    def embed(self, x, weights=None):
        return super().embed(jnp.sqrt(x), weights)

    def sample(self, params, key, n):
        rate_key, count_key = jax.random.split(key)
        rate = jax.random.gamma(rate_key, params.size, (n, *params.size.shape)) * params.mean / params.size
        return jax.random.poisson(count_key, rate).astype(params.mean.dtype)

    def check(self, x, params=None):
        require_counts(numbers(x))
        if params is not None:
            require_shape("size", params.size, (None,))
            require_shape("mean", params.mean, (None,))
