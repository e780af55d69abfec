"""Inference with a hidden Markov model at given params: states, paths, forecasts and draws."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.contract.calls import compiled_method
from jaxem.contract.frame import Frame
from jaxem.inputs import arrays
from jaxem.inputs.sequences import SAMPLE_LENGTH, from_time_rows, is_single, time_rows
from jaxem.latent import forward_backward


def future_densities(frame: Frame, outcome: Any) -> Any:
    """Log densities [n, h] of single observations; on the host all have the same log volume."""
    volume = np.max(frame.units.inner.inner.log_volume())  # pyright: ignore[reportAttributeAccessIssue]
    return arrays.on_device(np.asarray(outcome, np.float64) - volume, frame.dtype) if volume else outcome


class ChainQueries:
    """The methods of `HMM` that use its params and do not change them.

    Data x are those of `HMM`. Where x is one sequence, the results have no axis n.
    """

    emission: Any
    n_states: int
    rows: Any
    e_step: Any
    _chain: Any
    _initial: Any

    def _as_given(self, x, result):
        """The result, without the axis of sequences where x is one sequence."""
        return result[0] if is_single(x, self.emission.row_ndim) else result

    def posterior(self, params: Any, x: Any) -> jax.Array:
        """The smoothed marginals p(z_t | x) [n, t, k], or [t, k] for one sequence.

        They are 0 beyond the end of a sequence. Bishop (2006), equation (13.33).
        """
        return self._as_given(x, self.e_step(params, x).resp.posterior)

    @compiled_method()
    def filtered(self, params: Any, x: Any) -> Any:
        """The filtered marginals p(z_t | x_1, ..., x_t) [n, t, k], or [t, k] for one sequence.

        They are 0 beyond the end of a sequence.
        """
        chain, mask, _ = self._chain(params, x)
        return self._as_given(x, rows_first(jnp.exp(forward_backward.log_filter(*chain)[0]), mask))

    @compiled_method()
    def pairwise(self, params: Any, x: Any) -> Any:
        """The joint probabilities p(z_t = i, z_t+1 = j | x) of successive states, [n, t - 1, k, k].

        The shape is [t - 1, k, k] for one sequence. The probabilities are 0 where t + 1 lies beyond
        the end of a sequence.
        """
        chain, mask, _ = self._chain(params, x)
        both = forward_backward.pairwise(*chain)
        both = both if mask is None else jnp.where(mask[1:, :, None, None], both, 0)
        return self._as_given(x, both.swapaxes(0, 1))

    @compiled_method()
    def decode(self, params: Any, x: Any) -> Any:
        """The most probable path of states (Viterbi), [n, t] of int, or [t] for one sequence.

        The numbers beyond the end of a sequence are -1. Bishop (2006), section 13.2.5.
        """
        (initial, transition, log_density), mask, _ = self._chain(params, x)
        path = forward_backward.viterbi(initial, transition, log_density, mask)[0]
        return self._as_given(x, (path if mask is None else jnp.where(mask, path, -1)).T)

    def predict(self, params: Any, x: Any) -> jax.Array:
        """The most probable state of each single observation, [n, t] of int, or [t].

        The numbers beyond the end of a sequence are -1. For the most probable path see `decode`.
        """
        posterior = self.posterior(params, x)
        return jnp.where(posterior.sum(-1) > 0, jnp.argmax(posterior, -1), -1)

    @compiled_method(static=("n_steps",))
    def forecast(self, params: Any, x: Any, n_steps: int = 1) -> Any:
        """The probabilities of the states at times after the end of each sequence.

        The future observation has a mixture density, with the emissions as components and these
        probabilities as weights; see `forecast_log_prob`.

        Args:
            params: the params of the model.
            x: the sequences that were seen.
            n_steps: the number of future times.

        Returns:
            p(z_t+h | x) for h = 1, ..., n_steps, where t is the last time of a sequence:
            [n, n_steps, k], or [n_steps, k] for one sequence.
        """
        chain, _, _ = self._chain(params, x)
        # The filter runs on without data beyond the end of a sequence, so the last step of each
        # sequence has to be looked up.
        log_filtered = forward_backward.log_filter(*chain)[0]
        lengths = self.rows(x).lengths
        n = log_filtered.shape[1]
        last = log_filtered[-1] if lengths is None else log_filtered[lengths.astype(int) - 1, jnp.arange(n)]

        def step(state, _):
            state = state @ params.transition
            return state, state

        return self._as_given(x, jax.lax.scan(step, jnp.exp(last), None, n_steps)[1].swapaxes(0, 1))

    @compiled_method(gives=future_densities)
    def forecast_log_prob(self, params: Any, x: Any, future: Any) -> Any:
        """The log predictive density of each single future observation, in nats.

        Args:
            params: the params of the model.
            x: the sequences that were seen.
            future: the observations at the h times after the end of each sequence, [n, h, ...].

        Returns:
            log p(x_t+h | x) of each future time by itself: [n, h], or [h] for one sequence.
        """
        future = self.rows(future)
        n, h = future.shape
        states = jnp.reshape(self.forecast(params, x, h), (n, h, self.n_states))
        log_density = self.emission.e_step(params.emissions, time_rows(future)).log_prob
        joint = from_time_rows(log_density, n, h) + jnp.log(states)
        return self._as_given(x, jax.nn.logsumexp(joint, -1))

    def _sample_states(self, params, key, n, t):
        """Random paths of states, [t, n] of int."""

        def step(state, key):
            return jax.random.categorical(key, jnp.log(params.transition)[state]), state

        first_key, *_ = keys = jax.random.split(key, t + 1)
        first = jax.random.categorical(first_key, jnp.log(self._initial(params)), shape=(n,))
        return jax.lax.scan(step, first, jnp.stack(keys[1:]))[1]

    def sample_joint(self, params: Any, key: jax.Array, n: int, t: int = SAMPLE_LENGTH) -> Any:
        """Draw n sequences of length t together with their states.

        Returns:
            (states [n, t] of int, values [n, t, ...]).
        """
        state_key, value_key = jax.random.split(key)
        states = self._sample_states(params, state_key, n, t)
        return states.T, _emitted(states, self.emission.sample(params.emissions, value_key, n * t))

    def sample(self, params: Any, key: jax.Array, n: int, t: int = SAMPLE_LENGTH) -> Any:
        """Draw n sequences of length t: [n, t, ...]."""
        return self.sample_joint(params, key, n, t)[1]

    def sample_like(self, params: Any, key: jax.Array, x: Any) -> Any:
        """Draw as many sequences as x has, with the same lengths, in the form of `rows(x)`."""
        x = self.rows(x)
        state_key, value_key = jax.random.split(key)
        states = self._sample_states(params, state_key, *x.shape)
        rows = self.emission.sample_like(params.emissions, value_key, time_rows(x))
        return x._replace(values=_emitted(states, rows))

    def conditional_mean(self, params: Any, x: Any) -> Any:
        rows = self.rows(x)
        resp = self.e_step(params, x).resp.posterior
        means = from_time_rows(self.emission.conditional_mean(params.emissions, time_rows(rows)), *rows.shape)
        weighted = jax.tree.map(lambda leaf: (resp.reshape(*resp.shape, *[1] * (leaf.ndim - 3)) * leaf).sum(2), means)
        return self._as_given(x, weighted)


def _emitted(states, rows):
    """The values [n, t, ...] of states [t, n], given rows [t n, k, ...] from every state."""
    t, n = states.shape
    chosen = jax.tree.map(lambda leaf: leaf[jnp.arange(n * t), states.ravel()], rows)
    return from_time_rows(chosen, n, t)


def rows_first(values: Any, mask: Any) -> Any:
    """Values [n, t, k] from values [t, n, k]; they are 0 where the mask [t, n] is False."""
    return (values if mask is None else jnp.where(mask[..., None], values, 0)).swapaxes(0, 1)
