"""A family: k components side by side, of which mixtures, chains and other models are made."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.contract.capabilities import Draws, Embeds, Imputes
from jaxem.contract.errors import NotProvidedError
from jaxem.contract.model import EStep, Part
from jaxem.numerics.tracing import is_traced


class Family(Draws, Embeds, Imputes, Part):
    """A family of distributions, one for each of k components: `Mixture(family, k)` is a model.

    Params have a leading component axis k, but for leaves that all components share (see
    `component_axes`). The steps of EM are those of a `Model` with these differences:

    - `e_step` gives log_prob [n, k], the log density of every row under every component.
    - The weights of `sufficient_statistics` are [n, k]: responsibilities times sample weights.
    - `sufficient_statistics(None, x, weights)` is used for a random start, before any E-step.
    - Statistics have a field `count` [k]: how many rows each component holds.
    - `maximize(stats)` without params is the M-step of a random start, where no params are known.
    - `degenerate` takes n_points [k]: the number of rows of each component.
    - `sample` gives n rows of every component, [n, k, ...].
    """

    #: What rows can be: a `Support` of jaxem/families/support.py, or None for anything.
    support: Any = None

    #: A tree like params with the shapes of its leaves, or None for any shapes. Sizes are numbers
    #: or names: "k" for the components, "d" for the columns of x.
    param_shapes: Any = None

    if TYPE_CHECKING:  # Subclasses may write them as attributes.
        row_ndim: ClassVar[Any]
        independent_columns: ClassVar[Any]
    else:

        @property
        def row_ndim(self) -> Any:
            """The rank of one row of x: 1 for a vector, 0 for a number.

            It is a tuple of ranks where x is a tuple of arrays.
            """
            return 1 if self.support is None else self.support.row_ndim

        @property
        def independent_columns(self) -> bool:
            """Whether log p(x) is a sum over the columns of x, each of which has its own params."""
            return self.row_ndim == 0

    def component_axes(self) -> Any:
        """The component axis of each leaf of params.

        Returns:
            A tree like params, with 0 for a leaf that has a leading component axis and None for a
            leaf that all components share; or 0 where all leaves have the axis.
        """
        return 0

    def embed(self, x: Any, weights: jax.Array | None = None) -> Any:
        x = jnp.asarray(x)
        return _column_scaled(x.reshape(x.shape[0], -1).astype(jnp.result_type(x, jnp.float32)), weights)

    def weighted_e_step(self, params: Any, log_weights: Any, x: Any) -> EStep:
        """The E-step of a mixture: log_prob [n, k] is log(weight_k p(x | k)).

        Args:
            params: params of the family.
            log_weights: logs of the mixture weights [k].
            x: rows [n, ...], or prepared data.
        """
        latent, log_prob = self.e_step(params, x)
        return EStep(latent, log_prob + log_weights)

    def check(self, x: Any, params: Any = None) -> None:
        """Check that x is inside the support and that params have the declared shapes.

        Raises:
            ValueError: x or params are not as declared. The values of x are not checked if traced.
        """
        sizes = {}
        if self.support is not None:
            self.support.check_shape(x)
            sizes = self.support.sizes(x)
        if params is not None and self.param_shapes is not None:
            check_param_shapes(params, self.param_shapes, sizes)
        if self.support is not None and not is_traced(x):
            self.support.check_values(x)

    def mean(self, params: Any) -> Any:
        """The expected row of every component, [k, ...]. This method is optional."""
        raise NotProvidedError(self, "mean")

    def conditional_mean(self, params: Any, x: Any) -> Any:
        """The expected rows given what was observed of them, for every component: [n, k, ...]."""
        k = jax.tree.leaves(params)[0].shape[0]
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:, None], (leaf.shape[0], k, *leaf.shape[1:])), x)

    def observed(self, x: Any) -> Any:
        """Which rows [n] have any observed entry, on the host; None where all have."""
        return None

    def informed(self, resp: Any, x: Any) -> Any:
        """Responsibilities [n, k] of a random start, changed to agree with labels in x, if any."""
        return resp

    def refined(self, params: Any, z: Any, weights: jax.Array) -> Any:
        """Compute the params of an M-step again from sums about the means, which do not cancel.

        Args:
            params: the result of the M-step.
            z: rows [n, ...] in standard units.
            weights: responsibilities times sample weights, [n, k].
        """
        return params

    def init_components(self, key: jax.Array, x: Any, weights: jax.Array) -> Any:
        """Random params of k components.

        Args:
            key: a random key.
            x: rows [n, ...].
            weights: random responsibilities times sample weights, [n, k].
        """
        return self.maximize(self.sufficient_statistics(None, x, weights))

    def permute(self, params: Any, order: Any) -> Any:
        """Params with the components renumbered: new component j is old component order[j]."""
        return map_components(self, lambda leaf: leaf[order], params)

    def keep_where(self, alive: Any, new: Any, old: Any) -> Any:
        """The params `new`, with the components that are not alive taken from `old`.

        Args:
            alive: [k] of bool.
            new: params.
            old: params.
        """

        def pick(a, b):
            return jnp.where(alive.reshape(alive.shape + (1,) * (a.ndim - 1)), a, b)

        return map_components(self, pick, new, old)


def map_components(family: Family, function: Callable, params: Any, *rest: Any) -> Any:
    """Apply `function` to the leaves that have a component axis.

    A leaf that all components share is that of the first tree.

    Args:
        family: the family whose `component_axes` say which leaves have the axis.
        function: (leaf of `params`, leaf of each tree in `rest`) -> new leaf.
        params: params of the family.
        *rest: more trees like params.
    """
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
    """The `component_axes` of a family as a tree like params, also where they are a single 0."""
    axes = family.component_axes()
    if axes != 0:
        return axes
    return jax.tree.map(lambda _: 0, family.constraints(), is_leaf=lambda node: hasattr(node, "to_free"))


def check_param_shapes(params: Any, shapes: Any, sizes: dict) -> None:
    """Check the shapes of params.

    Args:
        params: a NamedTuple.
        shapes: a NamedTuple like it of tuples of sizes, which are numbers or names. A name that is
            not in `sizes` takes its size from the first leaf that has it.
        sizes: the sizes that are known, by name.

    Raises:
        ValueError: a leaf has another shape than declared; the message names the first one.
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
    """Which components [k] hold weight: a larger share of the total than eps^2 of the dtype."""
    return count > count.sum() * jnp.finfo(count.dtype).eps ** 2
