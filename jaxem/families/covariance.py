"""Structures of covariance matrices: full, diagonal and spherical.

A structure says in which array a covariance is kept, which features its rows need, and how the
M-step gets it from their sums. `Gaussian` does the rest, once for all structures; whether all
components share a covariance is its concern too. Arrays `cov` have any leading axes (k, or none
where the covariance is shared) before the axes of one covariance.

Three forms of second moments occur:

    quadratic   as features, flat: [..., q]
    second      the same as `outer(mean)`: [..., d, d], [..., d], or [..., 1] for the squared norm
    scatter     of whitened rows, in the centred form: [..., d, d], or [..., d]
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.contract.constraints import Constraint, Positive, PositiveDefinite
from jaxem.numerics import linalg
from jaxem.numerics.linalg import PRECISION


class Covariance:
    """The interface of a structure. A new one is a subclass and a line in `gaussian.STRUCTURES`."""

    #: The standard units that keep the structure ("full", "diag" or "spherical"), see
    #: `jaxem.contract.affine.standardize`.
    metric: str

    #: Whether each column has variances of its own, which depend on nothing in the other columns.
    independent_columns = False

    # --- the params -------------------------------------------------------------------------------

    def shape(self, d: int) -> tuple[int, ...]:
        """The shape of one covariance of d columns."""
        raise NotImplementedError

    def constraint(self, floor: Any) -> Constraint:
        """Where covariances live whose eigenvalues are at least `floor`."""
        raise NotImplementedError

    def identity(self, cov: Any) -> Any:
        """Covariances I in the place of `cov`."""
        raise NotImplementedError

    # --- densities --------------------------------------------------------------------------------

    def quadratic(self, columns: Any) -> Any:
        """The quadratic features [q, n] of the columns [d, n] of rows."""
        raise NotImplementedError

    def n_quadratic(self, n_features: int) -> int:
        """How many of n_features features [x, quadratic(x)] are quadratic."""
        raise NotImplementedError

    def natural(self, mean: Any, cov: Any) -> Any:
        """The natural parameters of the linear [k, d] and of the quadratic features [..., q]."""
        raise NotImplementedError

    def half_log_det(self, cov: Any, d: int) -> Any:
        """Half the log determinant, [...]."""
        raise NotImplementedError

    def inverse_factor(self, cov: Any, d: int) -> Any:
        """L^-1 with cov = L L^T: [..., d, d], or its diagonal as a row [..., 1, d]."""
        raise NotImplementedError

    def whiten(self, factor: Any, y: Any) -> Any:
        """L^-1 y of rows y [n, d] for one inverse factor."""
        raise NotImplementedError

    def diagonal(self, factor: Any) -> Any:
        """The diagonal [d] of one inverse factor."""
        raise NotImplementedError

    def colour(self, cov: Any, noise: Any) -> Any:
        """L noise, of standard normal noise [n, k, d]."""
        raise NotImplementedError

    # --- the M-step -------------------------------------------------------------------------------

    def unpack(self, quadratic: Any) -> Any:
        """Sums of the quadratic features as second moments."""
        return quadratic

    def outer(self, mean: Any) -> Any:
        """The second moments of a mean [..., d]."""
        raise NotImplementedError

    def from_second(self, second: Any, d: int) -> Any:
        """The covariance that has these central second moments."""
        return second

    def expected_quadratic(self, cov: Any, d: int) -> Any:
        """The quadratic features [..., q] that a centred row of this covariance has on average."""
        raise NotImplementedError

    def variance(self, cov: Any) -> Any:
        """The data's own variance, to which the floor is relative, from their covariance."""
        return cov

    def combined(self, cov: Any, rows: Any) -> Any:
        """The covariances of k components, from those that each of them would have by itself.

        They rest on rows [k]. It is for structures in which components share a part of their
        covariances: a volume, a shape, an orientation.
        """
        return cov

    def clamp(self, cov: Any, floor: Any) -> Any:
        """cov with eigenvalues of at least `floor`."""
        return jnp.maximum(cov, floor)

    def scatter(self, y: Any, weights: jax.Array) -> Any:
        """The weighted scatter of the rows y [n, d] of one component, weights [n]."""
        return weights @ (y * y)

    def scatters(self, y: Any, weighted: Any) -> Any:
        """The weighted scatters [k, ...] of rows y [k, n, d]; weighted is y times the weights."""
        return (weighted * y).sum(1)

    def scatter_of_mean(self, shift: Any) -> Any:
        """The scatter of a single row shift [..., d]."""
        return shift * shift

    def moved(self, cov: Any, shift: Any, scatter: Any) -> Any:
        """(step of the mean, new covariance), from the mean shift and scatter of whitened rows."""
        raise NotImplementedError

    # --- conditioning -----------------------------------------------------------------------------

    def precision_norm(self, cov: Any, d: int) -> Any:
        """The Frobenius norm of the precision matrix, [...]."""
        raise NotImplementedError

    def smallest_eigenvalues(self, cov: Any, pooled: Any, d: int) -> Any:
        """The smallest eigenvalues [...] of cov, and of cov relative to the covariance `pooled`."""
        raise NotImplementedError


class Full(Covariance):
    """Any positive definite matrix, [..., d, d]."""

    metric = "full"

    def shape(self, d: int) -> Any:
        return (d, d)

    def constraint(self, floor: Any) -> Any:
        return PositiveDefinite(floor)

    def identity(self, cov: Any) -> Any:
        return jnp.broadcast_to(jnp.eye(cov.shape[-1], dtype=cov.dtype), cov.shape)

    def quadratic(self, columns: Any) -> Any:
        rows, cols = linalg.tril_indices(columns.shape[0])
        return columns[rows] * columns[cols]

    def n_quadratic(self, n_features: int) -> Any:
        return n_features - int((np.sqrt(9 + 8 * n_features) - 3) / 2)

    def natural(self, mean: Any, cov: Any) -> Any:
        inverse = linalg.inverse_cholesky(cov)
        precision = jnp.swapaxes(inverse, -1, -2) @ inverse
        linear = (precision @ mean[..., None])[..., 0]
        rows, cols = linalg.tril_indices(mean.shape[-1])
        return linear, precision[..., rows, cols] * jnp.where(rows == cols, -0.5, -1.0).astype(mean.dtype)

    def half_log_det(self, cov: Any, d: int) -> Any:
        return -linalg.log_det_lower(linalg.inverse_cholesky(cov))

    def inverse_factor(self, cov: Any, d: int) -> Any:
        return linalg.inverse_cholesky(cov)

    def whiten(self, factor: Any, y: Any) -> Any:
        return jnp.dot(y, factor.T, precision=PRECISION)

    def diagonal(self, factor: Any) -> Any:
        return jnp.diagonal(factor)

    def colour(self, cov: Any, noise: Any) -> Any:
        return jnp.einsum("...ij,n...j->n...i", linalg.cholesky(cov), noise)

    def unpack(self, quadratic: Any) -> Any:
        return linalg.unpack_symmetric(quadratic)

    def outer(self, mean: Any) -> Any:
        return mean[..., :, None] * mean[..., None, :]

    def expected_quadratic(self, cov: Any, d: int) -> Any:
        return linalg.pack_lower(cov)

    def variance(self, cov: Any) -> Any:
        return jnp.trace(cov) / cov.shape[-1]

    def clamp(self, cov: Any, floor: Any) -> Any:
        return linalg.clamp_eigenvalues(cov, floor)

    def scatter(self, y: Any, weights: jax.Array) -> Any:
        return jnp.dot((y * weights[:, None]).T, y, precision=PRECISION)

    def scatters(self, y: Any, weighted: Any) -> Any:
        return jnp.einsum("kni,knj->kij", weighted, y, precision=PRECISION)

    def scatter_of_mean(self, shift: Any) -> Any:
        return self.outer(shift)

    def moved(self, cov: Any, shift: Any, scatter: Any) -> Any:
        lower = linalg.cholesky(cov)
        step = jnp.einsum("...ij,...j->...i", lower, shift)
        new = lower @ scatter @ jnp.swapaxes(lower, -1, -2)
        return step, 0.5 * (new + jnp.swapaxes(new, -1, -2))

    def precision_norm(self, cov: Any, d: int) -> Any:
        factor = linalg.inverse_cholesky(cov)
        precision = jnp.swapaxes(factor, -1, -2) @ factor
        return jnp.sqrt((precision * precision).sum((-2, -1)))

    def smallest_eigenvalues(self, cov: Any, pooled: Any, d: int) -> Any:
        inverse = linalg.inverse_cholesky(cov)
        return _smallest_eigenvalue(inverse), _smallest_eigenvalue(inverse @ linalg.cholesky(pooled))


def _smallest_eigenvalue(inverse):
    """The smallest eigenvalue of the covariance whose inverse is inverse^T inverse, [..., d, d].

    It is 0 where the covariance has no inverse.

    It is computed from the largest eigenvalue of that inverse, which is exact to rounding. In the
    covariance itself it would be lost in the rounding of the largest eigenvalue.
    """
    largest = linalg.largest_eigenvalue(jnp.swapaxes(inverse, -1, -2) @ inverse)
    return jnp.where(jnp.isfinite(largest), 1 / largest, 0)


class Diagonal(Covariance):
    """A variance for each column, [..., d]."""

    metric = "diag"
    independent_columns = True

    def shape(self, d: int) -> Any:
        return (d,)

    def constraint(self, floor: Any) -> Any:
        return Positive(floor)

    def identity(self, cov: Any) -> Any:
        return jnp.ones_like(cov)

    def columns(self, cov: Any) -> Any:
        """The variances with an axis for the columns: [..., d], or [..., 1] if they are equal."""
        return cov

    def quadratic(self, columns: Any) -> Any:
        return columns * columns

    def n_quadratic(self, n_features: int) -> Any:
        return n_features // 2

    def natural(self, mean: Any, cov: Any) -> Any:
        variance = self.columns(cov)
        precision = 1 / jnp.where(variance > 0, variance, jnp.nan)
        return mean * precision, -0.5 * precision

    def half_log_det(self, cov: Any, d: int) -> Any:
        return (0.5 * jnp.log(cov)).sum(-1)

    def inverse_factor(self, cov: Any, d: int) -> Any:
        return 1 / self._deviations(cov, d)[..., None, :]

    def _deviations(self, cov, d):
        return jnp.sqrt(jnp.where(cov > 0, cov, jnp.nan))

    def whiten(self, factor: Any, y: Any) -> Any:
        return y * factor

    def diagonal(self, factor: Any) -> Any:
        return factor[0]

    def colour(self, cov: Any, noise: Any) -> Any:
        return noise * self.columns(jnp.sqrt(cov))

    def outer(self, mean: Any) -> Any:
        return mean * mean

    def expected_quadratic(self, cov: Any, d: int) -> Any:
        return cov

    def moved(self, cov: Any, shift: Any, scatter: Any) -> Any:
        return jnp.sqrt(self.columns(cov)) * shift, self.from_scatter(cov, scatter)

    def from_scatter(self, cov: Any, scatter: Any) -> Any:
        """The new covariance from the whitened rows' mean scatter [..., d]."""
        return cov * scatter

    def precision_norm(self, cov: Any, d: int) -> Any:
        return jnp.linalg.norm(1 / cov, axis=-1)

    def smallest_eigenvalues(self, cov: Any, pooled: Any, d: int) -> Any:
        return cov.min(-1), (cov / pooled).min(-1)


class Spherical(Diagonal):
    """One variance of all columns, [...]."""

    metric = "spherical"
    independent_columns = False

    def shape(self, d: int) -> Any:
        return ()

    def quadratic(self, columns: Any) -> Any:
        return (columns * columns).sum(0, keepdims=True)

    def n_quadratic(self, n_features: int) -> Any:
        return 1

    def columns(self, cov: Any) -> Any:
        return cov[..., None]

    def half_log_det(self, cov: Any, d: int) -> Any:
        return d * (0.5 * jnp.log(cov))

    def _deviations(self, cov, d):
        deviation = super()._deviations(cov, d)
        return jnp.broadcast_to(deviation[..., None], (*deviation.shape, d))

    def outer(self, mean: Any) -> Any:
        return (mean * mean).sum(-1, keepdims=True)

    def from_second(self, second: Any, d: int) -> Any:
        return second[..., 0] / d

    def expected_quadratic(self, cov: Any, d: int) -> Any:
        return d * cov[..., None]

    def from_scatter(self, cov: Any, scatter: Any) -> Any:
        return cov * scatter.mean(-1)

    def precision_norm(self, cov: Any, d: int) -> Any:
        return 1 / cov * d**0.5

    def smallest_eigenvalues(self, cov: Any, pooled: Any, d: int) -> Any:
        return cov, cov / pooled
