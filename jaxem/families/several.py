"""What families made of other families share: params and units are tuples, one entry per family."""

from typing import Any

import jax.numpy as jnp

from jaxem.contract.capabilities import Conjugate
from jaxem.contract.family import Family, full_axes
from jaxem.contract.pytree import pytree_class
from jaxem.contract.units import Units


@pytree_class
class SeveralUnits(Units):
    """Units of params that are a tuple, one entry per family. A subclass says how rows change.

    Attributes:
        each: the units of each family, in the order of the families.
    """

    each: tuple[Any, ...]

    @property
    def is_identity(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return all(units.is_identity for units in self.each)

    @property
    def broadcasts(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return all(units.broadcasts for units in self.each)

    def params(self, params: Any) -> Any:
        return tuple(units.params(part) for units, part in zip(self.each, params, strict=True))

    def back(self, params: Any) -> Any:
        return tuple(units.back(part) for units, part in zip(self.each, params, strict=True))

    def loses_digits(self, params: Any) -> bool:
        return any(units.loses_digits(part) for units, part in zip(self.each, params, strict=True))


class Several(Conjugate, Family):
    """A family made of `families`. A subclass says how they share rows, densities and weights."""

    families: tuple[Any, ...]

    def maximize(self, stats: Any, params: Any = None) -> Any:
        params = (None,) * len(self.families) if params is None else params
        return tuple(family.maximize(part, p) for family, part, p in self._zip(stats.parts, params))

    def _pseudo_parts(self, params, strength, units):
        """The pseudo-statistics of each family."""
        units = units.each if isinstance(units, SeveralUnits) else (units,) * len(self.families)
        return tuple(family.pseudo_statistics(*each) for family, *each in self._zip(params, strength, units))

    def log_prior(self, params: Any) -> Any:
        return sum(family.log_prior(p) for family, p in self._zip(params))

    def constraints(self) -> Any:
        return tuple(family.constraints() for family in self.families)

    def component_axes(self) -> Any:
        return tuple(full_axes(family) for family in self.families)

    def ill_conditioned(self, params: Any) -> Any:
        flags = [family.ill_conditioned(p) for family, p in self._zip(params)]
        flags = [flag for flag in flags if flag is not None]
        return jnp.stack(flags).any() if flags else None

    def _latents(self, resp) -> tuple:
        """The posterior of each family; None where it has no hidden variables, and for a start."""
        return (None,) * len(self.families) if resp is None else resp.parts

    def _zip(self, *trees: Any):
        return zip(self.families, *trees, strict=True)
