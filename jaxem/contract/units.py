"""Coordinates as objects: a model's `units` carry rows and params into standard units, and back.

Fits run in units in which the data have mean 0 and unit spread, so that floors, starts and float32 do not depend on
where the data lie or how they are scaled. A model makes its `Units` from the rows, and nothing else in the library
knows how rows and params are moved.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxem.contract.affine import Affine, module_of
from jaxem.contract.pytree import build, pytree_class, static
from jaxem.inputs.sequences import Sequences, from_time_rows, time_rows, volume_of_sequences


class Units:
    """A change of coordinates of the rows and the params of one model. `Identity` changes nothing.

    Rows move by `rows` and come back by `rows_back`, params move by `params` and come back by `back`. Densities change
    by the volume: log p(x) = log p(rows(x)) - log_volume(). Units made on the host hold NumPy arrays of float64, and
    then move NumPy arrays without rounding them; units made in a compiled program hold arrays of JAX.
    """

    #: Whether nothing is changed.
    is_identity = False

    #: Whether `back` takes params with leading axes (restarts) as they are.
    broadcasts = True

    def rows(self, x: Any) -> Any:
        """Rows of the data in these units."""
        raise NotImplementedError(f"{type(self).__name__}.rows")

    def rows_back(self, z: Any) -> Any:
        """Rows in these units as rows of the data: the inverse of `rows`."""
        raise NotImplementedError(f"{type(self).__name__}.rows_back")

    def params(self, params: Any) -> Any:
        """Params of the data in these units."""
        raise NotImplementedError(f"{type(self).__name__}.params")

    def back(self, params: Any) -> Any:
        """Params in these units as params of the data: the inverse of `params`."""
        raise NotImplementedError(f"{type(self).__name__}.back")

    def log_volume(self) -> Any:
        """log |dx / dz| of one example: one number, or [n] where examples differ."""
        return 0.0

    def loses_digits(self, params: Any) -> bool:
        """Whether concrete params of the data, rounded to float32, stand for a visibly different density."""
        return False

    def model(self, model: Any) -> Any:
        """`model` with those of its hyperparameters that have units carried into these.

        They are the fields declared with `in_data_units()`, of the model and of what it wraps.
        """
        return _carried(model, self)


class Identity(Units):
    """The units of the data themselves."""

    is_identity = True

    def rows(self, x: Any) -> Any:
        return x

    def rows_back(self, z: Any) -> Any:
        return z

    def params(self, params: Any) -> Any:
        return params

    def back(self, params: Any) -> Any:
        return params

    @property
    def inner(self) -> Any:
        return self

    def model(self, model: Any) -> Any:
        return model


jax.tree_util.register_static(Identity)
Identity.__eq__ = lambda self, other: isinstance(other, Identity)
Identity.__hash__ = lambda self: hash(Identity)


def _carried(model, units):
    changed = {}
    for name, kind in _carried_fields(type(model)):
        value = getattr(model, name)
        changed[name] = units if kind == "units" else units.params(value) if kind == "params" else units.model(value)
    if not changed:
        return model
    fields = {name: getattr(model, name) for name in type(model).__dataclass_fields__}
    return build(type(model), {**fields, **changed}.items())


def _carried_fields(cls):
    """(name, kind) of the fields that move with the units: "params", "units", or "model" for a wrapped model."""
    fields = getattr(cls, "__dataclass_fields__", {})
    declared = [(name, field.metadata["carried"]) for name, field in fields.items() if field.metadata.get("carried")]
    return [*declared, ("model", "model")] if getattr(cls, "has_params_of_its_model", False) else declared


# --- affine changes of rows of numbers ------------------------------------------------------------------------------


class Role:
    """How one leaf of a family's params moves when rows are moved by an affine map."""

    def forth(self, affine: Affine, leaf: Any) -> Any:
        return leaf

    def back(self, affine: Affine, leaf: Any) -> Any:
        return leaf


class _Location(Role):
    def forth(self, affine: Affine, leaf: Any) -> Any:
        return affine.forth(leaf)

    def back(self, affine: Affine, leaf: Any) -> Any:
        return affine.back(leaf)


class _Covariance(Role):
    def forth(self, affine: Affine, leaf: Any) -> Any:
        return affine.cov_forth(leaf)

    def back(self, affine: Affine, leaf: Any) -> Any:
        return affine.cov_back(leaf)


class _Power(Role):
    """A leaf that is multiplied by a power of the columns' scales; its last `after` axes come after the columns."""

    def __init__(self, power: Any, after: Any = 0) -> None:
        self.power, self.after = power, after

    def _factor(self, affine):
        scale = affine.scale
        return scale.reshape(np.shape(scale) + (1,) * (self.after if np.ndim(scale) else 0)) ** self.power

    def forth(self, affine: Affine, leaf: Any) -> Any:
        return leaf / self._factor(affine)

    def back(self, affine: Affine, leaf: Any) -> Any:
        return leaf * self._factor(affine)


class _LogLocation(Role):
    def forth(self, affine: Affine, leaf: Any) -> Any:
        return leaf - module_of(affine.scale).log(affine.scale)

    def back(self, affine: Affine, leaf: Any) -> Any:
        return leaf + module_of(affine.scale).log(affine.scale)


#: A mean [..., d]: it moves as rows do.
LOCATION = _Location()
#: A covariance [..., d, d], or variances [..., d] or [...], as `Affine.cov_forth` takes them.
COVARIANCE = _Covariance()
#: Variances [..., d], or [...] of all columns.
VARIANCE = _Power(2)
#: Loadings [..., d, q]: each row has the scale of its column.
LOADINGS = _Power(1, after=1)
#: One over a scale.
RATE = _Power(-1)
#: The mean of log x.
LOG_LOCATION = _LogLocation()
#: A number without units.
UNITLESS = Role()


@pytree_class
class AffineUnits(Units):
    """The units of a family whose rows are numbers or vectors: an `Affine` map, and the role of each leaf of params."""

    affine: Affine
    roles: Any = static()

    def rows(self, x: Any) -> Any:
        return self.affine.forth(x)

    def rows_back(self, z: Any) -> Any:
        return self.affine.back(z)

    def params(self, params: Any) -> Any:
        return self._moved("forth", params)

    def back(self, params: Any) -> Any:
        return self._moved("back", params)

    def _moved(self, way, params):
        leaves = (getattr(role, way)(self.affine, leaf) for role, leaf in zip(self.roles, params, strict=True))
        return type(params)(*leaves)

    def log_volume(self) -> Any:
        return self.affine.log_volume()

    def loses_digits(self, params: Any) -> bool:
        """By how far the means lie from 0, in standard deviations of a component, and by its correlations."""
        found = dict(zip(self.roles, (np.asarray(leaf, np.float64) for leaf in params), strict=True))
        spread = [_smallest_deviation(role, leaf) for role, leaf in found.items() if role in (COVARIANCE, VARIANCE)]
        if LOCATION not in found or not spread:
            return False
        deviation, condition = (min(values) for values in zip(*spread, strict=True))
        far = np.abs(found[LOCATION]).max(initial=0) * ROUNDING > VISIBLE * deviation
        return bool(far or VISIBLE * condition < ROUNDING)


#: Rounding of a float32 number, relative to it.
ROUNDING = 2.0**-24

#: Means that are off by this share of a standard deviation change log p(x) of a row by 1e-4 nats at one deviation.
VISIBLE = 1e-4


def _smallest_deviation(role, leaf):
    """(the smallest standard deviation in any direction, the smallest eigenvalue of a correlation matrix)."""
    if role is COVARIANCE and leaf.ndim >= 2 and leaf.shape[-1] == leaf.shape[-2]:
        scale = np.sqrt(np.diagonal(leaf, axis1=-2, axis2=-1))
        unit = leaf / (scale[..., :, None] * scale[..., None, :])
        if not np.isfinite(unit).all():
            return 0.0, 1.0
        smallest = max(float(np.linalg.eigvalsh(unit).min()), 0.0)
        return float(scale.min()) * smallest**0.5, smallest
    return float(np.sqrt(leaf.min())) if leaf.size else np.inf, 1.0


# --- units of what is made of parts ---------------------------------------------------------------------------------


@pytree_class
class FieldUnits(Units):
    """The units of a model whose rows are those of a part, and whose params have the part's in one field."""

    inner: Units
    field: str = static()

    @property
    def broadcasts(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.broadcasts

    @property
    def is_identity(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.is_identity

    def rows(self, x: Any) -> Any:
        return self.inner.rows(x)

    def rows_back(self, z: Any) -> Any:
        return self.inner.rows_back(z)

    def params(self, params: Any) -> Any:
        return params._replace(**{self.field: self.inner.params(getattr(params, self.field))})

    def back(self, params: Any) -> Any:
        return params._replace(**{self.field: self.inner.back(getattr(params, self.field))})

    def log_volume(self) -> Any:
        return self.inner.log_volume()

    def loses_digits(self, params: Any) -> bool:
        return self.inner.loses_digits(getattr(params, self.field))


@pytree_class
class Copies(Units):
    """The units of k copies of a model side by side, whose params have a leading axis k: the same for all copies."""

    inner: Units

    @property
    def broadcasts(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.broadcasts

    @property
    def is_identity(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.is_identity

    def rows(self, x: Any) -> Any:
        return self.inner.rows(x)

    def rows_back(self, z: Any) -> Any:
        return self.inner.rows_back(z)

    def params(self, params: Any) -> Any:
        return each_copy(self.inner.params, params)

    def back(self, params: Any) -> Any:
        return each_copy(self.inner.back, params)

    def log_volume(self) -> Any:
        return self.inner.log_volume()

    def loses_digits(self, params: Any) -> bool:
        k = len(jax.tree.leaves(params)[0])
        return any(self.inner.loses_digits(jax.tree.map(lambda leaf, j=j: leaf[j], params)) for j in range(k))


def each_copy(function: Callable, trees: Any) -> Any:
    """function(tree) of every entry of the leading axis; on the host, where that is float64, without JAX."""
    leaves = jax.tree.leaves(trees)
    if not all(isinstance(leaf, np.ndarray) for leaf in leaves):
        return jax.vmap(function)(trees)
    each = [function(jax.tree.map(lambda leaf, j=j: leaf[j], trees)) for j in range(len(leaves[0]))]
    return jax.tree.map(lambda *rows: np.stack(rows), *each)


@pytree_class
class SequenceUnits(Units):
    """The units of single observations, and the length of each sequence [n]: every observation changes the density."""

    inner: Units
    lengths: Any

    @property
    def broadcasts(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.broadcasts

    @property
    def is_identity(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.is_identity

    def rows(self, x: Sequences) -> Any:
        return x._replace(values=from_time_rows(self.inner.rows(time_rows(x)), *x.shape))

    def rows_back(self, z: Any) -> Any:
        if not isinstance(z, Sequences):  # values [n, t, ...] by themselves: what moves are their last axes
            return self.inner.rows_back(z)
        return z._replace(values=from_time_rows(self.inner.rows_back(time_rows(z)), *z.shape))

    def params(self, params: Any) -> Any:
        return self.inner.params(params)

    def back(self, params: Any) -> Any:
        return self.inner.back(params)

    def log_volume(self) -> Any:
        return volume_of_sequences(self.lengths, self.inner.log_volume())

    def loses_digits(self, params: Any) -> bool:
        return self.inner.loses_digits(params)
