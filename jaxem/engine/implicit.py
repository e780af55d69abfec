"""Derivatives of a converged fit, by the implicit function theorem at the fixed point of EM.

From theta* = M(theta*, data), where M is one EM step, it follows that
d theta* = (I - dM/d theta)^-1 dM/d data. No iteration is unrolled, and the start has no influence.
The derivative of the log-likelihood is the partial derivative at theta*, because its gradient in
theta is 0 there. Both are right only where the fit has converged. The linear system is dense, with
as many unknowns as parameters.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxem.engine.expectation import make_problem


def attach_derivatives(
    model: Any, z: Any, weights: jax.Array, chunk: Any, params: Any, log_lik: jax.Array, volume: Any
) -> Any:
    """Give the params and the log-likelihood of a finished fit derivatives in the data.

    The derivatives are taken in the model's hyperparameters, the rows and the weights.

    Args:
        model: the model, with its hyperparameters in standard units.
        z: rows [n, ...] in standard units.
        weights: the weights of the rows, [n].
        chunk: the number of rows per chunk.
        params: the params of the fit in standard units, with a leading axis of size 1.
        log_lik: the log-likelihood of the fit, [1], total in nats.
        volume: the log-volume of the standard units (see `Units.log_volume`).

    Returns:
        (params, log_lik), with the same values.
    """
    single = jax.tree.map(lambda leaf: leaf[0], params)
    single = lax.custom_root(
        lambda p: _residual(make_problem(model, z, weights, chunk).chunked(), p),
        lax.stop_gradient(single),
        lambda residual, guess: guess,
        _solve_dense,
    )
    log_lik = _log_lik(chunk, (model, z, weights), lax.stop_gradient((single, log_lik[0], volume)))
    return jax.tree.map(lambda leaf: leaf[None], single), log_lik[None]


def _residual(problem, params):
    stats, _ = problem.expectation(params)
    return jax.tree.map(jnp.subtract, problem.maximize(stats, params), params)


def _solve_dense(linear, target):
    flat, unravel = ravel_pytree(target)
    matrix = jax.jacobian(lambda v: ravel_pytree(linear(unravel(v)))[0])(jnp.zeros_like(flat))
    return unravel(jnp.linalg.solve(matrix, flat))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _log_lik(chunk, data, fitted):
    """The fitted log-likelihood, with the derivative of the one in the data's units."""
    return fitted[1]


@_log_lik.defjvp
def _(chunk, primals, tangents):
    data, (params, value, volume) = primals

    def total(data):
        model, z, weights = data
        return make_problem(model, z, weights, chunk).chunked().expectation(params)[1] - (weights * volume).sum()

    return value, jax.jvp(total, (data,), tangents[:1])[1]
