"""Rows cut into chunks of equal size, and sums over them.

No temporary array is then as long as the data.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxem.numerics.hoisting import hoisted


def even_chunks(n: int, rows: float) -> int:
    """Number of rows per chunk: at most `rows` of n.

    It is a divisor of n if one is near, so that nothing has to be padded.
    """
    fewest = min(n, max(1, -(-n // max(1, int(rows)))))
    n_chunks = next((c for c in range(fewest, 2 * fewest) if n % c == 0), fewest)
    return -(-n // n_chunks)


def cut_rows(x: Any, weights: jax.Array, chunk: int) -> tuple[Any, jax.Array]:
    """Cut rows and weights into chunks [c, chunk, ...] and [c, chunk].

    The last chunk is filled up with rows of weight 0.
    """
    n = weights.shape[0]
    n_chunks = -(-n // chunk)
    pad = n_chunks * chunk - n

    def cut(leaf: jax.Array) -> jax.Array:
        if pad:
            # A repeated row is valid data for any model, whatever its support.
            leaf = jnp.concatenate([leaf, jnp.broadcast_to(leaf[:1], (pad, *leaf.shape[1:]))])
        return leaf.reshape(n_chunks, chunk, *leaf.shape[1:])

    weights = jnp.concatenate([weights, jnp.zeros(pad, weights.dtype)])
    return jax.tree.map(cut, x), weights.reshape(n_chunks, chunk)


def map_in_batches(function: Callable[[Any], Any], xs: Any, batch_size: int) -> Any:
    """Compute `lax.map(function, xs)` in batches of one size, at most `batch_size`.

    `lax.map` would compile the function a second time for a shorter last batch.
    """
    n = jax.tree.leaves(xs)[0].shape[0]
    n_batches = -(-n // batch_size)
    size = -(-n // n_batches)
    extra = n_batches * size - n
    if extra:
        xs = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf[:extra]]), xs)
    return jax.tree.map(lambda leaf: leaf[:n], lax.map(function, xs, batch_size=size))


def first_of(tree: Any) -> Any:
    """The first entry of every leaf along its leading axis."""
    return jax.tree.map(lambda leaf: leaf[0], tree)


def scan_sum(function: Callable[[Any, Any], Any], shared: Any, xs: Any) -> Any:
    """Sum function(shared, x) over the leading axis of xs.

    The sum is compensated (Neumaier 1974), so that its rounding does not depend on the number of
    terms. What depends on `shared` alone is computed once.

    Args:
        function: (shared, x) -> a pytree of arrays.
        shared: a pytree that is the same for every term.
        xs: a pytree of arrays [c, ...], one entry per term.
    """
    if jax.tree.leaves(xs)[0].shape[0] == 1:
        return function(shared, first_of(xs))
    kept, rest = hoisted(function, shared, first_of(xs))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(rest, kept, first_of(xs)))
    (total, lost), _ = lax.scan(lambda sums, x: (compensated(sums, rest(kept, x)), None), (zeros, zeros), xs)
    return jax.tree.map(jnp.add, total, lost)


def compensated(sums: tuple[Any, Any] | None, value: Any) -> tuple[Any, Any]:
    """Add one term to a compensated sum (Neumaier 1974).

    Args:
        sums: (the total so far, what rounding lost of it), two pytrees like `value`; None before
            the first term.
        value: the next term.

    Returns:
        The new total and what rounding lost of it.
    """
    if sums is None:
        return value, jax.tree.map(jnp.zeros_like, value)
    total, lost = sums
    new = jax.tree.map(jnp.add, total, value)
    return new, jax.tree.map(_rounding, lost, total, value, new)


def _rounding(lost: jax.Array, a: jax.Array, b: jax.Array, total: jax.Array) -> jax.Array:
    """`lost` plus the rounding error of a + b = total, which counts as 0 where it is not finite."""
    error = jnp.where(jnp.abs(a) >= jnp.abs(b), (a - total) + b, (b - total) + a)
    return lost + jnp.where(jnp.isfinite(total), error, 0)


_WHOLE_BLOCKS = contextvars.ContextVar("whole_blocks", default=False)


@contextlib.contextmanager
def whole_blocks(on: bool = True) -> Iterator[None]:
    """Let sums over rows outside the loop take all rows as one block, in programs traced here.

    It is meant for rows that are sharded over devices: each device has its own part as one block,
    and smaller blocks would be cut across devices.
    """
    token = _WHOLE_BLOCKS.set(on)
    try:
        yield
    finally:
        _WHOLE_BLOCKS.reset(token)


def block_rows(n: int, rows: int) -> int:
    """Rows per block in sums over n rows outside the loop: at most `rows`, or all of them.

    All rows are one block in `whole_blocks`.
    """
    return n if _WHOLE_BLOCKS.get() else even_chunks(n, rows)
