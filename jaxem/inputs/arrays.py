"""From what a person gives to arrays: every complaint names the argument, what was expected and what came.

Everything here runs on the host, before anything is compiled. Traced values pass through untouched.
"""

import math
import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.numerics.tracing import is_traced

#: Rows are padded (with weight 0) to a multiple of n / BUCKETS, so that a slightly different n compiles nothing new.
BUCKETS = 32


def default_float() -> Any:
    return jax.dtypes.canonicalize_dtype(np.float64)


def as_rows(x: Any, name: str = "x") -> Any:
    """Data as a pytree of float arrays with one leading axis; float64 stays float64 on the host for now."""
    leaves = jax.tree.leaves(x, is_leaf=_is_part)
    nested = isinstance(x, (tuple, dict)) and len(leaves) > 1 and not all(np.isscalar(leaf) for leaf in leaves)
    x = jax.tree.map(lambda leaf: _as_array(leaf, name), x, is_leaf=_is_part) if nested else _as_array(x, name)
    if not all(leaf.ndim for leaf in jax.tree.leaves(x)):
        raise ValueError(f"{name}: expected an array of rows; got a single number")
    lengths = {len(leaf) for leaf in jax.tree.leaves(x)}
    if len(lengths) > 1:
        raise ValueError(f"{name}: its parts have different numbers of rows: {sorted(lengths)}")
    if lengths == {0}:
        raise ValueError(f"{name}: expected at least one row; got none")
    return x


def _is_part(node):
    return not isinstance(node, (tuple, dict))


def _as_array(value, name):
    if isinstance(value, jax.Array):
        return _float_array(value, name)
    if np.ma.isMaskedArray(value):
        if np.ma.getmaskarray(value).any():
            raise ValueError(f"{name}: a masked array with masked entries; fill or drop them first")
        value = value.data
    _check_columns(value, name)
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: expected rows of equal length ({error})") from None
    if array.dtype.kind == "O":
        array = _from_objects(array, value, name)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name}: expected real numbers; got dtype {array.dtype}")
    if array.dtype in (np.float32, np.float64):
        return array
    # Whole numbers above 2^24 are not all float32: they stay exact until their origin is moved.
    return array.astype(default_float() if array.dtype.itemsize <= 2 else np.float64)


def _float_array(value, name):
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key) or jnp.issubdtype(value.dtype, jnp.complexfloating):
        raise ValueError(f"{name}: expected real numbers; got {value.dtype}")
    if value.dtype in (jnp.float32, jnp.float64):
        return value
    if is_traced(value) or jnp.issubdtype(value.dtype, jnp.floating):
        return value.astype(default_float())
    return _as_array(np.asarray(value), name)


def _check_columns(value, name):
    """The columns of a table are numbers."""
    columns = getattr(value, "columns", None)
    if columns is None or not hasattr(value, "dtypes"):
        return
    for column, dtype in zip(columns, value.dtypes, strict=True):
        if getattr(dtype, "kind", "f") not in "biuf":
            raise ValueError(f"{name}: column {column!r} is not numeric (dtype {dtype})")


def _from_objects(array, value, name):
    kind = f"a {type(value).__name__}"
    if array.ndim == 0:
        raise ValueError(f"{name}: expected an array of numbers; got {kind}")
    if any(isinstance(entry, (complex, str, bytes)) for entry in array.flat):
        wrong = next(entry for entry in array.flat if isinstance(entry, (complex, str, bytes)))
        raise ValueError(f"{name}: expected real numbers; got {kind} that holds {wrong!r}")
    try:
        return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected numbers in rows of equal length; got {kind} ({error})") from None


def n_rows(x: Any) -> int:
    return jax.tree.leaves(x)[0].shape[0]


def first_bad_row(bad: Any) -> Any:
    """(how many, the first) rows of a boolean array [n, ...]."""
    rows = np.asarray(bad).reshape(len(bad), -1).any(1)
    return int(rows.sum()), int(np.argmax(rows))


def on_host(x: Any) -> Any:
    """x with the leaves that the host can read without copying as NumPy arrays; others as they are."""

    def view(leaf):
        concrete = isinstance(leaf, jax.Array) and not is_traced(leaf)
        local = concrete and len(leaf.devices()) == 1 and leaf.is_fully_addressable
        return np.asarray(leaf) if local and next(iter(leaf.devices())).platform == "cpu" else leaf

    return jax.tree.map(view, x)


def check_finite(x: Any, name: str = "x") -> None:
    for leaf in jax.tree.leaves(x):
        # The sum of finite numbers may overflow, but a sum that is finite had no NaN or infinity in it.
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(leaf.sum()):
                continue
        module = np if isinstance(leaf, np.ndarray) else jnp
        finite = np.asarray(module.isfinite(leaf))
        if not finite.all():
            count, row = first_bad_row(~finite)
            raise ValueError(f"{name}: {count} of {len(leaf)} rows hold NaN or infinite values, the first is row {row}")


def as_weights(weights: Any, n: int, dtype: Any) -> Any:
    """Sample weights [n]: finite, non-negative, not all zero."""
    if weights is None:
        return np.ones(n, dtype)
    weights = _as_array(weights, "weights")
    if weights.shape != (n,):
        raise ValueError(f"weights: expected shape ({n},), one per row of x; got {weights.shape}")
    if is_traced(weights):
        return weights.astype(dtype)
    weights = np.asarray(weights)
    if not np.isfinite(weights).all():
        raise ValueError(f"weights: not finite at row {first_bad_row(~np.isfinite(weights))[1]}")
    if (weights < 0).any():
        raise ValueError(f"weights: negative at row {first_bad_row(weights < 0)[1]}")
    if not weights.any():
        raise ValueError("weights: all are zero, so no row is left")
    total, info = weights.sum(dtype=np.float64), np.finfo(dtype)
    if not info.tiny / info.eps**2 < total < info.max * info.eps:
        raise ValueError(f"weights: their sum is {total:.3g}, out of {np.dtype(dtype).name}'s range; rescale them")
    return weights.astype(dtype)


def as_start(model: Any, start: Any, dtype: Any, name: str = "start") -> Any:
    """Params as arrays of one dtype, with the structure of the model's own."""
    if model.additive:
        want = model.constraints()
        found = jax.tree.structure(start, is_leaf=_is_plain_list)
        if found != jax.tree.structure(want, is_leaf=lambda node: hasattr(node, "to_free")):
            got = f"a {type(start).__name__}" if jax.tree.structure(start).num_nodes == 1 else found
            raise ValueError(f"{name}: expected params like {want}; got {got}")
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: _as_leaf(leaf, dtype, name + jax.tree_util.keystr(path)), start, is_leaf=_is_plain_list
    )


def _is_plain_list(node):
    return isinstance(node, list)


def _as_leaf(leaf, dtype, name):
    if isinstance(leaf, (str, bytes)) or leaf is None or np.iscomplexobj(leaf):
        raise ValueError(f"{name}: expected an array of numbers; got {leaf!r}")
    try:
        array = np.asarray(leaf, dtype)
        return array if array.dtype.kind == "f" else array.astype(default_float())
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected an array of numbers; got a {type(leaf).__name__} ({error})") from None


def check_number(
    name: str, value: Any, minimum: Any, whole: bool = False, exclusive: bool = False, maximum: Any = None
) -> None:
    """A concrete option: a finite number of the right kind and size."""
    if is_traced(value):
        return
    array = hasattr(value, "ndim") and value.ndim == 0 and value.dtype.kind in "iuf"
    ok = array or (isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_)))
    ok = ok and math.isfinite(value)
    ok = ok and (not whole or float(value).is_integer())
    ok = ok and (value > minimum if exclusive else value >= minimum)
    ok = ok and (maximum is None or value <= maximum)
    if not ok:
        kind = "a whole number" if whole else "a number"
        limits = f"{'above' if exclusive else 'of at least'} {minimum}"
        limits += "" if maximum is None else f" and at most {maximum}"
        raise ValueError(f"{name}: expected {kind} {limits}; got {value!r}")


def as_number(value: Any, dtype: Any) -> Any:
    """An option as an array [] of `dtype`, on the host unless it is traced."""
    return jnp.asarray(value, dtype) if is_traced(value) else np.asarray(value, dtype)


def on_device(leaf: Any, dtype: Any) -> Any:
    """A leaf as an array of `dtype` on the device. From the host without a program, of which every shape needs one."""
    if isinstance(leaf, np.ndarray):
        return jax.device_put(leaf.astype(dtype, copy=False))
    return jnp.asarray(leaf, dtype)


def check_concrete(name: str, value: Any) -> None:
    """A number that sets shapes cannot be traced."""
    if is_traced(value):
        raise ValueError(f"{name}: expected a number known when the program is compiled; got a traced value")


def check_key(key: Any, name: str = "key") -> None:
    """A single random key, of the new kind or the old."""
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if (typed and shape == ()) or (not typed and dtype == jnp.uint32 and len(shape or ()) == 1):
        return
    got = f"{len(key)} keys" if typed else repr(key) if np.ndim(key) == 0 else f"a {type(key).__name__}"
    raise ValueError(f"{name}: expected a random key such as jax.random.key(0); got {got}")


def bucket(n: int) -> int:
    """n rounded up so that nearby sizes share compiled programs, by at most 1 / BUCKETS."""
    step = max(1, 2 ** (n.bit_length() - 1) // BUCKETS)
    return -(-n // step) * step


def pad_rows(x: Any, weights: Any, n: int) -> Any:
    """x and weights with rows of weight 0 added up to n rows. Any valid row will do: the first is repeated."""

    def pad(leaf):
        extra = n - leaf.shape[0]
        if not extra:
            return leaf
        module = np if isinstance(leaf, np.ndarray) else jnp
        return module.concatenate([leaf, module.broadcast_to(leaf[:1], (extra, *leaf.shape[1:]))])

    weights = np.asarray(weights)
    return jax.tree.map(pad, x), np.concatenate([weights, np.zeros(n - len(weights), weights.dtype)])


#: Rows that `map_rows` hands over at a time.
BLOCK_ROWS = 1 << 16


def map_rows(function: Callable, x: Any, dtype: Any) -> Any:
    """function(rows) as arrays of `dtype`, block by block: no copy of all rows in a wider dtype."""
    n = n_rows(x)
    blocks = [jax.tree.map(lambda leaf, at=i: leaf[at : at + BLOCK_ROWS], x) for i in range(0, n, BLOCK_ROWS)]
    moved = [jax.tree.map(lambda leaf: np.asarray(leaf).astype(dtype), function(block)) for block in blocks]
    return moved[0] if len(moved) == 1 else jax.tree.map(lambda *parts: np.concatenate(parts), *moved)


def check_algorithm(algorithm: Any) -> None:
    if isinstance(algorithm, type) or not (hasattr(algorithm, "propose") and hasattr(algorithm, "init")):
        hint = " (it follows a source: fit_stream takes it, and x itself is a source)" if _is_online(algorithm) else ""
        raise ValueError(f"algorithm: expected an algorithm such as jaxem.EM(); got {algorithm!r}{hint}")


def _is_online(algorithm):
    return hasattr(algorithm, "follow")
