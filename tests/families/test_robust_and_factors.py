"""Student-t, negative binomial and factor-analytic components against scipy, scikit-learn and trusted fits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ground_support import columns, require_reached, require_trace, rows_of
from scipy.stats import multivariate_t, nbinom
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA, FactorAnalysis

import jaxem
from jaxem.families.student_t import solve_df


def test_student_t_density(float64):
    x = jaxem.datasets.old_faithful()[:50]
    cov = np.array([[[0.3, 1.0], [1.0, 40.0]], [[0.1, 0.2], [0.2, 30.0]]])
    params = jaxem.MixtureParams(
        np.array([0.4, 0.6]), jaxem.StudentTParams(np.array([[4.3, 80.0], [2.0, 55.0]]), cov, np.array([3.0, 12.5]))
    )
    parts = zip(params.components.mean, cov, params.components.df, strict=True)
    each = np.stack([multivariate_t(m, c, df).pdf(x) for m, c, df in parts], 1)
    got = jaxem.student_t_mixture(2).log_prob(params, x)
    np.testing.assert_allclose(got, np.log(each @ [0.4, 0.6]), rtol=1e-9)


def test_degrees_of_freedom_solve_their_equation(dtype):
    df = jnp.array([0.5, 3.0, 40.0])
    half = df / 2
    wanted = jax.scipy.special.digamma(half) - jnp.log(half) - 1
    np.testing.assert_allclose(solve_df(wanted), df, rtol=1e-6 if dtype == "float64" else 5e-3)


@pytest.mark.parametrize("name", ["faithful-k2-t-nu4", "iris-k2-t-nu4-tied"])
def test_student_t_traces(name, ground, float64):
    case = next(case for case in ground("traces") if case["id"] == name)
    x, start = columns(rows_of(case), case["columns"]), case["start"]
    model = jaxem.student_t_mixture(case["k"], case["covariance"], df=case["df"])
    components = jaxem.StudentTParams(np.array(start["means"]), np.array(start["covs"]), np.full(case["k"], case["df"]))
    require_trace(case, model, x, jaxem.MixtureParams(np.array(start["weights"]), components))


@pytest.mark.parametrize("df", ["each", "tied"])
def test_estimated_df_is_a_stationary_point(df, float64):
    x = jnp.asarray(np.random.default_rng(0).standard_t(3, size=(150, 2)))
    model = jaxem.student_t_mixture(2, "diag", df=df)
    result = jaxem.fit(model, x, model.init(jax.random.key(0), x), tol=1e-14, max_steps=5000)
    slope = jax.grad(lambda p: model.log_prob(p, x).sum())(result.params).components.df
    np.testing.assert_allclose(slope, 0, atol=1e-4)


def test_negative_binomial_density_and_fit(float64):
    x = np.random.default_rng(1).negative_binomial(3, 0.3, size=200).astype(float)
    model = jaxem.negative_binomial_mixture(1)
    result = jaxem.fit(model, x, model.init(jax.random.key(0), x), tol=1e-14)
    size, mean = (float(leaf[0]) for leaf in result.params.components)
    expected = nbinom(size, size / (size + mean)).logpmf(x).sum()
    np.testing.assert_allclose(float(result.log_lik), expected, rtol=1e-10)
    slope = jax.grad(lambda p: model.log_prob(p, x).sum())(result.params).components
    np.testing.assert_allclose([slope.size[0], slope.mean[0]], 0, atol=1e-5)
    np.testing.assert_allclose(mean, x.mean())


# At this maximum one noise variance is 0, which both approach for ever.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_factor_analysis_reaches_what_scikit_learn_does(float64):
    x = load_iris().data
    best, _ = jaxem.fit_restarts(jaxem.factor_analysis(1), x, jax.random.key(0), n_restarts=2)
    theirs = FactorAnalysis(1, tol=1e-8, max_iter=2000, svd_method="lapack").fit(x)
    assert float(best.log_lik) > theirs.score(x) * len(x) - 1e-3


@pytest.mark.parametrize("shift", [0.0, 1e5])
def test_float32_rows_of_iris_give_what_float64_rows_give(shift):
    x = load_iris().data
    model = jaxem.factor_analysis(1)
    with jax.enable_x64(True):
        start = jax.tree.map(np.asarray, model.init(jax.random.key(0), x))
        want = jaxem.fit(model, x, start, tol=0, max_steps=20)
    moved = start._replace(components=start.components._replace(mean=start.components.mean + shift))
    got = jaxem.fit(model, x + shift, moved, tol=0, max_steps=20)
    assert got.log_lik.dtype == np.float32
    np.testing.assert_allclose(got.log_lik, want.log_lik, rtol=1e-4)


def test_ppca_is_its_closed_form(float64):
    x = load_iris().data
    model = jaxem.ppca(2)
    result = jaxem.fit(model, x, model.init(jax.random.key(0), x), max_steps=1)
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    noise = values[:2].mean()
    covariance = noise * np.eye(4) + (vectors[:, 2:] * (values[2:] - noise)) @ vectors[:, 2:].T
    np.testing.assert_allclose(model.component.covariance(result.params.components)[0], covariance, rtol=1e-8)
    loadings = np.asarray(result.params.components.loadings[0])
    theirs = PCA(2).fit(x).components_.T
    np.testing.assert_allclose(loadings @ np.linalg.pinv(loadings), theirs @ theirs.T, atol=1e-8)


FACTOR_NOISE = {"mixture_ppca": "spherical", "ppca": "spherical", "one diagonal shared by all components": "tied"}


def _factor_case(case):
    """(model, x) of a case."""
    x = columns(rows_of(case), case["columns"])
    if case["options"].get("standardise", "none") != "none":
        x = (x - x.mean(0)) / x.std(0)
    noise = FACTOR_NOISE.get(case["model"]) or FACTOR_NOISE.get(case["options"].get("noise"), "diag")
    return jaxem.Mixture(jaxem.FactorAnalyzer(case["n_factors"], noise), case.get("k") or 1), x


def test_mixture_of_factor_analysers(ground, float64):
    case = next(case for case in ground("factors") if case["id"] == "mfa-shared-iris-3-1")
    model, x = _factor_case(case)
    best, _ = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=32)
    assert float(best.log_lik) > case["log_lik"] - case["tolerance"]


def test_degrees_of_freedom_of_factors(ground):
    """A rotation of the factors changes nothing and is not counted."""
    for case in ground("factors"):
        model, x = _factor_case(case)
        params = jax.eval_shape(model.init, jax.random.key(0), jnp.asarray(x))
        assert jaxem.n_free_params(model, params) == case["n_params"], case["id"]


@pytest.mark.slow
def test_all_factor_optima(ground, float64):
    require_reached(ground("factors"), _factor_case)


def test_options_are_named():
    with pytest.raises(ValueError, match="df"):
        jaxem.student_t_mixture(2, df="all")
    with pytest.raises(ValueError, match="noise"):
        jaxem.FactorAnalyzer(1, "full")
    with pytest.raises(ValueError, match="n_factors"):
        jaxem.fit_restarts(jaxem.factor_analysis(2), jaxem.datasets.old_faithful(), jax.random.key(0))
