"""One step of a fit: propose params, evaluate the data there, and judge; and the stopping rule."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxem.algorithms.algorithm import Outcome, Proposal, choose
from jaxem.contract.constraints import constrain, unconstrain
from jaxem.engine.result import Status

#: The codes of a lane whose fit has not ended; if it has, the code is a value of `Status`.
RUNNING = -1
ILL_CONDITIONED = -2  # The fit goes on in the centred form.
HALVING = -3  # The fit tries the params half-way back to those accepted last.

#: How often a step that lowered the objective is halved before the fit ends with DECREASED. Exact
#: M-steps never need a halving. After ten, the step of an inexact one has a thousandth of its
#: length; if the objective still falls, the step is no ascent direction.
MAX_HALVINGS = 10


class Lane(NamedTuple):
    """The state of one fit under way.

    Attributes:
        params: the incumbent: the params that were accepted last, in standard units.
        memory: what the algorithm remembers about the incumbent.
        log_lik: the log-likelihood at the incumbent, total in nats.
        objective: the objective at the incumbent, total in nats.
        status: a `Status`, or RUNNING, ILL_CONDITIONED or HALVING.
        n_steps: the number of steps so far.
        n_evaluations: the number of passes over the data so far.
        trial: the params that were evaluated last.
        given: whether the next iteration evaluates `trial` (a start, or a halved step) instead of
            asking the algorithm for a proposal.
        n_halvings: how often the current step has been halved.
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
    """The smallest gain, in nats per unit of weight, that the dtype can tell from none."""
    return 0.5 * jnp.finfo(objective.dtype).eps * (1 + jnp.abs(objective / total_weight))


#: The rounding of the objective, in units of `resolution`, that was seen in float32 fits whose
#: params no longer change.
NOISE = 8


def _promises(expected, asked, resolved):
    """Whether an estimated gain is above what is asked for, and small enough to be hidden."""
    asked = jnp.maximum(asked, jnp.finfo(resolved.dtype).eps ** 1.5)
    return (expected > asked) & (expected <= NOISE * resolved)


def rounding(objective: Any, total_weight: Any) -> Any:
    """The largest fall, in nats per unit of weight, that rounding explains."""
    return jnp.finfo(objective.dtype).eps ** 0.75 * (1 + jnp.abs(objective / total_weight))


def advance(problem: Any, algorithm: Any, lanes: Lane, fresh: Any, tol: Any, max_steps: Any, flag_ill: Any) -> Any:
    """One iteration of every lane: propose, evaluate, judge.

    Args:
        problem: the model and its data, cut into chunks.
        algorithm: the algorithm.
        lanes: the lanes, [l, ...].
        fresh: which lanes have not been evaluated yet, [l].
        tol: in nats per unit of weight.
        max_steps: the largest number of steps of a fit.
        flag_ill: whether a lane with ill-conditioned params stops with `ILL_CONDITIONED`.

    Returns:
        (the lanes, the objectives at the evaluated params [l]).
    """
    proposals = jax.vmap(partial(propose, problem, algorithm))(lanes)
    seen, log_lik = each(partial(algorithm.evaluate, problem))(proposals.params, proposals.memory)
    expected = expected_gain(problem, algorithm, lanes, proposals, seen, log_lik, tol)
    verdict = jax.vmap(partial(judge, problem, algorithm, tol=tol, max_steps=max_steps, flag_ill=flag_ill))
    return verdict(lanes, proposals, seen, log_lik, expected, fresh)


def each(function: Callable) -> Any:
    """`jax.vmap(function)`, which calls the function without vmap where there is a single lane."""

    def of_lanes(*trees):
        if len(jax.tree.leaves(trees)[0]) > 1:
            return jax.vmap(function)(*trees)
        return jax.tree.map(lambda leaf: leaf[None], function(*jax.tree.map(lambda leaf: leaf[0], trees)))

    return of_lanes


def propose(problem: Any, algorithm: Any, lane: Lane) -> Proposal:
    """The proposal of one lane: given params (a start, a halved step), or the algorithm's."""
    return choose(
        lane.given, Proposal(lane.trial, lane.memory, True), algorithm.propose(problem, lane.params, lane.memory)
    )


def gained(problem: Any, lane: Lane, trial: Any, log_lik: jax.Array) -> Any:
    """(the objective at `trial`, its gain per unit of weight, the resolution of this gain)."""
    objective = log_lik + problem.model.log_prior(trial)
    total = problem.total_weight.astype(objective.dtype)
    return objective, (objective - lane.objective) / total, resolution(objective, total)


def expected_gain(
    problem: Any, algorithm: Any, lanes: Lane, proposals: Proposal, seen: Any, log_lik: jax.Array, tol: Any
) -> Any:
    """The algorithm's estimate of the next gain of every lane, [l].

    It is in nats per unit of weight, and infinity where no lane needs the estimate.
    """

    def tell():
        one = jax.vmap(partial(algorithm.expected_gain, problem))
        return jnp.broadcast_to(one(lanes.params, proposals.params, lanes.memory, seen), log_lik.shape)

    if not algorithm.monotone:
        return tell()
    _, gain, resolved = jax.vmap(partial(gained, problem))(lanes, proposals.params, log_lik)
    needed = (tol < resolved) & (jnp.abs(gain) <= NOISE * resolved)
    # The estimate costs as much as the preparation of an evaluation, so it is made only where
    # rounding hides the gain of the objective.
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
    """Accept the evaluated params or undo the step, and decide whether the fit ends.

    Args:
        problem: the model and its data.
        algorithm: the algorithm.
        lane: the lane before the step.
        proposal: the proposal that was evaluated.
        seen: what the algorithm learns from the evaluation.
        log_lik: the log-likelihood at the proposed params, total in nats.
        expected: the algorithm's estimate of the next gain, in nats per unit of weight.
        fresh: whether this was the first evaluation of the fit.
        tol: in nats per unit of weight.
        max_steps: the largest number of steps.
        flag_ill: whether a lane with ill-conditioned params stops with `ILL_CONDITIONED`.

    Returns:
        (the lane after the step, the objective at the proposed params or NaN).
    """
    model, trial, plain = problem.model, proposal.params, proposal.plain
    objective, gain, resolved = gained(problem, lane, trial, log_lik)
    total = problem.total_weight.astype(objective.dtype)
    finite = jnp.isfinite(objective) & all_finite(trial)
    asked, blind, tol = tol, tol < resolved, jnp.maximum(tol, resolved)
    if algorithm.monotone:
        halved = lane.n_halvings > 0
        # If `tol` is below the resolution of the objective, the algorithm's estimate decides.
        goes_on = blind & plain & ~halved & _promises(expected, asked, resolved) & (jnp.abs(gain) <= NOISE * resolved)
        accept = finite & (fresh | (gain >= 0) | goes_on)
        fell = plain & ~fresh & (gain < jnp.where(halved, 0, -rounding(objective, total)))
        small = plain & ~fresh & ~fell & (gain <= tol) & ~goes_on
        stepped = accept & ~fresh
    else:
        # The objective may fall from step to step; the best params of all are kept.
        accept = finite & (fresh | (gain > 0))
        fell, small, stepped = False, expected <= tol, finite & ~fresh
    n_steps = lane.n_steps + stepped
    may_halve = model.additive & (lane.n_halvings < MAX_HALVINGS)
    status = jnp.where(n_steps >= max_steps, Status.MAX_STEPS, RUNNING)
    status = jnp.where(small, Status.CONVERGED, status)
    status = jnp.where(fell, jnp.where(may_halve, HALVING, Status.DECREASED), status)
    if flag_ill:
        # This replaces an end in the fast form, such as DECREASED: the centred form goes on from
        # the incumbent, and decides how the fit ends.
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
    """The lane with its trial half-way back to the incumbent, in unconstrained coordinates."""
    ends = unconstrain(model, lane.params), unconstrain(model, lane.trial)
    middle = constrain(model, jax.tree.map(lambda a, b: 0.5 * (a + b), *ends))
    return lane._replace(trial=middle, given=jnp.ones_like(lane.given), status=jnp.full_like(lane.status, RUNNING))


def all_finite(tree: Any) -> Any:
    """Whether all numbers of a pytree are finite, as an array []."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()
