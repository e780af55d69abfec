"""Q, the lower bound and the gap: log-likelihood = ELBO(q, params) + KL(q || posterior), for any q.

EM maximises one function F(q, params) = ELBO in turn: over q (the E-step closes the gap) and over
params (the M-step raises the bound). Neal and Hinton (1998); Bishop (2006), equations (9.70) to
(9.72). All are totals in nats.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxem.contract.arguments import check_arguments
from jaxem.contract.errors import NotProvidedError
from jaxem.contract.frame import Frame, called_in_frame
from jaxem.contract.model import Model
from jaxem.contract.posterior import posterior_of
from jaxem.inputs import arrays


def q_function(model: Model, params: Any, resp: Any, x: Any, weights: ArrayLike | None = None) -> jax.Array:
    """The expected complete-data log-likelihood sum_i w_i E_q[log p(x_i, z_i | params)].

    Bishop (2006), equation (9.30).

    Args:
        model: a model that provides `expected_log_joint`.
        params: the params at which Q is evaluated.
        resp: the expected latent variables under q, as an E-step returns them.
        x: the rows, [n, ...].
        weights: sample weights [n]; None means that all are 1.

    Returns:
        Q, total in nats.

    Raises:
        NotProvidedError: the model does not provide `expected_log_joint`.

    Examples:
        >>> import jax, jaxem
        >>> x = jaxem.datasets.old_faithful()
        >>> model = jaxem.gaussian_mixture(2)
        >>> old = model.init(jax.random.key(0), x)
        >>> resp = model.e_step(old, x).resp
        >>> new = model.m_step(resp, x)
        >>> bool(jaxem.q_function(model, new, resp, x) >= jaxem.q_function(model, old, resp, x))
        True
    """
    arguments = check_arguments(model, {"params": params, "resp": resp, "x": x, "weights": weights}, "q_function")

    def total(frame: Frame, value):
        of_rows = np.ones(arrays.n_rows(arguments["x"])) if weights is None else arguments["weights"]
        return frame.total_back(value, of_rows)

    return called_in_frame(model, _q, total, arguments)


def elbo(model: Model, params: Any, resp: Any, x: Any, weights: ArrayLike | None = None) -> jax.Array:
    """The lower bound on the log-likelihood: Q(params) plus the entropy of q.

    It equals the log-likelihood when q is the posterior at params. Bishop (2006), equation (9.71).

    Args:
        model: a model that provides `expected_log_joint`.
        params: the params at which the bound is evaluated.
        resp: the expected latent variables under q, as an E-step returns them.
        x: the rows, [n, ...].
        weights: sample weights [n]; None means that all are 1.

    Returns:
        The bound, total in nats.

    Raises:
        NotProvidedError: the model does not provide `expected_log_joint`.
    """
    return q_function(model, params, resp, x, weights) + _total(posterior_of(model, resp).entropy(), weights)


def kl_gap(model: Model, params: Any, resp: Any, x: Any, weights: ArrayLike | None = None) -> jax.Array:
    """The gap sum_i w_i KL(q_i || p(z_i | x_i, params)) between the log-likelihood and its bound.

    It is never negative. Bishop (2006), equation (9.72). Where a posterior probability is so small
    that the dtype rounds it to 0, the gap is computed as log-likelihood - bound.

    Args:
        model: the model; a hard one has no gap.
        params: the params whose posterior is compared with q.
        resp: the expected latent variables under q, as an E-step returns them.
        x: the rows, [n, ...].
        weights: sample weights [n]; None means that all are 1.

    Returns:
        The gap, total in nats.

    Raises:
        NotProvidedError: the model is hard (`Hard`).
    """
    if not model.normalised:
        raise NotProvidedError(model, "kl_gap", "all of a hard posterior is on one value of the hidden variable")
    found = model.e_step(params, x)
    gap = _total(posterior_of(model, resp).kl(found.resp), weights)
    try:
        bound = elbo(model, params, resp, x, weights)
    except NotProvidedError:
        return gap
    return jnp.where(jnp.isfinite(gap), gap, _total(found.log_prob, weights) - bound)


@jax.jit
def _q(model, params, resp, x, weights):
    return model.expected_log_joint(params, model.sufficient_statistics(resp, x, weights))


def _total(values, weights):
    return values.sum() if weights is None else jnp.dot(values, jnp.asarray(weights, values.dtype))
