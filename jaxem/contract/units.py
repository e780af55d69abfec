"""Standard units: the affine change of coordinates in which data have mean 0 and unit spread.

Fits run in these units, so nothing (floors, starts, float32) depends on where the data lie or how they are scaled.
The loop applies the change once, outside; parameters and log densities are carried back.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxem.numerics import linalg
from jaxem.numerics.chunks import block_rows, cut_rows, first_of


class Affine(NamedTuple):
    """z = ((x - shift) / scale) @ matrix, rows x [n, d].

    shift [d]; scale [d] (per column), or a scalar where all axes must keep one scale; matrix and its inverse [d, d]
    decorrelate the columns, None where the model's axes are the data's own.
    """

    shift: Any
    scale: Any
    matrix: Any = None
    inverse: Any = None


def standardize(x, weights=None, metric="full") -> Affine:
    """The units in which x [n, d] has mean 0 and covariance I ("full"), unit variances ("diag"), or mean variance 1."""
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
    units = Affine(shift, scale)
    return _decorrelated(units, blocks) if metric == "full" else units


#: Rows that are looked at together: no temporary is as long as the data.
BLOCK_ROWS = 1 << 16


def _per_block(function, blocks):
    """function(rows, weights) of every block, [b, ...]."""
    if len(blocks[1]) == 1:
        return function(*first_of(blocks))[None]
    return lax.map(lambda block: function(*block), blocks)


def _total(function, blocks):
    return _per_block(function, blocks).sum(0)


def origin(x, cov=None):
    """Host units in which rows x [n, d], and a start, may be rounded to float32 and lose no digits; None: as they are.

    They move the origin to the data and, where the overall covariance `cov` [d, d] of a start has directions that
    float32 cannot tell from 0, they decorrelate the columns too.
    """
    sample = np.asarray(x[:: max(1, len(x) // SAMPLE_ROWS)], np.float64)
    shift = sample.mean(0)
    decorrelated = None if cov is None else _host_matrix(cov)
    if decorrelated is not None:
        scale, matrix = decorrelated
        return Affine(shift, scale, matrix, np.linalg.inv(matrix))
    far = np.abs(shift) > FAR * sample.std(0)
    return Affine(shift, np.float64(1)) if x.dtype == np.float64 or far.any() else None


#: Rows that `origin` looks at: any point near the data will do.
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


def _decorrelated(units, blocks):
    """`units` with the matrix that makes the second moments of the blocks I."""
    matrix = inverse = jnp.eye(blocks[0].shape[-1], dtype=blocks[0].dtype)

    def second_moment(x, weights):
        y = _dot(to_units(units, x), matrix)
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
    return units._replace(matrix=matrix, inverse=inverse)


def _module(units):
    """NumPy (and float64) for units made on the host, else JAX."""
    return np if isinstance(units.shift, np.ndarray) else jnp


def _dot(a, b):
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a @ b
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def to_units(units, x):
    """Rows (or means) [..., d] in standard units (None: as they are)."""
    if units is None:
        return x
    z = (x - units.shift) / units.scale
    return z if units.matrix is None else _dot(z, units.matrix)


def from_units(units, z):
    """Rows (or means) [..., d] in the data's units."""
    if units is None:
        return z
    return units.shift + (z if units.matrix is None else _dot(z, units.inverse)) * units.scale


def cov_to_units(units, cov):
    """Covariances: [..., d, d] where the units have a matrix, else variances [..., d] or []."""
    if units is None:
        return cov
    if units.matrix is None:
        return cov / units.scale**2
    return _congruent(cov / (units.scale[:, None] * units.scale), units.matrix)


def cov_from_units(units, cov):
    """The inverse of `cov_to_units`; matrices stay positive definite when rounded to the dtype of compiled code."""
    if units is None:
        return cov
    if units.matrix is None:
        return cov * units.scale**2
    return _representable(_congruent(cov, units.inverse)) * (units.scale[:, None] * units.scale)


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


def log_volume(units):
    """log |dx / dz|: log p(x) = log p(z) - log_volume."""
    if units is None:
        return 0.0
    module = _module(units)
    volume = module.log(module.broadcast_to(units.scale, units.shift.shape)).sum()
    return volume if units.matrix is None else volume - module.linalg.slogdet(units.matrix)[1]
