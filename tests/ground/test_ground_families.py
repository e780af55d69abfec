"""Trusted fits of mixtures of counts, classes and times: trajectories to 1e-8, optima reached by 64 restarts."""

import jax
import numpy as np
import pytest
from conftest import GROUND
from ground_support import require_trace

import jaxem

MODELS = (
    *("poisson_mixture", "bernoulli_mixture", "categorical_mixture", "multinomial_mixture", "exponential_mixture"),
    *("gamma_mixture", "geometric_mixture", "zero_inflated_poisson", "normal_uniform_noise"),
)

#: Families whose rows are vectors; the others take one number per row.
OF_VECTORS = ("bernoulli_mixture", "categorical_mixture", "multinomial_mixture", "normal_uniform_noise")

#: Cases that 64 default restarts are asked to reach in a quick run; the others take a slow one.
QUICK = (
    *("carcinoma_k2", "carcinoma_k3", "carcinoma_k4", "times_deaths_k2", "epil_counts_k4", "lsat6_k2"),
    *("faithful_gamma_k3", "leuk_exponential_k2", "dmft_zip_k2", "faithful_noise_k2", "candy_geometric_k2"),
    "saxony_k2",
    *("carcinoma_k1", "times_deaths_k1", "faithful_gamma_k1"),
)


def mine(cases):
    return [case for case in cases if case["model"] in MODELS]


def read(case):
    """(x, weights or None) of a case; codes from 0."""
    path, columns = GROUND / case["file"], case["columns"]
    names = path.read_text().splitlines()[0].replace('"', "").split(",")
    wanted = [*columns["x"], *filter(None, [columns.get("weights")])]
    table = np.genfromtxt(path, delimiter=",", skip_header=1, dtype=float)
    table = table.reshape(-1, len(names))[:, [names.index(name) for name in wanted]]
    table = table[~np.isnan(table).any(1)]
    x, weights = table[:, : len(columns["x"])], table[:, -1] if "weights" in columns else None
    if case["model"] in ("categorical_mixture", "bernoulli_mixture") and x.min() == 1:
        x = x - 1
    return x if case["model"] in OF_VECTORS else x[:, 0], weights


def model_of(case, x):
    name, k = case["model"], case["k"]
    if name == "categorical_mixture":
        return jaxem.categorical_mixture(k, x.max(0).astype(int) + 1)
    if name == "normal_uniform_noise":
        return jaxem.gaussian_mixture_with_noise(k - 1, x.min(0), x.max(0))
    return getattr(jaxem, name)(k)


def start_of(case):
    start = {name: value for name, value in case["start"].items() if name != "weights"}
    if case["model"] == "categorical_mixture":
        prob = np.zeros((case["k"], len(start["prob"]), max(len(item[0]) for item in start["prob"])))
        for j, item in enumerate(start["prob"]):
            prob[:, j, : len(item[0])] = item
        start = {"prob": prob / prob.sum(-1, keepdims=True)}
    params = {
        "poisson_mixture": jaxem.PoissonParams,
        "bernoulli_mixture": jaxem.BernoulliParams,
        "categorical_mixture": jaxem.CategoricalParams,
        "multinomial_mixture": jaxem.MultinomialParams,
        "exponential_mixture": jaxem.ExponentialParams,
        "geometric_mixture": jaxem.GeometricParams,
    }[case["model"]]
    weights = np.asarray(case["start"]["weights"])
    return jaxem.MixtureParams(
        weights / weights.sum(), params(**{name: np.asarray(v, float) for name, v in start.items()})
    )


@pytest.mark.slow
def test_trajectories(ground, float64):
    cases = mine(ground("traces_families"))
    assert len(cases) >= 14
    for case in cases:
        x, weights = read(case)
        require_trace(case, model_of(case, x), x, start_of(case), weights)


def reached(case, n_restarts=64):
    """How far above the trusted log-likelihood the best of the restarts is, and that fit."""
    x, weights = read(case)
    options = {"weights": weights, "tol": 1e-11, "max_steps": 20_000}
    best, _ = jaxem.fit_restarts(model_of(case, x), x, jax.random.key(0), n_restarts=n_restarts, **options)
    return float(best.log_lik) - case["log_lik"], best


@pytest.mark.parametrize("name", QUICK)
def test_quick_optima(ground, float64, name):
    case = next(case for case in ground("families") if case["id"] == name)
    gap, best = reached(case)
    assert gap >= -case["tolerance"], gap
    assert best.status in (jaxem.Status.CONVERGED, jaxem.Status.EMPTY)


@pytest.mark.slow
def test_exact_optima(ground, float64):
    cases = [case for case in mine(ground("families")) if case["confidence"] == "exact"]
    assert len(cases) == 28
    for case in cases:
        gap, _ = reached(case, 1)
        assert abs(gap) <= max(case["tolerance"], 1e-9 * abs(case["log_lik"])), (case["id"], gap)


@pytest.mark.slow
def test_nine_of_ten_optima(ground, float64):
    """Of the optima that independent programs agree on, 64 default restarts reach at least 90 %."""
    cases = [case for case in mine(ground("families")) if case["confidence"] == "high"]
    assert len(cases) > 60
    missed = {case["id"]: gap for case in cases if (gap := reached(case)[0]) < -case["tolerance"]}
    assert len(missed) <= 0.1 * len(cases), missed
