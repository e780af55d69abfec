"""THE loop: one `lax.while_loop` that iterates any algorithm on any model, for one start or a queue of many.

Every lane of the loop holds one fit. A lane carries params, the algorithm's memory (for EM: the statistics) and the
objective *evaluated at those params*, so what is reported belongs to what is returned, a fall is seen at once, and a
bad step is undone. When a lane finishes it takes the next start from the queue, so no lane waits for the slowest.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxem.engine.result import Finished, Status
from jaxem.engine.step import HALVING, RUNNING, Lane, advance, halve
from jaxem.numerics.hardware import hardware


def not_started(params: Any) -> Any:
    """Fits [r] that are to begin at params [r, ...]."""
    leaf = jax.tree.leaves(params)[0]
    n, dtype = leaf.shape[0], jnp.result_type(*jax.tree.leaves(params))
    low = jnp.full(n, -jnp.inf, dtype)
    zero = jnp.zeros(n, jnp.int32)
    return Finished(params, low, low, jnp.full(n, RUNNING, jnp.int32), zero, zero)


class State(NamedTuple):
    """All there is of fits under way: what crosses to the host between blocks, and what a checkpoint holds.

    lanes: the fits in the loop [l, ...], index: which fit each is [l] (-1: none), fresh: whether it just began.
    fits, history: what is kept of each fit, [r, ...]. queue: the fits to do in order, of which `taken` have been begun.
    nothing: the statistics of no rows [1, ...]. n_iterations: of the loop; n_busy: lanes that worked in them, n_slots:
    lanes there were.
    """

    lanes: Lane
    index: jax.Array
    fresh: jax.Array
    taken: jax.Array
    fits: Finished
    history: jax.Array
    queue: jax.Array
    n_pending: jax.Array
    nothing: Any
    n_iterations: jax.Array
    n_busy: jax.Array
    n_slots: jax.Array

    @property
    def busy(self) -> Any:
        return self.index >= 0


def begin(problem: Any, algorithm: Any, fits: Finished, history: Any, pending: Any, n_lanes: Any) -> State:
    """The state before the first iteration of every pending fit [r], of which n_lanes run side by side."""
    queue = jnp.argsort(~pending, stable=True)  # those to do first, in order
    n_pending = pending.sum()
    index = _place(queue, n_pending, jnp.arange(n_lanes))
    zero = jnp.zeros((), jnp.int32)
    nothing = problem.no_statistics(jax.tree.map(lambda leaf: leaf[0], fits.params))
    return State(
        lanes=_start_of(problem, algorithm, fits, index, nothing),
        index=index,
        fresh=jnp.ones(n_lanes, bool),
        taken=jnp.asarray(n_lanes, queue.dtype),
        fits=fits,
        history=history,
        queue=queue,
        n_pending=n_pending,
        nothing=jax.tree.map(lambda leaf: leaf[None], nothing),
        n_iterations=zero,
        n_busy=zero,
        n_slots=zero,
    )


def iterate(
    problem: Any,
    algorithm: Any,
    state: State,
    tol: Any,
    max_steps: Any,
    until: Any = None,
    flag_ill: bool = False,
    narrowing: Any = 0,
) -> State:
    """Go on until every pending fit has ended, or the loop has made `until` iterations in all.

    Pieces of a run give the bits of the whole. narrowing: at the end, when no more than one lane in so many is busy,
    these few go on in a narrower loop: the slowest fits take many times the average number of steps. 0: never.
    """
    widths = [len(state.index)]
    if narrowing and widths[0] >= hardware().narrow_from:
        widths.append(max(1, widths[0] // narrowing))
    body = partial(_iteration, problem, algorithm, tol, max_steps, flag_ill)
    for width, fewest in zip(widths, [*widths[1:], 0], strict=True):

        def goes_on(state: Any, fewest: Any = fewest) -> Any:
            more = state.busy.sum() > fewest
            return more if until is None else more & (state.n_iterations < until)

        state = _in_lanes(width, state, lambda state, goes_on=goes_on: lax.while_loop(goes_on, body, state))
    return state


def _iteration(problem, algorithm, tol, max_steps, flag_ill, state: State) -> State:
    lanes, index, n_fits = state.lanes, state.index, len(state.queue)
    new, objective = advance(problem, algorithm, lanes, state.fresh, tol, max_steps, flag_ill)
    recorded = jnp.where(state.busy & (new.n_steps > lanes.n_steps), index, n_fits)
    fell = state.busy & (new.status == HALVING)
    over = state.busy & (new.status != RUNNING) & ~fell
    state = state._replace(
        lanes=new,
        fresh=jnp.zeros_like(state.fresh),
        history=state.history.at[recorded, new.n_steps - 1].set(objective, mode="drop"),
        n_iterations=state.n_iterations + 1,
        n_busy=state.n_busy + state.busy.sum(dtype=jnp.int32),
        n_slots=state.n_slots + len(index),
    )

    def intervene(state):
        lanes, index = state.lanes, state.index
        if problem.model.additive:
            lanes = _choose(fell, jax.vmap(lambda lane: halve(problem.model, lane))(lanes), lanes)
        fits = _kept(state.fits, lanes, jnp.where(over, index, n_fits))
        next_ones = _place(state.queue, state.n_pending, state.taken + jnp.cumsum(over) - 1)
        index = jnp.where(over, next_ones, index)
        nothing = jax.tree.map(lambda leaf: leaf[0], state.nothing)
        lanes = _choose(over, _start_of(problem, algorithm, fits, index, nothing), lanes)
        return state._replace(lanes=lanes, index=index, fresh=over, taken=state.taken + over.sum(), fits=fits)

    # Most steps need neither a halving nor a refill: they cost nothing then.
    return lax.cond((over | fell).any(), intervene, lambda state: state, state)


def _start_of(problem, algorithm, fits: Finished, index, nothing) -> Lane:
    chosen = jax.tree.map(lambda leaf: leaf[jnp.maximum(index, 0)], fits)
    return Lane(
        params=chosen.params,
        memory=jax.vmap(lambda p: algorithm.init(problem, p, nothing))(chosen.params),
        log_lik=chosen.log_lik,
        objective=chosen.objective,
        status=jnp.full_like(chosen.status, RUNNING),
        n_steps=chosen.n_steps,
        n_evaluations=chosen.n_evaluations,
        trial=chosen.params,
        given=jnp.ones_like(index, bool),
        n_halvings=jnp.zeros_like(chosen.status),
    )


def _place(queue, n_pending, position):
    """The fit at a position of the queue; -1 where there is none."""
    return jnp.where(position < n_pending, queue[jnp.minimum(position, len(queue) - 1)], -1)


def _kept(fits: Finished, lanes: Lane, at) -> Finished:
    """`fits` with those in lanes put to where `at` says."""
    ended = Finished(*(getattr(lanes, name) for name in Finished._fields))
    return jax.tree.map(lambda all_, leaf: all_.at[at].set(leaf, mode="drop"), fits, ended)


def interrupted(state: State) -> Finished:
    """What there is of every fit, those that have not ended with the status INTERRUPTED."""
    fits = _kept(state.fits, state.lanes, jnp.where(state.busy, state.index, len(state.queue)))
    ended = fits.status >= 0
    return fits._replace(status=jnp.where(ended, fits.status, Status.INTERRUPTED).astype(jnp.int32))


def _in_lanes(width, state: State, loop) -> State:
    """loop(state) with the first `width` lanes alone, the busy ones put first."""
    if width == len(state.index):
        return loop(state)
    names = ("lanes", "index", "fresh")
    order = jnp.argsort(~state.busy, stable=True)
    every = {name: jax.tree.map(lambda leaf: leaf[order], getattr(state, name)) for name in names}
    few = loop(state._replace(**jax.tree.map(lambda leaf: leaf[:width], every)))
    whole = {
        name: jax.tree.map(lambda a, b: jnp.concatenate([a, b[width:]]), getattr(few, name), every[name])
        for name in names
    }
    return few._replace(**whole)


def _choose(mask, a, b):
    """Leaves [lanes, ...] of a where mask [lanes], else of b."""
    return jax.tree.map(lambda x, y: jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - 1)), x, y), a, b)
