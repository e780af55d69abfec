"""Where params may live: what a model of one's own needs of `jaxem.contract.constraints`."""

from jaxem.contract.constraints import (
    Constraint,
    Fixed,
    Loadings,
    NonNegative,
    Positive,
    PositiveDefinite,
    Real,
    Simplex,
    UnitInterval,
)

__all__ = [
    "Constraint",
    "Fixed",
    "Loadings",
    "NonNegative",
    "Positive",
    "PositiveDefinite",
    "Real",
    "Simplex",
    "UnitInterval",
]
