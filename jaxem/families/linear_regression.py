"""Linear regressions with normal errors."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.contract.constraints import Positive, Real
from jaxem.contract.model import EStep, model_class
from jaxem.contract.pytree import static
from jaxem.contract.units import Units
from jaxem.families.degenerate import default_floor, is_degenerate, shares
from jaxem.families.input_units import LinearUnits, host_input_units
from jaxem.families.regression import GivenInputs, Regression, explained, offset_of
from jaxem.families.support import Numbers
from jaxem.numerics.linalg import PRECISION


class LinearRegressionParams(NamedTuple):
    """The params of `LinearRegression`.

    Attributes:
        coef: the coefficients, [k, p].
        var: the residual variances (sums of squares divided by the number of rows), [k], or []
            where they are tied.
    """

    coef: Any
    var: Any


@model_class
class LinearRegression(Regression):
    """A regression with normal errors: N(y | inputs @ coef_k, var_k), x = (inputs [n, p], y [n]).

    The M-step is weighted least squares, which is exact. DeSarbo and Cron (1988). A third array in
    x is an offset [n], a known part of the linear predictor. No intercept is added.

    Args:
        floor: the smallest residual variance, relative to that of one regression through all rows
            (None: 1e-12, or 1e-9 in float32).
        variance: "each" (for each component its own) or "tied".

    Raises:
        ValueError: `variance` is neither.
    """

    floor: Any = None
    variance: str = static(default="each")

    support = GivenInputs(Numbers())

    def __post_init__(self) -> None:
        if self.variance not in ("each", "tied"):
            raise ValueError(f"variance: expected 'each' or 'tied'; got {self.variance!r}")

    @property
    def param_shapes(self) -> Any:
        return LinearRegressionParams(("k", "p"), ("k",) if self.variance == "each" else ())

    def component_axes(self) -> Any:
        return LinearRegressionParams(0, None if self.variance == "tied" else 0)

    def e_step(self, params: Any, x: Any) -> EStep:
        residual = x[1][:, None] - self.predictor(params, x)
        return EStep(None, -0.5 * (jnp.log(2 * np.pi * params.var) + residual**2 / params.var))

    def sufficient_statistics(self, resp: Any, x: Any, weights: jax.Array) -> Any:
        response = x[1][:, None] - offset_of(x)
        return self._sums(x, weights, jnp.ones_like(response), response, response**2)

    def expected_log_joint(self, params: Any, stats: Any) -> jax.Array:
        squares = stats.rest - 2 * explained(params.coef, stats)
        return -0.5 * (stats.count * jnp.log(2 * np.pi * params.var) + squares / params.var).sum()

    def from_least_squares(self, coef: Any, stats: Any) -> LinearRegressionParams:
        count = jnp.where(stats.count > 0, stats.count, 1)
        floor = default_floor(coef.dtype) if self.floor is None else self.floor
        floor = floor * stats.rest.sum() / stats.count.sum()
        squares = stats.rest - 2 * explained(coef, stats)
        var = squares.sum() / stats.count.sum() if self.variance == "tied" else squares / count
        return LinearRegressionParams(coef, jnp.maximum(var, floor))

    def draw(self, params: Any, key: jax.Array, eta: Any, x: Any) -> Any:
        return eta + jnp.sqrt(params.var) * jax.random.normal(key, eta.shape, eta.dtype)

    def constraints(self) -> LinearRegressionParams:
        return LinearRegressionParams(Real(), Positive(0.0 if self.floor is None else self.floor))

    def degenerate(self, params: Any, n_points: Any) -> Any:
        """Whether a line goes through a few rows only, or rows lie exactly on a line.

        In standard units the residuals of one regression through all rows have variance 1.
        """
        p = params.coef.shape[-1]
        var = jnp.broadcast_to(params.var, n_points.shape)
        return is_degenerate(*shares(var, 1.0, n_points), n_points, p + 2)

    def units(self, x: Any, weights: jax.Array | None = None) -> LinearUnits:
        """Units in which the residuals of one regression through all rows have variance 1."""
        weights = jnp.ones(len(x[0]), x[0].dtype) if weights is None else weights
        weights = weights / weights.sum()
        units = super().units(x, weights)
        z = jnp.dot(x[0], units.matrix, precision=PRECISION)
        coef = units.matrix @ ((z * weights[:, None]).T @ x[1])
        residual = x[1] - jnp.dot(x[0], coef, precision=PRECISION)
        scale = jnp.sqrt(weights @ residual**2)
        return LinearUnits(units.matrix, units.inverse, coef, jnp.where(scale > 0, scale, 1))

    def host_units(self, x: Any) -> Units:
        return host_input_units(x, linear=True)
