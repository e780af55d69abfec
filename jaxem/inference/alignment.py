"""Alignment: components of many fits, renumbered to match those of a reference.

The likelihood is the same for every numbering of the components ("label switching"). Fits from
different starts, bootstrap samples or folds can therefore be compared component by component only
after their components are matched.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxem.contract.frame import Frame
from jaxem.contract.model import Model
from jaxem.contract.units import each_copy
from jaxem.engine.result import Result
from jaxem.inputs import arrays
from jaxem.numerics.chunks import map_in_batches
from jaxem.numerics.tracing import is_traced

#: The number of rows drawn from the reference where no x is given. On this many, two components
#: that differ show it.
SAMPLE_ROWS = 2000

#: At most this many rows of responsibilities are held at a time while many fits are compared.
BATCH_ROWS = 1 << 18


class Aligned(NamedTuple):
    """The result of `align`.

    Attributes:
        params: the renumbered params.
        order: [..., k]; the new component j is the old component order[..., j].
    """

    params: Any
    order: jax.Array


def align(model: Model, params: Any, reference: Any, x: Any = None) -> Aligned:
    """Renumber the components of `params` so that they match those of `reference`.

    Two components match if they claim the same rows. The order maximises
    sum_i sum_j r_ij s_i,order(j), where r are the posterior probabilities [n, k] of x under the
    reference and s are those under `params`. Over permutations this is the same as minimising
    sum_ij (r_ij - s_i,order(j))^2, so it needs nothing but `model.posterior`, whatever the family.
    It is the relabelling of Stephens (2000), J. R. Statist. Soc. B 62, section 4.1, with a squared
    loss, which accepts probabilities of 0. The assignment problem is solved exactly
    (`optax.assignment`).

    The function can be traced (jit, vmap). Where orders tie (identical components, or params that
    are not finite), the given numbering stays. Rows whose posterior is not finite are not used.

    Args:
        model: the model of both.
        params: one set of params, or many with leading axes (restarts [r, ...], bootstrap samples),
            each of which is aligned.
        reference: one set of params.
        x: the rows [n, ...] on which they are compared; None means 2000 rows drawn from the
            reference, the same ones in every call.

    Returns:
        The renumbered params and the order of their components.

    Raises:
        ValueError: the params do not have the structure and shapes of the reference, or x is None
            and the model cannot sample.

    Examples:
        Every restart finds the same two groups of eruptions, but which one is component 0 is
        random:

        >>> import jax, jaxem
        >>> x = jaxem.datasets.old_faithful()
        >>> model = jaxem.gaussian_mixture(2)
        >>> fits = jaxem.fit_restarts(model, x, jax.random.key(1), n_restarts=6)
        >>> sorted({round(float(weight), 2) for weight in fits.all.params.weights[:, 0]})
        [0.36, 0.64]
        >>> params, order = jaxem.align(model, fits.all.params, fits.best.params, x)
        >>> len({round(float(weight), 2) for weight in params.weights[:, 0]})
        1
        >>> bool((jax.vmap(model.permute)(fits.all.params, order).weights == params.weights).all())
        True
    """
    for name, value in (("params", params), ("reference", reference)):
        if isinstance(value, Result):
            raise ValueError(f"{name}: expected params; got a Result (give result.params)")
    depth = _leading_axes(params, reference)
    rows = model.rows(_sampled(model, reference) if x is None else x)
    if is_traced(rows, reference, params):
        return _align(model, params, reference, jax.tree.map(jnp.asarray, rows), depth)
    if x is not None:
        _check(model, rows, reference)
    rows, wide = arrays.on_host((rows, params))
    dtype = jax.dtypes.canonicalize_dtype(np.result_type(*jax.tree.leaves(rows)))
    frame = Frame.of(model, rows, arrays.on_host(reference), dtype)
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[depth:]), wide)
    moved = frame.params(flat, batch=True), frame.params(reference), frame.rows(rows)
    aligned, orders = _align(frame.model(model), *moved, 1)
    if frame.moves:  # The params in the frame were rounded, so the given ones are permuted.
        aligned = each_copy(lambda one: model.permute(one[0], one[1]), (flat, np.asarray(orders)))
    batch = jax.tree.leaves(params)[0].shape[:depth]
    return jax.tree.map(lambda leaf: leaf.reshape(*batch, *leaf.shape[1:]), Aligned(aligned, orders))


def _check(model, x, reference):
    try:
        model.check(x, reference)
    except ValueError as error:  # The messages of models call the params "start".
        raise ValueError(str(error).replace("start:", "reference:", 1)) from None


def _leading_axes(params, reference) -> int:
    """How many more leading axes the params have than the reference."""
    if jax.tree.structure(params) != jax.tree.structure(reference):
        raise ValueError(f"params: expected the structure of reference; got {jax.tree.structure(params)}")
    shapes = [(jnp.shape(p), jnp.shape(r)) for p, r in zip(*map(jax.tree.leaves, (params, reference)), strict=True)]
    depth = len(shapes[0][0]) - len(shapes[0][1])
    for shape, want in shapes:
        if depth < 0 or shape[depth:] != want or shape[:depth] != shapes[0][0][:depth]:
            raise ValueError(
                f"params: expected a leaf of shape {want}, as in reference, after any leading axes; got {shape}"
            )
    return depth


def _sampled(model, reference):
    try:
        return model.sample(reference, jax.random.key(0), SAMPLE_ROWS)
    except NotImplementedError:
        raise ValueError(f"x: expected rows, because {type(model).__name__} cannot sample them; got None") from None


def _posterior(model, params, x):
    """Posterior probabilities as [n, k] for any leading axes; rows that are not finite are 0."""
    resp = model.posterior(params, x)
    resp = resp.reshape(-1, resp.shape[-1])
    return jnp.where(jnp.isfinite(resp).all(-1, keepdims=True), resp, 0)


@jax.jit(static_argnames="depth")
def _align(model, params, reference, x, depth):
    target = _posterior(model, reference, x)

    def order_of(one):
        return _best_order(jnp.dot(target.T, _posterior(model, one, x), precision=jax.lax.Precision.HIGHEST))

    batch = jax.tree.leaves(params)[0].shape[:depth]
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[depth:]), params)
    lanes = max(1, BATCH_ROWS // len(target))
    orders = map_in_batches(order_of, flat, lanes)
    aligned = jax.vmap(model.permute)(flat, orders)
    return jax.tree.map(lambda leaf: leaf.reshape(*batch, *leaf.shape[1:]), Aligned(aligned, orders))


def _best_order(overlap):
    """The order that maximises the sum of overlap[j, order[j]]."""
    k = len(overlap)
    # Overlaps closer than their rounding are ties, and in a tie the numbering stays.
    overlap = overlap / jnp.maximum(overlap.sum(), 1) + 32 * jnp.finfo(overlap.dtype).eps * jnp.eye(
        k, dtype=overlap.dtype
    )
    # The function of optax works in the default float dtype of JAX.
    rows, columns = optax.assignment.hungarian_algorithm(-overlap.astype(jax.dtypes.canonicalize_dtype(np.float64)))
    return jnp.zeros(k, jnp.int32).at[rows].set(columns.astype(jnp.int32))
