"""Derivatives of a converged fit, by the implicit function theorem at the fixed point of EM.

theta* = M(theta*, data), so d theta* = (I - dM/d theta)^-1 dM/d data: no iteration is unrolled, and the start has no
influence. The log-likelihood's derivative is the partial one at theta*, because its gradient in theta is 0 there.
Both are right only where the fit has converged. The linear system is dense: as many unknowns as parameters.
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
    """params [1, ...] and log_lik [1] of one finished fit, unchanged in value, with derivatives in the data."""
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
    """The fitted log-likelihood, with the derivative that the one in the data's units has in model, rows, weights."""
    return fitted[1]


@_log_lik.defjvp
def _(chunk, primals, tangents):
    data, (params, value, volume) = primals

    def total(data):
        model, z, weights = data
        return make_problem(model, z, weights, chunk).chunked().expectation(params)[1] - (weights * volume).sum()

    return value, jax.jvp(total, (data,), tangents[:1])[1]
