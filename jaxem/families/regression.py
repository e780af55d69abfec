"""Regressions: families of a target given inputs, x = (inputs [n, p], targets). No intercept is added.

A third array, x = (inputs, targets, offset [n]), is a known part of the linear predictor (the log of an exposure).

The M-steps of generalised linear models have no finite statistics, but a weighted least-squares problem at the current
params has: its weights and responses are part of what the E-step expects. So all three share one M-step, the normal
equations, and their statistics add up and are linear in the weights like any others. Q is that problem too: it touches
the expected log density where the statistics were taken, with the same gradient.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln

from jaxem.contract.constraints import Positive, Real
from jaxem.contract.family import Family, alive_components
from jaxem.contract.model import EStep, model_class, static
from jaxem.families.support import numbers, require, require_counts, require_shape, vectors
from jaxem.numerics import linalg
from jaxem.numerics.linalg import PRECISION
from jaxem.numerics.special import log_poisson

#: Smallest residual variance of a linear regression, relative to that of one regression through all rows.
DEFAULT_FLOOR = {4: 1e-9, 8: 1e-12}


class RegressionParams(NamedTuple):
    """coef [k, p], on the scale of the linear predictor."""

    coef: Any


class LinearRegressionParams(NamedTuple):
    """coef [k, p]; var [k], the residual variances, or [] where it is tied (maximum likelihood: divided by n)."""

    coef: Any
    var: Any


class Working(NamedTuple):
    """log p(y | eta) = rest + response eta - weight eta^2 / 2, near the eta of one E-step; each [n, k]."""

    weight: Any
    response: Any
    rest: Any


class NormalEquations(NamedTuple):
    """count [k]; gram: sum of weight x x^T, packed [k, p (p + 1) / 2]; cross: sum of response x [k, p]; rest [k].

    The responses are those beyond the offset. A linear regression has squared ones in `rest`.
    """

    count: jax.Array
    gram: jax.Array
    cross: jax.Array
    rest: jax.Array


class InputUnits(NamedTuple):
    """inputs @ matrix have second moment I; the linear predictor is moved by inputs @ coef and divided by scale."""

    matrix: Any
    inverse: Any
    coef: Any
    scale: Any


class Regression(Family):
    """A target whose distribution depends on inputs through the linear predictor inputs @ coef_k.

    A subclass gives `log_density(eta, x)`, `working(eta, x)` (weight and response of the least-squares problem at
    eta), `guess(x)` (those of a start, which knows no eta) and `draw(key, eta, x)`.
    """

    row_ndim = (1, 0)

    def log_density(self, eta, x):
        raise NotImplementedError

    def working(self, eta, x) -> tuple[jax.Array, jax.Array]:
        raise NotImplementedError

    def guess(self, x) -> tuple[jax.Array, jax.Array]:
        raise NotImplementedError

    def draw(self, params, key, eta, x):
        """Targets [n, k, ...] at the linear predictors eta [n, k]."""
        raise NotImplementedError

    def predictor(self, params, x):
        return jnp.dot(x[0], params.coef.T, precision=PRECISION) + _offset(x)

    def e_step(self, params, x):
        eta = self.predictor(params, x)
        weight, response = self.working(eta, x)
        log_prob = self.log_density(eta, x)
        return EStep(Working(weight, response, log_prob - (response - 0.5 * weight * eta) * eta), log_prob)

    def sufficient_statistics(self, resp, x, weights):
        resp = Working(*self.guess(x), jnp.zeros(())) if resp is None else resp
        offset = _offset(x)
        response = resp.response - resp.weight * offset
        rest = resp.rest + (resp.response - 0.5 * resp.weight * offset) * offset
        return self._sums(x, weights, resp.weight, response, rest)

    def _sums(self, x, weights, weight, response, rest):
        rows, cols = linalg.tril_indices(x[0].shape[1])
        products = x[0][:, rows] * x[0][:, cols]
        gram = jnp.dot((weights * weight).T, products, precision=PRECISION)
        cross = jnp.dot((weights * response).T, x[0], precision=PRECISION)
        return NormalEquations(weights.sum(0), gram, cross, (weights * rest).sum(0))

    def expected_log_joint(self, params, stats):
        return (stats.rest + _explained(params.coef, stats)).sum()

    def maximize(self, stats, params=None):
        coef, enough = solve_normal_equations(stats)
        new = self.from_least_squares(coef, stats)
        return new if params is None else self.keep_where(enough, new, params)

    def from_least_squares(self, coef, stats):
        return RegressionParams(coef)

    def constraints(self):
        return RegressionParams(Real())

    def embed(self, x, weights=None):
        target = x[1] if x[1].ndim == 1 else x[1][:, 0] / x[1][:, 1]
        return super().embed(jnp.concatenate([x[0], self.spread(target)[:, None]], 1), weights)

    def spread(self, target):
        """The target on a scale where distances mean something, for starts."""
        return target

    def sample(self, params, key, n):
        raise NotImplementedError(f"{type(self).__name__}.sample: targets need inputs: use sample_like(params, key, x)")

    def sample_like(self, params, key, x):
        """Targets for the inputs (and offsets) of x: [n, k] draws, with the inputs of each."""
        targets = self.draw(params, key, self.predictor(params, x), x)
        given = [jnp.broadcast_to(part[:, None], (*targets.shape[:2], *part.shape[1:])) for part in (x[0], *x[2:])]
        return (given[0], targets, *given[1:])

    # --- units: inputs of second moment I ------------------------------------------------------------------------

    def units(self, x, weights=None):
        weights = jnp.ones(len(x[0]), x[0].dtype) if weights is None else weights
        matrix = whitening(x[0], weights / weights.sum())
        zero = jnp.zeros(x[0].shape[1], x[0].dtype)
        return InputUnits(matrix, jnp.linalg.inv(matrix), zero, jnp.ones((), x[0].dtype))

    def to_units(self, units, x):
        return (jnp.dot(x[0], units.matrix, precision=PRECISION), *x[1:])

    def params_to_units(self, units, params):
        coef = (params.coef - units.coef) / units.scale
        return params._replace(coef=jnp.dot(coef, units.inverse.T, precision=PRECISION))

    def params_from_units(self, units, params):
        coef = jnp.dot(params.coef, units.matrix.T, precision=PRECISION) * units.scale
        return params._replace(coef=coef + units.coef)

    def check(self, x, params=None):
        if not isinstance(x, tuple) or len(x) not in (2, 3):
            raise ValueError(f"x: expected the pair (inputs [n, p], targets), or with an offset [n]; got {type(x)}")
        inputs = vectors(x[0], "x[0]")
        gram = inputs.T.astype(float) @ inputs
        scale = np.sqrt(np.diagonal(gram))
        if not scale.all():
            raise ValueError(f"x[0]: input {int(np.argmin(scale))} is 0 in every row")
        if np.linalg.eigvalsh(gram / np.outer(scale, scale))[0] < 100 * np.finfo(inputs.dtype).eps ** 2 + 1e-14:
            raise ValueError("x[0]: the inputs are linearly dependent; drop one")
        self.check_targets(x[1])
        if params is not None:
            require_shape("coef", params.coef, (None, inputs.shape[1]))

    def check_targets(self, targets):
        raise NotImplementedError


def _explained(coef, stats):
    """coef . cross - coef . gram coef / 2, [k]."""
    gram = linalg.unpack_symmetric(stats.gram)
    return (coef * stats.cross).sum(-1) - 0.5 * jnp.einsum("ki,kij,kj->k", coef, gram, coef)


def _offset(x):
    """The known part of the linear predictor, [n, 1]."""
    return x[2][:, None] if len(x) == 3 else 0.0


def solve_normal_equations(stats):
    """(coef [k, p], which components had enough rows to determine it [k])."""
    gram = linalg.unpack_symmetric(stats.gram)
    eye = jnp.eye(gram.shape[-1], dtype=gram.dtype)
    # In units where the gram matrix of all rows is I, a ridge of its rounding moves nothing that is determined.
    ridge = jnp.finfo(gram.dtype).eps * jnp.trace(gram, axis1=-2, axis2=-1) / gram.shape[-1]
    coef = linalg.solve_positive(gram + ridge[:, None, None] * eye, stats.cross[..., None])[..., 0]
    enough = alive_components(stats.count) & jnp.isfinite(coef).all(-1)
    return jnp.where(enough[:, None], coef, 0), enough


def whitening(inputs, weights):
    """The matrix after which the inputs' second moments are I (twice, as in a Cholesky QR)."""
    scale = jnp.sqrt(weights @ inputs**2)
    matrix = jnp.diag(1 / jnp.where(scale > 0, scale, 1))
    for _ in range(2):
        z = jnp.dot(inputs, matrix, precision=PRECISION)
        values, vectors_ = jnp.linalg.eigh(jnp.dot((z * weights[:, None]).T, z, precision=PRECISION))
        values = jnp.maximum(values, values[-1] * jnp.finfo(z.dtype).eps)
        matrix = matrix @ (vectors_ / jnp.sqrt(values))
    return matrix


@model_class
class LinearRegression(Regression):
    """N(y | inputs @ coef_k, var_k): weighted least squares, exact in one M-step. DeSarbo and Cron (1988).

    floor: smallest residual variance, relative to that of one regression through all rows (None: by dtype).
    variance: "each" component its own, or "tied".
    """

    floor: Any = None
    variance: str = static(default="each")

    def __post_init__(self):
        if self.variance not in ("each", "tied"):
            raise ValueError(f"variance: expected 'each' or 'tied'; got {self.variance!r}")

    def component_axes(self):
        return LinearRegressionParams(0, None if self.variance == "tied" else 0)

    def e_step(self, params, x):
        residual = x[1][:, None] - self.predictor(params, x)
        return EStep(None, -0.5 * (jnp.log(2 * np.pi * params.var) + residual**2 / params.var))

    def sufficient_statistics(self, resp, x, weights):
        response = x[1][:, None] - _offset(x)
        return self._sums(x, weights, jnp.ones_like(response), response, response**2)

    def expected_log_joint(self, params, stats):
        squares = stats.rest - 2 * _explained(params.coef, stats)
        return -0.5 * (stats.count * jnp.log(2 * np.pi * params.var) + squares / params.var).sum()

    def from_least_squares(self, coef, stats):
        count = jnp.where(stats.count > 0, stats.count, 1)
        floor = DEFAULT_FLOOR[coef.dtype.itemsize] if self.floor is None else self.floor
        floor = floor * stats.rest.sum() / stats.count.sum()
        squares = stats.rest - 2 * _explained(coef, stats)
        var = squares.sum() / stats.count.sum() if self.variance == "tied" else squares / count
        return LinearRegressionParams(coef, jnp.maximum(var, floor))

    def draw(self, params, key, eta, x):
        return eta + jnp.sqrt(params.var) * jax.random.normal(key, eta.shape, eta.dtype)

    def constraints(self):
        return LinearRegressionParams(Real(), Positive(0.0 if self.floor is None else self.floor))

    def degenerate(self, params, n_points):
        """A line through a few rows, or rows exactly on a line; in units where one regression leaves variance 1."""
        p = params.coef.shape[-1]
        var = jnp.broadcast_to(params.var, n_points.shape)
        pooled = n_points / n_points.sum() @ var
        tight = (var <= 1e-3) & (var <= 0.1 * pooled)
        sliver = (var <= 1e-4) & (var <= 1e-3 * pooled)
        return sliver | (tight & (n_points < 3 * (p + 2))) | (n_points < p + 1.5)

    def units(self, x, weights=None):
        """Residuals of one regression through all rows, with variance 1: any intercept and scale of y drops out."""
        weights = jnp.ones(len(x[0]), x[0].dtype) if weights is None else weights
        weights = weights / weights.sum()
        units = super().units(x, weights)
        z = jnp.dot(x[0], units.matrix, precision=PRECISION)
        coef = units.matrix @ ((z * weights[:, None]).T @ x[1])
        residual = x[1] - jnp.dot(x[0], coef, precision=PRECISION)
        scale = jnp.sqrt(weights @ residual**2)
        return units._replace(coef=coef, scale=jnp.where(scale > 0, scale, 1))

    def to_units(self, units, x):
        residual = x[1] - jnp.dot(x[0], units.coef, precision=PRECISION)
        z = (jnp.dot(x[0], units.matrix, precision=PRECISION), residual / units.scale)
        return z if len(x) == 2 else (*z, x[2] / units.scale)

    def params_to_units(self, units, params):
        return super().params_to_units(units, params._replace(var=params.var / units.scale**2))

    def params_from_units(self, units, params):
        return super().params_from_units(units, params._replace(var=params.var * units.scale**2))

    def log_volume(self, units):
        return jnp.log(units.scale)

    def check_targets(self, targets):
        numbers(targets, "x[1]")


@model_class
class PoissonRegression(Regression):
    """Poisson(y | exp(inputs @ coef_k)), its M-step one step of iteratively reweighted least squares.

    That is a Newton step on Q; one that went too far is halved by the loop. McCullagh and Nelder (1989), section 2.5.
    """

    def log_density(self, eta, x):
        return log_poisson(x[1][:, None], jnp.exp(eta))

    def working(self, eta, x):
        mean = jnp.exp(eta)
        return mean, mean * eta + x[1][:, None] - mean

    def guess(self, x):
        mean = x[1][:, None] + 0.5
        return mean, mean * jnp.log(mean)

    def draw(self, params, key, eta, x):
        return jax.random.poisson(key, jnp.exp(eta)).astype(eta.dtype)

    def spread(self, target):
        return jnp.sqrt(target)

    def check_targets(self, targets):
        require_counts(numbers(targets, "x[1]"), "x[1]")


@model_class
class LogisticRegression(Regression):
    """Binomial(successes | trials, sigmoid(inputs @ coef_k)), targets [n] of 0 and 1, or [n, 2] (successes, trials).

    Given the expected Polya-Gamma variable w = trials tanh(eta / 2) / (2 eta) the log-likelihood is bounded below by a
    quadratic that touches it, so every M-step raises it. Polson, Scott and Windle (2013); Jaakkola and Jordan (2000).
    """

    row_ndim = (1, None)

    def _counts(self, x):
        if x[1].ndim == 1:
            return x[1][:, None], jnp.ones_like(x[1])[:, None]
        return x[1][:, :1], x[1][:, 1:]

    def log_density(self, eta, x):
        successes, trials = self._counts(x)
        choose = gammaln(trials + 1) - gammaln(successes + 1) - gammaln(trials - successes + 1)
        return choose + successes * jax.nn.log_sigmoid(eta) + (trials - successes) * jax.nn.log_sigmoid(-eta)

    def working(self, eta, x):
        successes, trials = self._counts(x)
        small = jnp.abs(eta) < 1e-3
        safe = jnp.where(small, 1, eta)
        weight = trials * jnp.where(small, 0.25 - eta**2 / 48, jnp.tanh(safe / 2) / (2 * safe))
        return weight, jnp.broadcast_to(successes - trials / 2, weight.shape)

    def guess(self, x):
        successes, trials = self._counts(x)
        return trials / 4, successes - trials / 2

    def draw(self, params, key, eta, x):
        trials = self._counts(x)[1]
        successes = jax.random.binomial(key, trials, jax.nn.sigmoid(eta), eta.shape, eta.dtype)
        return successes if x[1].ndim == 1 else jnp.stack([successes, jnp.broadcast_to(trials, eta.shape)], -1)

    def check_targets(self, targets):
        array = np.asarray(targets)
        if array.ndim == 1:
            return require((array == 0) | (array == 1), array, "0 or 1", "x[1]")
        if array.ndim != 2 or array.shape[1] != 2:
            raise ValueError(f"x[1]: expected targets [n], or [n, 2] of successes and trials; got shape {array.shape}")
        require_counts(array, "x[1]")
        require(array[:, 0] <= array[:, 1], array, "no more successes than trials", "x[1]")
