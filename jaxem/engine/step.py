"""One step of one fit: propose params, evaluate the data there, and judge. The stopping rule is here."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxem.algorithms.algorithm import Outcome, Proposal, choose
from jaxem.contract.constraints import constrain, unconstrain
from jaxem.engine.result import Status

#: Codes of a lane that is under way, beside the values of `Status` of one that has ended.
RUNNING = -1
ILL_CONDITIONED = -2  # goes on in the centred form
HALVING = -3  # tries again half-way to the incumbent

#: Halvings of a step that lowered the objective before the fit gives up with DECREASED. Exact M-steps never need
#: one; after ten an inexact one is a thousandth of its length, and what still falls then is no ascent direction.
MAX_HALVINGS = 10


class Lane(NamedTuple):
    """The carry of one fit.

    trial: params evaluated last. given: if True, the next iteration evaluates `trial` as it is (a start, or a halved
    step) instead of asking the algorithm.
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


def resolution(objective: Any, total_weight: Any) -> Any:
    """The smallest gain per unit of weight that the dtype can tell from none."""
    return 0.5 * jnp.finfo(objective.dtype).eps * (1 + jnp.abs(objective / total_weight))


#: Rounding of the objective seen in float32 fits at rest, in units of `resolution`.
NOISE = 8


def _promises(expected, asked, resolved):
    """An estimated gain that is above what was asked for, and that the objective does not contradict."""
    asked = jnp.maximum(asked, jnp.finfo(resolved.dtype).eps ** 1.5)
    return (expected > asked) & (expected <= NOISE * resolved)


def rounding(objective: Any, total_weight: Any) -> Any:
    """The largest fall per unit of weight that rounding explains."""
    return jnp.finfo(objective.dtype).eps ** 0.75 * (1 + jnp.abs(objective / total_weight))


def advance(problem: Any, algorithm: Any, lanes: Lane, fresh: Any, tol: Any, max_steps: Any, flag_ill: Any) -> Any:
    """One iteration of every lane: propose, look at the data, judge. Returns (lanes, objectives looked at), [l]."""
    proposals = jax.vmap(partial(propose, problem, algorithm))(lanes)
    seen, log_lik = each(partial(algorithm.evaluate, problem))(proposals.params, proposals.memory)
    expected = expected_gain(problem, algorithm, lanes, proposals, seen, log_lik, tol)
    verdict = jax.vmap(partial(judge, problem, algorithm, tol=tol, max_steps=max_steps, flag_ill=flag_ill))
    return verdict(lanes, proposals, seen, log_lik, expected, fresh)


def each(function: Callable) -> Any:
    """`jax.vmap`, without it where there is one lane only."""

    def of_lanes(*trees):
        if len(jax.tree.leaves(trees)[0]) > 1:
            return jax.vmap(function)(*trees)
        return jax.tree.map(lambda leaf: leaf[None], function(*jax.tree.map(lambda leaf: leaf[0], trees)))

    return of_lanes


def propose(problem: Any, algorithm: Any, lane: Lane) -> Proposal:
    """Where a lane looks next: at what is given (a start, a halved step), else where the algorithm says."""
    return choose(
        lane.given, Proposal(lane.trial, lane.memory, True), algorithm.propose(problem, lane.params, lane.memory)
    )


def gained(problem: Any, lane: Lane, trial: Any, log_lik: jax.Array) -> Any:
    """(objective at a trial, its gain per unit of weight, the smallest gain that the dtype can tell from none)."""
    objective = log_lik + problem.model.log_prior(trial)
    total = problem.total_weight.astype(objective.dtype)
    return objective, (objective - lane.objective) / total, resolution(objective, total)


def expected_gain(
    problem: Any, algorithm: Any, lanes: Lane, proposals: Proposal, seen: Any, log_lik: jax.Array, tol: Any
) -> Any:
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


def judge(
    problem: Any,
    algorithm: Any,
    lane: Lane,
    proposal: Any,
    seen: Any,
    log_lik: jax.Array,
    expected: Any,
    fresh: Any,
    tol: Any,
    max_steps: Any,
    flag_ill: Any,
) -> Any:
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
    status = jnp.where(fell, jnp.where(may_halve, HALVING, Status.DECREASED), status)
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


def halve(model: Any, lane: Lane) -> Lane:
    """Go back half-way to the incumbent, in unconstrained coordinates."""
    ends = unconstrain(model, lane.params), unconstrain(model, lane.trial)
    middle = constrain(model, jax.tree.map(lambda a, b: 0.5 * (a + b), *ends))
    return lane._replace(trial=middle, given=jnp.ones_like(lane.given), status=jnp.full_like(lane.status, RUNNING))


def all_finite(tree: Any) -> Any:
    """Whether (a traced bool) every number of a tree is finite."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()
