"""Noise: a uniform density over the convex hull of the data, with less empty space than a box."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.contract.constraints import Fixed
from jaxem.contract.family import Family
from jaxem.contract.model import EStep, model_class
from jaxem.contract.pytree import pytree_class
from jaxem.contract.units import Units
from jaxem.families.support import Vectors, check_vectors
from jaxem.families.uniform import Count, OwnParamsUnits, corners_are_far, origin_of_rows
from jaxem.numerics.linalg import PRECISION
from jaxem.numerics.tracing import is_traced

#: A row is inside if it is at most this many units of rounding beyond a facet, as the corners of
#: the hull themselves may be.
ROUNDING = 64


class HullParams(NamedTuple):
    """The params of `UniformHull`: the hull, once for each of k components; a fit does not move it.

    Attributes:
        normals: the normals of the facets, [k, f, d].
        offsets: the offsets of the facets, [k, f]; a row is inside where normals x + offsets <= 0.
        log_volume: the log of the volume, [k].
        simplices: a triangulation for draws, [k, s, d + 1, d].
    """

    normals: Any
    offsets: Any
    log_volume: Any
    simplices: Any


@pytree_class
class HullUnits(OwnParamsUnits):
    """An origin near the rows, in which the facets of a hull have other offsets."""

    def params(self, params: Any) -> HullParams:
        offsets = params.offsets + params.normals @ self.affine.shift
        return params._replace(offsets=offsets, simplices=self.affine.forth(params.simplices))

    def model(self, model: Any) -> Any:
        return UniformHull(*self.params(self.own))

    def loses_digits(self, params: Any) -> bool:
        return corners_are_far(self.own.simplices.min((0, 1)), self.own.simplices.max((0, 1)))


@model_class
class UniformHull(Family):
    """Noise: p(x) = 1 / volume inside a convex hull and 0 outside, for x [n, d] with d >= 2.

    `UniformHull.around(x)` is the smallest convex body that holds x. As one component of a `OneOf`
    it takes up the rows that no other explains; Banfield and Raftery (1993), section 3.3. The
    number of facets of a hull grows fast with d: use a box (`Uniform`) beyond about five columns.

    Args:
        normals: the normals [f, d] of the facets.
        offsets: their offsets [f]: a row is inside where normals x + offsets <= 0.
        log_size: the log of the volume.
        simplices: a triangulation [s, d + 1, d], for draws.

    Examples:
        >>> import jax, jaxem
        >>> x = jaxem.datasets.old_faithful()
        >>> noise = jaxem.UniformHull.around(x)
        >>> family = jaxem.OneOf((jaxem.Gaussian(), noise), (2, 1))
        >>> model = jaxem.Mixture(family, 3)
        >>> best, _ = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=4)
        >>> round(float(jax.numpy.exp(noise.log_size)), 1)  # the box around x has volume 185.5
        87.2
    """

    normals: Any
    offsets: Any
    log_size: Any
    simplices: Any

    support = Vectors()

    @property
    def param_shapes(self) -> Any:
        own = (self.normals, self.offsets, self.log_size, self.simplices)
        return HullParams(*(("k", *np.shape(leaf)) for leaf in own))

    @classmethod
    def around(cls, x: Any) -> "UniformHull":
        """The convex hull of the rows of x.

        Args:
            x: rows [n, d] of two columns or more.

        Raises:
            ValueError: x has one column, or no more distinct rows than columns.
        """
        # jax requires scipy; only hulls load this part of it.
        from scipy.spatial import ConvexHull, Delaunay

        x = np.asarray(x, np.float64)
        check_vectors(x)
        if x.shape[1] < 2 or len(np.unique(x, axis=0)) <= x.shape[1]:
            raise ValueError(f"x: expected two or more columns and more distinct rows than columns; got {x.shape}")
        shift, scale = x.mean(0), np.where(np.ptp(x, axis=0) > 0, np.ptp(x, axis=0), 1)
        # In columns with very different units, the facets would be found with poor precision.
        unit = (x - shift) / scale
        hull = ConvexHull(unit)
        corners = unit[hull.vertices]
        normals = hull.equations[:, :-1] / scale
        simplices = corners[Delaunay(corners).simplices] * scale + shift
        log_size = math.log(hull.volume) + np.log(scale).sum()
        return cls(normals, hull.equations[:, -1] - normals @ shift, np.asarray(log_size), simplices)

    def _params(self, k, dtype):
        leaves = (jnp.asarray(leaf, dtype) for leaf in (self.normals, self.offsets, self.log_size, self.simplices))
        return HullParams(*(jnp.broadcast_to(leaf, (k, *leaf.shape)) for leaf in leaves))

    def e_step(self, params: Any, x: Any) -> EStep:
        beyond = jnp.einsum("nd,kfd->nkf", x, params.normals, precision=PRECISION) + params.offsets
        size = jnp.einsum("nd,kfd->nkf", jnp.abs(x), jnp.abs(params.normals)) + jnp.abs(params.offsets)
        inside = (beyond <= ROUNDING * jnp.finfo(x.dtype).eps * size).all(2)
        return EStep(None, jnp.where(inside, -params.log_volume, -jnp.inf))

    def sufficient_statistics(self, resp: Any, x: Any, weights: jax.Array) -> Count:
        return Count(weights.sum(0))

    def maximize(self, stats: Any, params: Any = None) -> HullParams:
        return self._params(stats.count.shape[0], stats.count.dtype)

    def expected_log_joint(self, params: Any, stats: Any) -> jax.Array:
        return -(stats.count * params.log_volume).sum()

    def origin(self, x: Any, params: Any = None) -> Units:
        own = HullParams(self.normals, self.offsets, self.log_size, self.simplices)
        own = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), own)
        return origin_of_rows(own.simplices[0] if x is None else x, HullUnits, (), own)

    def constraints(self) -> HullParams:
        return HullParams(Fixed(), Fixed(), Fixed(), Fixed())

    def sample(self, params: Any, key: jax.Array, n: int) -> Any:
        """n rows of every component, [n, k, d]: a simplex by its volume, then a point in it."""
        keys = jax.random.split(key, len(params.log_volume))
        return jax.vmap(_draw, (0, 0, None), 1)(params.simplices, keys, n)

    def check(self, x: Any, params: Any = None) -> None:
        self.support.check_shape(x)
        if np.shape(self.normals)[1] != x.shape[1]:
            raise ValueError(f"x: the hull has {np.shape(self.normals)[1]} dimensions; got {x.shape[1]} columns")
        super().check(x, params)
        if params is None or is_traced(params, self.log_size):
            return
        if not np.allclose(params.log_volume, self.log_size, rtol=1e-5, atol=1e-5):
            raise ValueError(
                f"start: the hull is the family's own, of log volume {self.log_size}; got {params.log_volume}"
            )


def _draw(corners, key, n):
    """n points [n, d] that are uniform over simplices [s, d + 1, d]."""
    simplex_key, point_key = jax.random.split(key)
    size = jnp.abs(jnp.linalg.det(corners[:, 1:] - corners[:, :1]))
    chosen = jax.random.choice(simplex_key, len(corners), (n,), p=size / size.sum())
    share = jax.random.dirichlet(point_key, jnp.ones(corners.shape[1], corners.dtype), (n,), corners.dtype)
    return jnp.einsum("nc,ncd->nd", share, corners[chosen])
