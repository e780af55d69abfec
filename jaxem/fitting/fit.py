"""`fit`: from what a person gives to the loop, and back. `solve` is the compiled part, shared with restarts."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from jaxem.algorithms.algorithm import Algorithm
from jaxem.algorithms.em import EM
from jaxem.contract.model import Model
from jaxem.engine.blocks import Monitor, solve_in_blocks
from jaxem.engine.programs import Plan
from jaxem.engine.result import PROPER, Result, Status
from jaxem.engine.stages import solve
from jaxem.fitting.data import check_data, check_start, join_labels
from jaxem.inputs import arrays
from jaxem.numerics.chunks import even_chunks
from jaxem.numerics.tracing import is_traced

#: Nats per unit of weight (per example). A slow fit gains about this much in each of its last hundreds of steps.
DEFAULT_TOL = 1e-8
DEFAULT_MAX_STEPS = 2000

#: Length of the history where `max_steps` is traced and its value is not known.
TRACED_HISTORY = 1024


def fit(
    model: Model,
    x: Any,
    start: Any,
    *,
    weights: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    algorithm: Algorithm = EM(),  # noqa: B008  (immutable)
    tol: float | jax.Array = DEFAULT_TOL,
    max_steps: int | jax.Array = DEFAULT_MAX_STEPS,
    chunk_size: int | None = None,
    callback: Callable[..., Any] | None = None,
    progress: bool = False,
    checkpoint: Any = None,
) -> Result:
    """Maximise the objective (log-likelihood + log prior) of `model` on `x`, beginning at `start`.

    x: rows, [n, ...] (or a tuple of arrays with n rows each). start: params. weights: [n], a row of weight w counts
    as w rows. labels: what is known of the hidden values, [n] of int (-1: unknown; an HMM's are [n, t]), or [n, k] of
    bool (the values that each row allows) or of numbers >= 0 (prior responsibilities), see `jaxem.observed.labelled`.
    algorithm: `EM()`, `SQUAREM()`, `Anderson()`, or `Gradient(optimizer)`.
    tol: stop when a step gains less than this many nats per unit of weight (per example); gains below what the dtype
    resolves always stop it. max_steps: M-steps at most.
    chunk_size: rows per pass; with it nothing larger than chunk_size x k is ever stored, without it what does not
    change is computed once and kept.
    callback, progress, checkpoint: see `jaxem.engine.blocks`; the fit has the same bits with and without them.

    Returns a `Result` with the params, total log-likelihood in nats and a proper `status`. tol, max_steps, weights,
    start and hyperparameters are traced: new values compile nothing. `fit` itself can be compiled, vmapped and
    differentiated (implicitly, through the fixed point: see `jaxem.differentiation`).

    Raises ValueError for arguments that are unusable, and never because of how the fit went.

    >>> import jax, jaxem
    >>> x = jaxem.datasets.old_faithful()
    >>> model = jaxem.gaussian_mixture(2)
    >>> result = jaxem.fit(model, x, model.init(jax.random.key(0), x))
    >>> result.message
    'CONVERGED: the last step gained less than tol nats per unit of weight'
    >>> round(float(result.log_lik), 2)
    -1130.26
    """
    model, x = join_labels(model, x, labels)
    data = check_data(model, x, weights, tol, max_steps, chunk_size)
    start = check_start(model, start, data)
    starts = jax.tree.map(lambda leaf: leaf[None], start)
    monitor = Monitor.of(callback, progress, checkpoint)
    return run_fit(model, data, algorithm, tol, max_steps, chunk_size, starts=starts, alone=True, monitor=monitor)


def one_of(fits: Result, index: Any) -> Result:
    """One fit of many, taken on the host where that can be: on the device every shape is one more program."""
    if is_traced((fits, index)):
        return jax.tree.map(lambda leaf: leaf[index], fits)

    def taken(leaf):
        one = np.asarray(leaf)[int(index)]
        return one if isinstance(leaf, np.ndarray) else jax.device_put(one)

    return jax.tree.map(taken, fits)


def run_fit(
    model: Model,
    data: Any,
    algorithm: Algorithm,
    tol: Any,
    max_steps: Any,
    chunk_size: int | None,
    *,
    starts: Any = None,
    key: jax.Array | None = None,
    make_starts: Any = None,
    n_lanes: Any = 1,
    monitor: Monitor = Monitor(),  # noqa: B008  (immutable)
    screening: Any = (),
    alone: bool = False,
) -> Result:
    """Fits from `starts`, or from those that `make_starts` makes with `key`: every number traced, carried back.

    alone: there is one start, and the result has no axis for it.
    """
    arrays.check_algorithm(algorithm)
    if algorithm.needs_statistics and not model.additive:
        name = type(algorithm).__name__
        raise ValueError(f"algorithm: from_steps has no additive statistics; write a Model to use {name}")
    if make_starts is not None:
        arrays.check_key(key)
    if is_traced(max_steps):
        length = n_history = TRACED_HISTORY
    else:
        length = int(max_steps)
        n_history = max(128, 1 << max(length - 1, 0).bit_length())
    if chunk_size is not None:
        here = len(data.weights) // (1 if data.placement is None else data.placement.mesh.shape[data.placement.rows])
        chunk_size = even_chunks(here, int(chunk_size))
    plan = Plan(n_history, chunk_size, n_lanes, make_starts, data.placement, screening, alone)
    inner = data.inner
    limits = arrays.as_number(tol, data.dtype), arrays.as_number(max_steps, np.int32)
    call = inner, data.x, data.weights, algorithm, *limits, starts, key, plan
    if is_traced(call[:-1]):
        monitor.refuse_trace()
        # Where neither model nor data are traced nobody differentiates, and there is less to compile.
        result = solve(*call, differentiable=is_traced((inner, data.x, data.weights)))
        return result._replace(history=result.history[..., :length])
    if monitor.callback or monitor.progress:
        monitor = monitor._replace(volume=data.frame.volume(data.weights))
    result = solve_in_blocks(*call, monitor=monitor)
    # Cut on the host: slicing on the device would compile a program for every max_steps.
    result = result._replace(history=jax.device_put(np.asarray(result.history)[..., :length]))
    if data.placement is not None and alone:
        result = jax.device_put(jax.tree.map(np.asarray, result))  # off the mesh
    elif data.placement is not None:
        # Groups of devices that do restarts of their own have the same number of them each.
        n_fits = plan.make_starts.n if plan.make_starts is not None else arrays.n_rows(starts)
        result = jax.tree.map(lambda leaf: np.asarray(leaf)[:n_fits], result)
    return data.result_back(result)


def raise_if_failed(result: Result) -> None:
    """Raise RuntimeError with the status's message unless the fit ended at a finite, proper point (host side)."""
    for status in np.atleast_1d(np.asarray(result.status)):
        if Status(int(status)) not in PROPER:
            raise RuntimeError(f"{Status(int(status)).name}: {Status(int(status)).message}")
