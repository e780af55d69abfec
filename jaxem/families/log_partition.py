"""Exponential families known by features and log-partition, with an M-step by differentiation."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxem.contract.constraints import Constraint, Positive, Real
from jaxem.families.exponential_family import ExponentialFamily, component_means
from jaxem.numerics.newton import climb


class NaturalParams(NamedTuple):
    """The params of a `LogPartitionFamily`.

    Attributes:
        natural: the natural parameters, one for each feature, [k, f].
    """

    natural: Any


@dataclasses.dataclass(frozen=True)
class Negative(Positive):
    """A negative number: value = -exp(u)."""

    def to_params(self, free: Any) -> Any:
        return -super().to_params(free)

    def to_free(self, value: Any) -> Any:
        return super().to_free(-value)

    def holds(self, value: Any) -> Any:
        return super().holds(-value)

    def violation(self, value: Any) -> Any:
        return super().violation(-value) and "is not negative"


@dataclasses.dataclass(frozen=True)
class Columns(Constraint):
    """A constraint for each entry of the last axis."""

    places: tuple[Any, ...]

    event_ndim = 1

    def _each(self, method, leaf):
        columns = [getattr(place, method)(leaf[..., j]) for j, place in enumerate(self.places)]
        return jnp.stack(columns, -1)

    def to_params(self, free: Any) -> Any:
        return self._each("to_params", free)

    def to_free(self, value: Any) -> Any:
        return self._each("to_free", value)

    def n_free(self, shape: Any) -> int:
        return sum(place.n_free(shape[:-1]) for place in self.places)

    def violation(self, value: Any) -> Any:
        found = [(j, place.violation(value[..., j])) for j, place in enumerate(self.places)]
        return next((f"{problem} in entry {j}" for j, problem in found if problem), None)


class LogPartitionFamily(ExponentialFamily):
    """A family known by its log-partition A: p(x | eta) = h(x) exp(T(x) . eta - A(eta)).

    A subclass, decorated with `model_class`, writes for one row and one component

        features(x) -> T [f]
        log_partition(eta) -> A(eta)
        log_base(x) -> log h(x)         unless it is 0

    and says in `domain` where each natural parameter lives: a tuple of f constraints (`Real()`,
    `Positive()`, `Negative()`). Params are `NaturalParams(eta [k, f])`.

    The M-step minimises A(eta) - eta . mean(T), which is convex, by Newton's method with the
    gradient and Hessian of A from automatic differentiation: damped, warm-started, and to rounding.
    At its solution the expected T is the mean T (Wainwright and Jordan 2008, theorem 3.4).

    Examples:
        >>> import jax, jaxem
        >>> from jaxem.families.log_partition import LogPartitionFamily, Real
        >>> @jaxem.model_class
        ... class Counts(LogPartitionFamily):
        ...     domain = (Real(),)
        ...     row_ndim = 0
        ...     def features(self, x):
        ...         return x[None]
        ...     def log_partition(self, eta):
        ...         return jax.numpy.exp(eta[0])
        ...     def log_base(self, x):
        ...         return -jax.scipy.special.gammaln(x + 1)
        >>> x = jax.numpy.array([0., 1., 1., 2., 9., 11., 12.])
        >>> model = jaxem.Mixture(Counts(), 2)
        >>> best, _ = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=8)
        >>> rates = jax.numpy.exp(best.params.components.natural[:, 0])
        >>> sorted(round(rate, 1) for rate in rates.tolist())
        [1.0, 10.6]
    """

    domain: tuple[Any, ...] = (Real(),)

    @property
    def param_shapes(self) -> Any:
        return NaturalParams(("k", len(self.domain)))

    def log_partition(self, eta: Any) -> jax.Array:
        """The log-partition A(eta) of one component, in nats."""
        raise NotImplementedError(f"{type(self).__name__}.log_partition")

    def natural(self, params: Any) -> Any:
        return params.natural

    def log_normalizer(self, params: Any) -> Any:
        return self.log_partition(params.natural)

    def moments(self, params: Any) -> Any:
        return jax.grad(self.log_partition)(params.natural)

    def _inside(self, eta):
        """The log-partition, made infinite outside the domain: some formulas are finite there."""
        inside = jnp.stack([place.holds(eta[j]) for j, place in enumerate(self.domain)]).all()
        return jnp.where(inside, self.log_partition(eta), jnp.inf)

    def constraints(self) -> NaturalParams:
        return NaturalParams(Columns(self.domain))

    def maximize(self, stats: Any, params: Any = None) -> NaturalParams:
        mean, alive = component_means(stats)
        start = self.constraints().natural.to_params(jnp.zeros_like(mean)) if params is None else params.natural
        new = NaturalParams(jax.vmap(lambda m, eta: solve_moments(self._inside, m, eta))(mean, start))
        return new if params is None else self.keep_where(alive, new, params)


def solve_moments(log_partition: Callable, mean: Any, start: Any) -> Any:
    """The natural parameters [f] at which the gradient of the log-partition A is `mean`.

    They maximise eta . mean - A(eta), which is concave, by Newton's method from a valid `start`.
    Points where A is not finite are outside its domain. Where the mean is on the boundary of what
    is possible there is no solution, and the search stops on its way to infinity.
    """
    return climb(lambda eta: eta @ mean - log_partition(eta), start, concave=True)
