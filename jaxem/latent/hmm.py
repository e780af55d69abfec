"""Hidden Markov models over any family: one hidden chain per sequence. Fitting them is Baum-Welch."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlogy

from jaxem.contract.constraints import Fixed, Simplex
from jaxem.contract.family import map_components
from jaxem.contract.model import EStep, Model, model_class, static
from jaxem.families.support import RowError
from jaxem.inputs import arrays
from jaxem.inputs.sequences import (
    SAMPLE_LENGTH,
    Prepared,
    Sequences,
    SequenceUnits,
    as_sequences,
    from_time_rows,
    inside,
    is_single,
    time_rows,
    time_weights,
    volume_of_sequences,
)
from jaxem.latent import forward_backward, markov, starts
from jaxem.latent.mixture import EMPTY_BELOW
from jaxem.latent.nested import as_family
from jaxem.observed.labelled import label_rows

#: Starts look at no more observations than this, drawn at random in proportion to their weights.
START_OBSERVATIONS = 20_000


class HMMParams(NamedTuple):
    """initial [k]; transition [k, k], row i the probabilities of what follows i; emissions, params of the family."""

    initial: Any
    transition: Any
    emissions: Any


class HMMStats(NamedTuple):
    """Expected numbers: sequences that begin in each state [k], transitions [k, k]; the emissions' statistics."""

    initial: Any
    transitions: Any
    emissions: Any


class Potentials(NamedTuple):
    """A posterior over paths: p(z | x) = initial[z_1] prod transition prod exp(log_density) / exp(log_norm).

    initial [k], transition [k, k], log_density [n, t, k], log_norm [n].
    """

    initial: Any
    transition: Any
    log_density: Any
    log_norm: Any


class ChainPosterior(NamedTuple):
    """The expected latent variables of n sequences.

    posterior [n, t, k]: p(z_t | x), 0 beyond the end. transitions [n, k, k]: expected number of each.
    emission: latent variables of the family's own, or None. potentials: the whole distribution over paths; only its
    entropy and divergence need it, so a `ChainPosterior` made by hand may leave it out.
    """

    posterior: Any
    transitions: Any
    emission: Any = None
    potentials: Any = None


@model_class
class HMM(Model):
    """p(x, z) = initial[z_1] prod_t transition[z_t-1, z_t] prod_t p(x_t | z_t); Bishop (2006), section 13.2.

    emission: the family of p(x_t | z_t), with n_states components, or any model of one observation (see `Nested`).
    x is [n, t, ...] (n sequences), [t, ...] (one), or the pair (values [n, t, ...], lengths [n]); what lies beyond a
    length is ignored, whatever it is. An example is a sequence: log_prob is [n] (also [1] for one sequence), and
    sample weights are one per sequence.

    initial: "free"; "fixed", as in the start (even in a random one); or "stationary", the distribution that the
    transitions keep, whatever params.initial holds (Zucchini and MacDonald 2009, section 3.1).
    allowed: [k, k] of bool, the transitions that random starts and gradient fits may use; None: all. Under EM a
    transition that is 0 in the start stays 0.
    method: "auto", "scan" or "associative_scan", see `jaxem.latent.forward_backward.smooth`.

    E-step: forward-backward, equations (13.33) to (13.43). M-step: equations (13.18) to (13.20).

    >>> import jax, jaxem
    >>> model = jaxem.HMM(jaxem.Gaussian("full"), 2)
    >>> x = jaxem.datasets.old_faithful()
    >>> best, _ = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=8)
    >>> bool(best.converged), model.decode(best.params, x).shape
    (True, (272,))
    """

    emission: Any
    n_states: int = static()
    initial: str = static(default="free")
    allowed: Any = static(default=None)
    method: str = static(default="auto")

    start_kinds = starts.KINDS
    judged_by_statistics = True

    def __post_init__(self):
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

    # --- data: a row is a sequence ---------------------------------------------------------------------------

    def rows(self, x) -> Sequences:
        return as_sequences(x, self.emission.row_ndim)

    def n_observations(self, x, weights=None):
        """The total length of the sequences, each times its weight."""
        lengths = self.rows(x).n_observations
        return lengths.sum() if weights is None else jnp.dot(jnp.asarray(weights), lengths)

    def labelled(self, x, labels):
        x = self.rows(x)
        if x.single is not None:
            labels = (labels if arrays.is_traced(labels) else np.asarray(labels))[None]
        emission, values = label_rows(self.emission, x.values, labels, x.shape, self.n_states)
        return dataclasses.replace(self, emission=emission), x._replace(values=values)

    def prepare(self, x, weights=None, centred=False):
        if isinstance(x, Prepared):
            return x
        x = self.rows(x)
        # Without weights nothing may be summed ahead, so that log_prob is complete.
        weights = None if weights is None else time_weights(x, weights)
        data = self.emission.prepare(time_rows(x), weights, centred)
        n, t = x.shape
        return Prepared(data, x.lengths, jnp.zeros((t, n, 0), x.dtype))

    # --- E-step ----------------------------------------------------------------------------------------------

    def _initial(self, params):
        return markov.stationary(params.transition) if self.initial == "stationary" else params.initial

    def _chain(self, params, x):
        """((initial, transition, log_density [t, n, k]), mask [t, n], the emission's latent variables)."""
        x = self.prepare(x)
        n, t = x.shape
        latent, log_density = self.emission.e_step(params.emissions, x.data)
        log_density = log_density.reshape(t, n, self.n_states)
        mask = inside(x.lengths, t)
        if mask is not None:
            log_density = jnp.where(mask[..., None], log_density, 0)
        return (self._initial(params), params.transition, log_density), mask, latent

    def e_step(self, params, x):
        chain, mask, latent = self._chain(params, x)
        log_norm, posterior, transitions = forward_backward.smooth(*chain, mask, self.method)
        posterior = _rows_first(posterior, mask)
        potentials = Potentials(*chain[:2], chain[2].swapaxes(0, 1), log_norm)
        return EStep(ChainPosterior(posterior, transitions, latent, potentials), log_norm)

    def hard_e_step(self, params, x):
        chain, mask, latent = self._chain(params, x)
        path, log_joint = forward_backward.viterbi(*chain, mask)
        states = jax.nn.one_hot(path, self.n_states, dtype=log_joint.dtype)
        states = states if mask is None else jnp.where(mask[..., None], states, 0)
        transitions = jnp.einsum("tni,tnj->nij", states[:-1], states[1:])
        return EStep(ChainPosterior(states.swapaxes(0, 1), transitions, latent), log_joint)

    # --- M-step ----------------------------------------------------------------------------------------------

    def sufficient_statistics(self, resp, x, weights=None):
        x = self.prepare(x)
        n = x.shape[0]
        weights = jnp.ones(n, resp.posterior.dtype) if weights is None else weights
        emissions = self.emission.sufficient_statistics(resp.emission, x.data, self._counts(resp, x, weights))
        transitions = jnp.tensordot(weights, resp.transitions, 1)
        return HMMStats(weights @ resp.posterior[:, 0], transitions, emissions)

    def _counts(self, resp, x, weights):
        """Weights [t n, k] of the observations for the emission family."""
        weighted = resp.posterior if weights is None else resp.posterior * weights[:, None, None]
        mask = inside(x.lengths, x.shape[1])
        weighted = weighted if mask is None else jnp.where(mask.T[..., None], weighted, 0)
        return weighted.swapaxes(0, 1).reshape(-1, self.n_states)

    def maximize(self, stats, params=None):
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

    def constraints(self):
        initial = Simplex() if self.initial == "free" else Fixed(Simplex())
        transition = Simplex() if self.allowed is None else markov.SparseSimplex(self.allowed)
        return HMMParams(initial, transition, self.emission.constraints())

    # --- starts ----------------------------------------------------------------------------------------------

    def init(self, key, x, weights=None, kind=0):
        """A random start: emissions as a mixture of all observations would start, transitions random, some sticky."""
        emission_key, row_key, chain_key = jax.random.split(key, 3)
        x = self.rows(x)
        units = self.units(x, weights)
        z = self.to_units(units, x)
        rows, counts = _thinned(row_key, time_rows(z), time_weights(z, weights))
        embedded = self.emission.embed(rows, counts)
        resp = starts.responsibilities(kind, emission_key, embedded, counts, self.n_states)
        emissions = self._emissions(emission_key, self.emission.informed(resp, rows), rows, counts)
        transition = self._random_transition(chain_key, resp.dtype)
        return self.params_from_units(units, self._at_even_initial(transition, emissions))

    def pooled(self, x, weights=None):
        x = self.rows(x)
        units = self.units(x, weights)
        z = self.to_units(units, x)
        rows = time_rows(z)
        even = jnp.full((arrays.n_rows(rows), self.n_states), 1 / self.n_states, z.dtype)
        emissions = self._emissions(jax.random.key(0), even, rows, time_weights(z, weights))
        return self.params_from_units(units, self._at_even_initial(self._even_transition(z.dtype), emissions))

    def _emissions(self, key, resp, rows, counts):
        """The emissions' params from responsibilities [t n, k] by themselves, as starts have them."""
        resp = resp if counts is None else resp * counts[:, None]
        return self.emission.init_components(jax.random.fold_in(key, 1), rows, resp)

    def _at_even_initial(self, transition, emissions):
        return HMMParams(jnp.full(self.n_states, 1 / self.n_states, transition.dtype), transition, emissions)

    def embed(self, x, weights=None):
        """Mean and mean square of each sequence's observations, in the emission's own coordinates."""
        x = self.rows(x)
        counts = time_weights(x, weights)
        rows = from_time_rows(self.emission.embed(time_rows(x), counts), *x.shape)
        used = inside(x.lengths, x.shape[1])
        used = jnp.ones(x.shape, rows.dtype) if used is None else used.T.astype(rows.dtype)
        moments = jnp.concatenate([rows, rows**2], -1)
        return jnp.einsum("nt,nte->ne", used / used.sum(1, keepdims=True), moments)

    def _random_transition(self, key, dtype):
        """Rows even over the simplex, mixed with a share of "stay" that is itself even over [0, 1]."""
        uniform = jax.random.uniform(key, (self.n_states**2 + 1,), dtype)
        rows = -jnp.log1p(-uniform[1:]).reshape(self.n_states, self.n_states)
        even = self._even_transition(dtype)
        rows = jnp.where(even > 0, rows, 0)
        stay = uniform[0] * jnp.where(jnp.diagonal(even) > 0, 1, 0)[:, None]
        return (1 - stay) * rows / rows.sum(-1, keepdims=True) + stay * jnp.eye(self.n_states, dtype=dtype)

    # --- Q and the bound -------------------------------------------------------------------------------------

    def expected_log_joint(self, params, stats):
        chain = xlogy(stats.initial, self._initial(params)).sum() + xlogy(stats.transitions, params.transition).sum()
        return chain + self.emission.expected_log_joint(params.emissions, stats.emissions)

    def pseudo_statistics(self, params, strength, units=None):
        """Those of Dirichlet priors on the initial and every row of the transition probabilities; the emissions' own.

        `strength.initial` sequences in all, `strength.transition` transitions from every state.
        """
        emissions = self.emission.pseudo_statistics(
            params.emissions, strength.emissions, None if units is None else units.rows
        )
        transitions = strength.transition * params.transition
        return HMMStats(strength.initial * self._initial(params), transitions, emissions)

    def conditional_mean(self, params, x):
        rows = self.rows(x)
        resp = self.e_step(params, x).resp.posterior
        means = from_time_rows(self.emission.conditional_mean(params.emissions, time_rows(rows)), *rows.shape)
        weighted = jax.tree.map(lambda leaf: (resp.reshape(*resp.shape, *[1] * (leaf.ndim - 3)) * leaf).sum(2), means)
        return self._as_given(x, weighted)

    def assignment_entropy(self, resp):
        return -_expected_log_posterior(resp, resp)

    def latent_entropy(self, resp):
        entropy = self.assignment_entropy(resp)
        if resp.emission is None:
            return entropy
        return entropy + self._expected(self.emission.latent_entropy(resp.emission), resp)

    def latent_divergence(self, resp, other):
        divergence = _expected_log_posterior(resp, resp) - _expected_log_posterior(resp, other)
        if resp.emission is None:
            return divergence
        return divergence + self._expected(self.emission.latent_divergence(resp.emission, other.emission), resp)

    def _expected(self, values, resp):
        """sum_t sum_k p(z_t = k | x) values [t n, k], for every sequence [n]."""
        n, t, _ = resp.posterior.shape
        return (resp.posterior * from_time_rows(values, n, t)).sum((1, 2))

    def log_prior(self, params):
        return self.emission.log_prior(params.emissions)

    # --- inference at given params ---------------------------------------------------------------------------

    def _as_given(self, x, result):
        """Without the axis of sequences where x is one sequence."""
        return result[0] if is_single(x, self.emission.row_ndim) else result

    def posterior(self, params, x):
        """Smoothed marginals p(z_t | x) [n, t, k], or [t, k] for one sequence; 0 beyond the end of a sequence."""
        return self._as_given(x, self.e_step(params, x).resp.posterior)

    def posterior_of(self, resp):
        return resp.posterior

    def filtered(self, params, x):
        """p(z_t | x_1, ..., x_t) [n, t, k], or [t, k]; 0 beyond the end of a sequence."""
        chain, mask, _ = self._chain(params, x)
        return self._as_given(x, _rows_first(jnp.exp(forward_backward.log_filter(*chain)[0]), mask))

    def pairwise(self, params, x):
        """p(z_t = i, z_t+1 = j | x) [n, t - 1, k, k], or [t - 1, k, k]; 0 where t + 1 lies beyond the end."""
        chain, mask, _ = self._chain(params, x)
        both = forward_backward.pairwise(*chain)
        both = both if mask is None else jnp.where(mask[1:, :, None, None], both, 0)
        return self._as_given(x, both.swapaxes(0, 1))

    def decode(self, params, x):
        """The most probable states together (Viterbi) [n, t] of int, or [t]; -1 beyond the end of a sequence."""
        chain, mask, _ = self._chain(params, x)
        path = forward_backward.viterbi(*chain, mask)[0]
        return self._as_given(x, (path if mask is None else jnp.where(mask, path, -1)).T)

    def predict(self, params, x):
        """The most probable state of every observation by itself [n, t], or [t]; -1 beyond the end of a sequence."""
        posterior = self.posterior(params, x)
        return jnp.where(posterior.sum(-1) > 0, jnp.argmax(posterior, -1), -1)

    def forecast(self, params, x, n_steps: int = 1):
        """p(z_t+h | x) for h = 1, ..., n_steps after the end of each sequence: [n, n_steps, k], or [n_steps, k].

        The observation there is a mixture of the emissions with these weights: see `forecast_log_prob`.
        """
        chain, _, _ = self._chain(params, x)
        # Beyond its end a sequence's filter goes on without data, so the last step has to be looked up.
        log_filtered = forward_backward.log_filter(*chain)[0]
        lengths = self.prepare(x).lengths
        n = log_filtered.shape[1]
        last = log_filtered[-1] if lengths is None else log_filtered[lengths.astype(int) - 1, jnp.arange(n)]

        def step(state, _):
            state = state @ params.transition
            return state, state

        return self._as_given(x, jax.lax.scan(step, jnp.exp(last), None, n_steps)[1].swapaxes(0, 1))

    def forecast_log_prob(self, params, x, future):
        """log p(x_t+h | x), each by itself, for the h-th value of future [n, h, ...]: [n, h], or [h] for one."""
        future = self.rows(future)
        n, h = future.shape
        states = jnp.reshape(self.forecast(params, x, h), (n, h, self.n_states))
        log_density = self.emission.e_step(params.emissions, time_rows(future)).log_prob
        joint = from_time_rows(log_density, n, h) + jnp.log(states)
        return self._as_given(x, jax.nn.logsumexp(joint, -1))

    def _sample_states(self, params, key, n, t):
        """Chains [t, n] of int."""

        def step(state, key):
            return jax.random.categorical(key, jnp.log(params.transition)[state]), state

        first_key, *_ = keys = jax.random.split(key, t + 1)
        first = jax.random.categorical(first_key, jnp.log(self._initial(params)), shape=(n,))
        return jax.lax.scan(step, first, jnp.stack(keys[1:]))[1]

    def sample_joint(self, params, key, n, t=SAMPLE_LENGTH):
        """(states [n, t] of int, values [n, t, ...]): n sequences of length t."""
        state_key, value_key = jax.random.split(key)
        states = self._sample_states(params, state_key, n, t)
        return states.T, _emitted(states, self.emission.sample(params.emissions, value_key, n * t))

    def sample(self, params, key, n, t=SAMPLE_LENGTH):
        """n sequences of length t drawn from the model: [n, t, ...]."""
        return self.sample_joint(params, key, n, t)[1]

    def sample_like(self, params, key, x):
        """Sequences as many and as long as those of x, in the form of `rows(x)`."""
        x = self.rows(x)
        state_key, value_key = jax.random.split(key)
        states = self._sample_states(params, state_key, *x.shape)
        rows = self.emission.sample_like(params.emissions, value_key, time_rows(x))
        return x._replace(values=_emitted(states, rows))

    # --- what else the loop asks -----------------------------------------------------------------------------

    def permute(self, params, order):
        emissions = self.emission.permute(params.emissions, order)
        return HMMParams(params.initial[order], params.transition[order][:, order], emissions)

    def degenerate(self, params, stats):
        count = stats.emissions.count
        return self.emission.degenerate(params.emissions, count) & ~self.empty(params, stats)

    def empty(self, params, stats):
        return stats.emissions.count < EMPTY_BELOW

    def check_finite(self, x):
        self.emission.check_finite(self.rows(x).values)

    def check(self, x, params=None):
        self._check_size(params)
        x = self.rows(x)
        try:
            self.emission.check(time_rows(x), None if params is None else params.emissions)
        except RowError as error:
            time, sequence = divmod(error.row, x.shape[0])
            raise error.at(f"time {time}" + ("" if x.single is not None else f" of sequence {sequence}")) from None

    def check_shapes(self, x, params=None):
        self._check_size(params)
        self.emission.check_shapes(time_rows(self.rows(x)), None if params is None else params.emissions)

    def check_fit(self, x, weights, dtype):
        rows = time_rows(self.rows(x))
        if arrays.n_rows(rows) < self.n_states:
            raise ValueError(
                f"x: expected at least as many observations as states, {self.n_states}; got {arrays.n_rows(rows)}"
            )
        self.emission.check_fit(rows, None, dtype)

    def check_resp(self, resp, x):
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

    def shared_log_lik(self, params, stats):
        return self.emission.shared_log_lik(params.emissions, stats.emissions)

    def ill_conditioned(self, params):
        return self.emission.ill_conditioned(params.emissions)

    def units(self, x, weights=None):
        x = self.rows(x)
        units = self.emission.units(time_rows(x), time_weights(x, weights))
        return None if units is None else SequenceUnits(units, x.n_observations)

    def origin(self, x, params=None):
        origin = self.emission.origin(time_rows(x), None if params is None else params.emissions)
        return None if origin is None else SequenceUnits(origin, x.n_observations)

    def refine(self, params, resp, z, weights=None):
        z = self.rows(z)
        emissions = self.emission.refine(params.emissions, self._counts(resp, z, weights), time_rows(z))
        return params._replace(emissions=emissions)

    def to_units(self, units, x):
        x = self.rows(x)
        if units is None:
            return x
        moved = self.emission.to_units(units.rows, time_rows(x))
        return x._replace(values=from_time_rows(moved, *x.shape))

    def params_to_units(self, units, params):
        if units is None:
            return params
        return params._replace(emissions=self.emission.params_to_units(units.rows, params.emissions))

    def params_from_units(self, units, params):
        if self.initial == "stationary":
            params = params._replace(initial=markov.stationary(params.transition))
        if units is None:
            return params
        return params._replace(emissions=self.emission.params_from_units(units.rows, params.emissions))

    def log_volume(self, units):
        return 0.0 if units is None else volume_of_sequences(units, self.emission.log_volume(units.rows))


def _emitted(states, rows):
    """Values [n, t, ...] from states [t, n] and rows [t n, k, ...] of what every state would emit."""
    t, n = states.shape
    chosen = jax.tree.map(lambda leaf: leaf[jnp.arange(n * t), states.ravel()], rows)
    return from_time_rows(chosen, n, t)


def _rows_first(values, mask):
    """[n, t, k] from [t, n, k], 0 where mask [t, n] is False."""
    return (values if mask is None else jnp.where(mask[..., None], values, 0)).swapaxes(0, 1)


def _expected_log_posterior(q, p):
    """E_q[log p(z | x)] [n] of two posteriors over paths, p by its potentials."""
    if p.potentials is None:
        raise NotImplementedError("latent_entropy: needs an E-step's potentials")
    potentials = p.potentials
    density = jnp.where(q.posterior > 0, q.posterior * potentials.log_density, 0).sum((1, 2))
    first = xlogy(q.posterior[:, 0], potentials.initial).sum(-1)
    return density + first + xlogy(q.transitions, potentials.transition).sum((1, 2)) - potentials.log_norm


def _thinned(key, rows, weights):
    """At most START_OBSERVATIONS rows with their weights."""
    n = jax.tree.leaves(rows)[0].shape[0]
    if n <= START_OBSERVATIONS:
        return rows, weights
    chance = None if weights is None else weights / weights.sum()
    drawn = jax.random.choice(key, n, (START_OBSERVATIONS,), p=chance)
    return jax.tree.map(lambda leaf: leaf[drawn], rows), None
