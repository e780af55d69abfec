"""Counts: the Poisson distribution, with an exposure for each row where exposures differ."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxem.contract.constraints import NonNegative
from jaxem.contract.model import model_class
from jaxem.contract.pytree import pytree_class, static
from jaxem.contract.units import Units
from jaxem.families.exponential_family import ExponentialFamily, log_or_impossible
from jaxem.families.support import COUNTS, Numbers, Pair, Values
from jaxem.numerics.special import log_poisson


class PoissonParams(NamedTuple):
    """The params of `Poisson`.

    Attributes:
        rate: the expected count per unit of exposure, [k].
    """

    rate: Any


class Exposed(NamedTuple):
    """Any Poisson data in one form.

    Attributes:
        count: the counts, [n].
        exposure: the exposures, [n].
    """

    count: Any
    exposure: Any

    @classmethod
    def of(cls, x: Any) -> "Exposed":
        """Rows with or without exposures in this form; without, every exposure is 1."""
        return cls(*x) if isinstance(x, tuple) else cls(x, jnp.ones_like(x))


@pytree_class
class RateUnits(Units):
    """Units in which the mean rate of the data is 1.

    Exposures are multiplied by `rate`, and so become the expected counts at the mean rate.
    """

    rate: Any

    def rows(self, x: Any) -> Any:
        count, exposure = Exposed.of(x)
        return Exposed(count, exposure * self.rate)

    def params(self, params: Any) -> Any:
        return PoissonParams(params.rate / self.rate)

    def back(self, params: Any) -> Any:
        return PoissonParams(params.rate * self.rate)


EXPOSED_COUNTS = Pair(
    Numbers(COUNTS), Numbers(Values("exposures above 0", lambda x: x > 0)), "(counts [n], exposures [n])"
)


@model_class
class Poisson(ExponentialFamily):
    """Counts: p(x) = (rate e)^x exp(-rate e) / x!, for x [n], where e is the exposure of a row.

    The M-step is rate = sum of counts / sum of exposures. A rate may be 0: it explains zeros only.
    Johnson, Kemp and Kotz (2005), section 4.1.

    In standard units the mean rate of the data is 1 and e is the expected count, so that large
    counts keep their digits in float32: log p(x) = x log(rate) + e (1 - rate) + log Poisson(x; e).

    Args:
        exposure: True if x is the pair (counts [n], exposures [n]), the time or area behind each
            count. Otherwise x is the counts alone, and e = 1.

    Examples:
        >>> import jax, jaxem
        >>> x = jax.numpy.array([0., 1., 1., 2., 9., 11., 12.])
        >>> best, _ = jaxem.fit_restarts(
        ...     jaxem.poisson_mixture(2), x, jax.random.key(0), n_restarts=8
        ... )
        >>> sorted(round(rate, 1) for rate in best.params.components.rate.tolist())
        [1.0, 10.6]
    """

    exposure: bool = static(default=False)
    excludes = True

    param_shapes = PoissonParams(("k",))

    @property
    def support(self) -> Any:
        return EXPOSED_COUNTS if self.exposure else Numbers(COUNTS)

    def features(self, x: Any) -> Any:
        return jnp.stack(Exposed.of(x))

    def natural(self, params: Any) -> Any:
        return jnp.stack([log_or_impossible(params.rate), 1 - params.rate])

    def log_normalizer(self, params: Any) -> Any:
        return jnp.zeros_like(params.rate)

    def log_base(self, x: Any) -> Any:
        return log_poisson(*Exposed.of(x))

    def from_moments(self, moments: Any) -> PoissonParams:
        return PoissonParams(moments[0] / moments[1])

    def moments(self, params: Any) -> Any:
        return jnp.stack([params.rate, jnp.ones_like(params.rate)])

    def pseudo_statistics(self, params: Any, strength: Any, units: Any = None) -> Any:
        """The pseudo-statistics of a gamma prior: `strength` rows of exposure 1."""
        stats = super().pseudo_statistics(params, strength, units)
        # In standard units an exposure of 1 is a multiple of the mean rate.
        return stats._replace(total=stats.total * units.rate) if isinstance(units, RateUnits) else stats

    def mean(self, params: Any) -> Any:
        return params.rate

    def constraints(self) -> PoissonParams:
        return PoissonParams(NonNegative())

    def embed(self, x: Any, weights: jax.Array | None = None) -> Any:
        """Square roots of the rates, which have about equal variances everywhere."""
        count, exposure = Exposed.of(x)
        return super().embed(jnp.sqrt(count / exposure), weights)

    # --- units: the mean rate of the data ---------------------------------------------------------

    def units(self, x: Any, weights: jax.Array | None = None) -> RateUnits:
        count, exposure = Exposed.of(x)
        weights = jnp.ones_like(count) if weights is None else weights
        rate = (weights * count).sum() / (weights * exposure).sum()
        return RateUnits(jnp.where(rate > 0, rate, 1))

    # --- samples ----------------------------------------------------------------------------------

    def sample(self, params: Any, key: jax.Array, n: int) -> Any:
        """n counts of every component at exposure 1, [n, k]; with exposures (counts, ones)."""
        counts = jax.random.poisson(key, params.rate, (n, *params.rate.shape)).astype(params.rate.dtype)
        return (counts, jnp.ones_like(counts)) if self.exposure else counts

    def sample_like(self, params: Any, key: jax.Array, x: Any) -> Any:
        """Counts at the exposures of x, [n, k]; with exposures the pair (counts, exposures)."""
        if not self.exposure:
            return self.sample(params, key, len(x))
        exposure = jnp.broadcast_to(x[1][:, None], (len(x[1]), *params.rate.shape))
        return jax.random.poisson(key, params.rate * exposure).astype(params.rate.dtype), exposure
