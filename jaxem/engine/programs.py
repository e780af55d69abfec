"""The compiled pieces of a fit: set it out, iterate, finish.

On the host each is a program of its own (see `blocks`): what lies between them can be looked at and kept, and what a
fit does not need is not compiled. Under a trace they are one, `solve`. Where rows are spread over devices (`devices`),
each device runs the pieces on what it holds.
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

#: Rows times lanes from which a narrower loop for the last lanes is worth its compilation: every width takes a second
#: or two to compile, which small data are done in.
NARROW_WORK = 1 << 17

#: One lane in so many left: time for the narrower loop. In the centred form it is usual that very few go on at all.
NARROWING, NARROWING_CENTRED = 4, 16


class Plan(NamedTuple):
    """What of a fit's options is part of the compiled program.

    n_history: length of the histories. chunk_size: rows per pass where the user says so. n_lanes: fits side by side.
    make_starts: (model, units, x, weights, key) -> starts, or None where they are given. placement: of the rows.
    screening: pairs (steps, share of the fits that go on after so many). alone: one fit, returned without an axis.
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
    """(problem, state) of fits from `starts` [r, ...], in the data's units, or from those that the plan makes."""
    problem, state = _initialise(model, x, weights, algorithm, starts, key, plan)
    return problem.of_rows(x, weights), state


@partial(Program, work=_work_of_starts, static_argnames="plan")
def _initialise(model, x, weights, algorithm, starts, key, plan: Plan):
    """`initialise` without the rows as they came: a program would give them back as a copy."""
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


#: Fits whose programs have been looked after, by structure, shapes and dtypes.
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
    """Futures of the programs of a fit that is the first of its kind: of `initialise`, and of those after it.

    Tracing is Python's and takes one thread, compiling is not: each is compiled while the next is traced.
    """
    arguments = model, x, weights, algorithm, starts, key, plan
    leaves, structure = jax.tree.flatten(arguments[:-1])
    kind = structure, plan, tuple((np.shape(leaf), getattr(leaf, "dtype", type(leaf))) for leaf in leaves)
    # Arrays that somebody put on a device make other programs of what has no place. Other backends were not tried.
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
    """The same where rows are spread: every device cuts and prepares its own, and takes its share of the starts."""
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
    """The state with its numbers as arrays [1]: one per group of devices."""
    return jax.tree.map(lambda leaf: leaf[None] if leaf.ndim == 0 else leaf, state)


def _unpacked(state: State) -> State:
    """The inverse of `_packed`."""
    numbers = ("taken", "n_pending", "n_iterations", "n_busy", "n_slots")
    return state._replace(**{name: getattr(state, name)[0] for name in numbers})


def _on_devices(function, placement: Placement, problem, *states):
    """function(problem, *states) on every device; what it returns is spread as the fits are."""
    shared, spread = PartitionSpec(), placement.of_rows
    specs = dataclasses.replace(
        problem, model=shared, rows=spread, weights=spread, units=shared, total_weight=shared, n_points=shared
    )
    return placement.each(function, (specs, *(placement.of_fits for _ in states)), placement.of_fits)(problem, *states)


def work_of_state(problem: Any, algorithm: Any, state: Any, *rest: Any, **named: Any) -> Work:
    """How much an iteration of all fits is."""
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
    """Go on until every fit has ended, or for `at_most` iterations."""

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
    """Whether the model has a form for ill-conditioned params at all in this dtype."""
    first = jax.tree.map(lambda leaf: leaf[0], state.lanes.params)
    return problem.model.ill_conditioned(first) is not None


@partial(Program, work=work_of_state, static_argnames="placement")
def resume(problem: Problem, algorithm: Any, state: State, pending: Any, placement: Placement | None = None) -> State:
    """The state in which the fits that `pending` [r] says go on from where they are."""

    def begin(problem, state, pending):
        new = loop.begin(problem.chunked(), algorithm, state.fits, state.history, pending, len(state.index))
        counts = {name: getattr(state, name) for name in ("n_iterations", "n_busy", "n_slots")}
        return new._replace(**counts)

    if placement is None:
        return begin(problem, state, pending)
    return _on_devices(lambda p, s, which: _packed(begin(p, _unpacked(s), which)), placement, problem, state, pending)


@partial(jax.jit, static_argnames="placement")
def stop(state: State, placement: Placement | None = None) -> Any:
    """What there is of every fit; those under way are INTERRUPTED."""
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
    """Fits in the data's units, each with its verdict."""
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
    """The loop's statuses, made proper: a collapsed or empty component is named whatever the gain said."""
    model, problem = problem.model, problem.chunked()

    def judge(params):
        size = problem.expectation(params)[0] if model.judged_by_statistics else problem.n_points
        return model.degenerate(params, size), model.empty(params, size)

    # A pass over the data needs as much memory as in the loop: not more fits at once than there.
    together = n_lanes if model.judged_by_statistics else len(fits.status)
    degenerate, empty = map_in_batches(judge, fits.params, together)

    def any_of(flags):
        return flags.reshape(len(fits.status), -1).any(1)

    return named(fits.status, fits.objective, any_of(degenerate), any_of(empty)), degenerate


def named(status: Any, objective: Any, degenerate: Any, empty: Any) -> Any:
    """The loop's status, or what is to be said first."""
    status = jnp.where((status == Status.CONVERGED) & empty, Status.EMPTY, status)
    return jnp.where(jnp.isfinite(objective) & degenerate, Status.DEGENERATE, status).astype(jnp.int32)
