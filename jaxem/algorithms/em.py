"""Expectation-Maximization: statistics -> M-step -> params -> E-step -> new statistics."""

from typing import Any

from jaxem.algorithms.algorithm import Algorithm, Proposal, choose, promised_gain
from jaxem.contract.pytree import pytree_class


@pytree_class
class EM(Algorithm):
    """Plain EM (Dempster, Laird and Rubin, 1977).

    The objective never falls, and no step size has to be chosen.
    """

    def init(self, problem: Any, params: Any, nothing: Any) -> Any:
        return nothing

    def propose(self, problem: Any, params: Any, memory: Any) -> Any:
        return Proposal(problem.maximize(memory, params), memory, True)

    def learn(self, memory: Any, seen: Any, outcome: Any) -> Any:
        return choose(outcome.accepted, seen, memory)

    def expected_gain(self, problem: Any, old: Any, new: Any, memory: Any, seen: Any) -> Any:
        return promised_gain(problem, old, new, memory, seen)
