"""A family: k components side by side, over which mixtures, chains and hard assignments are put."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxem.contract.model import EStep, Model


class Family(Model):
    """k components side by side: the same contract, with weights [n, k] and log_prob [n, k]."""

    #: Rank of one row of x: 1 for a vector, 0 for a number; a tree like x where x is several arrays.
    row_ndim: Any = 1

    @property
    def independent_columns(self) -> bool:
        """Whether log p(x) is a sum over the columns of x, each with parameters of its own."""
        return self.row_ndim == 0

    def component_axes(self) -> Any:
        """A tree like params: 0 where a leaf has a leading component axis, None where components share it."""
        return 0

    def embed(self, x, weights=None):
        """Coordinates [n, e] in which distances between rows (in standard units) mean something, for starts."""
        x = jnp.asarray(x)
        return _column_scaled(x.reshape(x.shape[0], -1).astype(jnp.result_type(x, jnp.float32)), weights)

    def weighted_e_step(self, params, log_weights, x) -> EStep:
        """As `e_step`, with log(weights_k p(x | k)) in place of log p(x | k), as a mixture needs it."""
        latent, log_prob = self.e_step(params, x)
        return EStep(latent, log_prob + log_weights)

    def mean(self, params):
        """The expected row of every component: [k, ...]."""
        raise NotImplementedError(f"{type(self).__name__}.mean")

    def conditional_mean(self, params, x):
        """The expected row given what was seen of it, under every component: [n, k, ...]."""
        k = jax.tree.leaves(params)[0].shape[0]
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:, None], (leaf.shape[0], k, *leaf.shape[1:])), x)

    def observed(self, x):
        """Which rows [n] have anything to see, on the host; None where all have."""
        return None

    def informed(self, resp, x):
        """Responsibilities [n, k] of a random start, in accord with what x says about the hidden value."""
        return resp

    def init_components(self, key, x, weights):
        """Random params of k components from random responsibilities times sample weights, [n, k]."""
        return self.maximize(self.sufficient_statistics(None, x, weights))

    def permute(self, params, order):
        return map_components(self, lambda leaf: leaf[order], params)

    def keep_where(self, alive, new, old):
        """`new`, with the components that are not alive [k] taken from `old`."""

        def pick(a, b):
            return jnp.where(alive.reshape(alive.shape + (1,) * (a.ndim - 1)), a, b)

        return map_components(self, pick, new, old)


def map_components(family, function, params, *rest):
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


def full_axes(family):
    """`component_axes` spelt out as a tree like params."""
    axes = family.component_axes()
    if axes != 0:
        return axes
    return jax.tree.map(lambda _: 0, family.constraints(), is_leaf=lambda node: hasattr(node, "to_free"))


def _column_scaled(x, weights):
    weights = jnp.ones(x.shape[0], x.dtype) if weights is None else weights
    mean = weights @ x / weights.sum()
    spread = jnp.sqrt(weights @ (x - mean) ** 2 / weights.sum())
    return (x - mean) / jnp.where(spread > 0, spread, 1)


def alive_components(count):
    """Which components [k] hold any weight: more than what rounding leaves of the total."""
    return count > count.sum() * jnp.finfo(count.dtype).eps ** 2
