"""Entries that are not there: NaN in rows of numbers, found, filled and checked."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.inputs import arrays


def holes_as_nan(x: Any) -> Any:
    """x with the masked entries of masked arrays as NaN."""
    if isinstance(x, tuple):
        return tuple(holes_as_nan(part) for part in x)
    return np.ma.filled(x.astype(float), np.nan) if np.ma.isMaskedArray(x) else x


def rows_seen(x: Any) -> Any:
    """Which rows have an entry that is not missing, on the host."""
    x = np.asarray(x)
    return ~np.isnan(x.reshape(len(x), -1)).all(1)


def seen_columns(x: Any) -> Any:
    """(columns [d, n] of rows or numbers, each hole holding its column's first entry; seen [d, n], of 0 and 1)."""
    module: Any = np if isinstance(x, np.ndarray) else jnp
    columns = x.reshape(len(x), -1).T
    seen = ~module.isnan(columns)
    first = module.take_along_axis(columns, module.argmax(seen, 1)[:, None], 1)
    return module.where(seen, columns, first), seen.astype(x.dtype)


def filled(x: Any) -> Any:
    """x with the first entry of its column in each hole: valid for any family."""
    return seen_columns(x)[0].T.reshape(x.shape)


def require_no_infinity(x: Any, name: str = "x") -> None:
    bad = np.isinf(np.asarray(x))
    if bad.any():
        count, row = arrays.first_bad_row(bad)
        raise ValueError(f"{name}: {count} of {len(bad)} rows hold infinite values, the first is row {row}")


def check_columns_seen(x: Any, weights: jax.Array | None = None) -> None:
    """Raise ValueError where a column of x [n, d] has no entry at all, in rows of weight above 0."""
    x = np.asarray(x)
    empty = np.flatnonzero(np.isnan(x if weights is None else x[np.flatnonzero(weights)]).all(0))
    if len(empty):
        raise ValueError(f"x: every entry of column {empty[0]} is missing; leave the column out")


def column_ranges(x: Any, weights: jax.Array | None = None) -> tuple[Any, Any]:
    """(smallest, largest) entry of every column of x [n, d] that is not missing, in rows of weight above 0."""
    x = np.asarray(x, np.float64)
    x = x if weights is None else x[np.flatnonzero(weights)]
    holes = np.isnan(x)
    return np.where(holes, np.inf, x).min(0), np.where(holes, -np.inf, x).max(0)
