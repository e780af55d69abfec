"""Compositions under the names people know."""

from collections.abc import Sequence

import jax.numpy as jnp
from numpy.typing import ArrayLike

from jaxem.families.bernoulli import Bernoulli
from jaxem.families.categorical import Categorical
from jaxem.families.exponential import Exponential
from jaxem.families.factor_analysis import FactorAnalyzer
from jaxem.families.gamma import Gamma
from jaxem.families.gaussian import Gaussian
from jaxem.families.geometric import Geometric
from jaxem.families.linear_regression import LinearRegression
from jaxem.families.log_normal import LogNormal
from jaxem.families.logistic_regression import LogisticRegression
from jaxem.families.multinomial import Multinomial
from jaxem.families.negative_binomial import NegativeBinomial
from jaxem.families.one_of import Held, OneOf
from jaxem.families.poisson import Poisson, PoissonParams
from jaxem.families.poisson_regression import PoissonRegression
from jaxem.families.student_t import START_DF, StudentT
from jaxem.families.uniform import Uniform
from jaxem.families.von_mises_fisher import VonMisesFisher
from jaxem.latent.hard import Hard
from jaxem.latent.hmm import HMM
from jaxem.latent.mixture import Mixture
from jaxem.observed.censored import CensoredExponential
from jaxem.observed.missing import Missing
from jaxem.observed.missing import missing as with_holes


def gaussian_mixture(
    n_components: int, covariance: str = "full", floor: float | None = None, missing: bool = False, noise: str = "none"
) -> Mixture:
    """A mixture of multivariate normals.

    covariance: "full", "diag", "spherical" (each component its own), "tied", "diag_tied", "spherical_tied" (shared).
    floor: smallest covariance eigenvalue allowed, relative to the data's variance; changes nothing where it is not
    reached. None: 1e-12, or 1e-9 in float32; 0 switches it off.
    missing: NaN entries of x are missing at random and integrated out; without it a NaN is an error.
    noise: "diag" or "full" where x is the pair (rows, known noise variances [n, d] or covariances [n, d, d] of each
    row), which may have holes too; see `IncompleteGaussian`.

    Params are `MixtureParams(weights [k], GaussianParams(mean [k, d], cov))` with cov [k, d, d] full, [d, d] tied,
    [k, d] diag, [k] spherical, [d] diag_tied, [] spherical_tied; x is [n, d].

    >>> import jax, jaxem
    >>> jaxem.gaussian_mixture(3, covariance="tied").n_components
    3
    """
    family = Gaussian(covariance, floor)
    return Mixture(with_holes(family, noise) if missing or noise != "none" else family, n_components)


def kmeans(n_clusters: int) -> Hard:
    """k-means: the hard, equal-weight, shared-spherical Gaussian mixture. One step is one of Lloyd's.

    The inertia (sum of squared distances to the nearest centre) of params is `n d params.components.cov`, the
    objective its classification log-likelihood; x is [n, d]. MacQueen (1967); Bishop (2006), section 9.3.2.

    >>> import jax, jaxem
    >>> x = jaxem.datasets.old_faithful()
    >>> best, _ = jaxem.fit_restarts(jaxem.kmeans(2), x, jax.random.key(0), n_restarts=8)
    >>> round(float(best.params.components.cov) * x.size)
    8902
    """
    # Centres start where k-means++ puts them: the variance is that of all rows, and needs nothing spread.
    return Hard(Mixture(Gaussian("spherical_tied"), n_clusters, mixing="fixed", start_spread=0.0))


def student_t_mixture(
    n_components: int, covariance: str = "full", df: float | str = "each", floor: float | None = None
) -> Mixture:
    """A mixture of multivariate Student-t distributions, robust against rows far from every component.

    df: degrees of freedom: a number keeps them fixed there, "each" estimates them per component, "tied" one for all.
    covariance and floor as in `gaussian_mixture`. Params are `MixtureParams(weights, StudentTParams(mean, cov, df))`,
    cov the scale matrices. x is [n, d]. Peel and McLachlan (2000).

    >>> import jax, jaxem
    >>> x = jaxem.datasets.old_faithful()
    >>> best, _ = jaxem.fit_restarts(jaxem.student_t_mixture(2, df=4.0), x, jax.random.key(0), n_restarts=4)
    >>> round(float(best.log_lik), 1)
    -1140.5
    """
    given = not isinstance(df, str)
    if given and not df > 0:
        raise ValueError(f"df: expected a number above 0, 'each' or 'tied'; got {df!r}")
    component = StudentT(Gaussian(covariance, floor), df if given else START_DF, "none" if given else df)
    return Mixture(component, n_components)


def poisson_mixture(n_components: int, exposure: bool = False) -> Mixture:
    """A mixture of Poisson counts, x [n]; with `exposure` x is the pair (counts [n], exposures [n]).

    Params are `MixtureParams(weights [k], PoissonParams(rate [k]))`. Hasselblad (1969).

    Deaths of women over 80 in The Times, 1910 to 1912: how many days saw 0, 1, ... of them.

    >>> import jax, jaxem
    >>> deaths, days = jax.numpy.arange(10.0), [162, 267, 271, 185, 111, 61, 27, 8, 3, 1]
    >>> model = jaxem.poisson_mixture(2)
    >>> best, _ = jaxem.fit_restarts(model, deaths, jax.random.key(0), n_restarts=8, weights=days)
    >>> round(float(best.log_lik))
    -1990
    """
    return Mixture(Poisson(exposure), n_components)


def bernoulli_mixture(n_components: int, missing: bool = False) -> Mixture:
    """A mixture of vectors of independent zeros and ones, x [n, d]: latent classes of yes/no items.

    missing: NaN entries of x are missing at random and integrated out.

    Params are `MixtureParams(weights [k], BernoulliParams(prob [k, d]))`. Bishop (2006), section 9.3.3.

    >>> import jaxem
    >>> jaxem.bernoulli_mixture(3).n_components
    3
    """
    return Mixture(Missing(Bernoulli()) if missing else Bernoulli(), n_components)


def categorical_mixture(n_components: int, n_categories: int | Sequence[int], missing: bool = False) -> Mixture:
    """Latent class analysis: items x [n, d] coded 0, 1, ..., independent given the class.

    n_categories: of every item, one number or one per item. Params are
    `MixtureParams(weights [k], CategoricalParams(prob [k, d, c]))`, c the largest number of categories, with
    probability 0 beyond those that an item has. missing: NaN entries of x are missing at random and integrated out.
    Goodman (1974).

    >>> import jaxem
    >>> jaxem.categorical_mixture(2, n_categories=(2, 2, 4)).component.width
    4
    """
    family = Categorical(n_categories)
    return Mixture(Missing(family) if missing else family, n_components)


def linear_regression_mixture(n_components: int, floor: float | None = None, variance: str = "each") -> Mixture:
    """A mixture of linear regressions: x is (inputs [n, p], targets [n]); no intercept is added.

    variance: "each" component its own, or "tied". Params are
    `MixtureParams(weights, LinearRegressionParams(coef [k, p], var))`, var [k], or [] tied. Quandt and Ramsey (1978).

    >>> import jax, jax.numpy as jnp, jaxem
    >>> t = jnp.linspace(0.0, 1.0, 60)
    >>> y = jnp.where(jnp.arange(60) % 2 == 0, 2 * t, 3 - t) + 0.1 * jnp.sin(50 * t)
    >>> x = jnp.stack([jnp.ones(60), t], axis=1), y
    >>> best, _ = jaxem.fit_restarts(jaxem.linear_regression_mixture(2), x, jax.random.key(0), n_restarts=8)
    >>> sorted(best.params.components.coef.round(0).tolist())
    [[0.0, 2.0], [3.0, -1.0]]
    """
    return Mixture(LinearRegression(floor, variance), n_components)


def poisson_regression_mixture(n_components: int) -> Mixture:
    """A mixture of Poisson regressions with log link: x is (inputs [n, p], counts [n]) or (inputs, counts, offset [n]).

    Params are `MixtureParams(weights, RegressionParams(coef [k, p]))`. Wang, Puterman, Cockburn and Le (1996).

    >>> import jaxem
    >>> jaxem.poisson_regression_mixture(2).n_components
    2
    """
    return Mixture(PoissonRegression(), n_components)


def logistic_regression_mixture(n_components: int) -> Mixture:
    """A mixture of logistic regressions: x is (inputs [n, p], targets), targets [n] of 0 and 1 or [n, 2] of
    successes and trials; a third array is an offset [n].

    Params are `MixtureParams(weights, RegressionParams(coef [k, p]))`. Follmann and Lambert (1989).

    >>> import jaxem
    >>> jaxem.logistic_regression_mixture(2).n_components
    2
    """
    return Mixture(LogisticRegression(), n_components)


def gaussian_hmm(
    n_states: int,
    covariance: str = "full",
    initial: str = "free",
    floor: float | None = None,
    allowed: ArrayLike | None = None,
    missing: bool = False,
) -> HMM:
    """A hidden Markov model with multivariate normal observations; covariance and floor as in `gaussian_mixture`.

    x is [n, t, d], [t, d] for one sequence, or the pair (values [n, t, d], lengths [n]). initial ("free", "fixed" or
    "stationary") and allowed (which transitions may happen) as in `HMM`. missing: NaN entries of x, whole observations
    too, are missing at random and integrated out. Params are
    `HMMParams(initial [k], transition [k, k], GaussianParams(mean [k, d], cov))`.

    >>> import jax, jaxem
    >>> x = jaxem.datasets.old_faithful()
    >>> model = jaxem.gaussian_hmm(2, covariance="diag")
    >>> best, _ = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=8)
    >>> model.posterior(best.params, x).shape
    (272, 2)
    """
    family = Gaussian(covariance, floor)
    return HMM(with_holes(family) if missing else family, n_states, initial, allowed)


def poisson_hmm(n_states: int, initial: str = "free", allowed: ArrayLike | None = None) -> HMM:
    """A hidden Markov model of counts, x [n, t], [t], or (values [n, t], lengths [n]); initial, allowed as in `HMM`.

    Params are `HMMParams(initial [k], transition [k, k], PoissonParams(rate [k]))`. Zucchini and MacDonald (2009).

    >>> import jaxem
    >>> jaxem.poisson_hmm(3, initial="stationary").n_states
    3
    """
    return HMM(Poisson(), n_states, initial, allowed)


def categorical_hmm(n_states: int, n_categories: int, initial: str = "free", allowed: ArrayLike | None = None) -> HMM:
    """A hidden Markov model of symbols 0, ..., n_categories - 1; x and the options as in `poisson_hmm`.

    Params are `HMMParams(initial [k], transition [k, k], CategoricalParams(prob [k, 1, c]))`. Rabiner (1989).

    >>> import jaxem
    >>> jaxem.categorical_hmm(2, 6).n_states
    2
    """
    return HMM(Categorical(n_categories, scalar=True), n_states, initial, allowed)


def multinomial_mixture(n_components: int) -> Mixture:
    """A mixture of multinomials: rows of counts x [n, c], each of any total. With c = 2 a mixture of binomials.

    Params are `MixtureParams(weights [k], MultinomialParams(prob [k, c]))`.

    >>> import jaxem
    >>> jaxem.multinomial_mixture(3).n_components
    3
    """
    return Mixture(Multinomial(), n_components)


def geometric_mixture(n_components: int) -> Mixture:
    """A mixture of geometric counts x [n] = 0, 1, ...: failures before the first success.

    Params are `MixtureParams(weights [k], GeometricParams(prob [k]))`, prob that of stopping.

    >>> import jaxem
    >>> jaxem.geometric_mixture(2).n_components
    2
    """
    return Mixture(Geometric(), n_components)


def exponential_mixture(n_components: int, censored: bool = False) -> Mixture:
    """A mixture of exponential times x [n] >= 0. Params are `MixtureParams(weights [k], ExponentialParams(rate [k]))`.

    censored: x is the pair (lower [n], upper [n]) that each time is known to lie between, see `CensoredExponential`.

    >>> import jaxem
    >>> jaxem.exponential_mixture(2).n_components
    2
    """
    return Mixture(CensoredExponential() if censored else Exponential(), n_components)


def gamma_mixture(n_components: int) -> Mixture:
    """A mixture of gamma distributions, x [n] > 0.

    Params are `MixtureParams(weights [k], GammaParams(shape [k], rate [k]))`.

    >>> import jaxem
    >>> jaxem.gamma_mixture(2).n_components
    2
    """
    return Mixture(Gamma(), n_components)


def log_normal_mixture(n_components: int) -> Mixture:
    """A mixture of log-normal distributions, x [n] > 0.

    Params are `MixtureParams(weights [k], LogNormalParams(mean [k], var [k]))`, those of log x.

    >>> import jaxem
    >>> jaxem.log_normal_mixture(2).n_components
    2
    """
    return Mixture(LogNormal(), n_components)


def von_mises_fisher_mixture(n_components: int) -> Mixture:
    """A mixture of von Mises-Fisher distributions: unit vectors x [n, d]. Banerjee et al. (2005).

    Params are `MixtureParams(weights [k], VonMisesFisherParams(mean [k, d], concentration [k]))`.

    >>> import jaxem
    >>> jaxem.von_mises_fisher_mixture(2).n_components
    2
    """
    return Mixture(VonMisesFisher(), n_components)


def gaussian_mixture_with_noise(
    n_components: int, low: ArrayLike, high: ArrayLike, covariance: str = "full", floor: float | None = None
) -> Mixture:
    """A mixture of normals and, as its last component, uniform noise over the box from low [d] to high [d].

    Rows that no cluster explains go to the noise instead of widening one. `jaxem.Uniform.around(x)` gives the box
    that just holds x. Params are `MixtureParams(weights [n_components + 1], (GaussianParams, UniformParams))`; the
    box is not estimated. x is [n, d]. Banfield and Raftery (1993), section 3.3.

    >>> import jax, jaxem
    >>> x = jaxem.datasets.old_faithful()
    >>> model = jaxem.gaussian_mixture_with_noise(2, x.min(0), x.max(0))
    >>> best, _ = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=8)
    >>> round(float(best.params.weights[-1]), 1)
    0.0
    """
    box = Uniform(low, high)
    return Mixture(OneOf((Gaussian(covariance, floor), box), (n_components, 1)), n_components + 1)


def zero_inflated_poisson(n_components: int = 2) -> Mixture:
    """Counts x [n] from a point mass at 0 and n_components - 1 Poisson distributions. Lambert (1992).

    Params are `MixtureParams(weights [n_components], (PoissonParams, PoissonParams))`: the first is the point, held
    at rate 0, the second has the rates [n_components - 1].

    >>> import jax, jaxem
    >>> x = jax.numpy.array([0.0] * 50 + [2.0, 3.0, 4.0, 5.0, 3.0, 4.0, 2.0])
    >>> best, _ = jaxem.fit_restarts(jaxem.zero_inflated_poisson(), x, jax.random.key(0), n_restarts=8)
    >>> round(float(best.params.weights[0]), 2), round(float(best.params.components[1].rate[0]), 1)
    (0.87, 3.1)
    """
    zero = Held(Poisson(), PoissonParams(jnp.zeros(1)))
    return Mixture(OneOf((zero, Poisson()), (1, n_components - 1)), n_components)


def negative_binomial_mixture(n_components: int) -> Mixture:
    """A mixture of negative binomials for overdispersed counts x [n], each with its own size and mean.

    Params are `MixtureParams(weights, NegativeBinomialParams(size [k], mean [k]))`.

    >>> import jaxem
    >>> jaxem.negative_binomial_mixture(2).n_components
    2
    """
    return Mixture(NegativeBinomial(), n_components)


def factor_analysis(n_factors: int) -> Mixture:
    """Factor analysis: x = mean + loadings z + noise, z ~ N(0, I), noise variances of each column its own.

    A mixture of one `FactorAnalyzer`: params are `MixtureParams([1.], FactorParams(mean [1, d], loadings [1, d, q],
    noise [1, d]))`. Loadings are unique up to rotation; compare `FactorAnalyzer.covariance`. For mixtures of factor
    analysers write `Mixture(FactorAnalyzer(n_factors), k)`. Rubin and Thayer (1982).

    >>> import jaxem
    >>> jaxem.factor_analysis(2).component.noise
    'diag'
    """
    return Mixture(FactorAnalyzer(n_factors), 1)


def ppca(n_factors: int) -> Mixture:
    """Probabilistic PCA: factor analysis with one noise variance; its fit is exact in one step.

    Params as in `factor_analysis`, with noise [1]. Tipping and Bishop (1999).

    >>> import jaxem
    >>> jaxem.ppca(2).component.noise
    'spherical'
    """
    return Mixture(FactorAnalyzer(n_factors, "spherical"), 1)
