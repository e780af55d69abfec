"""The E-step of all rows: sufficient statistics and log-likelihood at given params.

Statistics are sums over rows and linear in the weights. Chunks of rows are therefore summed in a
scan, and rows that fill up a chunk have weight 0; models need not know of either.
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

#: The bytes that the E-steps of all lanes may use for a single row. With more, there are fewer
#: lanes.
LANES_BYTES = 512 << 20


#: From this many rows in a chunk, it matters how they lie in the cache (see `Hardware.odd_lines`).
LONG = 512


IDENTITY = Identity()


@pytree_class
class Problem:
    """A model and its data, ready for iterations.

    Attributes:
        model: the model, with its hyperparameters in standard units.
        rows: the rows as they came, [n, ...], which `chunked` cuts; or chunks of rows [c, m, ...].
        weights: the weights of the rows, [n] or [c, m]; 0 for padding.
        units: the standard units, into which rows as they came are moved.
        total_weight: the sum of the weights.
        n_points: the number of rows: the total weight or the number of rows of positive weight,
            whichever is larger.
        chunk: the number of rows per chunk; 0 if the rows are cut already.
        prepared: whether the rows are prepared data (see `Model.prepare`) in standard units.
        centred: whether rows are prepared in the form that keeps its precision where params are
            ill-conditioned (see `Model.prepare`).
        axis: the mesh axis over which rows are sharded, for a problem with the rows of one device;
            None where all rows are here.
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
        """The problem with rows x and their weights; a problem with prepared rows keeps its own."""
        return self if self.prepared else dataclasses.replace(self, rows=x, weights=weights)

    def prepare(self, rows: Any, weights: jax.Array) -> Any:
        """Prepared data (see `Model.prepare`) for rows as they came, in standard units."""
        return self.model.prepare(self.units.rows(rows), weights, self.centred)

    def sums(self, rows: Any, weights: jax.Array, params: Any) -> tuple[Any, jax.Array]:
        """(statistics, log-likelihood in nats) of one chunk, without `shared_log_lik`."""
        data = rows if self.prepared else self.prepare(rows, weights)
        resp, log_prob = self.model.e_step(params, data)
        with _said_of(self.model, "e_step", "log_prob [n]"):
            chex.assert_shape(log_prob, weights.shape)
        stats = self.model.sufficient_statistics(resp, data, weights)
        return stats, jnp.where(weights > 0, weights * log_prob, 0).sum()

    def expectation(self, params: Any) -> tuple[Any, jax.Array]:
        """(statistics, log-likelihood in nats) of all rows, which have been cut into chunks.

        The sums over chunks are compensated. With `axis` they include the rows of all devices.
        """
        here = scan_sum(lambda params, piece: self.sums(piece[0], piece[1], params), params, (self.rows, self.weights))
        stats, log_lik = summed(here, self.axis)
        return stats, log_lik + self.model.shared_log_lik(params, stats)

    def no_statistics(self, params: Any) -> Any:
        """Zeros in the shape of the statistics."""
        return _zeros(self.expectation, params)

    def maximize(self, stats: Any, params: Any) -> Any:
        """The M-step: new params from the statistics of an E-step at `params`."""
        return _like_params(self.model, "maximize", self.model.maximize(stats, params), params)


@pytree_class
class StepsProblem:
    """The problem of a model without additive statistics (see `from_steps`).

    Its "statistics" are what its E-step returns and its M-step takes. The data are in one piece and
    have no weights. The methods are those of `Problem`.

    Attributes:
        model: the model.
        x: the rows, [n, ...].
        total_weight: the number of rows.
        n_points: the number of rows.
    """

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
    """Turn a failed assertion about the result of a model's method into a ValueError.

    The assertions are made during tracing and cost nothing in a compiled program.
    """
    try:
        yield
    except AssertionError as error:
        detail = " ".join(str(error).split())
        raise ValueError(f"model: {type(model).__name__}.{method} has to give {expected}: {detail}") from None


def _like_params(model, method, new, params):
    """`new`, once it has the structure, shapes and dtypes of `params`."""
    with _said_of(model, method, "params like those it was given"):
        chex.assert_trees_all_equal_shapes_and_dtypes(params, new)
    return new


def _zeros(expectation, params):
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(expectation, params)[0])


def lanes_and_rows(model: Model, x: Any, params: Any, n_lanes: int, centred: bool = False) -> tuple[int, int]:
    """How many fits run side by side, and how many rows a chunk has.

    Args:
        model: the model.
        x: rows [n, ...] in standard units, or their shapes.
        params: params of one fit.
        n_lanes: the number of lanes that is asked for.
        centred: whether rows are prepared in the centred form.

    Returns:
        (the number of lanes, at most n_lanes; the number of rows with which one chunk of their
        E-steps stays in the cache).
    """
    data, resp = _bytes_per_row(model, x, params, centred)
    n_lanes = min(n_lanes, max(1, int(LANES_BYTES / (2 * resp))))
    device = hardware()
    row = data * device.chunk_has_features + 2 * n_lanes * resp
    fewest = min(device.min_rows, device.min_rows_bytes / row)
    rows = even_chunks(arrays.n_rows(x), min(max(device.chunk_bytes / row, fewest), device.max_rows))
    return n_lanes, _odd_lines(rows) if device.odd_lines and rows >= LONG else rows


def _odd_lines(rows: int) -> int:
    """At least `rows`, such that a feature of all rows takes an odd number of 64-byte lines.

    The rows that are added have weight 0.
    """
    lines = -(-rows // 16)
    return 16 * (lines + 1 - lines % 2)


def _bytes_per_row(model, x, params, centred):
    """(bytes of prepared data, bytes of the E-step of one fit), per row."""
    n = 1024  # Only shapes are computed. With this many rows, what they share counts for little.
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
    """The problem of a model and its data.

    Args:
        model: the model, with its hyperparameters in standard units.
        x: the rows as they came, [n, ...].
        weights: the weights of the rows, [n].
        chunk: the number of rows per chunk. The last chunk is filled up with rows of weight 0.
        units: the standard units.
        centred: whether rows are prepared in the centred form.
        store: whether to prepare the rows once and keep the result, unless it is too large.
            Otherwise the rows are left as they came, and every iteration prepares them.
        axis: the mesh axis over which x is sharded, where these are the rows of one device.

    Returns:
        A `Problem`, or a `StepsProblem` for a model without additive statistics.
    """
    total, in_use = summed((weights.sum(), (weights > 0).sum().astype(weights.dtype)), axis)
    n_points = jnp.maximum(total, in_use)
    if not model.additive:
        return StepsProblem(model, x, total, n_points)
    problem = Problem(model, x, weights, units, total, n_points, chunk=chunk, centred=centred, axis=axis)
    return stored(problem) if store else problem


def stored(problem: Problem) -> Problem:
    """The problem with its rows cut and prepared, unless this would take too much memory."""
    cut = problem.chunked()
    shape = jax.eval_shape(lambda rows, w: cut.prepare(first_of(rows), w[0]), cut.rows, cut.weights)
    if len(cut.weights) * _bytes(shape) > hardware().store_bytes:
        return problem
    rows = lax.map(lambda piece: cut.prepare(*piece), (cut.rows, cut.weights))
    return dataclasses.replace(cut, rows=rows, prepared=True)
