"""Positive numbers whose logarithm is normal: the log-normal distribution."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxem.contract.constraints import Positive, Real
from jaxem.contract.model import model_class
from jaxem.contract.units import LOG_LOCATION, UNITLESS
from jaxem.families.degenerate import default_floor
from jaxem.families.scale import ScaleFamily, collapsed
from jaxem.families.support import POSITIVE, Numbers
from jaxem.numerics.special import HALF_LOG_2PI


class LogNormalParams(NamedTuple):
    """The params of `LogNormal`.

    Attributes:
        mean: the mean of log x, [k].
        var: the variance of log x, [k].
    """

    mean: Any
    var: Any


@model_class
class LogNormal(ScaleFamily):
    """Numbers whose logarithm is normal: p(x) = N(log x | mean, var) / x, for x [n] > 0.

    The M-step is the mean and the variance of log x; Johnson, Kotz and Balakrishnan (1994), chapter
    14. A variance is at least 1e-12 (1e-9 in float32). A component that small lies on ties and is
    reported as degenerate.

    Examples:
        >>> import jax, jaxem
        >>> x = jax.numpy.array([1.0, 1.2, 0.8, 0.9, 1.1, 900.0, 1000.0, 1300.0, 700.0, 1100.0])
        >>> best, _ = jaxem.fit_restarts(
        ...     jaxem.log_normal_mixture(2), x, jax.random.key(0), n_restarts=8
        ... )
        >>> sorted(round(mean, 1) for mean in best.params.components.mean.tolist())
        [-0.0, 6.9]
    """

    support = Numbers(POSITIVE)
    param_shapes = LogNormalParams(("k",), ("k",))
    roles = LogNormalParams(LOG_LOCATION, UNITLESS)

    def features(self, x: Any) -> Any:
        log = jnp.log(x)
        return jnp.stack([log, log * log])

    def natural(self, params: Any) -> Any:
        return jnp.stack([params.mean, jnp.full_like(params.mean, -0.5)]) / params.var

    def log_normalizer(self, params: Any) -> Any:
        return 0.5 * (params.mean**2 / params.var + jnp.log(params.var))

    def log_base(self, x: Any) -> Any:
        return -jnp.log(x) - HALF_LOG_2PI

    def from_moments(self, moments: Any) -> LogNormalParams:
        mean, square = moments
        return LogNormalParams(mean, jnp.maximum(square - mean**2, default_floor(moments.dtype)))

    def moments(self, params: Any) -> Any:
        return jnp.stack([params.mean, params.mean**2 + params.var])

    def mean(self, params: Any) -> Any:
        return jnp.exp(params.mean + 0.5 * params.var)

    def constraints(self) -> LogNormalParams:
        return LogNormalParams(Real(), Positive())

    def embed(self, x: Any, weights: jax.Array | None = None) -> Any:
        return super().embed(jnp.log(x), weights)

    def degenerate(self, params: Any, n_points: Any) -> Any:
        return collapsed(params.mean, params.var, n_points, default_floor(params.var.dtype))

    def sample(self, params: Any, key: jax.Array, n: int) -> Any:
        """n numbers of every component, [n, k]."""
        noise = jax.random.normal(key, (n, *params.mean.shape), params.mean.dtype)
        return jnp.exp(params.mean + jnp.sqrt(params.var) * noise)
