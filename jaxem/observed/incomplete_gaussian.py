"""Normal components for rows with missing entries and noise: the complete, exact row is hidden."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.contract.affine import Affine, host_origin, standardize
from jaxem.contract.model import model_class
from jaxem.contract.pytree import pytree_class, static
from jaxem.contract.units import COVARIANCE, LOCATION, AffineUnits, Identity, Units
from jaxem.families.gaussian import GaussianMoments, GaussianParams
from jaxem.families.support import RowError, check_vectors
from jaxem.inputs import arrays
from jaxem.inputs.covariance_rank import check_ranges
from jaxem.numerics import linalg
from jaxem.numerics.linalg import PRECISION
from jaxem.numerics.special import LOG_2PI
from jaxem.numerics.tracing import is_traced
from jaxem.observed.incomplete import Incomplete
from jaxem.observed.missing_entries import (
    check_columns_seen,
    column_ranges,
    filled,
    missing_as_nan,
    require_no_infinity,
    rows_seen,
    seen_columns,
)

NOISE = ("none", "diag", "full")


class SeenRows(NamedTuple):
    """Prepared rows with missing entries.

    Attributes:
        values: the entries [n, d], with 0 for missing ones.
        seen: [n, d], 1 for an entry that was seen and 0 for a missing one.
        noise: the known variances [n, d] or covariances [n, d, d] of the noise, or None.
    """

    values: Any
    seen: Any
    noise: Any


@pytree_class
class SeenUnits(Units):
    """Units of each column; the density of a row changes with each entry that was seen.

    Attributes:
        affine: a shift and a scale for each column.
        seen: [n, d], 1 for an entry that was seen and 0 for a missing one.
        has_noise: whether data are the pair (rows, known noise).
        full_noise: whether the known noise consists of covariance matrices.
        full: whether the covariances of the params are matrices.
    """

    affine: Affine
    seen: Any
    has_noise: bool = static()
    full_noise: bool = static()
    full: bool = static()

    def rows(self, x: Any) -> Any:
        values, noise = x if self.has_noise else (x, None)
        values = self.affine.forth(values)
        return values if noise is None else (values, self._cov(noise, -1, self.full_noise))

    def rows_back(self, z: Any) -> Any:
        values, noise = z if self.has_noise else (z, None)
        values = self.affine.back(values)
        return values if noise is None else (values, self._cov(noise, 1, self.full_noise))

    def _cov(self, cov, power, full):
        """Covariances (or variances) times scale^2 for power 1, divided by it for power -1."""
        scale = self.affine.scale**power
        full = full and np.ndim(scale)
        return cov * (scale[:, None] * scale if full else scale**2)

    def params(self, params: Any) -> Any:
        return GaussianParams(self.affine.forth(params.mean), self._cov(params.cov, -1, self.full))

    def back(self, params: Any) -> Any:
        return GaussianParams(self.affine.back(params.mean), self._cov(params.cov, 1, self.full))

    def log_volume(self) -> Any:
        module = np if isinstance(self.seen, np.ndarray) else jnp
        return self.seen @ module.log(module.broadcast_to(self.affine.scale, self.affine.shift.shape))

    def loses_digits(self, params: Any) -> bool:
        return AffineUnits(self.affine, GaussianParams(LOCATION, COVARIANCE)).loses_digits(params)


@model_class
class IncompleteGaussian(Incomplete):
    """Normal rows that are seen with missing entries and with noise of known size.

    Rows v ~ N(mean_k, cov_k) are seen as x = v + e, with entries missing at random and noise
    e ~ N(0, S_i), where S_i is known. Data x are rows [n, d], in which NaN stands for a missing
    entry. With noise they are the pair (rows, S), where S are variances [n, d] (noise="diag") or
    covariances [n, d, d] (noise="full").

    If o are the entries of a row that were seen, log p(x_o) = log N(x_o | mean_o, (cov + S)_oo).
    This is the ignorable likelihood: nothing is imputed. The E-step computes the expectations of v
    and v v^T given x_o under every component, by Bishop (2006), equation (2.81); the M-step is that
    of complete rows. Ghahramani and Jordan (1994) for missing entries; Bovy, Hogg and Roweis
    (2011), "extreme deconvolution", for noise. With noise the likelihood is bounded, and
    covariances may go to 0.

    Args:
        model: a `Gaussian`.
        noise: "none", "diag" or "full".

    Raises:
        ValueError: `noise` is not one of these.

    Examples:
        >>> import jax, jaxem
        >>> x = jaxem.datasets.old_faithful()
        >>> x[::4, 1] = jax.numpy.nan
        >>> model = jaxem.gaussian_mixture(2, missing=True)
        >>> best, _ = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=8)
        >>> # The expected wait after an eruption of 3.6 minutes is 77 minutes.
        >>> model.conditional_mean(best.params, x)[0].round().tolist()
        [4.0, 77.0]
    """

    model: Any
    noise: str = static(default="none")

    def __post_init__(self) -> None:
        if self.noise not in NOISE:
            raise ValueError(f"noise: expected one of {', '.join(NOISE)}; got {self.noise!r}")

    @property
    def row_ndim(self) -> Any:
        return {"none": 1, "diag": (1, 1), "full": (1, 2)}[self.noise]

    @property
    def _elementwise(self):
        """Whether the columns are independent, in the components and in the noise."""
        return self.model.shape != "full" and self.noise != "full"

    def rows(self, x: Any) -> Any:
        return arrays.as_rows(missing_as_nan(x))

    def _parts(self, x):
        return x if self.noise != "none" else (x, None)

    def prepare(self, x: Any, weights: jax.Array | None = None, centred: bool = False) -> Any:
        if isinstance(x, SeenRows):
            return x
        values, noise = self._parts(x)
        seen = ~jnp.isnan(values)
        return SeenRows(jnp.where(seen, values, 0), seen.astype(values.dtype), noise)

    # --- E-step -----------------------------------------------------------------------------------

    def complete(self, params: Any, x: Any) -> Any:
        covs = params.cov
        if self.model.shape == "spherical":
            covs = jnp.broadcast_to(covs[..., None], (*covs.shape, params.mean.shape[1]))
        if self.model.shape != "full" and not self._elementwise:
            covs = covs[..., None] * jnp.eye(covs.shape[-1], dtype=covs.dtype)
        covs = jnp.broadcast_to(covs, (len(params.mean), *covs.shape[-(1 if self._elementwise else 2) :]))
        posterior = _elementwise if self._elementwise else _jointly
        mean, cov, log_prob = jax.vmap(lambda m, c: posterior(m, c, x), out_axes=1)(params.mean, covs)
        return self._features(mean, cov), log_prob

    def _features(self, mean, cov):
        """E[v, quadratic(v)] [..., f] from the mean [..., d] and covariance, or variances, of v."""
        if self.model.shape == "full":
            rows, cols = linalg.tril_indices(mean.shape[-1])
            quadratic = mean[..., rows] * mean[..., cols] + linalg.pack_lower(cov)
        else:
            variances = cov if self._elementwise else jnp.diagonal(cov, axis1=-2, axis2=-1)
            quadratic = mean * mean + variances
            quadratic = quadratic.sum(-1, keepdims=True) if self.model.shape == "spherical" else quadratic
        return jnp.concatenate([mean, quadratic], -1)

    def at_start(self, x: Any) -> Any:
        """Features in which missing entries have the mean and the variance of the data.

        In standard units these are 0 and 1. The noise is ignored.
        """
        variances = 1 - x.seen
        cov = variances if self._elementwise else variances[..., None] * jnp.eye(x.seen.shape[1], dtype=x.seen.dtype)
        return self._features(x.values, cov)

    def moments_of(self, count: Any, total: Any) -> Any:
        if not self.model.shared:
            return GaussianMoments(count, total, total[0, :0], count)
        d = total.shape[1] - self.model.structure.n_quadratic(total.shape[1])
        return GaussianMoments(count, total[:, :d], total[:, d:].sum(0), count)

    def degenerate(self, params: Any, n_points: Any) -> Any:
        if self.noise != "none":
            return jnp.zeros((), bool)
        return self.model.degenerate(params, n_points)

    # --- missing entries --------------------------------------------------------------------------

    def conditional_mean(self, params: Any, x: Any) -> Any:
        """E[v | x] under every component, [n, k, d]."""
        return self.complete(params, self.prepare(x))[0][..., : params.mean.shape[-1]]

    def observed(self, x: Any) -> Any:
        return rows_seen(self._parts(x)[0])

    def sample_like(self, params: Any, key: jax.Array, x: Any) -> Any:
        """Draw rows [n, k, d] of every component, with the missing entries and the noise of x.

        With noise the result is the pair (rows, S).
        """
        values, noise = self._parts(x)
        row_key, noise_key = jax.random.split(key)
        rows = self.model.sample(params, row_key, len(values))
        if noise is not None:
            draws = jax.random.normal(noise_key, values.shape, values.dtype)
            factor = jnp.sqrt(noise) if self.noise == "diag" else linalg.cholesky(noise)
            error = factor * draws if self.noise == "diag" else jnp.einsum("nij,nj->ni", factor, draws)
            rows = rows + error[:, None]
        rows = jnp.where(jnp.isnan(values)[:, None], jnp.nan, rows)
        each = (len(values), rows.shape[1])
        return rows if noise is None else (rows, jnp.broadcast_to(noise[:, None], (*each, *noise.shape[1:])))

    # --- units of each column, since a missing entry cannot be mixed with other columns -----------

    def embed(self, x: Any, weights: jax.Array | None = None) -> Any:
        return self.prepare(x).values

    def units(self, x: Any, weights: jax.Array | None = None) -> Units:
        values, _ = self._parts(x)
        weights = jnp.ones(len(values), values.dtype) if weights is None else weights
        columns, seen = seen_columns(values)
        each = jax.vmap(lambda column, w: standardize(column[:, None], w * weights, "diag"))(columns, seen)
        shift, scale = each.shift[:, 0], each.scale[:, 0]
        if self.model.shape == "spherical":
            rows = seen @ weights
            scale = jnp.sqrt((rows * scale**2).sum() / rows.sum())
        return self._seen_units(Affine(shift, scale), seen.T)

    def origin(self, x: Any, params: Any = None) -> Units:
        if x is None:
            return Identity() if params is None else self.model.origin(None, params)
        values, _ = self._parts(x)
        affine = host_origin(filled(values))
        return Identity() if affine is None else self._seen_units(affine, (~np.isnan(values)).astype(np.float64))

    def _seen_units(self, affine, seen):
        return SeenUnits(affine, seen, self.noise != "none", self.noise == "full", self.model.shape == "full")

    # --- checks -----------------------------------------------------------------------------------

    def check_finite(self, x: Any) -> None:
        if self.noise == "none":
            return require_no_infinity(x)
        if isinstance(x, tuple) and len(x) == 2:
            require_no_infinity(x[0], "x[0]")
            arrays.check_finite(x[1], "x[1]")

    def _check_shapes(self, x, params):
        if self.noise == "none":
            check_vectors(x)
        else:
            self._check_noise_shape(x)
        self.model.check(self._parts(x)[0], params)

    def _check_noise_shape(self, x):
        want = "variances [n, d]" if self.noise == "diag" else "covariances [n, d, d]"
        if not isinstance(x, tuple) or len(x) != 2:
            raise ValueError(f"x: expected the pair (rows [n, d], noise {want}); got a {type(x).__name__}")
        check_vectors(x[0], "x[0]")
        n, d = x[0].shape
        if np.shape(x[1]) != ((n, d) if self.noise == "diag" else (n, d, d)):
            raise ValueError(f"x[1]: expected noise {want} for {n} rows of {d} columns; got shape {np.shape(x[1])}")

    def check(self, x: Any, params: Any = None) -> None:
        self._check_shapes(x, params)
        if is_traced(x):
            return
        values, noise = self._parts(x)
        check_columns_seen(values)
        if noise is not None:
            self._check_noise(np.asarray(noise, np.float64))

    def _check_noise(self, noise):
        expected = "variances above 0" if self.noise == "diag" else "positive definite covariances"
        bad = ~(noise > 0).all(1) if self.noise == "diag" else _not_positive_definite(noise)
        if bad.any():
            count, row = arrays.first_bad_row(bad)
            found = f"{noise[row].tolist()} ({count} of {len(noise)} rows are wrong)"
            raise RowError("x[1]", expected, row, found, f"row {row}")

    def check_fit(self, x: Any, weights: jax.Array, dtype: Any) -> None:
        values = self._parts(x)[0]
        if not is_traced(values, weights):
            check_columns_seen(values, weights)
            metric = "spherical" if self.model.shape == "spherical" else "diag"
            check_ranges(*column_ranges(values, weights), metric, dtype)


def _not_positive_definite(matrices):
    """Which of the matrices [n, d, d] are not symmetric with eigenvalues above 0: [n] of bool."""
    scale = np.sqrt(np.abs(np.diagonal(matrices, axis1=1, axis2=2)))
    unit = matrices / np.maximum(scale[:, :, None] * scale[:, None, :], np.finfo(float).tiny)
    symmetric = np.abs(unit - unit.swapaxes(1, 2)).max((1, 2)) <= 1e-6
    return ~symmetric | ~(np.linalg.eigvalsh(unit).min(1) > 0)


def _elementwise(mean, var, x):
    """The moments of v given x, and log p(x), under one component of independent columns.

    Returns:
        (E[v] [n, d], var[v] [n, d], log p(x) [n]).
    """
    noise = jnp.zeros_like(x.values) if x.noise is None else x.noise
    total = var + noise
    away = x.seen * (x.values - mean)
    log_prob = -0.5 * (away * away / total + x.seen * (jnp.log(total) + LOG_2PI)).sum(-1)
    there = x.seen > 0
    expected = jnp.where(there, (var * x.values + noise * mean) / total, mean)
    return expected, jnp.where(there, var * noise / total, var), log_prob


def _jointly(mean, cov, x):
    """The moments of v given x, and log p(x), under one component.

    Returns:
        (E[v] [n, d], cov[v] [n, d, d], log p(x) [n]).
    """
    both = x.seen[:, :, None] * x.seen[:, None, :]
    noise = jnp.zeros((), cov.dtype) if x.noise is None else x.noise if x.noise.ndim == 3 else _diagonal(x.noise)
    # A missing entry gets a row and a column of the identity matrix, which changes no determinant;
    # its residual is 0.
    total = both * (cov + noise) + _diagonal(1 - x.seen)
    inverse = linalg.inverse_cholesky(total)
    y = jnp.einsum("nij,nj->ni", inverse, x.seen * (x.values - mean), precision=PRECISION)
    log_prob = -0.5 * ((y * y).sum(-1) + x.seen.sum(-1) * LOG_2PI) + linalg.log_det_lower(inverse)
    gain = jnp.matmul(inverse, x.seen[:, :, None] * cov, precision=PRECISION)
    expected = mean + jnp.einsum("nij,ni->nj", gain, y, precision=PRECISION)
    left = cov - jnp.einsum("nia,nib->nab", gain, gain, precision=PRECISION)
    if x.noise is None:
        # Entries that were seen without noise are known exactly: they keep their values, without
        # rounding errors.
        missing = 1 - x.seen
        return jnp.where(missing > 0, expected, x.values), missing[:, :, None] * missing[:, None, :] * left, log_prob
    return expected, left, log_prob


def _diagonal(values):
    """Diagonal matrices [n, d, d] from [n, d]."""
    return values[..., None] * jnp.eye(values.shape[-1], dtype=values.dtype)
