"""Well-known models under their usual names: each function composes one from its parts."""

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
from jaxem.observed.missing import missing as with_missing


def gaussian_mixture(
    n_components: int, covariance: str = "full", floor: float | None = None, missing: bool = False, noise: str = "none"
) -> Mixture:
    """A mixture of multivariate normals, for x [n, d].

    Params are `MixtureParams(weights [k], GaussianParams(mean [k, d], cov))`. The shape of cov is
    [k, d, d] for "full", [k, d] "diag", [k] "spherical", [d, d] "tied", [d] "diag_tied" and []
    "spherical_tied".

    Args:
        n_components: k.
        covariance: "full", "diag" or "spherical", each component with its own covariance, or
            "tied", "diag_tied" or "spherical_tied", one covariance for all.
        floor: the smallest eigenvalue that a covariance may have, relative to the variance of the
            data. It changes nothing where it is not reached. None stands for 1e-12, or 1e-9 in
            float32; 0 switches it off.
        missing: whether NaN in x stands for an entry missing at random, which is integrated out.
            Otherwise NaN is an error.
        noise: "diag" or "full" where x is the pair (rows, noise), with the known noise variances
            [n, d] or covariances [n, d, d] of each row. The rows may have missing entries too; see
            `IncompleteGaussian`.

    Examples:
        >>> import jax, jaxem
        >>> jaxem.gaussian_mixture(3, covariance="tied").n_components
        3
    """
    family = Gaussian(covariance, floor)
    return Mixture(with_missing(family, noise) if missing or noise != "none" else family, n_components)


def kmeans(n_clusters: int) -> Hard:
    """k-means, for x [n, d].

    It is classification EM (`Hard`) for a mixture of normals with equal weights and one shared
    spherical covariance; one step of EM is one step of Lloyd's algorithm. The objective is the
    classification log-likelihood. The inertia, the sum of squared distances to the nearest centre,
    is `n d params.components.cov`. MacQueen (1967); Bishop (2006), section 9.3.2.

    Args:
        n_clusters: k.

    Examples:
        >>> import jax, jaxem
        >>> x = jaxem.datasets.old_faithful()
        >>> best, _ = jaxem.fit_restarts(jaxem.kmeans(2), x, jax.random.key(0), n_restarts=8)
        >>> round(float(best.params.components.cov) * x.size)
        8902
    """
    # The variance of a start comes from all rows, so no share of the rows has to be spread over the
    # components: the centres start where k-means++ puts them.
    return Hard(Mixture(Gaussian("spherical_tied"), n_clusters, mixing="fixed", start_spread=0.0))


def student_t_mixture(
    n_components: int, covariance: str = "full", df: float | str = "each", floor: float | None = None
) -> Mixture:
    """A mixture of multivariate Student-t distributions, for x [n, d].

    It is robust against rows far from every component. Params are
    `MixtureParams(weights [k], StudentTParams(mean [k, d], cov, df))`, where cov are the scale
    matrices. Peel and McLachlan (2000).

    Args:
        n_components: k.
        covariance: the structure of the scale matrices, as in `gaussian_mixture`.
        df: the degrees of freedom: a number holds them fixed, "each" estimates them for each
            component, and "tied" estimates one number for all.
        floor: as in `gaussian_mixture`.

    Raises:
        ValueError: `df` is a number that is not above 0.

    Examples:
        >>> import jax, jaxem
        >>> x = jaxem.datasets.old_faithful()
        >>> model = jaxem.student_t_mixture(2, df=4.0)
        >>> best, _ = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=4)
        >>> round(float(best.log_lik), 1)
        -1140.5
    """
    given = not isinstance(df, str)
    if given and not df > 0:
        raise ValueError(f"df: expected a number above 0, 'each' or 'tied'; got {df!r}")
    component = StudentT(Gaussian(covariance, floor), df if given else START_DF, "none" if given else df)
    return Mixture(component, n_components)


def poisson_mixture(n_components: int, exposure: bool = False) -> Mixture:
    """A mixture of Poisson counts, for x [n].

    Params are `MixtureParams(weights [k], PoissonParams(rate [k]))`. Hasselblad (1969).

    Args:
        n_components: k.
        exposure: whether x is the pair (counts [n], exposures [n]).

    Examples:
        The data are the deaths of women over 80 in The Times, 1910 to 1912: the numbers of days
        with 0, 1, ... deaths.

        >>> import jax, jaxem
        >>> deaths, days = jax.numpy.arange(10.0), [162, 267, 271, 185, 111, 61, 27, 8, 3, 1]
        >>> model = jaxem.poisson_mixture(2)
        >>> best, _ = jaxem.fit_restarts(
        ...     model, deaths, jax.random.key(0), n_restarts=8, weights=days
        ... )
        >>> round(float(best.log_lik))
        -1990
    """
    return Mixture(Poisson(exposure), n_components)


def bernoulli_mixture(n_components: int, missing: bool = False) -> Mixture:
    """A mixture of vectors of independent zeros and ones, for x [n, d].

    It is the latent class model of yes/no items. Params are
    `MixtureParams(weights [k], BernoulliParams(prob [k, d]))`. Bishop (2006), section 9.3.3.

    Args:
        n_components: k.
        missing: whether NaN in x stands for an entry missing at random, which is integrated out.

    Examples:
        >>> import jaxem
        >>> jaxem.bernoulli_mixture(3).n_components
        3
    """
    return Mixture(Missing(Bernoulli()) if missing else Bernoulli(), n_components)


def categorical_mixture(n_components: int, n_categories: int | Sequence[int], missing: bool = False) -> Mixture:
    """Latent class analysis: items x [n, d], coded 0, 1, ..., independent given the class.

    Params are `MixtureParams(weights [k], CategoricalParams(prob [k, d, c]))`, where c is the
    largest number of categories. Categories that an item does not have get probability 0.
    Goodman (1974).

    Args:
        n_components: k, the number of classes.
        n_categories: the number of categories, one number for all items or one for each item.
        missing: whether NaN in x stands for an entry missing at random, which is integrated out.

    Examples:
        >>> import jaxem
        >>> jaxem.categorical_mixture(2, n_categories=(2, 2, 4)).component.width
        4
    """
    family = Categorical(n_categories)
    return Mixture(Missing(family) if missing else family, n_components)


def linear_regression_mixture(n_components: int, floor: float | None = None, variance: str = "each") -> Mixture:
    """A mixture of linear regressions, for the pair x = (inputs [n, p], targets [n]).

    No intercept is added. Params are
    `MixtureParams(weights [k], LinearRegressionParams(coef [k, p], var))`, where var is [k], or []
    if it is tied. Quandt and Ramsey (1978).

    Args:
        n_components: k.
        floor: the smallest variance, see `LinearRegression`.
        variance: "each" for a variance of each component, or "tied" for one of all.

    Examples:
        >>> import jax, jax.numpy as jnp, jaxem
        >>> t = jnp.linspace(0.0, 1.0, 60)
        >>> y = jnp.where(jnp.arange(60) % 2 == 0, 2 * t, 3 - t) + 0.1 * jnp.sin(50 * t)
        >>> x = jnp.stack([jnp.ones(60), t], axis=1), y
        >>> model = jaxem.linear_regression_mixture(2)
        >>> best, _ = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=8)
        >>> sorted(best.params.components.coef.round(0).tolist())
        [[0.0, 2.0], [3.0, -1.0]]
    """
    return Mixture(LinearRegression(floor, variance), n_components)


def poisson_regression_mixture(n_components: int) -> Mixture:
    """A mixture of Poisson regressions with log link.

    Data x are (inputs [n, p], counts [n]) or (inputs, counts, offset [n]). Params are
    `MixtureParams(weights [k], RegressionParams(coef [k, p]))`. Wang, Puterman, Cockburn and Le
    (1996).

    Args:
        n_components: k.

    Examples:
        >>> import jaxem
        >>> jaxem.poisson_regression_mixture(2).n_components
        2
    """
    return Mixture(PoissonRegression(), n_components)


def logistic_regression_mixture(n_components: int) -> Mixture:
    """A mixture of logistic regressions.

    Data x are (inputs [n, p], targets) or (inputs, targets, offset [n]). The targets are zeros and
    ones [n], or successes and trials [n, 2]. Params are
    `MixtureParams(weights [k], RegressionParams(coef [k, p]))`. Follmann and Lambert (1989).

    Args:
        n_components: k.

    Examples:
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
    """A hidden Markov model with multivariate normal observations.

    Data x are n sequences [n, t, d], one sequence [t, d], or the pair (values [n, t, d],
    lengths [n]). Params are
    `HMMParams(initial [k], transition [k, k], GaussianParams(mean [k, d], cov))`.

    Args:
        n_states: k.
        covariance: as in `gaussian_mixture`.
        initial: "free", "fixed" or "stationary", as in `HMM`.
        floor: as in `gaussian_mixture`.
        allowed: the transitions that may happen, [k, k] of bool, as in `HMM`.
        missing: whether NaN in x stands for an entry missing at random, which is integrated out.
            Whole observations may be missing.

    Examples:
        >>> import jax, jaxem
        >>> x = jaxem.datasets.old_faithful()
        >>> model = jaxem.gaussian_hmm(2, covariance="diag")
        >>> best, _ = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=8)
        >>> model.posterior(best.params, x).shape
        (272, 2)
    """
    family = Gaussian(covariance, floor)
    return HMM(with_missing(family) if missing else family, n_states, initial, allowed)


def poisson_hmm(n_states: int, initial: str = "free", allowed: ArrayLike | None = None) -> HMM:
    """A hidden Markov model of Poisson counts.

    Data x are n sequences [n, t], one sequence [t], or the pair (values [n, t], lengths [n]).
    Params are `HMMParams(initial [k], transition [k, k], PoissonParams(rate [k]))`. Zucchini and
    MacDonald (2009).

    Args:
        n_states: k.
        initial: "free", "fixed" or "stationary", as in `HMM`.
        allowed: the transitions that may happen, [k, k] of bool, as in `HMM`.

    Examples:
        >>> import jaxem
        >>> jaxem.poisson_hmm(3, initial="stationary").n_states
        3
    """
    return HMM(Poisson(), n_states, initial, allowed)


def categorical_hmm(n_states: int, n_categories: int, initial: str = "free", allowed: ArrayLike | None = None) -> HMM:
    """A hidden Markov model of symbols 0, ..., n_categories - 1.

    Data x have the form of those of `poisson_hmm`. Params are
    `HMMParams(initial [k], transition [k, k], CategoricalParams(prob [k, 1, c]))`. Rabiner (1989).

    Args:
        n_states: k.
        n_categories: c, the number of symbols.
        initial: "free", "fixed" or "stationary", as in `HMM`.
        allowed: the transitions that may happen, [k, k] of bool, as in `HMM`.

    Examples:
        >>> import jaxem
        >>> jaxem.categorical_hmm(2, 6).n_states
        2
    """
    return HMM(Categorical(n_categories, scalar=True), n_states, initial, allowed)


def multinomial_mixture(n_components: int) -> Mixture:
    """A mixture of multinomials, for rows of counts x [n, c] with any totals.

    With c = 2 it is a mixture of binomials. Params are
    `MixtureParams(weights [k], MultinomialParams(prob [k, c]))`.

    Args:
        n_components: k.

    Examples:
        >>> import jaxem
        >>> jaxem.multinomial_mixture(3).n_components
        3
    """
    return Mixture(Multinomial(), n_components)


def geometric_mixture(n_components: int) -> Mixture:
    """A mixture of geometric counts x [n] = 0, 1, ..., the failures before the first success.

    Params are `MixtureParams(weights [k], GeometricParams(prob [k]))`, where prob is the
    probability of a success.

    Args:
        n_components: k.

    Examples:
        >>> import jaxem
        >>> jaxem.geometric_mixture(2).n_components
        2
    """
    return Mixture(Geometric(), n_components)


def exponential_mixture(n_components: int, censored: bool = False) -> Mixture:
    """A mixture of exponential times, for x [n] of at least 0.

    Params are `MixtureParams(weights [k], ExponentialParams(rate [k]))`.

    Args:
        n_components: k.
        censored: whether x is the pair (lower [n], upper [n]) of numbers between which each time
            is known to lie, see `CensoredExponential`.

    Examples:
        >>> import jaxem
        >>> jaxem.exponential_mixture(2).n_components
        2
    """
    return Mixture(CensoredExponential() if censored else Exponential(), n_components)


def gamma_mixture(n_components: int) -> Mixture:
    """A mixture of gamma distributions, for x [n] above 0.

    Params are `MixtureParams(weights [k], GammaParams(shape [k], rate [k]))`.

    Args:
        n_components: k.

    Examples:
        >>> import jaxem
        >>> jaxem.gamma_mixture(2).n_components
        2
    """
    return Mixture(Gamma(), n_components)


def log_normal_mixture(n_components: int) -> Mixture:
    """A mixture of log-normal distributions, for x [n] above 0.

    Params are `MixtureParams(weights [k], LogNormalParams(mean [k], var [k]))`, the mean and the
    variance of log x.

    Args:
        n_components: k.

    Examples:
        >>> import jaxem
        >>> jaxem.log_normal_mixture(2).n_components
        2
    """
    return Mixture(LogNormal(), n_components)


def von_mises_fisher_mixture(n_components: int) -> Mixture:
    """A mixture of von Mises-Fisher distributions, for unit vectors x [n, d].

    Params are `MixtureParams(weights [k], VonMisesFisherParams(mean [k, d], concentration [k]))`.
    Banerjee et al. (2005).

    Args:
        n_components: k.

    Examples:
        >>> import jaxem
        >>> jaxem.von_mises_fisher_mixture(2).n_components
        2
    """
    return Mixture(VonMisesFisher(), n_components)


def gaussian_mixture_with_noise(
    n_components: int, low: ArrayLike, high: ArrayLike, covariance: str = "full", floor: float | None = None
) -> Mixture:
    """A mixture of normals with uniform noise over a box as its last component, for x [n, d].

    Rows that no normal explains belong to the noise, so that they do not widen a normal. Params are
    `MixtureParams(weights [n_components + 1], (GaussianParams, UniformParams))`; the box is not
    estimated. Banfield and Raftery (1993), section 3.3.

    Args:
        n_components: the number of normals.
        low: the lower corner of the box, [d]. `jaxem.Uniform.around(x)` gives the smallest box
            around x.
        high: the upper corner of the box, [d].
        covariance: as in `gaussian_mixture`.
        floor: as in `gaussian_mixture`.

    Examples:
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
    """A mixture of a point mass at 0 and n_components - 1 Poisson distributions, for counts x [n].

    Params are `MixtureParams(weights [n_components], (PoissonParams, PoissonParams))`. The first
    family is the point mass, with its rate fixed at 0; the second has the rates [n_components - 1].
    Lambert (1992).

    Args:
        n_components: the number of components, with the point mass.

    Examples:
        >>> import jax, jaxem
        >>> x = jax.numpy.array([0.0] * 50 + [2.0, 3.0, 4.0, 5.0, 3.0, 4.0, 2.0])
        >>> model = jaxem.zero_inflated_poisson()
        >>> best, _ = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=8)
        >>> point, poisson = best.params.components
        >>> round(float(best.params.weights[0]), 2), round(float(poisson.rate[0]), 1)
        (0.87, 3.1)
    """
    zero = Held(Poisson(), PoissonParams(jnp.zeros(1)))
    return Mixture(OneOf((zero, Poisson()), (1, n_components - 1)), n_components)


def negative_binomial_mixture(n_components: int) -> Mixture:
    """A mixture of negative binomials, for overdispersed counts x [n].

    Params are `MixtureParams(weights [k], NegativeBinomialParams(size [k], mean [k]))`.

    Args:
        n_components: k.

    Examples:
        >>> import jaxem
        >>> jaxem.negative_binomial_mixture(2).n_components
        2
    """
    return Mixture(NegativeBinomial(), n_components)


def factor_analysis(n_factors: int) -> Mixture:
    """Factor analysis of x [n, d]: x = mean + loadings z + noise, with z ~ N(0, I).

    Each column has its own noise variance. The model is a mixture of one `FactorAnalyzer`, and
    params are `MixtureParams([1.], FactorParams(mean [1, d], loadings [1, d, q], noise [1, d]))`.
    Loadings are unique up to a rotation; to compare two fits use `FactorAnalyzer.covariance`. For
    mixtures of factor analysers write `Mixture(FactorAnalyzer(n_factors), k)`. Rubin and Thayer
    (1982).

    Args:
        n_factors: q.

    Examples:
        >>> import jaxem
        >>> jaxem.factor_analysis(2).component.noise
        'diag'
    """
    return Mixture(FactorAnalyzer(n_factors), 1)


def ppca(n_factors: int) -> Mixture:
    """Probabilistic PCA: factor analysis with one noise variance.

    One step gives the exact fit. Params are as in `factor_analysis`, with noise [1]. Tipping and
    Bishop (1999).

    Args:
        n_factors: q.

    Examples:
        >>> import jaxem
        >>> jaxem.ppca(2).component.noise
        'spherical'
    """
    return Mixture(FactorAnalyzer(n_factors, "spherical"), 1)
