"""Where parameters live, and the unconstrained coordinates of each place.

A model's `constraints()` is a tree of these objects shaped like its params. Any real vector maps to valid
parameters (`constrain`), and back (`unconstrain`): that is what gradient fits, standard errors and the safeguards
of inexact steps work in.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.numerics import linalg


class Constraint:
    """One kind of place. `to_params(u)` and `to_free(value)` are inverse to each other."""

    #: How many trailing axes of a leaf make one place (a matrix has 2); the axes before them number places.
    event_ndim = 0

    def to_params(self, free: Any) -> Any:
        raise NotImplementedError

    def to_free(self, value: Any) -> Any:
        raise NotImplementedError

    def n_free(self, shape: Any) -> int:
        """Degrees of freedom of a leaf of this shape."""
        raise NotImplementedError

    def moves(self, free: Any) -> Any:
        """A tree like `free`: which coordinates a fit may move."""
        return jnp.ones_like(free, bool)

    def holds(self, value: Any) -> Any:
        """Whether (a traced bool) a leaf lies here, as far as comparisons of its entries tell."""
        return jnp.isfinite(value).all()

    def violation(self, value: Any) -> str | None:
        """What is wrong with a concrete leaf, or None (host side)."""
        return None if np.isfinite(value).all() else "is not finite"


@dataclasses.dataclass(frozen=True)
class Real(Constraint):
    """Any real number."""

    def to_params(self, free: Any) -> Any:
        return free

    def to_free(self, value: Any) -> Any:
        return value

    def n_free(self, shape: Any) -> int:
        return int(np.prod(shape))


@dataclasses.dataclass(frozen=True)
class Positive(Constraint):
    """value = floor + exp(u)."""

    floor: float = 0.0

    def to_params(self, free: Any) -> Any:
        return self.floor + jnp.exp(free)

    def to_free(self, value: Any) -> Any:
        return jnp.log(jnp.maximum(value - self.floor, jnp.finfo(value.dtype).tiny))

    def n_free(self, shape: Any) -> int:
        return int(np.prod(shape))

    def holds(self, value: Any) -> Any:
        return super().holds(value) & (value > 0).all()

    def violation(self, value: Any) -> Any:
        return super().violation(value) or (None if (value > 0).all() else "is not positive")


@dataclasses.dataclass(frozen=True)
class NonNegative(Positive):
    """Positive, or exactly 0 (a boundary that exp(u) reaches only in the limit)."""

    def holds(self, value: Any) -> Any:
        return Constraint.holds(self, value) & (value >= 0).all()

    def violation(self, value: Any) -> Any:
        return Constraint.violation(self, value) or (None if (value >= 0).all() else "is negative")


@dataclasses.dataclass(frozen=True)
class UnitInterval(Constraint):
    """A probability: value = 1 / (1 + exp(-u))."""

    def to_params(self, free: Any) -> Any:
        return jax.nn.sigmoid(free)

    def to_free(self, value: Any) -> Any:
        tiny = jnp.finfo(value.dtype).tiny
        return jnp.log(jnp.maximum(value, tiny)) - jnp.log(jnp.maximum(1 - value, tiny))

    def n_free(self, shape: Any) -> int:
        return int(np.prod(shape))

    def holds(self, value: Any) -> Any:
        return super().holds(value) & ((value >= 0) & (value <= 1)).all()

    def violation(self, value: Any) -> Any:
        return super().violation(value) or (None if ((value >= 0) & (value <= 1)).all() else "is outside [0, 1]")


@dataclasses.dataclass(frozen=True)
class Simplex(Constraint):
    """Probabilities along the last axis: value = softmax([u, 0])."""

    event_ndim = 1

    def to_params(self, free: Any) -> Any:
        return jax.nn.softmax(jnp.concatenate([free, jnp.zeros((*free.shape[:-1], 1), free.dtype)], -1), -1)

    def to_free(self, value: Any) -> Any:
        logs = jnp.log(jnp.maximum(value, jnp.finfo(value.dtype).tiny))
        return logs[..., :-1] - logs[..., -1:]

    def n_free(self, shape: Any) -> int:
        return int(np.prod(shape[:-1])) * (shape[-1] - 1)

    def holds(self, value: Any) -> Any:
        return super().holds(value) & (value >= 0).all()

    def violation(self, value: Any) -> Any:
        if problem := super().violation(value):
            return problem
        if (value < 0).any():
            return "has negative entries"
        total = value.sum(-1)
        # Those of a float32 fit are good for float64 data too.
        close = np.abs(total - 1) <= max(1e3 * np.finfo(value.dtype).eps, 1e-6)
        return None if close.all() else f"sums to {float(total.flat[np.argmin(close)]):.6g}, not 1"


@dataclasses.dataclass(frozen=True)
class Loadings(Real):
    """Matrices [..., d, q] that are the same model after any rotation of their columns."""

    def n_free(self, shape: Any) -> int:
        q = shape[-1]
        return super().n_free(shape) - int(np.prod(shape[:-2])) * (q * (q - 1) // 2)


@dataclasses.dataclass(frozen=True)
class PositiveDefinite(Constraint):
    """Symmetric positive definite matrices: value = floor I + L L^T, L lower triangular with exp(u) on its diagonal."""

    floor: float = 0.0

    event_ndim = 2

    def to_params(self, free: Any) -> Any:
        lower = linalg.unpack_lower(free)
        diagonal = jnp.diagonal(lower, axis1=-2, axis2=-1)
        eye = jnp.eye(lower.shape[-1], dtype=lower.dtype)
        lower = lower + eye * (jnp.exp(diagonal) - diagonal)[..., None, :]
        return lower @ jnp.swapaxes(lower, -1, -2) + self.floor * eye

    def to_free(self, value: Any) -> Any:
        eye = jnp.eye(value.shape[-1], dtype=value.dtype)
        lower = linalg.cholesky(value - self.floor * eye)
        diagonal = jnp.diagonal(lower, axis1=-2, axis2=-1)
        return linalg.pack_lower(lower + eye * (jnp.log(diagonal) - diagonal)[..., None, :])

    def n_free(self, shape: Any) -> int:
        return int(np.prod(shape[:-2])) * shape[-1] * (shape[-1] + 1) // 2

    def holds(self, value: Any) -> Any:
        return super().holds(value) & (jnp.diagonal(value, axis1=-2, axis2=-1) > 0).all()

    def violation(self, value: Any) -> Any:
        if problem := super().violation(value):
            return problem
        if value.ndim < 2 or value.shape[-1] != value.shape[-2]:
            return f"has shape {value.shape}, not square matrices"
        eps = np.finfo(value.dtype).eps
        value = np.asarray(value, np.float64)  # eigenvalues computed in float32 may be off by more than they are
        scale = np.sqrt(np.abs(np.diagonal(value, axis1=-2, axis2=-1)))
        unit = value / np.maximum(scale[..., :, None] * scale[..., None, :], np.finfo(np.float64).tiny)
        if np.abs(unit - np.swapaxes(unit, -1, -2)).max() > max(1e4 * eps, 1e-6):
            return "is not symmetric"
        smallest = np.linalg.eigvalsh(unit).min(-1)
        if (smallest > 0).all():
            return None
        where = np.argwhere(np.atleast_1d(smallest <= 0))[0]
        return f"is not positive definite{f' (component {int(where[0])})' if value.ndim > 2 else ''}"


@dataclasses.dataclass(frozen=True)
class Fixed(Constraint):
    """A leaf that fits do not move; `place` is where it has to lie."""

    place: Constraint = Real()

    @property
    def event_ndim(self) -> Any:
        return self.place.event_ndim

    def moves(self, free: Any) -> Any:
        return jnp.zeros_like(free, bool)

    def to_params(self, free: Any) -> Any:
        return jax.lax.stop_gradient(free)

    def to_free(self, value: Any) -> Any:
        return value

    def n_free(self, shape: Any) -> int:
        return 0

    def holds(self, value: Any) -> Any:
        return self.place.holds(value)

    def violation(self, value: Any) -> Any:
        return self.place.violation(value)


def _is_constraint(node):
    return isinstance(node, Constraint)


def constrain(model: Any, free: Any) -> Any:
    """Parameters from unconstrained coordinates."""
    return jax.tree.map(lambda c, u: c.to_params(u), model.constraints(), free, is_leaf=_is_constraint)


def unconstrain(model: Any, params: Any) -> Any:
    """Unconstrained coordinates of parameters."""
    return jax.tree.map(lambda c, p: c.to_free(p), model.constraints(), params, is_leaf=_is_constraint)


def movable(model: Any, free: Any) -> Any:
    """A tree like the unconstrained coordinates `free`: which of them a fit may move."""
    return jax.tree.map(lambda c, u: c.moves(u), model.constraints(), free, is_leaf=_is_constraint)


def inside(model: Any, params: Any) -> Any:
    """Whether (a traced bool) params lie where they have to: what an extrapolation may fail to do."""
    found = jax.tree.map(lambda c, p: c.holds(p), model.constraints(), params, is_leaf=_is_constraint)
    return jnp.stack(jax.tree.leaves(found)).all()


def n_free_params(model: Any, params: Any) -> int:
    """Degrees of freedom of `params`: the number of unconstrained coordinates that a fit may move.

    >>> import jaxem, jax
    >>> model = jaxem.gaussian_mixture(3, covariance="tied")
    >>> params = model.init(jax.random.key(0), jaxem.datasets.old_faithful())
    >>> jaxem.n_free_params(model, params)              # 2 weights + 6 means + 3 covariance entries
    11
    """
    sizes = jax.tree.map(lambda c, p: c.n_free(jnp.shape(p)), model.constraints(), params, is_leaf=_is_constraint)
    return sum(jax.tree.leaves(sizes))


def violations(model: Any, params: Any) -> Any:
    """[(path, message)] for every leaf of concrete params outside its constraint (host side)."""
    tree = jax.tree.map(
        lambda c, p: c.violation(np.asarray(p)) or "", model.constraints(), params, is_leaf=_is_constraint
    )
    found = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path), message) for path, message in found if message]
