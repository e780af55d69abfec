"""The interface of an algorithm: where to evaluate the data next, and what to learn from that."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Proposal(NamedTuple):
    """The params at which an algorithm wants to evaluate the data next.

    Attributes:
        params: these params.
        memory: the memory of the algorithm, with what it has to know about this proposal.
        plain: whether the step is a plain one: the stopping rule uses its gain, and a fall of the
            objective is a failure. An extrapolation is not plain; if it gains nothing, it is
            undone.
        n_evaluations: the passes over the data that the step costs.
    """

    params: Any
    memory: Any
    plain: Any
    n_evaluations: Any = 1


class Outcome(NamedTuple):
    """What became of a proposal after the data were evaluated there.

    Attributes:
        accepted: whether its params are the new incumbent.
        plain: whether the step was plain (see `Proposal`).
        given: whether the params were a start or a halved step, not a proposal of the algorithm.
        gain: the gain of the objective, in nats per unit of weight.
        small: whether the gain is at most `tol`.
    """

    accepted: jax.Array
    plain: jax.Array
    given: jax.Array
    gain: jax.Array
    small: jax.Array


class Algorithm:
    """A method to maximise the objective.

    An iteration proposes params, evaluates the data there once, and learns from that. The
    *incumbent* is the set of params that was accepted last. The *memory* is a pytree of arrays with
    what the algorithm remembers about the incumbent; for EM it is the statistics there.

    Only `evaluate` reads the data. In `fit_stream` it is a loop on the host, and the other methods
    are small compiled programs.
    """

    #: Whether every step has to raise the objective. A step that does not is undone.
    monotone = True

    #: Whether statistics of several params are combined, so that they have to be sums of numbers.
    needs_statistics = False

    def init(self, problem: Any, params: Any, nothing: Any) -> Any:
        """The memory of a fit before its first evaluation.

        Args:
            problem: the model and its data, a `Problem`.
            params: the start.
            nothing: the statistics of no rows, which are zeros.
        """
        raise NotImplementedError

    def propose(self, problem: Any, params: Any, memory: Any) -> Proposal:
        """The proposal for the next evaluation.

        Args:
            problem: the model and its data.
            params: the incumbent.
            memory: the memory.
        """
        raise NotImplementedError

    def evaluate(self, problem: Any, params: Any, memory: Any) -> tuple[Any, jax.Array]:
        """Evaluate the data at proposed params.

        Args:
            problem: the model and its data.
            params: the proposed params.
            memory: the memory that came with the proposal.

        Returns:
            (what `learn` needs, the log-likelihood, total in nats). Unless an algorithm needs more,
            the first is the statistics.
        """
        return problem.expectation(params)

    def learn(self, memory: Any, seen: Any, outcome: Outcome) -> Any:
        """The memory after an evaluation.

        Args:
            memory: the memory that came with the proposal.
            seen: what `evaluate` returned first.
            outcome: what became of the proposal.
        """
        raise NotImplementedError

    def expected_gain(self, problem: Any, old: Any, new: Any, memory: Any, seen: Any) -> Any:
        """An estimate of the gain of the next step, in nats per unit of weight.

        Args:
            problem: the model and its data.
            old: the incumbent.
            new: the proposed params.
            memory: the memory before the evaluation.
            seen: what `evaluate` returned first.

        Returns:
            The estimate, or infinity where the algorithm has none.
        """
        return jnp.inf

    def centred(self) -> "Algorithm":
        """The algorithm to use where statistics are relative to the params of their E-step."""
        return self


def choose(condition: Any, a: Any, b: Any) -> Any:
    """The leaves of a if the condition, a bool [], is True, and those of b if not."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def promised_gain(problem: Any, old: Any, new: Any, stats_old: Any, stats: Any) -> Any:
    """The gain of the next EM step, estimated from the change of the statistics in this one.

    Near the fixed point it is (eta_new - eta_old) . (S_new - S_old), with natural parameters eta
    and statistics S. These differences still have digits where differences of the objective, which
    is a large sum, have none left. Only float32 needs this.

    Args:
        problem: the model and its data.
        old: the params before the step.
        new: the params after the step.
        stats_old: the statistics at `old`.
        stats: the statistics at `new`.

    Returns:
        The gain, in nats per unit of weight; infinity in other dtypes than float32, and for models
        without `expected_log_joint`.
    """
    if jnp.result_type(*jax.tree.leaves(new)) != jnp.float32:
        return jnp.inf
    change = jax.tree.map(jnp.subtract, stats, stats_old)
    try:
        joint = problem.model.expected_log_joint
        return (joint(new, change) - joint(old, change)) / problem.total_weight
    except NotImplementedError:
        return jnp.inf
