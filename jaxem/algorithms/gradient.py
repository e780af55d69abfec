"""Direct maximisation of the same objective in unconstrained coordinates, with any optax optimiser."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxem.algorithms.em import Proposal
from jaxem.constraints import constrain, unconstrain
from jaxem.model import pytree_class, static


class GradientMemory(NamedTuple):
    free: Any
    grad: Any
    value: jax.Array
    optimizer: Any


@pytree_class
class Gradient:
    """Gradient ascent on the objective per unit of weight, by an optax transformation.

    optimizer: any `optax.GradientTransformation`; `optax.lbfgs()` uses its line search. Build it once and reuse it:
    two transformations made by equal calls are different functions, so each compiles a program of its own.

    The best params seen are returned. CONVERGED means that the squared norm of the gradient promises less than `tol`
    nats per unit of weight from one more unit step; most optimisers of this kind never get there and stop at
    `max_steps`.

    >>> import jax, jaxem, optax
    >>> x = jaxem.datasets.old_faithful()
    >>> model = jaxem.gaussian_mixture(2)
    >>> start = model.init(jax.random.key(0), x)
    >>> result = jaxem.fit(model, x, start, algorithm=jaxem.Gradient(optax.lbfgs()), max_steps=100)
    >>> round(float(result.log_lik), 1)
    -1130.3
    """

    optimizer: Any = static()

    monotone = False

    def _loss(self, problem):
        def loss(free):
            params = constrain(problem.model, free)
            objective = problem.expectation(params)[1] + problem.model.log_prior(params)
            return -objective / problem.total_weight

        return loss

    def init(self, problem, params):
        free = unconstrain(problem.model, params)
        value = jnp.zeros((), jnp.result_type(*jax.tree.leaves(free)))
        optimizer = optax.with_extra_args_support(self.optimizer).init(free)
        return GradientMemory(free, jax.tree.map(jnp.zeros_like, free), value, optimizer)

    def step(self, problem, params, memory, trial, given):
        optimizer = optax.with_extra_args_support(self.optimizer)
        loss = self._loss(problem)
        updates, state = optimizer.update(
            memory.grad, memory.optimizer, memory.free, value=memory.value, grad=memory.grad, value_fn=loss
        )

        # A fit that begins has no gradient to go by yet: it stays where it is.
        def pick(old, new):
            return jax.tree.map(lambda a, b: jnp.where(given, a, b), old, new)

        free = pick(memory.free, optax.apply_updates(memory.free, updates))
        state = pick(memory.optimizer, state)
        value, grad = jax.value_and_grad(loss)(free)
        params = constrain(problem.model, free)
        objective = -value * problem.total_weight
        searched = optax.tree_utils.tree_get(state, "num_linesearch_steps", jnp.zeros((), jnp.int32))
        gain = 0.5 * sum(jnp.vdot(g, g) for g in jax.tree.leaves(grad))
        return Proposal(
            params,
            GradientMemory(free, grad, value, state),
            objective - problem.model.log_prior(params),
            objective,
            (1 + jnp.where(given, 0, searched)).astype(jnp.int32),
            gain,
        )
