"""Small symmetric matrices: packing, factors that stay cheap in a batch, and the eigenvalue floor."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

#: Up to this size a Cholesky factor is written out entry by entry: in a batch of restarts that is a handful of
#: fused vector operations, where a LAPACK call costs about a microsecond a matrix.
UNROLLED_SIZE = 4


def tril_indices(d: int):
    """Row and column of each entry of a packed lower triangle (row by row)."""
    return np.tril_indices(d)


def pack_lower(matrix):
    """[..., d, d] -> [..., d (d + 1) / 2], the lower triangle."""
    rows, cols = tril_indices(matrix.shape[-1])
    return matrix[..., rows, cols]


def _size_of_packed(length: int) -> int:
    return int((np.sqrt(8 * length + 1) - 1) / 2)


def unpack_lower(packed):
    """[..., d (d + 1) / 2] -> lower triangular [..., d, d]."""
    d = _size_of_packed(packed.shape[-1])
    rows, cols = tril_indices(d)
    index = np.full((d, d), packed.shape[-1])
    index[rows, cols] = np.arange(len(rows))
    padded = jnp.concatenate([packed, jnp.zeros_like(packed[..., :1])], -1)
    return padded[..., index]


def unpack_symmetric(packed):
    """[..., d (d + 1) / 2] -> symmetric [..., d, d]."""
    d = _size_of_packed(packed.shape[-1])
    rows, cols = tril_indices(d)
    index = np.empty((d, d), int)
    index[rows, cols] = index[cols, rows] = np.arange(len(rows))
    return packed[..., index]


def _cholesky_unrolled(a):
    d = a.shape[-1]
    low = [[jnp.zeros_like(a[..., 0, 0])] * d for _ in range(d)]
    for j in range(d):
        pivot = a[..., j, j] - sum((low[j][m] * low[j][m] for m in range(j)), jnp.zeros_like(a[..., 0, 0]))
        low[j][j] = jnp.where(pivot > 0, jnp.sqrt(jnp.where(pivot > 0, pivot, 1)), jnp.nan)
        for i in range(j + 1, d):
            dot = sum((low[i][m] * low[j][m] for m in range(j)), jnp.zeros_like(pivot))
            low[i][j] = (a[..., i, j] - dot) / low[j][j]
    return jnp.stack([jnp.stack(row, -1) for row in low], -2)


def cholesky(a):
    """Lower Cholesky factor of [..., d, d]; NaN where a matrix is not positive definite."""
    if a.shape[-1] <= UNROLLED_SIZE:
        return _cholesky_unrolled(a)
    return lax.linalg.cholesky(a, symmetrize_input=False)


def inverse_lower(lower):
    """Inverse of a lower triangular [..., d, d]."""
    d = lower.shape[-1]
    if d > UNROLLED_SIZE:
        eye = jnp.broadcast_to(jnp.eye(d, dtype=lower.dtype), lower.shape)
        return lax.linalg.triangular_solve(lower, eye, left_side=True, lower=True)
    inv = [[jnp.zeros_like(lower[..., 0, 0])] * d for _ in range(d)]
    for j in range(d):
        inv[j][j] = 1 / lower[..., j, j]
        for i in range(j + 1, d):
            dot = sum((lower[..., i, m] * inv[m][j] for m in range(j, i)), jnp.zeros_like(lower[..., 0, 0]))
            inv[i][j] = -dot / lower[..., i, i]
    return jnp.stack([jnp.stack(row, -1) for row in inv], -2)


def log_det_lower(lower):
    """log |L| of a lower triangular [..., d, d] with positive diagonal."""
    return jnp.log(jnp.diagonal(lower, axis1=-2, axis2=-1)).sum(-1)


@jax.custom_batching.custom_vmap
def _clamp_where_needed(matrix, floor):
    """matrix [..., d, d], floor [...]: one predicate for the whole batch."""
    eye = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
    usable = jnp.isfinite(matrix).all((-2, -1))
    below = jnp.isnan(cholesky(matrix - floor[..., None, None] * eye)).any((-2, -1)) & usable

    def clamp(matrix):
        values, vectors = jnp.linalg.eigh(jnp.where(below[..., None, None], matrix, eye))
        values = jnp.maximum(values, floor[..., None])
        clamped = jnp.einsum("...ij,...j,...kj->...ik", vectors, values, vectors)
        return jnp.where(below[..., None, None], clamped, matrix)

    # An eigendecomposition costs many times a Cholesky factor: the whole batch skips it when nobody needs it.
    return lax.cond(below.any(), clamp, lambda m: m, matrix)


@_clamp_where_needed.def_vmap
def _(axis_size, in_batched, matrix, floor):
    # A plain vmap would turn the `cond` into "compute both": keep the batch inside one call instead.
    batched = [
        value if is_batched else jnp.broadcast_to(value, (axis_size, *value.shape))
        for value, is_batched in zip((matrix, floor), in_batched, strict=True)
    ]
    return _clamp_where_needed(*batched), True


def clamp_eigenvalues(matrix, floor):
    """Raise the eigenvalues of symmetric [..., d, d] to at least `floor`; exact and free where none is below.

    Of all matrices with eigenvalues >= floor this one maximises the expected Gaussian log-likelihood with scatter
    `matrix`. Derivatives pass through as if nothing had been clamped.
    """
    fixed = lax.stop_gradient(matrix)
    floor = jnp.broadcast_to(lax.stop_gradient(floor), matrix.shape[:-2]).astype(matrix.dtype)
    return matrix + lax.stop_gradient(_clamp_where_needed(fixed, floor) - fixed)
