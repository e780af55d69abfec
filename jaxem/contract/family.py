"""A family: k components side by side, over which mixtures, chains and hard assignments are put."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.contract.capabilities import Draws, Embeds, Imputes
from jaxem.contract.errors import NotProvidedError
from jaxem.contract.model import EStep, Part
from jaxem.numerics.tracing import is_traced


class Family(Draws, Embeds, Imputes, Part):
    """What k components look like. It stands beside `Model`: `Mixture(family, k)` makes a model of it.

    Params have a leading component axis k (but for leaves that all components share, see `component_axes`). The steps
    of EM are those of a model with two differences: `e_step` gives log_prob [n, k], the log density of every row under
    every component, and the weights of `sufficient_statistics` are [n, k], responsibilities times sample weights.

    - `sufficient_statistics(None, x, weights)` is that of a random start, for which no E-step has been made.
    - Statistics have a field `count` [k]: how many rows each component holds.
    - `maximize(stats)` without params is the M-step of a random start: there is no incumbent.
    - n_points in `degenerate` is [k], the rows of each component.
    - `sample` gives n rows of every component, [n, k, ...].
    """

    #: What rows can be: a `Support` of jaxem/families/support.py. None: anything.
    support: Any = None

    #: A tree like params of the shapes of its leaves, whose sizes are numbers or names: "k" for the components, "d" for
    #: the columns of x. None: any shapes.
    param_shapes: Any = None

    @property
    def row_ndim(self) -> Any:
        """Rank of one row of x: 1 for a vector, 0 for a number; a tree like x where x is several arrays."""
        return 1 if self.support is None else self.support.row_ndim

    @property
    def independent_columns(self) -> bool:
        """Whether log p(x) is a sum over the columns of x, each with parameters of its own."""
        return self.row_ndim == 0

    def component_axes(self) -> Any:
        """A tree like params: 0 where a leaf has a leading component axis, None where components share it."""
        return 0

    def embed(self, x: Any, weights: jax.Array | None = None) -> Any:
        """Coordinates [n, e] in which distances between rows (in standard units) mean something, for starts."""
        x = jnp.asarray(x)
        return _column_scaled(x.reshape(x.shape[0], -1).astype(jnp.result_type(x, jnp.float32)), weights)

    def weighted_e_step(self, params: Any, log_weights: Any, x: Any) -> EStep:
        """As `e_step`, with log(weights_k p(x | k)) in place of log p(x | k), as a mixture needs it."""
        latent, log_prob = self.e_step(params, x)
        return EStep(latent, log_prob + log_weights)

    def check(self, x: Any, params: Any = None) -> None:
        """Raise ValueError where x is outside the support, or params do not have the declared shapes."""
        sizes = {}
        if self.support is not None:
            self.support.check_shape(x)
            sizes = self.support.sizes(x)
        if params is not None and self.param_shapes is not None:
            check_param_shapes(params, self.param_shapes, sizes)
        if self.support is not None and not is_traced(x):
            self.support.check_values(x)

    def mean(self, params: Any) -> Any:
        """The expected row of every component: [k, ...]. Optional."""
        raise NotProvidedError(self, "mean")

    def conditional_mean(self, params: Any, x: Any) -> Any:
        """The expected row given what was seen of it, under every component: [n, k, ...]."""
        k = jax.tree.leaves(params)[0].shape[0]
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:, None], (leaf.shape[0], k, *leaf.shape[1:])), x)

    def observed(self, x: Any) -> Any:
        """Which rows [n] have anything to see, on the host; None where all have."""
        return None

    def informed(self, resp: Any, x: Any) -> Any:
        """Responsibilities [n, k] of a random start, in accord with what x says about the hidden value."""
        return resp

    def refined(self, params: Any, z: Any, weights: jax.Array) -> Any:
        """Params of an M-step with weights [n, k], once more from sums about the means, which do not cancel."""
        return params

    def init_components(self, key: jax.Array, x: Any, weights: jax.Array) -> Any:
        """Random params of k components from random responsibilities times sample weights, [n, k]."""
        return self.maximize(self.sufficient_statistics(None, x, weights))

    def permute(self, params: Any, order: Any) -> Any:
        """The components renumbered: new component j is old component order[j]."""
        return map_components(self, lambda leaf: leaf[order], params)

    def keep_where(self, alive: Any, new: Any, old: Any) -> Any:
        """`new`, with the components that are not alive [k] taken from `old`."""

        def pick(a, b):
            return jnp.where(alive.reshape(alive.shape + (1,) * (a.ndim - 1)), a, b)

        return map_components(self, pick, new, old)


def map_components(family: Family, function: Callable, params: Any, *rest: Any) -> Any:
    """Apply `function` to the leaves that have a component axis; leave shared ones (of the first tree) alone."""
    axes = family.component_axes()
    if axes == 0:
        return jax.tree.map(function, params, *rest)
    return jax.tree.map(
        lambda axis, *leaves: leaves[0] if axis is None else function(*leaves),
        axes,
        params,
        *rest,
        is_leaf=lambda node: node is None,
    )


def full_axes(family: Family) -> Any:
    """`component_axes` spelt out as a tree like params."""
    axes = family.component_axes()
    if axes != 0:
        return axes
    return jax.tree.map(lambda _: 0, family.constraints(), is_leaf=lambda node: hasattr(node, "to_free"))


def check_param_shapes(params: Any, shapes: Any, sizes: dict) -> None:
    """Raise ValueError naming the first leaf of params that has another shape than declared.

    Args:
        params: a NamedTuple.
        shapes: one like it of tuples of sizes, by number or by name. A name that is not in `sizes` takes its size from
            the first leaf that has it.
        sizes: the sizes that are known, by name.
    """
    sizes = dict(sizes)
    for field, leaf, names in zip(params._fields, params, shapes, strict=True):
        wanted = [sizes.get(name, name) for name in names]
        shape = np.shape(leaf)
        if len(shape) != len(wanted) or any(
            size != got for size, got in zip(wanted, shape, strict=True) if not isinstance(size, str)
        ):
            raise ValueError(f"start: {field} has shape {shape}, expected [{', '.join(map(str, wanted))}]")
        sizes.update({size: got for size, got in zip(wanted, shape, strict=True) if isinstance(size, str)})


def _column_scaled(x, weights):
    weights = jnp.ones(x.shape[0], x.dtype) if weights is None else weights
    mean = weights @ x / weights.sum()
    spread = jnp.sqrt(weights @ (x - mean) ** 2 / weights.sum())
    return (x - mean) / jnp.where(spread > 0, spread, 1)


def alive_components(count: Any) -> Any:
    """Which components [k] hold any weight: more than what rounding leaves of the total."""
    return count > count.sum() * jnp.finfo(count.dtype).eps ** 2
