"""THE loop: one `lax.while_loop` that iterates any algorithm on any model, for one start or a queue of many.

Every lane of the loop holds one fit. A lane carries params, the algorithm's memory (for EM: the statistics) and the
objective *evaluated at those params*, so what is reported belongs to what is returned, a fall is seen at once, and a
bad step is undone. When a lane finishes it takes the next start from the queue, so no lane waits for the slowest.
"""

import enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxem.constraints import constrain, unconstrain


class Status(enum.IntEnum):
    """How a fit ended. Compiled code reports it as an integer; `Status(int(result.status)).message` says more."""

    CONVERGED = 0
    MAX_STEPS = 1
    DECREASED = 2
    EMPTY = 3
    DEGENERATE = 4
    NONFINITE = 5
    INTERRUPTED = 6

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


def advance(problem, algorithm, lane: Lane, fresh, tol, max_steps, flag_ill):
    """One step of one fit: propose, evaluate, then accept or undo, and say whether it is over.

    Returns (lane, objective at the point looked at).
    """
    new = algorithm.step(problem, lane.params, lane.memory, lane.trial, lane.given)
    total = problem.total_weight.astype(new.objective.dtype)
    finite = jnp.isfinite(new.objective) & _all_finite(new.params)
    gain = (new.objective - lane.objective) / total
    resolved = resolution(new.objective, total)
    asked, blind, tol = tol, tol < resolved, jnp.maximum(tol, resolved)
    if algorithm.monotone:
        halved = lane.n_halvings > 0
        # Where tol asks for more than differences of the objective tell, an algorithm's own estimate goes on for them.
        goes_on = blind & ~halved & _promises(new.expected_gain, asked, resolved) & (jnp.abs(gain) <= NOISE * resolved)
        accept = finite & (fresh | (gain >= 0) | goes_on)
        fell = ~fresh & (gain < jnp.where(halved, 0, -rounding(new.objective, total)))
        small = ~fresh & ~fell & (gain <= tol) & ~goes_on
        stepped = accept & ~fresh
    else:
        # The path may go down; what is kept is the best point of it.
        accept = finite & (fresh | (gain > 0))
        fell, small, stepped = False, new.expected_gain <= tol, finite & ~fresh
    n_steps = lane.n_steps + stepped
    may_halve = problem.model.additive & (lane.n_halvings < MAX_HALVINGS)
    status = jnp.where(n_steps >= max_steps, Status.MAX_STEPS, RUNNING)
    status = jnp.where(small, Status.CONVERGED, status)
    status = jnp.where(fell, jnp.where(may_halve, FELL, Status.DECREASED), status)
    if flag_ill:
        # Also where this form already failed: the centred one takes over from the incumbent, and has the last word.
        ill = problem.model.ill_conditioned(new.params) & (status != Status.MAX_STEPS)
        status = jnp.where(ill | ~finite, ILL_CONDITIONED, status)
    else:
        status = jnp.where(finite, status, Status.NONFINITE)
    status = status.astype(jnp.int32)

    def pick(a, b):
        return jax.tree.map(lambda x, y: jnp.where(accept, x, y), a, b)

    advanced = Lane(
        params=pick(new.params, lane.params),
        memory=pick(new.memory, lane.memory) if algorithm.monotone else new.memory,
        log_lik=pick(new.log_lik, lane.log_lik),
        objective=pick(new.objective, lane.objective),
        status=status,
        n_steps=n_steps,
        n_evaluations=lane.n_evaluations + new.n_evaluations,
        trial=new.params,
        given=jnp.zeros_like(lane.given),
        n_halvings=jnp.where(fell, lane.n_halvings + 1, 0),
    )
    return advanced, jnp.where(finite, new.objective, jnp.nan)


def halve(model, lane: Lane) -> Lane:
    """Go back half-way to the incumbent, in unconstrained coordinates."""
    ends = unconstrain(model, lane.params), unconstrain(model, lane.trial)
    middle = constrain(model, jax.tree.map(lambda a, b: 0.5 * (a + b), *ends))
    return lane._replace(trial=middle, given=jnp.ones_like(lane.given), status=jnp.full_like(lane.status, RUNNING))


def _all_finite(tree):
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def run(
    problem, algorithm, fits: Finished, history, pending, n_lanes, tol, max_steps, flag_ill=False, narrows=False
) -> tuple[Any, Any]:
    """Iterate every pending fit [r] to its end, n_lanes at a time. Returns (fits, history [r, h]).

    narrows: at the end, when few lanes are busy, these go on in a loop with fewer lanes (see `NARROWING`).
    """
    n_fits = pending.shape[0]
    queue = jnp.argsort(~pending, stable=True)  # those to do first, in order
    n_pending = pending.sum()

    def start_of(index):
        chosen = jax.tree.map(lambda leaf: leaf[jnp.minimum(index, n_fits - 1)], fits)
        return Lane(
            params=chosen.params,
            memory=jax.vmap(lambda p: algorithm.init(problem, p))(chosen.params),
            log_lik=chosen.log_lik,
            objective=chosen.objective,
            status=jnp.full_like(chosen.status, RUNNING),
            n_steps=chosen.n_steps,
            n_evaluations=chosen.n_evaluations,
            trial=chosen.params,
            given=jnp.ones_like(index, bool),
            n_halvings=jnp.zeros_like(chosen.status),
        )

    def place(position):
        """The fit at a position of the queue; n_fits where there is none."""
        return jnp.where(position < n_pending, queue[jnp.minimum(position, n_fits - 1)], n_fits)

    def body(carry):
        lanes, index, fresh, taken, out, history = carry
        step = jax.vmap(lambda lane, new: advance(problem, algorithm, lane, new, tol, max_steps, flag_ill))
        new, objective = step(lanes, fresh)
        busy = index < n_fits
        recorded = jnp.where(busy & (new.n_steps > lanes.n_steps), index, n_fits)
        history = history.at[recorded, new.n_steps - 1].set(objective, mode="drop")
        fell = busy & (new.status == FELL)
        over = busy & (new.status != RUNNING) & ~fell

        def intervene(args):
            lanes, index, _, taken, out = args
            if problem.model.additive:
                lanes = _choose(fell, jax.vmap(lambda lane: halve(problem.model, lane))(lanes), lanes)
            kept = Finished(*(getattr(lanes, name) for name in Finished._fields))
            out = jax.tree.map(lambda o, v: o.at[jnp.where(over, index, n_fits)].set(v, mode="drop"), out, kept)
            index = jnp.where(over, place(taken + jnp.cumsum(over) - 1), index)
            return _choose(over, start_of(index), lanes), index, over, taken + over.sum(), out

        state = (new, index, jnp.zeros_like(fresh), taken, out)
        # Most steps need neither a halving nor a refill: they cost nothing then.
        return *lax.cond((over | fell).any(), intervene, lambda args: args, state), history

    index = place(jnp.arange(n_lanes))
    carry = (start_of(index), index, jnp.ones(n_lanes, bool), jnp.asarray(n_lanes), fits, history)
    widths = [n_lanes]
    while narrows and widths[-1] >= NARROW_FROM:
        widths.append(widths[-1] // NARROWING)
    for width, fewest in zip(widths, [*widths[1:], 0], strict=True):
        carry = _narrowed(carry, width, n_fits)
        carry = lax.while_loop(lambda c, fewest=fewest: (c[1] < n_fits).sum() > fewest, body, carry)
    return carry[4], carry[5]


#: When the queue is empty and no more than one lane in NARROWING is busy, these few go on in a narrower loop: the
#: slowest fits take many times the average number of steps.
NARROWING, NARROW_FROM = 4, 16


def _narrowed(carry, width, n_fits):
    """The carry with `width` lanes, the busy ones first."""
    lanes, index, fresh, *rest = carry
    if width == len(index):
        return carry
    kept = jnp.argsort(index >= n_fits, stable=True)[:width]
    return *jax.tree.map(lambda leaf: leaf[kept], (lanes, index, fresh)), *rest


def _choose(mask, a, b):
    """Leaves [lanes, ...] of a where mask [lanes], else of b."""
    return jax.tree.map(lambda x, y: jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - 1)), x, y), a, b)
