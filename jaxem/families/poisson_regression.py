"""Poisson regressions of counts, with the log link."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxem.contract.model import model_class
from jaxem.families.regression import GivenInputs, Regression
from jaxem.families.support import COUNTS, Numbers
from jaxem.numerics.special import log_poisson


@model_class
class PoissonRegression(Regression):
    """A regression of counts: Poisson(y | exp(inputs @ coef_k)), for x = (inputs [n, p], y [n]).

    A third array in x is an offset [n], such as the log of an exposure. No intercept is added. The
    M-step is one step of iteratively reweighted least squares: a Newton step on Q. The loop halves
    a step that went too far. McCullagh and Nelder (1989), section 2.5.
    """

    support = GivenInputs(Numbers(COUNTS))

    def log_density(self, eta: Any, x: Any) -> Any:
        return log_poisson(x[1][:, None], jnp.exp(eta))

    def working(self, eta: Any, x: Any) -> Any:
        mean = jnp.exp(eta)
        return mean, mean * eta + x[1][:, None] - mean

    def guess(self, x: Any) -> Any:
        mean = x[1][:, None] + 0.5
        return mean, mean * jnp.log(mean)

    def draw(self, params: Any, key: jax.Array, eta: Any, x: Any) -> Any:
        return jax.random.poisson(key, jnp.exp(eta)).astype(eta.dtype)

    def spread(self, target: Any) -> Any:
        return jnp.sqrt(target)
