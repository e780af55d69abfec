"""Positive numbers: the gamma distribution."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln

from jaxem.contract.constraints import Positive
from jaxem.contract.model import model_class
from jaxem.contract.units import RATE, UNITLESS
from jaxem.families.scale import ScaleFamily, collapsed
from jaxem.families.support import POSITIVE, Numbers
from jaxem.numerics.special import solve_gamma_shape

#: The smallest log(mean x) - mean(log x) that is distinguished from 0 (all rows equal), by the
#: bytes of the dtype; the shape is then half its inverse.
SMALLEST_GAP = {4: 1e-5, 8: 1e-10}


class GammaParams(NamedTuple):
    """The params of `Gamma`.

    Attributes:
        shape: [k].
        rate: [k]; the mean is shape / rate.
    """

    shape: Any
    rate: Any


@model_class
class Gamma(ScaleFamily):
    """Positive numbers: p(x) = rate^shape x^(shape - 1) exp(-rate x) / Gamma(shape), for x [n] > 0.

    The M-step solves log(shape) - digamma(shape) = log(mean x) - mean(log x) to rounding, and then
    rate = shape / mean x; Minka (2002), "Estimating a Gamma distribution". On equal rows the shape
    grows without bound. It stops at 5e9 (5e4 in float32), and such a component is reported as
    degenerate.

    Examples:
        >>> import jax, jaxem
        >>> x = jaxem.datasets.old_faithful()[:, 0]
        >>> best, _ = jaxem.fit_restarts(
        ...     jaxem.gamma_mixture(2), x, jax.random.key(0), n_restarts=8
        ... )
        >>> means = best.params.components.shape / best.params.components.rate
        >>> sorted(round(mean, 2) for mean in means.tolist())
        [2.04, 4.29]
    """

    support = Numbers(POSITIVE)
    param_shapes = GammaParams(("k",), ("k",))
    roles = GammaParams(UNITLESS, RATE)

    def features(self, x: Any) -> Any:
        return jnp.stack([x, jnp.log(x)])

    def natural(self, params: Any) -> Any:
        return jnp.stack([-params.rate, params.shape])

    def log_normalizer(self, params: Any) -> Any:
        return gammaln(params.shape) - params.shape * jnp.log(params.rate)

    def log_base(self, x: Any) -> Any:
        return -jnp.log(x)

    def from_moments(self, moments: Any) -> GammaParams:
        mean, mean_log = moments
        gap = jnp.maximum(jnp.log(mean) - mean_log, SMALLEST_GAP[moments.dtype.itemsize])
        shape = solve_gamma_shape(gap)
        return GammaParams(shape, shape / mean)

    def moments(self, params: Any) -> Any:
        return jnp.stack([params.shape / params.rate, digamma(params.shape) - jnp.log(params.rate)])

    def mean(self, params: Any) -> Any:
        return params.shape / params.rate

    def constraints(self) -> GammaParams:
        return GammaParams(Positive(), Positive())

    def embed(self, x: Any, weights: jax.Array | None = None) -> Any:
        return super().embed(jnp.log(x), weights)

    def degenerate(self, params: Any, n_points: Any) -> Any:
        # 1 / shape is the variance of x / mean in any component, and of log x in a tight one.
        smallest = 2 * SMALLEST_GAP[params.shape.dtype.itemsize]
        return collapsed(jnp.log(params.shape / params.rate), 1 / params.shape, n_points, smallest)

    def sample(self, params: Any, key: jax.Array, n: int) -> Any:
        """n numbers of every component, [n, k]."""
        draws = jax.random.loggamma(key, params.shape, (n, *params.shape.shape), params.shape.dtype)
        return jnp.exp(draws - jnp.log(params.rate))
