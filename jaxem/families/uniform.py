"""Noise: a uniform density over a box, beside components of another family."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.contract.affine import Affine, host_origin
from jaxem.contract.constraints import Fixed
from jaxem.contract.family import Family
from jaxem.contract.model import EStep, model_class
from jaxem.contract.pytree import pytree_class
from jaxem.contract.units import LOCATION, ROUNDING, VISIBLE, AffineUnits, Identity, Units
from jaxem.families.support import Numbers, Vectors
from jaxem.numerics.tracing import is_traced


class UniformParams(NamedTuple):
    """The params of `Uniform`.

    A fit does not move the box.

    Attributes:
        low: the lower corners of the boxes, [k, d], or [k] where rows are numbers.
        high: the upper corners, of the same shape.
    """

    low: Any
    high: Any


#: How each leaf of the params moves with the rows.
ROLES = UniformParams(LOCATION, LOCATION)


class Count(NamedTuple):
    """The expected sufficient statistics of `Uniform`.

    Attributes:
        count: the expected number of rows of each component, [k].
    """

    count: Any


@pytree_class
class OwnParamsUnits(AffineUnits):
    """An origin near the rows, for a family that has params of its own: they come back to the bit.

    Attributes:
        own: the params of one component, in the units of the data.
    """

    own: Any = None

    def back(self, params: Any) -> Any:
        return jax.tree.map(lambda own, leaf: np.broadcast_to(own, np.shape(leaf)), self.own, params)


@pytree_class
class BoxUnits(OwnParamsUnits):
    """An origin near the rows, in which the box of a `Uniform` has other corners."""

    def model(self, model: Any) -> Any:
        return Uniform(*self.params(self.own))

    def loses_digits(self, params: Any) -> bool:
        return corners_are_far(self.own.low, self.own.high)


@model_class
class Uniform(Family):
    """Noise: p(x) = 1 / volume inside the box low <= x <= high and 0 outside, for x [n, d] or [n].

    One such component takes up the rows that no other explains (Banfield and Raftery 1993, section
    3.3); see `OneOf` and `gaussian_mixture_with_noise`. `Uniform.around(x)` is the smallest box
    that holds x. There is nothing to estimate, so k components are k copies.

    Args:
        low: the lower corner [d], or a number where rows are numbers.
        high: the upper corner, of the same shape.

    Raises:
        ValueError: low is not below high, or their shapes differ.

    Examples:
        >>> import jax, jaxem
        >>> noise = jaxem.Uniform.around(jaxem.datasets.old_faithful())
        >>> [round(float(edge), 1) for edge in noise.high - noise.low]
        [3.5, 53.0]
    """

    low: Any
    high: Any

    def __post_init__(self) -> None:
        if isinstance(self.low, (float, int, list, tuple, np.ndarray)):
            low, high = np.asarray(self.low, float), np.asarray(self.high, float)
            if low.shape != high.shape or low.ndim > 1 or not (low < high).all():
                raise ValueError(f"low: expected corners low < high of the same shape; got {self.low!r}, {self.high!r}")
            object.__setattr__(self, "low", low)
            object.__setattr__(self, "high", high)

    @classmethod
    def around(cls, x: Any) -> "Uniform":
        """The smallest box that holds every row of x."""
        x = np.asarray(x)
        return cls(x.min(0), x.max(0))

    @property
    def support(self) -> Any:
        return Vectors() if np.ndim(self.low) else Numbers()

    @property
    def param_shapes(self) -> Any:
        corner = ("k", *np.shape(self.low))
        return UniformParams(corner, corner)

    def _params(self, k, dtype):
        corners = jnp.asarray(self.low, dtype), jnp.asarray(self.high, dtype)
        return UniformParams(*(jnp.broadcast_to(corner, (k, *corner.shape)) for corner in corners))

    def e_step(self, params: Any, x: Any) -> EStep:
        rows = x.reshape(x.shape[0], 1, -1)
        low, high = (corner.reshape(1, corner.shape[0], -1).astype(x.dtype) for corner in params)
        inside = ((rows >= low) & (rows <= high)).all(-1)
        return EStep(None, jnp.where(inside, -jnp.log(high - low).sum(-1), -jnp.inf))

    def sufficient_statistics(self, resp: Any, x: Any, weights: jax.Array) -> Count:
        return Count(weights.sum(0))

    def maximize(self, stats: Any, params: Any = None) -> UniformParams:
        return self._params(stats.count.shape[0], stats.count.dtype)

    def expected_log_joint(self, params: Any, stats: Any) -> jax.Array:
        low, high = (corner.reshape(corner.shape[0], -1) for corner in params)
        return -(stats.count * jnp.log(high - low).sum(-1)).sum()

    def origin(self, x: Any, params: Any = None) -> Units:
        own = UniformParams(np.asarray(self.low, np.float64), np.asarray(self.high, np.float64))
        return origin_of_rows(own.low[None] if x is None else x, BoxUnits, ROLES, own)

    def constraints(self) -> UniformParams:
        return UniformParams(Fixed(), Fixed())

    def sample(self, params: Any, key: jax.Array, n: int) -> Any:
        """n rows of every component, [n, k, d] or [n, k]."""
        uniform = jax.random.uniform(key, (n, *params.low.shape), params.low.dtype)
        return params.low + uniform * (params.high - params.low)

    def check(self, x: Any, params: Any = None) -> None:
        self.support.check_shape(x)
        if self.row_ndim and np.shape(self.low) != x.shape[1:]:
            raise ValueError(f"x: the box has {np.shape(self.low)[0]} dimensions; got {x.shape[1]} columns")
        super().check(x, params)
        if is_traced(params, self.low, self.high):
            return
        for corner, own in zip(params or (), (self.low, self.high), strict=False):
            if not np.allclose(corner, own, rtol=1e-6, atol=0):
                raise ValueError(f"start: the box is the family's own, {np.asarray(own)}; got {np.asarray(corner)}")


def origin_of_rows(x: Any, kind: type, roles: Any, own: Any) -> Units:
    """Units of a kind that only move the origin to where rows x lie.

    They are `Identity` where the rows lie near 0.
    """
    affine = host_origin(x)
    return Identity() if affine is None else kind(Affine(affine.shift, np.float64(1)), roles, own)


def corners_are_far(low: Any, high: Any) -> bool:
    """Whether a body between two corners is so far from 0 that float32 moves its faces visibly."""
    reach = np.maximum(np.abs(low), np.abs(high))
    return bool((reach * ROUNDING > VISIBLE * (np.asarray(high) - low)).any())
