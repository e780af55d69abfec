"""Vectors of 0 and 1 with independent entries."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxem.contract.constraints import UnitInterval
from jaxem.contract.model import model_class
from jaxem.families.exponential_family import ExponentialFamily, log_or_impossible
from jaxem.families.support import BITS, Vectors


class BernoulliParams(NamedTuple):
    """The params of `Bernoulli`.

    Attributes:
        prob: the probability of a 1 in each column, [k, d].
    """

    prob: Any


@model_class
class Bernoulli(ExponentialFamily):
    """Vectors of independent bits x [n, d]: p(x) = prod_j prob_j^x_j (1 - prob_j)^(1 - x_j).

    The M-step is the weighted share of ones in each column; Bishop (2006), equations (9.44) and
    (9.59). A probability may be exactly 0 or 1: 0 log 0 = 0, and a row that contradicts it has
    log_prob -inf. For this reason the features are both x and 1 - x: their two logarithms are never
    subtracted from each other.

    Examples:
        >>> import jax, jaxem
        >>> x = jax.numpy.array([[1., 1., 0.], [1., 1., 0.], [0., 0., 1.], [0., 1., 1.]])
        >>> best, _ = jaxem.fit_restarts(
        ...     jaxem.bernoulli_mixture(2), x, jax.random.key(0), n_restarts=8
        ... )
        >>> jax.numpy.sort(best.params.components.prob, 0).round(2).tolist()
        [[0.0, 0.5, 0.0], [1.0, 1.0, 1.0]]
    """

    support = Vectors(BITS)
    param_shapes = BernoulliParams(("k", "d"))
    excludes = True

    @property
    def independent_columns(self) -> bool:
        return True

    def features(self, x: Any) -> Any:
        return jnp.concatenate([x, 1 - x])

    def natural(self, params: Any) -> Any:
        return log_or_impossible(jnp.concatenate([params.prob, 1 - params.prob]))

    def log_normalizer(self, params: Any) -> Any:
        return jnp.zeros((), params.prob.dtype)

    def from_moments(self, moments: Any) -> BernoulliParams:
        ones, zeros = jnp.split(moments, 2)
        return BernoulliParams(ones / (ones + zeros))

    def moments(self, params: Any) -> Any:
        return jnp.concatenate([params.prob, 1 - params.prob])

    def mean(self, params: Any) -> Any:
        return params.prob

    def constraints(self) -> BernoulliParams:
        return BernoulliParams(UnitInterval())

    def embed(self, x: Any, weights: jax.Array | None = None) -> Any:
        """The rows themselves, since in scaled columns a rare 1 would dominate distances."""
        return x

    def sample(self, params: Any, key: jax.Array, n: int) -> Any:
        """n rows of every component, [n, k, d]."""
        uniform = jax.random.uniform(key, (n, *params.prob.shape), params.prob.dtype)
        return (uniform < params.prob).astype(params.prob.dtype)
