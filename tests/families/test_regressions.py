"""Regressions as components: one component is the classical regression; mixtures against trusted fits."""

import jax
import numpy as np
import pytest
import statsmodels.api as sm
from ground_support import columns, require_reached, require_trace, rows_of
from scipy.special import expit
from scipy.stats import poisson

import jaxem
from jaxem.families.linear_regression import LinearRegressionParams
from jaxem.families.regression import RegressionParams

N = 80
MAKERS = {
    "linear_regression_mixture": jaxem.linear_regression_mixture,
    "poisson_regression_mixture": jaxem.poisson_regression_mixture,
    "logistic_regression_mixture": jaxem.logistic_regression_mixture,
}


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    return np.stack([np.ones(N), rng.normal(size=N), 1e3 * rng.normal(size=N) + 5e3], axis=1)


def _fit_one(make, x):
    model = make(1)
    return jaxem.fit(model, x, model.init(jax.random.key(0), x), tol=1e-13)


def test_one_linear_regression_is_least_squares(inputs, float64):
    y = inputs @ [1.0, -2.0, 0.003] + np.random.default_rng(1).normal(size=N)
    result = _fit_one(jaxem.linear_regression_mixture, (inputs, y))
    theirs = sm.OLS(y, inputs).fit()
    np.testing.assert_allclose(result.params.components.coef[0], theirs.params, rtol=1e-8)
    np.testing.assert_allclose(result.params.components.var[0], theirs.ssr / N, rtol=1e-8)
    np.testing.assert_allclose(float(result.log_lik), theirs.llf, rtol=1e-10)


def test_one_poisson_regression_is_the_glm(inputs, float64):
    rng = np.random.default_rng(2)
    exposure = rng.uniform(0.5, 4, N)
    z = inputs / [1, 1, 1e3]
    y = rng.poisson(exposure * np.exp(z @ [0.2, 0.5, 0.1])).astype(float)
    result = _fit_one(jaxem.poisson_regression_mixture, (z, y, np.log(exposure)))
    theirs = sm.GLM(y, z, sm.families.Poisson(), exposure=exposure).fit(tol=1e-12)
    np.testing.assert_allclose(float(result.log_lik), theirs.llf, rtol=1e-10)
    np.testing.assert_allclose(result.params.components.coef[0], theirs.params, rtol=1e-6)


def test_one_logistic_regression_with_trials_is_the_glm(inputs, float64):
    rng = np.random.default_rng(3)
    z = inputs / [1, 1, 1e3]
    trials = rng.integers(1, 12, N).astype(float)
    successes = rng.binomial(trials.astype(int), expit(z @ [-2.0, 0.8, 0.3])).astype(float)
    result = _fit_one(jaxem.logistic_regression_mixture, (z, np.stack([successes, trials], 1)))
    theirs = sm.GLM(np.stack([successes, trials - successes], 1), z, sm.families.Binomial()).fit(tol=1e-12)
    np.testing.assert_allclose(float(result.log_lik), theirs.llf, rtol=1e-10)
    np.testing.assert_allclose(result.params.components.coef[0], theirs.params, rtol=1e-4)


def test_a_tied_variance_is_that_of_all_residuals(inputs, float64):
    y = inputs @ [1.0, -2.0, 0.003] + np.random.default_rng(1).normal(size=N)
    model = jaxem.linear_regression_mixture(2, variance="tied")
    fit = jaxem.fit(model, (inputs, y), model.init(jax.random.key(0), (inputs, y)), tol=1e-13)
    coef, var = fit.params.components
    resp = np.asarray(model.posterior(fit.params, (inputs, y)))
    np.testing.assert_allclose(var, (resp * (y[:, None] - inputs @ np.asarray(coef).T) ** 2).sum() / N, rtol=1e-5)
    with pytest.raises(ValueError, match="variance: expected 'each' or 'tied'"):
        jaxem.linear_regression_mixture(2, variance="all")


def test_densities(inputs, float64):
    z = inputs / [1, 1, 1e3]
    coef = np.array([[0.1, 0.2, 0.05], [1.0, -0.1, 0.0]])
    y = np.random.default_rng(4).poisson(2.0, N).astype(float)
    params = jaxem.MixtureParams(np.array([0.3, 0.7]), RegressionParams(coef))
    each = np.stack([poisson(np.exp(z @ b)).pmf(y) for b in coef], 1)
    model = jaxem.poisson_regression_mixture(2)
    np.testing.assert_allclose(model.log_prob(params, (z, y)), np.log(each @ [0.3, 0.7]), rtol=1e-10)


def test_bad_targets_are_named(inputs):
    y = np.ones(N)
    y[7] = -1
    with pytest.raises(ValueError, match=r"x\[1\].*row 7"):
        jaxem.fit_restarts(jaxem.poisson_regression_mixture(2), (inputs, y), jax.random.key(0))
    with pytest.raises(ValueError, match=r"x\[1\].*row 7"):
        jaxem.fit_restarts(jaxem.logistic_regression_mixture(2), (inputs, y), jax.random.key(0))
    twice = np.concatenate([inputs, inputs[:, :1]], 1)
    with pytest.raises(ValueError, match="linearly dependent"):
        jaxem.fit_restarts(jaxem.linear_regression_mixture(2), (twice, np.abs(y)), jax.random.key(0))


def _data(case):
    rows, names = rows_of(case), case["columns"]
    # Coefficients that all components share are those of one component where there is no other.
    given = [*names["inputs"], *names.get("tied_inputs", [])]
    x = np.concatenate([np.ones((len(rows), 1)), columns(rows, given)], axis=1)
    y = columns(rows, names["targets"])[:, 0]
    if "trials" in names:
        y = np.stack([y, columns(rows, [names["trials"]])[:, 0]], axis=1)
    return (x, y, columns(rows, [names["offset"]])[:, 0]) if "offset" in names else (x, y)


def test_traces(ground, float64):
    traces = [case for case in ground("traces_families") if case["model"] == "linear_regression_mixture"]
    for case in traces:
        start = case["start"]
        components = LinearRegressionParams(np.array(start["beta"]), np.array(start["sigma"]) ** 2)
        params = jaxem.MixtureParams(np.array(start["weights"]), components)
        require_trace(case, jaxem.linear_regression_mixture(case["k"]), _data(case), params)
    assert len(traces) == 3


@pytest.mark.parametrize("name", ["npreg_k2", "npreg_poisson_k2", "seizure_k2", "bregfix_k2", "tonedata_k2"])
def test_trusted_fits(name, ground, float64):
    case = next(case for case in ground("families") if case["id"] == name)
    best, _ = jaxem.fit_restarts(MAKERS[case["model"]](case["k"]), _data(case), jax.random.key(0), n_restarts=64)
    assert float(best.log_lik) > case["log_lik"] - 1e-3
    assert best.converged


def _gated(case):
    """(model, x) of a case with gating columns."""
    rows = rows_of(case)
    gating = np.concatenate([np.ones((len(rows), 1)), columns(rows, case["columns"]["gating"])], axis=1)
    component = jaxem.LinearRegression() if "linear" in case["model"] else jaxem.PoissonRegression()
    return jaxem.GatedMixture(component, case["k"]), (_data(case), gating)


@pytest.mark.parametrize("name", ["npreg_gating_k2", "crabs_gating_k2"])
def test_gated_mixtures(name, ground, float64):
    case = next(case for case in ground("families") if case["id"] == name)
    model, x = _gated(case)
    best, _ = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=64)
    assert float(best.log_lik) > case["log_lik"] - 1e-3
    swapped = model.permute(best.params, np.array([1, 0]))
    np.testing.assert_allclose(model.log_prob(swapped, x), model.log_prob(best.params, x))


@pytest.mark.slow
def test_all_trusted_fits(ground, float64):
    """Every exact optimum, and at least 90 % of those that independent programs agree on."""

    def model_of(case):
        if "gating" in case["columns"]:
            return _gated(case)
        options = {"variance": "tied"} if "sigma" in case["options"] else {}
        return MAKERS[case["model"]](case["k"], **options), _data(case)

    def is_ours(case):
        shared = "group" in case["columns"] or ("tied" in case["options"] and case["k"] > 1)
        return "regression" in case["model"] and not shared

    cases = [case for case in ground("families") if is_ours(case)]
    assert len(cases) > 35
    require_reached(cases, model_of)
