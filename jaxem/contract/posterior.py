"""Posteriors: distributions of the hidden values, which E-steps compute, as objects."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy

from jaxem.contract.capabilities import Discrete, provides
from jaxem.contract.errors import NotProvidedError
from jaxem.contract.pytree import pytree_class


class Posterior:
    """A distribution q over the hidden values of n examples: the base class of what E-steps return.

    A subclass is decorated with `pytree_class` and writes those methods that it can compute; the
    others raise NotProvidedError. `as_posterior` makes a plain array of responsibilities one.
    """

    def marginals(self) -> jax.Array:
        """The marginal probabilities of the hidden values, [n, k]; for a chain [n, t, k]."""
        raise NotProvidedError(self, "marginals")

    def entropy(self) -> jax.Array:
        """The entropy H(q_i) of all hidden variables of each example [n], in nats."""
        raise NotProvidedError(self, "entropy")

    def assignment_entropy(self) -> jax.Array:
        """The entropy [n] of the discrete hidden value (component, state path) alone, in nats."""
        raise NotProvidedError(self, "assignment_entropy")

    def kl(self, other: Any) -> jax.Array:
        """KL(q_i || p_i) [n] to another posterior p of the same model, in nats."""
        raise NotProvidedError(self, "kl")

    def tempered(self, exponent: Any) -> "Posterior":
        """The distribution q^exponent, normalised."""
        raise NotProvidedError(self, "tempered")

    def hardened(self) -> tuple["Posterior", jax.Array]:
        """The posterior with all probability on the most probable hidden values.

        Returns:
            (the posterior, log q_i(z_i) [n]), where z_i is the most probable value of example i.
        """
        raise NotProvidedError(self, "hardened")

    def draw(self, key: jax.Array) -> jax.Array:
        """Hidden values drawn from the posterior with a random key: [n]; for a chain [n, t]."""
        raise NotProvidedError(self, "draw")


class Responsibilities(Posterior):
    """The methods of posteriors with responsibilities.

    Attributes:
        resp: the responsibilities [n, k].
        component: the posterior of the hidden values of the components, or None where they have
            none.
    """

    resp: Any
    component: Any

    def with_resp(self, resp: Any) -> Any:
        """This posterior with other responsibilities."""
        return dataclasses.replace(self, resp=resp)  # type: ignore[type-var]

    def marginals(self) -> jax.Array:
        return self.resp

    def assignment_entropy(self) -> jax.Array:
        return -xlogy(self.resp, self.resp).sum(-1)

    def entropy(self) -> jax.Array:
        own = self.assignment_entropy()
        return own if self.component is None else own + (self.resp * self.component.entropy()).sum(-1)

    def kl(self, other: Any) -> jax.Array:
        other = as_posterior(other)
        own = (xlogy(self.resp, self.resp) - xlogy(self.resp, other.resp)).sum(-1)
        return own if self.component is None else own + (self.resp * self.component.kl(other.component)).sum(-1)

    def tempered(self, exponent: Any) -> Any:
        logs = jnp.log(self.resp)
        return self.with_resp(jax.nn.softmax(exponent * (logs - logs.max(-1, keepdims=True)), -1))

    def hardened(self) -> Any:
        best = jax.nn.one_hot(jnp.argmax(self.resp, -1), self.resp.shape[-1], dtype=self.resp.dtype)
        return self.with_resp(best), jnp.log((best * self.resp).sum(-1))

    def draw(self, key: jax.Array) -> Any:
        return jax.random.categorical(key, jnp.log(self.resp))


@pytree_class
class MixturePosterior(Responsibilities):
    """Responsibilities [n, k], and the posterior of the components' hidden values, or None."""

    resp: Any
    component: Any = None


def as_posterior(resp: Any) -> Any:
    """`resp` as a posterior: responsibilities [n, k] become a `MixturePosterior`."""
    return resp if isinstance(resp, Posterior) else MixturePosterior(resp)


def as_resp(posterior: Any) -> Any:
    """The inverse of `as_posterior`: a posterior of responsibilities alone becomes an array."""
    plain = isinstance(posterior, MixturePosterior) and posterior.component is None
    return posterior.resp if plain else posterior


@pytree_class
class Opaque(Posterior):
    """The result of an E-step of which nothing is known, except that the M-step accepts it."""

    resp: Any

    def marginals(self) -> jax.Array:
        return self.resp


def posterior_of(model: Any, resp: Any) -> Any:
    """The posterior for the `resp` of a model's E-step.

    An array holds responsibilities if the model has a discrete hidden value (`Discrete`); otherwise
    it becomes `Opaque`.
    """
    if isinstance(resp, Posterior):
        return resp
    return as_posterior(resp) if provides(model, Discrete) else Opaque(resp)
