"""Counts: the Poisson distribution, with an exposure for every row where they differ."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.contract.constraints import NonNegative
from jaxem.contract.model import model_class, static
from jaxem.families.exponential_family import ExponentialFamily, log_or_impossible
from jaxem.families.support import check_numbers, require, require_counts, require_shape
from jaxem.numerics.special import log_poisson


class PoissonParams(NamedTuple):
    """rate [k]: expected count, per unit of exposure."""

    rate: Any


class Exposed(NamedTuple):
    """Counts [n] with their exposures [n]: any Poisson data in one form."""

    count: Any
    exposure: Any

    @classmethod
    def of(cls, x):
        return cls(*x) if isinstance(x, tuple) else cls(x, jnp.ones_like(x))


@model_class
class Poisson(ExponentialFamily):
    """p(x) = (rate e)^x exp(-rate e) / x!, for counts x [n]; the M-step is rate = sum of counts / sum of exposures.

    exposure: x is the pair (counts [n], exposures e [n]), the time or area behind each count; without it e = 1.
    A rate may be 0: it explains zeros only. Johnson, Kemp and Kotz (2005), section 4.1.

    In standard units the mean rate of the data is 1 and e is the expected count, so that large counts keep their
    digits in float32: log p(x) = x log(rate) + e (1 - rate) + log Poisson(x; e).

    >>> import jax, jaxem
    >>> x = jax.numpy.array([0., 1., 1., 2., 9., 11., 12.])
    >>> best, _ = jaxem.fit_restarts(jaxem.poisson_mixture(2), x, jax.random.key(0), n_restarts=8)
    >>> sorted(round(rate, 1) for rate in best.params.components.rate.tolist())
    [1.0, 10.6]
    """

    exposure: bool = static(default=False)
    excludes = True

    @property
    def row_ndim(self):
        return (0, 0) if self.exposure else 0

    def features(self, x):
        return jnp.stack(Exposed.of(x))

    def natural(self, params):
        return jnp.stack([log_or_impossible(params.rate), 1 - params.rate])

    def log_normalizer(self, params):
        return jnp.zeros_like(params.rate)

    def log_base(self, x):
        return log_poisson(*Exposed.of(x))

    def from_moments(self, moments):
        return PoissonParams(moments[0] / moments[1])

    def moments(self, params):
        return jnp.stack([params.rate, jnp.ones_like(params.rate)])

    def pseudo_statistics(self, params, strength, units=None):
        """Those of a gamma prior: `strength` rows of exposure 1."""
        stats = super().pseudo_statistics(params, strength, units)
        # In units, exposures are multiples of the mean rate.
        return stats if units is None else stats._replace(total=stats.total * units)

    def mean(self, params):
        return params.rate

    def constraints(self):
        return PoissonParams(NonNegative())

    def embed(self, x, weights=None):
        """Square roots of the rates, which have about equal variances everywhere."""
        count, exposure = Exposed.of(x)
        return super().embed(jnp.sqrt(count / exposure), weights)

    # --- units: the mean rate of the data ---------------------------------------------------------------------

    def units(self, x, weights=None):
        count, exposure = Exposed.of(x)
        weights = jnp.ones_like(count) if weights is None else weights
        rate = (weights * count).sum() / (weights * exposure).sum()
        return jnp.where(rate > 0, rate, 1)

    def to_units(self, units, x):
        if units is None:
            return x
        count, exposure = Exposed.of(x)
        return Exposed(count, exposure * units)

    def params_to_units(self, units, params):
        return params if units is None else PoissonParams(params.rate / units)

    def params_from_units(self, units, params):
        return params if units is None else PoissonParams(params.rate * units)

    # --- samples and checks -----------------------------------------------------------------------------------

    def sample(self, params, key, n):
        """n counts of every component, at exposure 1: [n, k]; with exposures the pair (counts, ones)."""
        counts = jax.random.poisson(key, params.rate, (n, *params.rate.shape)).astype(params.rate.dtype)
        return (counts, jnp.ones_like(counts)) if self.exposure else counts

    def sample_like(self, params, key, x):
        """Counts at the exposures of x: [n, k], with exposures the pair (counts, exposures)."""
        if not self.exposure:
            return self.sample(params, key, len(x))
        exposure = jnp.broadcast_to(x[1][:, None], (len(x[1]), *params.rate.shape))
        return jax.random.poisson(key, params.rate * exposure).astype(params.rate.dtype), exposure

    def check_shapes(self, x, params=None):
        if self.exposure and not (isinstance(x, tuple) and len(x) == 2):
            raise ValueError(f"x: expected the pair (counts [n], exposures [n]); got a {type(x).__name__}")
        for part, name in zip(x, ("x[0]", "x[1]"), strict=True) if self.exposure else [(x, "x")]:
            check_numbers(part, name)
        if params is not None:
            require_shape("rate", params.rate, (None,))

    def check(self, x, params=None):
        self.check_shapes(x, params)
        if not self.exposure:
            return require_counts(x)
        require_counts(x[0], "x[0]")
        require(np.asarray(x[1]) > 0, x[1], "exposures above 0", "x[1]")
