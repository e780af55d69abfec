"""Classification EM, which replaces hidden values by their most probable ones, as in k-means."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxem.contract.model import EStep, Model, model_class
from jaxem.contract.posterior import as_posterior, as_resp
from jaxem.contract.wrapper import Wrapper


@model_class
class Hard(Wrapper, Model):
    """Classification EM: it maximises sum_i max_z log p(x_i, z | params).

    This is the classification log-likelihood. The E-step assigns each row to its most probable
    hidden value; everything else is as in the wrapped model. The optimum is not the maximum of the
    likelihood: components that overlap are estimated as too narrow. Celeux and Govaert (1992).

    Args:
        model: a model with a discrete hidden value.

    Examples:
        >>> import jax, jaxem
        >>> x = jaxem.datasets.old_faithful()
        >>> model = jaxem.Hard(jaxem.gaussian_mixture(2))
        >>> result = jaxem.fit(model, x, model.init(jax.random.key(0), x))
        >>> bool(result.converged), sorted(set(model.posterior(result.params, x).ravel().tolist()))
        (True, [0.0, 1.0])
    """

    model: Any

    normalised = False
    has_params_of_its_model = True

    def e_step(self, params: Any, x: Any) -> EStep:
        resp, log_prob = self.model.e_step(params, x)
        hard, log_share = as_posterior(resp).hardened()
        # log p(x, z) = log p(x) + log p(z | x) at the most probable z.
        return EStep(as_resp(hard), log_prob + log_share)

    def predict(self, params: Any, x: Any) -> jax.Array:
        """The hidden value that the E-step assigns to each row, [n] of int.

        For sequences it is [n, t], and -1 beyond the end of a sequence.
        """
        marginals = self.posterior(params, x)
        return jnp.where(marginals.sum(-1) > 0, jnp.argmax(marginals, -1), -1)
