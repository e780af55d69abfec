"""Rows in pieces of equal size, so that no temporary is as long as the data, and sums over them."""

import contextlib
import contextvars

import jax
import jax.numpy as jnp
from jax import lax

from jaxem.numerics.hoisting import hoisted


def even_chunks(n: int, rows: float) -> int:
    """Rows per chunk, at most `rows` of n; a number that divides n if one is near, so that nothing has to be padded."""
    fewest = min(n, max(1, -(-n // max(1, int(rows)))))
    n_chunks = next((c for c in range(fewest, 2 * fewest) if n % c == 0), fewest)
    return -(-n // n_chunks)


def cut_rows(x, weights, chunk):
    """x and weights in chunks [c, chunk, ...] and [c, chunk]; what the last one lacks are rows of weight 0."""
    n = weights.shape[0]
    n_chunks = -(-n // chunk)
    pad = n_chunks * chunk - n

    def cut(leaf):
        if pad:
            # A repeated row is valid data for any model, whatever its support.
            leaf = jnp.concatenate([leaf, jnp.broadcast_to(leaf[:1], (pad, *leaf.shape[1:]))])
        return leaf.reshape(n_chunks, chunk, *leaf.shape[1:])

    weights = jnp.concatenate([weights, jnp.zeros(pad, weights.dtype)])
    return jax.tree.map(cut, x), weights.reshape(n_chunks, chunk)


def map_in_batches(function, xs, batch_size):
    """`lax.map` of at most batch_size at once, in batches of one size: a shorter last one would be compiled as well."""
    n = jax.tree.leaves(xs)[0].shape[0]
    n_batches = -(-n // batch_size)
    size = -(-n // n_batches)
    extra = n_batches * size - n
    if extra:
        xs = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf[:extra]]), xs)
    return jax.tree.map(lambda leaf: leaf[:n], lax.map(function, xs, batch_size=size))


def first_of(tree):
    return jax.tree.map(lambda leaf: leaf[0], tree)


def scan_sum(function, shared, xs):
    """Sum of function(shared, x) over the leading axis of xs, with compensation (Neumaier): the order leaves no trace.

    What depends on `shared` alone is computed once.
    """
    if jax.tree.leaves(xs)[0].shape[0] == 1:
        return function(shared, first_of(xs))
    kept, rest = hoisted(function, shared, first_of(xs))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(rest, kept, first_of(xs)))
    (total, lost), _ = lax.scan(lambda sums, x: (compensated(sums, rest(kept, x)), None), (zeros, zeros), xs)
    return jax.tree.map(jnp.add, total, lost)


def compensated(sums, value):
    """(total, what rounding lost of it) with one more summand (Neumaier); sums None: the first."""
    if sums is None:
        return value, jax.tree.map(jnp.zeros_like, value)
    total, lost = sums
    new = jax.tree.map(jnp.add, total, value)
    return new, jax.tree.map(_rounding, lost, total, value, new)


def _rounding(lost, a, b, total):
    """What a + b = total lost; nothing where the sum is not finite."""
    error = jnp.where(jnp.abs(a) >= jnp.abs(b), (a - total) + b, (b - total) + a)
    return lost + jnp.where(jnp.isfinite(total), error, 0)


_WHOLE = contextvars.ContextVar("whole", default=False)


@contextlib.contextmanager
def whole_blocks(on=True):
    """While a program is traced here, sums over rows outside the loop take all rows at once.

    For rows that are spread over devices: each has its own part in one piece, and blocks would be cut across them.
    """
    token = _WHOLE.set(on)
    try:
        yield
    finally:
        _WHOLE.reset(token)


def block_rows(n: int, rows: int) -> int:
    """Rows per block of sums outside the loop."""
    return n if _WHOLE.get() else even_chunks(n, rows)
