"""Whether rows of numbers determine a covariance. An error names the columns that do not.

The host checks this. One pass finds the range of every column. Linear dependence is looked for in a
sample of the rows first, because rows that span all directions in a sample span them in the whole.
"""

from typing import Any

import jax
import numpy as np

#: Rows in which linear dependence is looked for first (more where columns are many).
SAMPLE_ROWS = 4096

#: Share of a unit null vector that a column must have to be named as part of the dependence.
NAMED = 1e-3


def check_spread(x: Any, weights: Any, metric: Any, dtype: Any) -> None:
    """Raise ValueError where rows x [n, d] have no standard units in a dtype.

    A covariance that the rows do not determine has no maximum-likelihood value. This is so for a
    column that is constant ("full", "diag"), for columns that depend linearly on each other
    ("full"), and for rows that are all equal ("spherical"). Rows of weight 0 do not count. Columns
    whose squares leave the range of the dtype are refused too.

    Args:
        x: the rows, [n, d].
        weights: their weights [n], or None.
        metric: "full", "diag" or "spherical", as in `jaxem.contract.affine.standardize`.
        dtype: the dtype of the fit.
    """
    if weights is not None and not np.all(weights):
        x = x[np.flatnonzero(weights)]
    low, high = column_range(x)
    reach = check_ranges(low, high, metric, dtype)
    if metric == "full":
        _check_rank(x, np.maximum(np.abs(low), np.abs(high)), reach, dtype)


def check_ranges(low: Any, high: Any, metric: Any, dtype: Any) -> Any:
    """The distance between the smallest and the largest value of each column, [d].

    Raises:
        ValueError: a column has no standard units with these values.
    """
    with np.errstate(over="ignore"):
        reach = np.asarray(high, np.float64) - np.asarray(low, np.float64)
    _check_constant(reach, metric)
    _check_squares(reach, metric, dtype)
    return reach


def column_range(x: Any) -> Any:
    """(smallest, largest) value of every column of x [n, d], on the host."""
    if isinstance(x, jax.Array):
        return np.asarray(x.min(0)), np.asarray(x.max(0))
    if not x.flags.c_contiguous:
        return x.min(0), x.max(0)
    # Reducing the short axis last: long rows keep the processor's vector units busy.
    d = x.shape[1]
    width = max(1, 1024 // d)
    whole = len(x) // width * width
    blocks, rest = x[:whole].reshape(-1, width * d), x[whole:]

    def reduce(name):
        parts = [getattr(part, name)(0).reshape(-1, d) for part in (blocks, rest) if len(part)]
        return getattr(np.concatenate(parts), name)(0)

    return reduce("min"), reduce("max")


def _check_constant(reach, metric):
    constant = np.flatnonzero(~(reach > 0))
    if metric == "spherical" and len(constant) == len(reach):
        raise ValueError("x: all rows are equal, so there is no variance to estimate")
    if metric != "spherical" and len(constant):
        raise ValueError(
            f"x: {_columns(constant)} constant, so a variance would be 0; "
            "leave constant columns out, or use covariance='spherical'"
        )


def _check_squares(reach, metric, dtype):
    info = np.finfo(dtype)
    reach = reach[reach > 0].max(keepdims=True) if metric == "spherical" else reach
    # A covariance eps times smaller than the data's is still to be a normal number.
    large, small = reach > np.sqrt(info.max), reach < np.sqrt(info.tiny / info.eps)
    for wrong, what in ((large, "too large"), (small, "too small")):
        if wrong.any():
            span = float(reach[wrong][0])
            where = "x: its values span" if metric == "spherical" else f"x: column {np.flatnonzero(wrong)[0]} spans"
            raise ValueError(f"{where} {span:.3g}, {what} for variances in {np.dtype(dtype).name}; rescale the data")


def _check_rank(x, size, reach, dtype):
    n, d = x.shape
    if n <= d:
        raise ValueError(
            f"x: expected more rows than columns for covariance='full' or 'tied'; got {n} rows of {d} columns "
            "(use 'diag' or 'spherical')"
        )
    # Rounding of the rows as they came, and of centred rows in the dtype of the fit, hides as much.
    noise = d * np.finfo(dtype).eps + 0.5 * np.finfo(x.dtype).eps * (size / reach).max()
    rows = max(SAMPLE_ROWS, 8 * d)
    if n > 2 * rows and not len(_dependent(x[:: n // rows], reach, noise)):
        return
    columns = _dependent(x, reach, noise)
    if len(columns):
        raise ValueError(
            f"x: {_columns(columns)} linearly dependent, so a covariance matrix would be singular; leave out one of "
            "them, or use covariance='diag' or 'spherical'"
        )


def _dependent(x, reach, noise):
    """The columns of x that take part in a linear dependence, up to `noise` times their range."""
    z = np.asarray(x, np.float64)
    z = (z - z.mean(0)) / reach
    gram = z.T @ z / len(z)
    # An eigenvalue has the rounding of the largest one. Where it cannot decide, the rows do.
    if np.linalg.eigvalsh(gram)[0] > max(2 * noise**2, 1e-12 * np.trace(gram)):
        return np.zeros(0, int)
    _, values, directions = np.linalg.svd(np.linalg.qr(z, mode="r"))
    null = directions[values <= noise * np.sqrt(len(z))]
    return np.flatnonzero(np.sqrt((null * null).sum(0)) > NAMED)


def _columns(which):
    names = ", ".join(map(str, which[:10])) + (", ..." if len(which) > 10 else "")
    return f"column {names} is" if len(which) == 1 else f"columns {names} are"
