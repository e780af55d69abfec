"""Classification EM: the hidden values are replaced by their most probable ones. k-means is its special case."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxem.contract.model import EStep, Model, model_class
from jaxem.contract.posterior import as_posterior, as_resp
from jaxem.contract.wrapper import Wrapper


@model_class
class Hard(Wrapper, Model):
    """Maximises the classification log-likelihood sum_i max_z log p(x_i, z | params) (Celeux and Govaert 1992).

    The E-step assigns each row to one component; everything else is the model's own. Its optimum is not the maximum
    of the likelihood: components that overlap come out too narrow.

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
        """The hidden value that the E-step assigns, [n] of int; -1 beyond the end of a sequence."""
        marginals = self.posterior(params, x)
        return jnp.where(marginals.sum(-1) > 0, jnp.argmax(marginals, -1), -1)
