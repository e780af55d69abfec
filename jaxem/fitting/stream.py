"""`fit_stream`: the same algorithms where the data are read anew in every iteration, and online EM over them.

Statistics add up, so an E-step over a source is a loop on the host over blocks of rows; what an algorithm proposes and
what the loop makes of it (`step.propose`, `step.judge`) are the compiled functions of every other fit.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.algorithms.algorithm import Algorithm
from jaxem.algorithms.em import EM
from jaxem.algorithms.online import OnlineEM
from jaxem.contract.arguments import as_params, check_model, check_values
from jaxem.contract.frame import Frame
from jaxem.contract.model import Model
from jaxem.engine import step
from jaxem.engine.blocks import Monitor, MonitoredFit, Progress, StoppedByCallbackError
from jaxem.engine.expectation import Problem, lanes_and_rows
from jaxem.engine.programs import named
from jaxem.engine.result import Finished, Result, Status
from jaxem.engine.step import HALVING, ILL_CONDITIONED, RUNNING, Lane
from jaxem.fitting.fit import DEFAULT_MAX_STEPS, DEFAULT_TOL
from jaxem.fitting.online import follow_stream
from jaxem.inputs import arrays
from jaxem.inputs.sources import Source, SourceError, read_ahead
from jaxem.numerics.chunks import compensated, even_chunks


def fit_stream(
    model: Model,
    source: Any,
    start: Any,
    *,
    weights: Any = None,
    algorithm: Algorithm | OnlineEM = EM(),  # noqa: B008  (immutable)
    tol: float | jax.Array = DEFAULT_TOL,
    max_steps: int | jax.Array = DEFAULT_MAX_STEPS,
    chunk_size: int | None = None,
    callback: Callable[..., Any] | None = None,
    progress: bool = False,
    checkpoint: Any = None,
) -> Result:
    """Maximise the objective of `model` on rows that are read anew for every look, beginning at `start`.

    source: an array, memmap or anything else with shape and slices (or a tuple of them); or what gives arrays of rows
    every time it is iterated over: a list, an object with `__iter__`, a function that returns a fresh iterator.
    weights: the same kind of thing. chunk_size: rows read at a time.
    algorithm: `EM()`, `SQUAREM()`, `Anderson()`: exact, the answer of `fit` on the whole. Or `OnlineEM()`: a step is
    one pass over the source, and `history` holds what its batches had as log-likelihood under the params they met.
    The other arguments are those of `fit`.

    Standard units, and with them what `floor` is relative to, are those of up to 65,536 rows spread over the source.

    Raises `SourceError` where the source fails, or gives another number of rows than before, in the middle of a pass;
    its `.result` is the fit up to then. ValueError for a source that can be read only once.

    >>> import jax, jaxem
    >>> x = jaxem.datasets.old_faithful()
    >>> model = jaxem.gaussian_mixture(2)
    >>> pieces = [x[:100], x[100:250], x[250:]]
    >>> result = jaxem.fit_stream(model, pieces, model.init(jax.random.key(0), x))
    >>> round(float(result.log_lik), 2)
    -1130.26
    """
    check_model(model)
    arrays.check_number("tol", tol, 0)
    arrays.check_number("max_steps", max_steps, 0, whole=True, maximum=2**31 - 1)
    if chunk_size is not None:
        arrays.check_number("chunk_size", chunk_size, 1, whole=True)
    if not model.additive:
        raise ValueError("model: from_steps has no additive statistics; write a Model to use fit_stream")
    if not isinstance(algorithm, OnlineEM):
        arrays.check_algorithm(algorithm)
        if not algorithm.monotone:
            raise ValueError(f"algorithm: {type(algorithm).__name__} needs all rows at once; expected EM or the like")
    stream = Stream(model, Source(model, source, weights, chunk_size and int(chunk_size)), start)
    monitor = Monitor.of(callback, progress, checkpoint)
    limits = jnp.asarray(tol, stream.dtype), int(max_steps)
    if isinstance(algorithm, OnlineEM):
        return follow_stream(stream, algorithm, *limits, monitor)
    return _exact(stream, algorithm, *limits, monitor)


class Stream:
    """A source, the units it is looked at in, and the compiled sums over its blocks."""

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
        """That of these rows alone, which are wide here: float32 rows near 0 would need none."""
        return self.model.origin(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), rows), self.given)

    def rounded(self, block: Any) -> Any:
        """(rows, weights) in the dtype of the fit, moved to the origin before; and the log-volume of that."""
        rows, volume = block.rows, 0.0
        if self.frame.moves:
            frame = self.frame
            if any(self.origin_per_row):  # the lengths of sequences
                frame = frame._replace(units=_joined(frame.units, self._origin_of(rows), self.origin_per_row))
            volume = frame.volume(block.weights)
            rows = arrays.map_rows(frame.units.rows, rows, self.dtype)
        return *jax.tree.map(lambda leaf: np.asarray(leaf, self.dtype), (rows, block.weights)), volume

    def blocks(self) -> Any:
        """Placed blocks of one pass. `SourceError` where there are not as many rows as in the first."""
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
            raise SourceError(f"source: gave {n:,} rows where it gave {self.n:,} before")
        self.n, self.volume = n, sum(float(each) for each in volumes)

    def problem(self, centred: bool = False) -> Problem:
        """The problem of one block, to be given the rows of each."""
        total, in_use = (jnp.asarray(value, self.dtype) for value in (self.total, self.in_use))
        chunk = min(self.chunk, len(self.first[1]))
        points = jnp.maximum(total, in_use)
        rows, weights = self.first
        return Problem(self.inner, rows, weights, self.units, total, points, chunk=chunk, centred=centred)

    def evaluate(self, problem: Problem, params: Any) -> Any:
        """(statistics, log-likelihood) at params: one pass over the source."""
        sums = None
        for rows, weights in self.blocks():
            part = dataclasses.replace(problem, rows=rows, weights=weights, chunk=self.chunk)
            sums = _add(self.moved, part, params, sums, self.per_row)
        stats, log_lik, total, in_use = _added(sums)
        self.total, self.in_use = float(total), float(in_use)
        return stats, log_lik

    @property
    def sums(self) -> Any:
        """What is known of the source after a pass, for a checkpoint."""
        return np.asarray([self.total, self.in_use, self.volume], np.float64), np.asarray(self.n, np.int64)

    def remember(self, kept: Any) -> Any:
        """`kept`, and what it knows of the source."""
        (self.total, self.in_use, self.volume), self.n = (float(v) for v in kept.sums[0]), int(kept.sums[1])
        return kept

    def result(self, fits: Any, history: Any, size: Any) -> Result:
        """A finished fit in the data's units; size: what its verdict goes by."""
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
    """A tuple, one entry per leaf of the model's units: whether it holds something for every row."""
    units = []
    for extra in (0, 1):
        longer = jax.tree.map(
            lambda leaf, extra=extra: jax.ShapeDtypeStruct((leaf.shape[0] + extra, *leaf.shape[1:]), leaf.dtype), rows
        )
        weights = jax.ShapeDtypeStruct((arrays.n_rows(rows) + extra,), jax.tree.leaves(rows)[0].dtype)
        units.append(jax.eval_shape(model.units, longer, weights))
    return _differ(*units)


def _differ(a, b):
    """Which leaves of two trees have different shapes."""
    return tuple(np.shape(x) != np.shape(y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def _joined(shared, own, per_row):
    """`shared` with the leaves of `own` that hold something for every row."""
    leaves, structure = jax.tree.flatten(shared)
    return structure.unflatten(
        b if mine else a for a, b, mine in zip(leaves, jax.tree.leaves(own), per_row, strict=True)
    )


def _units_of(model, units, rows, weights, per_row):
    """`units` for these rows: what they hold of every row is the rows' own."""
    return _joined(units, model.units(rows, weights), per_row) if any(per_row) else units


@partial(jax.jit, static_argnames="per_row")
def _volume(model, units, rows, weights, per_row):
    """The log-volume of one block in the units of the fit."""
    return (weights * _units_of(model, units, rows, weights, per_row).log_volume()).sum()


@jax.jit
def _initialise(model, rows, weights, start):
    """(model in units, units, start in units)."""
    units = model.units(rows, weights)
    return units.model(model), units, units.params(start)


@partial(jax.jit, static_argnames="per_row")
def _add(model, problem, params, sums, per_row):
    """Compensated sums of statistics, log-likelihood and weights, with those of one more block."""
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


_propose = jax.jit(step.propose)


@partial(jax.jit, static_argnames="flag_ill")
def _judge(problem, algorithm, lane, proposal, seen, log_lik, fresh, tol, max_steps, flag_ill):
    expected = algorithm.expected_gain(problem, lane.params, proposal.params, lane.memory, seen)
    return step.judge(problem, algorithm, lane, proposal, seen, log_lik, expected, fresh, tol, max_steps, flag_ill)


_halve = jax.jit(step.halve)


@jax.jit
def _lane(problem, algorithm, params, n_steps=0, n_evaluations=0) -> Lane:
    """A fit that is to begin (or to go on in another form) at params."""
    low = jnp.asarray(-jnp.inf, jnp.result_type(*jax.tree.leaves(params)))
    zero, steps, looks = (jnp.asarray(n, jnp.int32) for n in (0, n_steps, n_evaluations))
    memory = algorithm.init(problem, params, problem.chunked().no_statistics(params))
    return Lane(params, memory, low, low, zero + RUNNING, steps, looks, params, jnp.ones((), bool), zero)


class Kept(NamedTuple):
    """What a checkpoint of a stream holds between two looks."""

    lane: Lane
    history: np.ndarray
    centred: np.ndarray
    fresh: np.ndarray
    sums: tuple[Any, ...]


def _exact(stream: Stream, algorithm, tol, max_steps, monitor: Monitor) -> Result:
    """EM and what is faster, one pass over the source for every look."""
    problem = stream.problem()
    has_centred_form = stream.inner.ill_conditioned(stream.start) is not None
    kept = Kept(
        _lane(problem, algorithm, stream.start),
        np.full(max_steps, np.nan, stream.dtype),
        np.asarray(False),
        np.asarray(True),
        stream.sums,
    )
    monitored = MonitoredFit(monitor, (stream.moved, stream.first, stream.start, algorithm, tol, max_steps))
    kept = stream.remember(monitored.resumed(kept))
    try:
        while int(kept.lane.status) == RUNNING:
            kept = _iteration(stream, algorithm, kept, tol, max_steps, has_centred_form)
            over = int(kept.lane.status) != RUNNING
            monitored.after_block(kept, partial(_progress, kept, stream, monitored), last=over)
    except (KeyboardInterrupt, StoppedByCallbackError):
        monitored.keep(kept)
        return stream.result(*_stopped(stream, kept))
    except SourceError as error:
        monitored.keep(kept)
        error.result = stream.result(*_stopped(stream, kept))
        raise
    finally:
        monitored.close()
    fits, history, size = _stopped(stream, kept, int(kept.lane.status))
    if stream.inner.judged_by_statistics:
        size, _ = stream.evaluate(stream.problem(), fits.params)
    return stream.result(fits, history, size)


def _iteration(stream, algorithm, kept: Kept, tol, max_steps, has_centred_form) -> Kept:
    centred = bool(kept.centred)
    algorithm = algorithm.centred() if centred else algorithm
    problem, lane = stream.problem(centred), kept.lane
    proposal = _propose(problem, algorithm, lane)
    seen, log_lik = stream.evaluate(problem, proposal.params)
    problem = stream.problem(centred)  # the first look says how many rows there are
    limits = tol, jnp.asarray(max_steps, jnp.int32)
    flag_ill = has_centred_form and not centred
    new, objective = _judge(
        problem, algorithm, lane, proposal, seen, log_lik, jnp.asarray(kept.fresh), *limits, flag_ill=flag_ill
    )
    history, fresh = kept.history, False
    if int(new.n_steps) > int(lane.n_steps):
        history = history.copy()
        history[int(new.n_steps) - 1] = objective
    if int(new.status) == HALVING:
        new = _halve(stream.inner, new)
    elif int(new.status) == ILL_CONDITIONED:
        centred, fresh = True, True
        new = _lane(stream.problem(True), algorithm.centred(), new.params, new.n_steps, new.n_evaluations)
    return Kept(new, history, np.asarray(centred), np.asarray(fresh), stream.sums)


def _stopped(stream, kept: Kept, status=int(Status.INTERRUPTED)):
    lane = kept.lane
    fits = Finished(*(getattr(lane, name) for name in Finished._fields))
    return fits._replace(status=jnp.asarray(status, jnp.int32)), kept.history, stream.problem().n_points


def _progress(kept: Kept, stream, monitored) -> Progress:
    objective = float(kept.lane.objective) - float(stream.volume)
    over = int(int(kept.lane.status) != RUNNING)
    return Progress(int(kept.lane.n_evaluations), over, 1, objective, monitored.seconds, 1.0)
