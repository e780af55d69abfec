"""Overdispersed counts: the negative binomial with its size estimated."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln, polygamma, xlogy

from jaxem.contract.constraints import Positive
from jaxem.contract.family import Family, alive_components
from jaxem.contract.model import EStep, model_class
from jaxem.contract.posterior import Posterior
from jaxem.contract.pytree import pytree_class
from jaxem.families.support import COUNTS, Numbers
from jaxem.numerics.special import root_between, stirling_remainder

#: The range of sizes: at its upper end the variance is that of the Poisson distribution to seven
#: digits.
SIZE_RANGE = (1e-6, 1e7)

#: The largest factors by which an M-step makes the size larger and smaller.
LARGEST_STEPS = 1.5, 10.0

#: log(1 + t) >= t - BEND t^2 / 2 for t >= 1 / 1.5 - 1. With its curvature made larger by this
#: factor, the expansion of log(1 + i v) bounds it from below as far as a step may go, so that an
#: M-step cannot lower the likelihood.
BEND = 1.3


class NegativeBinomialParams(NamedTuple):
    """The params of `NegativeBinomial`.

    Attributes:
        size: [k]; the variance is mean + mean^2 / size.
        mean: [k].
    """

    size: Any
    mean: Any


@pytree_class
class Quadratic(Posterior):
    """A quadratic in v = 1 / size that bounds sum_{i < x} log(1 + i v) - log x! from below.

    It is rest + slope v + bend v^2 / 2, where rest, slope and bend are [n, k].
    """

    bend: Any
    slope: Any
    rest: Any


class CountMoments(NamedTuple):
    """The expected sufficient statistics of `NegativeBinomial`, each [k].

    Attributes:
        count: the number of rows.
        total: the sum of x.
        square: the sum of x^2.
        quadratic: the sum of the `Quadratic` of each row. It is 0 for a start, which is estimated
            by moments.
    """

    count: jax.Array
    total: jax.Array
    square: jax.Array
    quadratic: Quadratic


@model_class
class NegativeBinomial(Family):
    """Overdispersed counts x [n]: Gamma(x + s) / (Gamma(s) x!) (s / (s + m))^s (m / (s + m))^x.

    s is the size and m the mean of a component. The M-step is m = mean of x, and s by one equation.
    Only Gamma(x + s) / Gamma(s) = s^x prod_{i < x} (1 + i / s) has no finite statistics. Its
    logarithm is concave in 1 / s (and regular at the Poisson limit 1 / s = 0). In its place Q has a
    quadratic that touches it from below at the current params; the coefficients of the quadratic
    are part of what the E-step expects, and they add up. An M-step never lowers the likelihood.
    Lawless (1987).

    Examples:
        >>> import jax, jax.numpy as jnp, jaxem
        >>> x = jnp.array([0.0, 0, 0, 1, 1, 2, 2, 3, 5, 9])
        >>> model = jaxem.negative_binomial_mixture(1)
        >>> result = jaxem.fit(model, x, model.init(jax.random.key(0), x))
        >>> round(float(result.params.components.mean[0]), 4)
        2.3
    """

    support = Numbers(COUNTS)
    param_shapes = NegativeBinomialParams(("k",), ("k",))

    def e_step(self, params: Any, x: Any) -> EStep:
        size, mean, x = params.size, params.mean, x[:, None]
        ways = log_rising(x, size) - gammaln(x + 1)
        log_prob = ways + xlogy(x, mean / (1 + mean / size)) - size * jnp.log1p(mean / size)
        bend, slope = _derivatives(x, size)
        bend = BEND * bend
        return EStep(Quadratic(bend, slope - bend / size, ways - (slope - 0.5 * bend / size) / size), log_prob)

    def sufficient_statistics(self, resp: Any, x: Any, weights: jax.Array) -> CountMoments:
        count, total, square = (weights.T @ jnp.stack([jnp.ones_like(x), x, x * x], 1)).T
        resp = Quadratic(*[jnp.zeros_like(weights)] * 3) if resp is None else resp
        return CountMoments(count, total, square, jax.tree.map(lambda leaf: (weights * leaf).sum(0), resp))

    def expected_log_joint(self, params: Any, stats: Any) -> jax.Array:
        size, mean = params
        bend, slope, rest = stats.quadratic.bend, stats.quadratic.slope, stats.quadratic.rest
        known = xlogy(stats.total, mean / (1 + mean / size)) - stats.count * size * jnp.log1p(mean / size)
        return (rest + (slope + 0.5 * bend / size) / size + known).sum()

    def maximize(self, stats: Any, params: Any = None) -> NegativeBinomialParams:
        alive = alive_components(stats.count)
        count = jnp.where(alive, stats.count, 1)
        mean = stats.total / count
        excess = jnp.maximum(stats.square / count - mean**2 - mean, 1e-3 * mean**2 + 1e-30)
        by_moments = jnp.clip(mean**2 / excess, *SIZE_RANGE)
        size = _best_size(stats.quadratic, count, mean, by_moments if params is None else params.size)
        # A start has no expansion, and none is needed where no count is above 1.
        known = stats.quadratic.slope != 0
        new = NegativeBinomialParams(jnp.where(known, size, by_moments), mean)
        return new if params is None else self.keep_where(alive, new, params)

    def mean(self, params: Any) -> Any:
        return params.mean

    def constraints(self) -> NegativeBinomialParams:
        return NegativeBinomialParams(Positive(), Positive())

    def embed(self, x: Any, weights: jax.Array | None = None) -> Any:
        return super().embed(jnp.sqrt(x), weights)

    def sample(self, params: Any, key: jax.Array, n: int) -> Any:
        """n counts of every component, [n, k]."""
        rate_key, count_key = jax.random.split(key)
        rate = jax.random.gamma(rate_key, params.size, (n, *params.size.shape)) * params.mean / params.size
        return jax.random.poisson(count_key, rate).astype(params.mean.dtype)


def log_rising(x: Any, size: Any) -> Any:
    """sum_{i < x} log(1 + i / size), without cancellation.

    It is log Gamma(x + size) - log Gamma(size) - x log(size).
    """
    above, last = size + 1, jnp.maximum(x - 1, 0)
    stirling = stirling_remainder(above + last) - stirling_remainder(above)
    stretch = (above + last - 0.5) * jnp.log1p(last / above) - last
    return jnp.where(x > 0, last * jnp.log1p(1 / size) + stretch + stirling, 0)


def _derivatives(x, size):
    """The second and the first derivative of `log_rising` in v = 1 / size.

    They are -sum (i / (1 + i v))^2 and sum i / (1 + i v). Their closed forms cancel for large
    sizes, where the bounds by Jensen and Cauchy-Schwarz are close together.
    """
    first = size * (digamma(x + size) - digamma(size))
    second = size**2 * (polygamma(1, size) - polygamma(1, x + size))
    last = jnp.maximum(x - 1, 0)
    pairs = 0.5 * x * last
    slope = jnp.clip(size * (x - first), pairs / (1 + last / size), pairs / (1 + 0.5 * last / size))
    largest = last / (1 + last / size)
    square = jnp.clip(size**2 * (x - 2 * first + second), slope**2 / jnp.maximum(x, 1), slope * largest)
    return -square, slope


def _best_size(quadratic, count, mean, size):
    """The size at which Q has its maximum, no further from `size` than `LARGEST_STEPS`."""

    def climb(log_v):
        v = jnp.exp(log_v)
        return quadratic.slope + quadratic.bend * v - count * mean**2 * _log1p_rest(mean * v)

    start = -jnp.log(size)
    smaller = climb(start) > 0
    direction = jnp.where(smaller, 1.0, -1.0).astype(size.dtype)
    end = jnp.where(smaller, start + math.log(LARGEST_STEPS[1]), start - math.log(LARGEST_STEPS[0]))
    end = jnp.clip(end, -math.log(SIZE_RANGE[1]), -math.log(SIZE_RANGE[0]))
    return jnp.exp(-root_between(lambda at: direction * climb(at), start, end))


def _log1p_rest(u):
    """(u - log(1 + u)) / u^2 for u >= 0; 1/2 at 0."""
    small = u < jnp.finfo(u.dtype).eps ** 0.25
    safe = jnp.where(small, 1, u)
    return jnp.where(small, 0.5 - u * (1 / 3 - u * (1 / 4 - u / 5)), (safe - jnp.log1p(safe)) / safe**2)
