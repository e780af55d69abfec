"""THE loop: one `lax.while_loop` that iterates any algorithm on any model, for one start or a queue of many.

Every lane of the loop holds one fit. A lane carries params, the algorithm's memory (for EM: the statistics) and the
objective *evaluated at those params*, so what is reported belongs to what is returned, a fall is seen at once, and a
bad step is undone. When a lane finishes it takes the next start from the queue, so no lane waits for the slowest.
"""

import enum
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxem.algorithms.em import Outcome, Proposal, choose
from jaxem.contract.constraints import constrain, unconstrain
from jaxem.numerics.hardware import hardware


class Status(enum.IntEnum):
    """How a fit ended. Compiled code reports it as an integer; `Status(int(result.status)).message` says more."""

    CONVERGED = 0
    MAX_STEPS = 1
    DECREASED = 2
    EMPTY = 3
    DEGENERATE = 4
    NONFINITE = 5
    INTERRUPTED = 6
    SCREENED = 7

    @property
    def message(self) -> str:
        return _MESSAGES[self]


_MESSAGES = {
    Status.CONVERGED: "converged: the last step gained less than tol per unit of weight",
    Status.MAX_STEPS: "stopped at max_steps before the gain fell below tol; raise max_steps or go on from params",
    Status.DECREASED: "a step lowered the objective beyond rounding and was undone; check m_step against e_step, "
    "or use float64",
    Status.EMPTY: "a component holds no data; fewer components fit as well",
    Status.DEGENERATE: "a component collapsed onto a few rows or a lower-dimensional set, where the likelihood has "
    "no maximum; use fewer components, a simpler covariance, a larger floor, a prior (jaxem.weak_prior), or another "
    "start",
    Status.NONFINITE: "a step (or the start) gave a non-finite objective and was undone; check the data and the start",
    Status.INTERRUPTED: "interrupted; params are those of the last finished block",
    Status.SCREENED: "left out after a few steps because other starts were ahead; it might have overtaken them",
}

#: Statuses of a finite fit at a proper optimum (or on the way to one): what `fit_restarts` may call best.
HONEST = (Status.CONVERGED, Status.MAX_STEPS, Status.DECREASED, Status.EMPTY, Status.INTERRUPTED)

RUNNING = -1
ILL_CONDITIONED = -2  # goes on in the centred form
FELL = -3  # tries again half-way to the incumbent

#: Halvings of a step that lowered the objective before the fit gives up with DECREASED. Exact M-steps never need
#: one; after ten an inexact one is a thousandth of its length, and what still falls then is no ascent direction.
MAX_HALVINGS = 10


class Result(NamedTuple):
    """A fit. All leaves are arrays; fits side by side share a leading axis.

    params: the parameters, in the data's units.
    log_lik: log-likelihood at params, total in nats, with every constant. objective: log_lik plus the log prior.
    status: see `Status`. degenerate: which components collapsed.
    n_steps: steps that led to params. n_evaluations: passes over the data.
    history: objective after each step, [max_steps], NaN beyond n_steps.
    """

    params: Any
    log_lik: jax.Array
    objective: jax.Array
    status: jax.Array
    n_steps: jax.Array
    n_evaluations: jax.Array
    history: jax.Array
    degenerate: jax.Array

    @property
    def converged(self):
        return self.status == Status.CONVERGED

    @property
    def message(self) -> str:
        """The status of a single fit in words."""
        status = Status(int(self.status))
        return f"{status.name}: {status.message}"


class Lane(NamedTuple):
    """The carry of one fit.

    trial: the params last looked at. given: look at `trial` itself in the next step (a start, or a halved step).
    """

    params: Any
    memory: Any
    log_lik: jax.Array
    objective: jax.Array
    status: jax.Array
    n_steps: jax.Array
    n_evaluations: jax.Array
    trial: Any
    given: jax.Array
    n_halvings: jax.Array


class Finished(NamedTuple):
    """What is kept of each fit, [r, ...]."""

    params: Any
    log_lik: jax.Array
    objective: jax.Array
    status: jax.Array
    n_steps: jax.Array
    n_evaluations: jax.Array


def not_started(params):
    """Fits [r] that are to begin at params [r, ...]."""
    leaf = jax.tree.leaves(params)[0]
    n, dtype = leaf.shape[0], jnp.result_type(*jax.tree.leaves(params))
    low = jnp.full(n, -jnp.inf, dtype)
    zero = jnp.zeros(n, jnp.int32)
    return Finished(params, low, low, jnp.full(n, RUNNING, jnp.int32), zero, zero)


def resolution(objective, total_weight):
    """The smallest gain per unit of weight that the dtype can tell from none."""
    return 0.5 * jnp.finfo(objective.dtype).eps * (1 + jnp.abs(objective / total_weight))


#: Rounding of the objective seen in float32 fits at rest, in units of `resolution`.
NOISE = 8


def _promises(expected, asked, resolved):
    """An estimated gain that is above what was asked for, and that the objective does not contradict."""
    asked = jnp.maximum(asked, jnp.finfo(resolved.dtype).eps ** 1.5)
    return (expected > asked) & (expected <= NOISE * resolved)


def rounding(objective, total_weight):
    """The largest fall per unit of weight that rounding explains."""
    return jnp.finfo(objective.dtype).eps ** 0.75 * (1 + jnp.abs(objective / total_weight))


def advance(problem, algorithm, lanes: Lane, fresh, tol, max_steps, flag_ill):
    """One iteration of every lane: propose, look at the data, judge. Returns (lanes, objectives looked at), [l]."""
    proposals = jax.vmap(partial(propose, problem, algorithm))(lanes)
    seen, log_lik = each(partial(algorithm.look, problem))(proposals.params, proposals.memory)
    expected = expected_gain(problem, algorithm, lanes, proposals, seen, log_lik, tol)
    verdict = jax.vmap(partial(judge, problem, algorithm, tol=tol, max_steps=max_steps, flag_ill=flag_ill))
    return verdict(lanes, proposals, seen, log_lik, expected, fresh)


def each(function):
    """`jax.vmap`, without it where there is one lane only."""

    def of_lanes(*trees):
        if len(jax.tree.leaves(trees)[0]) > 1:
            return jax.vmap(function)(*trees)
        return jax.tree.map(lambda leaf: leaf[None], function(*jax.tree.map(lambda leaf: leaf[0], trees)))

    return of_lanes


def propose(problem, algorithm, lane: Lane) -> Proposal:
    """Where a lane looks next: at what is given (a start, a halved step), else where the algorithm says."""
    return choose(
        lane.given, Proposal(lane.trial, lane.memory, True), algorithm.propose(problem, lane.params, lane.memory)
    )


def gained(problem, lane, trial, log_lik):
    """(objective at a trial, its gain per unit of weight, the smallest gain that the dtype can tell from none)."""
    objective = log_lik + problem.model.log_prior(trial)
    total = problem.total_weight.astype(objective.dtype)
    return objective, (objective - lane.objective) / total, resolution(objective, total)


def expected_gain(problem, algorithm, lanes: Lane, proposals: Proposal, seen, log_lik, tol):
    """What the algorithm expects of the next step of every lane [l]; inf where no lane needs to be told."""

    def tell():
        one = jax.vmap(partial(algorithm.expected_gain, problem))
        return jnp.broadcast_to(one(lanes.params, proposals.params, lanes.memory, seen), log_lik.shape)

    if not algorithm.monotone:
        return tell()
    _, gain, resolved = jax.vmap(partial(gained, problem))(lanes, proposals.params, log_lik)
    needed = (tol < resolved) & (jnp.abs(gain) <= NOISE * resolved)
    # It costs as much as preparing a look: only where differences of the objective tell nothing.
    return lax.cond(needed.any(), lambda: tell().astype(gain.dtype), lambda: jnp.full_like(gain, jnp.inf))


def judge(problem, algorithm, lane, proposal, seen, log_lik, expected, fresh, tol, max_steps, flag_ill):
    """Accept what was looked at or undo it, and say whether the fit is over."""
    model, trial, plain = problem.model, proposal.params, proposal.plain
    objective, gain, resolved = gained(problem, lane, trial, log_lik)
    total = problem.total_weight.astype(objective.dtype)
    finite = jnp.isfinite(objective) & all_finite(trial)
    asked, blind, tol = tol, tol < resolved, jnp.maximum(tol, resolved)
    if algorithm.monotone:
        halved = lane.n_halvings > 0
        # Where tol asks for more than differences of the objective tell, an algorithm's own estimate goes on for them.
        goes_on = blind & plain & ~halved & _promises(expected, asked, resolved) & (jnp.abs(gain) <= NOISE * resolved)
        accept = finite & (fresh | (gain >= 0) | goes_on)
        fell = plain & ~fresh & (gain < jnp.where(halved, 0, -rounding(objective, total)))
        small = plain & ~fresh & ~fell & (gain <= tol) & ~goes_on
        stepped = accept & ~fresh
    else:
        # The path may go down; what is kept is the best point of it.
        accept = finite & (fresh | (gain > 0))
        fell, small, stepped = False, expected <= tol, finite & ~fresh
    n_steps = lane.n_steps + stepped
    may_halve = model.additive & (lane.n_halvings < MAX_HALVINGS)
    status = jnp.where(n_steps >= max_steps, Status.MAX_STEPS, RUNNING)
    status = jnp.where(small, Status.CONVERGED, status)
    status = jnp.where(fell, jnp.where(may_halve, FELL, Status.DECREASED), status)
    if flag_ill:
        # Also where this form already failed: the centred one takes over from the incumbent, and has the last word.
        ill = (plain | accept) & model.ill_conditioned(trial) & (status != Status.MAX_STEPS)
        status = jnp.where(ill | (plain & ~finite), ILL_CONDITIONED, status)
    else:
        status = jnp.where(finite | ~plain, status, Status.NONFINITE)

    advanced = Lane(
        params=choose(accept, trial, lane.params),
        memory=algorithm.learn(proposal.memory, seen, Outcome(accept, plain, lane.given, gain, gain <= tol)),
        log_lik=choose(accept, log_lik, lane.log_lik),
        objective=choose(accept, objective, lane.objective),
        status=status.astype(jnp.int32),
        n_steps=n_steps,
        n_evaluations=lane.n_evaluations + jnp.asarray(proposal.n_evaluations, jnp.int32),
        trial=trial,
        given=jnp.zeros_like(lane.given),
        n_halvings=jnp.where(fell, lane.n_halvings + 1, 0),
    )
    return advanced, jnp.where(finite, objective, jnp.nan)


def halve(model, lane: Lane) -> Lane:
    """Go back half-way to the incumbent, in unconstrained coordinates."""
    ends = unconstrain(model, lane.params), unconstrain(model, lane.trial)
    middle = constrain(model, jax.tree.map(lambda a, b: 0.5 * (a + b), *ends))
    return lane._replace(trial=middle, given=jnp.ones_like(lane.given), status=jnp.full_like(lane.status, RUNNING))


def all_finite(tree):
    """Whether (a traced bool) every number of a tree is finite."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


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
    def busy(self):
        return self.index >= 0


def begin(problem, algorithm, fits: Finished, history, pending, n_lanes) -> State:
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


def iterate(problem, algorithm, state: State, tol, max_steps, until=None, flag_ill=False, narrowing=0) -> State:
    """Go on until every pending fit has ended, or the loop has made `until` iterations in all.

    Pieces of a run give the bits of the whole. narrowing: at the end, when no more than one lane in so many is busy,
    these few go on in a narrower loop: the slowest fits take many times the average number of steps. 0: never.
    """
    widths = [len(state.index)]
    if narrowing and widths[0] >= hardware().narrow_from:
        widths.append(max(1, widths[0] // narrowing))
    body = partial(_iteration, problem, algorithm, tol, max_steps, flag_ill)
    for width, fewest in zip(widths, [*widths[1:], 0], strict=True):

        def goes_on(state, fewest=fewest):
            more = state.busy.sum() > fewest
            return more if until is None else more & (state.n_iterations < until)

        state = _in_lanes(width, state, lambda state, goes_on=goes_on: lax.while_loop(goes_on, body, state))
    return state


def _iteration(problem, algorithm, tol, max_steps, flag_ill, state: State) -> State:
    lanes, index, n_fits = state.lanes, state.index, len(state.queue)
    new, objective = advance(problem, algorithm, lanes, state.fresh, tol, max_steps, flag_ill)
    recorded = jnp.where(state.busy & (new.n_steps > lanes.n_steps), index, n_fits)
    fell = state.busy & (new.status == FELL)
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
