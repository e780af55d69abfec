"""Affine changes of coordinates, such as the one in which rows have mean 0 and unit spread."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxem.numerics import linalg
from jaxem.numerics.chunks import block_rows, cut_rows, first_of


class Affine(NamedTuple):
    """The map z = ((x - shift) / scale) @ matrix of rows x [n, d], or of numbers x [n].

    A map that was made on the host holds NumPy arrays of float64.

    Attributes:
        shift: [d], or [] for numbers.
        scale: one for each column [d], or a scalar where all axes must keep one scale.
        matrix: [d, d], which decorrelates the columns; None where the model's axes are the data's
            own.
        inverse: the inverse of `matrix`, or None.
    """

    shift: Any
    scale: Any
    matrix: Any = None
    inverse: Any = None

    def forth(self, x: Any) -> Any:
        """Rows or means x [..., d] in the new coordinates."""
        z = (x - self.shift) / self.scale
        return z if self.matrix is None else _dot(z, self.matrix)

    def back(self, z: Any) -> Any:
        """Rows or means z [..., d] in the old coordinates."""
        return self.shift + (z if self.matrix is None else _dot(z, self.inverse)) * self.scale

    def cov_forth(self, cov: Any) -> Any:
        """Covariances in the new coordinates.

        Args:
            cov: [..., d, d] where there is a matrix, else variances [..., d] or [...].
        """
        if self.matrix is None:
            return cov / self.scale**2
        return _congruent(cov / (self.scale[:, None] * self.scale), self.matrix)

    def cov_back(self, cov: Any) -> Any:
        """Covariances in the old coordinates: the inverse of `cov_forth`.

        Matrices stay positive definite when they are rounded to the dtype of compiled code.
        """
        if self.matrix is None:
            return cov * self.scale**2
        return _representable(_congruent(cov, self.inverse)) * (self.scale[:, None] * self.scale)

    def log_volume(self) -> Any:
        """The log volume log |dx / dz|, so that log p(x) = log p(z) - log_volume()."""
        module = module_of(self.shift)
        volume = module.log(module.broadcast_to(self.scale, np.shape(self.shift))).sum()
        return volume if self.matrix is None else volume - module.linalg.slogdet(self.matrix)[1]


def standardize(x: Any, weights: jax.Array | None = None, metric: str = "full") -> Affine:
    """The coordinates in which rows x [n, d] have mean 0 and unit spread.

    Args:
        x: rows [n, d].
        weights: [n], or None for equal weights.
        metric: "full" makes the covariance I; "diag" makes every variance 1; "spherical" uses one
            scale for all columns, and makes the mean variance 1.
    """
    weights = jnp.ones(x.shape[0], x.dtype) if weights is None else weights
    blocks = cut_rows(x, weights / weights.sum(), block_rows(x.shape[0], BLOCK_ROWS))
    shift = _total(lambda x, w: w @ x, blocks)
    # The second pass removes the rounding of a far origin.
    shift = shift + _total(lambda x, w: w @ (x - shift), blocks)
    # Dividing by the range first keeps squares inside the dtype for any units.
    reach = _per_block(lambda x, w: jnp.abs(jnp.where(w[:, None] > 0, x - shift, 0)).max(0), blocks).max(0)
    reach = reach.max() if metric == "spherical" else reach
    variance = _total(lambda x, w: w @ ((x - shift) / _nonzero(reach)) ** 2, blocks)
    scale = _nonzero(reach * jnp.sqrt(variance.mean() if metric == "spherical" else variance))
    affine = Affine(shift, scale)
    return _decorrelated(affine, blocks) if metric == "full" else affine


#: Number of rows that are summed together, so that no temporary array is as long as the data.
BLOCK_ROWS = 1 << 16


def _per_block(function, blocks):
    """The results of function(rows, weights) for every block, [b, ...]."""
    if len(blocks[1]) == 1:
        return function(*first_of(blocks))[None]
    return lax.map(lambda block: function(*block), blocks)


def _total(function, blocks):
    return _per_block(function, blocks).sum(0)


def host_origin(x: Any, cov: Any = None) -> Affine | None:
    """Host coordinates in which rows and a start lose no digits when they are rounded to float32.

    They move the origin to the data. Where the overall covariance of a start has directions that
    float32 cannot tell from 0, they decorrelate the columns too.

    Args:
        x: rows [n, d] on the host.
        cov: the overall covariance [d, d] of a start, or None.

    Returns:
        The coordinates, or None where the data's own coordinates will do.
    """
    sample = np.asarray(x[:: max(1, len(x) // SAMPLE_ROWS)], np.float64)
    shift = np.median(sample, 0)  # The median does not move for one row far from all others.
    decorrelated = None if cov is None else _host_matrix(cov)
    if decorrelated is not None:
        scale, matrix = decorrelated
        return Affine(shift, scale, matrix, np.linalg.inv(matrix))
    far = np.abs(shift) > FAR * sample.std(0)
    return Affine(shift, np.float64(1)) if x.dtype == np.float64 or far.any() else None


#: Number of rows that `host_origin` reads. Few are enough, because any point near the data will do.
SAMPLE_ROWS = 4096

#: Means that lie further than this from the origin, in standard deviations, lose digits of a start
#: when they are rounded to float32.
FAR = 100.0

#: Correlation matrices with a larger condition number than this lose digits of a start when they
#: are rounded to float32.
ILL_CONDITIONED = 1e3


def _host_matrix(cov):
    """(scale, matrix) that decorrelate columns of covariance `cov`; None where float32 suffices."""
    scale = np.sqrt(np.diagonal(cov))
    values, vectors = np.linalg.eigh(cov / (scale[:, None] * scale))
    if values[0] * ILL_CONDITIONED > values[-1]:
        return None
    return scale, vectors / np.sqrt(np.maximum(values, 1e-15))


def _nonzero(scale):
    return jnp.where(scale > 0, scale, 1)


def _decorrelated(affine, blocks):
    """`affine` with the matrix that makes the second moments of the blocks I."""
    matrix = inverse = jnp.eye(blocks[0].shape[-1], dtype=blocks[0].dtype)

    def second_moment(x, weights):
        y = _dot(affine.forth(x), matrix)
        return _dot((y * weights[:, None]).T, y)

    # This is done twice, as in a repeated Cholesky QR: the first pass cannot resolve directions
    # below the rounding of the largest one, and in its coordinates the second pass resolves them.
    # There nearly all eigenvalues are 1, and rounding decides which vectors belong to them.
    # Therefore the second change is rotated back, so that it is I where no change is needed.
    for last in (False, True):
        values, vectors = jnp.linalg.eigh(_total(second_moment, blocks))
        roots = jnp.sqrt(jnp.maximum(values, values[-1] * jnp.finfo(values.dtype).eps))
        forth, back = vectors / roots, roots[:, None] * vectors.T
        if last:
            forth, back = _dot(forth, vectors.T), _dot(vectors, back)
        matrix, inverse = _dot(matrix, forth), _dot(back, inverse)
    return affine._replace(matrix=matrix, inverse=inverse)


def module_of(array: Any) -> Any:
    """NumPy for arrays that were made on the host, which are of float64, and JAX for all others."""
    return np if isinstance(array, (np.ndarray, np.generic, float)) else jnp


def _dot(a, b):
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a @ b
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _congruent(cov, matrix):
    """The product matrix^T cov matrix, exactly symmetric."""
    moved = _dot(_dot(matrix.T, cov), matrix)
    return 0.5 * (moved + moved.swapaxes(-1, -2))


def _representable(cov):
    """`cov`, changed as little as needed so that it stays positive definite when it is rounded.

    Rounding moves the eigenvalues of a correlation matrix by up to about d eps, and the change made
    here is below that.
    """
    host = isinstance(cov, np.ndarray)
    eps = np.finfo(jax.dtypes.canonicalize_dtype(np.float64) if host else cov.dtype).eps
    module, floor = np if host else jnp, cov.shape[-1] * float(eps)
    scale = module.sqrt(module.diagonal(cov, axis1=-2, axis2=-1))
    scale = scale[..., :, None] * scale[..., None, :]
    unit = cov / module.where(scale > 0, scale, 1)
    if not host:
        return cov + (linalg.clamp_eigenvalues(unit, floor) - unit) * scale
    values, vectors = np.linalg.eigh(unit)
    lift = np.maximum(floor - values, 0)
    return cov + (vectors * lift[..., None, :]) @ vectors.swapaxes(-1, -2) * scale
