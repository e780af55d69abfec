"""Supports: what the rows of a family can be, as a declaration from which its checks follow.

A family says `support = Numbers(COUNTS)`, and `Family.check` refuses anything else with a
ValueError that names the argument, what was expected, what came, and the first row that is wrong.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxem.inputs.arrays import first_bad_row


class RowError(ValueError):
    """A row that the family cannot have produced; `place` describes where the row is."""

    def __init__(self, name: str, expected: str, row: int, found: str, place: str) -> None:
        super().__init__(f"{name}: expected {expected}; {place} holds {found}")
        self.row, self.parts = row, (name, expected, row, found)

    def at(self, place: str) -> "RowError":
        """The same error with another place, for rows that came in groups or sequences."""
        return RowError(*self.parts, place)


class Values(NamedTuple):
    """What a single value can be.

    Attributes:
        expected: its description, as an error message needs it.
        holds: a function of x [n, ...] that tells which rows or entries are right.
    """

    expected: str
    holds: Callable[[np.ndarray], Any]


COUNTS = Values("counts (whole numbers of at least 0)", lambda x: (x >= 0) & (x == np.floor(x)))
NON_NEGATIVE = Values("numbers of at least 0", lambda x: x >= 0)
POSITIVE = Values("numbers above 0", lambda x: x > 0)
BITS = Values("zeros and ones", lambda x: (x == 0) | (x == 1))


class Support:
    """The rows that a family can produce: their shape, and the values that they can hold."""

    #: The rank of one row, as `Family.row_ndim` has it.
    row_ndim: Any = 1

    def check_shape(self, x: Any, name: str = "x") -> None:
        """Raise ValueError where x has another shape. It reads no values: they may be traced."""
        raise NotImplementedError(f"{type(self).__name__}.check_shape")

    def check_values(self, x: Any, name: str = "x") -> None:
        """Raise `RowError` where a row of x, whose shape is right, holds values that it cannot."""

    def sizes(self, x: Any) -> dict[str, int]:
        """The sizes in the shape of x to which the shapes of params refer by name."""
        return {}


class _Array(Support):
    """Rows that are one array, of any real numbers or of some `values`."""

    def __init__(self, values: Values | None = None) -> None:
        self.values = values

    def check_values(self, x: Any, name: str = "x") -> None:
        if self.values is not None:
            x = np.asarray(x)
            require(self.values.holds(x), x, self.values.expected, name)


class Numbers(_Array):
    """One number per row, [n]."""

    row_ndim = 0

    def check_shape(self, x: Any, name: str = "x") -> None:
        shape = np.shape(x) if hasattr(x, "shape") else ()
        if len(shape) != 1:
            hint = f"; write {name}[:, 0]" if shape[1:] == (1,) else ""
            raise ValueError(f"{name}: expected one number per row, shape [n]; got {_described(x)}{hint}")


class Vectors(_Array):
    """Rows [n, d] of at least one column."""

    def check_shape(self, x: Any, name: str = "x") -> None:
        shape = np.shape(x) if hasattr(x, "shape") else ()
        if len(shape) != 2:
            hint = f"; for one column write {name}[:, None]" if len(shape) == 1 else ""
            raise ValueError(f"{name}: expected rows of shape [n, d]; got {_described(x)}{hint}")
        if shape[1] == 0:
            raise ValueError(f"{name}: expected at least one column, rows of shape [n, d]; got {_described(x)}")

    def sizes(self, x: Any) -> Any:
        return {"d": np.shape(x)[1]}


class Pair(Support):
    """Two arrays with equally many rows, described as in "(counts [n], exposures [n])"."""

    def __init__(self, first: Support, second: Support, described: str) -> None:
        self.parts, self.described = (first, second), described
        self.row_ndim = (first.row_ndim, second.row_ndim)

    def check_shape(self, x: Any, name: str = "x") -> None:
        if not isinstance(x, tuple) or len(x) != 2:
            raise ValueError(f"{name}: expected the pair {self.described}; got a {type(x).__name__}")
        for j, (part, values) in enumerate(zip(self.parts, x, strict=True)):
            part.check_shape(values, f"{name}[{j}]")

    def check_values(self, x: Any, name: str = "x") -> None:
        for j, (part, values) in enumerate(zip(self.parts, x, strict=True)):
            part.check_values(values, f"{name}[{j}]")

    def sizes(self, x: Any) -> Any:
        return self.parts[0].sizes(x[0])


def require(ok: Any, x: Any, expected: str, name: str = "x") -> None:
    """Raise `RowError` naming the first row of x where `ok` [n, ...] does not hold."""
    ok = np.asarray(ok)
    if ok.all():
        return
    count, row = first_bad_row(~ok)
    value = np.array2string(np.asarray(x[row]), threshold=8, precision=6)
    raise RowError(name, expected, row, f"{value} ({count} of {len(x)} rows are wrong)", f"row {row}")


def check_numbers(x: Any, name: str = "x") -> None:
    """Raise ValueError where x is not one number per row. It reads no values."""
    Numbers().check_shape(x, name)


def check_vectors(x: Any, name: str = "x") -> None:
    """Raise ValueError where x is not rows of numbers. It reads no values."""
    Vectors().check_shape(x, name)


def _described(x):
    return f"shape {np.shape(x)}" if hasattr(x, "shape") else f"a {type(x).__name__}"
