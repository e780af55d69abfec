"""Data -> (sufficient statistics, log-likelihood) at given params: whole, in chunks, weighted.

Because statistics add up and are linear in the weights, chunks are a scan and padding is weight 0; no model knows.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxem.chunks import cut_rows, even_chunks, first_of, scan_sum
from jaxem.model import Model

#: Working set of one chunk, in bytes. Measured on CPU: iterations are fastest while the features of a chunk and its
#: log densities stay in the last-level cache, and are flat within a factor of two around this.
CHUNK_BYTES = 4 << 20

#: A chunk has at least MIN_ROWS rows, so that its vector operations are worth their overhead, unless that takes more
#: than this: rows that are long sequences do enough work each.
MIN_ROWS, MIN_ROWS_BYTES = 256, 64 << 20

#: What the E-steps of fits side by side may hold of a single row, before there are fewer fits side by side.
LANES_BYTES = 512 << 20

#: Above this size the features are recomputed chunk by chunk in every iteration instead of being stored once.
STORE_BYTES = 512 << 20


class Problem(NamedTuple):
    """A model and its data, ready for iterating: chunks of prepared rows with their weights."""

    model: Any
    chunks: Any  # a pytree whose leaves have a leading axis of chunks
    weights: Any  # [c, m], 0 for padding
    total_weight: Any
    n_points: Any  # how many rows they amount to: their weight where it counts repetitions, else the rows in use
    prepare: Any  # (rows, weights) -> prepared rows, for chunks of rows as they came; None: chunks are prepared

    def expectation(self, params):
        """(statistics, log-likelihood), both sums over all rows, compensated over the chunks."""

        def one(chunk, weights):
            data = chunk if self.prepare is None else self.prepare(chunk, weights)
            resp, log_prob = self.model.e_step(params, data)
            stats = self.model.sufficient_statistics(resp, data, weights)
            return stats, jnp.where(weights > 0, weights * log_prob, 0).sum()

        stats, log_lik = scan_sum(one, (self.chunks, self.weights))
        return stats, log_lik + self.model.shared_log_lik(params, stats)

    def maximize(self, stats, params):
        return self.model.maximize(stats, params)


class StepsProblem(NamedTuple):
    """A model whose "statistics" are whatever its M-step takes: one piece of data, no weights (see `from_steps`)."""

    model: Any
    x: Any
    total_weight: Any
    n_points: Any

    def expectation(self, params):
        resp, log_prob = self.model.e_step(params, self.x)
        return resp, log_prob.sum()

    def maximize(self, stats, params):
        return self.model.m_step(stats, self.x)


def rows_per_chunk(model: Model, x, params, n_lanes: int) -> int:
    """How many rows keep one chunk of the E-step in cache, for n_lanes fits side by side."""
    n = jax.tree.leaves(x)[0].shape[0]
    data, resp = _bytes_per_row(model, x, params)
    row = data + 2 * n_lanes * resp
    rows = max(CHUNK_BYTES / row, min(MIN_ROWS, MIN_ROWS_BYTES / row))
    return even_chunks(n, rows)


def lanes_that_fit(model: Model, x, params) -> int:
    """How many fits side by side stay within LANES_BYTES however few rows a chunk has."""
    return max(1, int(LANES_BYTES / (2 * _bytes_per_row(model, x, params)[1])))


def _bytes_per_row(model, x, params):
    """(bytes of prepared data, bytes of the E-step of one fit)."""
    few = min(8, jax.tree.leaves(x)[0].shape[0])
    sample = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((few, *leaf.shape[1:]), leaf.dtype), x)
    data = jax.eval_shape(model.prepare, sample)
    resp = jax.eval_shape(model.e_step, params, data)
    return max(_bytes(data), 1) / few, max(_bytes(resp), 1) / few


def _bytes(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def make_problem(model: Model, x, weights, chunk: int, units=None, centred=False, store=True):
    """Cut rows x into chunks of `chunk` (the last one padded by rows of weight 0), in `units` and prepared.

    store: prepare them once and keep that, unless it is too much; else they are prepared anew in every iteration.
    """
    total, n_points = weights.sum(), jnp.maximum(weights.sum(), (weights > 0).sum())
    if not model.additive:
        return StepsProblem(model, x, total, n_points)

    def prepare(rows, weights):
        return model.prepare(rows if units is None else model.to_units(units, rows), weights, centred)

    chunks, cut_weights = cut_rows(x, weights, chunk)
    shape = jax.eval_shape(lambda rows, w: prepare(first_of(rows), w[0]), chunks, cut_weights)
    if not store or len(cut_weights) * _bytes(shape) > STORE_BYTES:
        return Problem(model, chunks, cut_weights, total, n_points, prepare)
    chunks = lax.map(lambda piece: prepare(*piece), (chunks, cut_weights))
    return Problem(model, chunks, cut_weights, total, n_points, None)
