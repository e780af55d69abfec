"""Random starts for models with k components, as responsibilities.

The M-step of the model turns responsibilities into params. No single kind of start finds every
optimum, so `fit_restarts` cycles through several. All kinds are one computation with different
numbers in it, so that they share a compiled program.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Recipe(NamedTuple):
    """The numbers that distinguish the kinds of start.

    Attributes:
        far: whether each centre is drawn in proportion to its squared distance from the nearest
            earlier centre (k-means++). Otherwise rows are drawn by their weights alone.
        n_lloyd: the number of k-means (Lloyd) steps that follow.
        noise: the share of random responsibilities, which are mixed with the cells of the centres.
    """

    far: bool
    n_lloyd: int
    noise: float


#: The kinds of start by name. "kmeans" stops before it reaches the optimum of k-means, where many
#: restarts would coincide.
RECIPES = {
    "kmeans": Recipe(True, 10, 0.0),
    "rows": Recipe(False, 0, 0.0),
    "resp": Recipe(False, 0, 1.0),
    "kmeans++": Recipe(True, 0, 0.0),
}
KINDS = tuple(RECIPES)

#: The share of every row that is spread evenly over the components. A cell of the partition may
#: hold fewer rows than a covariance needs; with this share of all rows, every start is proper.
SPREAD = 0.1


def responsibilities(
    kind: Any, key: jax.Array, z: Any, weights: jax.Array | None, k: int, n_active: Any = None, share: Any = SPREAD
) -> Any:
    """Random responsibilities [n, k] for a start.

    Args:
        kind: an index into KINDS; it may be traced.
        key: a random key.
        z: the coordinates of the rows, [n, e].
        weights: the weights of the rows [n], or None for equal weights.
        k: the number of components.
        n_active: if given, only so many components, the first ones, take part, and the start is
            the one that k = n_active gives. It may be traced.
        share: the share of every row that is spread evenly over the components.
    """
    weights = jnp.ones(z.shape[0], z.dtype) if weights is None else weights
    far, n_lloyd, noise = (jnp.asarray(column)[kind] for column in zip(*RECIPES.values(), strict=True))
    n = z.shape[0]
    active = jnp.arange(k) < (k if n_active is None else n_active)
    # One draw gives all random numbers, since every separate draw adds a generator to the program.
    uniform = jax.random.uniform(key, (k + n * k,), z.dtype)
    centres = _centres(uniform[:k], z, weights, far)
    centres = jax.lax.fori_loop(0, n_lloyd, lambda _, c: _lloyd(z, weights, c, active), centres)
    if n_active is None:
        spread, uniform = share / k, uniform[k:].reshape(n, k)
    else:
        # The numbers that k = n_active would draw are a prefix of these, in rows of n_active.
        spread = share * active.astype(z.dtype) / n_active
        position = n_active + jnp.arange(n)[:, None] * n_active + jnp.minimum(jnp.arange(k), n_active - 1)
        uniform = jnp.where(active, uniform[position], 0)
    cells = (1 - share) * _nearest(z, centres, active) + spread
    random = -jnp.log1p(-uniform)
    noise = noise.astype(z.dtype)
    return (1 - noise) * cells + noise * random / random.sum(-1, keepdims=True)


def draw_rows(key: jax.Array, rows: Any, weights: jax.Array | None, at_most: int) -> tuple[Any, Any]:
    """Rows for a start and their weights: all of them, or `at_most` where there are more.

    They are drawn with replacement, with chances in proportion to their weights. A row that was
    drawn counts as 1.
    """
    n = jax.tree.leaves(rows)[0].shape[0]
    if n <= at_most:
        return rows, weights
    chance = None if weights is None else weights / weights.sum()
    drawn = jax.random.choice(key, n, (at_most,), p=chance)
    ones = None if weights is None else jnp.ones(at_most, weights.dtype)
    return jax.tree.map(lambda leaf: leaf[drawn], rows), ones


def _row_at(uniform, weights):
    """The index of the row at quantile `uniform` of the weights; its weight is above 0."""
    cumulative = jnp.cumsum(weights)
    return jnp.minimum((cumulative <= uniform * cumulative[-1]).sum(), weights.shape[0] - 1)


def _centres(uniform, z, weights, far):
    """k rows as centres, drawn at random.

    With `far`, the probability of a row is in proportion to its weight times its squared distance
    from the nearest earlier centre (Arthur and Vassilvitskii 2007), else to its weight.
    """

    def add(j, carry):
        centres, nearest = carry
        # Any row will do as the first centre, or where every row coincides with an earlier centre.
        usable = far & (j > 0) & ((weights * nearest).sum() > 0)
        new = z[_row_at(uniform[j], weights * jnp.where(usable, nearest, 1))]
        return centres.at[j].set(new), jnp.minimum(nearest, ((z - new) ** 2).sum(-1))

    start = jnp.zeros((len(uniform), z.shape[1]), z.dtype), jnp.full(z.shape[0], jnp.finfo(z.dtype).max)
    return jax.lax.fori_loop(0, len(uniform), add, start)[0]


def _nearest(z, centres, active):
    """The nearest of the active centres for each row, as one-hot rows [n, k]."""
    cross = jnp.dot(z, centres.T, precision=jax.lax.Precision.HIGHEST)
    distance = (centres * centres).sum(-1) - 2 * cross
    distance = jnp.where(active, distance, jnp.inf)
    return jax.nn.one_hot(jnp.argmin(distance, axis=-1), centres.shape[0], dtype=z.dtype)


def _lloyd(z, weights, centres, active):
    member = _nearest(z, centres, active) * weights[:, None]
    count = member.sum(0)[:, None]
    return jnp.where(count > 0, member.T @ z / jnp.where(count > 0, count, 1), centres)
