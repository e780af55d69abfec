"""Constraints: the values that each param may take, and unconstrained coordinates for them.

A model's `constraints()` is a tree of these objects shaped like its params. `constrain` maps any
real vector to valid params, and `unconstrain` maps params back. Gradient fits, standard errors and
the safeguards of inexact steps work in these coordinates.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.numerics import linalg


class Constraint:
    """A set of allowed values. `to_params` and `to_free` are inverse to each other."""

    #: The number of trailing axes of a leaf that make one value (0 for numbers, 2 for matrices).
    #: The axes before them number such values.
    event_ndim = 0

    def to_params(self, free: Any) -> Any:
        """The value of a leaf from its unconstrained coordinates."""
        raise NotImplementedError

    def to_free(self, value: Any) -> Any:
        """The unconstrained coordinates of a leaf: the inverse of `to_params`."""
        raise NotImplementedError

    def n_free(self, shape: Any) -> int:
        """The number of degrees of freedom of a leaf of this shape."""
        raise NotImplementedError

    def moves(self, free: Any) -> Any:
        """Which of the coordinates `free` a fit may move: a tree of bool like `free`."""
        return jnp.ones_like(free, bool)

    def holds(self, value: Any) -> Any:
        """Whether a leaf satisfies the constraint, as far as comparisons of its entries show.

        The leaf may be traced; the result is an array of bool [].
        """
        return jnp.isfinite(value).all()

    def violation(self, value: Any) -> str | None:
        """How a concrete leaf violates the constraint, as the end of a sentence, or None.

        It is computed on the host.
        """
        return None if np.isfinite(value).all() else "is not finite"


@dataclasses.dataclass(frozen=True)
class Real(Constraint):
    """Any real number: value = u."""

    def to_params(self, free: Any) -> Any:
        return free

    def to_free(self, value: Any) -> Any:
        return value

    def n_free(self, shape: Any) -> int:
        return int(np.prod(shape))


@dataclasses.dataclass(frozen=True)
class Positive(Constraint):
    """A positive number: value = floor + exp(u)."""

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
    """A positive number or 0, which exp(u) reaches in the limit only."""

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
        # Probabilities from a float32 fit are accepted for float64 data too.
        close = np.abs(total - 1) <= max(1e3 * np.finfo(value.dtype).eps, 1e-6)
        return None if close.all() else f"sums to {float(total.flat[np.argmin(close)]):.6g}, not 1"


@dataclasses.dataclass(frozen=True)
class Loadings(Real):
    """Matrices [..., d, q] for which any rotation of the columns gives the same model.

    Therefore q (q - 1) / 2 entries of each matrix are not degrees of freedom.
    """

    def n_free(self, shape: Any) -> int:
        q = shape[-1]
        return super().n_free(shape) - int(np.prod(shape[:-2])) * (q * (q - 1) // 2)


@dataclasses.dataclass(frozen=True)
class PositiveDefinite(Constraint):
    """Symmetric positive definite matrices [..., d, d]: value = floor I + L L^T.

    L is lower triangular, with u below the diagonal and exp(u) on it.
    """

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
        # Eigenvalues that are computed in float32 may have errors larger than the eigenvalues.
        value = np.asarray(value, np.float64)
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
    """A leaf that fits do not move; `place` is the constraint that its values have to satisfy."""

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
    """Params from their unconstrained coordinates.

    Args:
        model: a model or family.
        free: a tree such as `unconstrain` returns.
    """
    return jax.tree.map(lambda c, u: c.to_params(u), model.constraints(), free, is_leaf=_is_constraint)


def unconstrain(model: Any, params: Any) -> Any:
    """The unconstrained coordinates of params, a tree like the model's `constraints()`.

    Args:
        model: a model or family.
        params: its params.
    """
    return jax.tree.map(lambda c, p: c.to_free(p), model.constraints(), params, is_leaf=_is_constraint)


def movable(model: Any, free: Any) -> Any:
    """Which of the unconstrained coordinates `free` a fit may move: a tree of bool like `free`."""
    return jax.tree.map(lambda c, u: c.moves(u), model.constraints(), free, is_leaf=_is_constraint)


def inside(model: Any, params: Any) -> Any:
    """Whether params satisfy all constraints, which extrapolated params may not do.

    The params may be traced; the result is an array of bool [].
    """
    found = jax.tree.map(lambda c, p: c.holds(p), model.constraints(), params, is_leaf=_is_constraint)
    return jnp.stack(jax.tree.leaves(found)).all()


def n_free_params(model: Any, params: Any) -> int:
    """The number of degrees of freedom of a model: the coordinates that a fit may move.

    Args:
        model: a model or family.
        params: its params, for their shapes.

    Examples:
        >>> import jaxem, jax
        >>> model = jaxem.gaussian_mixture(3, covariance="tied")
        >>> params = model.init(jax.random.key(0), jaxem.datasets.old_faithful())
        >>> jaxem.n_free_params(model, params)  # 2 weights + 6 means + 3 covariance entries
        11
    """
    sizes = jax.tree.map(lambda c, p: c.n_free(jnp.shape(p)), model.constraints(), params, is_leaf=_is_constraint)
    return sum(jax.tree.leaves(sizes))


def violations(model: Any, params: Any) -> list[tuple[str, str]]:
    """The leaves of concrete params that violate their constraints; computed on the host.

    Returns:
        A list of pairs (path of the leaf, message).
    """
    tree = jax.tree.map(
        lambda c, p: c.violation(np.asarray(p)) or "", model.constraints(), params, is_leaf=_is_constraint
    )
    found = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path), message) for path, message in found if message]
