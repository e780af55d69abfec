"""`fit_stream`: fits that read the data again in every iteration, and online EM over such data.

Statistics are sums over rows, so the E-step of a source is a loop on the host over blocks of rows.
Proposing and judging (`step.propose`, `step.judge`) are the same functions as in other fits.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.algorithms.algorithm import Algorithm
from jaxem.algorithms.em import EM
from jaxem.algorithms.online import OnlineEM
from jaxem.contract.arguments import check_model
from jaxem.contract.model import Model
from jaxem.engine import step
from jaxem.engine.blocks import Monitor, MonitoredFit, Progress, StoppedByCallbackError
from jaxem.engine.result import Finished, Result, Status
from jaxem.engine.step import HALVING, ILL_CONDITIONED, RUNNING, Lane
from jaxem.fitting.fit import DEFAULT_MAX_STEPS, DEFAULT_TOL
from jaxem.fitting.online import follow_stream
from jaxem.fitting.stream_data import StreamData
from jaxem.inputs import arrays
from jaxem.inputs.sources import Source, SourceError


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
    """Fit `model` to rows that are read again in every iteration and need not fit into memory.

    The standard units, and with them the variance that `floor` is relative to, are those of up to
    65,536 rows from all parts of the source.

    Args:
        model: a model with additive statistics.
        source: an array, a memmap or anything else with a shape and slices, or a tuple of them; or
            something that gives arrays of rows each time it is iterated over: a list, an object
            with `__iter__`, or a function that returns a new iterator.
        start: params.
        weights: sample weights, in the same form as the source; None means that all are 1.
        algorithm: `EM()`, `SQUAREM()` or `Anderson()`, which give the same result as `fit` on all
            rows; or `OnlineEM()`. A step of online EM is one pass over the source, and the history
            holds the sum of the batches' log-likelihoods, each at the params before the batch.
        tol: as in `fit`.
        max_steps: as in `fit`.
        chunk_size: the number of rows that are read at a time.
        callback: as in `fit`.
        progress: as in `fit`.
        checkpoint: as in `fit`.

    Returns:
        A `Result`, as from `fit`.

    Raises:
        SourceError: the source failed, or a pass gave another number of rows than the one before.
            The error's `result` is the fit so far.
        ValueError: an argument is not usable, for instance a source that can be read only once.

    Examples:
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
            raise ValueError(
                f"algorithm: expected EM(), SQUAREM(), Anderson() or OnlineEM(); got {type(algorithm).__name__}"
            )
    stream = StreamData(model, Source(model, source, weights, chunk_size and int(chunk_size)), start)
    monitor = Monitor.of(callback, progress, checkpoint)
    limits = jnp.asarray(tol, stream.dtype), int(max_steps)
    if isinstance(algorithm, OnlineEM):
        return follow_stream(stream, algorithm, *limits, monitor)
    return _exact(stream, algorithm, *limits, monitor)


_propose = jax.jit(step.propose)


@partial(jax.jit, static_argnames="flag_ill")
def _judge(problem, algorithm, lane, proposal, seen, log_lik, fresh, tol, max_steps, flag_ill):
    expected = algorithm.expected_gain(problem, lane.params, proposal.params, lane.memory, seen)
    return step.judge(problem, algorithm, lane, proposal, seen, log_lik, expected, fresh, tol, max_steps, flag_ill)


_halve = jax.jit(step.halve)


@jax.jit
def _lane(problem, algorithm, params, n_steps=0, n_evaluations=0) -> Lane:
    """The lane of a fit that starts at `params`, or goes on from there in the centred form."""
    low = jnp.asarray(-jnp.inf, jnp.result_type(*jax.tree.leaves(params)))
    zero, steps, looks = (jnp.asarray(n, jnp.int32) for n in (0, n_steps, n_evaluations))
    memory = algorithm.init(problem, params, problem.chunked().no_statistics(params))
    return Lane(params, memory, low, low, zero + RUNNING, steps, looks, params, jnp.ones((), bool), zero)


class Kept(NamedTuple):
    """The state of a fit between two passes, which a checkpoint holds.

    Attributes:
        lane: the fit.
        history: the objective after each step, [max_steps].
        centred: whether the fit uses the centred form.
        fresh: whether the next evaluation is the first one in this form.
        sums: the sums over the source (see `StreamData.sums`).
    """

    lane: Lane
    history: np.ndarray
    centred: np.ndarray
    fresh: np.ndarray
    sums: tuple[Any, ...]


def _exact(stream: StreamData, algorithm, tol, max_steps, monitor: Monitor) -> Result:
    """A fit by EM or an acceleration of it, with one pass over the source for every evaluation."""
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
    problem = stream.problem(centred)  # The number of rows is known only after the first pass.
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
