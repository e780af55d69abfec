"""What families that are made of other families have in common: params and units are tuples, one entry per family."""

import jax.numpy as jnp

from jaxem.contract.family import Family, full_axes


class Several(Family):
    """Subclass it and say how rows, log densities and weights are shared out among `families`."""

    families: tuple

    def maximize(self, stats, params=None):
        params = (None,) * len(self.families) if params is None else params
        return tuple(family.maximize(part, p) for family, part, p in self._zip(stats.parts, params))

    def _pseudo_parts(self, params, strength, units):
        """Each family's pseudo-statistics."""
        units = (None,) * len(self.families) if units is None else units
        return tuple(family.pseudo_statistics(*each) for family, *each in self._zip(params, strength, units))

    def log_prior(self, params):
        return sum(family.log_prior(p) for family, p in self._zip(params))

    def constraints(self):
        return tuple(family.constraints() for family in self.families)

    def component_axes(self):
        return tuple(full_axes(family) for family in self.families)

    def ill_conditioned(self, params):
        flags = [family.ill_conditioned(p) for family, p in self._zip(params)]
        flags = [flag for flag in flags if flag is not None]
        return jnp.stack(flags).any() if flags else None

    def params_to_units(self, units, params):
        if units is None:
            return params
        return tuple(family.params_to_units(u, p) for family, u, p in self._zip(units, params))

    def params_from_units(self, units, params):
        if units is None:
            return params
        return tuple(family.params_from_units(u, p) for family, u, p in self._zip(units, params))

    def _zip(self, *trees):
        return zip(self.families, *trees, strict=True)
