"""SQUAREM: two EM steps, and then an extrapolation along the curve through them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxem.algorithms.algorithm import Algorithm, Proposal, choose, promised_gain
from jaxem.algorithms.em import EM
from jaxem.contract.constraints import inside
from jaxem.contract.pytree import pytree_class


class SquaremMemory(NamedTuple):
    """The memory of `SQUAREM`.

    Attributes:
        stats: the statistics at the incumbent (see `Algorithm`).
        first: the statistics S at the start of a cycle of three steps.
        second: the statistics S1 after its first step.
        phase: the number of steps of this cycle, 0 to 2.
        longest: the largest step length allowed.
    """

    stats: Any
    first: Any
    second: Any
    phase: jax.Array
    longest: jax.Array


#: The first value of the largest step length, and the factor by which it grows when an
#: extrapolation of this length is accepted and shrinks when one is undone (Varadhan and Roland use
#: 4).
FIRST_LONGEST, GROWTH = 4.0, 4.0


@pytree_class
class SQUAREM(Algorithm):
    """Squared extrapolation of EM, on the statistics.

    Varadhan and Roland (2008), equation 9 with the step length S3. Let M be the M-step, E the
    statistics of the E-step, S1 = E(M(S)) and S2 = E(M(S1)). With r = S1 - S, v = S2 - S1 - r and
    a = -|r| / |v|, the third proposal of a cycle is M(S - 2 a r + a^2 v).

    Affine combinations of statistics keep their total count, mean and second moment, so no
    constraint has to be handled. An extrapolation that leaves the parameter space or gains nothing
    is undone, which costs one evaluation. The objective never falls, and CONVERGED is judged by
    plain EM steps alone.

    For a model whose statistics do not depend on the params (those of factor analysis are the
    moments of the data), nothing is extrapolated, and this is EM.

    Examples:
        >>> import jax, jaxem
        >>> x = jaxem.datasets.old_faithful()
        >>> model = jaxem.gaussian_mixture(3, covariance="tied")
        >>> start = model.init(jax.random.key(3), x)
        >>> algorithms = (jaxem.EM(), jaxem.SQUAREM())
        >>> fits = [jaxem.fit(model, x, start, algorithm=each) for each in algorithms]
        >>> int(fits[1].n_evaluations) < int(fits[0].n_evaluations)
        True
    """

    needs_statistics = True

    def init(self, problem: Any, params: Any, nothing: Any) -> Any:
        dtype = jnp.result_type(*jax.tree.leaves(nothing))
        return SquaremMemory(nothing, nothing, nothing, jnp.zeros((), jnp.int32), jnp.asarray(FIRST_LONGEST, dtype))

    def propose(self, problem: Any, params: Any, memory: Any) -> Any:
        jumps = memory.phase == 2
        length = _step_length(memory)
        jumped = jax.tree.map(
            lambda s, s1, s2: s + 2 * length * (s1 - s) + length**2 * (s2 - 2 * s1 + s),
            memory.first,
            memory.second,
            memory.stats,
        )
        trial = problem.maximize(choose(jumps, jumped, memory.stats), params)
        return Proposal(refuse(~jumps | inside(problem.model, trial), trial), memory, ~jumps)

    def learn(self, memory: Any, seen: Any, outcome: Any) -> Any:
        accepted, plain = outcome.accepted, outcome.plain
        # A new cycle begins after a start, after an extrapolation and after an undone step.
        phase = jnp.where(plain & accepted & ~outcome.given, memory.phase + 1, 0)
        reached = _step_length(memory) >= memory.longest
        longest = jnp.where(accepted, jnp.where(reached, GROWTH, 1), 1 / GROWTH) * memory.longest
        return SquaremMemory(
            stats=choose(accepted, seen, memory.stats),
            first=choose(memory.phase == 0, memory.stats, memory.first),
            second=choose(memory.phase == 1, memory.stats, memory.second),
            phase=phase.astype(jnp.int32),
            longest=jnp.where(plain, memory.longest, jnp.maximum(longest, 1)),
        )

    def expected_gain(self, problem: Any, old: Any, new: Any, memory: Any, seen: Any) -> Any:
        return promised_gain(problem, old, new, memory.stats, seen)

    def centred(self) -> Any:
        return EM()


def _step_length(memory):
    """|r| / |v|, clipped to between 1 (the second EM step) and the largest length allowed."""
    r = jax.tree.map(jnp.subtract, memory.second, memory.first)
    v = jax.tree.map(lambda s, s1, change: s - s1 - change, memory.stats, memory.second, r)
    return jnp.clip(jnp.nan_to_num(_norm(r) / _norm(v), nan=1.0), 1, memory.longest)


def _norm(tree):
    return jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(tree)))


def refuse(allowed: Any, params: Any) -> Any:
    """The params if they are allowed, and NaN if not, which the loop does not accept.

    Args:
        allowed: a bool [].
        params: any params.
    """
    return jax.tree.map(lambda leaf: jnp.where(allowed, leaf, jnp.nan), params)
