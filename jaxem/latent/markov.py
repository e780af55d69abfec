"""The hidden chain of a hidden Markov model: its stationary distribution and its M-steps."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import xlogy

from jaxem.contract.constraints import Simplex
from jaxem.numerics import linalg

#: Inner steps of the M-step with a stationary start. The M-step only has to raise Q; it need not
#: reach the optimum. On chains of 100 steps the first inner step leaves less than 1e-3 of the gain,
#: and each further one divides the rest by about ten.
STATIONARY_STEPS = 12


@dataclasses.dataclass(frozen=True)
class SparseSimplex(Simplex):
    """Rows [k, k] of probabilities that are 0 wherever `allowed` is False.

    The unconstrained coordinates are log-odds against the last allowed entry of a row; the
    coordinates of forbidden entries are not used.

    Args:
        allowed: a tuple of tuples of bool.
    """

    allowed: tuple[Any, ...] = ()

    event_ndim = 2

    def _layout(self):
        allowed = np.asarray(self.allowed, bool)
        last = allowed.shape[1] - 1 - np.argmax(allowed[:, ::-1], 1)
        others = np.array([np.delete(np.arange(allowed.shape[1]), j) for j in last])
        return allowed, last, others

    def to_params(self, free: Any) -> Any:
        allowed, _, others = self._layout()
        rows = np.arange(len(allowed))[:, None]
        logits = jnp.zeros((*free.shape[:-1], allowed.shape[1]), free.dtype).at[..., rows, others].set(free)
        return jax.nn.softmax(jnp.where(allowed, logits, -jnp.inf), -1)

    def to_free(self, value: Any) -> Any:
        allowed, last, others = self._layout()
        rows = np.arange(len(allowed))
        logs = jnp.log(jnp.maximum(value, jnp.finfo(value.dtype).tiny))
        odds = jnp.where(allowed, logs - logs[..., rows, last][..., None], 0)
        return odds[..., rows[:, None], others]

    def n_free(self, shape: Any) -> int:
        return int(np.prod(shape[:-2])) * int((np.asarray(self.allowed).sum(1) - 1).sum())

    def violation(self, value: Any) -> Any:
        forbidden = ~np.asarray(self.allowed, bool)
        return super().violation(value) or ("is not 0 where it is not allowed" if value[forbidden].any() else None)


def stationary(transition: jax.Array) -> jax.Array:
    """The stationary distribution of a chain: pi [k] with pi transition = pi.

    It is NaN where there are several (the chain is reducible).
    """
    k = transition.shape[-1]
    system = jnp.eye(k, dtype=transition.dtype) - transition.T + 1
    return jnp.maximum(linalg.solve(system, jnp.ones(k, transition.dtype)), 0)


def normalized_rows(counts: jax.Array, incumbent: jax.Array) -> jax.Array:
    """Each row of counts, divided by its sum.

    A row without counts keeps the value of the incumbent, the params before the M-step.
    """
    total = counts.sum(-1, keepdims=True)
    alive = total > counts.sum() * jnp.finfo(counts.dtype).eps ** 2
    return jnp.where(alive, counts / jnp.where(alive, total, 1), incumbent)


def chain_objective(initial_counts: jax.Array, counts: jax.Array, transition: jax.Array) -> jax.Array:
    """E[log p(z)] of a chain that starts in its stationary distribution, total in nats.

    It is -inf where the stationary distribution is not unique.
    """
    value = xlogy(initial_counts, stationary(transition)).sum() + xlogy(counts, transition).sum()
    return jnp.where(jnp.isnan(value), -jnp.inf, value)


def stationary_m_step(initial_counts: jax.Array, counts: jax.Array, incumbent: jax.Array) -> jax.Array:
    """Transitions whose E[log p(z)] is at least that of the incumbent, for a stationary start.

    At a maximum, transition_ij is proportional to counts_ij + transition_ij d_ij, where d is the
    derivative of the initial term. This map (a growth transform: Baum and Eagon 1967) is iterated
    from the better of two starts: the incumbent (the transitions before the M-step), and the counts
    divided by their sums. A constant added to d makes the steps shorter. A step that does not raise
    the objective is not taken, so the objective never falls. The fixed points are the stationary
    points of the objective.

    Args:
        initial_counts: the expected number of sequences that begin in each state, [k].
        counts: the expected number of transitions, [k, k].
        incumbent: the transition probabilities before the M-step, [k, k].
    """
    slope = jax.grad(lambda a: xlogy(initial_counts, stationary(a)).sum())

    def step(_, carry):
        best, value, damping = carry
        d = jnp.nan_to_num(slope(best))
        d = d - d.min(-1, keepdims=True)
        scale = counts.sum(-1, keepdims=True) + (best * d).sum(-1, keepdims=True)
        new = normalized_rows(counts + best * (d + damping * scale), best)
        new_value = chain_objective(initial_counts, counts, new)
        # Near the optimum, values differ by rounding only, which must not decide the last steps.
        up = new_value > value - 4 * jnp.finfo(value.dtype).eps * jnp.abs(value)
        best, value = jnp.where(up, new, best), jnp.where(up, new_value, value)
        return best, value, jnp.where(up, damping / 2, 4 * damping + 0.25)

    closed = normalized_rows(counts, incumbent)
    values = [chain_objective(initial_counts, counts, a) for a in (incumbent, closed)]
    better = values[1] > values[0]
    start = (jnp.where(better, closed, incumbent), jnp.where(better, values[1], values[0]), jnp.zeros_like(values[0]))
    return lax.fori_loop(0, STATIONARY_STEPS, step, start)[0]
