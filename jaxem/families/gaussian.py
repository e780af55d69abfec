"""The multivariate normal: k components with full, diagonal or spherical covariances, of their own or shared."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxem.contract import units as _units
from jaxem.contract.constraints import Positive, PositiveDefinite, Real
from jaxem.contract.family import alive_components
from jaxem.contract.model import EStep, model_class, static
from jaxem.families.exponential_family import ExponentialFamily, Features, component_means, expected_logits
from jaxem.inputs import arrays
from jaxem.inputs.covariance_rank import check_spread
from jaxem.numerics import linalg
from jaxem.numerics.linalg import PRECISION
from jaxem.numerics.special import LOG_2PI

#: name -> (shape of the quadratic form, shared by all components?)
STRUCTURES = {
    "full": ("full", False),
    "diag": ("diag", False),
    "spherical": ("spherical", False),
    "tied": ("full", True),
    "diag_tied": ("diag", True),
    "spherical_tied": ("spherical", True),
}

#: The default `floor`. Far below the variance ratio of any group worth a component (clusters 30,000 standard
#: deviations apart in float32, 1,000,000 in float64), far above where a Cholesky factor in that dtype breaks.
DEFAULT_FLOOR = {4: 1e-9, 8: 1e-12}

#: Variances below this, relative to the data's, belong to a sliver if the other components are much wider.
SLIVER = 1e-5

#: Up to here (see `ill_conditioned`) the product form in float32 was measured to keep covariances to 2e-4 and the
#: log-likelihood to 2e-6, relative (60,000 x 8); at 9,000 they were off by 4e-4 and 3e-5, at 20,000 by 7e-3 and 2e-5.
AMPLIFICATION_LIMIT = 1000.0


class GaussianParams(NamedTuple):
    """mean [k, d]; cov [k, d, d] full, [k, d] diag, [k] spherical, and without the k where it is shared."""

    mean: Any
    cov: Any


def _smallest_eigenvalue(inverse):
    """Of the covariance whose inverse is inverse^T inverse [..., d, d]; 0 where it has none.

    As the largest eigenvalue of that inverse it is exact to rounding, where in the covariance itself it would drown in
    the rounding of the largest one.
    """
    largest = linalg.largest_eigenvalue(jnp.swapaxes(inverse, -1, -2) @ inverse)
    return jnp.where(jnp.isfinite(largest), 1 / largest, 0)


def _check_floor(floor):
    """None, a number in [0, 1), or what stands for one inside compiled code."""
    known = isinstance(floor, (int, float, np.number, np.ndarray))
    if isinstance(floor, (bool, np.bool_, str, list, tuple)) or (
        known and not (np.ndim(floor) == 0 and 0 <= floor < 1)
    ):
        raise ValueError(f"floor: expected a number in [0, 1) (relative to the data's variance); got {floor!r}")


class Centred(NamedTuple):
    """Rows [n, d] to be seen from the incumbent's means, where products of features would cancel."""

    x: jax.Array


class GaussianMoments(NamedTuple):
    """`Moments` and rows [k], what the scatter is divided by: the count, unless a hidden scale or a prior adds rows."""

    count: jax.Array
    total: jax.Array
    common: jax.Array
    rows: jax.Array


class CentredMoments(NamedTuple):
    """Moments of y = L^-1 (x - mean), mean and L L^T being the incumbent's: sum y [k, d], sum of y y^T.

    count [k] and rows [k] as in `GaussianMoments`.
    """

    count: jax.Array
    total: jax.Array
    scatter: jax.Array
    rows: jax.Array


@model_class
class Gaussian(ExponentialFamily):
    """N(x | mean_k, cov_k) with features [x, quad(x)]; Bishop (2006), equations (2.43) and (9.24), (9.25).

    covariance: "full", "diag", "spherical", or one shared by all components: "tied", "diag_tied", "spherical_tied".
    floor: smallest covariance eigenvalue, relative to the data's variance (None: a default by dtype; 0: none).
    The M-step maximises Q over covariances above the floor, so the objective is the log-likelihood itself.
    """

    covariance: str = static(default="full")
    floor: Any = None

    def __post_init__(self):
        if not isinstance(self.covariance, str) or self.covariance not in STRUCTURES:
            raise ValueError(f"covariance: expected one of {', '.join(STRUCTURES)}; got {self.covariance!r}")
        _check_floor(self.floor)

    @property
    def shape(self) -> str:
        return STRUCTURES[self.covariance][0]

    @property
    def shared(self) -> bool:
        return STRUCTURES[self.covariance][1]

    @property
    def independent_columns(self):
        return self.shape == "diag"

    def component_axes(self):
        return GaussianParams(0, None if self.shared else 0)

    def constraints(self):
        floor = 0.0 if self.floor is None else self.floor
        return GaussianParams(Real(), PositiveDefinite(floor) if self.shape == "full" else Positive(floor))

    # --- features --------------------------------------------------------------------------------------------

    def quadratic(self, x):
        """The quadratic features of x [d, n]: all products, squares, or the squared norm; [q, n]."""
        if self.shape == "full":
            rows, cols = linalg.tril_indices(x.shape[0])
            return x[rows] * x[cols]
        return x * x if self.shape == "diag" else (x * x).sum(0, keepdims=True)

    def prepare(self, x, weights=None, centred=False):
        if isinstance(x, (Features, Centred)):
            return x
        if centred:
            return Centred(x)
        columns = x.T
        quadratic = self.quadratic(columns)
        linear = jnp.concatenate([jnp.ones_like(columns[:1]), columns])
        if not self.shared:
            return Features(jnp.concatenate([linear, quadratic]), quadratic[:0])
        return Features(linear, quadratic if weights is None else quadratic @ weights)

    def half_log_det(self, params):
        """Half the log determinant of every covariance: [k], or [] where it is shared."""
        if self.shape == "full":
            return -linalg.log_det_lower(self._factors(params))
        logs = 0.5 * jnp.log(params.cov)
        return params.mean.shape[-1] * logs if self.shape == "spherical" else logs.sum(-1)

    def coefficients(self, params):
        mean, d = params.mean, params.mean.shape[-1]
        if self.shape == "full":
            inverse = self._factors(params)
            precision = jnp.swapaxes(inverse, -1, -2) @ inverse
            linear = (precision @ mean[..., None])[..., 0]
            rows, cols = linalg.tril_indices(d)
            quadratic = precision[..., rows, cols] * jnp.where(rows == cols, -0.5, -1.0).astype(mean.dtype)
        else:
            variance = params.cov if self.shape == "diag" else params.cov[..., None]
            precision = 1 / jnp.where(variance > 0, variance, jnp.nan)
            linear = mean * precision
            quadratic = -0.5 * precision
        constant = -0.5 * (d * LOG_2PI + (mean * linear).sum(-1)) - self.half_log_det(params)
        own = [constant[:, None], linear]
        if self.shared:
            return jnp.concatenate(own, 1), quadratic
        return jnp.concatenate([*own, quadratic], 1), quadratic[0, :0]

    # --- E-step ----------------------------------------------------------------------------------------------

    def e_step(self, params, x):
        if isinstance(x, Features):
            return super().e_step(params, x)
        if isinstance(x, Centred):
            return self._centred_e_step(params, x.x)
        factors = self._factors(params)

        def one(component):
            log_prob = self._log_density(component[0], component[1], x)[0]
            # So far away that even the distance overflows, to inf - inf.
            beyond = jnp.isnan(log_prob) & jnp.isfinite(x).all(-1) & jnp.isfinite(component[1]).all()
            return jnp.where(beyond, -jnp.inf, log_prob)

        # One component at a time: rows of raw data never become an n x k x d array.
        means_and_factors = (params.mean, jnp.broadcast_to(factors, (len(params.mean), *factors.shape[-2:])))
        return EStep(None, lax.map(one, means_and_factors).T)

    def weighted_e_step(self, params, log_weights, x):
        step = self.product_e_step if isinstance(x, Features) else super().weighted_e_step
        return step(params, log_weights, x)

    def _factors(self, params):
        """L^-1 with precision = L^-T L^-1: [..., d, d] full, [..., 1, d] otherwise."""
        if self.shape == "full":
            return linalg.inverse_cholesky(params.cov)
        deviation = jnp.sqrt(jnp.where(params.cov > 0, params.cov, jnp.nan))
        if self.shape == "spherical":
            deviation = jnp.broadcast_to(deviation[..., None], (*deviation.shape, params.mean.shape[-1]))
        return 1 / deviation[..., None, :]

    def _whiten(self, factor, y):
        return jnp.dot(y, factor.T, precision=PRECISION) if self.shape == "full" else y * factor

    def _log_density(self, mean, factor, x):
        """(log N [n], L^-1 (x - mean) [n, d]) of one component."""
        y = self._whiten(factor, x - mean)
        diagonal = jnp.diagonal(factor) if self.shape == "full" else factor[0]
        constant = jnp.log(diagonal).sum() - 0.5 * x.shape[-1] * LOG_2PI
        return constant - 0.5 * (y * y).sum(-1), y

    def _centred_e_step(self, params, x):
        factors = jnp.broadcast_to(self._factors(params), (len(params.mean), *self._factors(params).shape[-2:]))
        log_prob, y = jax.vmap(self._log_density, in_axes=(0, 0, None))(params.mean, factors, x)
        return EStep(y, log_prob.T)

    # --- M-step ----------------------------------------------------------------------------------------------

    def sufficient_statistics(self, resp, x, weights):
        if not isinstance(x, Centred):
            moments = super().sufficient_statistics(resp, x, weights)
            return GaussianMoments(*moments, moments.count)
        weighted = weights.T[..., None] * resp
        if self.shape == "full":
            scatter = jnp.einsum("kni,knj->kij", weighted, resp, precision=PRECISION)
        else:
            scatter = (weighted * resp).sum(1)
        count = weights.sum(0)
        return CentredMoments(count, weighted.sum(1), scatter, count)

    def expected_log_joint(self, params, stats):
        if isinstance(stats, CentredMoments):
            raise NotImplementedError("expected_log_joint: centred moments are relative to the params of the E-step")
        own, common = self.coefficients(params)
        # Rows beyond the count have their mean at the component's: only the determinant and the constant count them.
        linear = own[:, 1 : 1 + params.mean.shape[-1]]
        constant = own[:, 0] + 0.5 * (params.mean * linear).sum(-1)
        return expected_logits(own, common, stats) + ((stats.rows - stats.count) * constant).sum()

    def pseudo_statistics(self, params, strength, units=None):
        """Those of a normal-inverse-Wishart prior: `strength.mean` rows for the means, `strength.cov` for the covs."""
        k, d = params.mean.shape
        of_mean = jnp.broadcast_to(jnp.asarray(strength.mean, params.mean.dtype), (k,))
        of_cov = jnp.broadcast_to(jnp.asarray(strength.cov, params.mean.dtype), (k,)) / (k if self.shared else 1)
        cov = d * params.cov[..., None] if self.shape == "spherical" else params.cov
        cov = linalg.pack_lower(cov) if self.shape == "full" else cov
        quadratic = of_mean[:, None] * jax.vmap(self.quadratic, 1, 1)(params.mean.T).T + of_cov[:, None] * cov
        linear = of_mean[:, None] * params.mean
        if self.shared:
            return GaussianMoments(of_mean, linear, quadratic.sum(0), of_cov)
        return GaussianMoments(of_mean, jnp.concatenate([linear, quadratic], 1), quadratic[0, :0], of_cov)

    def maximize(self, stats, params=None):
        if isinstance(stats, CentredMoments):
            return self._maximize_centred(stats, params)
        average, alive = component_means(stats)
        d = average.shape[1] - (0 if self.shared else self.n_quadratic(average.shape[1]))
        mean = average[:, :d]
        total, count = stats.rows.sum(), stats.count.sum()
        if self.shared:
            cov = self._square(stats.common / total) - jnp.tensordot(stats.count / total, self._outer(mean), 1)
            second = stats.common / total
        else:
            rows = jnp.where(alive, stats.count / jnp.where(alive, stats.rows, 1), 1)
            cov = self._square(average[:, d:]) - self._outer(mean)
            cov = cov * rows.reshape(rows.shape + (1,) * (cov.ndim - 1))
            second = stats.total[:, d:].sum(0) / total
        data_mean = stats.count / count @ jnp.where(alive[:, None], mean, 0)
        data_cov = self._square(second) - count / total * self._outer(data_mean)
        new = GaussianParams(mean, self._floored(self._per_axis(cov, d), self._scale_of(self._per_axis(data_cov, d))))
        if params is None:
            return new
        return self.keep_where(alive, new, params)

    def _maximize_centred(self, stats, params):
        alive = alive_components(stats.count)
        safe = jnp.where(alive, stats.count, 1)
        shift = stats.total / safe[:, None]
        rows = jnp.where(alive, stats.rows, 1)
        outer = shift[..., :, None] * shift[..., None, :] if self.shape == "full" else shift * shift
        scatter = stats.scatter - safe.reshape(safe.shape + (1,) * (outer.ndim - 1)) * outer
        if self.shared:
            inner = (jnp.where(alive, 1, 0).reshape(safe.shape + (1,) * (outer.ndim - 1)) * scatter).sum(0)
            inner = inner / stats.rows.sum()
        else:
            inner = scatter / rows.reshape(rows.shape + (1,) * (outer.ndim - 1))
        if self.shape == "full":
            lower = linalg.cholesky(params.cov)
            step = jnp.einsum("...ij,...j->...i", lower, shift)
            cov = lower @ inner @ jnp.swapaxes(lower, -1, -2)
            cov = 0.5 * (cov + jnp.swapaxes(cov, -1, -2))
        else:
            old = params.cov if self.shape == "diag" else params.cov[..., None]
            step = jnp.sqrt(old) * shift
            cov = old * inner if self.shape == "diag" else params.cov * inner.mean(-1)
        # Centred data are in standard units, so the data's own variance is 1.
        new = GaussianParams(params.mean + step, self._floored(cov, jnp.ones((), cov.dtype)))
        return self.keep_where(alive, new, params)

    def n_quadratic(self, n_own):
        """How many of n_own features [x, quad(x)] are quadratic."""
        if self.shape == "diag":
            return n_own // 2
        if self.shape == "spherical":
            return 1
        return n_own - int((np.sqrt(9 + 8 * n_own) - 3) / 2)

    def _square(self, quadratic):
        return linalg.unpack_symmetric(quadratic) if self.shape == "full" else quadratic

    def _outer(self, mean):
        if self.shape == "full":
            return mean[..., :, None] * mean[..., None, :]
        return mean * mean if self.shape == "diag" else (mean * mean).sum(-1, keepdims=True)

    def _per_axis(self, cov, d):
        return cov[..., 0] / d if self.shape == "spherical" else cov

    def _scale_of(self, data_cov):
        """The data's own variance: what the floor is relative to."""
        if self.shape == "full":
            return jnp.trace(data_cov) / data_cov.shape[-1]
        return data_cov

    def _floored(self, cov, scale):
        floor = DEFAULT_FLOOR[cov.dtype.itemsize] if self.floor is None else self.floor
        # Below this even a floor of 0 keeps a collapsed component's density finite, so that it can be named.
        floor = jnp.maximum(jnp.asarray(floor, cov.dtype), jnp.finfo(cov.dtype).eps ** 2) * scale
        if self.shape == "full":
            return linalg.clamp_eigenvalues(cov, floor)
        return jnp.maximum(cov, floor)

    # --- conditioning ----------------------------------------------------------------------------------------

    def ill_conditioned(self, params):
        """True where the norm of a precision, times the data's covariance (I in standard units), is over the limit."""
        if jnp.result_type(params.mean) != jnp.float32:
            return None
        if self.shape == "full":
            factor = self._factors(params)
            precision = jnp.swapaxes(factor, -1, -2) @ factor
            amplification = jnp.sqrt((precision * precision).sum((-2, -1)))
        else:
            d = params.mean.shape[-1]
            precision = 1 / params.cov
            amplification = precision * d**0.5 if self.shape == "spherical" else jnp.linalg.norm(precision, axis=-1)
        return ~(amplification < AMPLIFICATION_LIMIT).all()

    def degenerate(self, params, n_points):
        """A component that fits a few rows or a lower-dimensional set: params in standard units, n_points [k].

        Its smallest eigenvalue e (of the data's own, which is 1) is compared with how many rows hold it up, and with
        the pooled within-component covariance, so that tight but equal groups far apart are not called slivers.
        """
        d = params.mean.shape[-1]
        share = n_points / n_points.sum()
        if self.shape == "full":
            pooled = params.cov if self.shared else jnp.tensordot(share, params.cov, 1)
            inverse = self._factors(params)
            smallest, relative = _smallest_eigenvalue(inverse), _smallest_eigenvalue(inverse @ linalg.cholesky(pooled))
        elif self.shape == "diag":
            pooled = params.cov if self.shared else share @ params.cov
            smallest, relative = params.cov.min(-1), (params.cov / pooled).min(-1)
        else:
            pooled = params.cov if self.shared else share @ params.cov
            smallest, relative = params.cov, params.cov / pooled
        floor = DEFAULT_FLOOR[params.cov.dtype.itemsize] if self.floor is None else self.floor
        # What rests on a floor as high as this is where somebody wanted it to rest: a proper maximum.
        floored = ~(smallest > jnp.where(floor <= SLIVER, floor, 0) * (1 + 1e-3))
        if self.shared:
            return floored
        tight = (smallest <= 1e-3) & (relative <= 0.1)
        sliver = (smallest <= SLIVER) & (relative <= 1e-3)
        few = n_points < 3 * (d + 2)
        return floored | sliver | (tight & few) | (n_points < d + 1.5)

    # --- starts, units, sampling, checks -----------------------------------------------------------------------

    def mean(self, params):
        return params.mean

    def embed(self, x, weights=None):
        return x

    def units(self, x, weights=None):
        return _units.standardize(x, weights, self.shape)

    def refine(self, params, resp, z, weights=None):
        """Moments about the means just found: one component at a time, so that no n x k x d array is stored."""
        weighted = resp if weights is None else resp * weights[:, None]
        covs = jnp.ones_like(params.cov)
        if self.shape == "full":
            covs = jnp.broadcast_to(jnp.eye(z.shape[1], dtype=covs.dtype), covs.shape)

        def one(component):
            mean, weights = component
            y = z - mean
            scatter = jnp.dot((y * weights[:, None]).T, y, precision=PRECISION) if self.shape == "full" else None
            return weights.sum(), weights @ y, weights @ (y * y) if scatter is None else scatter, weights.sum()

        moments = CentredMoments(*lax.map(one, (params.mean, weighted.T)))
        return self._maximize_centred(moments, GaussianParams(params.mean, covs))

    def origin(self, x, params=None):
        if params is None or self.shape != "full":
            return _units.origin(x)
        means = np.asarray(params.mean, np.float64)
        spread = np.cov(means.T, bias=True).reshape(means.shape[1], -1)
        within = np.asarray(params.cov, np.float64)
        return _units.origin(x, spread + (within if self.shared else within.mean(0)))

    def to_units(self, units, x):
        return _units.to_units(units, x)

    def params_to_units(self, units, params):
        return GaussianParams(_units.to_units(units, params.mean), _units.cov_to_units(units, params.cov))

    def params_from_units(self, units, params):
        return GaussianParams(_units.from_units(units, params.mean), _units.cov_from_units(units, params.cov))

    def log_volume(self, units):
        return _units.log_volume(units)

    def sample(self, params, key, n):
        """n rows of every component: [n, k, d]."""
        noise = jax.random.normal(key, (n, *params.mean.shape), params.mean.dtype)
        if self.shape == "full":
            return params.mean + jnp.einsum("...ij,n...j->n...i", linalg.cholesky(params.cov), noise)
        deviation = jnp.sqrt(params.cov)
        return params.mean + noise * (deviation[..., None] if self.shape == "spherical" else deviation)

    def check(self, x, params=None):
        self.check_shapes(x, params)

    def check_shapes(self, x, params=None):
        shape = np.shape(x) if hasattr(x, "shape") else type(x).__name__
        if len(shape) != 2 or not hasattr(x, "shape"):
            hint = "; for one feature write x[:, None]" if len(shape) == 1 else ""
            raise ValueError(f"x: expected rows of shape [n, d]; got {shape}{hint}")
        if shape[1] == 0:
            raise ValueError(f"x: expected at least one column; got {shape}")
        if params is not None:
            self._check_params(shape[1], params)

    def check_fit(self, x, weights, dtype):
        if not arrays.is_traced(x):
            check_spread(x, None if arrays.is_traced(weights) else weights, self.shape, dtype)

    def _check_params(self, d, params):
        mean, cov = np.shape(params.mean), np.shape(params.cov)
        if len(mean) != 2 or mean[1] != d:
            raise ValueError(f"start: mean has shape {mean}, expected [k, {d}] for x with {d} columns")
        tail = {"full": (d, d), "diag": (d,), "spherical": ()}[self.shape]
        want = tail if self.shared else (mean[0], *tail)
        if cov != want:
            raise ValueError(f"start: cov has shape {cov}, expected {want} for covariance={self.covariance!r}")
