"""The compiled programs of a fit: initialise, iterate, finish.

From the host each of them is a program of its own (see `blocks`), so that the states between them
can be shown and written, and programs that a fit does not need are not compiled. Under a trace they
are parts of one program, `stages.solve`. Where rows are sharded over devices (see `devices`), each
device runs the programs on its own rows.
"""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxem.contract.units import Identity
from jaxem.engine import loop
from jaxem.engine.expectation import Problem, lanes_and_rows, make_problem
from jaxem.engine.loop import State, not_started
from jaxem.engine.result import Result, Status
from jaxem.inputs import arrays
from jaxem.numerics.chunks import first_of, map_in_batches, whole_blocks
from jaxem.numerics.compilation import Program, Work, size
from jaxem.numerics.devices import Placement

#: From this number of rows times lanes, a narrower loop for the last lanes is worth compiling.
#: Every width takes a second or two to compile; fits of small data take no longer than that.
NARROW_WORK = 1 << 17

#: The narrower loop begins when at most one lane in this many is busy. In the centred form usually
#: very few fits go on at all.
NARROWING, NARROWING_CENTRED = 4, 16


class Plan(NamedTuple):
    """The options of a fit that are part of the compiled program.

    Attributes:
        n_history: the length of the histories.
        chunk_size: the number of rows per chunk, or None where the user gives none.
        n_lanes: the number of fits that run side by side.
        make_starts: (model, units, x, weights, key) -> starts, or None where starts are given.
        placement: how rows and restarts are sharded over devices, or None.
        screening: pairs (steps, the share of the fits that go on after so many steps).
        alone: whether there is one fit, which is returned without a leading axis.
    """

    n_history: int
    chunk_size: int | None = None
    n_lanes: int = 1
    make_starts: Any = None
    placement: Placement | None = None
    screening: tuple[Any, ...] = ()
    alone: bool = False


def _work_of_starts(model, x, weights, algorithm, starts, key, plan):
    return Work(4 * size(x), plan.make_starts.n if starts is None else arrays.n_rows(starts), once=True)


def initialise(model: Any, x: Any, weights: jax.Array, algorithm: Any, starts: Any, key: jax.Array, plan: Plan) -> Any:
    """The problem and the state before the first iteration.

    Args:
        model: the model.
        x: the rows, [n, ...].
        weights: the weights of the rows, [n].
        algorithm: the algorithm.
        starts: params [r, ...] in the data's units, or None where the plan makes the starts.
        key: the key with which the plan makes starts, or None.
        plan: the plan of the fits.

    Returns:
        (problem, state).
    """
    problem, state = _initialise(model, x, weights, algorithm, starts, key, plan)
    return problem.of_rows(x, weights), state


@partial(Program, work=_work_of_starts, static_argnames="plan")
def _initialise(model, x, weights, algorithm, starts, key, plan: Plan):
    """`initialise` without the rows as they came, of which a program would return a copy."""
    with whole_blocks(plan.placement is not None):
        units = model.units(x, weights)
    inner = units.model(model)
    if plan.make_starts is not None:
        starts = plan.make_starts(inner, units, x, weights, key)
    else:
        starts = jax.vmap(units.params)(starts)
    begin = _begin if plan.placement is None else _begin_on_devices
    problem, state = begin(inner, x, weights, units, starts, algorithm, plan)
    return problem.of_rows(None, None), state


#: The kinds of fits (structure, shapes and dtypes) that `compile_ahead` has already seen.
_known: set = set()


def compile_ahead(
    model: Any,
    x: Any,
    weights: jax.Array,
    algorithm: Any,
    tol: Any,
    max_steps: Any,
    starts: Any,
    key: jax.Array,
    plan: Plan,
) -> tuple[list, list]:
    """Start to compile the programs of a fit that is the first of its kind.

    Tracing runs in Python and in one thread, but compiling does not. So each program is compiled
    while the next one is traced.

    Args:
        model: as in `initialise`.
        x: as in `initialise`.
        weights: as in `initialise`.
        algorithm: as in `initialise`.
        tol: as in `iterate`.
        max_steps: as in `iterate`.
        starts: as in `initialise`.
        key: as in `initialise`.
        plan: as in `initialise`.

    Returns:
        (futures of `initialise`, futures of the programs after it).
    """
    arguments = model, x, weights, algorithm, starts, key, plan
    leaves, structure = jax.tree.flatten(arguments[:-1])
    kind = structure, plan, tuple((np.shape(leaf), getattr(leaf, "dtype", type(leaf))) for leaf in leaves)
    # Arrays that the user has put on a device need other programs than those compiled here. Other
    # backends than the CPU were not tried.
    placed = plan.placement is not None or any(getattr(leaf, "committed", False) for leaf in leaves)
    if kind in _known or placed or jax.default_backend() != "cpu":
        return [], []
    _known.add(kind)
    pool = ThreadPoolExecutor(3)
    try:
        (problem, state), first = _initialise.ahead(pool, *arguments)
        problem = problem.of_rows(x, weights)
        at_most = np.int32(1)
        state, second = iterate.ahead(pool, problem, algorithm, state, tol, max_steps, at_most=at_most, placement=None)
        n_lanes = len(state.index)
        _, third = finish.ahead(pool, model, problem, weights, state.fits, state.history, plan, n_lanes)
    finally:
        pool.shutdown(wait=False)
    return [first], [second, third]


def _begin(inner, x, weights, units, starts, algorithm, plan: Plan, pending=None, axis=None):
    first = jax.tree.map(lambda leaf: leaf[0], starts)
    z = jax.eval_shape(lambda units, x: units.rows(x), units, x)
    fits = not_started(starts)
    n_fits = len(fits.status)
    n_lanes, chunk = min(plan.n_lanes, n_fits), plan.chunk_size or 0
    if inner.additive:
        n_lanes, rows = lanes_and_rows(inner, z, first, n_lanes)
        chunk = chunk or rows
    problem = make_problem(inner, x, weights, chunk, units, store=plan.chunk_size is None, axis=axis)
    history = jnp.full((n_fits, plan.n_history), jnp.nan, fits.objective.dtype)
    pending = jnp.ones(n_fits, bool) if pending is None else pending
    return problem, loop.begin(problem.chunked(), algorithm, fits, history, pending, n_lanes)


def _begin_on_devices(inner, x, weights, units, starts, algorithm, plan: Plan):
    """`_begin` for sharded rows: every device prepares its own rows, and gets a share of starts."""
    placement, n_fits = cast(Placement, plan.placement), arrays.n_rows(starts)
    padded = -(-n_fits // placement.n_groups) * placement.n_groups
    at = jnp.minimum(jnp.arange(padded), n_fits - 1)
    starts, pending = jax.tree.map(lambda leaf: leaf[at], starts), jnp.arange(padded) < n_fits
    found = {}

    def begin(x, weights, starts, pending, shared):
        inner, units = shared
        problem, state = _begin(inner, x, weights, units, starts, algorithm, plan, pending, placement.rows)
        found["problem"] = problem = cast(Problem, problem)
        parts = {field: getattr(problem, field) for field in ("total_weight", "n_points")}
        kept = (problem.rows, problem.weights) if problem.prepared else ()
        return kept, parts, _packed(state)

    spread = placement.each(
        begin,
        (placement.of_rows, placement.of_rows, placement.of_fits, placement.of_fits, PartitionSpec()),
        (placement.of_rows, PartitionSpec(), placement.of_fits),
    )
    kept, parts, state = spread(x, weights, starts, pending, (inner, units))
    rows, weights = kept or (x, weights)
    problem = dataclasses.replace(found["problem"], model=inner, units=units, rows=rows, weights=weights, **parts)
    return problem, state


def _packed(state: State) -> State:
    """The state with its scalars as arrays [1], one for each group of devices."""
    return jax.tree.map(lambda leaf: leaf[None] if leaf.ndim == 0 else leaf, state)


def _unpacked(state: State) -> State:
    """The inverse of `_packed`."""
    numbers = ("taken", "n_pending", "n_iterations", "n_busy", "n_slots")
    return state._replace(**{name: getattr(state, name)[0] for name in numbers})


def _on_devices(function, placement: Placement, problem, *states):
    """function(problem, *states) on every device; its result is sharded as the fits are."""
    shared, spread = PartitionSpec(), placement.of_rows
    specs = dataclasses.replace(
        problem, model=shared, rows=spread, weights=spread, units=shared, total_weight=shared, n_points=shared
    )
    return placement.each(function, (specs, *(placement.of_fits for _ in states)), placement.of_fits)(problem, *states)


def work_of_state(problem: Any, algorithm: Any, state: Any, *rest: Any, **named: Any) -> Work:
    """How much work an iteration of all fits is."""
    if not problem.model.additive:
        return Work(size(problem.x), size(state.fits.params))
    data = size(problem.rows)
    return Work(data, size(state.fits.params), data / problem.weights.size)


@partial(Program, work=work_of_state, static_argnames="placement")
def iterate(
    problem: Problem,
    algorithm: Any,
    state: State,
    tol: Any,
    max_steps: Any,
    at_most: Any = None,
    placement: Placement | None = None,
) -> State:
    """Run the loop until every fit has ended, or for a number of iterations.

    Args:
        problem: the model and its data.
        algorithm: the algorithm.
        state: the state to go on from.
        tol: the gain per unit of weight, in nats, below which a fit has converged.
        max_steps: the largest number of steps of a fit.
        at_most: the largest number of iterations in this call, or None.
        placement: how rows and restarts are sharded over devices, or None.
    """

    def resume(problem, state):
        problem = problem.chunked()
        n_fits, n_lanes = len(state.queue), len(state.index)
        work = n_lanes * (problem.weights.size if problem.model.additive else 1)
        centred = getattr(problem, "centred", False)
        flag_ill = not centred and has_centred_form(problem, state)
        narrowing = 0 if n_fits == 1 or work < NARROW_WORK else NARROWING_CENTRED if centred else NARROWING
        until = None if at_most is None else state.n_iterations + at_most
        return loop.iterate(problem, algorithm, state, tol, max_steps, until, flag_ill, narrowing)

    if placement is None:
        return resume(problem, state)
    return _on_devices(lambda p, s: _packed(resume(p, _unpacked(s))), placement, problem, state)


def has_centred_form(problem: Problem, state: Any) -> bool:
    """Whether the model has a centred form, for ill-conditioned params, in this dtype."""
    first = jax.tree.map(lambda leaf: leaf[0], state.lanes.params)
    return problem.model.ill_conditioned(first) is not None


@partial(Program, work=work_of_state, static_argnames="placement")
def resume(problem: Problem, algorithm: Any, state: State, pending: Any, placement: Placement | None = None) -> State:
    """The state in which the fits that are `pending` [r] go on from where they are."""

    def begin(problem, state, pending):
        new = loop.begin(problem.chunked(), algorithm, state.fits, state.history, pending, len(state.index))
        counts = {name: getattr(state, name) for name in ("n_iterations", "n_busy", "n_slots")}
        return new._replace(**counts)

    if placement is None:
        return begin(problem, state, pending)
    return _on_devices(lambda p, s, which: _packed(begin(p, _unpacked(s), which)), placement, problem, state, pending)


@partial(jax.jit, static_argnames="placement")
def stop(state: State, placement: Placement | None = None) -> Any:
    """Every fit as it is now; those that have not ended have the status INTERRUPTED."""
    if placement is None:
        return loop.interrupted(state)
    spec = placement.of_fits
    return placement.each(lambda state: loop.interrupted(_unpacked(state)), (spec,), spec)(state)


def _work_of_verdict(model, problem, weights, fits, history, plan, n_lanes):
    return Work(4 * size((weights, fits)), once=True)


@partial(Program, work=_work_of_verdict, static_argnames=("plan", "n_lanes"))
def finish(
    model: Any, problem: Problem, weights: jax.Array, fits: Any, history: Any, plan: Plan, n_lanes: int
) -> Result:
    """The result in the data's units, with the degenerate components and the final status.

    Args:
        model: the model.
        problem: the model and its data.
        weights: the weights of the rows, [n].
        fits: the `Finished` fits, in standard units.
        history: their histories, [r, n_history].
        plan: the plan of the fits.
        n_lanes: the number of fits that ran side by side.
    """
    placement = plan.placement
    verdict = partial(_verdict, n_lanes=n_lanes)
    if placement is None:
        status, degenerate = verdict(problem, fits)
    else:
        status, degenerate = _on_devices(verdict, placement, problem, fits)
    units = problem.units if model.additive else Identity()
    volume = (weights * units.log_volume()).sum()
    log_lik = fits.log_lik - volume
    result = Result(
        params=jax.vmap(units.back)(fits.params),
        log_lik=log_lik,
        objective=log_lik + (fits.objective - fits.log_lik),
        status=status,
        n_steps=fits.n_steps,
        n_evaluations=fits.n_evaluations,
        history=history - volume,
        degenerate=degenerate,
    )
    result = result if placement is None else placement.everywhere(result)
    return first_of(result) if plan.alone else result


def _verdict(problem, fits, n_lanes):
    """(the final status of each fit, its degenerate components)."""
    model, problem = problem.model, problem.chunked()

    def judge(params):
        size = problem.expectation(params)[0] if model.judged_by_statistics else problem.n_points
        return model.degenerate(params, size), model.empty(params, size)

    # A pass over the data needs as much memory as in the loop, so no more fits are judged at once.
    together = n_lanes if model.judged_by_statistics else len(fits.status)
    degenerate, empty = map_in_batches(judge, fits.params, together)

    def any_of(flags):
        return flags.reshape(len(fits.status), -1).any(1)

    return named(fits.status, fits.objective, any_of(degenerate), any_of(empty)), degenerate


def named(status: Any, objective: Any, degenerate: Any, empty: Any) -> Any:
    """The final status of a fit, from its status in the loop.

    EMPTY replaces CONVERGED, and DEGENERATE replaces any status of a fit with a finite objective.

    Args:
        status: the status in the loop.
        objective: the objective.
        degenerate: whether a component is degenerate.
        empty: whether a component holds no data.
    """
    status = jnp.where((status == Status.CONVERGED) & empty, Status.EMPTY, status)
    return jnp.where(jnp.isfinite(objective) & degenerate, Status.DEGENERATE, status).astype(jnp.int32)
