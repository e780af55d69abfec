"""Anderson acceleration: the next statistics from the last few pairs of statistics and their EM steps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxem.algorithms.algorithm import Algorithm, Proposal, choose, promised_gain
from jaxem.algorithms.em import EM
from jaxem.algorithms.squarem import refuse
from jaxem.contract.constraints import inside
from jaxem.contract.pytree import pytree_class, static
from jaxem.inputs.arrays import check_number
from jaxem.numerics import linalg


class AndersonMemory(NamedTuple):
    """stats: the statistics at the incumbent. asked [p]: those (as one vector) whose M-step was looked at last.

    inputs, outputs [m, p]: pairs (S, E(M(S))), a ring of which the newest is at n_pairs - 1 (modulo m).
    mixes: the next look is at a mixture of them, not at the plain EM step. patience: how many pairs it takes for that;
    it doubles when a mixture was in vain.
    """

    stats: Any
    asked: jax.Array
    inputs: jax.Array
    outputs: jax.Array
    n_pairs: jax.Array
    mixes: jax.Array
    patience: jax.Array


#: Pairs before a mixture at least, and at most: where mixtures keep failing, one look in so many is lost.
SOONEST, LATEST = 2, 64


@pytree_class
class Anderson(Algorithm):
    """Anderson acceleration of EM (Walker and Ni 2011, equation 2.2), on the statistics.

    With residuals F_i = E(M(S_i)) - S_i of the last `order` looks, the next one is at the M-step of the affine
    combination of the E(M(S_i)) whose combined residual is smallest. It is taken up where EM has become slow (a step
    gains less than `late` nats per unit of weight): before, it may leave for another optimum. A look that leaves the
    parameter space or gains nothing is forgotten with all before it, and twice as many plain EM steps as the last time
    follow. The objective never falls, and CONVERGED is judged by plain EM steps alone.

    >>> import jax, jaxem
    >>> x = jaxem.datasets.old_faithful()
    >>> model = jaxem.gaussian_mixture(3, covariance="tied")
    >>> start = model.init(jax.random.key(3), x)
    >>> fits = [jaxem.fit(model, x, start, algorithm=each) for each in (jaxem.EM(), jaxem.Anderson())]
    >>> int(fits[1].n_evaluations) < int(fits[0].n_evaluations)
    True
    """

    order: int = static(default=6)
    late: Any = 1e-2

    def __post_init__(self) -> None:
        check_number("order", self.order, 2, whole=True)
        check_number("late", self.late, 0, exclusive=True)

    needs_statistics = True

    def init(self, problem: Any, params: Any, nothing: Any) -> Any:
        vector = ravel_pytree(nothing)[0]
        pairs = jnp.zeros((self.order, vector.size), vector.dtype)
        return AndersonMemory(nothing, vector, pairs, pairs, *_counters())

    def propose(self, problem: Any, params: Any, memory: Any) -> Any:
        plain, unravel = ravel_pytree(memory.stats)
        asked = jnp.where(memory.mixes, _mixture(memory), plain)
        trial = problem.maximize(unravel(asked), params)
        trial = refuse(~memory.mixes | inside(problem.model, trial), trial)
        return Proposal(trial, memory._replace(asked=asked), ~memory.mixes)

    def learn(self, memory: Any, seen: Any, outcome: Any) -> Any:
        vector = ravel_pytree(seen)[0]
        place = memory.n_pairs % self.order
        # A start is no EM step of anything, and a look that was undone speaks of a place to stay away from.
        counts = outcome.accepted & ~outcome.given
        n_pairs = jnp.where(counts, memory.n_pairs + 1, 0)
        patience = jnp.where(outcome.accepted, memory.patience // 2, memory.patience * 2)
        patience = jnp.where(outcome.plain, memory.patience, jnp.clip(patience, SOONEST, LATEST))
        return AndersonMemory(
            stats=choose(outcome.accepted, seen, memory.stats),
            asked=memory.asked,
            inputs=memory.inputs.at[place].set(jnp.where(counts, memory.asked, 0)),
            outputs=memory.outputs.at[place].set(jnp.where(counts, vector, 0)),
            n_pairs=n_pairs,
            patience=patience,
            # Where little is gained a plain step has to say whether that is the end.
            mixes=(n_pairs >= patience) & (outcome.gain < self.late) & ~(outcome.small & ~outcome.plain),
        )

    def expected_gain(self, problem: Any, old: Any, new: Any, memory: Any, seen: Any) -> Any:
        return promised_gain(problem, old, new, memory.stats, seen)

    def centred(self) -> Any:
        return EM()


def _counters():
    """n_pairs, mixes, patience of a fit that begins."""
    return jnp.zeros((), jnp.int32), jnp.zeros((), bool), jnp.asarray(SOONEST, jnp.int32)


def _mixture(memory):
    """The combination of the outputs, with coefficients that add up to 1, whose residual is smallest [p]."""
    order, dtype = len(memory.inputs), memory.inputs.dtype
    newest = (memory.n_pairs - 1) % order
    used = (jnp.arange(order) < memory.n_pairs) & (jnp.arange(order) != newest)
    residuals = memory.outputs - memory.inputs
    steps = jnp.where(used[:, None], residuals[newest] - residuals, 0)
    length = jnp.sqrt((steps * steps).sum(1))
    steps = steps / jnp.where(length > 0, length, 1)[:, None]
    # The ridge keeps coefficients of nearly dependent steps within what the residuals' rounding leaves of them.
    ridge = 10 * jnp.finfo(dtype).eps + jnp.where(length > 0, 0, 1)
    gram = jnp.matmul(steps, steps.T, precision=jax.lax.Precision.HIGHEST) + jnp.diag(ridge)
    coefficients = linalg.solve(gram, jnp.matmul(steps, residuals[newest], precision=jax.lax.Precision.HIGHEST))
    coefficients = coefficients / jnp.where(length > 0, length, 1)
    return memory.outputs[newest] - coefficients @ jnp.where(used[:, None], memory.outputs[newest] - memory.outputs, 0)
