"""Gradient ascent on the objective in unconstrained coordinates, with any optimiser of optax."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxem.algorithms.algorithm import Algorithm, Proposal
from jaxem.contract.constraints import constrain, unconstrain
from jaxem.contract.pytree import pytree_class, static


class GradientMemory(NamedTuple):
    """The memory of `Gradient`.

    Attributes:
        free: the last evaluated params, in unconstrained coordinates.
        seen: gradient and value there.
        optimizer: the state of the optimiser.
        ahead: the proposed params, in unconstrained coordinates.
    """

    free: Any
    seen: "Slope"
    optimizer: Any
    ahead: Any


class Slope(NamedTuple):
    """The loss, which is -objective per unit of weight in nats, and its gradient.

    Attributes:
        grad: the gradient in unconstrained coordinates.
        value: the loss.
    """

    grad: Any
    value: jax.Array


@pytree_class
class Gradient(Algorithm):
    """Gradient ascent on the objective per unit of weight, by an optimiser of optax.

    A fit returns the best params that it has evaluated. CONVERGED means that half the squared norm
    of the gradient is at most `tol` nats per unit of weight, the gain that a unit step may be
    expected to give. Most optimisers do not get there, and stop at `max_steps`.

    Args:
        optimizer: any `optax.GradientTransformation`; `optax.lbfgs()` uses its line search. Make it
            once and reuse it: two transformations made by equal calls are different functions, and
            each of them compiles a program of its own.

    Examples:
        >>> import jax, jaxem, optax
        >>> x = jaxem.datasets.old_faithful()
        >>> model = jaxem.gaussian_mixture(2)
        >>> start = model.init(jax.random.key(0), x)
        >>> algorithm = jaxem.Gradient(optax.lbfgs())
        >>> result = jaxem.fit(model, x, start, algorithm=algorithm, max_steps=100)
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

        return jax.jit(loss)  # A line search calls it in many places, but it is traced only once.

    def init(self, problem: Any, params: Any, nothing: Any) -> Any:
        free = unconstrain(problem.model, params)
        value = jnp.zeros((), jnp.result_type(*jax.tree.leaves(free)))
        optimizer = optax.with_extra_args_support(self.optimizer).init(free)
        return GradientMemory(free, Slope(jax.tree.map(jnp.zeros_like, free), value), optimizer, free)

    def propose(self, problem: Any, params: Any, memory: Any) -> Any:
        update = optax.with_extra_args_support(self.optimizer).update
        grad, value = memory.seen
        updates, state = update(
            grad, memory.optimizer, memory.free, value=value, grad=grad, value_fn=self._loss(problem)
        )
        free = optax.apply_updates(memory.free, updates)
        searched = optax.tree_utils.tree_get(state, "num_linesearch_steps", jnp.zeros((), jnp.int32))
        memory = memory._replace(optimizer=state, ahead=free)
        return Proposal(constrain(problem.model, free), memory, True, 1 + searched)

    def evaluate(self, problem: Any, params: Any, memory: Any) -> Any:
        value, grad = jax.value_and_grad(self._loss(problem))(memory.ahead)
        return Slope(grad, value), -value * problem.total_weight - problem.model.log_prior(params)

    def learn(self, memory: Any, seen: Any, outcome: Any) -> Any:
        return memory._replace(free=memory.ahead, seen=seen)

    def expected_gain(self, problem: Any, old: Any, new: Any, memory: Any, seen: Any) -> Any:
        return 0.5 * sum(jnp.vdot(g, g) for g in jax.tree.leaves(seen.grad))
