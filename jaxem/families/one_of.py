"""Components of different families beside each other, on the same rows."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.contract.affine import Affine
from jaxem.contract.constraints import Constraint, Fixed
from jaxem.contract.errors import NotProvidedError
from jaxem.contract.family import Family
from jaxem.contract.model import EStep, model_class
from jaxem.contract.posterior import Posterior
from jaxem.contract.pytree import pytree_class, static
from jaxem.contract.units import AffineUnits, Identity, Units
from jaxem.contract.wrapper import Wrapper
from jaxem.families.several import Several, SeveralUnits
from jaxem.families.uniform import OwnParamsUnits


class InUnits(NamedTuple):
    """Rows in the units of each family, and the log-volumes that make their densities comparable.

    Attributes:
        rows: a tuple, with the rows in the units of each family.
        log_volume: [n, n_families].
    """

    rows: Any
    log_volume: Any


def in_units(x: Any, n_families: int) -> InUnits:
    """Rows of the data as `InUnits`, in the same units for every family; `InUnits` as they are."""
    if isinstance(x, InUnits):
        return x
    return InUnits((x,) * n_families, jnp.zeros((_n_rows(x), n_families), _dtype(x)))


@pytree_class
class OneOfUnits(SeveralUnits):
    """The units of each family: rows become `InUnits`, which hold the volumes of each family."""

    def rows(self, x: Any) -> Any:
        rows, before = in_units(x, len(self.each))
        rows = tuple(units.rows(part) for units, part in zip(self.each, rows, strict=True))
        volumes = [jnp.asarray(units.log_volume(), before.dtype) for units in self.each]
        return InUnits(rows, before + jnp.stack(volumes))


@pytree_class
class OneOriginUnits(SeveralUnits):
    """The units of each family, all with the same origin: rows are moved once for all of them."""

    def rows(self, x: Any) -> Any:
        return self.each[0].rows(x)

    def rows_back(self, z: Any) -> Any:
        return self.each[0].rows_back(z)

    def model(self, model: Any) -> Any:
        families = tuple(units.model(family) for units, family in zip(self.each, model.families, strict=True))
        return dataclasses.replace(model, families=families)


@pytree_class
class OneOfPosterior(Posterior):
    """The posteriors of the hidden variables of each family, given the component.

    Attributes:
        parts: one posterior for each family, or None for a family without hidden variables.
    """

    parts: tuple[Any, ...]


class OneOfStats(NamedTuple):
    """The expected sufficient statistics of `OneOf`.

    Attributes:
        count: the expected number of rows of each component, [k].
        parts: a tuple with the statistics of each family.
        log_volume: the sum of the log-volumes, each weighted by the responsibility of its family
            for the row, [].
    """

    count: Any
    parts: Any
    log_volume: Any


@model_class
class OneOf(Several):
    """Components of different families on the same rows: first sizes[0] of families[0], and so on.

    There are k = sum(sizes) components in all. Params are a tuple with the params of each family.
    Every family reads the whole rows, in its own standard units, and
    `Mixture(OneOf(families, sizes), sum(sizes))` weighs them against each other. Two uses are noise
    beside clusters (`Uniform`), and a point mass such as extra zeros among counts (`Held` at a rate
    of 0).

    Args:
        families: a tuple of families of the same rows.
        sizes: a tuple with the number of components of each family.

    Raises:
        ValueError: `sizes` are not whole numbers above 0, one for each family.

    Examples:
        >>> import jax, jaxem
        >>> x = jaxem.datasets.old_faithful()
        >>> family = jaxem.OneOf((jaxem.Gaussian(), jaxem.Uniform.around(x)), (2, 1))
        >>> model = jaxem.Mixture(family, 3)
        >>> best, _ = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=4)
        >>> clusters, noise = best.params.components
        >>> clusters.mean.shape, noise.low.shape
        ((2, 2), (1, 2))
    """

    families: tuple[Any, ...]
    sizes: tuple = static()

    def __post_init__(self) -> None:
        ok = len(self.families) == len(self.sizes) and all(isinstance(size, int) and size > 0 for size in self.sizes)
        if not ok:
            raise ValueError(f"sizes: expected a number of components for each family; got {self.sizes!r}")

    @property
    def row_ndim(self) -> Any:
        return self.families[0].row_ndim

    def e_step(self, params: Any, x: Any) -> EStep:
        rows, log_volume = self._rows(x)
        steps = [family.e_step(p, part) for family, p, part in self._zip(params, rows)]
        log_prob = [step.log_prob - log_volume[..., j, None] for j, step in enumerate(steps)]
        latent = tuple(step.resp for step in steps)
        known = any(part is not None for part in latent)
        return EStep(OneOfPosterior(latent) if known else None, jnp.concatenate(log_prob, 1))

    def sufficient_statistics(self, resp: Any, x: Any, weights: jax.Array) -> OneOfStats:
        rows, log_volume = self._rows(x)
        latent = self._latents(resp)
        split = jnp.split(weights, self._cuts(), 1)
        parts = [family.sufficient_statistics(*each) for family, *each in self._zip(latent, rows, split)]
        held = jnp.stack([part.sum(1) for part in split], 1)  # [n, families]
        return OneOfStats(weights.sum(0), tuple(parts), (held * log_volume).sum())

    def expected_log_joint(self, params: Any, stats: Any) -> jax.Array:
        own = [family.expected_log_joint(p, part) for family, p, part in self._zip(params, stats.parts)]
        return sum(own) - stats.log_volume

    def pseudo_statistics(self, params: Any, strength: Any, units: Any = None) -> OneOfStats:
        parts = self._pseudo_parts(params, strength, units)
        dtype = jnp.result_type(*jax.tree.leaves(params))
        return OneOfStats(jnp.zeros(sum(self.sizes), dtype), parts, jnp.zeros((), dtype))

    def permute(self, params: Any, order: Any) -> Any:
        """The components renumbered within their family; an order may not mix families."""
        orders = np.split(np.asarray(order), self._cuts())
        starts = np.concatenate([[0], self._cuts()])
        orders = [part - start for part, start in zip(orders, starts, strict=True)]
        if any(sorted(part) != list(range(size)) for part, size in zip(orders, self.sizes, strict=True)):
            raise NotProvidedError(self, "permute", "components of different families cannot change places")
        return tuple(family.permute(p, part) for family, p, part in self._zip(params, orders))

    def embed(self, x: Any, weights: jax.Array | None = None) -> Any:
        return self.families[0].embed(self._rows(x)[0][0], weights)

    def prepare(self, x: Any, weights: jax.Array | None = None, centred: bool = False) -> Any:
        rows, log_volume = self._rows(x)
        # The weights are not passed on: they are shared among the families, so a sum over all rows
        # is not the sum of any family.
        return InUnits(tuple(family.prepare(part, None, centred) for family, part in self._zip(rows)), log_volume)

    def degenerate(self, params: Any, n_points: Any) -> Any:
        split = jnp.split(n_points, self._cuts())
        flags = [jnp.broadcast_to(family.degenerate(p, n), n.shape) for family, p, n in self._zip(params, split)]
        return jnp.concatenate(flags)

    def units(self, x: Any, weights: jax.Array | None = None) -> Units:
        units = OneOfUnits(tuple(family.units(part, weights) for family, part in self._zip(self._rows(x).rows)))
        return Identity() if units.is_identity else units

    def origin(self, x: Any, params: Any = None) -> Units:
        """The origin of the first family for all of them, where each can move to it."""
        params = (None,) * len(self.families) if params is None else params
        each = [family.origin(x, p) for family, p in self._zip(params)]
        if not all(isinstance(units, AffineUnits) for units in each):
            return Identity()
        affine = Affine(each[0].affine.shift, np.float64(1))
        return OneOriginUnits(tuple(dataclasses.replace(units, affine=affine) for units in each))

    def refined(self, params: Any, z: Any, weights: jax.Array) -> Any:
        split = jnp.split(weights, self._cuts(), 1)
        return tuple(family.refined(p, part, w) for family, p, part, w in self._zip(params, self._rows(z).rows, split))

    def sample(self, params: Any, key: jax.Array, n: int) -> Any:
        keys = jax.random.split(key, len(self.families))
        draws = [family.sample(p, k, n) for family, p, k in self._zip(params, keys)]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, 1), *draws)

    def sample_like(self, params: Any, key: jax.Array, x: Any) -> Any:
        keys = jax.random.split(key, len(self.families))
        draws = [family.sample_like(p, k, x) for family, p, k in self._zip(params, keys)]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, 1), *draws)

    def check(self, x: Any, params: Any = None) -> None:
        for j, family in enumerate(self.families):
            family.check(x, None if params is None else params[j])

    def check_fit(self, x: Any, weights: jax.Array, dtype: Any) -> None:
        for family in self.families:
            family.check_fit(x, weights, dtype)

    def _rows(self, x):
        return in_units(x, len(self.families))

    def _cuts(self):
        return np.cumsum(self.sizes)[:-1]


def _n_rows(x):
    return jax.tree.leaves(x)[0].shape[0]


def _dtype(x):
    return jnp.result_type(*jax.tree.leaves(x))


@pytree_class
class HeldUnits(OwnParamsUnits):
    """An origin near the rows, in which the fixed params of a `Held` have other values."""

    def model(self, model: Any) -> Any:
        return dataclasses.replace(model, params=self.params(self.own))


@model_class
class Held(Wrapper, Family):
    """A family whose components are fixed at `params`: a fit does not move them.

    Args:
        model: the family.
        params: its params in the units of the data, with their leading axis of components.

    Examples:
        >>> import jax, jaxem
        >>> zeros = jaxem.Held(jaxem.Poisson(), jaxem.PoissonParams(jax.numpy.zeros(1)))
        >>> zeros.e_step(zeros.params, jax.numpy.array([0.0, 3.0])).log_prob.ravel().tolist()
        [0.0, -inf]
    """

    model: Any
    params: Any

    def maximize(self, stats: Any, params: Any = None) -> Any:
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, stats.count.dtype), self.params)

    def refined(self, params: Any, z: Any, weights: jax.Array) -> Any:
        return params

    def constraints(self) -> Any:
        places = self.model.constraints()
        return jax.tree.map(Fixed, places, is_leaf=lambda node: isinstance(node, Constraint))

    def degenerate(self, params: Any, n_points: Any) -> Any:
        return jnp.zeros((), bool)

    # The fixed params are in the data's units, and so are the rows.

    def units(self, x: Any, weights: jax.Array | None = None) -> Units:
        return Identity()

    def origin(self, x: Any, params: Any = None) -> Units:
        units = self.model.origin(x, self.params)
        if type(units) is not AffineUnits:
            return Identity()
        own = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), self.params)
        return HeldUnits(units.affine, units.roles, own)
