"""The estimator: scikit-learn's own checks, its numbers, and errors that name the parameter."""

import itertools
import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest
from sklearn import mixture
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_sample_weight_equivalence_on_dense_data, parametrize_with_checks

import jaxem
from jaxem.sklearn import GaussianMixture

FAITHFUL = jaxem.datasets.old_faithful()
DATA = {"faithful": FAITHFUL, "iris": load_iris().data}
COVARIANCES = ("full", "tied", "diag", "spherical")


@pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning", "ignore::sklearn.exceptions.SkipTestWarning"
)
@parametrize_with_checks(
    [GaussianMixture()],
    # Its data are 27 rows of 30 columns: no full covariance can be estimated from them, and jaxem says so.
    expected_failed_checks=lambda _: {"check_sample_weight_equivalence_on_dense_data": "fewer rows than columns"},
)
def test_scikit_learn_accepts_it(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_check_of_sample_weights_for_covariances_that_its_data_can_carry():
    for covariance in ("diag", "spherical"):
        check_sample_weight_equivalence_on_dense_data("mixture", GaussianMixture(covariance_type=covariance))
    with pytest.raises(ValueError, match="x: expected more rows than columns for covariance='full'"):
        check_sample_weight_equivalence_on_dense_data("mixture", GaussianMixture())


def both(covariance, **options):
    return [Class(3, covariance_type=covariance, **options) for Class in (GaussianMixture, mixture.GaussianMixture)]


@pytest.mark.parametrize(
    ("name", "covariance"), [*itertools.product(["faithful"], COVARIANCES), ("iris", "full"), ("iris", "tied")]
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_same_start_and_steps_give_the_same_numbers(name, covariance):
    """30 M-steps from one start without a ridge: everything fitted agrees, in float64 whatever jax's default is."""
    x = DATA[name]
    start = mixture.GaussianMixture(3, covariance_type=covariance, max_iter=1, random_state=0).fit(x)
    given = {f"{part}_init": getattr(start, f"{part}_") for part in ("weights", "means", "precisions")}
    ours, theirs = both(covariance, tol=0, max_iter=30, reg_covar=0, **given)
    ours.fit(x), theirs.fit(x)
    assert ours.n_iter_ == theirs.n_iter_ == 30
    for attribute in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        mine, other = getattr(ours, attribute), getattr(theirs, attribute)
        assert mine.dtype == np.float64
        np.testing.assert_allclose(mine, other, rtol=1e-8, atol=1e-9 * np.abs(other).max())
    for method in ("score_samples", "predict_proba", "predict", "score", "bic", "aic"):
        np.testing.assert_allclose(getattr(ours, method)(x), getattr(theirs, method)(x), rtol=1e-8, atol=1e-9)
    # Theirs is of the params before the last M-step, ours of those returned.
    assert ours.lower_bound_ == pytest.approx(ours.score(x), rel=1e-12)
    assert ours.lower_bounds_[-2] == pytest.approx(theirs.lower_bound_, rel=1e-10)


@pytest.mark.parametrize("covariance", ["full", "tied"])
def test_changing_the_import_changes_no_answer(covariance):
    """Defaults and a random_state: the same start, so the same labels and (to the stopping rule) log-likelihood."""
    ours, theirs = both(covariance, random_state=3)
    for x in (FAITHFUL,) if covariance == "tied" else DATA.values():
        labels, theirs_labels = ours.fit_predict(x), theirs.fit_predict(x)
        assert (labels == theirs_labels).mean() > 0.98
        assert ours.score(x) == pytest.approx(theirs.score(x), abs=5e-3)
        assert ours.converged_
        assert ours.status_ == jaxem.Status.CONVERGED


@pytest.mark.parametrize("kind", ["kmeans", "k-means++", "random", "random_from_data", "mixed"])
def test_every_kind_of_start_finds_the_two_groups(kind):
    model = GaussianMixture(2, init_params=kind, tol=1e-9, max_iter=120, random_state=0).fit(FAITHFUL)
    assert model.lower_bound_ * len(FAITHFUL) == pytest.approx(-1130.264, abs=1e-2)
    again = clone(model).fit(FAITHFUL)
    assert (again.means_ == model.means_).all()
    starts = [clone(model).set_params(random_state=seed, max_iter=0).fit(FAITHFUL).means_ for seed in (1, 2)]
    assert (starts[0] != starts[1]).any()


def test_a_partial_start_is_kept_and_the_rest_drawn():
    """With no iteration the given parts are the fit; scikit-learn's convention."""
    given = {"means_init": [[2, 50], [4, 80]], "weights_init": [0.3, 0.7]}
    fitted = GaussianMixture(2, max_iter=0, random_state=0, **given).fit(FAITHFUL)
    np.testing.assert_allclose(fitted.means_, given["means_init"], rtol=1e-12)
    np.testing.assert_allclose(fitted.weights_, given["weights_init"], rtol=1e-12)
    assert fitted.n_iter_ == 0
    assert not fitted.converged_
    theirs = mixture.GaussianMixture(2, max_iter=0, random_state=0, **given).fit(FAITHFUL)
    np.testing.assert_allclose(fitted.covariances_, theirs.covariances_, rtol=1e-5)


def test_sample_weight_counts_samples():
    given = {"means_init": [[2, 50], [4, 80]], "weights_init": [0.5, 0.5], "precisions_init": [np.diag([4, 0.02])] * 2}
    model = GaussianMixture(2, tol=1e-10, max_iter=120, **given)
    count = np.random.default_rng(0).integers(0, 4, len(FAITHFUL))
    weighted, repeated = (
        clone(model).fit(FAITHFUL, sample_weight=count),
        clone(model).fit(FAITHFUL.repeat(count, axis=0)),
    )
    np.testing.assert_allclose(weighted.covariances_, repeated.covariances_, rtol=1e-6)
    assert weighted.lower_bound_ == pytest.approx(repeated.lower_bound_, rel=1e-10)
    assert (clone(model).fit_predict(FAITHFUL, sample_weight=count) == weighted.predict(FAITHFUL)).all()
    for bad, message in ((count[:3], "expected shape"), (-count, "negative"), (0 * count, "zero")):
        with pytest.raises(ValueError, match=f"sample_weight: .*{message}"):
            model.fit(FAITHFUL, sample_weight=bad)


def test_reg_covar_is_relative_and_idle_where_it_is_not_reached():
    options = {"random_state": 0, "tol": 1e-10, "max_iter": 120}
    plain = GaussianMixture(2, reg_covar=0, **options).fit(FAITHFUL)
    assert (GaussianMixture(2, **options).fit(FAITHFUL).covariances_ == plain.covariances_).all()
    tiny = GaussianMixture(2, **options).fit(FAITHFUL * 1e-9)
    np.testing.assert_allclose(tiny.covariances_ * 1e18, plain.covariances_, rtol=1e-5)
    bounded = GaussianMixture(2, reg_covar=0.5, **options).fit(FAITHFUL)  # asked for, so no collapse: no warning
    assert bounded.converged_
    assert np.linalg.eigvalsh(bounded.covariances_).min() > 2 * np.linalg.eigvalsh(plain.covariances_).min()


def test_warm_start_goes_on_from_the_last_fit():
    whole = GaussianMixture(3, covariance_type="tied", tol=0, max_iter=20, random_state=0)
    with pytest.warns(ConvergenceWarning, match="MAX_STEPS"):
        whole.fit(FAITHFUL)
    pieces = clone(whole).set_params(max_iter=10, warm_start=True)
    for _ in range(2):
        with pytest.warns(ConvergenceWarning, match="MAX_STEPS"):
            pieces.fit(FAITHFUL)
    np.testing.assert_allclose(pieces.means_, whole.means_, rtol=1e-9)
    with pytest.raises(ValueError, match="warm_start: the last fit has means_ of shape"):
        pieces.set_params(n_components=2).fit(FAITHFUL)


def test_verbose_prints_and_silence_does_not(capsys):
    model = GaussianMixture(2, random_state=0, n_init=2, tol=1e-6)
    model.fit(FAITHFUL)
    assert capsys.readouterr().out == ""
    clone(model).set_params(verbose=1, verbose_interval=2).fit(FAITHFUL)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["Initialization 0", "  Iteration 2"]
    assert sum(line.startswith("Initialization converged") for line in lines) == 2
    clone(model).set_params(verbose=2, verbose_interval=5).fit(FAITHFUL)
    text = capsys.readouterr().out
    assert "ll change" in text
    assert "lower bound" in text


def test_samples_come_from_the_fitted_mixture():
    model = GaussianMixture(2, random_state=0).fit(FAITHFUL)
    rows, labels = model.sample(20_000)
    assert rows.shape == (20_000, 2)
    assert (np.diff(labels) >= 0).all()
    np.testing.assert_allclose(np.bincount(labels) / 20_000, model.weights_, atol=0.02)
    for component in range(2):
        own = rows[labels == component]
        np.testing.assert_allclose(own.mean(0), model.means_[component], rtol=0.01)
        np.testing.assert_allclose(np.cov(own.T), model.covariances_[component], rtol=0.1, atol=0.05)
    assert (model.sample(20_000)[0] == rows).all()
    with pytest.raises(ValueError, match="n_samples"):
        model.sample(0)


def test_pipeline_grid_search_and_pickle():
    pipeline = make_pipeline(StandardScaler(), GaussianMixture(random_state=0))
    search = GridSearchCV(pipeline, {"gaussianmixture__n_components": np.arange(1, 3)}, cv=2).fit(FAITHFUL)
    assert search.best_params_["gaussianmixture__n_components"] == 2
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    restored = pickle.loads(pickle.dumps(search.best_estimator_))
    assert (restored.predict(FAITHFUL) == search.best_estimator_.predict(FAITHFUL)).all()


def test_float32_stays_float32_and_jax_default_does_not_matter():
    narrow = GaussianMixture(2, random_state=0).fit(FAITHFUL.astype(np.float32))
    wide = GaussianMixture(2, random_state=0).fit(FAITHFUL)
    assert narrow.covariances_.dtype == narrow.precisions_.dtype == np.float32
    assert narrow.score(FAITHFUL) == pytest.approx(wide.score(FAITHFUL), abs=1e-4)
    with jax.enable_x64(True):
        again = GaussianMixture(2, random_state=0).fit(FAITHFUL)
        assert narrow.predict_proba(FAITHFUL.astype(np.float32)).dtype == np.float32
    np.testing.assert_allclose(again.means_, wide.means_, rtol=1e-12)


def test_a_collapsed_fit_is_usable_and_not_called_converged():
    x = np.concatenate([FAITHFUL, np.repeat([[3.0, 70.0]], 3, axis=0)])
    given = {"weights_init": [0.99, 0.01], "means_init": [[3.5, 70], [3, 70]]}
    model = GaussianMixture(2, max_iter=120, precisions_init=[np.diag([1, 0.01]), np.diag([1e6, 1e6])], **given)
    with pytest.warns(ConvergenceWarning, match="DEGENERATE: a component collapsed"):
        model.fit(x)
    assert not model.converged_
    assert np.isfinite(model.score_samples(x)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_components": 0}, "n_components"),
        ({"n_components": 1.5}, "n_components"),
        ({"covariance_type": "round"}, "covariance_type: expected one of full, tied"),
        ({"tol": -1}, "tol"),
        ({"tol": np.nan}, "tol"),
        ({"reg_covar": -1e-6}, "reg_covar"),
        ({"reg_covar": 1.0}, r"reg_covar: expected less than 1 \(relative"),
        ({"max_iter": -1}, "max_iter"),
        ({"max_iter": 2.5}, "max_iter"),
        ({"n_init": 0}, "n_init"),
        ({"init_params": "best"}, "init_params: expected one of kmeans"),
        ({"weights_init": [0.5, 0.6]}, "weights_init: expected non-negative numbers that sum to 1"),
        ({"weights_init": [1.0]}, r"weights_init: expected shape \(2,\)"),
        ({"means_init": [[1.0], [2.0]]}, r"means_init: expected shape \(2, 2\)"),
        ({"means_init": [[1.0, np.nan], [2.0, 1]]}, "means_init"),
        ({"precisions_init": [np.eye(2), -np.eye(2)]}, "precisions_init: expected symmetric positive definite"),
        ({"precisions_init": [1, -1], "covariance_type": "spherical"}, "precisions_init: expected positive"),
        ({"warm_start": "yes"}, "warm_start"),
        ({"verbose": -1}, "verbose"),
        ({"verbose": "loud"}, "verbose"),
        ({"verbose_interval": 0}, "verbose_interval"),
        ({"random_state": "x"}, "seed"),
    ],
)
def test_unusable_parameters_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(**{"n_components": 2, **options}).fit(FAITHFUL)


def test_too_few_samples_and_no_fit():
    with pytest.raises(ValueError, match="n_samples >= n_components=5; got n_samples = 3"):
        GaussianMixture(5).fit(FAITHFUL[:3])
    with pytest.raises(NotFittedError):
        GaussianMixture(5).predict(FAITHFUL)


def test_jaxem_itself_does_not_need_scikit_learn():
    code = "import sys, jaxem; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
