"""Small symmetric matrices: packing, factors that are fast in batches, and eigenvalue floors."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxem.numerics.hardware import hardware

#: TF32, the default for float32 products on GPUs, keeps 10 bits, which is not enough for second
#: moments.
PRECISION = lax.Precision.HIGHEST

#: Up to this size a Cholesky factor is written out entry by entry. In a batch of restarts that is a
#: small number of fused vector operations.
UNROLLED_SIZE = 4

#: Up to this size a factor is computed column by column in a loop. Larger matrices are cut into
#: halves, whose factors are joined by matrix products.
BLOCK = 8


def tril_indices(d: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each entry of a packed lower triangle, which is packed row by row."""
    return np.tril_indices(d)


def pack_lower(matrix: jax.Array) -> jax.Array:
    """The lower triangle [..., d (d + 1) / 2] of a matrix [..., d, d]."""
    rows, cols = tril_indices(matrix.shape[-1])
    return matrix[..., rows, cols]


def _size_of_packed(length: int) -> int:
    return int((np.sqrt(8 * length + 1) - 1) / 2)


def unpack_lower(packed: jax.Array) -> jax.Array:
    """The lower triangular matrix [..., d, d] of a packed one [..., d (d + 1) / 2]."""
    d = _size_of_packed(packed.shape[-1])
    rows, cols = tril_indices(d)
    index = np.full((d, d), packed.shape[-1])
    index[rows, cols] = np.arange(len(rows))
    padded = jnp.concatenate([packed, jnp.zeros_like(packed[..., :1])], -1)
    return padded[..., index]


def unpack_symmetric(packed: jax.Array) -> jax.Array:
    """The symmetric matrix [..., d, d] of a packed lower triangle [..., d (d + 1) / 2]."""
    d = _size_of_packed(packed.shape[-1])
    rows, cols = tril_indices(d)
    index = np.empty((d, d), int)
    index[rows, cols] = index[cols, rows] = np.arange(len(rows))
    return packed[..., index]


def _cholesky_unrolled(a: jax.Array) -> jax.Array:
    d = a.shape[-1]
    low = [[jnp.zeros_like(a[..., 0, 0])] * d for _ in range(d)]
    for j in range(d):
        pivot = a[..., j, j] - sum((low[j][m] * low[j][m] for m in range(j)), jnp.zeros_like(a[..., 0, 0]))
        low[j][j] = jnp.where(pivot > 0, jnp.sqrt(jnp.where(pivot > 0, pivot, 1)), jnp.nan)
        for i in range(j + 1, d):
            dot = sum((low[i][m] * low[j][m] for m in range(j)), jnp.zeros_like(pivot))
            low[i][j] = (a[..., i, j] - dot) / low[j][j]
    return jnp.stack([jnp.stack(row, -1) for row in low], -2)


def _inverse_unrolled(lower: jax.Array) -> jax.Array:
    d = lower.shape[-1]
    inv = [[jnp.zeros_like(lower[..., 0, 0])] * d for _ in range(d)]
    for j in range(d):
        inv[j][j] = 1 / lower[..., j, j]
        for i in range(j + 1, d):
            dot = sum((lower[..., i, m] * inv[m][j] for m in range(j, i)), jnp.zeros_like(lower[..., 0, 0]))
            inv[i][j] = -dot / lower[..., i, i]
    return jnp.stack([jnp.stack(row, -1) for row in inv], -2)


def _cholesky_by_columns(a: jax.Array) -> jax.Array:
    """The factor computed one column at a time, for the whole batch at once."""
    d = a.shape[-1]

    def column(j, carry):
        rest, low = carry
        pivot = lax.dynamic_slice_in_dim(jnp.diagonal(rest, axis1=-2, axis2=-1), j, 1, -1)
        new = lax.dynamic_index_in_dim(rest, j, -1, keepdims=False) / jnp.sqrt(jnp.where(pivot > 0, pivot, jnp.nan))
        new = jnp.where(jnp.arange(d) >= j, new, 0)
        return rest - new[..., :, None] * new[..., None, :], lax.dynamic_update_index_in_dim(low, new, j, -1)

    return lax.fori_loop(0, d, column, (a, jnp.zeros_like(a)))[1]


def _inverse_cholesky_by_columns(a: jax.Array) -> jax.Array:
    """L^-1 by elimination of [a, I], which leaves [L^T, L^-1]."""
    d = a.shape[-1]

    def column(j, both):
        row = lax.dynamic_index_in_dim(both, j, -2, keepdims=False)
        pivot = lax.dynamic_slice_in_dim(row, j, 1, -1)
        row = row / jnp.sqrt(jnp.where(pivot > 0, pivot, jnp.nan))
        below = jnp.where(jnp.arange(d) > j, row[..., :d], 0)
        return lax.dynamic_update_index_in_dim(both - below[..., :, None] * row[..., None, :], row, j, -2)

    start = jnp.concatenate([a, jnp.broadcast_to(jnp.eye(d, dtype=a.dtype), a.shape)], -1)
    return lax.fori_loop(0, d, column, start)[..., d:]


def _in_halves(a: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The blocks (1, 1), (2, 1) and (2, 2) of a matrix [..., d, d]."""
    half = a.shape[-1] // 2
    return a[..., :half, :half], a[..., half:, :half], a[..., half:, half:]


def _lower_of_blocks(first: jax.Array, below: jax.Array, second: jax.Array) -> jax.Array:
    above = jnp.zeros_like(jnp.swapaxes(below, -1, -2))
    return jnp.concatenate([jnp.concatenate([first, above], -1), jnp.concatenate([below, second], -1)], -2)


def _cholesky_by_blocks(a: jax.Array) -> jax.Array:
    first, below, second = _in_halves(a)
    below = _product(below, jnp.swapaxes(inverse_cholesky(first), -1, -2))
    return _lower_of_blocks(cholesky(first), below, cholesky(second - _product(below, jnp.swapaxes(below, -1, -2))))


def _inverse_cholesky_by_blocks(a: jax.Array) -> jax.Array:
    first, below, second = _in_halves(a)
    first = inverse_cholesky(first)
    below = _product(below, jnp.swapaxes(first, -1, -2))
    second = inverse_cholesky(second - _product(below, jnp.swapaxes(below, -1, -2)))
    return _lower_of_blocks(first, -_product(_product(second, below), first), second)


@jax.custom_jvp
def cholesky(a: jax.Array) -> jax.Array:
    """The lower Cholesky factor L of symmetric matrices, a = L L^T.

    On a CPU it does not use LAPACK, whose batches share one thread pool: two batches at a time that
    wait for each other never end.

    Args:
        a: [..., d, d], of which the lower triangle is read.

    Returns:
        L [..., d, d]; NaN where a matrix is not positive definite.
    """
    if hardware().library_factors:
        return lax.linalg.cholesky(a, symmetrize_input=False)
    d = a.shape[-1]
    by_size = _cholesky_unrolled if d <= UNROLLED_SIZE else _cholesky_by_columns if d <= BLOCK else _cholesky_by_blocks
    return by_size(a)


@cholesky.defjvp
def _(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    """dL = L lower(L^-1 dA L^-T) with the diagonal halved; Murray (2016), equation (8)."""
    lower, change = cholesky(*primals), jnp.tril(tangents[0])
    inverse = inverse_cholesky(primals[0])
    change = change + jnp.swapaxes(jnp.tril(change, -1), -1, -2)
    inner = jnp.tril(_product(_product(inverse, change), jnp.swapaxes(inverse, -1, -2)))
    return lower, _product(lower, inner - 0.5 * jnp.eye(lower.shape[-1], dtype=lower.dtype) * inner)


@jax.custom_jvp
def inverse_cholesky(a: jax.Array) -> jax.Array:
    """The inverse L^-1 of the lower Cholesky factor of a = L L^T, so that a^-1 = L^-T L^-1.

    Args:
        a: symmetric [..., d, d].

    Returns:
        L^-1 [..., d, d]; NaN where a matrix is not positive definite.
    """
    d = a.shape[-1]
    if hardware().library_factors:
        eye = jnp.broadcast_to(jnp.eye(d, dtype=a.dtype), a.shape)
        return lax.linalg.triangular_solve(cholesky(a), eye, left_side=True, lower=True)
    if d <= UNROLLED_SIZE:
        return _inverse_unrolled(_cholesky_unrolled(a))
    return (_inverse_cholesky_by_columns if d <= BLOCK else _inverse_cholesky_by_blocks)(a)


@inverse_cholesky.defjvp
def _(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    """dL^-1 = -lower(L^-1 dA L^-T) L^-1 with the diagonal halved (see `cholesky`)."""
    inverse, change = inverse_cholesky(*primals), jnp.tril(tangents[0])
    change = change + jnp.swapaxes(jnp.tril(change, -1), -1, -2)
    inner = jnp.tril(_product(_product(inverse, change), jnp.swapaxes(inverse, -1, -2)))
    half = 0.5 * jnp.eye(inverse.shape[-1], dtype=inverse.dtype)
    return inverse, -_product(inner - half * inner, inverse)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def solve_positive(a: jax.Array, b: jax.Array) -> jax.Array:
    """The product a^-1 b for symmetric positive definite a.

    Args:
        a: [..., d, d].
        b: [..., d, m].

    Returns:
        [..., d, m]; NaN where a is not positive definite.
    """
    inverse = inverse_cholesky(a)
    return _product(jnp.swapaxes(inverse, -1, -2), _product(inverse, b))


#: The number n of squarings of a positive semidefinite matrix. They give its largest eigenvalue up
#: to a factor of d^(1/2^n): to 1e-4 for d = 1000.
N_SQUARINGS = 16


def largest_eigenvalue(a: jax.Array) -> jax.Array:
    """The largest eigenvalue [...] of positive semidefinite [..., d, d], to about 1e-4.

    It comes from repeated squaring.
    """

    def square(i: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        power, log_value = carry
        scale = jnp.trace(power, axis1=-2, axis2=-1)
        power = power / scale[..., None, None]
        return _product(power, power), log_value + jnp.log(scale) * 0.5**i

    zero = jnp.zeros(a.shape[:-2], a.dtype)
    return jnp.exp(lax.fori_loop(0, N_SQUARINGS, square, (a, zero))[1])


def solve(a: jax.Array, b: jax.Array) -> jax.Array:
    """The product a^-1 b for one square matrix, by elimination with pivots.

    Args:
        a: [d, d].
        b: [d].

    Returns:
        [d]; not finite where a is singular.
    """

    def eliminate(a: jax.Array, b: jax.Array) -> jax.Array:
        def column(j: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
            rows, used, order = carry
            values = rows[:, j]
            pivot = jnp.argmax(jnp.where(used, -1, jnp.abs(values)))
            row = rows[pivot] / values[pivot]
            rows = (rows - values[:, None] * row).at[pivot].set(row)
            return rows, used.at[pivot].set(True), order.at[j].set(pivot.astype(order.dtype))

        d = len(b)
        start = jnp.concatenate([a, b[:, None]], 1), jnp.zeros(d, bool), jnp.zeros(d, int)
        rows, _, order = lax.fori_loop(0, d, column, start)
        return rows[order, -1]

    return lax.custom_linear_solve(
        lambda v: _product(a, v), b, lambda _, b: eliminate(a, b), lambda _, b: eliminate(a.T, b)
    )


def log_det_lower(lower: jax.Array) -> jax.Array:
    """The log determinant [...] of lower triangular L [..., d, d] with a positive diagonal."""
    return jnp.log(jnp.diagonal(lower, axis1=-2, axis2=-1)).sum(-1)


@jax.custom_batching.custom_vmap
def _clamp_where_needed(matrix: jax.Array, floor: jax.Array) -> jax.Array:
    """`clamp_eigenvalues` for matrix [..., d, d] and floor [...].

    Whether anything has to be clamped is decided once for the whole batch.
    """
    eye = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
    usable = jnp.isfinite(matrix).all((-2, -1))
    below = jnp.isnan(cholesky(matrix - floor[..., None, None] * eye)).any((-2, -1)) & usable

    def clamp(matrix: jax.Array) -> jax.Array:
        values, vectors = jnp.linalg.eigh(jnp.where(below[..., None, None], matrix, eye))
        values = jnp.maximum(values, floor[..., None])
        clamped = jnp.einsum("...ij,...j,...kj->...ik", vectors, values, vectors)
        return jnp.where(below[..., None, None], clamped, matrix)

    # An eigendecomposition costs many times a Cholesky factor, so the whole batch skips it where no
    # matrix needs it.
    return lax.cond(below.any(), clamp, lambda m: m, matrix)


@_clamp_where_needed.def_vmap
def _(axis_size: int, in_batched: list[bool], matrix: jax.Array, floor: jax.Array) -> tuple[jax.Array, bool]:
    # A plain vmap would compute both branches of the `cond`, so the batch stays inside one call.
    batched = [
        value if is_batched else jnp.broadcast_to(value, (axis_size, *value.shape))
        for value, is_batched in zip((matrix, floor), in_batched, strict=True)
    ]
    return _clamp_where_needed(*batched), True


def clamp_eigenvalues(matrix: jax.Array, floor: jax.Array) -> jax.Array:
    """Raise the eigenvalues of symmetric matrices to at least `floor`.

    Of all matrices with eigenvalues of at least `floor` the result maximises the expected Gaussian
    log-likelihood with scatter `matrix`. Where no eigenvalue is below the floor the matrix is
    unchanged, and the cost is one Cholesky factor. Derivatives are those of the unclamped matrix.

    Args:
        matrix: [..., d, d].
        floor: a number, or one for each matrix [...].
    """
    fixed = lax.stop_gradient(matrix)
    floor = jnp.broadcast_to(lax.stop_gradient(floor), matrix.shape[:-2]).astype(matrix.dtype)
    return matrix + lax.stop_gradient(_clamp_where_needed(fixed, floor) - fixed)
