"""Units of regressions: inputs with second moments I, and residuals as targets."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.contract.affine import FAR, ILL_CONDITIONED, SAMPLE_ROWS
from jaxem.contract.pytree import pytree_class
from jaxem.contract.units import ROUNDING, VISIBLE, Identity, Units
from jaxem.numerics.linalg import PRECISION


@pytree_class
class InputUnits(Units):
    """Units in which inputs @ matrix have second moments I, and targets do not change.

    Linear predictors do not change either.

    Attributes:
        matrix: [p, p].
        inverse: the inverse of the matrix, [p, p].
    """

    matrix: Any
    inverse: Any

    def rows(self, x: Any) -> Any:
        return (dot(x[0], self.matrix), *x[1:])

    def rows_back(self, z: Any) -> Any:
        return (dot(z[0], self.inverse), *z[1:])

    def params(self, params: Any) -> Any:
        return params._replace(coef=dot(params.coef, self.inverse.T))

    def back(self, params: Any) -> Any:
        return params._replace(coef=dot(params.coef, self.matrix.T))

    def loses_digits(self, params: Any) -> bool:
        """By the size of the terms of a linear predictor."""
        return self._rounding(params) > VISIBLE

    def _rounding(self, params):
        """What rounding to float32 moves a typical linear predictor by, at most."""
        size = np.sqrt((np.asarray(self.inverse, np.float64) ** 2).sum(0))  # of each input
        return ROUNDING * float((np.abs(np.asarray(params.coef, np.float64)) * size).max(initial=0))


@pytree_class
class LinearUnits(InputUnits):
    """`InputUnits`, and targets z = (y - inputs @ coef) / scale, without intercept and scale of y.

    The linear predictor, the offsets and the variances change with the targets.

    Attributes:
        coef: the coefficients of a regression through all rows, [p].
        scale: the scale of the residuals, [].
    """

    coef: Any
    scale: Any

    def rows(self, x: Any) -> Any:
        residual = x[1] - dot(x[0], self.coef)
        offsets = (offset / self.scale for offset in x[2:])
        return (dot(x[0], self.matrix), residual / self.scale, *offsets)

    def rows_back(self, z: Any) -> Any:
        inputs = dot(z[0], self.inverse)
        offsets = (offset * self.scale for offset in z[2:])
        return (inputs, z[1] * self.scale + dot(inputs, self.coef), *offsets)

    def params(self, params: Any) -> Any:
        coef = (params.coef - self.coef) / self.scale
        return super().params(params._replace(coef=coef, var=params.var / self.scale**2))

    def back(self, params: Any) -> Any:
        params = super().back(params)
        return params._replace(coef=params.coef * self.scale + self.coef, var=params.var * self.scale**2)

    def log_volume(self) -> Any:
        return jnp.log(self.scale)

    def loses_digits(self, params: Any) -> bool:
        """By the size of the terms of a linear predictor, in residual standard deviations."""
        smallest = np.sqrt(np.min(np.asarray(params.var, np.float64), initial=np.inf))
        return self._rounding(params) > VISIBLE * smallest


def dot(a: Any, b: Any) -> Any:
    """a @ b: on the host in NumPy's precision, else in the full precision of the dtype."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a @ b
    return jnp.dot(a, b, precision=PRECISION)


def whitening(inputs: Any, weights: jax.Array) -> Any:
    """The matrix [p, p] that makes the second moments of inputs [n, p] I; weights [n] sum to 1.

    It is found twice, as in a Cholesky QR: the second pass sees the directions that the first lost
    in rounding.
    """
    scale = jnp.sqrt(weights @ inputs**2)
    matrix = jnp.diag(1 / jnp.where(scale > 0, scale, 1))
    for _ in range(2):
        z = jnp.dot(inputs, matrix, precision=PRECISION)
        values, vectors = jnp.linalg.eigh(jnp.dot((z * weights[:, None]).T, z, precision=PRECISION))
        values = jnp.maximum(values, values[-1] * jnp.finfo(z.dtype).eps)
        matrix = matrix @ (vectors / jnp.sqrt(values))
    return matrix


# --- on the host, before rows are rounded to float32 ----------------------------------------------

#: Inputs with a smaller ratio of second moments are dependent, up to the rounding of float64.
DEPENDENT = 1e-14

#: Rows that are read together: no temporary in float64 is as long as the data.
BLOCK_ROWS = 1 << 16


def host_input_units(x: Any, linear: bool) -> Units:
    """`InputUnits` (or `LinearUnits`) in NumPy and float64, in which float32 loses no digits.

    `Identity` where nothing is lost: rows of float32 whose inputs are nearly independent, and
    targets near 0.
    """
    if not _loses_digits(x, linear):
        return Identity()
    matrix = _host_whitening(x[0])
    inverse = np.linalg.inv(matrix)
    if not linear:
        return InputUnits(matrix, inverse)
    cross = sum(matrix.T @ (inputs.T @ targets) for inputs, targets in _blocks(x[0], x[1]))
    # The scale stays: it costs no digits, and the programs have units of their own for it.
    return LinearUnits(matrix, inverse, matrix @ cross / len(x[0]), np.float64(1))


def _loses_digits(x, linear):
    if any(part.dtype == np.float64 for part in x):
        return True
    every = max(1, len(x[0]) // SAMPLE_ROWS)
    inputs, targets = (np.asarray(part[::every], np.float64) for part in x[:2])
    scale = _nonzero(np.sqrt((inputs**2).mean(0)))
    values = np.linalg.eigvalsh((inputs / scale).T @ (inputs / scale))
    far = linear and abs(targets.mean()) > FAR * targets.std()
    return bool(far or values[0] * ILL_CONDITIONED < values[-1])


def _host_whitening(inputs):
    """`whitening` of the rows with equal weights."""
    matrix = np.diag(1 / _nonzero(np.sqrt(sum((block**2).sum(0) for (block,) in _blocks(inputs)) / len(inputs))))
    for _ in range(2):
        gram = sum((block @ matrix).T @ (block @ matrix) for (block,) in _blocks(inputs)) / len(inputs)
        values, vectors = np.linalg.eigh(gram)
        # Directions that the rows do not have (a query of few rows) stay as they are.
        matrix = matrix @ (vectors / np.sqrt(np.where(values > DEPENDENT * values[-1], values, values[-1])))
    return matrix


def _blocks(*arrays):
    """The arrays in float64, a block of rows at a time."""
    for at in range(0, len(arrays[0]), BLOCK_ROWS):
        yield tuple(np.asarray(array[at : at + BLOCK_ROWS], np.float64) for array in arrays)


def _nonzero(scale):
    return np.where(scale > 0, scale, 1)
