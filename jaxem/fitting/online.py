"""Online EM: over a stream (`follow_stream`), and with new rows batch by batch (`fit_partial`)."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from jaxem.algorithms.algorithm import choose
from jaxem.algorithms.online import OnlineEM
from jaxem.contract.frame import Frame
from jaxem.contract.model import Model
from jaxem.engine.blocks import MonitoredFit, Progress, StoppedByCallbackError
from jaxem.engine.expectation import Problem
from jaxem.engine.result import Finished, Result, Status
from jaxem.engine.step import all_finite
from jaxem.fitting.data import check_data, check_start
from jaxem.inputs.sources import SourceError
from jaxem.numerics.chunks import cut_rows
from jaxem.numerics.tracing import is_traced


class Trail(NamedTuple):
    """The state of online EM between two batches.

    Attributes:
        params: the current params, in standard units.
        stats: the current mean statistics per unit of weight.
        n_steps: the number of batches so far.
        average: the sum of `stats` over the batches of this pass.
        n_averaged: the number of batches of this pass.
        log_lik: the sum over the batches of this pass of their log-likelihoods, in nats, each at
            the params before its update.
        weight: the total weight of the batches of this pass.
    """

    params: Any
    stats: Any
    n_steps: jax.Array
    average: Any
    n_averaged: jax.Array
    log_lik: jax.Array
    weight: jax.Array


@jax.jit
def _begin(problem: Problem, params) -> Trail:
    stats = problem.chunked().no_statistics(params)
    zero, none = jnp.zeros((), jnp.result_type(*jax.tree.leaves(params))), jnp.zeros((), jnp.int32)
    return Trail(params, stats, none, stats, none, zero, zero)


@jax.jit
def _follow(problem: Problem, algorithm: OnlineEM, trail: Trail, total) -> Trail:
    """The trail after the rows of a problem, batch by batch.

    The M-step gets the mean statistics times `total`.
    """
    rows, weights = cut_rows(problem.rows, problem.weights, min(algorithm.batch_size, len(problem.weights)))

    def step(trail: Trail, batch):
        rows, weights = batch
        weight = weights.sum()
        stats, log_lik = problem.sums(rows, weights, trail.params)
        log_lik = log_lik + problem.model.shared_log_lik(trail.params, stats)
        mean = jax.tree.map(lambda leaf: leaf / jnp.where(weight > 0, weight, 1), stats)
        new_stats = algorithm.follow(trail.stats, mean, trail.n_steps)
        params = problem.maximize(jax.tree.map(lambda leaf: total * leaf, new_stats), trail.params)
        new = Trail(
            params,
            new_stats,
            trail.n_steps + 1,
            jax.tree.map(jnp.add, trail.average, new_stats),
            trail.n_averaged + 1,
            trail.log_lik + log_lik,
            trail.weight + weight,
        )
        # A batch without weight, or one that would give values that are not finite, is left out.
        taken = (weight > 0) & all_finite((params, new_stats, log_lik))
        return choose(taken, new, trail), None

    return lax.scan(step, trail, (rows, weights))[0]


def _new_pass(trail: Trail) -> Trail:
    """The trail before a pass: its sums over the batches of a pass are 0."""
    none = jax.tree.map(jnp.zeros_like, trail)
    return trail._replace(**{name: getattr(none, name) for name in ("average", "n_averaged", "log_lik", "weight")})


@jax.jit
def _averaged(problem: Problem, algorithm: OnlineEM, trail: Trail, total):
    """The params after a pass: from averaged statistics if the algorithm asks for them."""
    if not algorithm.averaged:
        return trail.params
    mean = jax.tree.map(lambda leaf: total * leaf / jnp.maximum(trail.n_averaged, 1), trail.average)
    params = problem.maximize(mean, trail.params)
    return choose(all_finite(params) & (trail.n_averaged > 0), params, trail.params)


def follow_stream(stream: Any, algorithm: OnlineEM, tol: Any, max_steps: Any, monitor: Any) -> Result:
    """Passes of online EM over a stream, and one evaluation of all rows at the end.

    It stops when a pass gains at most `tol` per unit of weight over the pass before.

    Args:
        stream: the `StreamData` of the fit.
        algorithm: the online algorithm.
        tol: in nats per unit of weight.
        max_steps: the largest number of passes.
        monitor: callback, progress bar and checkpoint.

    Returns:
        The result. Its `history` holds, for each pass, the sum of the batches' log-likelihoods, in
        nats, each at the params before the batch.

    Raises:
        SourceError: the source failed; its `result` holds the fit so far, with a `log_lik` of NaN.
    """
    problem = stream.problem()
    total = jnp.asarray(stream.source.total_weight, stream.dtype)
    trail, history, n_passes = _begin(problem, stream.start), np.full(max_steps, np.nan, stream.dtype), 0
    monitored = MonitoredFit(monitor, (stream.moved, stream.first, stream.start, algorithm, tol, max_steps))
    trail, history, n_passes, small = monitored.resumed((trail, history, np.asarray(0), np.asarray(False)))

    def kept():
        return trail, history, np.asarray(n_passes), np.asarray(small)

    def progress():
        value = float(history[int(n_passes) - 1]) - float(stream.volume)
        return Progress(int(n_passes), int(bool(small)), 1, value, monitored.seconds, 1.0)

    try:
        while int(n_passes) < max_steps and not small:
            trail = _new_pass(trail)
            for rows, weights in stream.blocks():
                block = dataclasses.replace(problem, rows=rows, weights=weights, chunk=0)
                trail = _follow(block, algorithm, trail, total)
            history, n_passes = history.copy(), int(n_passes) + 1
            history[n_passes - 1] = trail.log_lik
            gain = (history[n_passes - 1] - history[n_passes - 2]) / float(trail.weight) if n_passes > 1 else np.inf
            small = bool(gain <= float(tol))
            monitored.after_block(kept(), progress, last=small or n_passes == max_steps)
        status = Status.CONVERGED if small else Status.MAX_STEPS
    except (KeyboardInterrupt, StoppedByCallbackError):
        status = Status.INTERRUPTED
    except SourceError as error:
        error.result = _result(stream, algorithm, trail, total, history, n_passes, Status.INTERRUPTED, look=False)
        raise
    finally:
        monitored.close()
    return _result(stream, algorithm, trail, total, history, n_passes, status)


def _result(stream, algorithm, trail, total, history, n_passes, status, look=True) -> Result:
    problem = stream.problem()
    params = _averaged(problem, algorithm, trail, total)
    stats, log_lik = stream.evaluate(problem, params) if look else (trail.stats, jnp.asarray(np.nan, stream.dtype))
    objective = log_lik + stream.inner.log_prior(params)
    count = jnp.asarray(int(n_passes), jnp.int32)
    fits = Finished(params, log_lik, objective, jnp.asarray(int(status), jnp.int32), count, count + look)
    size = stats if stream.inner.judged_by_statistics else stream.problem().n_points
    return stream.result(fits, history, size)


class OnlineState(NamedTuple):
    """The state of a fit that goes on batch by batch (see `fit_partial`).

    Attributes:
        params: the current params, in the data's units.
        trail: the state of online EM, in standard units.
        units: the standard units, which the rows of the first call have set.
        origin: the units of the frame, which the rows of the first call have set.
        total_weight: the total weight of all rows so far.
    """

    params: Any
    trail: Trail
    units: Any
    origin: Any
    total_weight: Any


def fit_partial(
    model: Model,
    x: Any,
    state: Any,
    *,
    weights: ArrayLike | None = None,
    algorithm: OnlineEM = OnlineEM(),  # noqa: B008  (immutable)
) -> OnlineState:
    """Go on with new rows, by online EM. Each row is used once.

    The rows of the first call set the standard units, so they should be representative.

    Args:
        model: a model with additive statistics.
        x: new rows [n, ...], which are taken in batches of `algorithm.batch_size`.
        state: what the last call returned, or params to start from.
        weights: sample weights [n]; None means that all are 1.
        algorithm: the online algorithm.

    Returns:
        The new state; `state.params` are the params after these rows.

    Raises:
        ValueError: an argument is not usable, or the model has no additive statistics.

    Examples:
        >>> import jax, jaxem
        >>> x = jax.random.permutation(jax.random.key(1), jaxem.datasets.old_faithful())
        >>> model = jaxem.gaussian_mixture(2)
        >>> state = model.init(jax.random.key(0), x)
        >>> for batch in (x[:100], x[100:200], x[200:]):
        ...     state = jaxem.fit_partial(model, batch, state)
        >>> bool(model.log_prob(state.params, x).mean() > -4.3)
        True
    """
    data = check_data(model, x, weights, 0, 0, None)
    if not model.additive:
        raise ValueError("model: from_steps has no additive statistics; write a Model to use fit_partial")
    if isinstance(state, OnlineState):
        data.frame, start = Frame(state.origin, data.dtype), None
    else:
        start = check_start(model, state, data)
    problem, begun = _problem(data.inner, data.x, data.weights, start, state.units if start is None else None)
    trail, before = (begun, 0.0) if start is not None else (state.trail, state.total_weight)
    total = before + (data.weights.sum() if is_traced(data.weights) else float(np.sum(np.asarray(data.weights))))
    trail = _follow(problem, algorithm, trail, jnp.asarray(total, data.dtype))
    params = data.frame.params_back(_to_data(problem.units, trail.params))
    return OnlineState(params, trail, problem.units, data.frame.units, total)


@jax.jit
def _problem(model, x, weights, start, units):
    """The problem of new rows, and the trail that begins at `start`, or None without a start."""
    units = model.units(x, weights) if start is not None else units
    total = weights.sum()
    problem = Problem(units.model(model), x, weights, units, total, total)
    if start is None:
        return problem, None
    chunked = dataclasses.replace(problem, chunk=len(weights))
    return problem, _begin(chunked, units.params(start))


@jax.jit
def _to_data(units, params):
    return units.back(params)
