"""The posterior of a hidden Markov model over paths of states, and the expectations under it."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy

from jaxem.contract.errors import NotProvidedError
from jaxem.contract.posterior import Posterior
from jaxem.contract.pytree import pytree_class
from jaxem.inputs.sequences import from_time_rows, inside
from jaxem.latent import forward_backward


class Potentials(NamedTuple):
    """A posterior over paths of states, as the factors of its density.

    p(z | x) = initial[z_1] prod_t transition[z_t-1, z_t] prod_t exp(log_density_t[z_t]) / p(x)

    Attributes:
        initial: the probabilities of the first state, [k].
        transition: [k, k], where row i holds the probabilities of the state that follows state i.
        log_density: log p(x_t | z_t) [n, t, k], in nats; it is 0 beyond the end of a sequence.
        log_norm: log p(x) [n], in nats, one number for each sequence.
        lengths: the lengths of the sequences [n], or None where every length is t.
    """

    initial: Any
    transition: Any
    log_density: Any
    log_norm: Any
    lengths: Any = None

    def chain(self) -> tuple:
        """The arguments of the recursions: (initial, transition, log_density, mask).

        log_density is [t, n, k] here. The mask [t, n] is True inside a sequence, or it is None.
        """
        density = self.log_density.swapaxes(0, 1)
        return self.initial, self.transition, density, inside(self.lengths, len(density))


@pytree_class
class ChainPosterior(Posterior):
    """The expected latent variables of n sequences.

    Attributes:
        posterior: p(z_t | x) [n, t, k]; it is 0 beyond the end of a sequence.
        transitions: the expected number of transitions from each state to each state, [n, k, k].
        emission: the posterior of the hidden variables that the emissions have themselves, or None.
        potentials: the whole distribution over paths. Only the entropy, the divergence, the most
            probable path and draws need it, so a `ChainPosterior` made by hand may leave it out.
    """

    posterior: Any
    transitions: Any
    emission: Any = None
    potentials: Any = None

    def marginals(self) -> jax.Array:
        return self.posterior

    def assignment_entropy(self) -> jax.Array:
        """The entropy of the whole path of states [n], in nats."""
        return -self._expected_log(self)

    def entropy(self) -> jax.Array:
        own = self.assignment_entropy()
        return own if self.emission is None else own + self._over_states(self.emission.entropy())

    def kl(self, other: Any) -> jax.Array:
        own = self._expected_log(self) - self._expected_log(other)
        return own if self.emission is None else own + self._over_states(self.emission.kl(other.emission))

    def hardened(self) -> Any:
        """All probability on the most probable path (Viterbi), and its log probability [n]."""
        potentials = self._known(self)
        initial, transition, log_density, mask = potentials.chain()
        path, log_joint = forward_backward.viterbi(initial, transition, log_density, mask)
        states = jax.nn.one_hot(path, self.posterior.shape[-1], dtype=log_joint.dtype)
        states = states if mask is None else jnp.where(mask[..., None], states, 0)
        transitions = jnp.einsum("tni,tnj->nij", states[:-1], states[1:])
        hard = dataclasses.replace(self, posterior=states.swapaxes(0, 1), transitions=transitions, potentials=None)
        return hard, log_joint - potentials.log_norm

    def draw(self, key: jax.Array) -> Any:
        """Paths of states drawn from the posterior, [n, t] of int.

        The numbers beyond the end of a sequence are -1.

        Raises:
            NotProvidedError: the posterior has no potentials.
        """
        initial, transition, log_density, mask = self._known(self).chain()
        path = forward_backward.draw_path(key, initial, transition, log_density)
        return (path if mask is None else jnp.where(mask, path, -1)).T

    def _over_states(self, values):
        """sum_t sum_k p(z_t = k | x) values [t n, k], for every sequence [n]."""
        n, t, _ = self.posterior.shape
        return (self.posterior * from_time_rows(values, n, t)).sum((1, 2))

    def _expected_log(self, other):
        """E_q[log p(z | x)] [n], where q is this posterior and p has the potentials of `other`."""
        potentials = self._known(other)
        density = jnp.where(self.posterior > 0, self.posterior * potentials.log_density, 0).sum((1, 2))
        first = xlogy(self.posterior[:, 0], potentials.initial).sum(-1)
        moves = xlogy(self.transitions, potentials.transition).sum((1, 2))
        return density + first + moves - potentials.log_norm

    @staticmethod
    def _known(posterior) -> Potentials:
        if posterior.potentials is None:
            raise NotProvidedError(posterior, "potentials", "a chain's entropy needs the potentials of an E-step")
        return posterior.potentials
