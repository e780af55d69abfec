"""EM compared with direct gradient ascent: the objective by evaluations and by seconds."""

import functools
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import ArrayLike

from jaxem.algorithms.algorithm import Algorithm
from jaxem.algorithms.em import EM
from jaxem.algorithms.gradient import Gradient
from jaxem.contract.model import Model
from jaxem.engine.result import PROPER, Result
from jaxem.fitting.data import check_data, check_start
from jaxem.fitting.restarts import fit_restarts
from jaxem.inputs import arrays
from jaxem.numerics.compilation import Work, compiler_options, size

#: The factor by which the step counts grow at which an algorithm is measured. Each of them is a run
#: of its own, so that its time includes no measuring.
GROWTH = 1.3

#: A run that takes longer than this, in seconds, is not repeated, because noise hardly changes its
#: time. The step counts then grow by a factor of 2.
LONG = 0.5

#: The learning rate of Adam, in unconstrained coordinates and standard units. Out of 0.003, 0.01,
#: 0.03, 0.1, 0.3 and 1, it came within 0.01 nats of the best in the fewest evaluations (medians of
#: 73 to 109), over six fits of 2 or 3 components to Old Faithful, iris, wine and the galaxies. 0.03
#: took 91 to 163 evaluations and got there as often; 1 hardly ever got there.
LEARNING_RATE = 0.1


@functools.cache
def default_algorithms() -> dict[str, Algorithm]:
    """EM, Adam and L-BFGS (memory 10, the line search of optax), by name.

    They are made only once, so that each of them is compiled only once.
    """
    return {
        "EM": EM(),
        "Adam": Gradient(optax.adam(LEARNING_RATE)),
        "L-BFGS": Gradient(optax.lbfgs()),
    }


class Trace(NamedTuple):
    """The measurements of one algorithm: m runs from the same r starts, each with more steps.

    Attributes:
        name: the name of the algorithm.
        max_steps: the largest number of steps of each run, [m].
        evaluations: the passes over the data of each fit, [m, r]. A pass with its gradient counts
            as one, and so does a step of a line search.
        objective: the objective at the end of each fit, [m, r], total in nats; NaN where a fit
            collapsed or failed.
        seconds: the time of each run, all r starts side by side, [m].
        compile_seconds: the time of tracing and compiling, which `seconds` does not include. The
            algorithms are compiled side by side.
        fits: the `Result` of the last run, with a leading axis r.
    """

    name: str
    max_steps: np.ndarray
    evaluations: np.ndarray
    objective: np.ndarray
    seconds: np.ndarray
    compile_seconds: float
    fits: Result


class Comparison(NamedTuple):
    """The result of `compare_algorithms`.

    Attributes:
        traces: the measurements, one for each algorithm.
        best: the highest objective among the proper fits at the end of all runs, total in nats.
    """

    traces: list[Trace]
    best: float

    def table(self, within: float = 0.01) -> str:
        """The comparison as text, one line for each algorithm.

        Args:
            within: a start counts as "there" when its objective is at most this many nats below the
                best.
        """
        heads = ("algorithm", "best", "median", "there", "evaluations", "seconds", "s in all", "s compiling")
        lines = [_table_row(heads)]
        return "\n".join(lines + [_table_row(_summary(trace, self.best, within)) for trace in self.traces])


def compare_algorithms(
    model: Model,
    x: Any,
    starts: Any,
    algorithms: Mapping[str, Algorithm] | None = None,
    *,
    weights: ArrayLike | None = None,
    tol: float | jax.Array = 1e-10,
    max_steps: int = 1000,
    repeats: int = 3,
) -> Comparison:
    """Run several algorithms on a model from the same starts, and measure evaluations and times.

    Times are those of this machine at this moment, for all starts side by side, without compiling.

    Args:
        model: the model.
        x: rows [n, ...].
        starts: params with a leading axis r.
        algorithms: the algorithms by name; None compares EM with Adam and L-BFGS
            (`default_algorithms`).
        weights: sample weights [n]; None means that all are 1.
        tol: as in `fit`.
        max_steps: as in `fit`.
        repeats: each run is made this many times, and its time is that of the fastest. Long runs
            are made once.

    Returns:
        The measurements of each algorithm, and the best objective.

    Raises:
        ValueError: an argument is not usable.

    Examples:
        >>> import jax, jaxem
        >>> x = jaxem.datasets.old_faithful()
        >>> model = jaxem.gaussian_mixture(2)
        >>> keys = jax.random.split(jax.random.key(0), 4)
        >>> starts = jax.vmap(model.init, (0, None))(keys, jax.numpy.asarray(x))
        >>> compared = jaxem.compare_algorithms(model, x, starts, {"EM": jaxem.EM()}, max_steps=50)
        >>> round(compared.best, 2)
        -1130.26
    """
    arrays.check_number("max_steps", max_steps, 1, whole=True)
    arrays.check_number("repeats", repeats, 1, whole=True)
    data = check_data(model, x, weights, tol, max_steps, None)
    starts = check_start(model, starts, data, batch=True)
    algorithms = default_algorithms() if algorithms is None else algorithms
    arguments = (data.inner, data.x, data.weights, starts, jnp.asarray(tol, data.dtype))
    programs = _compiled(algorithms, arguments)
    traces = []
    for name, algorithm in algorithms.items():
        program, compiling = programs[name]
        run = _run(program, algorithm, arguments, data)
        traces.append(_trace(name, run, compiling, int(max_steps), repeats))
    ends = [trace.objective[-1] for trace in traces]
    return Comparison(traces, float(np.nanmax(ends)) if np.isfinite(ends).any() else float("nan"))


@jax.jit
def _fit_all(algorithm, model, x, weights, starts, tol, max_steps):
    options = dict(weights=weights, algorithm=algorithm, tol=tol, max_steps=max_steps)
    return fit_restarts(model, x, None, start=starts, **options).all


def _compiled(algorithms, arguments) -> dict:
    """name -> (program, seconds of tracing and compiling); programs are compiled side by side."""

    _, x, _, starts, _ = arguments
    options = compiler_options(Work(size(x), size(starts)), x)

    def compiled(lowered):
        begun = time.perf_counter()
        return lowered.compile(options), time.perf_counter() - begun

    with ThreadPoolExecutor() as pool:
        jobs = {}
        # By default the line search, which takes the longest to compile, is listed last.
        for name, algorithm in reversed(algorithms.items()):
            begun = time.perf_counter()
            lowered = _fit_all.lower(algorithm, *arguments, jnp.asarray(1, jnp.int32))
            jobs[name] = (time.perf_counter() - begun, pool.submit(compiled, lowered))
        done = {name: (seconds, *job.result()) for name, (seconds, job) in jobs.items()}
    return {name: (program, tracing + seconds) for name, (tracing, program, seconds) in done.items()}


def _run(program, algorithm, arguments, data):
    """A function (max_steps, repeats) -> (seconds, fits in the data's units)."""

    def run(max_steps, repeats):
        seconds, fits = _timed(lambda: program(algorithm, *arguments, jnp.asarray(max_steps, jnp.int32)), repeats)
        return seconds, jax.tree.map(np.asarray, data.result_back(fits))

    return run


def _trace(name, run, compile_seconds, max_steps, repeats) -> Trace:
    looks, limit = [], 0
    while True:
        seconds, fits = run(limit, repeats)
        objective = np.where(np.isin(fits.status, PROPER), fits.objective, np.nan)
        looks.append((limit, fits.n_evaluations, objective, seconds))
        if limit == max_steps or (fits.n_steps < limit).all():
            break
        limit = min(max(limit + 1, round(limit * (GROWTH if seconds < LONG else 2))), max_steps)
    limits, evaluations, objective, seconds = map(np.stack, zip(*looks, strict=True))
    # A shorter run is the beginning of a longer one. If it took more time, this is noise.
    seconds = np.minimum.accumulate(seconds[::-1])[::-1]
    return Trace(name, limits, evaluations, objective, seconds, compile_seconds, fits)


def _timed(run, repeats) -> tuple[float, Result]:
    """(seconds of the fastest run, what it returned)."""
    times = []
    while True:
        begun = time.perf_counter()
        result = jax.block_until_ready(run())
        times.append(time.perf_counter() - begun)
        if len(times) >= repeats or min(times) > LONG:
            return min(times), jax.tree.map(np.asarray, result)


def _summary(trace, best, within):
    """The cells of a table's row."""
    ends = trace.objective[-1]
    there = trace.objective >= best - within
    reached = there[-1]
    arrived = [trace.evaluations[np.argmax(there[:, r]), r] for r in np.flatnonzero(reached)]
    # The first run in which at least half of the starts that ever get there are there.
    half = np.argmax(there[:, reached].sum(1) * 2 >= reached.sum()) if reached.any() else None
    proper = np.isfinite(ends).any()
    return (
        trace.name,
        f"{np.nanmax(ends):.3f}" if proper else "-",
        f"{np.nanmedian(ends):.3f}" if proper else "-",
        f"{int(reached.sum())} of {len(ends)}",
        f"{np.median(arrived):.0f}" if arrived else "-",
        f"{trace.seconds[half]:.3f}" if half is not None else "-",
        f"{trace.seconds[-1]:.3f}",
        f"{trace.compile_seconds:.1f}",
    )


def _table_row(cells):
    return f"{cells[0]:<10}" + "".join(f"{cell:>12}" for cell in cells[1:])
