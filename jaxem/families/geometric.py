"""Counts of failures before the first success: the geometric distribution."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxem.contract.constraints import UnitInterval
from jaxem.contract.model import model_class
from jaxem.families.exponential_family import ExponentialFamily, log_or_impossible
from jaxem.families.support import COUNTS, Numbers


class GeometricParams(NamedTuple):
    """The params of `Geometric`.

    Attributes:
        prob: the probability of a success at each trial, [k].
    """

    prob: Any


@model_class
class Geometric(ExponentialFamily):
    """Failures before the first success: p(x) = prob (1 - prob)^x, for x [n] of 0, 1, 2, ...

    The M-step is prob = 1 / (1 + mean). A component of zeros only has prob 1. Johnson, Kemp and
    Kotz (2005), section 5.2.

    Examples:
        >>> import jax, jaxem
        >>> x = jax.numpy.array([0., 0., 1., 2., 40., 55.])
        >>> best, _ = jaxem.fit_restarts(
        ...     jaxem.geometric_mixture(2), x, jax.random.key(0), n_restarts=8
        ... )
        >>> best.params.components.prob.shape
        (2,)
    """

    support = Numbers(COUNTS)
    param_shapes = GeometricParams(("k",))
    excludes = True

    def features(self, x: Any) -> Any:
        return x[None]

    def natural(self, params: Any) -> Any:
        # log(1 - prob) keeps its digits where prob is small; at prob = 1 only zeros are possible.
        stops = params.prob >= 1
        return jnp.where(stops, log_or_impossible(1 - params.prob), jnp.log1p(-jnp.where(stops, 0, params.prob)))[None]

    def log_normalizer(self, params: Any) -> Any:
        return -log_or_impossible(params.prob)

    def from_moments(self, moments: Any) -> GeometricParams:
        return GeometricParams(1 / (1 + moments[0]))

    def moments(self, params: Any) -> Any:
        return ((1 - params.prob) / params.prob)[None]

    def mean(self, params: Any) -> Any:
        return (1 - params.prob) / params.prob

    def constraints(self) -> GeometricParams:
        return GeometricParams(UnitInterval())

    def embed(self, x: Any, weights: jax.Array | None = None) -> Any:
        """arsinh of the square root, which has about equal variances everywhere."""
        return super().embed(jnp.arcsinh(jnp.sqrt(x)), weights)

    def sample(self, params: Any, key: jax.Array, n: int) -> Any:
        """n counts of every component, [n, k]."""
        uniform = jax.random.uniform(key, (n, *params.prob.shape), params.prob.dtype)
        return jnp.floor(jnp.log1p(-uniform) / jnp.log1p(-params.prob))
