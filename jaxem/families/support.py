"""What a family says about rows it cannot have produced: a ValueError that names x, what was expected and the row."""

import numpy as np

from jaxem.inputs.arrays import first_bad_row


class RowError(ValueError):
    """A row that the family cannot have produced; `place` is how people call it, and `at` gives it another name."""

    def __init__(self, name, expected, row, found, place):
        super().__init__(f"{name}: expected {expected}; {place} holds {found}")
        self.row, self.parts = row, (name, expected, row, found)

    def at(self, place):
        return RowError(*self.parts, place)


def check_numbers(x, name="x"):
    """One number per row; anything else raises and says what to write. Only shapes are looked at."""
    shape = np.shape(x) if hasattr(x, "shape") else ()
    if len(shape) != 1:
        hint = f"; write {name}[:, 0]" if shape[1:] == (1,) else ""
        raise ValueError(f"{name}: expected one number per row, shape [n]; got {_described(x)}{hint}")


def check_vectors(x, name="x"):
    """Rows of numbers; anything else raises and says what to write. Only shapes are looked at."""
    shape = np.shape(x) if hasattr(x, "shape") else ()
    if len(shape) != 2 or shape[1] == 0:
        hint = f"; for one column write {name}[:, None]" if len(shape) == 1 else ""
        raise ValueError(f"{name}: expected rows of shape [n, d]; got {_described(x)}{hint}")


def numbers(x, name="x"):
    """x as a host array [n], after `check_numbers`."""
    check_numbers(x, name)
    return np.asarray(x)


def vectors(x, name="x"):
    """x as a host array [n, d], after `check_vectors`."""
    check_vectors(x, name)
    return np.asarray(x)


def require_shape(field, value, expected):
    """A leaf of a start has the shape that fits x; `expected` is a tuple in which None matches any k."""
    shape = np.shape(value)
    if len(shape) != len(expected) or any(want not in (None, got) for got, want in zip(shape, expected, strict=True)):
        wanted = ", ".join("k" if size is None else str(size) for size in expected)
        raise ValueError(f"start: {field} has shape {shape}, expected [{wanted}]")


def require(ok, x, expected, name="x"):
    """Raise ValueError naming the first row of x where `ok` [n, ...] does not hold."""
    ok = np.asarray(ok)
    if ok.all():
        return
    count, row = first_bad_row(~ok)
    value = np.array2string(np.asarray(x[row]), threshold=8, precision=6)
    raise RowError(name, expected, row, f"{value} ({count} of {len(x)} rows are wrong)", f"row {row}")


def require_counts(x, name="x"):
    """Whole numbers of at least 0."""
    x = np.asarray(x)
    require((x >= 0) & (x == np.floor(x)), x, "counts (whole numbers of at least 0)", name)


def _described(x):
    return f"shape {np.shape(x)}" if hasattr(x, "shape") else f"a {type(x).__name__}"
