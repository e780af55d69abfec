"""Figures: each takes and returns Axes, and draws the numbers it was given."""

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.patches import Ellipse

import jaxem
from jaxem import plot
from jaxem.engine.result import Result, Status
from jaxem.families.gaussian import STRUCTURES
from jaxem.fitting.restarts import Restarts
from jaxem.inference.comparison import Comparison, Trace
from jaxem.inference.selection import Candidate

X = jaxem.datasets.old_faithful()
MEANS = np.array([[2.0, 55.0], [4.3, 80.0]])
WEIGHTS = np.array([0.4, 0.6])
FULL = np.array([[[0.07, 0.4], [0.4, 34.0]], [[0.17, 0.9], [0.9, 36.0]]])
COVS = {
    "full": FULL,
    "tied": FULL[0],
    "diag": np.array([[0.07, 34.0], [0.17, 36.0]]),
    "spherical": np.array([4.0, 9.0]),
    "diag_tied": np.array([0.07, 34.0]),
    "spherical_tied": np.array(4.0),
}


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.fixture
def ax():
    return plt.figure().add_subplot()


def mixture(covariance="full"):
    return jaxem.gaussian_mixture(2, covariance), jaxem.MixtureParams(
        WEIGHTS, jaxem.GaussianParams(MEANS, COVS[covariance])
    )


def dense(covariance, j):
    cov = COVS[covariance]
    own = cov if covariance.endswith("tied") else cov[j]
    return own if own.ndim == 2 else own * np.eye(2)


def fits(objective, status=None, history=None):
    r = len(objective)
    status = np.zeros(r, int) if status is None else np.asarray(status)
    history = np.full((r, 4), np.nan) if history is None else np.asarray(history)
    objective = np.asarray(objective, float)
    zero = np.zeros(r, int)
    return Result(None, objective, objective, status, zero, zero, history, np.zeros((r, 1), bool))


@pytest.mark.parametrize("covariance", STRUCTURES)
def test_ellipses_are_the_covariances(covariance, ax):
    model, params = mixture(covariance)
    assert plot.density(model, params, ax=ax) is ax
    ellipses = [patch for patch in ax.patches if isinstance(patch, Ellipse)]
    assert len(ellipses) == 2 * len(plot.LEVELS)
    for i, ellipse in enumerate(ellipses):
        j, level = divmod(i, len(plot.LEVELS))
        np.testing.assert_allclose(ellipse.center, MEANS[j])
        turn = np.deg2rad(ellipse.angle)
        axes = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        widths = np.array([ellipse.width, ellipse.height]) / (2 * plot.LEVELS[level])
        np.testing.assert_allclose(axes @ np.diag(widths**2) @ axes.T, dense(covariance, j), atol=1e-10)


def test_points_are_all_drawn_and_grouped_by_their_most_probable_component(ax):
    model, params = mixture()
    plot.density(model, params, X, names=["eruption (min)", "waiting (min)"], ax=ax)
    member = np.asarray(model.predict(params, X))
    drawn = [np.asarray(points.get_offsets()) for points in ax.collections]
    assert len(drawn) == 2
    for j in range(2):
        np.testing.assert_array_equal(drawn[j], X[member == j])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("eruption (min)", "waiting (min)")


def test_two_of_more_columns_can_be_chosen(ax):
    model, params = mixture()
    plot.density(model, params, X, dims=(1, 0), ax=ax)
    first = next(patch for patch in ax.patches if isinstance(patch, Ellipse))
    np.testing.assert_allclose(first.center, MEANS[0, ::-1])
    assert ax.get_xlabel() == "x[1]"


def test_in_one_dimension_curves_are_densities_over_a_histogram(ax):
    model, params = mixture()
    plot.density(model, params, X, dims=0, names=["eruption (min)", "waiting (min)"], ax=ax)
    *components, total = ax.lines
    grid, density = total.get_data()
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=0.02)
    np.testing.assert_allclose(sum(line.get_ydata() for line in components), density)
    j = 1
    peak = WEIGHTS[j] / np.sqrt(2 * np.pi * FULL[j, 0, 0])
    assert components[j].get_ydata().max() == pytest.approx(peak, rel=1e-2)
    assert sum(bar.get_height() * bar.get_width() for bar in ax.patches) == pytest.approx(1)
    assert ax.get_ylabel() == "density (1 / min)"


def test_one_dimensional_data_need_no_choice():
    model = jaxem.gaussian_mixture(2, "tied")
    params = jaxem.MixtureParams(WEIGHTS, jaxem.GaussianParams(MEANS[:, :1], FULL[0, :1, :1]))
    assert len(plot.density(model, params).lines) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [({"dims": (0, 2)}, "dims: .* 0 to 1"), ({"dims": (0, 1, 0)}, "dims"), ({"names": ["a"]}, "names: .* 2 columns")],
)
def test_unusable_arguments_of_density_are_named(change, message):
    model, params = mixture()
    with pytest.raises(ValueError, match=message):
        plot.density(model, params, **change)


def test_density_says_what_it_can_draw():
    with pytest.raises(ValueError, match="Gaussian mixture"):
        plot.density(jaxem.gaussian_mixture(1), jaxem.MixtureParams(np.ones(1), np.ones(1)))


def test_history_draws_every_run_and_the_best_honest_one_last(ax):
    runs = [[-9.0, -5, -4, np.nan], [-9, -8, -7, -6], [-3, -2, -1, np.nan]]
    every = fits([-4, -6, -1], [Status.CONVERGED, Status.CONVERGED, Status.DEGENERATE], runs)
    assert plot.history(every, ax=ax) is ax
    drawn = [line.get_ydata() for line in ax.lines]
    assert len(drawn) == 3
    np.testing.assert_array_equal(drawn[-1], runs[0])
    single = plot.history(type(every)(*(None if leaf is None else leaf[0] for leaf in every)))
    np.testing.assert_array_equal(single.lines[0].get_ydata(), runs[0])
    assert single.get_ylabel() == "objective (nats)"


def test_bars_count_the_restarts_at_each_optimum(ax):
    every = fits([-10, -10.0001, -12, -10, -12, -9], [0, 0, 0, 0, 0, Status.DEGENERATE])
    plot.optima(Restarts(None, every), ax=ax)
    good, bad = ([bar.get_width() for bar in group] for group in ax.containers)
    assert good == [0, 3, 2]
    assert bad == [1, 0, 0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["-9.00", "-10.00", "-12.00"]
    assert "of 6" in ax.get_xlabel()


def candidates():
    def one(covariance, k, bic, status=Status.CONVERGED):
        best = Result(None, -bic, -bic, np.int32(status), 1, 1, np.zeros(1), np.zeros(k, bool))
        return Candidate((covariance, k), jaxem.gaussian_mixture(k, covariance), best, None, 1, 0.0, bic, bic, 1)

    rows = [one("full", k, bic) for k, bic in ((3, 95.0), (1, 120.0), (2, 100.0))]
    return [*rows, one("diag", 1, 130.0), one("diag", 2, 90.0), one("diag", 3, 10.0, Status.DEGENERATE)]


def test_a_criterion_is_drawn_by_k_and_its_smallest_honest_value_ringed(ax):
    assert plot.criterion(candidates(), ax=ax) is ax
    full, diag, ring = ax.lines
    np.testing.assert_array_equal(full.get_xydata(), [[1, 120], [2, 100], [3, 95]])
    np.testing.assert_array_equal(diag.get_xydata(), [[1, 130], [2, 90]])
    np.testing.assert_array_equal(ring.get_xydata(), [[2, 90]])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["full", "diag"]


def test_without_honest_candidates_there_is_nothing_to_draw():
    with pytest.raises(ValueError, match="candidates: expected at least one with a proper fit"):
        plot.criterion([candidates()[-1]])


@pytest.mark.parametrize("against", ["evaluations", "seconds"])
def test_a_comparison_draws_medians_of_how_far_below_the_best(against, ax):
    objective = np.array([[-10.0, -12, -14], [-3, -2, np.nan], [-1, -1.5, -1]])
    evaluations = np.array([[1, 1, 1], [2, 3, 4], [5, 5, 9]])
    seconds = np.array([0.1, 0.2, 0.4])
    trace = Trace("EM", np.arange(3), evaluations, objective, seconds, 1.0, None)
    assert plot.comparison(Comparison([trace], -1.0), against=against, ax=ax) is ax
    line = ax.lines[0]
    np.testing.assert_allclose(line.get_xdata(), [1, 3, 5] if against == "evaluations" else seconds)
    np.testing.assert_allclose(line.get_ydata(), [11, 1.5, plot.SMALLEST_GAP])


def test_a_comparison_names_what_it_can_be_drawn_against():
    with pytest.raises(ValueError, match="against: expected 'evaluations' or 'seconds'; got 'steps'"):
        plot.comparison(Comparison([], 0.0), against="steps")


def test_importing_the_library_does_not_import_matplotlib():
    import subprocess
    import sys

    code = "import jaxem, sys; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
