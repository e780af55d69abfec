"""Factor analysis and probabilistic PCA: normal distributions whose covariance has few factors.

With x = mean + W z + noise and a hidden z ~ N(0, I), the covariance is W W^T + noise. Everything
that the data say about it is their scatter, which the statistics of a normal distribution hold: the
E-step need not compute z for each row.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxem.contract.affine import host_origin, standardize
from jaxem.contract.constraints import Loadings, Positive, Real
from jaxem.contract.family import Family, alive_components
from jaxem.contract.model import model_class
from jaxem.contract.pytree import static
from jaxem.contract.units import LOADINGS, LOCATION, VARIANCE, AffineUnits, Identity, Units
from jaxem.families.gaussian import Gaussian, GaussianParams, rows_or_means
from jaxem.families.support import Vectors
from jaxem.numerics import linalg

#: The smallest noise variance, relative to the variance of its column. A Heywood case (a column
#: that the factors explain exactly) has its maximum at 0; what a smaller floor would add is below
#: rounding.
NOISE_FLOOR = {4: 1e-6, 8: 1e-10}

#: The number of sweeps over (loadings, noise) in one M-step. They are cheap: they read the scatter,
#: not the data.
N_SWEEPS = 10


class FactorParams(NamedTuple):
    """The params of `FactorAnalyzer`.

    Attributes:
        mean: [k, d].
        loadings: W [k, d, q], unique up to a rotation.
        noise: the variances of the noise: [k, d], [d] where the components share them, or [k] where
            the columns share them.
    """

    mean: Any
    loadings: Any
    noise: Any


ROLES = FactorParams(LOCATION, LOADINGS, VARIANCE)


@model_class
class FactorAnalyzer(Family):
    """Normal components with few factors: N(x | mean_k, W_k W_k^T + noise_k), for x [n, d].

    Ghahramani and Hinton (1996); Tipping and Bishop (1999). With noise="spherical" the M-step is
    exact: Tipping and Bishop, equations (7) and (8). Otherwise each sweep of the M-step takes the
    best loadings given the noise, an eigenproblem, and then the EM update of the noise. Both raise
    Q (Liu and Rubin 1998).

    Args:
        n_factors: the number q of factors, below the number of columns.
        noise: "diag" (factor analysis), "tied" (one diagonal that all components share) or
            "spherical" (probabilistic PCA).

    Raises:
        ValueError: an argument is not one of these.
    """

    n_factors: int = static()
    noise: str = static(default="diag")

    support = Vectors()

    @property
    def param_shapes(self) -> Any:
        noise = {"diag": ("k", "d"), "tied": ("d",), "spherical": ("k",)}[self.noise]
        return FactorParams(("k", "d"), ("k", "d", self.n_factors), noise)

    def __post_init__(self) -> None:
        if self.noise not in ("diag", "tied", "spherical"):
            raise ValueError(f"noise: expected 'diag', 'tied' or 'spherical'; got {self.noise!r}")
        if isinstance(self.n_factors, bool) or not isinstance(self.n_factors, int) or self.n_factors < 1:
            raise ValueError(f"n_factors: expected a whole number of at least 1; got {self.n_factors!r}")

    @property
    def gaussian(self) -> Gaussian:
        """The normal family that has the same density."""
        return Gaussian("full", 0.0)

    def component_axes(self) -> Any:
        return FactorParams(0, 0, None if self.noise == "tied" else 0)

    def constraints(self) -> FactorParams:
        return FactorParams(Real(), Loadings(), Positive())

    def covariance(self, params: Any) -> Any:
        """The covariances W W^T + noise, [k, d, d]."""
        eye = jnp.eye(params.mean.shape[-1], dtype=params.mean.dtype)
        noise = params.noise[..., None] if self.noise == "spherical" else params.noise
        return params.loadings @ jnp.swapaxes(params.loadings, -1, -2) + noise[..., None, :] * eye

    def as_gaussian(self, params: Any) -> GaussianParams:
        """The params of `gaussian` that give the same density."""
        return GaussianParams(params.mean, self.covariance(params))

    def e_step(self, params: Any, x: Any) -> Any:
        return self.gaussian.e_step(self.as_gaussian(params), x)

    def prepare(self, x: Any, weights: jax.Array | None = None, centred: bool = False) -> Any:
        return self.gaussian.prepare(x, weights, centred)

    def sufficient_statistics(self, resp: Any, x: Any, weights: jax.Array) -> Any:
        return self.gaussian.sufficient_statistics(resp, x, weights)

    def expected_log_joint(self, params: Any, stats: Any) -> jax.Array:
        return self.gaussian.expected_log_joint(self.as_gaussian(params), stats)

    def maximize(self, stats: Any, params: Any = None) -> FactorParams:
        old = None if params is None else self.as_gaussian(params)
        mean, scatter = self.gaussian.maximize(stats, old)
        if self.noise == "spherical":
            loadings, noise = jax.vmap(self._principal)(scatter)
            new = FactorParams(mean, loadings, noise)
        else:
            variances = jnp.diagonal(scatter, axis1=-2, axis2=-1)
            share = stats.count / stats.count.sum()
            noise = self._pooled(0.5 * variances, share) if params is None else params.noise
            new = FactorParams(mean, *self._sweeps(scatter, noise, share))
        alive = alive_components(stats.count)
        return new if params is None else self.keep_where(alive, new, params)

    def _principal(self, scatter):
        """(loadings, noise): the probabilistic PCA of one scatter matrix [d, d], in closed form."""
        values, vectors = jnp.linalg.eigh(scatter)
        q = self.n_factors
        noise = jnp.maximum(values[:-q].mean(), NOISE_FLOOR[values.dtype.itemsize] * values.mean())
        return vectors[:, -q:] * jnp.sqrt(jnp.maximum(values[-q:] - noise, 0)), noise

    def _sweeps(self, scatter, noise, share):
        def sweep(_, noise):
            loadings = self._loadings(scatter, noise)
            return self._pooled(self._noise(scatter, loadings, noise), share)

        noise = jax.lax.fori_loop(0, N_SWEEPS, sweep, noise)
        return self._loadings(scatter, noise), noise

    def _loadings(self, scatter, noise):
        """The best loadings given the noise, from the principal axes of noise^-1/2 S noise^-1/2.

        Only axes with eigenvalues above 1 are used (Lawley 1940).
        """
        deviation = jnp.broadcast_to(jnp.sqrt(noise), scatter.shape[:-1])
        values, vectors = jnp.linalg.eigh(scatter / (deviation[..., :, None] * deviation[..., None, :]))
        q = self.n_factors
        strength = jnp.sqrt(jnp.maximum(values[..., -q:] - 1, 0))
        return deviation[..., None] * vectors[..., -q:] * strength[..., None, :]

    def _noise(self, scatter, loadings, noise):
        """diag(S - W beta S) with beta = W^T (W W^T + noise)^-1, above its floor, [k, d].

        Rubin and Thayer (1982).
        """
        scaled = loadings / jnp.broadcast_to(noise, scatter.shape[:-1])[..., None]
        inner = jnp.eye(self.n_factors, dtype=scatter.dtype) + jnp.swapaxes(loadings, -1, -2) @ scaled
        explained = loadings @ linalg.solve_positive(inner, jnp.swapaxes(scaled, -1, -2) @ scatter)
        variances = jnp.diagonal(scatter, axis1=-2, axis2=-1)
        rest = variances - jnp.diagonal(explained, axis1=-2, axis2=-1)
        return jnp.maximum(rest, NOISE_FLOOR[rest.dtype.itemsize] * variances)

    def _pooled(self, noise, share):
        return share @ noise if self.noise == "tied" else noise

    # --- units: columns are scaled and not mixed, since the noise of each is its own --------------

    def embed(self, x: Any, weights: jax.Array | None = None) -> Any:
        return x

    def units(self, x: Any, weights: jax.Array | None = None) -> AffineUnits:
        return AffineUnits(standardize(x, weights, "spherical" if self.noise == "spherical" else "diag"), ROLES)

    def origin(self, x: Any, params: Any = None) -> Units:
        affine = host_origin(rows_or_means(x, params))
        return Identity() if affine is None else AffineUnits(affine, ROLES)

    def ill_conditioned(self, params: Any) -> Any:
        return self.gaussian.ill_conditioned(self.as_gaussian(params))

    def degenerate(self, params: Any, n_points: Any) -> Any:
        return self.gaussian.degenerate(self.as_gaussian(params), n_points)

    def sample(self, params: Any, key: jax.Array, n: int) -> Any:
        return self.gaussian.sample(self.as_gaussian(params), key, n)

    def check(self, x: Any, params: Any = None) -> None:
        super().check(x, params)
        if self.n_factors >= x.shape[1]:
            raise ValueError(f"n_factors: expected fewer than the {x.shape[1]} columns of x; got {self.n_factors}")
