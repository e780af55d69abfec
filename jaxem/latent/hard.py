"""Classification EM: the hidden values are replaced by their most probable ones. k-means is its special case."""

from typing import Any

from jaxem.contract.model import model_class
from jaxem.contract.wrapper import Wrapper


@model_class
class Hard(Wrapper):
    """Maximises the classification log-likelihood sum_i max_z log p(x_i, z | params) (Celeux and Govaert 1992).

    The E-step assigns each row to one component; everything else is the model's own. Its optimum is not the maximum
    of the likelihood: components that overlap come out too narrow.

    >>> import jax, jaxem
    >>> x = jaxem.datasets.old_faithful()
    >>> model = jaxem.Hard(jaxem.gaussian_mixture(2))
    >>> result = jaxem.fit(model, x, model.init(jax.random.key(0), x))
    >>> bool(result.converged), sorted(set(model.posterior(result.params, x).ravel().tolist()))
    (True, [0.0, 1.0])
    """

    model: Any

    normalised = False

    def latent_divergence(self, resp, other):
        raise NotImplementedError("latent_divergence: all of a hard posterior is on one value of the hidden variable")

    def tempered(self, resp, exponent):
        raise NotImplementedError("tempered: all of a hard posterior is on one value of the hidden variable")

    def e_step(self, params, x):
        return self.model.hard_e_step(params, x)
