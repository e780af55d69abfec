"""Affine changes of coordinates, and the one in which rows have mean 0 and unit spread."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxem.numerics import linalg
from jaxem.numerics.chunks import block_rows, cut_rows, first_of


class Affine(NamedTuple):
    """z = ((x - shift) / scale) @ matrix, of rows x [n, d], or of numbers x [n].

    shift [d] ([] for numbers); scale [d] (per column), or a scalar where all axes must keep one scale; matrix and its
    inverse [d, d] decorrelate the columns, None where the model's axes are the data's own. Made on the host it holds
    NumPy arrays of float64.
    """

    shift: Any
    scale: Any
    matrix: Any = None
    inverse: Any = None

    def forth(self, x: Any) -> Any:
        """Rows (or means) [..., d] in the new coordinates."""
        z = (x - self.shift) / self.scale
        return z if self.matrix is None else _dot(z, self.matrix)

    def back(self, z: Any) -> Any:
        """Rows (or means) [..., d] in the old coordinates."""
        return self.shift + (z if self.matrix is None else _dot(z, self.inverse)) * self.scale

    def cov_forth(self, cov: Any) -> Any:
        """Covariances: [..., d, d] where there is a matrix, else variances [..., d] or [...]."""
        if self.matrix is None:
            return cov / self.scale**2
        return _congruent(cov / (self.scale[:, None] * self.scale), self.matrix)

    def cov_back(self, cov: Any) -> Any:
        """The inverse of `cov_forth`; matrices stay positive definite when rounded to the dtype of compiled code."""
        if self.matrix is None:
            return cov * self.scale**2
        return _representable(_congruent(cov, self.inverse)) * (self.scale[:, None] * self.scale)

    def log_volume(self) -> Any:
        """log |dx / dz|: log p(x) = log p(z) - log_volume."""
        module = module_of(self.shift)
        volume = module.log(module.broadcast_to(self.scale, np.shape(self.shift))).sum()
        return volume if self.matrix is None else volume - module.linalg.slogdet(self.matrix)[1]


def standardize(x: Any, weights: jax.Array | None = None, metric: str = "full") -> Affine:
    """The coordinates in which rows x [n, d] have mean 0 and unit spread.

    Args:
        x: rows [n, d].
        weights: [n], or None.
        metric: "full": covariance I; "diag": unit variances; "spherical": one scale, and mean variance 1.
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


#: Rows that are summed together: no temporary is as long as the data.
BLOCK_ROWS = 1 << 16


def _per_block(function, blocks):
    """function(rows, weights) of every block, [b, ...]."""
    if len(blocks[1]) == 1:
        return function(*first_of(blocks))[None]
    return lax.map(lambda block: function(*block), blocks)


def _total(function, blocks):
    return _per_block(function, blocks).sum(0)


def host_origin(x: Any, cov: Any = None) -> Affine | None:
    """Host coordinates in which rows, and a start, may be rounded to float32 and lose no digits; None: the data's own.

    They move the origin to the data. Where the overall covariance `cov` [d, d] of a start has directions that float32
    cannot tell from 0, they decorrelate the columns too.
    """
    sample = np.asarray(x[:: max(1, len(x) // SAMPLE_ROWS)], np.float64)
    shift = np.median(sample, 0)  # one row far from all others does not move it
    decorrelated = None if cov is None else _host_matrix(cov)
    if decorrelated is not None:
        scale, matrix = decorrelated
        return Affine(shift, scale, matrix, np.linalg.inv(matrix))
    far = np.abs(shift) > FAR * sample.std(0)
    return Affine(shift, np.float64(1)) if x.dtype == np.float64 or far.any() else None


#: Rows that `host_origin` reads: any point near the data will do.
SAMPLE_ROWS = 4096

#: Means further than this from the origin, in standard deviations, lose digits of a start when rounded to float32.
FAR = 100.0

#: Correlation matrices with a larger condition number lose digits of a start when rounded to float32.
ILL_CONDITIONED = 1e3


def _host_matrix(cov):
    """(scale, matrix) that decorrelate columns of this covariance; None where float32 holds their correlations well."""
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

    # Twice, as in a Cholesky QR: the first pass is blind to directions below the rounding of the largest one, and in
    # its coordinates the second sees them. There nearly all eigenvalues are 1, and which vectors belong to them is an
    # accident of rounding: turned back, the second change is none where none is needed.
    for last in (False, True):
        values, vectors = jnp.linalg.eigh(_total(second_moment, blocks))
        roots = jnp.sqrt(jnp.maximum(values, values[-1] * jnp.finfo(values.dtype).eps))
        forth, back = vectors / roots, roots[:, None] * vectors.T
        if last:
            forth, back = _dot(forth, vectors.T), _dot(vectors, back)
        matrix, inverse = _dot(matrix, forth), _dot(back, inverse)
    return affine._replace(matrix=matrix, inverse=inverse)


def module_of(array: Any) -> Any:
    """NumPy (and float64) for what was made on the host, else JAX."""
    return np if isinstance(array, (np.ndarray, np.generic, float)) else jnp


def _dot(a, b):
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a @ b
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _congruent(cov, matrix):
    """matrix^T cov matrix, symmetric to the last bit."""
    moved = _dot(_dot(matrix.T, cov), matrix)
    return 0.5 * (moved + moved.swapaxes(-1, -2))


def _representable(cov):
    """cov, or where rounding alone could make it indefinite, the nearest covariance of which that is not so.

    Rounding moves the eigenvalues of a correlation matrix by up to about d eps. What changes is below that.
    """
    host = isinstance(cov, np.ndarray)
    eps = np.finfo(jnp.zeros(()).dtype if host else cov.dtype).eps
    module, floor = np if host else jnp, cov.shape[-1] * float(eps)
    scale = module.sqrt(module.diagonal(cov, axis1=-2, axis2=-1))
    scale = scale[..., :, None] * scale[..., None, :]
    unit = cov / module.where(scale > 0, scale, 1)
    if not host:
        return cov + (linalg.clamp_eigenvalues(unit, floor) - unit) * scale
    values, vectors = np.linalg.eigh(unit)
    lift = np.maximum(floor - values, 0)
    return cov + (vectors * lift[..., None, :]) @ vectors.swapaxes(-1, -2) * scale
