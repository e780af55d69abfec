"""What an algorithm is: where to evaluate the data next, and what to learn from it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Proposal(NamedTuple):
    """Where to look next, from what is remembered at the incumbent.

    plain: the stopping rule may go by the gain of this step, and a fall of it is a failure. An extrapolation is not
    plain: where it gains nothing it is forgotten.
    """

    params: Any
    memory: Any
    plain: Any
    n_evaluations: Any = 1


class Outcome(NamedTuple):
    """What became of a look. given: it was at a start or a halved step. gain: per unit of weight; small: within tol."""

    accepted: jax.Array
    plain: jax.Array
    given: jax.Array
    gain: jax.Array
    small: jax.Array


class Algorithm:
    """One way to climb the objective. An iteration proposes params, looks at the data once, and learns from that.

    Only `look` sees the data: over a stream it is a loop on the host, and the rest is small compiled programs.
    `memory` is a pytree of arrays: whatever the algorithm remembers of the incumbent (for EM: the statistics there).
    """

    #: Every step is expected to raise the objective: one that does not is undone.
    monotone = True

    #: It combines statistics of several points, so they have to be sums of numbers.
    needs_statistics = False

    def init(self, problem: Any, params: Any, nothing: Any) -> Any:
        """The memory of a fit that has not looked at the data yet. nothing: the statistics of no rows, zeros."""
        raise NotImplementedError

    def propose(self, problem: Any, params: Any, memory: Any) -> Proposal:
        """The next point from the incumbent `params`."""
        raise NotImplementedError

    def evaluate(self, problem: Any, params: Any, memory: Any) -> tuple[Any, jax.Array]:
        """(what there is to learn at params, log-likelihood): the statistics, unless an algorithm wants more."""
        return problem.expectation(params)

    def learn(self, memory: Any, seen: Any, outcome: "Outcome") -> Any:
        """The memory after a look."""
        raise NotImplementedError

    def expected_gain(self, problem: Any, old: Any, new: Any, memory: Any, seen: Any) -> Any:
        """Of the next step, per unit of weight; inf where only the step itself can tell."""
        return jnp.inf

    def centred(self) -> "Algorithm":
        """The algorithm for statistics that are relative to the params they were taken at."""
        return self


def choose(condition: Any, a: Any, b: Any) -> Any:
    """The leaves of a where the (scalar) condition holds, else those of b."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def promised_gain(problem: Any, old: Any, new: Any, stats_old: Any, stats: Any) -> Any:
    """The gain that the change of the statistics in an EM step promises for the next one, per unit of weight.

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
