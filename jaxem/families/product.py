"""Mixed columns: several families side by side, independent given the component."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.contract.family import Family
from jaxem.contract.model import EStep, model_class
from jaxem.contract.posterior import Posterior
from jaxem.contract.pytree import pytree_class
from jaxem.contract.units import Identity, Units
from jaxem.families.several import Several, SeveralUnits


class Parts(NamedTuple):
    """Rows in units, or prepared rows.

    Attributes:
        parts: a tuple with one entry for each family.
    """

    parts: tuple[Any, ...]


@pytree_class
class ProductUnits(SeveralUnits):
    """The units of each part of the rows, which become `Parts`."""

    def rows(self, x: Any) -> Any:
        return Parts(tuple(units.rows(part) for units, part in zip(self.each, _parts(x), strict=True)))

    def rows_back(self, z: Any) -> Any:
        return tuple(units.rows_back(part) for units, part in zip(self.each, _parts(z), strict=True))

    def log_volume(self) -> Any:
        return sum(units.log_volume() for units in self.each)


@pytree_class
class ProductPosterior(Posterior):
    """The posteriors of the hidden variables of each family, given the component.

    Attributes:
        parts: one posterior for each family, or None for a family without hidden variables.
    """

    parts: tuple[Any, ...]

    def entropy(self) -> Any:
        return sum(part.entropy() for part in self.parts if part is not None)

    def kl(self, other: Any) -> Any:
        pairs = zip(self.parts, other.parts, strict=True)
        return sum(part.kl(its) for part, its in pairs if part is not None)


class ProductStats(NamedTuple):
    """The expected sufficient statistics of `Product`.

    Attributes:
        count: the expected number of rows of each component, [k].
        parts: a tuple with the statistics of each family.
    """

    count: Any
    parts: Any


@model_class
class Product(Several):
    """Mixed columns: p(x) = prod_j p_j(x_j), where x is a tuple with one entry for each family.

    Given the component the parts of a row are independent, so each family does its own M-step.
    Params are a tuple with the params of each family. McLachlan and Peel (2000), section 5.7
    (mixed-mode data).

    Args:
        families: a tuple of families.

    Raises:
        ValueError: an entry of `families` is no family.

    Examples:
        >>> import jax, jaxem
        >>> family = jaxem.Product((jaxem.Gaussian("diag"), jaxem.Poisson()))
        >>> x = jaxem.datasets.old_faithful(), jax.numpy.arange(272.0) % 5
        >>> params = jaxem.Mixture(family, 2).init(jax.random.key(0), x)
        >>> [type(part).__name__ for part in params.components]
        ['GaussianParams', 'PoissonParams']
    """

    families: tuple[Any, ...]

    def __post_init__(self) -> None:
        if isinstance(self.families, (list, tuple)) and not all(isinstance(f, Family) for f in self.families):
            raise ValueError(f"families: expected a tuple of families; got {self.families!r}")

    @property
    def row_ndim(self) -> Any:
        return tuple(family.row_ndim for family in self.families)

    def e_step(self, params: Any, x: Any) -> EStep:
        steps = [family.e_step(p, part) for family, p, part in self._zip(params, _parts(x))]
        latent = tuple(step.resp for step in steps)
        known = any(part is not None for part in latent)
        log_prob = functools.reduce(jnp.add, (step.log_prob for step in steps))
        return EStep(ProductPosterior(latent) if known else None, log_prob)

    def sufficient_statistics(self, resp: Any, x: Any, weights: jax.Array) -> ProductStats:
        latent = self._latents(resp)
        parts = [family.sufficient_statistics(r, part, weights) for family, r, part in self._zip(latent, _parts(x))]
        return ProductStats(weights.sum(0), tuple(parts))

    def expected_log_joint(self, params: Any, stats: Any) -> Any:
        return sum(family.expected_log_joint(p, part) for family, p, part in self._zip(params, stats.parts))

    def pseudo_statistics(self, params: Any, strength: Any, units: Any = None) -> ProductStats:
        leaf = jax.tree.leaves(params)[0]
        return ProductStats(jnp.zeros(leaf.shape[0], leaf.dtype), self._pseudo_parts(params, strength, units))

    def conditional_mean(self, params: Any, x: Any) -> Any:
        return tuple(family.conditional_mean(p, part) for family, p, part in self._zip(params, _parts(x)))

    def observed(self, x: Any) -> Any:
        """Which rows have an entry that was seen, in any part."""
        seen = [family.observed(part) for family, part in self._zip(_parts(x))]
        return None if any(part is None for part in seen) else np.any(seen, axis=0)

    def embed(self, x: Any, weights: jax.Array | None = None) -> Any:
        """The coordinates of the families, each scaled to total variance 1: none dominates."""
        parts = [_even(family.embed(part, weights), weights) for family, part in self._zip(_parts(x))]
        return jnp.concatenate(parts, 1)

    def prepare(self, x: Any, weights: jax.Array | None = None, centred: bool = False) -> Any:
        return Parts(tuple(family.prepare(part, weights, centred) for family, part in self._zip(_parts(x))))

    def shared_log_lik(self, params: Any, stats: Any) -> Any:
        return sum(family.shared_log_lik(p, part) for family, p, part in self._zip(params, stats.parts))

    def degenerate(self, params: Any, n_points: Any) -> Any:
        flags = [jnp.broadcast_to(family.degenerate(p, n_points), n_points.shape) for family, p in self._zip(params)]
        return jnp.stack(flags).any(0)

    def units(self, x: Any, weights: jax.Array | None = None) -> Units:
        return _product(family.units(part, weights) for family, part in self._zip(_parts(x)))

    def origin(self, x: Any, params: Any = None) -> Units:
        nothing = (None,) * len(self.families)
        rows, params = nothing if x is None else _parts(x), nothing if params is None else params
        return _product(family.origin(part, p) for family, part, p in self._zip(rows, params))

    def refined(self, params: Any, z: Any, weights: jax.Array) -> Any:
        return tuple(family.refined(p, part, weights) for family, p, part in self._zip(params, _parts(z)))

    def sample(self, params: Any, key: jax.Array, n: int) -> Any:
        keys = jax.random.split(key, len(self.families))
        return tuple(family.sample(p, k, n) for family, p, k in self._zip(params, keys))

    def sample_like(self, params: Any, key: jax.Array, x: Any) -> Any:
        keys = jax.random.split(key, len(self.families))
        return tuple(family.sample_like(p, k, part) for family, p, k, part in self._zip(params, keys, _parts(x)))

    def init_components(self, key: jax.Array, x: Any, weights: jax.Array) -> Any:
        keys = jax.random.split(key, len(self.families))
        return tuple(family.init_components(k, part, weights) for family, k, part in self._zip(keys, _parts(x)))

    def check_finite(self, x: Any) -> None:
        x = x.parts if isinstance(x, Parts) else x
        # Whether there are as many parts as families is not known yet.
        for family, part in zip(self.families, x, strict=False) if isinstance(x, tuple) else ():
            family.check_finite(part)

    def check(self, x: Any, params: Any = None) -> None:
        x = x.parts if isinstance(x, Parts) else x
        if not isinstance(x, tuple) or len(x) != len(self.families):
            got = f"a tuple of {len(x)}" if isinstance(x, tuple) else f"a {type(x).__name__}"
            raise ValueError(f"x: expected a tuple of {len(self.families)} parts, one per family; got {got}")
        for j, (family, part) in enumerate(self._zip(x)):
            try:
                family.check(part, None if params is None else params[j])
            except ValueError as error:
                name, _, rest = str(error).partition(":")
                raise ValueError(f"{name} (part {j}):{rest}") from None

    def check_fit(self, x: Any, weights: jax.Array, dtype: Any) -> None:
        for family, part in self._zip(_parts(x)):
            family.check_fit(part, weights, dtype)


def _product(each) -> Units:
    """The units of the whole rows from the units of the parts."""
    units = ProductUnits(tuple(each))
    return Identity() if units.is_identity else units


def _parts(x):
    return x.parts if isinstance(x, Parts) else x


def _even(z, weights):
    """z [n, e] scaled as a whole to total variance 1."""
    weights = jnp.ones(z.shape[0], z.dtype) if weights is None else weights
    centred = z - weights @ z / weights.sum()
    variance = (weights @ centred**2).sum() / weights.sum()
    return centred / jnp.sqrt(jnp.where(variance > 0, variance, 1))
