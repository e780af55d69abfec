"""Arguments of users become arrays. Errors name the argument, what was expected and what came.

Everything here runs on the host, before anything is compiled. Traced values are not checked.
"""

import math
import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.numerics.tracing import is_traced

#: Rows are padded with rows of weight 0, by at most n / BUCKETS of them, so that slightly different
#: n share compiled programs.
BUCKETS = 32


def default_float() -> Any:
    """The default dtype of JAX for floats: float32, or float64 where x64 is on."""
    return jax.dtypes.canonicalize_dtype(np.float64)


def as_rows(x: Any, name: str = "x") -> Any:
    """Data as a pytree of float arrays with one leading axis.

    Data of float64 on the host stay float64.

    Args:
        x: an array, a table, a nested list, or a tuple or dict of such.
        name: name of the argument, for errors.

    Raises:
        ValueError: x is not numeric, its parts have different numbers of rows, or it has none.
    """
    leaves = jax.tree.leaves(x, is_leaf=_is_part)
    nested = isinstance(x, (tuple, dict)) and len(leaves) > 1 and not all(np.isscalar(leaf) for leaf in leaves)
    x = jax.tree.map(lambda leaf: _as_array(leaf, name), x, is_leaf=_is_part) if nested else _as_array(x, name)
    if not all(leaf.ndim for leaf in jax.tree.leaves(x)):
        raise ValueError(f"{name}: expected an array of rows; got a single number")
    lengths = {len(leaf) for leaf in jax.tree.leaves(x)}
    if len(lengths) > 1:
        raise ValueError(f"{name}: expected parts with one number of rows; got {sorted(lengths)}")
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
            raise ValueError(f"{name}: expected no masked entries; got some; fill or drop them first")
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
    # Not all integers above 2^24 are exact in float32, so they are float64 until their origin is
    # moved.
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
    """Raise ValueError where a column of a table is not numeric."""
    columns = getattr(value, "columns", None)
    if columns is None or not hasattr(value, "dtypes"):
        return
    for column, dtype in zip(columns, value.dtypes, strict=True):
        if getattr(dtype, "kind", "f") not in "biuf":
            raise ValueError(f"{name}: expected numeric columns; got column {column!r} of dtype {dtype}")


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
    """The number of rows of a pytree of arrays [n, ...]."""
    return jax.tree.leaves(x)[0].shape[0]


def first_bad_row(bad: Any) -> tuple[int, int]:
    """The number of rows with a True in a boolean array [n, ...], and the index of the first."""
    rows = np.asarray(bad).reshape(len(bad), -1).any(1)
    return int(rows.sum()), int(np.argmax(rows))


def on_host(x: Any) -> Any:
    """The pytree x, with NumPy arrays for the leaves that the host can read without a copy.

    Other leaves are unchanged: traced ones, and those on an accelerator or on several devices.
    """

    def view(leaf):
        concrete = isinstance(leaf, jax.Array) and not is_traced(leaf)
        local = concrete and len(leaf.devices()) == 1 and leaf.is_fully_addressable
        return np.asarray(leaf) if local and next(iter(leaf.devices())).platform == "cpu" else leaf

    return jax.tree.map(view, x)


def check_finite(x: Any, name: str = "x") -> None:
    """Raise ValueError where a leaf of x has NaN or infinite values."""
    for leaf in jax.tree.leaves(x):
        # The sum of finite numbers may overflow, but a finite sum has no NaN or infinite terms.
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(leaf.sum()):
                continue
        module = np if isinstance(leaf, np.ndarray) else jnp
        finite = np.asarray(module.isfinite(leaf))
        if not finite.all():
            count, row = first_bad_row(~finite)
            raise ValueError(
                f"{name}: expected finite numbers; got NaN or infinite ones in {count} of {len(leaf)} rows, "
                f"the first is row {row}"
            )


def as_weights(weights: Any, n: int, dtype: Any) -> Any:
    """Sample weights as an array [n] of `dtype`.

    Args:
        weights: n numbers, or None for weights of 1.
        n: number of rows.
        dtype: dtype of the result.

    Raises:
        ValueError: the shape is wrong, a weight is negative or not finite, all are 0, or their sum
            is out of the range of the dtype. If they are traced, only the shape is checked.
    """
    if weights is None:
        return np.ones(n, dtype)
    weights = _as_array(weights, "weights")
    if weights.shape != (n,):
        raise ValueError(f"weights: expected shape ({n},), one per row of x; got {weights.shape}")
    if is_traced(weights):
        return weights.astype(dtype)
    weights = np.asarray(weights)
    if not np.isfinite(weights).all():
        raise ValueError(
            f"weights: expected finite numbers; not finite at row {first_bad_row(~np.isfinite(weights))[1]}"
        )
    if (weights < 0).any():
        raise ValueError(f"weights: expected numbers of at least 0; negative at row {first_bad_row(weights < 0)[1]}")
    if not weights.any():
        raise ValueError("weights: expected at least one above 0; all are zero")
    total, info = weights.sum(dtype=np.float64), np.finfo(dtype)
    if not info.tiny / info.eps**2 < total < info.max * info.eps:
        raise ValueError(f"weights: their sum is {total:.3g}, out of {np.dtype(dtype).name}'s range; rescale them")
    return weights.astype(dtype)


def as_start(model: Any, start: Any, dtype: Any, name: str = "start") -> Any:
    """Params as NumPy arrays.

    Args:
        model: the model that they belong to.
        start: params with the structure of the model's own, whose leaves are arrays, numbers or
            lists.
        dtype: dtype of the arrays; None keeps that of float leaves.
        name: name of the argument, for errors.

    Raises:
        ValueError: the structure is another one, or a leaf is not numeric.
    """
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
    """Raise ValueError where an option is not a finite number of the right kind and size.

    A traced value is not checked.

    Args:
        name: name of the argument.
        value: what was given.
        minimum: the smallest value that is allowed.
        whole: whether it has to be a whole number.
        exclusive: whether `minimum` itself is not allowed.
        maximum: the largest value that is allowed, or None.
    """
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
    """An option as an array [] of `dtype`; it is on the host unless it is traced."""
    return jnp.asarray(value, dtype) if is_traced(value) else np.asarray(value, dtype)


def on_device(leaf: Any, dtype: Any) -> Any:
    """A leaf as an array of `dtype` on the device.

    An array on the host is converted there, because a program for it would be compiled for every
    shape.
    """
    if isinstance(leaf, np.ndarray):
        return jax.device_put(leaf.astype(dtype, copy=False))
    return jnp.asarray(leaf, dtype)


def check_concrete(name: str, value: Any) -> None:
    """Raise ValueError where a number that determines shapes is traced."""
    if is_traced(value):
        raise ValueError(f"{name}: expected a number known when the program is compiled; got a traced value")


def check_key(key: Any, name: str = "key") -> None:
    """Raise ValueError where `key` is not a single random key, typed or of raw uint32 numbers."""
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if (typed and shape == ()) or (not typed and dtype == jnp.uint32 and len(shape or ()) == 1):
        return
    got = f"{len(key)} keys" if typed else repr(key) if np.ndim(key) == 0 else f"a {type(key).__name__}"
    raise ValueError(f"{name}: expected a random key such as jax.random.key(0); got {got}")


def bucket(n: int) -> int:
    """The number n rounded up, by at most n / BUCKETS, so that nearby n share compiled programs."""
    step = max(1, 2 ** (n.bit_length() - 1) // BUCKETS)
    return -(-n // step) * step


def pad_rows(x: Any, weights: Any, n: int) -> Any:
    """Add rows of weight 0 to x and weights, up to n rows.

    The first row is repeated, because it is valid for any model.
    """

    def pad(leaf):
        extra = n - leaf.shape[0]
        if not extra:
            return leaf
        module = np if isinstance(leaf, np.ndarray) else jnp
        return module.concatenate([leaf, module.broadcast_to(leaf[:1], (extra, *leaf.shape[1:]))])

    weights = np.asarray(weights)
    return jax.tree.map(pad, x), np.concatenate([weights, np.zeros(n - len(weights), weights.dtype)])


#: Number of rows in a block of `map_rows`.
BLOCK_ROWS = 1 << 16


def map_rows(function: Callable, x: Any, dtype: Any) -> Any:
    """The results of function(rows) as NumPy arrays of `dtype`.

    They are computed in blocks of rows, so that no copy of all rows in a wider dtype is made.
    """
    n = n_rows(x)
    blocks = [jax.tree.map(lambda leaf, at=i: leaf[at : at + BLOCK_ROWS], x) for i in range(0, n, BLOCK_ROWS)]
    moved = [jax.tree.map(lambda leaf: np.asarray(leaf).astype(dtype), function(block)) for block in blocks]
    return moved[0] if len(moved) == 1 else jax.tree.map(lambda *parts: np.concatenate(parts), *moved)


def check_algorithm(algorithm: Any) -> None:
    """Raise ValueError where `algorithm` is not an algorithm of `fit`."""
    if isinstance(algorithm, type) or not (hasattr(algorithm, "propose") and hasattr(algorithm, "init")):
        hint = " (it is for fit_stream, which accepts x as its source)" if _is_online(algorithm) else ""
        raise ValueError(f"algorithm: expected an algorithm such as jaxem.EM(); got {algorithm!r}{hint}")


def _is_online(algorithm):
    return hasattr(algorithm, "follow")
