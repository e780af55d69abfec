"""The data of a fit that reads its rows again for every pass: a source, its units, and its sums."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.contract.arguments import as_params, check_values
from jaxem.contract.frame import Frame
from jaxem.engine.expectation import Problem, lanes_and_rows
from jaxem.engine.programs import named
from jaxem.engine.result import Result
from jaxem.inputs import arrays
from jaxem.inputs.sources import Source, SourceError, read_ahead
from jaxem.numerics.chunks import compensated, even_chunks


class StreamData:
    """A source, the units that its rows are moved to, and the compiled sums over its blocks.

    Args:
        model: the model, with additive statistics.
        source: the source of the rows.
        start: params in the data's units.

    Raises:
        ValueError: the model cannot fit the rows of the source's sample, or `start` is not usable.
    """

    def __init__(self, model: Any, source: Source, start: Any) -> None:
        self.model, self.source = model, source
        sample = source.sample()
        model.check(sample.rows)
        self.dtype = jax.dtypes.canonicalize_dtype(source.dtype)
        model.check_fit(sample.rows, sample.weights, self.dtype)
        start = as_params(model, start, "start")
        model.check(sample.rows, start)
        check_values(model, start, "start")
        self.given = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), start)
        self.frame = Frame.of(model, sample.rows, self.given, self.dtype)
        if self.frame.moves:
            longer = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf[:1]]), sample.rows)
            self.origin_per_row = _differ(self._origin_of(sample.rows), self._origin_of(longer))
        self.moved = self.frame.model(model)
        self.first = _on_device(self.rounded(sample)[:2])
        self.per_row = _leaves_per_row(self.moved, self.first[0])
        start = jax.tree.map(lambda leaf: arrays.on_device(leaf, self.dtype), self.frame.params(self.given))
        self.inner, self.units, self.start = _initialise(self.moved, *self.first, start)
        z = jax.eval_shape(lambda units, x: units.rows(x), self.units, self.first[0])
        chunk = min(lanes_and_rows(self.inner, z, self.start, 1)[1], source.block_rows)
        self.chunk = even_chunks(source.block_rows, chunk)
        self.n, self.total, self.in_use, self.volume = 0, 0.0, 0.0, 0.0

    def _origin_of(self, rows):
        """The origin of these rows, taken in float64: float32 rows near 0 would not be moved."""
        return self.model.origin(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), rows), self.given)

    def rounded(self, block: Any) -> Any:
        """A block moved into the frame, and then rounded to the dtype of the fit.

        Returns:
            (rows, weights, the log-volume of the move, total in nats).
        """
        rows, volume = block.rows, 0.0
        if self.frame.moves:
            frame = self.frame
            if any(self.origin_per_row):  # Lengths of sequences are an example.
                frame = frame._replace(units=_joined(frame.units, self._origin_of(rows), self.origin_per_row))
            volume = frame.volume(block.weights)
            rows = arrays.map_rows(frame.units.rows, rows, self.dtype)
        return *jax.tree.map(lambda leaf: np.asarray(leaf, self.dtype), (rows, block.weights)), volume

    def blocks(self) -> Any:
        """The blocks (rows, weights) of one pass, on the device.

        Raises:
            SourceError: this pass has another number of rows than the first.
        """
        n, volumes = 0, []

        def counted():
            nonlocal n
            for block in self.source.blocks():
                n += block.n
                yield block

        for *block, volume in read_ahead(counted(), self.rounded):
            rows, weights = _on_device(tuple(block))
            volumes += volume, _volume(self.moved, self.units, rows, weights, self.per_row)
            yield rows, weights
        if self.n and n != self.n:
            raise SourceError(f"source: expected {self.n:,} rows, as in the pass before; got {n:,}")
        self.n, self.volume = n, sum(float(each) for each in volumes)

    def problem(self, centred: bool = False) -> Problem:
        """The problem of one block; `evaluate` puts the rows of each block into it."""
        total, in_use = (jnp.asarray(value, self.dtype) for value in (self.total, self.in_use))
        chunk = min(self.chunk, len(self.first[1]))
        points = jnp.maximum(total, in_use)
        rows, weights = self.first
        return Problem(self.inner, rows, weights, self.units, total, points, chunk=chunk, centred=centred)

    def evaluate(self, problem: Problem, params: Any) -> tuple[Any, jax.Array]:
        """One pass over the source.

        Returns:
            (the expected sufficient statistics, the log-likelihood in nats) at `params`, totals.
        """
        sums = None
        for rows, weights in self.blocks():
            part = dataclasses.replace(problem, rows=rows, weights=weights, chunk=self.chunk)
            sums = _add(self.moved, part, params, sums, self.per_row)
        stats, log_lik, total, in_use = _added(sums)
        self.total, self.in_use = float(total), float(in_use)
        return stats, log_lik

    @property
    def sums(self) -> Any:
        """The sums over the source that a pass has found, for a checkpoint."""
        return np.asarray([self.total, self.in_use, self.volume], np.float64), np.asarray(self.n, np.int64)

    def remember(self, kept: Any) -> Any:
        """Take the sums over the source from a checkpoint's `kept.sums`, and return `kept`."""
        (self.total, self.in_use, self.volume), self.n = (float(v) for v in kept.sums[0]), int(kept.sums[1])
        return kept

    def result(self, fits: Any, history: Any, size: Any) -> Result:
        """The result of a finished fit, in the data's units.

        Args:
            fits: a `Finished` fit, in standard units.
            history: the objective after each step, in standard units.
            size: the number of rows, or the statistics at the params where the model is
                `judged_by_statistics`.
        """
        status, degenerate = _verdict(self.inner, fits, size)
        params = self.frame.params_back(_from_units(self.units, fits.params))

        def less(value):
            return jnp.asarray((np.asarray(value, np.float64) - self.volume).astype(self.dtype))

        return Result(
            params,
            less(fits.log_lik),
            less(fits.objective),
            jnp.asarray(status),
            fits.n_steps,
            fits.n_evaluations,
            less(history),
            degenerate,
        )


def _on_device(block):
    return jax.tree.map(jnp.asarray, block)


def _leaves_per_row(model, rows):
    """Which leaves of the model's units have one entry per row: a tuple of bool."""
    units = []
    for extra in (0, 1):
        longer = jax.tree.map(
            lambda leaf, extra=extra: jax.ShapeDtypeStruct((leaf.shape[0] + extra, *leaf.shape[1:]), leaf.dtype), rows
        )
        weights = jax.ShapeDtypeStruct((arrays.n_rows(rows) + extra,), jax.tree.leaves(rows)[0].dtype)
        units.append(jax.eval_shape(model.units, longer, weights))
    return _differ(*units)


def _differ(a, b):
    """Which leaves of two trees have different shapes: a tuple of bool."""
    return tuple(np.shape(x) != np.shape(y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def _joined(shared, own, per_row):
    """`shared`, with those leaves of `own` that have one entry per row."""
    leaves, structure = jax.tree.flatten(shared)
    return structure.unflatten(
        b if mine else a for a, b, mine in zip(leaves, jax.tree.leaves(own), per_row, strict=True)
    )


def _units_of(model, units, rows, weights, per_row):
    """`units` for these rows: leaves with one entry per row are those of these rows."""
    return _joined(units, model.units(rows, weights), per_row) if any(per_row) else units


@partial(jax.jit, static_argnames="per_row")
def _volume(model, units, rows, weights, per_row):
    """The log-volume of one block in the units of the fit."""
    return (weights * _units_of(model, units, rows, weights, per_row).log_volume()).sum()


@jax.jit
def _initialise(model, rows, weights, start):
    """(the model in standard units, the units, the start in standard units)."""
    units = model.units(rows, weights)
    return units.model(model), units, units.params(start)


@partial(jax.jit, static_argnames="per_row")
def _add(model, problem, params, sums, per_row):
    """Add one block to the compensated sums of statistics, log-likelihood and weights."""
    rows, weights = problem.rows, problem.weights
    units = _units_of(model, problem.units, rows, weights, per_row)
    stats, log_lik = dataclasses.replace(problem, units=units).chunked().expectation(params)
    return compensated(sums, (stats, log_lik, weights.sum(), (weights > 0).sum().astype(weights.dtype)))


@jax.jit
def _added(sums):
    return jax.tree.map(jnp.add, *sums)


@jax.jit
def _verdict(model, fits, size):
    degenerate, empty = model.degenerate(fits.params, size), model.empty(fits.params, size)
    return named(fits.status, fits.objective, degenerate.any(), empty.any()), degenerate


@jax.jit
def _from_units(units, params):
    return units.back(params)
