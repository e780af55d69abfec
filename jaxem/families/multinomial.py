"""Rows of counts over categories, of any total: the multinomial distribution."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy

from jaxem.contract.constraints import Simplex
from jaxem.contract.model import model_class
from jaxem.contract.pytree import static
from jaxem.families.exponential_family import ExponentialFamily, log_or_impossible
from jaxem.families.support import COUNTS, Vectors
from jaxem.numerics.special import log_factorial_rest


class MultinomialParams(NamedTuple):
    """The params of `Multinomial`.

    Attributes:
        prob: the probability of each category, [k, c].
    """

    prob: Any


@model_class
class Multinomial(ExponentialFamily):
    """Rows of counts over categories: p(x) = m! / prod_c x_c! prod_c prob_c^x_c, for x [n, c].

    m is the total of a row, which may differ by row. The M-step is the share of each category among
    all that a component counts. A probability may be exactly 0. With two categories this is the
    binomial distribution. Bishop (2006), equation (2.34).

    Args:
        trials: the total of the rows that `sample` draws.

    Examples:
        >>> import jax, jaxem
        >>> x = jax.numpy.array([[9., 1.], [8., 2.], [2., 8.], [1., 9.]])
        >>> best, _ = jaxem.fit_restarts(
        ...     jaxem.multinomial_mixture(2), x, jax.random.key(0), n_restarts=8
        ... )
        >>> sorted(round(prob, 2) for prob in best.params.components.prob[:, 0].tolist())
        [0.15, 0.85]
    """

    trials: int = static(default=1)
    support = Vectors(COUNTS)
    param_shapes = MultinomialParams(("k", "d"))
    excludes = True

    def features(self, x: Any) -> Any:
        return x

    def natural(self, params: Any) -> Any:
        return log_or_impossible(params.prob)

    def log_normalizer(self, params: Any) -> Any:
        return jnp.zeros((), params.prob.dtype)

    def log_base(self, x: Any) -> Any:
        """The log of the multinomial coefficient.

        The large parts of the factorials cancel before they are rounded.
        """
        total = x.sum()
        large = xlogy(x, total / jnp.where(x > 0, x, 1)).sum()
        return large + log_factorial_rest(total) - log_factorial_rest(x).sum()

    def from_moments(self, moments: Any) -> MultinomialParams:
        total = moments.sum()
        # Rows without any count say nothing about the categories.
        return MultinomialParams(jnp.where(total > 0, moments / jnp.where(total > 0, total, 1), 1 / moments.shape[0]))

    def moments(self, params: Any) -> Any:
        return params.prob

    def constraints(self) -> MultinomialParams:
        return MultinomialParams(Simplex())

    def embed(self, x: Any, weights: jax.Array | None = None) -> Any:
        """Square roots of the shares: distances between them are Hellinger distances."""
        total = x.sum(-1, keepdims=True)
        return jnp.sqrt(x / jnp.where(total > 0, total, 1))

    def sample(self, params: Any, key: jax.Array, n: int) -> Any:
        """n rows of `trials` draws from every component, [n, k, c]."""
        return self._draw(params, key, jnp.full(n, self.trials, params.prob.dtype))

    def sample_like(self, params: Any, key: jax.Array, x: Any) -> Any:
        """Rows with the totals of x from every component, [n, k, c]."""
        return self._draw(params, key, x.sum(-1))

    def _draw(self, params, key, trials):
        shape = (len(trials), *params.prob.shape)
        return jax.random.multinomial(key, trials[:, None], params.prob, shape=shape, dtype=params.prob.dtype)
