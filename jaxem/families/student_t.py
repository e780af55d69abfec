"""The multivariate Student-t distribution: a normal one whose precision has a hidden scale."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma, gammaln, xlogy

from jaxem.contract.capabilities import Conjugate
from jaxem.contract.constraints import Fixed, Positive
from jaxem.contract.family import Family, alive_components
from jaxem.contract.model import EStep, model_class
from jaxem.contract.posterior import Posterior
from jaxem.contract.pytree import pytree_class, static
from jaxem.contract.units import COVARIANCE, LOCATION, UNITLESS, AffineUnits
from jaxem.families.gaussian import Gaussian, GaussianParams
from jaxem.numerics.special import LOG_2PI, root_between, solve_gamma_shape

#: The range of degrees of freedom: below it no moment exists; above it the distribution is normal.
DF_RANGE = (0.2, 1e6)

#: Degrees of freedom of a random start where they are to be estimated.
START_DF = 10.0


class StudentTParams(NamedTuple):
    """The params of `StudentT`.

    Attributes:
        mean: [k, d].
        cov: the scale matrices, in the shapes of `GaussianParams`.
        df: the degrees of freedom [k], or [] where they are shared.
    """

    mean: Any
    cov: Any
    df: Any


ROLES = StudentTParams(LOCATION, COVARIANCE, UNITLESS)


@pytree_class
class Scale(Posterior):
    """The posterior of the hidden precision scale of each row: a gamma variable per component.

    Attributes:
        u: the expected scale, [n, k].
        log_u: the expected log of the scale, [n, k].
        gaussian: the posterior of the normal distribution.
    """

    u: Any
    log_u: Any
    gaussian: Any

    def _gamma(self):
        """(shape, rate) [n, k] of the gamma distribution with these expectations of u and log u."""
        shape = solve_gamma_shape(jnp.log(self.u) - self.log_u)
        return shape, shape / self.u

    def entropy(self) -> jax.Array:
        shape, rate = self._gamma()
        return shape - jnp.log(rate) + gammaln(shape) + (1 - shape) * digamma(shape)

    def kl(self, other: Any) -> jax.Array:
        (shape, rate), (a, b) = self._gamma(), other._gamma()
        scale = shape * (b - rate) / rate + a * jnp.log(rate / b)
        return (shape - a) * digamma(shape) - gammaln(shape) + gammaln(a) + scale


class StudentTMoments(NamedTuple):
    """The expected sufficient statistics of `StudentT`, where r are the responsibilities.

    Attributes:
        count: the sum of r, [k].
        gaussian: the statistics of the normal distribution with weights r u.
        log_u: the sum of r (E log u - E u), [k].
    """

    count: Any
    gaussian: Any
    log_u: Any


@model_class
class StudentT(Conjugate, Family):
    """Heavy-tailed components t(x | mean_k, cov_k, df_k): x | u ~ N(mean, cov / u), for x [n, d].

    The precision scale u ~ Gamma(df / 2, df / 2) of a row is hidden. The E-step expects E[u | x] =
    (df + d) / (df + delta), with delta the squared Mahalanobis distance, and E[log u | x]. Given
    them the M-step is that of the normal distribution with weights r u, and one equation for df.
    Peel and McLachlan (2000), section 3.

    Args:
        gaussian: the normal family, whose covariance structure and floor are used.
        df: the degrees of freedom of random starts, where they are not estimated.
        estimate: "none" (df stays as in the start), "each" (for each component its own) or "tied".

    Raises:
        ValueError: `estimate` is none of these.
    """

    gaussian: Gaussian
    df: Any = START_DF
    estimate: str = static(default="none")

    def __post_init__(self) -> None:
        if self.estimate not in ("none", "each", "tied"):
            raise ValueError(f"df: expected a number, 'each' or 'tied'; got {self.estimate!r}")

    def component_axes(self) -> Any:
        return StudentTParams(*self.gaussian.component_axes(), None if self.estimate == "tied" else 0)

    def constraints(self) -> StudentTParams:
        df = Fixed(Positive()) if self.estimate == "none" else Positive(DF_RANGE[0])
        return StudentTParams(*self.gaussian.constraints(), df)

    # --- E-step -----------------------------------------------------------------------------------

    def prepare(self, x: Any, weights: jax.Array | None = None, centred: bool = False) -> Any:
        # Every row is weighted by its own u, so no sums can be computed ahead.
        return self.gaussian.prepare(x, None, centred)

    def e_step(self, params: Any, x: Any) -> EStep:
        inner = GaussianParams(params.mean, params.cov)
        latent, log_normal = self.gaussian.e_step(inner, x)
        d, df = params.mean.shape[-1], jnp.broadcast_to(params.df, params.mean.shape[:1])
        constant = -0.5 * d * LOG_2PI - self.gaussian.half_log_det(inner)
        delta = jnp.maximum(2 * (constant - log_normal), 0)
        half = 0.5 * (df + d)
        log_prob = (
            gammaln(half) - gammaln(0.5 * df) + constant + 0.5 * d * jnp.log(2 / df) - half * jnp.log1p(delta / df)
        )
        log_u = digamma(half) - jnp.log(0.5 * (df + delta))
        return EStep(Scale((df + d) / (df + delta), log_u, latent), log_prob)

    # --- M-step -----------------------------------------------------------------------------------

    def sufficient_statistics(self, resp: Any, x: Any, weights: jax.Array) -> StudentTMoments:
        if resp is None:
            # A start knows no u. It takes u = 1, with the E[log u] that START_DF (or the given df)
            # implies.
            half = 0.5 * jnp.asarray(START_DF if self.estimate != "none" else self.df, weights.dtype)
            resp = Scale(jnp.ones_like(weights), jnp.full_like(weights, digamma(half) - jnp.log(half)), None)
        log_u = (weights * (resp.log_u - resp.u)).sum(0)
        count = weights.sum(0)
        # Means are weighted by u; a scatter of weights r u is divided by the sum of r.
        inner = self.gaussian.sufficient_statistics(resp.gaussian, x, weights * resp.u)._replace(rows=count)
        return StudentTMoments(count, inner, log_u)

    def pseudo_statistics(self, params: Any, strength: Any, units: Any = None) -> StudentTMoments:
        """The pseudo-statistics of a normal-inverse-Wishart prior on mean and cov (none on df)."""
        inner = GaussianParams(params.mean, params.cov)
        stats = self.gaussian.pseudo_statistics(inner, GaussianParams(strength.mean, strength.cov), units)
        nothing = jnp.zeros_like(stats.count)
        return StudentTMoments(nothing, stats, nothing)

    def maximize(self, stats: Any, params: Any = None) -> StudentTParams:
        old = None if params is None else GaussianParams(params.mean, params.cov)
        inner = self.gaussian.maximize(stats.gaussian, old)
        alive = alive_components(stats.count)
        safe = jnp.where(alive, stats.count, 1)
        new = StudentTParams(inner.mean, inner.cov, self._df(stats, safe, params))
        return new if params is None else self.keep_where(alive, new, params)

    def _df(self, stats, safe, params):
        if self.estimate == "none":
            given = jnp.broadcast_to(jnp.asarray(self.df, stats.count.dtype), stats.count.shape)
            return given if params is None else params.df
        if self.estimate == "tied":
            return solve_df(stats.log_u.sum() / stats.count.sum())
        return solve_df(stats.log_u / safe)

    # --- Q and the bound --------------------------------------------------------------------------

    def expected_log_joint(self, params: Any, stats: Any) -> jax.Array:
        """Q = E log N(x; mean, cov / u) + E log Gamma(u; df / 2, df / 2), total in nats."""
        inner, d = GaussianParams(params.mean, params.cov), params.mean.shape[-1]
        scaled = stats.gaussian.count
        normal = self.gaussian.expected_log_joint(inner, stats.gaussian)
        half = 0.5 * jnp.broadcast_to(params.df, stats.count.shape)
        log_u = stats.log_u + scaled
        gamma = stats.count * (xlogy(half, half) - gammaln(half)) + half * stats.log_u + (0.5 * d - 1) * log_u
        return normal + gamma.sum()

    # --- the rest is that of the normal distribution ----------------------------------------------

    def embed(self, x: Any, weights: jax.Array | None = None) -> Any:
        return x

    def degenerate(self, params: Any, n_points: Any) -> Any:
        return self.gaussian.degenerate(GaussianParams(params.mean, params.cov), n_points)

    def ill_conditioned(self, params: Any) -> Any:
        return self.gaussian.ill_conditioned(GaussianParams(params.mean, params.cov))

    def units(self, x: Any, weights: jax.Array | None = None) -> Any:
        return AffineUnits(self.gaussian.units(x, weights).affine, ROLES)

    def origin(self, x: Any, params: Any = None) -> Any:
        origin = self.gaussian.origin(x, params)
        return AffineUnits(origin.affine, ROLES) if isinstance(origin, AffineUnits) else origin

    def check(self, x: Any, params: Any = None) -> None:
        self.gaussian.check(x, None if params is None else GaussianParams(params.mean, params.cov))

    def check_fit(self, x: Any, weights: jax.Array, dtype: Any) -> None:
        self.gaussian.check_fit(x, weights, dtype)

    def sample(self, params: Any, key: jax.Array, n: int) -> Any:
        """n rows of every component, [n, k, d]."""
        noise_key, scale_key = jax.random.split(key)
        rows = self.gaussian.sample(GaussianParams(params.mean, params.cov), noise_key, n)
        half = 0.5 * jnp.broadcast_to(params.df, params.mean.shape[:1])
        u = jax.random.gamma(scale_key, half, (n, len(half))) / half
        return params.mean + (rows - params.mean) / jnp.sqrt(u)[..., None]


def solve_df(mean_log_u: Any) -> Any:
    """The df, in `DF_RANGE`, at which log(df / 2) - digamma(df / 2) + 1 + mean(E log u - E u) = 0.

    The left side falls with df, so bisection in log df always finds the root; each halving costs
    one digamma.
    """

    def left_side(log_df):
        half = 0.5 * jnp.exp(log_df)
        return jnp.log(half) - digamma(half) + 1 + mean_log_u

    low, high = (jnp.full_like(mean_log_u, np.log(end)) for end in DF_RANGE)
    return jnp.exp(root_between(left_side, low, high))
