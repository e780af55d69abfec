"""Random starts for anything with k components, as responsibilities: the model's own M-step turns them into params.

No single kind of start finds every optimum, so `fit_restarts` cycles through several. All are one computation with
different numbers in it, so that they share a compiled program.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Recipe(NamedTuple):
    """What tells the kinds apart.

    far: draw each centre by its squared distance from those before (k-means++), else evenly.
    n_lloyd: k-means steps from there. noise: share of random responsibilities mixed with the cells of the centres.
    """

    far: bool
    n_lloyd: int
    noise: float


#: The kinds of start by name. "kmeans" stops short of k-means' own optimum, where many restarts would coincide.
RECIPES = {
    "kmeans": Recipe(True, 10, 0.0),
    "rows": Recipe(False, 0, 0.0),
    "resp": Recipe(False, 0, 1.0),
    "kmeans++": Recipe(True, 0, 0.0),
}
KINDS = tuple(RECIPES)

#: Share of every row that is spread evenly over the components. A cell of the partition may hold fewer rows than a
#: covariance needs; mixed with this much of all rows, every start is a proper one.
SPREAD = 0.1


def responsibilities(
    kind: Any, key: jax.Array, z: Any, weights: jax.Array | None, k: int, n_active: Any = None, share: Any = SPREAD
) -> Any:
    """Random responsibilities [n, k] for rows at z [n, e], sample weights [n] or None; kind: an index into KINDS.

    n_active (may be traced): only the first so many components take part, and the start is that of k = n_active.
    share: of every row, spread evenly over the components.
    """
    weights = jnp.ones(z.shape[0], z.dtype) if weights is None else weights
    far, n_lloyd, noise = (jnp.asarray(column)[kind] for column in zip(*RECIPES.values(), strict=True))
    n = z.shape[0]
    active = jnp.arange(k) < (k if n_active is None else n_active)
    # All random numbers in one draw: every separate one adds its own generator to the program.
    uniform = jax.random.uniform(key, (k + n * k,), z.dtype)
    centres = _centres(uniform[:k], z, weights, far)
    centres = jax.lax.fori_loop(0, n_lloyd, lambda _, c: _lloyd(z, weights, c, active), centres)
    if n_active is None:
        spread, uniform = share / k, uniform[k:].reshape(n, k)
    else:
        # The numbers that k = n_active would have drawn: a prefix of these, laid out in rows of n_active.
        spread = share * active.astype(z.dtype) / n_active
        position = n_active + jnp.arange(n)[:, None] * n_active + jnp.minimum(jnp.arange(k), n_active - 1)
        uniform = jnp.where(active, uniform[position], 0)
    cells = (1 - share) * _nearest(z, centres, active) + spread
    random = -jnp.log1p(-uniform)
    noise = noise.astype(z.dtype)
    return (1 - noise) * cells + noise * random / random.sum(-1, keepdims=True)


def _row_at(uniform, weights):
    """The index of the row at quantile `uniform` of the weights (a row of weight 0 never is)."""
    cumulative = jnp.cumsum(weights)
    return jnp.minimum((cumulative <= uniform * cumulative[-1]).sum(), weights.shape[0] - 1)


def _centres(uniform, z, weights, far):
    """k rows; with `far`, each drawn by its squared distance from those before (Arthur and Vassilvitskii 2007)."""

    def add(j, carry):
        centres, nearest = carry
        # The first centre, and any where every row coincides with a centre already: any row will do.
        usable = far & (j > 0) & ((weights * nearest).sum() > 0)
        new = z[_row_at(uniform[j], weights * jnp.where(usable, nearest, 1))]
        return centres.at[j].set(new), jnp.minimum(nearest, ((z - new) ** 2).sum(-1))

    start = jnp.zeros((len(uniform), z.shape[1]), z.dtype), jnp.full(z.shape[0], jnp.finfo(z.dtype).max)
    return jax.lax.fori_loop(0, len(uniform), add, start)[0]


def _nearest(z, centres, active):
    """One-hot [n, k] of the nearest centre, among the active ones."""
    cross = jnp.dot(z, centres.T, precision=jax.lax.Precision.HIGHEST)
    distance = (centres * centres).sum(-1) - 2 * cross
    distance = jnp.where(active, distance, jnp.inf)
    return jax.nn.one_hot(jnp.argmin(distance, axis=-1), centres.shape[0], dtype=z.dtype)


def _lloyd(z, weights, centres, active):
    member = _nearest(z, centres, active) * weights[:, None]
    count = member.sum(0)[:, None]
    return jnp.where(count > 0, member.T @ z / jnp.where(count > 0, count, 1), centres)
