"""Data -> (sufficient statistics, log-likelihood) at given params: whole, in chunks, weighted.

Because statistics add up and are linear in the weights, chunks are a scan and padding is weight 0; no model knows.
"""

import contextlib
import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax

from jaxem.contract.model import Model
from jaxem.contract.pytree import pytree_class, static
from jaxem.contract.units import Identity
from jaxem.inputs import arrays
from jaxem.numerics.chunks import cut_rows, even_chunks, first_of, scan_sum
from jaxem.numerics.devices import summed
from jaxem.numerics.hardware import hardware

#: What the E-steps of fits side by side may hold of a single row, before there are fewer fits side by side.
LANES_BYTES = 512 << 20


#: Rows of a chunk from which it matters how they lie in the cache (see `Hardware.odd_lines`).
LONG = 512


IDENTITY = Identity()


@pytree_class
class Problem:
    """A model and its data, ready for iterating.

    rows: chunks of rows with a leading axis of chunks, [c, m, ...]; or the rows as they came [n, ...], which `chunked`
    cuts. weights: as rows, 0 for padding. total_weight: their sum. n_points: how many rows they amount to, their weight
    where it counts repetitions, else the rows in use. units: those that rows as they came are moved to.

    chunk: rows per chunk; 0: the rows are cut already. prepared: the rows are `model.prepare`d and in units already.
    centred: they are to be prepared in the form that keeps its precision (see `Model.prepare`).
    axis: the axis of devices that the other rows lie along, for a problem that holds those of one device.
    """

    model: Any
    rows: Any
    weights: Any
    units: Any
    total_weight: Any
    n_points: Any
    chunk: int = static(default=0)
    prepared: bool = static(default=False)
    centred: bool = static(default=False)
    axis: str | None = static(default=None)

    def chunked(self) -> "Problem":
        """The problem with its rows cut into chunks."""
        if not self.chunk:
            return self
        rows, weights = cut_rows(self.rows, self.weights, self.chunk)
        return dataclasses.replace(self, rows=rows, weights=weights, chunk=0)

    def of_rows(self, x: Any, weights: jax.Array) -> "Problem":
        """The problem with x and weights for its rows, unless it has those that it prepared."""
        return self if self.prepared else dataclasses.replace(self, rows=x, weights=weights)

    def prepare(self, rows: Any, weights: jax.Array) -> Any:
        return self.model.prepare(self.units.rows(rows), weights, self.centred)

    def sums(self, rows: Any, weights: jax.Array, params: Any) -> Any:
        """(statistics, log-likelihood) of one chunk."""
        data = rows if self.prepared else self.prepare(rows, weights)
        resp, log_prob = self.model.e_step(params, data)
        with _said_of(self.model, "e_step", "log_prob [n]"):
            chex.assert_shape(log_prob, weights.shape)
        stats = self.model.sufficient_statistics(resp, data, weights)
        return stats, jnp.where(weights > 0, weights * log_prob, 0).sum()

    def expectation(self, params: Any) -> Any:
        """(statistics, log-likelihood), both sums over all rows, compensated over the chunks."""
        here = scan_sum(lambda params, piece: self.sums(piece[0], piece[1], params), params, (self.rows, self.weights))
        stats, log_lik = summed(here, self.axis)
        return stats, log_lik + self.model.shared_log_lik(params, stats)

    def no_statistics(self, params: Any) -> Any:
        """Zeros in the shape of the statistics."""
        return _zeros(self.expectation, params)

    def maximize(self, stats: Any, params: Any) -> Any:
        return _like_params(self.model, "maximize", self.model.maximize(stats, params), params)


@pytree_class
class StepsProblem:
    """A model whose "statistics" are whatever its M-step takes: one piece of data, no weights (see `from_steps`)."""

    model: Any
    x: Any
    total_weight: Any
    n_points: Any

    def chunked(self) -> Any:
        return self

    def of_rows(self, x: Any, weights: jax.Array) -> Any:
        return dataclasses.replace(self, x=x)

    def expectation(self, params: Any) -> Any:
        resp, log_prob = self.model.e_step(params, self.x)
        with _said_of(self.model, "e_step", "log_prob [n]"):
            chex.assert_rank(log_prob, 1)
        return resp, log_prob.sum()

    def no_statistics(self, params: Any) -> Any:
        return _zeros(self.expectation, params)

    def maximize(self, stats: Any, params: Any) -> Any:
        return _like_params(self.model, "m_step", self.model.m_step(stats, self.x), params)


@contextlib.contextmanager
def _said_of(model, method, expected):
    """A failed assertion about what a method of the model gave, as a ValueError. It costs nothing once compiled."""
    try:
        yield
    except AssertionError as error:
        detail = " ".join(str(error).split())
        raise ValueError(f"model: {type(model).__name__}.{method} has to give {expected}: {detail}") from None


def _like_params(model, method, new, params):
    """`new`, which must have the structure, the shapes and the dtypes of the params before."""
    with _said_of(model, method, "params like those it was given"):
        chex.assert_trees_all_equal_shapes_and_dtypes(params, new)
    return new


def _zeros(expectation, params):
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(expectation, params)[0])


def lanes_and_rows(model: Model, x: Any, params: Any, n_lanes: int, centred: bool = False) -> tuple[int, int]:
    """(how many of n_lanes fits go side by side, how many rows keep one chunk of their E-step in cache)."""
    data, resp = _bytes_per_row(model, x, params, centred)
    n_lanes = min(n_lanes, max(1, int(LANES_BYTES / (2 * resp))))
    device = hardware()
    row = data * device.chunk_has_features + 2 * n_lanes * resp
    fewest = min(device.min_rows, device.min_rows_bytes / row)
    rows = even_chunks(arrays.n_rows(x), min(max(device.chunk_bytes / row, fewest), device.max_rows))
    return n_lanes, _odd_lines(rows) if device.odd_lines and rows >= LONG else rows


def _odd_lines(rows: int) -> int:
    """`rows`, or a few more (of weight 0), so that a feature of all of them takes an odd number of 64-byte lines."""
    lines = -(-rows // 16)
    return 16 * (lines + 1 - lines % 2)


def _bytes_per_row(model, x, params, centred):
    """(bytes of prepared data, bytes of the E-step of one fit)."""
    n = 1024  # shapes alone: enough that what all rows share counts for little
    sample = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((n, *leaf.shape[1:]), leaf.dtype), x)
    weights = jax.ShapeDtypeStruct((n,), jax.tree.leaves(params)[0].dtype)
    data = jax.eval_shape(lambda rows, weights: model.prepare(rows, weights, centred), sample, weights)
    resp = jax.eval_shape(model.e_step, params, data)
    return max(_bytes(data), 1) / n, max(_bytes(resp), 1) / n


def _bytes(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def make_problem(
    model: Model,
    x: Any,
    weights: jax.Array,
    chunk: int,
    units: Any = IDENTITY,
    centred: bool = False,
    store: bool = True,
    axis: Any = None,
) -> Any:
    """Rows x in chunks of `chunk` (the last one padded by rows of weight 0), in `units`.

    store: prepare them once and keep that, unless it is too much; else the rows are left as they came, and prepared
    anew in every iteration. axis: the axis of devices that x is spread over, where these are the rows of one.
    """
    total, in_use = summed((weights.sum(), (weights > 0).sum().astype(weights.dtype)), axis)
    n_points = jnp.maximum(total, in_use)
    if not model.additive:
        return StepsProblem(model, x, total, n_points)
    problem = Problem(model, x, weights, units, total, n_points, chunk=chunk, centred=centred, axis=axis)
    return stored(problem) if store else problem


def stored(problem: Problem) -> Problem:
    """The problem with its rows cut and prepared, unless that is too much to keep."""
    cut = problem.chunked()
    shape = jax.eval_shape(lambda rows, w: cut.prepare(first_of(rows), w[0]), cut.rows, cut.weights)
    if len(cut.weights) * _bytes(shape) > hardware().store_bytes:
        return problem
    rows = lax.map(lambda piece: cut.prepare(*piece), (cut.rows, cut.weights))
    return dataclasses.replace(cut, rows=rows, prepared=True)
