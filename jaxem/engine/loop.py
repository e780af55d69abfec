"""The loop: one `lax.while_loop` that iterates any algorithm on any model, for one start or many.

Fits run side by side in *lanes*, one fit in each lane. A lane holds params, the algorithm's memory
(for EM: the statistics) and the objective *evaluated at these params*. So the objective that is
reported belongs to the params that are returned, a fall is noticed at once, and a bad step can be
undone. When a fit ends, its lane takes the next start from a queue, so that no lane waits for the
slowest fit.
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
    """Fits [r] that have not started, from starts [r, ...]."""
    leaf = jax.tree.leaves(params)[0]
    n, dtype = leaf.shape[0], jnp.result_type(*jax.tree.leaves(params))
    low = jnp.full(n, -jnp.inf, dtype)
    zero = jnp.zeros(n, jnp.int32)
    return Finished(params, low, low, jnp.full(n, RUNNING, jnp.int32), zero, zero)


class State(NamedTuple):
    """The whole state of r fits in l lanes: the carry of the loop, and what a checkpoint holds.

    Attributes:
        lanes: the fits in the loop, [l, ...].
        index: which fit is in each lane, [l]; -1 where there is none.
        fresh: whether the fit in a lane has not been evaluated yet, [l].
        taken: how many positions of the queue have been given to a lane.
        fits: the fits as they ended, or as they are to start, [r, ...].
        history: the objective after each step of each fit, [r, n_history].
        queue: the indices of the fits, in the order in which they are to run, [r].
        n_pending: how many fits of the queue are to run.
        nothing: the statistics of no rows, [1, ...].
        n_iterations: the number of iterations of the loop so far.
        n_busy: the number of busy lanes, summed over the iterations.
        n_slots: the number of lanes, summed over the iterations.
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
        """Which lanes hold a fit, [l]."""
        return self.index >= 0


def begin(problem: Any, algorithm: Any, fits: Finished, history: Any, pending: Any, n_lanes: Any) -> State:
    """The state before the first iteration.

    Args:
        problem: the model and its data, cut into chunks.
        algorithm: the algorithm.
        fits: the fits, [r, ...].
        history: their histories, [r, n_history].
        pending: which fits are to run, a bool [r].
        n_lanes: how many of them run side by side.
    """
    queue = jnp.argsort(~pending, stable=True)  # The pending fits come first, in their order.
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
    """Run the loop until every pending fit has ended, or until a number of iterations is reached.

    A run in several pieces gives the same bits as a run in one piece.

    Args:
        problem: the model and its data, cut into chunks.
        algorithm: the algorithm.
        state: the state to go on from.
        tol: the gain per unit of weight, in nats, below which a fit has converged.
        max_steps: the largest number of steps of a fit.
        until: the number of iterations, counted from the first one of all, at which to stop; None
            means never.
        flag_ill: whether a lane with ill-conditioned params stops with `ILL_CONDITIONED`.
        narrowing: when at most one lane in this many is busy, the last fits go on in a loop with
            fewer lanes, because the slowest fits take many times the average number of steps; 0
            means never.
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

    # Most iterations have no step to halve and no lane to fill, and skip the cost of both.
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
    """The index of the fit at a position of the queue; -1 where there is none."""
    return jnp.where(position < n_pending, queue[jnp.minimum(position, len(queue) - 1)], -1)


def _kept(fits: Finished, lanes: Lane, at) -> Finished:
    """`fits` with the fits in the lanes written to the indices `at`."""
    ended = Finished(*(getattr(lanes, name) for name in Finished._fields))
    return jax.tree.map(lambda all_, leaf: all_.at[at].set(leaf, mode="drop"), fits, ended)


def interrupted(state: State) -> Finished:
    """Every fit as it is now; the status of fits that have not ended is INTERRUPTED."""
    fits = _kept(state.fits, state.lanes, jnp.where(state.busy, state.index, len(state.queue)))
    ended = fits.status >= 0
    return fits._replace(status=jnp.where(ended, fits.status, Status.INTERRUPTED).astype(jnp.int32))


def _in_lanes(width, state: State, loop) -> State:
    """loop(state) on the first `width` lanes only, after the busy lanes were put first."""
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
