"""Waiting times without memory: the exponential distribution."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxem.contract.constraints import Positive
from jaxem.contract.model import model_class
from jaxem.contract.units import RATE
from jaxem.families.scale import ScaleFamily
from jaxem.families.support import NON_NEGATIVE, Numbers


class ExponentialParams(NamedTuple):
    """The params of `Exponential`.

    Attributes:
        rate: one over the mean, [k].
    """

    rate: Any


@model_class
class Exponential(ScaleFamily):
    """Waiting times without memory: p(x) = rate exp(-rate x), for x [n] >= 0.

    The M-step is rate = 1 / mean. Bishop (2006), section 2.4.

    Examples:
        >>> import jax, jaxem
        >>> x = jax.numpy.array([0.1, 0.3, 0.2, 0.5, 40.0, 70.0, 55.0])
        >>> best, _ = jaxem.fit_restarts(
        ...     jaxem.exponential_mixture(2), x, jax.random.key(0), n_restarts=8
        ... )
        >>> sorted(round(1 / rate) for rate in best.params.components.rate.tolist())
        [0, 54]
    """

    support = Numbers(NON_NEGATIVE)
    param_shapes = ExponentialParams(("k",))
    roles = ExponentialParams(RATE)

    def features(self, x: Any) -> Any:
        return x[None]

    def natural(self, params: Any) -> Any:
        return -params.rate[None]

    def log_normalizer(self, params: Any) -> Any:
        return -jnp.log(params.rate)

    def from_moments(self, moments: Any) -> ExponentialParams:
        # A component of zeros only would have an infinite rate; the mean of the data is 1 in these
        # units.
        return ExponentialParams(1 / jnp.maximum(moments[0], jnp.finfo(moments.dtype).tiny * 4))

    def moments(self, params: Any) -> Any:
        return 1 / params.rate[None]

    def mean(self, params: Any) -> Any:
        return 1 / params.rate

    def constraints(self) -> ExponentialParams:
        return ExponentialParams(Positive())

    def embed(self, x: Any, weights: jax.Array | None = None) -> Any:
        """Cube roots, which are close to normal (Wilson and Hilferty 1931)."""
        return super().embed(jnp.cbrt(x), weights)

    def degenerate(self, params: Any, n_points: Any) -> Any:
        """Whether a component lies on zeros only: its density there grows without bound."""
        return ~(params.rate * jnp.finfo(params.rate.dtype).eps ** 2 < 1)

    def sample(self, params: Any, key: jax.Array, n: int) -> Any:
        """n times of every component, [n, k]."""
        draws = jax.random.exponential(key, (n, *params.rate.shape), params.rate.dtype)
        return draws / params.rate
