"""Q, the lower bound and the gap: log-likelihood = ELBO(q, params) + KL(q || posterior), for any q.

EM maximises one function F(q, params) = ELBO in turn: over q (the E-step closes the gap) and over params (the M-step
raises the bound). Neal and Hinton (1998); Bishop (2006), equations (9.70) to (9.72). All are totals in nats.
"""

from typing import Any

import jax
import jax.numpy as jnp
from numpy.typing import ArrayLike

from jaxem.contract.errors import NotProvidedError
from jaxem.contract.model import Model
from jaxem.contract.posterior import posterior_of


def q_function(model: Model, params: Any, resp: Any, x: Any, weights: ArrayLike | None = None) -> jax.Array:
    """Q(params) = sum_i w_i E_q[log p(x_i, z_i | params)], the expected complete-data log-likelihood under `resp`.

    >>> import jax, jaxem
    >>> x = jaxem.datasets.old_faithful()
    >>> model = jaxem.gaussian_mixture(2)
    >>> old = model.init(jax.random.key(0), x)
    >>> resp = model.e_step(old, x).resp
    >>> bool(jaxem.q_function(model, model.m_step(resp, x), resp, x) >= jaxem.q_function(model, old, resp, x))
    True
    """
    return model.expected_log_joint(params, model.sufficient_statistics(resp, x, weights))


def elbo(model: Model, params: Any, resp: Any, x: Any, weights: ArrayLike | None = None) -> jax.Array:
    """The lower bound: Q(params) plus the entropy of q. Equal to the log-likelihood when q is the posterior."""
    return q_function(model, params, resp, x, weights) + _total(posterior_of(model, resp).entropy(), weights)


def kl_gap(model: Model, params: Any, resp: Any, x: Any, weights: ArrayLike | None = None) -> jax.Array:
    """sum_i w_i KL(q_i || p(z_i | x_i, params)) >= 0: how far the bound lies below the log-likelihood."""
    if not model.normalised:
        raise NotProvidedError(model, "kl_gap", "all of a hard posterior is on one value of the hidden variable")
    return _total(posterior_of(model, resp).kl(model.e_step(params, x).resp), weights)


def _total(values, weights):
    return values.sum() if weights is None else jnp.dot(values, weights)
