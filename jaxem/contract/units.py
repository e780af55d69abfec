"""Changes of coordinates as objects: a model's `units` move rows and params to standard units.

Fits run in units in which the data have mean 0 and unit spread, so that floors, starts and float32
do not depend on where the data lie or how they are scaled. A model makes its `Units` from the rows,
and nothing else in the library knows how rows and params are moved.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxem.contract.affine import Affine, module_of
from jaxem.contract.pytree import build, pytree_class, static
from jaxem.inputs.sequences import Sequences, from_time_rows, time_rows, volume_of_sequences


class Units:
    """A change of coordinates of the rows and the params of one model; `Identity` changes nothing.

    `rows` moves rows into these units, and `rows_back` is its inverse; `params` moves params, and
    `back` is its inverse. Densities change by the volume: log p(x) = log p(rows(x)) - log_volume().
    Units that are made on the host hold NumPy arrays of float64, and move NumPy arrays without
    rounding them; units that are made in a compiled program hold arrays of JAX.
    """

    #: Whether the coordinates stay the same.
    is_identity = False

    #: Whether `back` accepts params with leading axes, such as that of restarts.
    broadcasts = True

    def rows(self, x: Any) -> Any:
        """The rows of the data x in these units."""
        raise NotImplementedError(f"{type(self).__name__}.rows")

    def rows_back(self, z: Any) -> Any:
        """The rows of the data from rows z in these units: the inverse of `rows`."""
        raise NotImplementedError(f"{type(self).__name__}.rows_back")

    def params(self, params: Any) -> Any:
        """The params in these units, from params in the data's units."""
        raise NotImplementedError(f"{type(self).__name__}.params")

    def back(self, params: Any) -> Any:
        """The params in the data's units, from params in these units: the inverse of `params`."""
        raise NotImplementedError(f"{type(self).__name__}.back")

    def log_volume(self) -> Any:
        """The log volume log |dx / dz| of one example: one number, or [n] where examples differ."""
        return 0.0

    def loses_digits(self, params: Any) -> bool:
        """Whether rounding params to float32 would change the density visibly.

        Args:
            params: concrete params in the data's units.
        """
        return False

    def model(self, model: Any) -> Any:
        """The model with its hyperparameters moved into these units.

        These are the fields that are declared with `in_data_units()`, of the model and of the model
        that it wraps.
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
        carried = _CARRIED[kind](units, value)
        if carried is not value:
            changed[name] = carried
    if not changed:
        return model
    fields = {name: getattr(model, name) for name in type(model).__dataclass_fields__}
    return build(type(model), {**fields, **changed}.items())


#: How a field of each kind is moved into units: (units, value) -> value.
_CARRIED = {
    "units": lambda units, value: units,
    "params": lambda units, value: units.params(value),
    "model": lambda units, value: units.model(value),
    "part": lambda units, value: units.inner.model(value),
}


def _carried_fields(cls):
    """Pairs (name, kind) of the fields that move with the units; "model" is a wrapped model."""
    fields = getattr(cls, "__dataclass_fields__", {})
    declared = [(name, field.metadata["carried"]) for name, field in fields.items() if field.metadata.get("carried")]
    return [*declared, ("model", "model")] if getattr(cls, "has_params_of_its_model", False) else declared


# --- affine changes of rows of numbers ------------------------------------------------------------


class Role:
    """How one leaf of a family's params moves when rows are moved by an affine map.

    A leaf of this base class does not move.
    """

    def forth(self, affine: Affine, leaf: Any) -> Any:
        """The leaf in the new coordinates of the map."""
        return leaf

    def back(self, affine: Affine, leaf: Any) -> Any:
        """The leaf in the old coordinates of the map."""
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
    """A leaf that moves by a power of the columns' scales.

    Args:
        power: the power of the scale in the units of the leaf.
        after: the number of axes of the leaf after that of the columns.
    """

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


#: The role of a mean [..., d], which moves like a row.
LOCATION = _Location()
#: The role of a covariance [..., d, d], or of variances [..., d] or [...]; see `Affine.cov_forth`.
COVARIANCE = _Covariance()
#: The role of variances: one for each column [..., d], or one for all columns [...].
VARIANCE = _Power(2)
#: The role of loadings [..., d, q], where each of the d rows has the scale of its column.
LOADINGS = _Power(1, after=1)
#: The role of a rate, which has the units of one over a scale.
RATE = _Power(-1)
#: The role of a mean of log x.
LOG_LOCATION = _LogLocation()
#: The role of a number without units.
UNITLESS = Role()


@pytree_class
class AffineUnits(Units):
    """The units of a family whose rows are numbers or vectors.

    Attributes:
        affine: the map of the rows.
        roles: a tuple like params, with the `Role` of each leaf.
    """

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
        """True where means lie far from 0, in standard deviations, or correlations are near 1."""
        found = dict(zip(self.roles, (np.asarray(leaf, np.float64) for leaf in params), strict=True))
        spread = [_smallest_deviation(role, leaf) for role, leaf in found.items() if role in (COVARIANCE, VARIANCE)]
        if LOCATION not in found or not spread:
            return False
        deviation, condition = (min(values) for values in zip(*spread, strict=True))
        far = np.abs(found[LOCATION]).max(initial=0) * ROUNDING > VISIBLE * deviation
        return bool(far or VISIBLE * condition < ROUNDING)


#: The largest rounding error of a float32 number, relative to the number.
ROUNDING = 2.0**-24

#: An error of a mean by this share of a standard deviation changes log p(x) of a row that is one
#: standard deviation away by 1e-4 nats.
VISIBLE = 1e-4


def _smallest_deviation(role, leaf):
    """(smallest standard deviation in any direction, smallest eigenvalue of correlations)."""
    if role is COVARIANCE and leaf.ndim >= 2 and leaf.shape[-1] == leaf.shape[-2]:
        scale = np.sqrt(np.diagonal(leaf, axis1=-2, axis2=-1))
        unit = leaf / (scale[..., :, None] * scale[..., None, :])
        if not np.isfinite(unit).all():
            return 0.0, 1.0
        smallest = max(float(np.linalg.eigvalsh(unit).min()), 0.0)
        return float(scale.min()) * smallest**0.5, smallest
    return float(np.sqrt(leaf.min())) if leaf.size else np.inf, 1.0


# --- units of models that are made of parts -------------------------------------------------------


@pytree_class
class FieldUnits(Units):
    """The units of a model that has the rows of one of its parts.

    Attributes:
        inner: the units of the part.
        field: the name of the field of the model's params that holds the params of the part.
    """

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
    """The units of k copies of a model side by side, whose params have a leading axis k.

    Attributes:
        inner: the units of one copy, which are the same for all.
    """

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
    """The results of function(tree) for every entry of the leading axis of `trees`, stacked.

    Trees of NumPy arrays stay on the host, and so keep their float64.
    """
    leaves = jax.tree.leaves(trees)
    if not all(isinstance(leaf, np.ndarray) for leaf in leaves):
        return jax.vmap(function)(trees)
    each = [function(jax.tree.map(lambda leaf, j=j: leaf[j], trees)) for j in range(len(leaves[0]))]
    return jax.tree.map(lambda *rows: np.stack(rows), *each)


@pytree_class
class SequenceUnits(Units):
    """The units of sequences, where every observation changes the density.

    Attributes:
        inner: the units of single observations.
        lengths: the length of each sequence, [n].
    """

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
        # Values [n, t, ...] by themselves move along their last axes.
        if not isinstance(z, Sequences):
            return self.inner.rows_back(z)
        return z._replace(values=from_time_rows(self.inner.rows_back(time_rows(z)), *z.shape))

    def params(self, params: Any) -> Any:
        return self.inner.params(params)

    def back(self, params: Any) -> Any:
        return self.inner.back(params)

    def model(self, model: Any) -> Any:
        return self.inner.model(model)

    def log_volume(self) -> Any:
        return volume_of_sequences(self.lengths, self.inner.log_volume())

    def loses_digits(self, params: Any) -> bool:
        return self.inner.loses_digits(params)
