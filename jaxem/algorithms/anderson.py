"""Anderson acceleration of EM: the next statistics combine the last few EM steps."""

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
    """The memory of `Anderson`, where M is the M-step and E the statistics of the E-step.

    Attributes:
        stats: the statistics at the incumbent (see `Algorithm`).
        asked: the statistics, as one vector [p], whose M-step gave the last proposal.
        inputs: the statistics S of the last m EM steps, [m, p]. The newest is at the index
            n_pairs - 1, modulo m.
        outputs: the statistics E(M(S)) of the same steps, [m, p].
        n_pairs: the number of EM steps that are remembered, including those that newer ones have
            replaced.
        mixes: whether the next proposal is a mixture of these steps, and not the plain EM step.
        patience: how many pairs are needed before a mixture. It doubles when a mixture fails and
            halves when one is accepted.
    """

    stats: Any
    asked: jax.Array
    inputs: jax.Array
    outputs: jax.Array
    n_pairs: jax.Array
    mixes: jax.Array
    patience: jax.Array


#: The smallest and the largest value of `patience`. Where mixtures keep failing, at most one
#: evaluation in LATEST is lost.
SOONEST, LATEST = 2, 64


@pytree_class
class Anderson(Algorithm):
    """Anderson acceleration of EM (Walker and Ni, 2011, equation 2.2), on the statistics.

    Let M be the M-step, E the statistics of the E-step, and F_i = E(M(S_i)) - S_i the residuals of
    the last `order` steps. The next proposal is the M-step of that affine combination of the
    E(M(S_i)) whose combined residual is smallest.

    A proposal that leaves the parameter space or gains nothing is undone. All steps before it are
    forgotten, and the next proposal of this kind comes after twice as many plain EM steps as this
    one did. The objective never falls, and CONVERGED is judged by plain EM steps alone.

    Args:
        order: the number of steps that are combined, at least 2.
        late: acceleration is used only where a step gains less than this, in nats per unit of
            weight. Earlier it may lead to another optimum.

    Examples:
        >>> import jax, jaxem
        >>> x = jaxem.datasets.old_faithful()
        >>> model = jaxem.gaussian_mixture(3, covariance="tied")
        >>> start = model.init(jax.random.key(3), x)
        >>> algorithms = (jaxem.EM(), jaxem.Anderson())
        >>> fits = [jaxem.fit(model, x, start, algorithm=each) for each in algorithms]
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
        # A start is not the EM step of known statistics, and an undone step is not used further.
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
            # After a small gain, a plain step has to decide whether the fit has converged.
            mixes=(n_pairs >= patience) & (outcome.gain < self.late) & ~(outcome.small & ~outcome.plain),
        )

    def expected_gain(self, problem: Any, old: Any, new: Any, memory: Any, seen: Any) -> Any:
        return promised_gain(problem, old, new, memory.stats, seen)

    def centred(self) -> Any:
        return EM()


def _counters():
    """The first values of n_pairs, mixes and patience."""
    return jnp.zeros((), jnp.int32), jnp.zeros((), bool), jnp.asarray(SOONEST, jnp.int32)


def _mixture(memory):
    """The combination [p] of the outputs with the smallest residual; coefficients sum to 1."""
    order, dtype = len(memory.inputs), memory.inputs.dtype
    newest = (memory.n_pairs - 1) % order
    used = (jnp.arange(order) < memory.n_pairs) & (jnp.arange(order) != newest)
    residuals = memory.outputs - memory.inputs
    steps = jnp.where(used[:, None], residuals[newest] - residuals, 0)
    length = jnp.sqrt((steps * steps).sum(1))
    steps = steps / jnp.where(length > 0, length, 1)[:, None]
    # The ridge bounds the coefficients of nearly dependent steps, which rounding would make large.
    ridge = 10 * jnp.finfo(dtype).eps + jnp.where(length > 0, 0, 1)
    gram = jnp.matmul(steps, steps.T, precision=jax.lax.Precision.HIGHEST) + jnp.diag(ridge)
    coefficients = linalg.solve(gram, jnp.matmul(steps, residuals[newest], precision=jax.lax.Precision.HIGHEST))
    coefficients = coefficients / jnp.where(length > 0, length, 1)
    return memory.outputs[newest] - coefficients @ jnp.where(used[:, None], memory.outputs[newest] - memory.outputs, 0)
