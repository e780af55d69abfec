"""Expectation-Maximization: S -> maximize -> params -> E-step -> S'."""

from jaxem.algorithms.algorithm import Algorithm, Proposal, choose, promised_gain
from jaxem.contract.pytree import pytree_class


@pytree_class
class EM(Algorithm):
    """Plain EM (Dempster, Laird and Rubin 1977): the objective never falls, and no step size is to be chosen."""

    def init(self, problem, params, nothing):
        return nothing

    def propose(self, problem, params, memory):
        return Proposal(problem.maximize(memory, params), memory, True)

    def learn(self, memory, seen, outcome):
        return choose(outcome.accepted, seen, memory)

    def expected_gain(self, problem, old, new, memory, seen):
        return promised_gain(problem, old, new, memory, seen)
