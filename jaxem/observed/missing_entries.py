"""Missing entries, which are NaN in rows of numbers: helpers that find, fill and check them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.inputs import arrays


def missing_as_nan(x: Any) -> Any:
    """x, with NaN for the masked entries of masked arrays."""
    if isinstance(x, tuple):
        return tuple(missing_as_nan(part) for part in x)
    return np.ma.filled(x.astype(float), np.nan) if np.ma.isMaskedArray(x) else x


def rows_seen(x: Any) -> np.ndarray:
    """Which rows have at least one entry that is not missing: [n] of bool, on the host."""
    x = np.asarray(x)
    return ~np.isnan(x.reshape(len(x), -1)).all(1)


def seen_columns(x: Any) -> Any:
    """The columns of rows [n, d] or of numbers [n], and which of their entries were seen.

    Returns:
        (columns [d, n], seen [d, n] of 0 and 1). A missing entry holds the first entry of its
        column that was seen.
    """
    module: Any = np if isinstance(x, np.ndarray) else jnp
    columns = x.reshape(len(x), -1).T
    seen = ~module.isnan(columns)
    first = module.take_along_axis(columns, module.argmax(seen, 1)[:, None], 1)
    return module.where(seen, columns, first), seen.astype(x.dtype)


def filled(x: Any) -> Any:
    """x, with each missing entry replaced by the first entry of its column that was seen.

    The result is valid data for any family.
    """
    return seen_columns(x)[0].T.reshape(x.shape)


def require_no_infinity(x: Any, name: str = "x") -> None:
    """Raise ValueError where x holds infinite values; `name` is its name in the message."""
    bad = np.isinf(np.asarray(x))
    if bad.any():
        count, row = arrays.first_bad_row(bad)
        raise ValueError(f"{name}: {count} of {len(bad)} rows hold infinite values, the first is row {row}")


def check_columns_seen(x: Any, weights: jax.Array | None = None) -> None:
    """Raise ValueError where every entry of a column of x [n, d] is missing.

    Only rows of weight above 0 count.
    """
    x = np.asarray(x)
    empty = np.flatnonzero(np.isnan(x if weights is None else x[np.flatnonzero(weights)]).all(0))
    if len(empty):
        raise ValueError(f"x: every entry of column {empty[0]} is missing; leave the column out")


def column_ranges(x: Any, weights: jax.Array | None = None) -> tuple[Any, Any]:
    """The (smallest [d], largest [d]) entries of the columns of x [n, d] that are not missing.

    Only rows of weight above 0 count.
    """
    x = np.asarray(x, np.float64)
    x = x if weights is None else x[np.flatnonzero(weights)]
    missing = np.isnan(x)
    return np.where(missing, np.inf, x).min(0), np.where(missing, -np.inf, x).max(0)
