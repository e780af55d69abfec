"""A linear Gaussian state space: a hidden chain of vectors. The E-step is the Kalman smoother."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.contract.affine import Affine, host_origin, standardize
from jaxem.contract.calls import compiled_method
from jaxem.contract.capabilities import DrawsJointly
from jaxem.contract.constraints import Loadings, Positive, PositiveDefinite, Real
from jaxem.contract.frame import Frame
from jaxem.contract.model import EStep, Model, model_class
from jaxem.contract.pytree import static
from jaxem.contract.units import LOADINGS, LOCATION, UNITLESS, VARIANCE, AffineUnits, Identity, SequenceUnits, Units
from jaxem.families.factor_analysis import NOISE_FLOOR
from jaxem.inputs.sequences import (
    SAMPLE_LENGTH,
    Sequences,
    as_sequences,
    inside,
    is_single,
    time_rows,
    time_weights,
)
from jaxem.latent import kalman
from jaxem.numerics import linalg
from jaxem.numerics.linalg import PRECISION
from jaxem.numerics.special import LOG_2PI


class StateSpaceParams(NamedTuple):
    """mean [q] and cov [q, q] of z_1; transition A [q, q]; loadings C [d, q], offset [d] and noise variances [d]."""

    mean: Any
    cov: Any
    transition: Any
    loadings: Any
    offset: Any
    noise: Any


class StateSpaceStats(NamedTuple):
    """Sums over sequences (and times): of 1, z and z z^T at the first time; of z z^T before and after a step, and
    between; and, for the regression of x on (z, 1), of (z, 1)(z, 1)^T, x (z, 1)^T and x^2."""

    count: Any
    first: Any
    first_square: Any
    before: Any
    after: Any
    between: Any
    gram: Any
    cross: Any
    square: Any


def forecast_moments(frame: Frame, outcome: Any) -> Any:
    """(mean, covariance) of rows: on the host nothing but the origin is moved."""
    return Frame(frame.units.inner, frame.dtype).rows_back(outcome[0]), outcome[1]  # pyright: ignore


@model_class
class StateSpace(DrawsJointly, Model):
    """z_1 ~ N(mean, cov), z_t = A z_t-1 + N(0, I), x_t = C z_t + offset + N(0, diag(noise)); x [n, t, d].

    Like the data of `HMM`: [t, d] for one sequence, or (values, lengths). The noise of the state has covariance I,
    which takes nothing away: any other is this one in other coordinates of z, and a rotation is still free.
    `posterior` gives E[z_t | x] [n, t, q]. Shumway and Stoffer (1982); Ghahramani and Hinton (1996); Bishop (2006),
    section 13.3.

    >>> import jax, jaxem
    >>> model = jaxem.StateSpace(1)
    >>> params = jaxem.StateSpaceParams(*map(jax.numpy.array, ([0.0], [[1.0]], [[0.9]], [[1.0]], [0.0], [0.5])))
    >>> x = model.sample(params, jax.random.key(0), 1, t=200)[0]
    >>> model.posterior(params, x).shape
    (200, 1)
    """

    n_factors: int = static()

    row_ndim = 1

    def __post_init__(self) -> None:
        if isinstance(self.n_factors, bool) or not isinstance(self.n_factors, int) or self.n_factors < 1:
            raise ValueError(f"n_factors: expected a whole number of at least 1; got {self.n_factors!r}")

    def rows(self, x: Any) -> Sequences:
        return as_sequences(x, 1)

    def n_observations(self, x: Any, weights: jax.Array | None = None) -> Any:
        lengths = self.rows(x).n_observations
        return lengths.sum() if weights is None else jnp.dot(jnp.asarray(weights), lengths)

    def constraints(self) -> Any:
        return StateSpaceParams(Real(), PositiveDefinite(), Real(), Loadings(), Real(), Positive())

    # --- starts ----------------------------------------------------------------------------------------------

    def init(self, key: jax.Array, x: Any, weights: jax.Array | None = None, kind: Any = 0) -> Any:
        """Principal directions, mixed at random, as loadings; random dynamics with a memory between 0 and 1."""
        x = self.rows(x)
        units = self.units(x, weights)
        rows, counts = time_rows(units.rows(x)), time_weights(x, weights)
        counts = jnp.ones(len(rows), rows.dtype) if counts is None else counts
        scatter = jnp.dot((rows * counts[:, None]).T, rows, precision=PRECISION) / counts.sum()
        q, d = self.n_factors, rows.shape[1]
        turn_key, memory_key = jax.random.split(key)
        turn = jnp.linalg.qr(jax.random.normal(turn_key, (q, q), rows.dtype))[0]
        memory = jax.random.uniform(memory_key, (q,), rows.dtype, 0.2, 0.98)
        values, vectors = jnp.linalg.eigh(scatter)
        # Half of a direction's variance is the state's, whose own variance is 1 / (1 - memory^2).
        loadings = (vectors * jnp.sqrt(jnp.maximum(values, 0)))[:, ::-1][:, :q] @ turn
        loadings = loadings * jnp.sqrt(0.5 * (1 - memory**2))
        noise = jnp.maximum(jnp.diagonal(scatter), 1e-3) * 0.5
        mean, cov = jnp.zeros(q, rows.dtype), jnp.diag(1 / (1 - memory**2))
        params = StateSpaceParams(mean, cov, jnp.diag(memory), loadings, jnp.zeros(d, rows.dtype), noise)
        return units.back(params)

    # --- E-step ----------------------------------------------------------------------------------------------

    def e_step(self, params: Any, x: Any) -> EStep:
        x = self.rows(x)
        mask = inside(x.lengths, x.shape[1])
        # Covariances depend on lengths alone: without any, `vmap` computes them once for all sequences.
        used, axis = (jnp.ones(x.shape[1], bool), None) if mask is None else (mask, 1)
        smooth = jax.vmap(lambda rows, used: kalman.smooth(params, rows, used), (0, axis))
        return EStep(*smooth(x.values, used))

    # --- M-step ----------------------------------------------------------------------------------------------

    def sufficient_statistics(self, resp: Any, x: Any, weights: jax.Array | None = None) -> Any:
        x = self.rows(x)
        n, t = x.shape
        mask = inside(x.lengths, t)
        used = jnp.ones((n, t), x.dtype) if mask is None else mask.T.astype(x.dtype)
        used = used if weights is None else used * weights[:, None]
        later = used[:, 1:]
        square = resp.cov + _outer(resp.mean, resp.mean)
        between = resp.cross + _outer(resp.mean[:, 1:], resp.mean[:, :-1])
        z = jnp.concatenate([resp.mean, jnp.ones_like(resp.mean[..., :1])], -1)
        gram = jnp.einsum("nt,nta,ntb->ab", used, z, z, precision=PRECISION)
        q = self.n_factors
        gram = gram.at[:q, :q].add(_total(used, resp.cov))
        first = used[:, :1]
        return StateSpaceStats(
            used[:, 0].sum(),
            _total(first, resp.mean[:, :1]),
            _total(first, square[:, :1]),
            _total(later, square[:, :-1]),
            _total(later, square[:, 1:]),
            _total(later, between),
            gram,
            jnp.einsum("nt,nti,nta->ia", used, x.values, z, precision=PRECISION),
            _total(used, x.values**2),
        )

    def maximize(self, stats: Any, params: Any = None) -> Any:
        q = self.n_factors
        mean = stats.first / stats.count
        cov = stats.first_square / stats.count - jnp.outer(mean, mean)
        # One sequence says nothing of the spread of first states: it stays away from 0 by what the dtype resolves.
        cov = cov + NOISE_FLOOR[cov.dtype.itemsize] * jnp.eye(q, dtype=cov.dtype)
        transition = _solve(stats.before, stats.between)
        both = _solve(stats.gram, stats.cross)
        total = stats.gram[q, q]
        noise = (stats.square - (both * stats.cross).sum(-1)) / total
        floor = NOISE_FLOOR[noise.dtype.itemsize] * stats.square / total
        return StateSpaceParams(mean, cov, transition, both[:, :q], both[:, q], jnp.maximum(noise, floor))

    def expected_log_joint(self, params: Any, stats: Any) -> jax.Array:
        q = self.n_factors
        precision = linalg.solve_positive(params.cov, jnp.eye(q, dtype=params.cov.dtype))
        away = (
            stats.first_square - _both_ways(stats.first, params.mean) + stats.count * _outer(params.mean, params.mean)
        )
        log_det = 2 * linalg.log_det_lower(linalg.cholesky(params.cov))
        first = stats.count * (q * LOG_2PI + log_det) + (precision * away).sum()
        a = params.transition
        moved = jnp.trace(stats.after) - 2 * (a * stats.between).sum() + ((a @ stats.before) * a).sum()
        moves = q * LOG_2PI * (stats.gram[q, q] - stats.count) + moved
        both = jnp.concatenate([params.loadings, params.offset[:, None]], 1)
        residual = stats.square - 2 * (both * stats.cross).sum(-1) + ((both @ stats.gram) * both).sum(-1)
        seen = stats.gram[q, q] * (LOG_2PI + jnp.log(params.noise)) + residual / params.noise
        return -0.5 * (first + moves + seen.sum())

    # --- inference at given params ---------------------------------------------------------------------------

    def posterior(self, params: Any, x: Any) -> jax.Array:
        """E[z_t | x] [n, t, q], or [t, q] for one sequence."""
        mean = self.e_step(params, x).resp.mean
        return mean[0] if is_single(x, 1) else mean

    @compiled_method(static=("n_steps",), gives=forecast_moments)
    def forecast(self, params: Any, x: Any, n_steps: int = 1) -> Any:
        """(mean [n, h, d], cov [n, h, d, d]) of x_t+h given x, for h = 1, ..., n_steps after the end of each sequence.

        Without the axis n for one sequence. The forecast of step h is normal with these moments.
        """
        rows = self.rows(x)
        resp, last = self.e_step(params, rows).resp, rows.n_observations.astype(int) - 1
        each = jnp.arange(len(last))

        def step(state, _):
            mean, cov = state
            state = mean @ params.transition.T, kalman.predicted_cov(params, cov)
            return state, (kalman.observed_mean(params, state[0]), kalman.observed_cov(params, state[1]))

        _, moments = jax.lax.scan(step, (resp.mean[each, last], resp.cov[each, last]), None, n_steps)
        mean, cov = (leaf.swapaxes(0, 1) for leaf in moments)
        return (mean[0], cov[0]) if is_single(x, 1) else (mean, cov)

    def sample_joint(self, params: Any, key: jax.Array, n: int, t: Any = SAMPLE_LENGTH) -> Any:
        """(states [n, t, q], values [n, t, d]): n sequences of length t."""
        first_key, state_key, noise_key = jax.random.split(key, 3)
        q = self.n_factors
        first = params.mean + jax.random.normal(first_key, (n, q), params.mean.dtype) @ linalg.cholesky(params.cov).T
        shocks = jax.random.normal(state_key, (t - 1, n, q), params.mean.dtype)

        def step(z, shock):
            z = z @ params.transition.T + shock
            return z, z

        later = jax.lax.scan(step, first, shocks)[1]
        states = jnp.concatenate([first[None], later]).swapaxes(0, 1)
        noise = jax.random.normal(noise_key, (n, t, len(params.noise)), params.noise.dtype)
        return states, kalman.observed_mean(params, states) + noise * jnp.sqrt(params.noise)

    def sample(self, params: Any, key: jax.Array, n: int, t: Any = SAMPLE_LENGTH) -> Any:
        """n sequences of length t drawn from the model: [n, t, d]."""
        return self.sample_joint(params, key, n, t)[1]

    def sample_like(self, params: Any, key: jax.Array, x: Any) -> Any:
        rows = self.rows(x)
        return rows._replace(values=self.sample(params, key, *rows.shape))

    # --- what else the loop asks -----------------------------------------------------------------------------

    def check(self, x: Any, params: Any = None) -> None:
        d, q = self.rows(x).values.shape[-1], self.n_factors
        for name, leaf, want in zip(
            StateSpaceParams._fields, params or (), ((q,), (q, q), (q, q), (d, q), (d,), (d,)), strict=False
        ):
            if np.shape(leaf) != want:
                raise ValueError(f"start.{name}: expected shape {want}; got {np.shape(leaf)}")

    def check_fit(self, x: Any, weights: jax.Array, dtype: Any) -> None:
        if self.rows(x).shape[1] < 2:
            raise ValueError("x: expected sequences of at least 2 observations; got 1")
        if self.n_factors > self.rows(x).values.shape[-1]:
            raise ValueError(f"n_factors: expected at most the {x.values.shape[-1]} columns of x; got {self.n_factors}")

    def units(self, x: Any, weights: jax.Array | None = None) -> Units:
        x = self.rows(x)
        affine = standardize(time_rows(x), time_weights(x, weights), "diag")
        return SequenceUnits(AffineUnits(affine, ROLES), x.n_observations)

    def origin(self, x: Any, params: Any = None) -> Units:
        if x is None:
            affine = None if params is None else Affine(np.asarray(params.offset, np.float64), np.float64(1))
            return Identity() if affine is None else SequenceUnits(AffineUnits(affine, ROLES), None)
        x = self.rows(x)
        affine = host_origin(time_rows(x))
        return Identity() if affine is None else SequenceUnits(AffineUnits(affine, ROLES), x.n_observations)


#: How each leaf of the params moves with the columns of x.
ROLES = StateSpaceParams(UNITLESS, UNITLESS, UNITLESS, LOADINGS, LOCATION, VARIANCE)


def _outer(a, b):
    return a[..., :, None] * b[..., None, :]


def _both_ways(a, b):
    return _outer(a, b) + _outer(b, a)


def _total(weights, values):
    """Weighted sum of values [n, t, ...] over sequences and times, weights [n, t]."""
    return jnp.tensordot(weights, values, 2, precision=PRECISION)


def _solve(gram, cross):
    """The coefficients [d, f] of a regression from gram [f, f] and cross [d, f]."""
    ridge = jnp.finfo(gram.dtype).eps * jnp.diagonal(gram)
    return linalg.solve_positive(gram + jnp.diag(ridge), cross.T).T
