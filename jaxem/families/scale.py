"""What families of positive numbers share: units of mean 1, and the test for degeneracy."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxem.contract.affine import Affine
from jaxem.contract.units import AffineUnits
from jaxem.families.degenerate import is_degenerate, rests_on_floor, shares
from jaxem.families.exponential_family import ExponentialFamily


class ScaleFamily(ExponentialFamily):
    """One positive number per row, x [n]; multiplying x by a number only rescales the params.

    A subclass says in `roles` how each leaf of its params moves with the scale.
    """

    #: A tree like params of the roles in `jaxem.contract.units`.
    roles: Any = None

    def units(self, x: Any, weights: jax.Array | None = None) -> AffineUnits:
        """The units in which the mean of the rows is 1."""
        weights = jnp.ones_like(x) if weights is None else weights
        # Dividing by the largest number first keeps the sum inside the dtype for any units.
        reach = jnp.where(weights > 0, x, 0).max()
        reach = jnp.where(reach > 0, reach, 1)
        mean = reach * ((weights / weights.sum()) @ (x / reach))
        mean = jnp.where(mean > 0, mean, 1)
        return AffineUnits(Affine(jnp.zeros_like(mean), mean), self.roles)


def collapsed(location: Any, variance: Any, n_points: Any, smallest: Any) -> Any:
    """Which components [k] hold a few rows or ties only, by the mean and variance of log x."""
    share = n_points / n_points.sum()
    total = share @ variance + share @ (location - share @ location) ** 2
    degenerate = is_degenerate(*shares(variance, total, n_points), n_points, 3)
    return degenerate | rests_on_floor(variance, smallest)
