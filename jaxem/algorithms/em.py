"""Expectation-Maximization: S -> maximize -> params -> E-step -> S'."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxem.model import pytree_class


class Proposal(NamedTuple):
    """One step of an algorithm: params, what it remembers there, and the objective at those very params."""

    params: Any
    memory: Any
    log_lik: jax.Array
    objective: jax.Array
    n_evaluations: Any
    expected_gain: Any  # of the next step, per unit of weight; inf where only the step itself can tell


@pytree_class
class EM:
    """Plain EM (Dempster, Laird and Rubin 1977): the objective never falls, and no step size is to be chosen."""

    #: Every step is expected to raise the objective: one that does not is undone and ends the fit.
    monotone = True

    def init(self, problem, params):
        """The memory of a fit that has not looked at the data yet."""
        shapes = jax.eval_shape(lambda p: problem.expectation(p)[0], params)
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def step(self, problem, params, memory, trial, given):
        """Params from the statistics at the incumbent (or `trial` where given), and the statistics there."""
        old, moved = params, problem.maximize(memory, params)
        params = jax.tree.map(lambda a, b: jnp.where(given, a, b), trial, moved)
        stats, log_lik = problem.expectation(params)
        objective = log_lik + problem.model.log_prior(params)
        return Proposal(params, stats, log_lik, objective, 1, _expected_gain(problem, old, params, memory, stats))


def _expected_gain(problem, old, new, stats_old, stats):
    """The gain that the change of the statistics in this step promises for the next one, per unit of weight.

    Near the fixed point it is (eta_new - eta_old) . (S_new - S_old): differences of numbers that hardly differ, where
    the objective itself, a large sum, has none of these digits left. Only float32 needs it.
    """
    if jnp.result_type(*jax.tree.leaves(new)) != jnp.float32:
        return jnp.inf
    change = jax.tree.map(jnp.subtract, stats, stats_old)
    try:
        joint = problem.model.expected_log_joint
        return (joint(new, change) - joint(old, change)) / problem.total_weight
    except NotImplementedError:
        return jnp.inf
