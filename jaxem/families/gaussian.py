"""The multivariate normal distribution, with covariances of any structure, separate or shared."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxem.contract.affine import host_origin, standardize
from jaxem.contract.constraints import Real
from jaxem.contract.errors import NotProvidedError
from jaxem.contract.family import alive_components
from jaxem.contract.model import EStep, model_class
from jaxem.contract.posterior import Posterior
from jaxem.contract.pytree import pytree_class, static
from jaxem.contract.units import COVARIANCE, LOCATION, AffineUnits, Identity, Units
from jaxem.families.covariance import Covariance, Diagonal, Full, Spherical
from jaxem.families.degenerate import default_floor, is_degenerate, rests_on_floor
from jaxem.families.exponential_family import ExponentialFamily, Features, component_means, expected_logits
from jaxem.families.support import Vectors
from jaxem.inputs.covariance_rank import check_spread
from jaxem.numerics.special import LOG_2PI
from jaxem.numerics.tracing import is_traced

#: Name -> (structure of a covariance, whether all components share it).
STRUCTURES: dict[str, tuple[Covariance, bool]] = {
    "full": (Full(), False),
    "diag": (Diagonal(), False),
    "spherical": (Spherical(), False),
    "tied": (Full(), True),
    "diag_tied": (Diagonal(), True),
    "spherical_tied": (Spherical(), True),
}

#: The largest amplification (see `ill_conditioned`) at which the product form is used in float32.
#: Up to here it was measured to keep covariances to 2e-4 and the log-likelihood to 2e-6, relative
#: (60,000 x 8); at 9,000 they were off by 4e-4 and 3e-5, at 20,000 by 7e-3 and 2e-5.
AMPLIFICATION_LIMIT = 1000.0


class GaussianParams(NamedTuple):
    """The params of `Gaussian`.

    Attributes:
        mean: [k, d].
        cov: [k, d, d] full, [k, d] diagonal or [k] spherical, and without the k where all
            components share it.
    """

    mean: Any
    cov: Any


ROLES = GaussianParams(LOCATION, COVARIANCE)


def _check_floor(floor):
    """Raise ValueError unless `floor` is None, a number in [0, 1), or a traced number."""
    known = isinstance(floor, (int, float, np.number, np.ndarray))
    if isinstance(floor, (bool, np.bool_, str, list, tuple)) or (
        known and not (np.ndim(floor) == 0 and 0 <= floor < 1)
    ):
        raise ValueError(f"floor: expected a number in [0, 1) (relative to the data's variance); got {floor!r}")


class Centred(NamedTuple):
    """Rows whose moments are taken about the current means, where features would cancel.

    Attributes:
        x: the rows, [n, d].
    """

    x: jax.Array


@pytree_class
class Residuals(Posterior):
    """Rows as whitened distances from the means.

    A normal row has no hidden variables, so the entropy of this posterior is 0.

    Attributes:
        y: L^-1 (x - mean) [k, n, d], with L L^T = cov.
    """

    y: Any

    def entropy(self) -> jax.Array:
        return jnp.zeros(self.y.shape[1::-1], self.y.dtype)

    def kl(self, other: Any) -> jax.Array:
        return self.entropy()


class GaussianMoments(NamedTuple):
    """The expected sufficient statistics of `Gaussian`.

    Attributes:
        count: as in `Moments`.
        total: as in `Moments`.
        common: as in `Moments`.
        rows: the number [k] by which the scatter is divided. It is the count, unless a hidden scale
            or a prior adds rows.
    """

    count: jax.Array
    total: jax.Array
    common: jax.Array
    rows: jax.Array


class CentredMoments(NamedTuple):
    """Moments of y = L^-1 (x - mean), where mean and L L^T are those of the current params.

    Attributes:
        count: as in `GaussianMoments`.
        total: the sum of y, [k, d].
        scatter: the sum of y y^T, [k, d, d], or of y^2, [k, d].
        rows: as in `GaussianMoments`.
    """

    count: jax.Array
    total: jax.Array
    scatter: jax.Array
    rows: jax.Array


@model_class
class Gaussian(ExponentialFamily):
    """The normal distribution: N(x | mean_k, cov_k), for x [n, d].

    The features are x and its products (all, squares, or the squared norm). Bishop (2006),
    equations (2.43), (9.24) and (9.25). The M-step maximises Q over covariances above the floor, so
    the objective is the log-likelihood itself.

    Args:
        covariance: "full", "diag" or "spherical", or one that all components share: "tied" (full),
            "diag_tied" or "spherical_tied".
        floor: the smallest eigenvalue of a covariance, relative to the data's variance, in [0, 1)
            (None: 1e-12, or 1e-9 in float32; 0: none).

    Raises:
        ValueError: an argument is not one of these.
    """

    covariance: str = static(default="full")
    floor: Any = None

    support = Vectors()

    def __post_init__(self) -> None:
        if not isinstance(self.covariance, str) or self.covariance not in STRUCTURES:
            raise ValueError(f"covariance: expected one of {', '.join(STRUCTURES)}; got {self.covariance!r}")
        _check_floor(self.floor)

    @property
    def structure(self) -> Covariance:
        """What one covariance looks like."""
        return STRUCTURES[self.covariance][0]

    @property
    def shape(self) -> str:
        """The standard units that keep the structure: "full", "diag" or "spherical"."""
        return self.structure.metric

    @property
    def shared(self) -> bool:
        """Whether all components have the same covariance."""
        return STRUCTURES[self.covariance][1]

    @property
    def independent_columns(self) -> bool:
        return self.structure.independent_columns

    def component_axes(self) -> tuple[Any, Any]:
        return GaussianParams(0, None if self.shared else 0)

    def constraints(self) -> GaussianParams:
        floor = 0.0 if self.floor is None else self.floor
        return GaussianParams(Real(), self.structure.constraint(floor))

    # --- features ---------------------------------------------------------------------------------

    def prepare(self, x: Any, weights: jax.Array | None = None, centred: bool = False) -> Any:
        if isinstance(x, (Features, Centred)):
            return x
        if centred:
            return Centred(x)
        columns = x.T
        quadratic = self.structure.quadratic(columns)
        linear = jnp.concatenate([jnp.ones_like(columns[:1]), columns])
        if not self.shared:
            return Features(jnp.concatenate([linear, quadratic]), quadratic[:0])
        return Features(linear, quadratic if weights is None else quadratic @ weights)

    def half_log_det(self, params: Any) -> Any:
        """Half the log determinant of every covariance, [k], or [] where it is shared."""
        return self.structure.half_log_det(params.cov, params.mean.shape[-1])

    def coefficients(self, params: Any) -> tuple[Any, Any]:
        mean, d = params.mean, params.mean.shape[-1]
        linear, quadratic = self.structure.natural(mean, params.cov)
        constant = -0.5 * (d * LOG_2PI + (mean * linear).sum(-1)) - self.half_log_det(params)
        own = [constant[:, None], linear]
        if self.shared:
            return jnp.concatenate(own, 1), quadratic
        return jnp.concatenate([*own, quadratic], 1), quadratic[0, :0]

    # --- E-step -----------------------------------------------------------------------------------

    def e_step(self, params: Any, x: Any) -> EStep:
        if isinstance(x, Features):
            return super().e_step(params, x)
        if isinstance(x, Centred):
            return self._centred_e_step(params, x.x)

        def one(component):
            log_prob = self._log_density(component[0], component[1], x)[0]
            # The row is so far away that even its distance overflows, to inf - inf.
            beyond = jnp.isnan(log_prob) & jnp.isfinite(x).all(-1) & jnp.isfinite(component[1]).all()
            return jnp.where(beyond, -jnp.inf, log_prob)

        # One component at a time: rows of raw data never become an n x k x d array.
        return EStep(None, lax.map(one, (params.mean, self._factors(params))).T)

    def weighted_e_step(self, params: Any, log_weights: Any, x: Any) -> Any:
        step = self.product_e_step if isinstance(x, Features) else super().weighted_e_step
        return step(params, log_weights, x)

    def _factors(self, params):
        """L^-1 of every component, with precision = L^-T L^-1: [k, d, d] full, else [k, 1, d]."""
        k, d = params.mean.shape
        factors = self.structure.inverse_factor(params.cov, d)
        return jnp.broadcast_to(factors, (k, *factors.shape[-2:]))

    def _log_density(self, mean, factor, x):
        """(log N [n], L^-1 (x - mean) [n, d]) of one component."""
        y = self.structure.whiten(factor, x - mean)
        constant = jnp.log(self.structure.diagonal(factor)).sum() - 0.5 * x.shape[-1] * LOG_2PI
        return constant - 0.5 * (y * y).sum(-1), y

    def _centred_e_step(self, params, x):
        log_prob, y = jax.vmap(self._log_density, in_axes=(0, 0, None))(params.mean, self._factors(params), x)
        return EStep(Residuals(y), log_prob.T)

    # --- M-step -----------------------------------------------------------------------------------

    def sufficient_statistics(self, resp: Any, x: Any, weights: jax.Array) -> Any:
        if not isinstance(x, Centred):
            moments = super().sufficient_statistics(resp, x, weights)
            return GaussianMoments(moments.count, moments.total, moments.common, moments.count)
        y = resp.y
        weighted = weights.T[..., None] * y
        count = weights.sum(0)
        return CentredMoments(count, weighted.sum(1), self.structure.scatters(y, weighted), count)

    def expected_log_joint(self, params: Any, stats: Any) -> jax.Array:
        if isinstance(stats, CentredMoments):
            raise NotProvidedError(
                self, "expected_log_joint", "centred moments are relative to the params of the E-step"
            )
        own, common = self.coefficients(params)
        # The rows that are not in the count lie at the mean of the component, so that only the
        # determinant and the constant depend on their number.
        linear = own[:, 1 : 1 + params.mean.shape[-1]]
        constant = own[:, 0] + 0.5 * (params.mean * linear).sum(-1)
        return expected_logits(own, common, stats) + ((stats.rows - stats.count) * constant).sum()

    def pseudo_statistics(self, params: Any, strength: Any, units: Any = None) -> Any:
        """The pseudo-statistics of a normal-inverse-Wishart prior.

        They are `strength.mean` rows for the means and `strength.cov` rows for the covariances.
        """
        k, d = params.mean.shape
        of_mean = jnp.broadcast_to(jnp.asarray(strength.mean, params.mean.dtype), (k,))
        of_cov = jnp.broadcast_to(jnp.asarray(strength.cov, params.mean.dtype), (k,)) / (k if self.shared else 1)
        cov = self.structure.expected_quadratic(params.cov, d)
        of_means = jax.vmap(self.structure.quadratic, 1, 1)(params.mean.T).T
        quadratic = of_mean[:, None] * of_means + of_cov[:, None] * cov
        linear = of_mean[:, None] * params.mean
        if self.shared:
            return GaussianMoments(of_mean, linear, quadratic.sum(0), of_cov)
        return GaussianMoments(of_mean, jnp.concatenate([linear, quadratic], 1), quadratic[0, :0], of_cov)

    def maximize(self, stats: Any, params: Any = None) -> GaussianParams:
        if isinstance(stats, CentredMoments):
            return self._maximize_centred(stats, params)
        structure = self.structure
        average, alive = component_means(stats)
        d = average.shape[1] - (0 if self.shared else structure.n_quadratic(average.shape[1]))
        mean = average[:, :d]
        total, count = stats.rows.sum(), stats.count.sum()
        if self.shared:
            cov = structure.unpack(stats.common / total) - jnp.tensordot(stats.count / total, structure.outer(mean), 1)
            second = stats.common / total
        else:
            rows = jnp.where(alive, stats.count / jnp.where(alive, stats.rows, 1), 1)
            cov = structure.unpack(average[:, d:]) - structure.outer(mean)
            cov = cov * rows.reshape(rows.shape + (1,) * (cov.ndim - 1))
            second = stats.total[:, d:].sum(0) / total
        data_mean = stats.count / count @ jnp.where(alive[:, None], mean, 0)
        data_cov = structure.from_second(structure.unpack(second) - count / total * structure.outer(data_mean), d)
        cov = self._allowed(structure.from_second(cov, d), stats.rows, structure.variance(data_cov))
        new = GaussianParams(mean, cov)
        if params is None:
            return new
        return self.keep_where(alive, new, params)

    def _maximize_centred(self, stats, params):
        alive = alive_components(stats.count)
        safe = jnp.where(alive, stats.count, 1)
        shift = stats.total / safe[:, None]
        rows = jnp.where(alive, stats.rows, 1)
        outer = self.structure.scatter_of_mean(shift)
        scatter = stats.scatter - safe.reshape(safe.shape + (1,) * (outer.ndim - 1)) * outer
        if self.shared:
            inner = (jnp.where(alive, 1, 0).reshape(safe.shape + (1,) * (outer.ndim - 1)) * scatter).sum(0)
            inner = inner / stats.rows.sum()
        else:
            inner = scatter / rows.reshape(rows.shape + (1,) * (outer.ndim - 1))
        step, cov = self.structure.moved(params.cov, shift, inner)
        # Centred data are in standard units, so the data's own variance is 1.
        new = GaussianParams(params.mean + step, self._allowed(cov, stats.rows, jnp.ones((), cov.dtype)))
        return self.keep_where(alive, new, params)

    def _allowed(self, cov, rows, scale):
        """Covariances that rest on rows [k], as the structure has them and above floor * scale."""
        cov = cov if self.shared else self.structure.combined(cov, rows)
        floor = default_floor(cov.dtype) if self.floor is None else self.floor
        # Below this even a floor of 0 keeps a collapsed component's density finite, so that it can
        # be named.
        floor = jnp.maximum(jnp.asarray(floor, cov.dtype), jnp.finfo(cov.dtype).eps ** 2) * scale
        return self.structure.clamp(cov, floor)

    # --- conditioning -----------------------------------------------------------------------------

    def ill_conditioned(self, params: Any) -> Any:
        """True where the norm of a precision, times the data's covariance, is over the limit.

        In standard units the data's covariance is I.
        """
        if jnp.result_type(params.mean) != jnp.float32:
            return None
        amplification = self.structure.precision_norm(params.cov, params.mean.shape[-1])
        return ~(amplification < AMPLIFICATION_LIMIT).all()

    def degenerate(self, params: Any, n_points: Any) -> Any:
        """The rule of `jaxem.families.degenerate` for the smallest eigenvalues of covariances."""
        d = params.mean.shape[-1]
        share = n_points / n_points.sum()
        pooled = params.cov if self.shared else jnp.tensordot(share, params.cov, 1)
        smallest, relative = self.structure.smallest_eigenvalues(params.cov, pooled, d)
        floor = default_floor(params.cov.dtype) if self.floor is None else self.floor
        floored = rests_on_floor(smallest, floor)
        return floored if self.shared else floored | is_degenerate(smallest, relative, n_points, d + 2)

    # --- starts, units, sampling, checks ----------------------------------------------------------

    def mean(self, params: Any) -> Any:
        return params.mean

    def embed(self, x: Any, weights: jax.Array | None = None) -> Any:
        return x

    def units(self, x: Any, weights: jax.Array | None = None) -> AffineUnits:
        return AffineUnits(standardize(x, weights, self.structure.metric), ROLES)

    def refined(self, params: Any, z: Any, weights: jax.Array) -> GaussianParams:
        """Params from moments about the means just found.

        It takes one component at a time, so that no n x k x d array is stored.
        """

        def one(component):
            mean, weights = component
            y = z - mean
            return weights.sum(), weights @ y, self.structure.scatter(y, weights), weights.sum()

        moments = CentredMoments(*lax.map(one, (params.mean, weights.T)))
        return self._maximize_centred(moments, GaussianParams(params.mean, self.structure.identity(params.cov)))

    def origin(self, x: Any, params: Any = None) -> Units:
        affine = host_origin(rows_or_means(x, params), self._overall_cov(params))
        return Identity() if affine is None else AffineUnits(affine, ROLES)

    def _overall_cov(self, params):
        """The covariance [d, d] of rows drawn at params; None where columns may not be mixed."""
        if params is None or self.structure.metric != "full":
            return None
        means = np.asarray(params.mean, np.float64)
        spread = np.cov(means.T, bias=True).reshape(means.shape[1], -1)
        within = np.asarray(params.cov, np.float64)
        return spread + (within if self.shared else within.mean(0))

    def sample(self, params: Any, key: jax.Array, n: int) -> Any:
        """n rows of every component, [n, k, d]."""
        noise = jax.random.normal(key, (n, *params.mean.shape), params.mean.dtype)
        return params.mean + self.structure.colour(params.cov, noise)

    def check(self, x: Any, params: Any = None) -> None:
        super().check(x, params)
        if params is not None:
            self._check_params(x.shape[1], params)

    def check_fit(self, x: Any, weights: jax.Array, dtype: Any) -> None:
        if not is_traced(x):
            check_spread(x, None if is_traced(weights) else weights, self.structure.metric, dtype)

    def _check_params(self, d, params):
        mean, cov = np.shape(params.mean), np.shape(params.cov)
        if len(mean) != 2 or mean[1] != d:
            raise ValueError(f"start: mean has shape {mean}, expected [k, {d}] for x with {d} columns")
        tail = self.structure.shape(d)
        want = tail if self.shared else (mean[0], *tail)
        if cov != want:
            raise ValueError(f"start: cov has shape {cov}, expected {want} for covariance={self.covariance!r}")


def rows_or_means(x: Any, params: Any) -> Any:
    """Rows on the host, or where there are none the means of the params."""
    return np.asarray(params.mean, np.float64) if x is None else x
