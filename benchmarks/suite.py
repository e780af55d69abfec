"""The rules, and what a case is.

- Same data, same start, same dtype, same number of steps (or the same stopping rule); checked after the run.
- Compilation apart: the first call is not counted, except where the question is the first call.
- In every round each contestant has one turn, with a pause between; a turn is one call, or several if they are short;
  the least of all counts.
- scikit-learn runs with reg_covar=0, and gmmx too, because jaxem adds nothing to a covariance either.
"""

from collections.abc import Callable
from typing import Any, NamedTuple


class Target(NamedTuple):
    """jaxem is to be `at least` factor times better than `against`, or `at most` factor times worse."""

    against: str
    factor: float
    sense: str

    def met(self, values):
        ratio = values[self.against] / values["jaxem"]
        return ratio >= self.factor if self.sense == "at least" else 1 / ratio <= self.factor


class Record(NamedTuple):
    """What a case found: {contestant: value} (less is better) in `unit`, what was to be reached, and notes."""

    values: dict
    unit: str
    targets: list
    notes: dict


class Case(NamedTuple):
    """One question on one problem. run(repeats=...) -> Record."""

    question: str
    problem: str
    dtype: str
    run: Callable[..., Any]
