"""EM from two plain functions, in the same loop and with results of the same form."""

from collections.abc import Callable
from typing import Any

import jax

from jaxem.contract.model import EStep, Model, model_class
from jaxem.contract.pytree import static


@model_class
class Steps(Model):
    """A model that consists of its two steps alone; `from_steps` makes it."""

    e_step_function: Any = static()
    m_step_function: Any = static()
    init_function: Any = static(default=None)

    additive = False

    def init(self, key: jax.Array, x: Any, weights: jax.Array | None = None, kind: Any = 0) -> Any:
        if self.init_function is None:
            raise ValueError("start: this model was made without `init`; pass start= (params) instead")
        return self.init_function(key, x)

    def e_step(self, params: Any, x: Any) -> EStep:
        return EStep(*self.e_step_function(params, x))

    def m_step(self, resp: Any, x: Any, weights: jax.Array | None = None) -> Any:
        self._refuse(weights, "weights")
        return self.m_step_function(resp, x)

    def sufficient_statistics(self, resp: Any, x: Any, weights: jax.Array | None = None) -> Any:
        self._refuse(weights, "weights")
        return resp

    def maximize(self, stats: Any, params: Any = None) -> Any:
        raise ValueError("maximize: from_steps has no sufficient statistics; call m_step(resp, x)")

    def constraints(self) -> Any:
        raise ValueError("constraints: from_steps has no constraints of params; write a Model for gradient fits")

    def _refuse(self, value, name):
        if value is not None:
            raise ValueError(f"{name}: from_steps has no additive statistics; write a Model to use {name}")


def from_steps(e_step: Callable, m_step: Callable, init: Callable | None = None) -> Steps:
    """A model from two pure functions.

    Options that need sums of statistics (weights, chunk_size) or unconstrained coordinates
    (Gradient) raise ValueError for such a model.

    Args:
        e_step: e_step(params, x) -> (resp, log_prob [n]).
        m_step: m_step(resp, x) -> params.
        init: init(key, x) -> params, which makes random starts for `fit_restarts`. Without it, pass
            `start`.

    Examples:
        >>> import jax.numpy as jnp, jaxem
        >>> def e_step(rate, x):  # Lifetimes are exponential; 3 stands for one above 3.
        ...     seen = x < 3
        ...     expected = jnp.where(seen, x, 3 + 1 / rate)
        ...     return expected, jnp.where(seen, jnp.log(rate) - rate * x, -3 * rate)
        >>> model = jaxem.from_steps(e_step, lambda expected, x: 1 / expected.mean())
        >>> result = jaxem.fit(model, jnp.array([0.5, 1.0, 2.5, 3.0, 3.0]), jnp.array(1.0))
        >>> round(float(result.params), 3)  # 3 deaths in 10 years at risk
        0.3
    """
    return Steps(e_step, m_step, init)
