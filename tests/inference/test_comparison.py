"""EM against gradient ascent: what is measured is what the fits did."""

import jax
import numpy as np
import optax
import pytest

import jaxem
from jaxem.inference.comparison import Comparison, Trace, default_algorithms

X = jaxem.datasets.twenty_numbers()[:, None]
ALGORITHMS = {"EM": jaxem.EM(), "L-BFGS": jaxem.Gradient(optax.lbfgs())}


@pytest.fixture(scope="module")
def compared():
    mean = np.array([[[1.0], [5.0]], [[0.0], [3.0]], [[4.5], [1.2]]])
    starts = jaxem.MixtureParams(np.full((3, 2), 0.5), jaxem.GaussianParams(mean, np.ones((3, 2, 1))))
    model = jaxem.gaussian_mixture(2, covariance="diag")
    with jax.enable_x64(True):
        return jaxem.compare_algorithms(model, X, starts, ALGORITHMS, max_steps=200, repeats=2)


def test_both_climb_to_the_known_maximum(compared):
    assert [trace.name for trace in compared.traces] == list(ALGORITHMS)
    assert compared.best == pytest.approx(-38.913372, abs=1e-5)
    for trace in compared.traces:
        assert np.nanmax(trace.objective[-1]) == pytest.approx(compared.best, abs=1e-4)


def test_looks_are_the_runs_own_path(compared):
    em, lbfgs = compared.traces
    history = np.asarray(em.fits.history)
    for look in range(1, len(em.max_steps)):
        limit = em.max_steps[look]
        at = np.minimum(limit, em.fits.n_steps)
        np.testing.assert_allclose(em.objective[look], history[np.arange(3), at - 1], rtol=1e-10)
        # One evaluation of the start, then one a step; those that had converged by then looked once more at most.
        assert (em.evaluations[look] - at >= 1).all()
    for trace in (em, lbfgs):
        assert trace.max_steps[0] == 0
        assert (np.diff(trace.evaluations, axis=0) >= 0).all()
        assert (np.diff(trace.objective, axis=0) >= -1e-9).all()
        assert (np.diff(trace.seconds) >= 0).all()
        assert trace.compile_seconds > 0
    np.testing.assert_allclose(em.objective[0], lbfgs.objective[0], rtol=1e-10)


def test_the_table_counts_what_got_there():
    evaluations = np.array([[1, 1, 1], [3, 4, 5], [7, 8, 9]])
    objective = np.array([[-9.0, -9, -9], [-1, -5, -5], [-1, -1.001, -3]])
    first = Trace("EM", np.arange(3), evaluations, objective, np.array([0.1, 0.2, 0.3]), 2.5, None)
    failed = first._replace(name="Adam", objective=np.full((3, 3), np.nan))
    head, em, adam = Comparison([first, failed], -1.0).table().splitlines()
    cells = em.split()
    assert cells[:3] == ["EM", "-1.000", "-1.001"]
    assert cells[3:6] == ["2", "of", "3"]
    # The first got there after 3 evaluations, the second after 8; one of the two, half, by the second look.
    assert cells[6:] == ["6", "0.200", "0.300", "2.5"]
    assert adam.split()[:7] == ["Adam", "-", "-", "0", "of", "3", "-"]
    assert len(head) == len(em) == len(adam)


def test_the_default_compares_em_with_adam_and_lbfgs():
    algorithms = default_algorithms()
    assert list(algorithms) == ["EM", "Adam", "L-BFGS"]
    assert algorithms is default_algorithms()  # made once, compiled once


@pytest.mark.parametrize("change", [{"max_steps": 0}, {"repeats": 0}, {"tol": -1.0}])
def test_unusable_arguments_are_named(change):
    model = jaxem.gaussian_mixture(2)
    with pytest.raises(ValueError, match=next(iter(change))):
        jaxem.compare_algorithms(model, X, None, **change)
