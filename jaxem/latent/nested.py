"""A model as a component: k copies side by side, such as mixtures in a hidden Markov model."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.contract.capabilities import Conjugate, Embeds, provides
from jaxem.contract.family import Family, alive_components
from jaxem.contract.model import EStep, Model, model_class
from jaxem.contract.posterior import Posterior, as_posterior
from jaxem.contract.pytree import pytree_class
from jaxem.contract.units import Copies, Units


@pytree_class
class CopiesPosterior(Posterior):
    """The posteriors of k copies of a model, each over its own hidden variables.

    Attributes:
        each: a posterior of the model, whose leaves have a leading axis k.
    """

    each: Any

    def entropy(self) -> jax.Array:
        return jax.vmap(lambda one: as_posterior(one).entropy())(self.each).T

    def kl(self, other: Any) -> jax.Array:
        return jax.vmap(lambda one, its: as_posterior(one).kl(its))(self.each, other.each).T


class NestedStats(NamedTuple):
    """The expected sufficient statistics of `Nested`.

    Attributes:
        count: the expected number of rows of each copy, [k].
        parts: the statistics of the copies, whose leaves have a leading axis k.
    """

    count: Any
    parts: Any


@model_class
class Nested(Conjugate, Family):
    """k copies of a model as a family, each copy with its own params; log_prob is [n, k], in nats.

    `Mixture` and `HMM` wrap a component in it where the component is a whole model, so that

        HMM(Mixture(Gaussian("full"), 3), 2)  has two states, each with a mixture of three normals,
        Mixture(HMM(Poisson(), 2), 3)         has three components, each with a chain of its own.

    The hidden variables of the model are those of the family. The E-steps and the M-steps of the
    copies run side by side (`vmap`), with rows weighted by the responsibilities of each copy. A
    random start of a copy is one of the model with these weights. Jordan and Jacobs (1994); Smyth
    (1997) for mixtures of hidden Markov models.

    Args:
        model: a model that has coordinates for random starts (`embed`).

    Raises:
        ValueError: the model has no such coordinates.

    Examples:
        >>> import jax, jaxem
        >>> model = jaxem.HMM(jaxem.Mixture(jaxem.Gaussian("diag"), 2), 2)
        >>> params = model.init(jax.random.key(0), jaxem.datasets.old_faithful())
        >>> params.emissions.weights.shape, params.emissions.components.mean.shape
        ((2, 2), (2, 2, 2))
    """

    model: Any

    @staticmethod
    def _each(function, *trees):
        """`function` of the part of each copy in the trees, side by side."""
        return jax.vmap(function)(*jax.tree.map(jnp.asarray, trees))

    @property
    def row_ndim(self) -> Any:
        return self.model.row_ndim

    @property
    def judged_by_statistics(self) -> bool:
        return self.model.judged_by_statistics

    def rows(self, x: Any) -> Any:
        return self.model.rows(x)

    def n_observations(self, x: Any, weights: jax.Array | None = None) -> Any:
        return self.model.n_observations(x, weights)

    def check_finite(self, x: Any) -> None:
        self.model.check_finite(x)

    def embed(self, x: Any, weights: jax.Array | None = None) -> Any:
        return self.model.embed(x, weights)

    def init_components(self, key: jax.Array, x: Any, weights: jax.Array) -> Any:
        """A random start of each copy from the rows that it is responsible for.

        A copy that is responsible for no rows starts from all of them.
        """
        count = weights.sum(0)
        columns = jnp.where(count > 0, weights, weights.sum(1, keepdims=True)).T
        keys = jax.random.split(key, len(columns))
        return jax.vmap(lambda key, column: self.model.init(key, x, column))(keys, columns)

    def __post_init__(self) -> None:
        if not provides(self.model, Embeds):
            name = type(self.model).__name__
            raise ValueError(
                f"component: {name} has no coordinates for random starts; write embed(x, weights=None) -> [n, e] in it "
                "and inherit jaxem.contract.capabilities.Embeds"
            )

    def prepare(self, x: Any, weights: jax.Array | None = None, centred: bool = False) -> Any:
        # The weights are not passed on: they are shared among the copies, so a sum over all rows
        # is not the sum of any copy.
        return self.model.prepare(x, None, centred)

    def e_step(self, params: Any, x: Any) -> EStep:
        resp, log_prob = self._each(lambda p: self.model.e_step(p, x), params)
        return EStep(CopiesPosterior(resp), log_prob.T)

    def sufficient_statistics(self, resp: Any, x: Any, weights: jax.Array) -> Any:
        parts = self._each(lambda r, w: self.model.sufficient_statistics(r, x, w), resp.each, weights.T)
        return NestedStats(weights.sum(0), parts)

    def maximize(self, stats: Any, params: Any = None) -> Any:
        if params is None:
            return self._each(self.model.maximize, stats.parts)
        return self.keep_where(
            alive_components(stats.count), self._each(self.model.maximize, stats.parts, params), params
        )

    def constraints(self) -> Any:
        return self.model.constraints()

    def expected_log_joint(self, params: Any, stats: Any) -> jax.Array:
        return self._each(self.model.expected_log_joint, params, stats.parts).sum()

    def log_prior(self, params: Any) -> Any:
        return jnp.sum(self._each(lambda p: jnp.asarray(self.model.log_prior(p)), params))

    def pseudo_statistics(self, params: Any, strength: Any, units: Any = None) -> Any:
        units = None if units is None else units.inner
        parts = jax.vmap(lambda p: self.model.pseudo_statistics(p, strength, units))(params)
        return NestedStats(jnp.zeros(len(jax.tree.leaves(params)[0]), jax.tree.leaves(params)[0].dtype), parts)

    def conditional_mean(self, params: Any, x: Any) -> Any:
        means = jax.vmap(lambda p: self.model.conditional_mean(p, x))(params)
        return jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), means)

    def sample(self, params: Any, key: jax.Array, n: int) -> Any:
        return self._draw(params, key, lambda p, key: self.model.sample(p, key, n))

    def sample_like(self, params: Any, key: jax.Array, x: Any) -> Any:
        return self._draw(params, key, lambda p, key: self.model.sample_like(p, key, x))

    def _draw(self, params, key, sample):
        """Draw rows [n, k, ...], n from every copy."""
        keys = jax.random.split(key, len(jax.tree.leaves(params)[0]))
        return jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), self._each(sample, params, keys))

    def degenerate(self, params: Any, size: Any) -> Any:
        size = size.parts if self.judged_by_statistics else size
        flags = self._each(self.model.degenerate, params, size)
        return flags.reshape(len(flags), -1).any(1)

    def ill_conditioned(self, params: Any) -> Any:
        first = jax.tree.map(lambda leaf: leaf[0], params)
        return (
            None if self.model.ill_conditioned(first) is None else self._each(self.model.ill_conditioned, params).any()
        )

    def check(self, x: Any, params: Any = None) -> None:
        self.model.check(x)
        for p in self._copies(params):
            self.model.check(x, p)

    def _copies(self, params):
        k = 0 if params is None else min(np.shape(leaf)[0] for leaf in jax.tree.leaves(params))
        return [jax.tree.map(lambda leaf, j=j: leaf[j], params) for j in range(k)]

    def check_fit(self, x: Any, weights: jax.Array, dtype: Any) -> None:
        self.model.check_fit(x, weights, dtype)

    # --- units of the model, the same for all copies ----------------------------------------------

    def units(self, x: Any, weights: jax.Array | None = None) -> Units:
        return of_copies(self.model.units(x, weights))

    def origin(self, x: Any, params: Any = None) -> Units:
        first = None if x is not None or params is None else jax.tree.map(lambda leaf: leaf[0], params)
        return of_copies(self.model.origin(x, first))


def of_copies(units: Units) -> Units:
    """The units of k copies from the units of the model."""
    return units if units.is_identity else Copies(units)


def as_family(component: Any) -> Any:
    """A component as a family; a model that is not a family is wrapped in `Nested`.

    Raises:
        ValueError: the component is neither a family nor a model, or it is a class.
    """
    if isinstance(component, type) or not isinstance(component, (Model, Family)):
        raise ValueError(f"component: expected a family such as jaxem.Gaussian(), or a model; got {component!r}")
    return component if isinstance(component, Family) else Nested(component)
