"""Exponential families: k components in two matrix products on shared features.

For p(x | eta) = h(x) exp(T(x) . eta - A(eta)) the log densities of n rows under k components are
one product of the features T with the natural parameters, and the expected sufficient statistics
are one product of the responsibilities with the same features. Nothing loops over components, and T
is computed once for a whole fit.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxem.contract.capabilities import Conjugate
from jaxem.contract.errors import NotProvidedError
from jaxem.contract.family import Family, alive_components
from jaxem.contract.model import EStep
from jaxem.numerics.linalg import PRECISION

#: The value that represents log 0 in a natural parameter. It is finite, so that its product with a
#: feature of 0 is 0 (0 log 0 = 0), and so far below any real log density that a sum which contains
#: it is recognised and becomes -inf (see `excludes`).
IMPOSSIBLE = -1e25


class Features(NamedTuple):
    """The features of the data; the last axis is that of rows, which are contiguous in memory.

    Attributes:
        own: a row of ones, and then T(x), [f + 1, n].
        common: the features whose natural parameter all components share, [g, n]; log h(x) is one
            of them, with parameter 1. Where the row weights are fixed for a whole fit, it is their
            weighted sum [g], which no iteration computes again.
    """

    own: jax.Array
    common: jax.Array


class Moments(NamedTuple):
    """The expected sufficient statistics of k components.

    Attributes:
        count: the sums of the weights, [k].
        total: the sums of T, [k, f].
        common: the sums of the common features, [g].
    """

    count: jax.Array
    total: jax.Array
    common: jax.Array


class ExponentialFamily(Conjugate, Family):
    """A family made of four small functions: p(x | eta) = h(x) exp(T(x) . eta - A(eta)).

    A subclass writes, for one row or one component each,

        features(x) -> T [f]                     the sufficient statistics
        natural(params) -> eta [f]               the natural parameters
        log_normalizer(params) -> A              the log-partition
        from_moments(mean of T [f]) -> params    the component whose expected T is this

    and, where they apply, log_base(x) -> log h(x), and moments(params) -> E[T] [f], the inverse of
    from_moments, which conjugate priors need (see `WithPrior`). `constraints` says where params
    live; `support` and `param_shapes` declare the rows and the shapes of the params, from which
    checks follow.

    A family in which rows can be impossible (a probability of exactly 0) says `excludes = True` and
    takes its natural parameters with `log_or_impossible`.

    Bishop (2006), section 2.4; the M-step is moment matching, equation (2.226).
    """

    #: Whether rows may be impossible: their log_prob is then -inf, and nothing is NaN.
    excludes = False

    def features(self, x: Any) -> jax.Array:
        """The sufficient statistics T(x) [f] of one row."""
        raise NotImplementedError(f"{type(self).__name__}.features")

    def natural(self, params: Any) -> jax.Array:
        """The natural parameters eta [f] of one component."""
        raise NotImplementedError(f"{type(self).__name__}.natural")

    def log_normalizer(self, params: Any) -> jax.Array:
        """The log-partition A of one component, in nats."""
        raise NotImplementedError(f"{type(self).__name__}.log_normalizer")

    def from_moments(self, moments: Any) -> Any:
        """The params of the component whose expected T is `moments` [f]."""
        raise NotImplementedError(f"{type(self).__name__}.from_moments")

    def moments(self, params: Any) -> jax.Array:
        """The expected T [f] of one component: the inverse of `from_moments`. Optional."""
        raise NotProvidedError(self, "moments")

    def log_base(self, x: Any) -> jax.Array:
        """log h(x) of one row, in nats. Optional: h is 1 where it is not written."""
        raise NotImplementedError(f"{type(self).__name__}.log_base")

    @property
    def withholds(self) -> Any:
        """A conjugate prior, unless the family writes `moments` (or `pseudo_statistics` itself)."""
        own, base = type(self), ExponentialFamily
        written = own.moments is not base.moments or own.pseudo_statistics is not base.pseudo_statistics
        return () if written else (Conjugate,)

    # --- the two products -------------------------------------------------------------------------

    @property
    def _has_base(self):
        return type(self).log_base is not ExponentialFamily.log_base

    def prepare(self, x: Any, weights: jax.Array | None = None, centred: bool = False) -> Any:
        if isinstance(x, Features):
            return x
        x = jax.tree.map(jnp.asarray, x)
        values = jax.vmap(self.features, out_axes=1)(x)
        own = jnp.concatenate([jnp.ones((1, values.shape[1]), values.dtype), values])
        if not self._has_base:
            return Features(own, values[:0])
        base = jax.vmap(self.log_base)(x)[None].astype(values.dtype)
        return Features(own, base if weights is None else base @ weights)

    def coefficients(self, params: Any) -> tuple[Any, Any]:
        """The coefficients of the features.

        Returns:
            (of the own features [k, f + 1], with the constant first; of the common ones [g]).
        """

        def one(component):
            return jnp.concatenate([-self.log_normalizer(component)[None], self.natural(component)])

        own = jax.vmap(one)(params)
        return own, jnp.ones(int(self._has_base), own.dtype)

    def e_step(self, params: Any, x: Any) -> EStep:
        return EStep(None, self._log_prob(*self.coefficients(params), self.prepare(x)))

    def weighted_e_step(self, params: Any, log_weights: Any, x: Any) -> Any:
        if type(self).e_step is not ExponentialFamily.e_step:
            return super().weighted_e_step(params, log_weights, x)
        return self.product_e_step(params, log_weights, self.prepare(x))

    def product_e_step(self, params: Any, log_weights: Any, features: Features) -> Any:
        """`weighted_e_step`, with the weights in the constants: it needs no extra pass."""
        own, common = self.coefficients(params)
        own = jnp.concatenate([own[:, :1] + log_weights[:, None], own[:, 1:]], 1)
        return EStep(None, self._log_prob(own, common, features))

    def _log_prob(self, own, common, features):
        log_prob = jnp.dot(own, features.own, precision=PRECISION)
        if features.common.ndim == 2 and common.size:
            log_prob = log_prob + jnp.dot(common, features.common, precision=PRECISION)
        if self.excludes:
            log_prob = jnp.where(log_prob < 0.5 * IMPOSSIBLE, -jnp.inf, log_prob)
        return log_prob.T

    def sufficient_statistics(self, resp: Any, x: Any, weights: jax.Array) -> Any:
        features = self.prepare(x)
        sums = weighted_sums(features.own, weights)
        common = features.common
        if common.ndim == 2:
            common = jnp.dot(common, weights.sum(-1), precision=PRECISION)
        return Moments(sums[:, 0], sums[:, 1:], common)

    def shared_log_lik(self, params: Any, stats: Any) -> Any:
        if not hasattr(stats, "common") or not stats.common.size:
            return 0.0
        return self.coefficients(params)[1] @ stats.common

    def maximize(self, stats: Any, params: Any = None) -> Any:
        mean, alive = component_means(stats)
        new = jax.vmap(self.from_moments)(mean)
        return new if params is None else self.keep_where(alive, new, params)

    def pseudo_statistics(self, params: Any, strength: Any, units: Any = None) -> Any:
        moments = jax.vmap(self.moments)(params)
        rows = jnp.broadcast_to(jnp.asarray(jax.tree.leaves(strength)[0], moments.dtype), moments.shape[:1])
        return Moments(rows, rows[:, None] * moments, jnp.zeros(int(self._has_base), moments.dtype))

    def expected_log_joint(self, params: Any, stats: Any) -> jax.Array:
        return expected_logits(*self.coefficients(params), stats)


@jax.custom_jvp
def weighted_sums(features: Any, weights: jax.Array) -> Any:
    """The sums over rows, [k, f], of features [f, n] with weights [n, k]."""
    return _features_first(features, weights)


@weighted_sums.defjvp
def _(values, tangents):
    (features, weights), (d_features, d_weights) = values, tangents
    return weighted_sums(*values), _weights_first(d_features, weights) + _weights_first(features, d_weights)


@jax.custom_batching.custom_vmap
def _features_first(features, weights):
    """`weighted_sums` with the weights as the second operand.

    A CPU packs the second operand. With the features there, it takes up to 1.6 times as long.
    """
    sums = lax.dot_general(features, weights.T, (((1,), (1,)), ((), ())), precision=PRECISION)
    # Without the barrier the compiler exchanges the operands, to save the transposition of a small
    # result.
    return lax.optimization_barrier(sums).T


def _weights_first(features, weights):
    return jnp.dot(weights.T, features.T, precision=PRECISION)


@_features_first.def_vmap
def _(size, batched, features, weights):
    # Fits side by side have as many weights as there are features, or more.
    axes = [0 if each else None for each in batched]
    return jax.vmap(_weights_first, axes)(features, weights), True


def expected_logits(own: Any, common: Any, stats: Any) -> Any:
    """Q, total in nats, from the coefficients of the features and their expected sums."""
    return (own * jnp.concatenate([stats.count[:, None], stats.total], 1)).sum() + common @ stats.common


def log_or_impossible(prob: Any) -> Any:
    """The log of a probability or rate, with `IMPOSSIBLE` (and the derivative 0) for 0."""
    # Numbers below tiny may be flushed to 0 by the hardware.
    positive = prob >= jnp.finfo(prob.dtype).tiny
    return jnp.where(positive, jnp.log(jnp.where(positive, prob, 1)), IMPOSSIBLE)


def component_means(stats: Any) -> Any:
    """(the mean of T of each component [k, f], which components hold any weight [k]).

    An empty component gets the mean over all rows.
    """
    alive = alive_components(stats.count)
    overall = stats.total.sum(0) / stats.count.sum()
    safe = jnp.where(alive, stats.count, 1)[:, None]
    return jnp.where(alive[:, None], stats.total / safe, overall), alive
