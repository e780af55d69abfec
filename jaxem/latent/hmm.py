"""Hidden Markov models over any family, with one hidden chain for each sequence (Baum-Welch)."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlogy

from jaxem.contract.capabilities import Discrete, DrawsJointly, Embeds, Imputes, Pools
from jaxem.contract.constraints import Fixed, Simplex
from jaxem.contract.family import map_components
from jaxem.contract.model import EStep, Model, model_class
from jaxem.contract.pytree import in_data_units, pytree_class, static
from jaxem.contract.units import FieldUnits, Identity, SequenceUnits, Units
from jaxem.families.support import RowError
from jaxem.inputs import arrays
from jaxem.inputs.sequences import (
    Prepared,
    Sequences,
    as_sequences,
    from_time_rows,
    inside,
    time_rows,
    time_weights,
)
from jaxem.latent import forward_backward, markov, starts
from jaxem.latent.chain_posterior import ChainPosterior, Potentials
from jaxem.latent.chain_queries import ChainQueries, rows_first
from jaxem.latent.mixture import EMPTY_BELOW
from jaxem.latent.nested import as_family
from jaxem.numerics.tracing import is_traced
from jaxem.observed.labelled import label_rows

#: Random starts use at most this many observations, drawn at random in proportion to their weights.
START_OBSERVATIONS = 20_000


class HMMParams(NamedTuple):
    """The params of `HMM`.

    Attributes:
        initial: the probabilities of the first state, [k].
        transition: [k, k], where row i holds the probabilities of the state that follows state i.
        emissions: the params of the emission family, with k components.
    """

    initial: Any
    transition: Any
    emissions: Any


class HMMStats(NamedTuple):
    """The expected sufficient statistics of `HMM`.

    Attributes:
        initial: the expected number of sequences that begin in each state, [k].
        transitions: the expected number of transitions from each state to each state, [k, k].
        emissions: the statistics of the emission family.
    """

    initial: Any
    transitions: Any
    emissions: Any


@model_class
class HMM(ChainQueries, DrawsJointly, Discrete, Embeds, Pools, Imputes, Model):
    """A hidden Markov model over any family of observations.

    p(x, z) = initial[z_1] prod_t transition[z_t-1, z_t] prod_t p(x_t | z_t)

    Data x are n sequences [n, t, ...], one sequence [t, ...], or the pair (values [n, t, ...],
    lengths [n]); values beyond a length are ignored. An example is a sequence: log_prob is [n], in
    nats ([1] for one sequence), and sample weights are one number for each sequence.

    E-step: the forward-backward recursion, Bishop (2006), equations (13.33) to (13.43).
    M-step: equations (13.18) to (13.20).

    Args:
        emission: the family of p(x_t | z_t), with n_states components, or any model of one
            observation (see `Nested`).
        n_states: k.
        initial: "free"; "fixed" (as in the start, with even probabilities in a random start); or
            "stationary", the stationary distribution of the transitions, whatever params.initial
            holds (Zucchini and MacDonald 2009, section 3.1).
        allowed: [k, k] of bool, the transitions that random starts and gradient fits may use. None
            stands for all. Under EM, a transition that is 0 in the start stays 0.
        method: "auto", "scan" or "associative_scan", see `jaxem.latent.forward_backward.smooth`.

    Raises:
        ValueError: an argument is not one of these.

    Examples:
        >>> import jax, jaxem
        >>> model = jaxem.HMM(jaxem.Gaussian("full"), 2)
        >>> x = jaxem.datasets.old_faithful()
        >>> best, _ = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=8)
        >>> bool(best.converged), model.decode(best.params, x).shape
        (True, (272,))
    """

    emission: Any = in_data_units("part")
    n_states: int = static()
    initial: str = static(default="free")
    allowed: Any = static(default=None)
    method: str = static(default="auto")

    start_kinds = starts.KINDS
    judged_by_statistics = True

    def __post_init__(self) -> None:
        k = self.n_states
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ValueError(f"n_states: expected a whole number of at least 1; got {k!r}")
        if self.initial not in ("free", "fixed", "stationary"):
            raise ValueError(f"initial: expected 'free', 'fixed' or 'stationary'; got {self.initial!r}")
        if self.method not in forward_backward.METHODS:
            raise ValueError(f"method: expected one of {', '.join(forward_backward.METHODS)}; got {self.method!r}")
        if self.allowed is not None:
            allowed = np.asarray(self.allowed, bool)
            if allowed.shape != (k, k) or not allowed.any(1).all():
                raise ValueError(f"allowed: expected [{k}, {k}] of bool with a True in every row; got {self.allowed!r}")
            object.__setattr__(self, "allowed", tuple(map(tuple, allowed.tolist())))
        object.__setattr__(self, "emission", as_family(self.emission))

    @property
    def n_components(self) -> int:
        return self.n_states

    # --- data: an example is a sequence -----------------------------------------------------------

    def rows(self, x: Any) -> Sequences:
        return as_sequences(x, self.emission.row_ndim)

    def n_observations(self, x: Any, weights: jax.Array | None = None) -> Any:
        """The sum of the lengths of the sequences, each times the weight of its sequence."""
        lengths = self.rows(x).n_observations
        return lengths.sum() if weights is None else jnp.dot(jnp.asarray(weights), lengths)

    def labelled(self, x: Any, labels: Any) -> Any:
        x = self.rows(x)
        if x.single is not None:
            labels = (labels if is_traced(labels) else np.asarray(labels))[None]
        emission, values = label_rows(self.emission, x.values, labels, x.shape, self.n_states)
        return dataclasses.replace(self, emission=emission), x._replace(values=values)

    def prepare(self, x: Any, weights: jax.Array | None = None, centred: bool = False) -> Any:
        if isinstance(x, Prepared):
            return x
        x = self.rows(x)
        # Without weights the emission may compute no sums ahead, so that log_prob is complete.
        weights = None if weights is None else time_weights(x, weights)
        data = self.emission.prepare(time_rows(x), weights, centred)
        n, t = x.shape
        return Prepared(data, x.lengths, jnp.zeros((t, n, 0), x.dtype))

    # --- E-step -----------------------------------------------------------------------------------

    def _initial(self, params):
        return markov.stationary(params.transition) if self.initial == "stationary" else params.initial

    def _chain(self, params, x):
        """The chain (initial, transition, log_density), mask [t, n] and posterior of emissions."""
        # Rows that are not prepared go to the emission unchanged: its direct form loses no digits
        # far from the origin.
        x = x if isinstance(x, Prepared) else self.rows(x)
        n, t = x.shape
        data = x.data if isinstance(x, Prepared) else time_rows(x)
        latent, log_density = self.emission.e_step(params.emissions, data)
        log_density = log_density.reshape(t, n, self.n_states)
        mask = inside(x.lengths, t)
        if mask is not None:
            log_density = jnp.where(mask[..., None], log_density, 0)
        return (self._initial(params), params.transition, log_density), mask, latent

    def e_step(self, params: Any, x: Any) -> EStep:
        x = x if isinstance(x, Prepared) else self.rows(x)
        chain, mask, latent = self._chain(params, x)
        log_norm, posterior, transitions = forward_backward.smooth(*chain, mask, self.method)
        potentials = Potentials(*chain[:2], chain[2].swapaxes(0, 1), log_norm, x.lengths)
        return EStep(ChainPosterior(rows_first(posterior, mask), transitions, latent, potentials), log_norm)

    # --- M-step -----------------------------------------------------------------------------------

    def sufficient_statistics(self, resp: Any, x: Any, weights: jax.Array | None = None) -> Any:
        x = self.prepare(x)
        n = x.shape[0]
        weights = jnp.ones(n, resp.posterior.dtype) if weights is None else weights
        emissions = self.emission.sufficient_statistics(resp.emission, x.data, self._counts(resp, x, weights))
        transitions = jnp.tensordot(weights, resp.transitions, 1)
        return HMMStats(weights @ resp.posterior[:, 0], transitions, emissions)

    def _counts(self, resp, x, weights):
        """The weights [t n, k] of the observations for the emission family."""
        weighted = resp.posterior if weights is None else resp.posterior * weights[:, None, None]
        mask = inside(x.lengths, x.shape[1])
        weighted = weighted if mask is None else jnp.where(mask.T[..., None], weighted, 0)
        return weighted.swapaxes(0, 1).reshape(-1, self.n_states)

    def maximize(self, stats: Any, params: Any = None) -> Any:
        emissions = self.emission.maximize(stats.emissions, None if params is None else params.emissions)
        even = self._even_transition(stats.transitions.dtype)
        incumbent = even if params is None else params.transition
        if self.initial == "stationary":
            transition = markov.stationary_m_step(stats.initial, stats.transitions, incumbent)
            return HMMParams(markov.stationary(transition), transition, emissions)
        transition = markov.normalized_rows(stats.transitions, incumbent)
        initial = jnp.full_like(stats.initial, 1 / self.n_states) if params is None else params.initial
        if self.initial == "free":
            initial = markov.normalized_rows(stats.initial, initial)
        return HMMParams(initial, transition, emissions)

    def _even_transition(self, dtype):
        allowed = np.ones((self.n_states,) * 2) if self.allowed is None else np.asarray(self.allowed, float)
        return jnp.asarray(allowed / allowed.sum(1, keepdims=True), dtype)

    def constraints(self) -> Any:
        initial = Simplex() if self.initial == "free" else Fixed(Simplex())
        transition = Simplex() if self.allowed is None else markov.SparseSimplex(self.allowed)
        return HMMParams(initial, transition, self.emission.constraints())

    # --- starts -----------------------------------------------------------------------------------

    def init(self, key: jax.Array, x: Any, weights: jax.Array | None = None, kind: Any = 0) -> Any:
        """A random start, with random transitions.

        The emissions start as the components of a mixture of all observations would.
        """
        emission_key, row_key, chain_key = jax.random.split(key, 3)
        x = self.rows(x)
        units = self.units(x, weights)
        z = units.rows(x)
        rows, counts = starts.draw_rows(row_key, time_rows(z), time_weights(z, weights), START_OBSERVATIONS)
        embedded = self.emission.embed(rows, counts)
        resp = starts.responsibilities(kind, emission_key, embedded, counts, self.n_states)
        emissions = self._emissions(emission_key, self.emission.informed(resp, rows), rows, counts)
        transition = self._random_transition(chain_key, resp.dtype)
        return units.back(self._at_even_initial(transition, emissions))

    def pooled(self, x: Any, weights: jax.Array | None = None) -> Any:
        x = self.rows(x)
        units = self.units(x, weights)
        z = units.rows(x)
        rows = time_rows(z)
        even = jnp.full((arrays.n_rows(rows), self.n_states), 1 / self.n_states, z.dtype)
        emissions = self._emissions(jax.random.key(0), even, rows, time_weights(z, weights))
        return units.back(self._at_even_initial(self._even_transition(z.dtype), emissions))

    def _emissions(self, key, resp, rows, counts):
        """The params of the emissions from responsibilities [t n, k] alone, for starts."""
        resp = resp if counts is None else resp * counts[:, None]
        return self.emission.init_components(jax.random.fold_in(key, 1), rows, resp)

    def _at_even_initial(self, transition, emissions):
        return HMMParams(jnp.full(self.n_states, 1 / self.n_states, transition.dtype), transition, emissions)

    def embed(self, x: Any, weights: jax.Array | None = None) -> Any:
        """The mean and the mean square of the observations of each sequence, [n, 2 e].

        The observations are in the coordinates [e] of the emission family.
        """
        x = self.rows(x)
        counts = time_weights(x, weights)
        rows = from_time_rows(self.emission.embed(time_rows(x), counts), *x.shape)
        used = inside(x.lengths, x.shape[1])
        used = jnp.ones(x.shape, rows.dtype) if used is None else used.T.astype(rows.dtype)
        moments = jnp.concatenate([rows, rows**2], -1)
        return jnp.einsum("nt,nte->ne", used / used.sum(1, keepdims=True), moments)

    def _random_transition(self, key, dtype):
        """Random transition probabilities [k, k].

        Each row is uniform over the simplex, mixed with the identity (the chain stays in its state)
        by a share that is uniform over [0, 1].
        """
        uniform = jax.random.uniform(key, (self.n_states**2 + 1,), dtype)
        rows = -jnp.log1p(-uniform[1:]).reshape(self.n_states, self.n_states)
        even = self._even_transition(dtype)
        rows = jnp.where(even > 0, rows, 0)
        stay = uniform[0] * jnp.where(jnp.diagonal(even) > 0, 1, 0)[:, None]
        return (1 - stay) * rows / rows.sum(-1, keepdims=True) + stay * jnp.eye(self.n_states, dtype=dtype)

    # --- Q and the bound --------------------------------------------------------------------------

    def expected_log_joint(self, params: Any, stats: Any) -> jax.Array:
        chain = xlogy(stats.initial, self._initial(params)).sum() + xlogy(stats.transitions, params.transition).sum()
        return chain + self.emission.expected_log_joint(params.emissions, stats.emissions)

    def pseudo_statistics(self, params: Any, strength: Any, units: Any = None) -> Any:
        """The pseudo-statistics of Dirichlet priors, and of the prior of the emissions.

        One Dirichlet prior is on the initial probabilities, with `strength.initial` sequences in
        all, and one on every row of transition probabilities, with `strength.transition`
        transitions from every state.
        """
        inner = (units or Identity()).inner  # the units of sequences of observations
        emissions = self.emission.pseudo_statistics(params.emissions, strength.emissions, inner.inner)
        transitions = strength.transition * params.transition
        return HMMStats(strength.initial * self._initial(params), transitions, emissions)

    def log_prior(self, params: Any) -> Any:
        return self.emission.log_prior(params.emissions)

    # --- the verdict, checks and units ------------------------------------------------------------

    def permute(self, params: Any, order: Any) -> Any:
        emissions = self.emission.permute(params.emissions, order)
        return HMMParams(params.initial[order], params.transition[order][:, order], emissions)

    def degenerate(self, params: Any, stats: Any) -> Any:
        count = stats.emissions.count
        return self.emission.degenerate(params.emissions, count) & ~self.empty(params, stats)

    def empty(self, params: Any, stats: Any) -> Any:
        return stats.emissions.count < EMPTY_BELOW

    def check_finite(self, x: Any) -> None:
        self.emission.check_finite(self.rows(x).values)

    def check(self, x: Any, params: Any = None) -> None:
        self._check_size(params)
        x = self.rows(x)
        try:
            self.emission.check(time_rows(x), None if params is None else params.emissions)
        except RowError as error:
            time, sequence = divmod(error.row, x.shape[0])
            raise error.at(f"time {time}" + ("" if x.single is not None else f" of sequence {sequence}")) from None

    def check_fit(self, x: Any, weights: jax.Array, dtype: Any) -> None:
        rows = time_rows(self.rows(x))
        if arrays.n_rows(rows) < self.n_states:
            raise ValueError(
                f"x: expected at least as many observations as states, {self.n_states}; got {arrays.n_rows(rows)}"
            )
        self.emission.check_fit(rows, None, dtype)

    def check_resp(self, resp: Any, x: Any) -> None:
        k, (n, t) = self.n_states, self.rows(x).shape
        for name, want in (("posterior", (n, t, k)), ("transitions", (n, k, k))):
            got = np.shape(getattr(resp, name, ()))
            if got != want:
                raise ValueError(f"resp: expected {name} of shape {want}; got {got}")

    def _check_size(self, params):
        k = self.n_states
        if params is None:
            return
        for name, want in (("initial", (k,)), ("transition", (k, k))):
            got = np.shape(getattr(params, name))
            if got != want:
                raise ValueError(f"start.{name}: expected shape {want} for n_states={k}; got {got}")
        map_components(self.emission, self._check_leaf, params.emissions)

    def _check_leaf(self, leaf):
        if np.shape(leaf)[:1] != (self.n_states,):
            raise ValueError(f"start.emissions: expected leaves of shape [{self.n_states}, ...]; got {np.shape(leaf)}")
        return leaf

    def shared_log_lik(self, params: Any, stats: Any) -> Any:
        return self.emission.shared_log_lik(params.emissions, stats.emissions)

    def ill_conditioned(self, params: Any) -> Any:
        return self.emission.ill_conditioned(params.emissions)

    def refined(self, params: Any, resp: Any, z: Any, weights: jax.Array | None = None) -> Any:
        z = self.rows(z)
        emissions = self.emission.refined(params.emissions, time_rows(z), self._counts(resp, z, weights))
        return params._replace(emissions=emissions)

    def units(self, x: Any, weights: jax.Array | None = None) -> Units:
        x = self.rows(x)
        return self._of_emission(self.emission.units(time_rows(x), time_weights(x, weights)), x)

    def origin(self, x: Any, params: Any = None) -> Units:
        rows = None if x is None else time_rows(self.rows(x))
        return self._of_emission(self.emission.origin(rows, None if params is None else params.emissions), x)

    def _of_emission(self, units, x) -> Units:
        """The units of sequences from the units of their observations."""
        stationary = self.initial == "stationary"
        if units.is_identity and not stationary:
            return units
        lengths = None if x is None else self.rows(x).n_observations
        return ChainUnits(SequenceUnits(units, lengths), "emissions", stationary)


@pytree_class
class ChainUnits(FieldUnits):
    """The units of a hidden Markov model.

    With a stationary start, the initial probabilities follow from the transitions.
    """

    stationary: bool = static(default=False)

    @property
    def is_identity(self) -> bool:
        return self.inner.is_identity and not self.stationary

    @property
    def broadcasts(self) -> bool:
        return self.inner.broadcasts and not self.stationary

    def back(self, params: Any) -> Any:
        if self.stationary:
            params = params._replace(initial=markov.stationary(params.transition))
        return super().back(params)
