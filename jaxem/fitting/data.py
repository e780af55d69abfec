"""The data of a fit: checked rows and weights in one dtype, on one device or sharded over many."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from numpy.typing import ArrayLike

from jaxem.contract.arguments import as_params, check_batch, check_model, check_values, n_starts
from jaxem.contract.frame import Frame
from jaxem.contract.units import Identity
from jaxem.engine.result import PROPER
from jaxem.inputs import arrays
from jaxem.numerics.devices import mesh_placement, on_mesh, placement_of, some_rows
from jaxem.numerics.tracing import is_traced


def join_labels(model: Any, x: Any, labels: Any) -> tuple[Any, Any]:
    """Join labels to the rows, if there are any.

    Args:
        model: a model.
        x: rows [n, ...].
        labels: what is known of the hidden values (see `jaxem.fit`), or None.

    Returns:
        (a model for labelled rows, the labelled rows); without labels, the model and x as given.

    Raises:
        ValueError: the model has no hidden values that labels could name.
    """
    check_model(model)
    if labels is None:
        return model, x
    try:
        return model.labelled(x, labels)
    except NotImplementedError:
        raise ValueError(
            f"labels: expected a model with hidden values that labels can name; got {type(model).__name__}"
        ) from None


class Data:
    """Checked rows and weights of a fit.

    Rows on the host are moved into the frame before they are rounded and placed on the device. This
    happens when `x` is read for the first time; until then `choose_frame` may change the frame.

    Args:
        model: the model.
        rows: the checked rows [n, ...].
        weights: the checked weights [n].
        dtype: the dtype of the fit.
        traced: whether rows or weights must be left as they are: they are traced, or they are
            sharded over devices.
    """

    def __init__(self, model: Any, rows: Any, weights: Any, dtype: Any, traced: bool = False) -> None:
        self.model, self.dtype, self.n, self.placement = model, dtype, arrays.n_rows(rows), None
        self.frame = Frame(Identity(), dtype)
        self.on_host = not traced and all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(rows))
        if not traced and model.additive:  # Without additive statistics, a padded row would count.
            rows, weights = arrays.pad_rows(rows, weights, arrays.bucket(self.n))
        self.rows, self.weights = rows, arrays.on_device(weights, dtype)

    def choose_frame(self, start: Any = None) -> None:
        """Choose the frame for the rows and a start, if both are on the host."""
        if self.on_host and not is_traced(start):
            self.frame = Frame.of(self.model, self.rows, start, self.dtype)

    @property
    def inner(self) -> Any:
        """The model with its hyperparameters in the frame."""
        return self.frame.model(self.model)

    @functools.cached_property
    def x(self) -> Any:
        """The rows in the frame, on the device."""
        return self.frame.rows(self.rows)

    def result_back(self, result: Any) -> Any:
        """The result of a fit in the frame, or of many with a leading axis, in the data's units."""
        if not self.frame.moves:
            return result
        batch = bool(np.ndim(result.status))
        judged = np.isin(result.status, PROPER) if batch else None
        params = self.frame.params_back(result.params, batch, judged)
        totals = {name: getattr(result, name) for name in ("log_lik", "objective", "history")}
        totals = {name: self.frame.total_back(value, self.weights) for name, value in totals.items()}
        return result._replace(params=params, **totals)


def check_data(model: Any, x: Any, weights: Any, tol: Any, max_steps: Any, chunk_size: Any) -> Data:
    """Check the data and the options of a fit, as far as their values are known.

    Args:
        model: the model.
        x: rows [n, ...].
        weights: sample weights [n], or None.
        tol: the option of `jaxem.fit`.
        max_steps: the option of `jaxem.fit`.
        chunk_size: the option of `jaxem.fit`.

    Returns:
        The data of the fit.

    Raises:
        ValueError: an argument is not usable; the message names it.
    """
    check_model(model)
    arrays.check_number("tol", tol, 0)
    arrays.check_number("max_steps", max_steps, 0, whole=True, maximum=2**31 - 1)
    if chunk_size is not None:
        arrays.check_concrete("chunk_size", chunk_size)
        arrays.check_number("chunk_size", chunk_size, 1, whole=True)
    for name, value in (("weights", weights), ("chunk_size", chunk_size)):
        if value is not None and not model.additive:
            raise ValueError(f"{name}: from_steps has no additive statistics; write a Model to use {name}")
    x = arrays.on_host(model.rows(x))
    if (placement := placement_of(x)) and model.additive:
        return spread_data(model, x, weights, placement)
    wide = np.result_type(*(leaf.dtype for leaf in jax.tree.leaves(x)))
    dtype = jax.dtypes.canonicalize_dtype(wide)
    traced = is_traced(x)
    if not traced:
        model.check_finite(x)
    model.check(x)
    weights = arrays.as_weights(weights, arrays.n_rows(x), dtype)
    model.check_fit(x, weights, dtype)
    data = Data(model, x, weights, dtype, traced or is_traced(weights))
    if wide != dtype:
        data.choose_frame()
    return data


def spread_data(model: Any, x: Any, weights: Any, placement: Any) -> Data:
    """The data of a fit whose rows lie on many devices and stay there.

    The checks of the model look at `SPREAD_SAMPLE` rows at most.

    Args:
        model: the model.
        x: the rows [n, ...], sharded over devices.
        weights: sample weights [n], or None.
        placement: how the rows are sharded.
    """
    dtype = jax.tree.leaves(x)[0].dtype
    x = on_mesh(x, placement, placement.of_rows)
    if not hasattr(weights, "sharding"):
        given = arrays.as_weights(weights, arrays.n_rows(x), dtype)
        weights = jax.device_put(given, NamedSharding(placement.mesh, placement.of_rows))
    weights = on_mesh(weights, placement, placement.of_rows)
    finite, positive = _sound(x, weights)
    if not positive:
        raise ValueError("weights: expected finite numbers of at least 0, and not all 0")
    sample = some_rows(x, weights, SPREAD_SAMPLE, placement)
    if not finite and not _takes_missing(model, sample):
        raise ValueError("x: some rows hold NaN or infinite values")
    model.check(sample)
    model.check_fit(sample, np.ones(arrays.n_rows(sample), dtype), dtype)
    data = Data(model, x, weights, dtype, traced=True)
    data.placement = placement
    return data


def _takes_missing(model, rows) -> bool:
    """Whether the model accepts NaN in its rows."""
    try:
        model.check_finite(jax.tree.map(lambda leaf: np.full_like(leaf[:1], np.nan), rows))
    except ValueError:
        return False
    return True


#: How many rows the checks of a model look at where the rows are sharded over devices.
SPREAD_SAMPLE = 1 << 14


@jax.jit
def _sound(x, weights):
    """Whether all rows of positive weight are finite, and whether the weights are valid."""
    finite = [
        jnp.isfinite(jnp.where(weights.reshape(-1, *[1] * (leaf.ndim - 1)) > 0, leaf, 0)).all()
        for leaf in jax.tree.leaves(x)
    ]
    return jnp.stack(finite).all(), jnp.isfinite(weights).all() & (weights >= 0).all() & (weights.sum() > 0)


def check_start(model: Any, start: Any, data: Data, batch: bool = False) -> Any:
    """Check `start` and move it into the frame of the data, in their dtype.

    A start on the host takes part in the choice of the frame.

    Args:
        model: the model.
        start: params.
        data: the data of the fit.
        batch: whether the leaves of `start` have a leading axis of starts.
    """
    if is_traced(start):
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, data.dtype), start)
    start = as_params(model, start, "start")
    if batch:
        n_starts(start, "start")
    one = jax.tree.map(lambda leaf: leaf[0], start) if batch else start
    if data.placement is None:
        model.check(data.rows, one)
    (check_batch if batch else check_values)(model, start, "start")
    data.choose_frame(one)
    return data.frame.params(start)


def shard_rows(x: Any, mesh: Mesh, weights: ArrayLike | None = None) -> tuple[Any, jax.Array]:
    """Shard rows and weights over the devices of a mesh.

    What it returns can be given to `fit`, `fit_restarts` and anything else that takes weights.

    Args:
        x: rows [n, ...] or a tuple of arrays; with several processes, the rows of this process.
        mesh: a mesh of devices. The rows are sharded over its axis "rows" (or its only axis); the
            starts of `fit_restarts` are divided over its axis "restarts", if there is one.
        weights: sample weights [n]; None means that all are 1.

    Returns:
        (x, weights) on the devices. Rows of weight 0 are added where the rows do not divide evenly.

    Raises:
        ValueError: the mesh has other axes.

    Examples:
        >>> import jax, jaxem
        >>> mesh = jax.make_mesh((len(jax.devices()),), ("rows",))
        >>> x, weights = jaxem.shard_rows(jaxem.datasets.old_faithful(), mesh)
        >>> model = jaxem.gaussian_mixture(2)
        >>> best, _ = jaxem.fit_restarts(
        ...     model, x, jax.random.key(0), weights=weights, n_restarts=4
        ... )
        >>> round(float(best.log_lik), 1)
        -1130.3
    """
    placement = mesh_placement(mesh)
    x = arrays.as_rows(x)
    dtype = jax.dtypes.canonicalize_dtype(np.result_type(*(leaf.dtype for leaf in jax.tree.leaves(x))))
    n = arrays.n_rows(x)
    weights = arrays.as_weights(weights, n, dtype)
    counts = np.ravel(multihost_utils.process_allgather(np.asarray(n)))
    here = max(placement.mesh.local_mesh.shape[placement.rows], 1)
    x = jax.tree.map(lambda leaf: np.asarray(leaf).astype(dtype), x)
    x, weights = arrays.pad_rows(x, weights, here * arrays.bucket(-(-int(counts.max()) // here)))
    sharding = NamedSharding(placement.mesh, placement.of_rows)
    place = lambda leaf: jax.make_array_from_process_local_data(sharding, leaf)  # noqa: E731
    return jax.tree.map(place, x), place(weights)
