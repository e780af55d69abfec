"""Exponential families: k components in two matrix products on shared features.

For p(x | eta) = h(x) exp(T(x) . eta - A(eta)) the log densities of n rows under k components are one product of the
features T with the natural parameters, and the expected sufficient statistics are one product of the
responsibilities with the same features. Nothing loops over components, and T is computed once for a whole fit.

A *family* is a `Model` of k components side by side: its params have a leading component axis, its `e_step` gives
log_prob [n, k], and its weights are [n, k]. Mixtures, hidden Markov models and hard assignments are put over it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxem.contract.capabilities import Conjugate
from jaxem.contract.errors import NotProvidedError
from jaxem.contract.family import Family, alive_components
from jaxem.contract.model import EStep
from jaxem.numerics.linalg import PRECISION

#: Stands for log 0 in a natural parameter. Finite, so that its product with a feature of 0 is 0 (0 log 0 = 0), and so
#: far below any real log density that a sum which contains it is recognised and becomes -inf (see `excludes`).
IMPOSSIBLE = -1e25


class Features(NamedTuple):
    """What an exponential family needs of the data: features-major, so that rows are the fast axis of every loop.

    own: [f + 1, n], a row of ones and then T(x).
    common: the features whose natural parameter all components share (log h(x) is one, with parameter 1), [g, n]; or,
    when the row weights are fixed for a whole fit, their weighted sum [g], which no iteration has to touch again.
    """

    own: jax.Array
    common: jax.Array


class Moments(NamedTuple):
    """Expected sufficient statistics of k components: weights [k], sums of T [k, f], sums of common features [g]."""

    count: jax.Array
    total: jax.Array
    common: jax.Array


class ExponentialFamily(Conjugate, Family):
    """A family from four small functions, each written for one row or one component:

        features(x) -> T [f]                 one row's sufficient statistics
        natural(params) -> eta [f]           one component's natural parameters
        log_normalizer(params) -> A          one component's log-partition
        from_moments(mean of T [f]) -> params    the component whose expected T is this

    and optionally log_base(x) -> log h(x), and moments(params) -> E[T] [f], the inverse of from_moments, which
    conjugate priors need (see `WithPrior`). `constraints` says where params live.

    A family that can rule rows out (a probability of exactly 0) says `excludes = True` and takes its natural
    parameters with `log_or_impossible`.

    Bishop (2006), section 2.4; the M-step is moment matching, equation (2.226).
    """

    #: Whether some rows may be impossible: their log_prob is then -inf, and nothing is NaN.
    excludes = False

    def features(self, x):
        raise NotImplementedError

    def natural(self, params):
        raise NotImplementedError

    def log_normalizer(self, params):
        raise NotImplementedError

    def from_moments(self, moments):
        raise NotImplementedError

    def moments(self, params):
        raise NotProvidedError(self, "moments")

    def log_base(self, x):
        raise NotImplementedError

    @property
    def withholds(self):
        """A conjugate prior is there for those that write `moments` (or all of `pseudo_statistics`)."""
        own, base = type(self), ExponentialFamily
        written = own.moments is not base.moments or own.pseudo_statistics is not base.pseudo_statistics
        return () if written else (Conjugate,)

    # --- the two products ------------------------------------------------------------------------------------

    @property
    def _has_base(self):
        return type(self).log_base is not ExponentialFamily.log_base

    def prepare(self, x, weights=None, centred=False):
        if isinstance(x, Features):
            return x
        x = jax.tree.map(jnp.asarray, x)
        values = jax.vmap(self.features, out_axes=1)(x)
        own = jnp.concatenate([jnp.ones((1, values.shape[1]), values.dtype), values])
        if not self._has_base:
            return Features(own, values[:0])
        base = jax.vmap(self.log_base)(x)[None].astype(values.dtype)
        return Features(own, base if weights is None else base @ weights)

    def coefficients(self, params):
        """([k, f + 1] constant and natural parameters of the own features, [g] of the common ones)."""

        def one(component):
            return jnp.concatenate([-self.log_normalizer(component)[None], self.natural(component)])

        own = jax.vmap(one)(params)
        return own, jnp.ones(int(self._has_base), own.dtype)

    def e_step(self, params, x):
        return EStep(None, self._log_prob(*self.coefficients(params), self.prepare(x)))

    def weighted_e_step(self, params, log_weights, x):
        if type(self).e_step is not ExponentialFamily.e_step:
            return super().weighted_e_step(params, log_weights, x)
        return self.product_e_step(params, log_weights, self.prepare(x))

    def product_e_step(self, params, log_weights, features: Features):
        """`weighted_e_step` with the weights in the constant of each component: they cost no pass of their own."""
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

    def sufficient_statistics(self, resp, x, weights):
        features = self.prepare(x)
        sums = weighted_sums(features.own, weights)
        common = features.common
        if common.ndim == 2:
            common = jnp.dot(common, weights.sum(-1), precision=PRECISION)
        return Moments(sums[:, 0], sums[:, 1:], common)

    def shared_log_lik(self, params, stats):
        if not hasattr(stats, "common") or not stats.common.size:
            return 0.0
        return self.coefficients(params)[1] @ stats.common

    def maximize(self, stats, params=None):
        mean, alive = component_means(stats)
        new = jax.vmap(self.from_moments)(mean)
        return new if params is None else self.keep_where(alive, new, params)

    def pseudo_statistics(self, params, strength, units=None):
        moments = jax.vmap(self.moments)(params)
        rows = jnp.broadcast_to(jnp.asarray(jax.tree.leaves(strength)[0], moments.dtype), moments.shape[:1])
        return Moments(rows, rows[:, None] * moments, jnp.zeros(int(self._has_base), moments.dtype))

    def expected_log_joint(self, params, stats):
        return expected_logits(*self.coefficients(params), stats)


@jax.custom_jvp
def weighted_sums(features, weights):
    """The sums over rows [k, f] of features [f, n] with weights [n, k]."""
    return _features_first(features, weights)


@weighted_sums.defjvp
def _(values, tangents):
    (features, weights), (d_features, d_weights) = values, tangents
    return weighted_sums(*values), _weights_first(d_features, weights) + _weights_first(features, d_weights)


@jax.custom_batching.custom_vmap
def _features_first(features, weights):
    """A CPU packs the second operand: where that is the features, it takes up to 1.6 times as long."""
    sums = lax.dot_general(features, weights.T, (((1,), (1,)), ((), ())), precision=PRECISION)
    # Else the compiler would turn the product around, to save itself the transposition of a small result.
    return lax.optimization_barrier(sums).T


def _weights_first(features, weights):
    return jnp.dot(weights.T, features.T, precision=PRECISION)


@_features_first.def_vmap
def _(size, batched, features, weights):
    # Fits side by side have as many weights as there are features, or more.
    axes = [0 if each else None for each in batched]
    return jax.vmap(_weights_first, axes)(features, weights), True


def expected_logits(own, common, stats):
    """Q from the coefficients of the features and their expected sums."""
    return (own * jnp.concatenate([stats.count[:, None], stats.total], 1)).sum() + common @ stats.common


def log_or_impossible(prob):
    """log of a probability or rate, with `IMPOSSIBLE` for 0; its derivative there is 0, not NaN."""
    # Numbers below tiny may be flushed to 0 by the hardware.
    positive = prob >= jnp.finfo(prob.dtype).tiny
    return jnp.where(positive, jnp.log(jnp.where(positive, prob, 1)), IMPOSSIBLE)


def component_means(stats):
    """Mean of T per component, and which components hold any weight; an empty one gets the mean over all."""
    alive = alive_components(stats.count)
    overall = stats.total.sum(0) / stats.count.sum()
    safe = jnp.where(alive, stats.count, 1)[:, None]
    return jnp.where(alive[:, None], stats.total / safe, overall), alive
