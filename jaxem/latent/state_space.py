"""A linear Gaussian state space: a hidden chain of vectors, whose E-step is the Kalman smoother."""

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
    """The params of `StateSpace`.

    Attributes:
        mean: the mean of z_1, [q].
        cov: the covariance of z_1, [q, q].
        transition: A [q, q].
        loadings: C [d, q].
        offset: [d].
        noise: the variances of the observation noise, [d].
    """

    mean: Any
    cov: Any
    transition: Any
    loadings: Any
    offset: Any
    noise: Any


class StateSpaceStats(NamedTuple):
    """The expected sufficient statistics of `StateSpace`: sums over sequences, and over times.

    Attributes:
        count: the number of sequences.
        first: the sum of z_1, [q].
        first_square: the sum of z_1 z_1^T, [q, q].
        before: the sum of z_t z_t^T over the transitions from t to t + 1, [q, q].
        after: the sum of z_t+1 z_t+1^T over the transitions, [q, q].
        between: the sum of z_t+1 z_t^T over the transitions, [q, q].
        gram: the sum of (z_t, 1)(z_t, 1)^T, [q + 1, q + 1], for the regression of x on (z, 1).
        cross: the sum of x_t (z_t, 1)^T, [d, q + 1].
        square: the sum of x_t^2, [d].
    """

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
    """The (mean, covariance) of rows; on the host only the origin is moved."""
    return Frame(frame.units.inner, frame.dtype).rows_back(outcome[0]), outcome[1]  # pyright: ignore


@model_class
class StateSpace(DrawsJointly, Model):
    """A linear Gaussian state space, also called a linear dynamical system.

    z_1 ~ N(mean, cov),   z_t = A z_t-1 + N(0, I),   x_t = C z_t + offset + N(0, diag(noise))

    Data x are those of `HMM`: n sequences [n, t, d], one sequence [t, d], or the pair (values
    [n, t, d], lengths [n]). The noise of the state has covariance I, which is no restriction: any
    other covariance is this one in other coordinates of z. The coordinates are unique up to a
    rotation. Shumway and Stoffer (1982); Ghahramani and Hinton (1996); Bishop (2006), section 13.3.

    Args:
        n_factors: q, the dimension of z.

    Raises:
        ValueError: n_factors is not a whole number of at least 1.

    Examples:
        >>> import jax, jaxem
        >>> model = jaxem.StateSpace(1)
        >>> leaves = [0.0], [[1.0]], [[0.9]], [[1.0]], [0.0], [0.5]
        >>> params = jaxem.StateSpaceParams(*map(jax.numpy.array, leaves))
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

    # --- starts -----------------------------------------------------------------------------------

    def init(self, key: jax.Array, x: Any, weights: jax.Array | None = None, kind: Any = 0) -> Any:
        """A random start: principal directions in a random rotation as loadings, random dynamics.

        The transition matrix is diagonal, with entries between 0.2 and 0.98.
        """
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
        # The state explains half of the variance in each direction. The variance of the state
        # itself is 1 / (1 - memory^2).
        loadings = (vectors * jnp.sqrt(jnp.maximum(values, 0)))[:, ::-1][:, :q] @ turn
        loadings = loadings * jnp.sqrt(0.5 * (1 - memory**2))
        noise = jnp.maximum(jnp.diagonal(scatter), 1e-3) * 0.5
        mean, cov = jnp.zeros(q, rows.dtype), jnp.diag(1 / (1 - memory**2))
        params = StateSpaceParams(mean, cov, jnp.diag(memory), loadings, jnp.zeros(d, rows.dtype), noise)
        return units.back(params)

    # --- E-step -----------------------------------------------------------------------------------

    def e_step(self, params: Any, x: Any) -> EStep:
        x = self.rows(x)
        mask = inside(x.lengths, x.shape[1])
        # Covariances depend on the lengths only. Where all are equal, `vmap` computes the
        # covariances once for all sequences.
        used, axis = (jnp.ones(x.shape[1], bool), None) if mask is None else (mask, 1)
        smooth = jax.vmap(lambda rows, used: kalman.smooth(params, rows, used), (0, axis))
        return EStep(*smooth(x.values, used))

    # --- M-step -----------------------------------------------------------------------------------

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
        # One sequence does not determine the covariance of first states. This term keeps it away
        # from 0 by what the dtype resolves.
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

    # --- inference at given params ----------------------------------------------------------------

    def posterior(self, params: Any, x: Any) -> jax.Array:
        """The means E[z_t | x] of the states, [n, t, q], or [t, q] for one sequence."""
        mean = self.e_step(params, x).resp.mean
        return mean[0] if is_single(x, 1) else mean

    @compiled_method(static=("n_steps",), gives=forecast_moments)
    def forecast(self, params: Any, x: Any, n_steps: int = 1) -> Any:
        """The predictive distributions of rows after the end of each sequence, which are normal.

        Args:
            params: the params of the model.
            x: the sequences that were seen.
            n_steps: the number of future times.

        Returns:
            (mean [n, n_steps, d], cov [n, n_steps, d, d]) of x_t+h given x for h = 1, ..., n_steps,
            where t is the last time of a sequence. For one sequence there is no axis n.
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

    def sample_joint(self, params: Any, key: jax.Array, n: int, t: int = SAMPLE_LENGTH) -> Any:
        """Draw n sequences of length t together with their states.

        Returns:
            (states [n, t, q], values [n, t, d]).
        """
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

    def sample(self, params: Any, key: jax.Array, n: int, t: int = SAMPLE_LENGTH) -> Any:
        """Draw n sequences of length t: [n, t, d]."""
        return self.sample_joint(params, key, n, t)[1]

    def sample_like(self, params: Any, key: jax.Array, x: Any) -> Any:
        rows = self.rows(x)
        return rows._replace(values=self.sample(params, key, *rows.shape))

    # --- checks and units -------------------------------------------------------------------------

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


#: How each leaf of the params changes with the units of the columns of x.
ROLES = StateSpaceParams(UNITLESS, UNITLESS, UNITLESS, LOADINGS, LOCATION, VARIANCE)


def _outer(a, b):
    return a[..., :, None] * b[..., None, :]


def _both_ways(a, b):
    return _outer(a, b) + _outer(b, a)


def _total(weights, values):
    """The sum of values [n, t, ...] over sequences and times, with weights [n, t]."""
    return jnp.tensordot(weights, values, 2, precision=PRECISION)


def _solve(gram, cross):
    """The coefficients [d, f] of a regression from gram [f, f] and cross [d, f]."""
    ridge = jnp.finfo(gram.dtype).eps * jnp.diagonal(gram)
    return linalg.solve_positive(gram + jnp.diag(ridge), cross.T).T
