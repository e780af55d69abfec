"""Families against scipy, closed forms and brute force; boundaries, supports, units, components of several kinds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.spatial
import scipy.special
import scipy.stats

import jaxem
from jaxem.families.log_partition import Columns, LogPartitionFamily, Negative, Positive, Real, solve_moments
from jaxem.families.von_mises_fisher import solve_concentration
from jaxem.numerics import special

RNG = np.random.default_rng(0)


def directions(n, d):
    rows = RNG.standard_normal((n, d)) + np.eye(d)[0]
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def by_component(density, *params):
    """[n, k] from one scipy call per component."""
    return np.stack([density(*each) for each in zip(*params, strict=True)], 1)


COUNTS = RNG.poisson(4, 30).astype(float)
TIMES = RNG.gamma(2.0, 3.0, 30)
BITS = RNG.integers(2, size=(30, 3)).astype(float)
CODES = np.stack([RNG.integers(3, size=30), RNG.integers(2, size=30)], 1).astype(float)
TABLE = np.stack([RNG.multinomial(3 + i, [0.2, 0.5, 0.3]) for i in range(30)]).astype(float)
SPHERE = directions(30, 3)
BOX = RNG.uniform(-1, 2, (30, 2))

PROB = np.array([[0.2, 0.5, 0.9], [0.7, 0.4, 0.1]])
ITEMS = np.array([[[0.2, 0.5, 0.3], [0.6, 0.4, 0.0]], [[0.1, 0.1, 0.8], [0.3, 0.7, 0.0]]])
SHARES = np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]])
MEANS = np.array([[1.0, 0.0, 0.0], [0.0, 0.6, 0.8]])
CONCENTRATIONS = np.array([0.5, 80.0])

#: family, x, params, log densities [n, k] by code that is not ours.
DENSITIES = {
    "poisson": (
        jaxem.Poisson(),
        COUNTS,
        jaxem.PoissonParams(np.array([1.5, 6.0])),
        lambda x: by_component(lambda rate: scipy.stats.poisson.logpmf(x, rate), [1.5, 6.0]),
    ),
    "poisson-exposure": (
        jaxem.Poisson(exposure=True),
        (COUNTS, TIMES),
        jaxem.PoissonParams(np.array([0.5, 2.0])),
        lambda x: by_component(lambda rate: scipy.stats.poisson.logpmf(x[0], rate * x[1]), [0.5, 2.0]),
    ),
    "bernoulli": (
        jaxem.Bernoulli(),
        BITS,
        jaxem.BernoulliParams(PROB),
        lambda x: by_component(lambda prob: scipy.stats.bernoulli.logpmf(x, prob).sum(1), PROB),
    ),
    "categorical": (
        jaxem.Categorical((3, 2)),
        CODES,
        jaxem.CategoricalParams(ITEMS),
        lambda x: by_component(lambda item: np.log(item[[0, 1], x.astype(int)]).sum(1), ITEMS),
    ),
    "multinomial": (
        jaxem.Multinomial(),
        TABLE,
        jaxem.MultinomialParams(SHARES),
        lambda x: by_component(lambda prob: scipy.stats.multinomial.logpmf(x, x.sum(1).astype(int), prob), SHARES),
    ),
    "geometric": (
        jaxem.Geometric(),
        COUNTS,
        jaxem.GeometricParams(np.array([0.1, 0.6])),
        lambda x: by_component(lambda prob: scipy.stats.geom.logpmf(x, prob, loc=-1), [0.1, 0.6]),
    ),
    "exponential": (
        jaxem.Exponential(),
        TIMES,
        jaxem.ExponentialParams(np.array([0.1, 2.0])),
        lambda x: by_component(lambda rate: scipy.stats.expon.logpdf(x, scale=1 / rate), [0.1, 2.0]),
    ),
    "gamma": (
        jaxem.Gamma(),
        TIMES,
        jaxem.GammaParams(np.array([0.7, 30.0]), np.array([0.2, 5.0])),
        lambda x: by_component(lambda a, b: scipy.stats.gamma.logpdf(x, a, scale=1 / b), [0.7, 30.0], [0.2, 5.0]),
    ),
    "log-normal": (
        jaxem.LogNormal(),
        TIMES,
        jaxem.LogNormalParams(np.array([0.0, 1.5]), np.array([1.0, 0.3])),
        lambda x: by_component(
            lambda m, v: scipy.stats.lognorm.logpdf(x, np.sqrt(v), scale=np.exp(m)), [0.0, 1.5], [1.0, 0.3]
        ),
    ),
    "von-mises-fisher": (
        jaxem.VonMisesFisher(),
        SPHERE,
        jaxem.VonMisesFisherParams(MEANS, CONCENTRATIONS),
        lambda x: by_component(lambda m, c: scipy.stats.vonmises_fisher(m, c).logpdf(x), MEANS, CONCENTRATIONS),
    ),
    "uniform": (
        jaxem.Uniform([-1.0, 0.0], [2.0, 2.0]),
        BOX,
        jaxem.UniformParams(np.array([[-1.0, 0.0]]), np.array([[2.0, 2.0]])),
        lambda x: scipy.stats.uniform.logpdf(x, [-1, 0], [3, 2]).sum(1)[:, None],
    ),
}


@pytest.mark.parametrize("name", DENSITIES)
def test_densities(name, float64):
    family, x, params, reference = DENSITIES[name]
    np.testing.assert_allclose(family.e_step(params, x).log_prob, reference(x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", [name for name in DENSITIES if name != "uniform"])
def test_m_step_matches_the_expected_statistics(name, float64):
    """E[T] at the new params, the gradient of the log-partition, is the weighted mean of T."""
    family, x, params, _ = DENSITIES[name]
    weights = RNG.uniform(0, 1, (30, 2))

    @jax.jit
    def q_of(params, new):
        z = jax.tree.map(jnp.asarray, x)
        stats = family.sufficient_statistics(None, z, weights)
        fitted = family.maximize(stats, params)
        gradient = jax.grad(lambda u: family.expected_log_joint(jaxem.constrain(family, u), stats))(
            jaxem.unconstrain(family, fitted)
        )
        return fitted, gradient

    fitted, gradient = q_of(params, None)
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_allclose(leaf, 0, atol=1e-9)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fitted))


# --- structural zeros ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "params", "possible", "impossible"),
    [
        (jaxem.Poisson(), jaxem.PoissonParams(np.zeros(1)), 0.0, 3.0),
        (jaxem.Geometric(), jaxem.GeometricParams(np.ones(1)), 0.0, 2.0),
        (jaxem.Bernoulli(), jaxem.BernoulliParams(np.array([[1.0, 0.0]])), [1.0, 0.0], [1.0, 1.0]),
        (jaxem.Categorical(2), jaxem.CategoricalParams(np.array([[[1.0, 0.0]]])), [0.0], [1.0]),
        (jaxem.Multinomial(), jaxem.MultinomialParams(np.array([[1.0, 0.0]])), [2.0, 0.0], [2.0, 1.0]),
    ],
)
def test_zero_probabilities(family, params, possible, impossible, dtype):
    """0 log 0 = 0; a contradiction is -inf; derivatives are finite."""
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
    x = np.asarray([possible, impossible], dtype)
    mixture = jaxem.Mixture(family, 1)
    both = jaxem.MixtureParams(jnp.ones(1, dtype), params)
    np.testing.assert_array_equal(mixture.log_prob(both, x), [0, -np.inf])
    assert np.isfinite(mixture.e_step(both, x).resp).all()
    gradient = jax.grad(lambda p: mixture.log_prob(p, x)[0])(both)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    stats = mixture.sufficient_statistics(jnp.ones((1, 1), dtype), x[:1])
    assert float(mixture.expected_log_joint(both, stats)) == 0


def test_fit_to_the_boundary(float64):
    """Separated classes: the maximum has probabilities of 0 and 1, and is reached exactly."""
    x = np.repeat([[1.0, 1, 0, 0], [0, 0, 1, 1]], 10, 0)
    best, _ = jaxem.fit_restarts(jaxem.bernoulli_mixture(2), x, jax.random.key(0), n_restarts=8)
    assert best.converged
    np.testing.assert_allclose(best.log_lik, 20 * np.log(0.5), rtol=1e-12)
    np.testing.assert_allclose(np.sort(best.params.components.prob, 0), [[0] * 4, [1] * 4], atol=1e-12)


def test_items_of_different_size(float64):
    """Padding has probability 0, counts as no parameter, and one number per item is refused where it must be."""
    model = jaxem.categorical_mixture(2, (3, 2))
    params = model.init(jax.random.key(0), CODES)
    np.testing.assert_array_equal(params.components.prob[:, 1, 2], 0)
    assert jaxem.n_free_params(model, params) == 1 + 2 * (2 + 1)
    back = jaxem.constrain(model, jaxem.unconstrain(model, params))
    np.testing.assert_allclose(back.components.prob, params.components.prob, atol=1e-14)
    with pytest.raises(ValueError, match="n_categories names 2 items; got 3 columns"):
        model.init(jax.random.key(0), np.zeros((5, 3)))
    padded = params._replace(components=jaxem.CategoricalParams(np.full((2, 2, 3), 1 / 3)))
    with pytest.raises(ValueError, match="not 0 beyond an item's categories"):
        model.log_prob(padded, CODES)


# --- values outside the support --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "x", "message"),
    [
        (jaxem.Poisson(), [0.0, 2.0, -1.0], "x: expected counts .*; row 2 holds -1"),
        (jaxem.Poisson(), [0.0, 2.5, 1.0], "row 1 holds 2.5"),
        (jaxem.Poisson(), [[1.0], [2.0]], r"one number per row, shape \[n\]; got shape \(2, 1\); write x\[:, 0\]"),
        (jaxem.Poisson(exposure=True), [1.0, 2.0], r"pair \(counts \[n\], exposures \[n\]\)"),
        (jaxem.Poisson(exposure=True), ([1.0, 2.0], [1.0, 0.0]), r"x\[1\]: expected exposures above 0; row 1"),
        (jaxem.Bernoulli(), [[0.0, 1.0], [0.5, 1.0]], r"x: expected zeros and ones; row 1 holds \[0.5 1. \]"),
        (jaxem.Bernoulli(), [0.0, 1.0], r"for one column write x\[:, None\]"),
        (jaxem.Categorical(3), [[0.0], [3.0]], "x: expected categories coded from 0 to 2; row 1"),
        (jaxem.Categorical((3, 2)), [[0.0, 1.0], [2.0, 2.0]], r"from 0 to \[2, 1\] \(by column\); row 1"),
        (jaxem.Multinomial(), [[1.0, 2.0], [1.0, -2.0]], "x: expected counts .*; row 1"),
        (jaxem.Geometric(), [0.0, 0.5], "x: expected counts .*; row 1"),
        (jaxem.Exponential(), [0.0, -0.5], "x: expected numbers of at least 0; row 1"),
        (jaxem.Gamma(), [1.0, 0.0], "x: expected numbers above 0; row 1"),
        (jaxem.LogNormal(), [1.0, 0.0], "x: expected numbers above 0; row 1"),
        (jaxem.VonMisesFisher(), [[1.0, 0.0], [1.0, 1.0]], "x: expected rows of length 1 .*; row 1"),
        (jaxem.Uniform([0.0], [1.0]), [[0.5, 0.5], [0.0, 1.0]], "the box has 1 dimensions; got 2 columns"),
        (
            jaxem.Product((jaxem.Poisson(), jaxem.Bernoulli())),
            ([1.0, 2.0], [[0.5], [1.0]]),
            r"x \(part 1\): expected z",
        ),
        (jaxem.Product((jaxem.Poisson(), jaxem.Bernoulli())), [1.0, 2.0], "a tuple of 2 parts, one per family; got"),
    ],
)
def test_support(family, x, message):
    x = tuple(np.asarray(part) for part in x) if isinstance(x, tuple) else np.asarray(x)
    with pytest.raises(ValueError, match=message):
        jaxem.fit_restarts(jaxem.Mixture(family, 1), x, jax.random.key(0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jaxem.Categorical(0), "n_categories: expected one whole number above 0"),
        (lambda: jaxem.Categorical((2, 2.5)), "n_categories"),
        (lambda: jaxem.Uniform([0.0, 1.0], [1.0, 1.0]), "low: expected corners low < high"),
        (lambda: jaxem.OneOf((jaxem.Poisson(),), (1, 2)), "sizes: expected a number of components for each family"),
        (lambda: jaxem.Product((jaxem.Poisson(), "bernoulli")), "families: expected a tuple of families"),
    ],
)
def test_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_start_of_the_wrong_shape():
    model = jaxem.gamma_mixture(2)
    start = jaxem.MixtureParams(np.ones(2) / 2, jaxem.GammaParams(np.ones(2), np.ones(3)))
    with pytest.raises(ValueError, match=r"start: rate has shape \(3,\), expected \[2\]"):
        jaxem.fit(model, TIMES, start)


# --- units and precision ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("name", ["gamma", "exponential", "log_normal"])
def test_units(name, scale):
    """In float32 a fit of c x is the fit of x, rescaled."""
    model = getattr(jaxem, f"{name}_mixture")(2)
    x = np.concatenate([RNG.gamma(9.0, 0.1, 40), RNG.gamma(9.0, 10.0, 40)]).astype(np.float32)
    one = jaxem.fit(model, x, model.init(jax.random.key(0), x), tol=0.0, max_steps=10)
    many = jaxem.fit(
        model, x * np.float32(scale), model.init(jax.random.key(0), x * np.float32(scale)), tol=0.0, max_steps=10
    )
    np.testing.assert_allclose(many.log_lik + len(x) * np.log(scale), one.log_lik, rtol=2e-5, atol=2e-2)
    np.testing.assert_allclose(many.params.weights, one.params.weights, rtol=1e-4)


def test_large_counts_in_float32():
    """Rows around a million: log x! is 13 million, the log-likelihood of a row about -8."""
    x = RNG.poisson(np.repeat([1.0e6, 1.2e6], 50)).astype(np.float32)
    model = jaxem.poisson_mixture(2)
    best, _ = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=4)
    rates = np.sort(np.asarray(best.params.components.rate, np.float64))
    np.testing.assert_allclose(rates, [x[:50].mean(), x[50:].mean()], rtol=1e-5)
    exact = scipy.stats.poisson.logpmf(x.astype(float), np.repeat(rates, 50)).sum() + 100 * np.log(0.5)
    np.testing.assert_allclose(best.log_lik, exact, rtol=2e-3)


def test_log_factorials():
    x = np.array([0.0, 1, 2, 7, 14, 15, 16, 300, 1e6, 1e12])
    exact = scipy.special.gammaln(x + 1) - scipy.special.xlogy(x, x) + x
    with jax.enable_x64(True):
        np.testing.assert_allclose(special.log_factorial_rest(x)[:8], exact[:8], rtol=1e-12, atol=1e-14)
    # gammaln itself has lost these digits.
    asymptotic = 0.5 * np.log(2 * np.pi * x[8:]) + 1 / (12 * x[8:])
    np.testing.assert_allclose(special.log_factorial_rest(x.astype(np.float32))[8:], asymptotic, rtol=1e-6)


# --- special functions and M-steps without a closed form -------------------------------------------------------------


def test_gamma_shape(float64):
    shape = 10.0 ** np.arange(-3, 9)
    gap = np.asarray(special.log_minus_digamma(shape))
    np.testing.assert_allclose(gap[:8], (np.log(shape) - scipy.special.digamma(shape))[:8], rtol=1e-9)
    np.testing.assert_allclose(gap[8:], 0.5 / shape[8:] + 1 / (12 * shape[8:] ** 2), rtol=1e-14)
    np.testing.assert_allclose(special.solve_gamma_shape(gap), shape, rtol=1e-13)


def test_gamma_against_scipy(float64):
    model = jaxem.gamma_mixture(1)
    fit = jaxem.fit(model, TIMES, model.init(jax.random.key(0), TIMES))
    shape, _, scale = scipy.stats.gamma.fit(TIMES, floc=0)
    np.testing.assert_allclose(fit.params.components.shape, shape, rtol=1e-6)
    np.testing.assert_allclose(fit.params.components.rate, 1 / scale, rtol=1e-6)


@pytest.mark.parametrize("order", [0.0, 0.5, 1.0, 4.0, 30.0, 200.0])
def test_bessel(order, float64):
    x = np.array([1e-3, 0.1, 1.0, 10.0, 100.0, 600.0])
    log_scaled, ratio = special.log_bessel(order, x)
    reference = scipy.special.ive(order, x)
    ok = reference > 1e-290
    np.testing.assert_allclose((log_scaled + order * np.log(x))[ok], np.log(reference[ok]), rtol=1e-11, atol=1e-11)
    expected = scipy.special.ive(order + 1, x)[ok] / (x * reference)[ok]
    np.testing.assert_allclose(ratio[ok], expected, rtol=1e-11)


@pytest.mark.parametrize("d", [2, 3, 10, 768])
def test_concentration(d, float64):
    """Solved to rounding from next to nothing to far beyond where the Bessel function overflows."""
    concentration = np.array([1e-6, 0.1, 1.0, 10.0, 100.0, 1e4, 1e8])
    length = concentration * special.log_bessel(d / 2 - 1, concentration)[1]
    # 1 - length is about d / (2 c): what rounding of the length itself leaves open.
    np.testing.assert_allclose(solve_concentration(length, d)[:-1], concentration[:-1], rtol=1e-10)
    np.testing.assert_allclose(solve_concentration(length, d)[-1], concentration[-1], rtol=1e-6)


def test_von_mises_fisher_in_float32():
    """No overflow for large concentration, in high dimension; the uniform distribution at 0."""
    family = jaxem.VonMisesFisher()
    x = directions(20, 100).astype(np.float32)
    params = jaxem.VonMisesFisherParams(x[:3], np.array([0.0, 50.0, 1e6], np.float32))
    log_prob = np.asarray(family.e_step(params, x).log_prob)
    assert np.isfinite(log_prob).all()
    area = np.log(2) + 50 * np.log(np.pi) - scipy.special.gammaln(50)
    np.testing.assert_allclose(log_prob[:, 0], -area, rtol=1e-5)


def test_von_mises_fisher_sampling(float64):
    """sample -> fit -> the same model."""
    model = jaxem.von_mises_fisher_mixture(2)
    truth = jaxem.MixtureParams(np.array([0.3, 0.7]), jaxem.VonMisesFisherParams(MEANS, np.array([4.0, 60.0])))
    x = model.sample(truth, jax.random.key(1), 4000)
    fit = jaxem.fit(model, x, truth)
    np.testing.assert_allclose(fit.params.components.concentration, [4.0, 60.0], rtol=0.1)
    np.testing.assert_allclose(fit.params.components.mean, MEANS, atol=0.05)


# --- an M-step from the log-partition alone --------------------------------------------------------------------------


@jaxem.model_class
class DerivedGamma(LogPartitionFamily):
    domain = (Positive(), Negative())
    row_ndim = 0

    def features(self, x):
        return jnp.stack([jnp.log(x), x])

    def log_partition(self, eta):
        return jax.scipy.special.gammaln(eta[0]) - eta[0] * jnp.log(-eta[1])

    def log_base(self, x):
        return -jnp.log(x)

    def embed(self, x, weights=None):
        return jnp.log(x)[:, None]


@jaxem.model_class
class DerivedPoisson(LogPartitionFamily):
    domain = (Real(),)
    row_ndim = 0

    def features(self, x):
        return x[None]

    def log_partition(self, eta):
        return jnp.exp(eta[0])

    def log_base(self, x):
        return -jax.scipy.special.gammaln(x + 1)


@pytest.mark.parametrize("far", [-3.0, 0.0, 5.0])
def test_newton_from_far_starts(far, float64):
    """Rounding from starts e^3 and e^5 away, outside the quadratic range, with steps that would leave the domain."""
    family = DerivedGamma()
    for shape, rate in [(0.05, 2.0), (1.0, 1.0), (300.0, 1e-3)]:
        mean = jnp.array([scipy.special.digamma(shape) - np.log(rate), shape / rate])
        start = Columns(family.domain).to_params(jnp.full(2, far))
        eta = jax.jit(lambda m, s: solve_moments(family.log_partition, m, s))(mean, start)
        np.testing.assert_allclose(eta, [shape, -rate], rtol=1e-9)


# --- components of different families, mixed columns -----------------------------------------------------------------


def test_the_derived_m_step_has_derivatives(float64):
    """Forwards and in reverse: those of its solution, here the natural parameters of a normal."""

    def closed(moments):
        var = moments[1] - moments[0] ** 2
        return jnp.stack([moments[0] / var, -0.5 / var])

    def log_partition(eta):
        return -(eta[0] ** 2) / (4 * eta[1]) - 0.5 * jnp.log(-2 * eta[1])

    moments, start = jnp.array([1.5, 4.0]), jnp.array([0.0, -0.5])
    want = jax.jacobian(closed)(moments)
    for jacobian in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(jacobian(lambda m: solve_moments(log_partition, m, start))(moments), want, rtol=1e-8)


def test_a_mean_on_the_boundary_ends_far_out_and_finite(float64):
    """No rate but 0 gives zeros only: the log rate goes down until nothing changes."""
    eta = solve_moments(lambda eta: jnp.exp(eta[0]), jnp.zeros(1), jnp.zeros(1))
    assert np.isfinite(eta).all()
    assert eta[0] < -30


def test_noise_takes_the_outliers(float64):
    """One step of the mixture by brute force, and the fit: two clusters found under a third of noise."""
    clusters = np.concatenate([RNG.normal([0, 0], 0.1, (60, 2)), RNG.normal([3, 3], 0.1, (60, 2))])
    x = np.concatenate([clusters, RNG.uniform(-5, 8, (60, 2))])
    model = jaxem.gaussian_mixture_with_noise(2, x.min(0), x.max(0))
    best, _ = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=8)
    assert abs(float(best.params.weights[-1]) - 1 / 3) < 0.05
    normals, box = best.params.components
    order = np.argsort(normals.mean[:, 0])
    np.testing.assert_allclose(normals.mean[order], [[0, 0], [3, 3]], atol=0.1)
    np.testing.assert_array_equal(box.low[0], x.min(0))
    joint = [scipy.stats.multivariate_normal(m, c).logpdf(x) for m, c in zip(normals.mean, normals.cov, strict=True)]
    joint = np.stack([*joint, np.full(len(x), -np.log(np.ptp(x, 0)).sum())], 1) + np.log(best.params.weights)
    np.testing.assert_allclose(best.log_lik, scipy.special.logsumexp(joint, 1).sum(), rtol=1e-12)
    assert float(model.log_prob(best.params, x.max(0)[None] + 100.0)[0]) < -100


def test_components_change_places_within_their_family_only(float64):
    x = BOX
    model = jaxem.gaussian_mixture_with_noise(2, x.min(0), x.max(0))
    params = model.init(jax.random.key(0), x)
    swapped = model.permute(params, np.array([1, 0, 2]))
    np.testing.assert_allclose(model.log_prob(swapped, x), model.log_prob(params, x), rtol=1e-12)
    with pytest.raises(NotImplementedError, match="different families"):
        model.permute(params, np.array([2, 0, 1]))


def test_zero_inflation(float64):
    """EM by hand (Lambert 1992) for one Poisson and a point at 0."""
    x = np.array([0.0] * 20 + [1, 2, 2, 3, 4, 5, 6])
    weight, rate = 0.5, 2.0
    for _ in range(200):
        zero = np.where(x == 0, weight / (weight + (1 - weight) * np.exp(-rate)), 0)
        weight, rate = zero.mean(), ((1 - zero) @ x) / (1 - zero).sum()
    best, _ = jaxem.fit_restarts(jaxem.zero_inflated_poisson(), x, jax.random.key(0), n_restarts=4, tol=1e-14)
    np.testing.assert_allclose([best.params.weights[0], best.params.components[1].rate[0]], [weight, rate], rtol=1e-6)
    np.testing.assert_array_equal(best.params.components[0].rate, 0)


def test_mixed_columns(float64):
    """A product's density is the product, and its M-step each family's own."""
    family = jaxem.Product((jaxem.Gaussian("diag"), jaxem.Poisson(), jaxem.Bernoulli()))
    parts = (BOX, COUNTS, BITS)
    model = jaxem.Mixture(family, 2)
    params = model.init(jax.random.key(0), parts)
    each = [f.e_step(p, x).log_prob for f, p, x in zip(family.families, params.components, parts, strict=True)]
    np.testing.assert_allclose(family.e_step(params.components, parts).log_prob, sum(each), rtol=1e-12)
    resp = model.e_step(params, parts).resp
    new = model.m_step(resp, parts)
    for f, p, x in zip(family.families, new.components, parts, strict=True):
        own = jaxem.Mixture(f, 2).m_step(resp, x).components
        for a, b in zip(jax.tree.leaves(p), jax.tree.leaves(own), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9)


# --- collapse --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["gamma_mixture", "log_normal_mixture"])
def test_collapse_on_ties_is_reported(preset, float64):
    """Half of the rows are one number: the best proper fit is not the spike, and the spike says what it is."""
    x = np.concatenate([np.full(20, 2.0), RNG.gamma(2.0, 1.0, 40)])
    model = getattr(jaxem, preset)(2)
    resp = np.stack([x == 2.0, x != 2.0], 1).astype(float)
    fit = jaxem.fit(model, x, model.m_step(resp, x))
    assert fit.status == jaxem.Status.DEGENERATE
    np.testing.assert_array_equal(fit.degenerate, [True, False])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fit.params))


def test_samples_have_the_expected_statistics(float64):
    """The mean of T over draws of each component is where its density says (five standard errors)."""
    for name in ("poisson", "geometric", "exponential", "gamma", "log-normal", "bernoulli", "multinomial"):
        family, _, params, _ = DENSITIES[name]
        draws = np.asarray(family.sample(jax.tree.map(jnp.asarray, params), jax.random.key(3), 4000))
        for j in range(2):
            rows = draws[:, j]
            stats = family.sufficient_statistics(None, jnp.asarray(rows), jnp.ones((4000, 2)) / 4000)
            fitted = family.maximize(stats)
            for got, want in zip(jax.tree.leaves(fitted), jax.tree.leaves(params), strict=True):
                np.testing.assert_allclose(got[j], want[j], rtol=0.15, atol=0.03, err_msg=name)


def test_noise_over_the_hull(float64):
    """Of a cloud with one far row: the hull is smaller than the box, holds every row, and its draws fill it."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(200, 2)), [[9.0, 9.0]]]) * [1.0, 1e4] + [1e3, 0.0]
    noise = jaxem.UniformHull.around(x)
    hull = scipy.spatial.ConvexHull(x / [1.0, 1e4])
    np.testing.assert_allclose(np.exp(noise.log_size), hull.volume * 1e4, rtol=1e-9)
    params = noise.maximize(noise.sufficient_statistics(None, x, np.ones((len(x), 1))))
    outside = x[hull.vertices] + 0.01 * (x[hull.vertices] - x.mean(0))
    assert (np.asarray(noise.e_step(params, x).log_prob) == -noise.log_size).all()
    assert np.isneginf(noise.e_step(params, outside).log_prob).all()
    draws = np.asarray(noise.sample(params, jax.random.key(0), 4000))[:, 0]
    assert np.isfinite(noise.e_step(params, draws).log_prob).all()
    # The share of a half-plane, counted in an even grid of points inside.
    grid = np.stack(np.meshgrid(*np.linspace(x.min(0), x.max(0), 200).T), -1).reshape(-1, 2)
    grid = grid[np.isfinite(noise.e_step(params, grid).log_prob)[:, 0]]
    assert abs((draws[:, 0] > 1002).mean() - (grid[:, 0] > 1002).mean()) < 0.03
    box, _ = jaxem.fit_restarts(
        jaxem.gaussian_mixture_with_noise(1, x.min(0), x.max(0)), x, jax.random.key(0), n_restarts=4
    )
    model = jaxem.Mixture(jaxem.OneOf((jaxem.Gaussian(), noise), (1, 1)), 2)
    best, _ = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=4)
    assert best.log_lik > box.log_lik
    assert model.predict(best.params, x)[-1] == 1


def test_a_flat_hull_is_named():
    with pytest.raises(ValueError, match="x: expected two or more columns"):
        jaxem.UniformHull.around(np.ones((10, 2)))


@jaxem.model_class
class Halved(jaxem.Exponential):
    """An exponential family whose own E-step says something else than the products would."""

    def e_step(self, params, x):
        step = super().e_step(params, x)
        return step._replace(log_prob=0.5 * step.log_prob)


def test_a_mixture_goes_by_the_e_step_of_its_component():
    x = np.linspace(0.1, 3, 7, dtype=np.float32)
    mixture = jaxem.Mixture(jaxem.Exponential(), 2)
    params = mixture.init(jax.random.key(0), x)
    ready = mixture.prepare(x)
    each = mixture.component.e_step(params.components, ready).log_prob + np.log(params.weights)
    np.testing.assert_allclose(mixture.e_step(params, ready).log_prob, scipy.special.logsumexp(each, 1), rtol=1e-5)
    halved = jaxem.Mixture(Halved(), 2)
    each = halved.component.e_step(params.components, ready).log_prob + np.log(params.weights)
    np.testing.assert_allclose(halved.e_step(params, ready).log_prob, scipy.special.logsumexp(each, 1), rtol=1e-5)


@jaxem.model_class
class DerivedBeta(LogPartitionFamily):
    """p(x) proportional to x^(a - 1) (1 - x)^(b - 1); its formula is finite for some negative a and b too."""

    domain = (Positive(), Positive())
    row_ndim = 0

    def features(self, x):
        return jnp.stack([jnp.log(x), jnp.log1p(-x)])

    def log_partition(self, eta):
        gammaln = jax.scipy.special.gammaln
        return gammaln(eta[0]) + gammaln(eta[1]) - gammaln(eta.sum())

    def log_base(self, x):
        return -jnp.log(x) - jnp.log1p(-x)


def test_the_derived_m_step_stays_in_its_domain(dtype):
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.beta(2, 8, 150), rng.beta(9, 3, 150)]).astype(dtype)
    fits = jaxem.fit_restarts(jaxem.Mixture(DerivedBeta(), 2), x, jax.random.key(0), n_restarts=8)
    assert (np.asarray(fits.all.params.components.natural) > 0).all()
    natural = np.asarray(fits.best.params.components.natural)
    np.testing.assert_allclose(natural[np.argsort(natural[:, 0])], [[2, 8], [9, 3]], rtol=0.5)
    loc = scipy.stats.beta.logpdf(np.asarray(x, float)[:, None], *natural.T)
    total = scipy.special.logsumexp(loc + np.log(fits.best.params.weights), axis=1).sum()
    assert float(fits.best.log_lik) == pytest.approx(total, abs=0.05)
