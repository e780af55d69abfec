"""Criteria against scikit-learn and hand values; sweeps in which sizes share a program."""

import jax
import numpy as np
import pytest
from sklearn.mixture import GaussianMixture
from small_data import count_sequences

import jaxem
from jaxem.engine import blocks
from jaxem.engine.result import Result, Status
from jaxem.fitting.sizes import groups
from jaxem.inference.selection import rank
from jaxem.program.cli import main

X = jaxem.datasets.old_faithful()
SIZES = (1, 2, 3)
COVARIANCES = ("full", "tied", "diag", "spherical")


@pytest.fixture(scope="module")
def swept():
    """(candidates, those the callback saw) of a small sweep in float64."""
    seen = []
    models = {(c, k): jaxem.gaussian_mixture(k, covariance=c) for c in ("tied", "diag") for k in SIZES}
    with jax.enable_x64(True):
        found = jaxem.select(models, X, jax.random.key(0), n_restarts=8, callback=seen.append)
    return found, seen


def by_hand(model, params, x):
    """A Result at params, whatever made them."""
    log_lik = np.asarray(model.log_prob(params, x)).sum()
    return Result(params, log_lik, log_lik, np.int32(0), np.int32(1), np.int32(2), np.zeros(1), np.zeros(3, bool))


def some_params(covariance, k=3):
    rng = np.random.default_rng(1)
    mean = X[rng.choice(len(X), k, replace=False)]
    cov = np.cov(X.T)
    own = {"full": np.stack([cov * (j + 1) for j in range(k)]), "tied": cov}
    own |= {"diag": np.stack([np.diag(cov) / (j + 1) for j in range(k)]), "spherical": 30.0 + np.arange(k)}
    return jaxem.MixtureParams(np.array([0.5, 0.3, 0.2]), jaxem.GaussianParams(mean, own[covariance]))


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_criteria_are_those_of_scikit_learn(covariance, float64):
    model, params = jaxem.gaussian_mixture(3, covariance=covariance), some_params(covariance)
    peer = GaussianMixture(3, covariance_type=covariance)
    precision = np.linalg.inv(params.components.cov) if covariance in ("full", "tied") else None
    roots = np.linalg.cholesky(precision) if precision is not None else 1 / np.sqrt(params.components.cov)
    peer.weights_, peer.means_, peer.covariances_ = params.weights, params.components.mean, params.components.cov
    peer.precisions_cholesky_ = roots
    result = by_hand(model, params, X)
    assert float(jaxem.aic(model, result, X)) == pytest.approx(peer.aic(X), rel=1e-12)
    assert float(jaxem.bic(model, result, X)) == pytest.approx(peer.bic(X), rel=1e-12)
    resp = peer.predict_proba(X)
    entropy = -np.sum(resp * np.log(np.where(resp > 0, resp, 1)))
    assert float(jaxem.icl(model, result, X)) == pytest.approx(peer.bic(X) + 2 * entropy, rel=1e-10)


def test_weights_count_as_rows(float64):
    model, params = jaxem.gaussian_mixture(3), some_params("full")
    weights = np.random.default_rng(0).integers(0, 4, len(X))
    repeated = np.repeat(X, weights, axis=0)
    log_prob = np.asarray(model.log_prob(params, X))
    result = by_hand(model, params, X)._replace(log_lik=weights @ log_prob)
    for criterion in (jaxem.aic, jaxem.bic, jaxem.icl):
        want = criterion(model, by_hand(model, params, repeated), repeated)
        assert float(criterion(model, result, X, weights=weights)) == pytest.approx(float(want), rel=1e-12)
    doubled = jaxem.bic(model, result, X, weights=2 * weights) - jaxem.bic(model, result, X, weights=weights)
    assert float(doubled) == pytest.approx(17 * np.log(2))


def test_icl_counts_the_hidden_component_alone_where_components_have_latents_of_their_own(float64):
    model = jaxem.student_t_mixture(2)
    params = model.init(jax.random.key(0), X)
    resp = np.asarray(model.posterior(params, X))
    result = by_hand(model, params, X)
    want = jaxem.bic(model, result, X) - 2 * (resp * np.log(resp)).sum()
    assert float(jaxem.icl(model, result, X)) == pytest.approx(float(want), rel=1e-10)


def test_criteria_refuse_fits_side_by_side():
    model, params = jaxem.gaussian_mixture(3), some_params("full")
    many = by_hand(model, params, X)._replace(log_lik=np.zeros(4))
    with pytest.raises(ValueError, match="result: expected one fit; got 4"):
        jaxem.bic(model, many, X)


@pytest.fixture
def interrupted_in_the_second_fit(monkeypatch):
    """Ctrl-C after the first block of the second fit."""
    real, fits = blocks._blocks, iter(range(99))

    def until_then(*args):
        second = next(fits) == 1
        for state in real(*args):
            yield state
            if second:
                raise KeyboardInterrupt

    monkeypatch.setattr(blocks, "FIRST_BLOCK", 2)
    monkeypatch.setattr(blocks, "_blocks", until_then)


def test_an_interrupt_ends_a_sweep(interrupted_in_the_second_fit):
    models = {name: jaxem.gaussian_mixture(2, covariance=name) for name in ("tied", "diag", "spherical")}
    found = jaxem.select(models, X, jax.random.key(0), n_restarts=4)
    assert {c.name: c.interrupted for c in found} == {"tied": False, "diag": True}


def test_an_interrupt_ends_the_program(interrupted_in_the_second_fit, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["--k", "2", "--covariance", "tied,diag,spherical", "--restarts", "4"]) == 130
    captured = capsys.readouterr()
    assert captured.err == "jaxem: interrupted\n"
    assert [line.split()[0] for line in captured.out.splitlines()[3:]] == ["covariance", "tied", "diag"]


def test_a_sweep_ranks_by_bic_and_reports_each_model(swept):
    found, seen = swept
    assert [c.name for c in found[:2]] == [("tied", 3), ("tied", 2)]
    assert sorted(c.name for c in seen) == sorted(c.name for c in found)
    scores = [c.bic for c in found]
    assert scores == sorted(scores)
    best = found[0]
    assert float(best.best.log_lik) == pytest.approx(-1126.3159, abs=1e-3)
    assert best.bic == pytest.approx(2314.296, abs=2e-3)
    assert best.n_free_params == 11
    assert best.aic == pytest.approx(2 * 1126.3159 + 22, abs=2e-3)


def test_the_number_of_restarts_that_reached_the_best(swept):
    for candidate in swept[0]:
        objective = np.asarray(candidate.restarts.all.objective)
        proper = np.asarray(candidate.restarts.all.status) != Status.DEGENERATE
        near = (np.abs(objective - float(candidate.best.objective)) < 1e-3) & proper
        assert candidate.n_reached == near.sum() >= 1


def test_sizes_that_share_a_program_are_fitted_as_if_alone(swept, float64):
    """Padding with components of weight 0 changes no start, no path and no status."""
    for candidate in (c for c in swept[0] if c.name == ("tied", 2)):
        alone = jaxem.fit_restarts(candidate.model, X, jax.random.key(0), n_restarts=8)
        shared = candidate.restarts
        for one, other in zip(jax.tree.leaves(alone.all.params), jax.tree.leaves(shared.all.params), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(alone.all.objective, shared.all.objective, rtol=1e-12)
        np.testing.assert_array_equal(alone.all.status, shared.all.status)
        np.testing.assert_allclose(alone.all.n_steps, shared.all.n_steps, atol=1)
        assert alone.all.degenerate.shape == shared.all.degenerate.shape
        assert float(jaxem.icl(candidate.model, alone.best, X)) == pytest.approx(candidate.icl, rel=1e-8)


def test_only_mixtures_that_differ_in_size_alone_share_a_program():
    models = {
        "a": jaxem.gaussian_mixture(2),
        "b": jaxem.gaussian_mixture(3),
        "floor": jaxem.gaussian_mixture(3, floor=1e-3),
        "tied": jaxem.gaussian_mixture(2, covariance="tied"),
        "fixed": jaxem.Mixture(jaxem.Gaussian(), 4, mixing="fixed"),
    }
    apart = [["a", "b"], ["floor"], ["tied"], ["fixed"]]
    assert groups(models, 100, 8, jaxem.EM()) == apart
    assert groups(models, 1_000_000, 8, jaxem.EM()) == [[name] for name in models]


def test_a_collapsed_best_is_not_chosen(float64):
    """Six rows, four full components: every start collapses, and its likelihood beats any proper one."""
    rows = np.random.default_rng(3).normal(size=(6, 2))
    models = {"collapsing": jaxem.gaussian_mixture(4, floor=0), "proper": jaxem.gaussian_mixture(1, floor=0)}
    first, last = jaxem.select(models, rows, jax.random.key(0), n_restarts=4)
    assert (first.name, first.proper, last.proper) == ("proper", True, False)
    assert last.n_reached == 0


def test_without_an_honest_fit_a_candidate_comes_last(swept):
    best, *others = swept[0]
    collapsed = best._replace(best=best.best._replace(status=np.int32(Status.DEGENERATE)))
    assert rank([collapsed, *others])[-1] is collapsed
    assert rank(others, "icl")[0].icl == min(c.icl for c in others)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": {}}, "models: expected at least one"),
        ({"criterion": "bci"}, "criterion: expected one of aic, bic, icl; got 'bci'"),
        ({"n_restarts": 0}, "n_restarts"),
    ],
)
def test_unusable_arguments_are_named(change, message):
    arguments = {"models": [jaxem.gaussian_mixture(1)], "n_restarts": 2} | change
    with pytest.raises(ValueError, match=message):
        jaxem.select(arguments.pop("models"), X, jax.random.key(0), **arguments)


@pytest.mark.slow
def test_a_sweep_counts_observations_as_bic_does():
    """Of sequences: the total length, not how many there are."""
    x = count_sequences()
    found = jaxem.select([jaxem.poisson_hmm(k) for k in (1, 2)], x, jax.random.key(0), n_restarts=2)
    for candidate in found:
        assert candidate.bic == pytest.approx(float(jaxem.bic(candidate.model, candidate.best, x)), rel=1e-6)
