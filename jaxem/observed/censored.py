"""Waiting times of which only an interval is known, a textbook case of EM."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.contract.errors import NotProvidedError
from jaxem.contract.model import model_class
from jaxem.contract.pytree import pytree_class
from jaxem.contract.units import Identity, Units
from jaxem.families.exponential import Exponential
from jaxem.families.support import check_numbers, require
from jaxem.inputs import arrays
from jaxem.numerics.tracing import is_traced
from jaxem.observed.incomplete import Incomplete


@pytree_class
class IntervalUnits(Units):
    """The units of interval data: the units of the times, and which times were seen exactly.

    Only those have a density, which changes with the units; the others have a probability.

    Attributes:
        inner: the units of the times.
        seen: [n] of bool, True where the time itself was seen.
    """

    inner: Units
    seen: Any

    def rows(self, x: Any) -> Any:
        return self.inner.rows(x[0]), self.inner.rows(x[1])

    def rows_back(self, z: Any) -> Any:
        return self.inner.rows_back(z[0]), self.inner.rows_back(z[1])

    def params(self, params: Any) -> Any:
        return self.inner.params(params)

    def back(self, params: Any) -> Any:
        return self.inner.back(params)

    def log_volume(self) -> Any:
        return jnp.where(self.seen, self.inner.log_volume(), 0)


@model_class
class CensoredExponential(Incomplete):
    """Exponential times that are known to lie in intervals: x is the pair (lower [n], upper [n]).

    Where lower = upper, the time itself was seen. Where upper = inf, the time was longer than lower
    (right-censored). Where lower = 0, it was shorter than upper. With w = upper - lower,

        log p = log(exp(-rate lower) - exp(-rate upper)),
        E[time] = lower + 1 / rate - w / (exp(rate w) - 1),

    and the M-step is rate = 1 / mean expected time. Dempster, Laird and Rubin (1977), section 4.

    Args:
        model: the family of the times.

    Examples:
        >>> import jax, jaxem
        >>> lower = jax.numpy.array([1.0, 2.0, 3.0, 4.0, 4.0])
        >>> upper = jax.numpy.array([1.0, 2.0, 3.0, jax.numpy.inf, 5.0])
        >>> model = jaxem.exponential_mixture(1, censored=True)
        >>> best, _ = jaxem.fit_restarts(model, (lower, upper), jax.random.key(0))
        >>> # The total expected time is 14.47, and 4 of the times ended.
        >>> round(1 / float(best.params.components.rate[0]), 2)
        3.62
    """

    model: Exponential = Exponential()

    @property
    def row_ndim(self) -> Any:
        return (0, 0)

    def prepare(self, x: Any, weights: jax.Array | None = None, centred: bool = False) -> Any:
        return x

    def complete(self, params: Any, x: Any) -> Any:
        lower, width = x[0][:, None], (x[1] - x[0])[:, None]
        exact, longer = width == 0, jnp.isinf(width)
        between = ~(exact | longer)
        span = params.rate * jnp.where(between, width, 1)
        # These forms of w / (exp(rate w) - 1) and log(1 - exp(-rate w)) lose no digits where rate w
        # is small.
        inside = jnp.where(between, width, 1) * jnp.exp(-span) / -jnp.expm1(-span)
        expected = jnp.where(exact, 0, 1 / params.rate - jnp.where(between, inside, 0))
        rest = jnp.where(exact, jnp.log(params.rate), jnp.where(between, jnp.log(-jnp.expm1(-span)), 0))
        return (lower + expected)[..., None], rest - params.rate * lower

    def at_start(self, x: Any) -> Any:
        """The middle of each interval; twice the lower end where there is no upper end."""
        return jnp.where(jnp.isinf(x[1]), 2 * x[0], 0.5 * (x[0] + x[1]))[:, None]

    def conditional_mean(self, params: Any, x: Any) -> Any:
        """The expected time under every component: [n, k]."""
        return self.complete(params, x)[0][..., 0]

    def sample_like(self, params: Any, key: jax.Array, x: Any) -> Any:
        why = "it is not known when a time that ended would have been censored"
        raise NotProvidedError(self, "sample_like", why)

    def embed(self, x: Any, weights: jax.Array | None = None) -> Any:
        return self.model.embed(self.at_start(x)[:, 0], weights)

    # --- units of the times that starts assume ----------------------------------------------------

    def units(self, x: Any, weights: jax.Array | None = None) -> Units:
        return IntervalUnits(self.model.units(self.at_start(x)[:, 0], weights), x[0] == x[1])

    def origin(self, x: Any, params: Any = None) -> Units:
        return Identity()

    def degenerate(self, params: Any, n_points: Any) -> Any:
        return self.model.degenerate(params, n_points)

    # --- checks -----------------------------------------------------------------------------------

    def check_finite(self, x: Any) -> None:
        if isinstance(x, tuple) and len(x) == 2:
            arrays.check_finite(x[0], "x[0]")
            nan = np.isnan(np.asarray(x[1]))
            if nan.any():
                count, row = arrays.first_bad_row(nan)
                raise ValueError(
                    f"x[1]: {count} of {len(nan)} rows hold NaN, the first is row {row} (inf stands for no upper end)"
                )

    def check(self, x: Any, params: Any = None) -> None:
        if not isinstance(x, tuple) or len(x) != 2:
            raise ValueError(f"x: expected the pair (lower [n], upper [n]); got a {type(x).__name__}")
        for part, name in zip(x, ("x[0]", "x[1]"), strict=True):
            check_numbers(part, name)
        if is_traced(x):
            return
        lower, upper = np.asarray(x[0]), np.asarray(x[1])
        require(lower >= 0, lower, "numbers of at least 0", "x[0]")
        require(upper >= lower, upper, "upper ends of at least the lower ones", "x[1]")
        require(upper > 0, upper, "upper ends above 0", "x[1]")

    def check_fit(self, x: Any, weights: jax.Array, dtype: Any) -> None:
        pass
