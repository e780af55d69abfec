"""Directions: the von Mises-Fisher distribution on the unit sphere in any dimension."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.contract.constraints import Constraint, NonNegative
from jaxem.contract.model import model_class
from jaxem.families.degenerate import is_degenerate, shares
from jaxem.families.exponential_family import ExponentialFamily
from jaxem.families.support import Values, Vectors
from jaxem.numerics.special import log_bessel

#: Rows may be off the sphere by this much: they are often printed with four decimals.
SPHERE_TOLERANCE = 1e-3


class VonMisesFisherParams(NamedTuple):
    """The params of `VonMisesFisher`.

    Attributes:
        mean: the mean directions, unit vectors [k, d].
        concentration: [k]; 0 is the uniform distribution, and a large one is about 1 / variance.
    """

    mean: Any
    concentration: Any


def _pole(d):
    """An unusual direction, at which the coordinates of `UnitVector` are infinite."""
    vector = np.cos(np.arange(1, d + 1) ** 2)
    return vector / np.linalg.norm(vector)


@dataclasses.dataclass(frozen=True)
class UnitVector(Constraint):
    """The unit sphere along the last axis, by stereographic projection from `_pole`."""

    event_ndim = 1

    def to_params(self, free: Any) -> Any:
        square = (free * free).sum(-1, keepdims=True)
        flat = jnp.concatenate([2 * free, square - 1], -1) / (square + 1)
        return self._reflect(flat)

    def to_free(self, value: Any) -> Any:
        flat = self._reflect(value)
        # 1 - value . pole, without cancellation near the pole.
        below = 0.5 * ((value - jnp.asarray(_pole(value.shape[-1]), value.dtype)) ** 2).sum(-1, keepdims=True)
        return flat[..., :-1] / jnp.maximum(below, jnp.finfo(value.dtype).tiny)

    def _reflect(self, vectors):
        """The reflection that exchanges the pole and the last axis."""
        d = vectors.shape[-1]
        normal = np.eye(d)[-1] - _pole(d)
        normal = jnp.asarray(normal / np.linalg.norm(normal), vectors.dtype)
        return vectors - 2 * (vectors * normal).sum(-1, keepdims=True) * normal

    def n_free(self, shape: Any) -> int:
        return int(np.prod(shape[:-1])) * (shape[-1] - 1)

    def violation(self, value: Any) -> Any:
        off = np.abs(np.linalg.norm(value, axis=-1) - 1) > SPHERE_TOLERANCE
        return super().violation(value) or ("is not of length 1" if off.any() else None)


def unit(vector: Any) -> Any:
    """(vector / its length, length) along the last axis; 0 has the direction of the first axis."""
    square = (vector * vector).sum(-1, keepdims=True)
    tiny = jnp.finfo(vector.dtype).tiny
    length = jnp.sqrt(jnp.where(square > tiny, square, 1))
    first = jnp.zeros_like(vector).at[..., 0].set(1)
    return jnp.where(square > tiny, vector / length, first), jnp.where(square > tiny, length, 0)[..., 0]


class Directions(Vectors):
    """Rows [n, d] of length 1, d >= 2."""

    def __init__(self) -> None:
        super().__init__(
            Values(
                "rows of length 1 (write x / np.linalg.norm(x, axis=1, keepdims=True))",
                lambda x: np.abs(np.linalg.norm(x, axis=1) - 1) <= SPHERE_TOLERANCE,
            )
        )

    def check_shape(self, x: Any, name: str = "x") -> None:
        super().check_shape(x, name)
        if x.shape[1] < 2:
            raise ValueError(f"{name}: expected unit vectors of at least 2 numbers; got shape {x.shape}")


@model_class
class VonMisesFisher(ExponentialFamily):
    """Directions: p(x) = exp(c mean . x) / Z(c), for unit vectors x [n, d] with d >= 2.

    c is the concentration and Z(c) = (2 pi)^(d/2) I_{d/2-1}(c) / c^(d/2-1); Mardia and Jupp (2000),
    section 9.3. With r the length of the mean row, the M-step solves I_{d/2}(c) / I_{d/2-1}(c) = r
    to rounding, in any dimension and for any c; Banerjee et al. (2005), section 4.

    Examples:
        >>> import jax, jaxem
        >>> angle = jax.numpy.array([0.1, 0.0, -0.2, 0.1, 3.0, 3.2, 3.1, 3.3])
        >>> x = jax.numpy.stack([jax.numpy.cos(angle), jax.numpy.sin(angle)], 1)
        >>> best, _ = jaxem.fit_restarts(
        ...     jaxem.von_mises_fisher_mixture(2), x, jax.random.key(0), n_restarts=8
        ... )
        >>> sorted(round(mean) for mean in best.params.components.mean[:, 0].tolist())
        [-1, 1]
    """

    support = Directions()
    param_shapes = VonMisesFisherParams(("k", "d"), ("k",))

    def features(self, x: Any) -> Any:
        return x

    def natural(self, params: Any) -> Any:
        return params.concentration * params.mean

    def log_normalizer(self, params: Any) -> Any:
        d = params.mean.shape[-1]
        log_scaled, _ = log_bessel(d / 2 - 1, params.concentration)
        return log_scaled + params.concentration + d / 2 * math.log(2 * math.pi)

    def from_moments(self, moments: Any) -> VonMisesFisherParams:
        mean, length = unit(moments)
        return VonMisesFisherParams(mean, solve_concentration(length, moments.shape[0]))

    def moments(self, params: Any) -> Any:
        return self._length(params) * params.mean

    def _length(self, params):
        """The length of the mean of many rows, [k]."""
        c, d = params.concentration, params.mean.shape[-1]
        return c * log_bessel(d / 2 - 1, c)[1]

    def constraints(self) -> VonMisesFisherParams:
        return VonMisesFisherParams(UnitVector(), NonNegative())

    def embed(self, x: Any, weights: jax.Array | None = None) -> Any:
        return x

    def degenerate(self, params: Any, n_points: Any) -> Any:
        """Whether nearly all rows of a component have the same direction.

        The measure is 1 - mean length, relative to that of the data and of the other components.
        """
        d = params.mean.shape[-1]
        length = self._length(params)
        variance = (d - 1) / (d - 1 + 2 * params.concentration)
        total = 1 - unit(n_points @ (length[:, None] * params.mean) / n_points.sum())[1]
        limit = concentration_limit(d, params.mean.dtype)
        degenerate = is_degenerate(*shares(variance, total, n_points), n_points, d, fewest=1.5)
        return degenerate | ~(params.concentration < 0.5 * limit)

    def sample(self, params: Any, key: jax.Array, n: int) -> Any:
        """n unit vectors of every component, [n, k, d], by the rejection sampler of Wood (1994)."""
        k, d = params.mean.shape
        along_key, across_key = jax.random.split(key)
        along = _sample_along(along_key, params.concentration, d, (n, k))[..., None]
        across = jax.random.normal(across_key, (n, k, d), params.mean.dtype)
        across = unit(across - (across * params.mean).sum(-1, keepdims=True) * params.mean)[0]
        return along * params.mean + jnp.sqrt(jnp.maximum(1 - along * along, 0)) * across


def concentration_limit(d: int, dtype: Any) -> Any:
    """The concentration beyond which a mean length cannot be distinguished from 1."""
    return (d - 1) / (8 * float(jnp.finfo(dtype).eps))


def solve_concentration(length: Any, d: int) -> Any:
    """The c >= 0 at which I_{d/2}(c) / I_{d/2-1}(c) = length, to rounding.

    It is found by Newton's method after the change of variable b(r) = r (d - r^2) / (1 - r^2) of
    Banerjee et al. (2005), equation (4.4), which is so near c that the slope lies close to 1
    everywhere.
    """

    def banerjee(r):
        return r * (d - r * r) / ((1 - r) * (1 + r))

    length = jnp.minimum(length, 1 - 4 * jnp.finfo(length.dtype).eps)
    goal = banerjee(length)

    def improve(_, c):
        ratio = log_bessel(d / 2 - 1, c)[1]
        r = jnp.minimum(c * ratio, 1 - jnp.finfo(c.dtype).eps)
        value, slope = jax.jvp(banerjee, (r,), (1 - r * r - (d - 1) * ratio,))
        return jnp.maximum(c + (goal - value) / jnp.clip(slope, 0.7, 1.4), 0)

    return jax.lax.fori_loop(0, 8, improve, goal)


def _sample_along(key, concentration, d, shape):
    """Draws of mean . x by the rejection sampler of Wood (1994)."""
    c = jnp.broadcast_to(concentration, shape)
    b = (d - 1) / (2 * c + jnp.sqrt(4 * c * c + (d - 1) ** 2))
    x0 = (1 - b) / (1 + b)
    # The second term is log(1 - x0^2), without cancellation.
    top = c * x0 + (d - 1) * (jnp.log(4 * b) - 2 * jnp.log1p(b))

    def draw(state):
        key, accepted, along = state
        key, beta_key, uniform_key = jax.random.split(key, 3)
        z = jax.random.beta(beta_key, (d - 1) / 2, (d - 1) / 2, shape, c.dtype)
        w = (1 - (1 + b) * z) / (1 - (1 - b) * z)
        log_u = jnp.log1p(-jax.random.uniform(uniform_key, shape, c.dtype))
        ok = c * w + (d - 1) * jnp.log1p(-x0 * w) - top >= log_u
        return key, accepted | ok, jnp.where(accepted, along, w)

    start = key, jnp.zeros(shape, bool), jnp.zeros(shape, c.dtype)
    return jax.lax.while_loop(lambda state: ~state[1].all(), draw, start)[2]
