"""`fit` for a single start, and `run_fit`, which it shares with `fit_restarts`."""

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

#: The default of `tol`, in nats per unit of weight (per example). A slow fit gains about this much
#: in each of its last hundreds of steps.
DEFAULT_TOL = 1e-8
DEFAULT_MAX_STEPS = 2000

#: The length of the history where `max_steps` is traced, so that its value is not known.
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
    """Fit `model` to `x` from one start: maximise the objective, log-likelihood + log prior.

    `tol`, `max_steps`, `weights`, `start` and the hyperparameters of the model are traced: new
    values compile nothing. `fit` itself can be compiled, vmapped and differentiated; its
    derivatives are those of the fixed point (see `jaxem.engine.implicit`).

    Args:
        model: the model.
        x: rows [n, ...], or a tuple of arrays with n rows each.
        start: params.
        weights: [n]; a row of weight w counts as w rows. None means that all weights are 1.
        labels: what is known of the hidden values (see `jaxem.observed.labelled`): int [n], -1
            where a value is unknown, for an HMM [n, t]; or bool [n, k], the values that each row
            allows; or prior responsibilities, numbers of at least 0, [n, k].
        algorithm: `EM()`, `SQUAREM()`, `Anderson()` or `Gradient(optimizer)`.
        tol: the fit stops when a step gains less than this many nats per unit of weight (per
            example). It also stops at gains that are too small for the dtype to resolve.
        max_steps: the largest number of M-steps.
        chunk_size: the number of rows per chunk. With it, nothing larger than chunk_size x k is
            stored. Without it, what does not change between iterations is computed once and kept.
        callback: a function that is called with a `Progress` on the host after every block of
            iterations. If it returns True, the fit ends with the status INTERRUPTED.
        progress: whether to show a progress bar, which needs tqdm.
        checkpoint: a path to which the state of the fit is written; a call with the same arguments
            resumes from it. `callback`, `progress` and `checkpoint` do not change the result.

    Returns:
        A `Result` with the params, the total log-likelihood in nats and the status.

    Raises:
        ValueError: an argument is not usable. How a fit ends never raises: see `Result.status`.

    Examples:
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
    """One fit of many.

    It is taken on the host where the values are known, because indexing on the device would
    compile a program for every shape.
    """
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
    """Run the fits of a model from many starts and return their results in the data's units.

    Args:
        model: the model, with labels joined.
        data: the checked data, a `Data`.
        algorithm: the algorithm.
        tol: the option of `fit`.
        max_steps: the option of `fit`.
        chunk_size: the option of `fit`.
        starts: params in the frame of the data, with a leading axis of starts; or None.
        key: the random key for `make_starts`.
        make_starts: (model, units, x, weights, key) -> starts, run inside the compiled program,
            where `starts` is None.
        n_lanes: the number of fits that run side by side.
        monitor: callback, progress bar and checkpoint.
        screening: pairs (steps, the share of the fits that go on after so many steps).
        alone: whether there is one start, and the result has no axis for it.

    Raises:
        ValueError: an argument is not usable.
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
        # Without a traced model or traced data there are no derivatives, and less is compiled.
        result = solve(*call, differentiable=is_traced((inner, data.x, data.weights)))
        return result._replace(history=result.history[..., :length])
    if monitor.callback or monitor.progress:
        monitor = monitor._replace(volume=data.frame.volume(data.weights))
    result = solve_in_blocks(*call, monitor=monitor)
    # The history is cut on the host: slicing on the device would compile a program per max_steps.
    result = result._replace(history=jax.device_put(np.asarray(result.history)[..., :length]))
    if data.placement is not None and alone:
        result = jax.device_put(jax.tree.map(np.asarray, result))  # The result leaves the mesh.
    elif data.placement is not None:
        # All groups of devices get the same number of restarts, so some may have been added.
        n_fits = plan.make_starts.n if plan.make_starts is not None else arrays.n_rows(starts)
        result = jax.tree.map(lambda leaf: np.asarray(leaf)[:n_fits], result)
    return data.result_back(result)


def raise_if_failed(result: Result) -> None:
    """Raise an error unless a fit, or every fit of many, has a proper status.

    It works on the host, outside of compiled code.

    Args:
        result: what `fit` or `fit_restarts` returned.

    Raises:
        RuntimeError: a status is not proper (SCREENED, DEGENERATE or NONFINITE); the message says
            what the status means.
    """
    for status in np.atleast_1d(np.asarray(result.status)):
        if Status(int(status)) not in PROPER:
            raise RuntimeError(f"{Status(int(status)).name}: {Status(int(status)).message}")
