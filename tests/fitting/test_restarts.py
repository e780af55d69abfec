"""Many starts in one program: none depends on another, and the best is proper."""

import jax
import numpy as np
import optax
import pytest
from small_data import groups

import jaxem
from jaxem import Status
from jaxem.engine.result import PROPER

X = jaxem.datasets.old_faithful()
MODEL = jaxem.gaussian_mixture(3, "diag")
KEY = jax.random.key(0)


def lane(fits, r):
    return jax.tree.map(lambda leaf: leaf[r], fits)


def assert_same_fit(a, b, rtol):
    assert int(a.status) == int(b.status)
    jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=rtol), a.params, b.params)
    np.testing.assert_allclose(a.objective, b.objective, rtol=rtol)


@pytest.fixture(scope="module")
def starts():
    """Six starts [6, ...] in float64, of every kind."""
    with jax.enable_x64(True):
        keys = jax.random.split(KEY, 6)
        params = [MODEL.init(key, X, None, r % len(MODEL.start_kinds)) for r, key in enumerate(keys)]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *params)


def test_a_restart_does_not_depend_on_how_many_there_are(float64):
    few = jaxem.fit_restarts(MODEL, X, KEY, n_restarts=3, tol=0.0, max_steps=25).all
    many = jaxem.fit_restarts(MODEL, X, KEY, n_restarts=300, tol=0.0, max_steps=25).all
    assert many.history.shape == (300, 25)
    for r in range(3):
        assert_same_fit(lane(few, r), lane(many, r), 1e-9)


def test_a_restart_is_the_fit_from_its_start(starts, float64):
    fits = jaxem.fit_restarts(MODEL, X, KEY, start=starts, tol=1e-7, max_steps=100).all
    for r in range(6):
        alone = jaxem.fit(MODEL, X, lane(starts, r), tol=1e-7, max_steps=100)
        assert int(alone.n_steps) == int(fits.n_steps[r])
        assert_same_fit(lane(fits, r), alone, 1e-8)
        np.testing.assert_allclose(fits.history[r], alone.history, rtol=1e-10)


def test_a_broken_start_neither_stops_nor_wins_nor_changes_the_others(starts, float64):
    good = jaxem.fit_restarts(MODEL, X, KEY, start=starts, tol=1e-7, max_steps=100)
    broken = jax.tree.map(np.copy, starts)
    broken.components.mean[0] = np.nan
    best, every = jaxem.fit_restarts(MODEL, X, KEY, start=broken, tol=1e-7, max_steps=100)
    assert Status(int(every.status[0])) == Status.NONFINITE
    assert np.isfinite(best.objective)
    for r in range(1, 6):
        assert_same_fit(lane(every, r), lane(good.all, r), 1e-12)


def test_the_best_is_the_highest_honest_one(float64):
    """Rows that repeat invite components that collapse on them: those score higher and do not win."""
    x = np.concatenate([groups(50, 1, k=2), np.full((4, 1), 2.0)])
    model = jaxem.gaussian_mixture(3, floor=0)
    best, every = jaxem.fit_restarts(model, x, KEY, n_restarts=40, max_steps=300)
    status, objective = np.asarray(every.status), np.asarray(every.objective)
    assert (status == Status.DEGENERATE).any()
    proper = np.isin(status, PROPER) & np.isfinite(objective)
    assert int(best.status) in PROPER
    assert best.objective == objective[proper].max()


def test_where_none_is_honest_the_failure_is_shown(float64):
    x = np.repeat(np.arange(3.0), 4)[:, None]
    best, every = jaxem.fit_restarts(jaxem.gaussian_mixture(3, floor=0), x, KEY, n_restarts=4, max_steps=300)
    assert not np.isin(np.asarray(every.status), PROPER).any()
    assert int(best.status) not in PROPER


def test_optima_count_who_reached_what(float64):
    fits = jaxem.fit_restarts(MODEL, X, KEY, n_restarts=24, max_steps=2000).all
    found = jaxem.optima(fits)
    assert sum(group.n_restarts for group in found) == 24
    assert sorted(r for group in found for r in group.restarts) == list(range(24))
    values = [group.objective for group in found]
    assert values == sorted(values, reverse=True)


def test_gradient_restarts(starts, float64):
    algorithm = jaxem.Gradient(optax.lbfgs())
    few = jax.tree.map(lambda leaf: leaf[:3], starts)
    em = jaxem.fit_restarts(MODEL, X, KEY, start=few, tol=1e-10)
    best, every = jaxem.fit_restarts(MODEL, X, KEY, start=few, algorithm=algorithm, tol=1e-12, max_steps=100)
    assert every.status.shape == (3,)
    assert (np.asarray(every.objective) >= np.asarray(every.history)[:, 0]).all()
    np.testing.assert_allclose(best.objective, em.best.objective, atol=1e-2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_restarts": 0}, "n_restarts"),
        ({"n_restarts": 1.5}, "n_restarts"),
        ({"n_restarts": 2, "tol": float("nan")}, "tol"),
        ({"n_restarts": 2, "max_steps": -1}, "max_steps"),
        ({"n_restarts": 2, "start": "nowhere"}, "start"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        jaxem.fit_restarts(MODEL, X, KEY, **options)


def test_a_ladder_goes_on_with_the_best(float64):
    seen = []
    options = dict(n_restarts=16, tol=1e-8, max_steps=200)
    ladder = jaxem.Screening(steps=(4, 9), keep=0.5)
    best, every = jaxem.fit_restarts(MODEL, X, KEY, screening=ladder, callback=seen.append, **options)
    full = jaxem.fit_restarts(MODEL, X, KEY, **options).all
    left_out = np.asarray(every.status) == Status.SCREENED
    assert left_out.sum() == 8 + 4
    assert set(np.asarray(every.n_steps)[left_out]) == {4, 9}
    # Those that went on have the end that they have without it, and lead among those left out after as many steps.
    for r in np.flatnonzero(~left_out):
        assert_same_fit(lane(every, r), lane(full, r), 1e-9)
    after = np.asarray(full.history)[:, 3]
    assert after[np.asarray(every.n_steps) > 4].min() >= after[np.asarray(every.n_steps) == 4].max()
    assert float(best.objective) == float(np.asarray(every.objective)[~left_out].max())
    inside_jit = jax.jit(lambda key: jaxem.fit_restarts(MODEL, X, key, screening=ladder, **options).best.objective)
    np.testing.assert_allclose(inside_jit(KEY), best.objective, rtol=1e-9)


@pytest.mark.parametrize(
    ("ladder", "message"),
    [
        (0.5, "screening: expected None or a jaxem.Screening"),
        (jaxem.Screening(steps=(9, 4)), "screening.steps: expected numbers that rise"),
        (jaxem.Screening(steps=(0, 4)), "screening.steps: expected a whole number of at least 1"),
        (jaxem.Screening(keep=0.0), "screening.keep: expected a number above 0"),
    ],
)
def test_wrong_ladders_are_named(ladder, message):
    with pytest.raises(ValueError, match=message):
        jaxem.fit_restarts(MODEL, X, KEY, n_restarts=4, screening=ladder)


def test_many_data_sets_in_one_program(float64):
    parts = [X[:90], X[90:150], X[150:]]
    x, weights = jaxem.pad_datasets(parts)
    assert x.shape[0] == 3
    assert weights.sum(1).tolist() == [90, 60, 122]
    start = MODEL.init(KEY, X)
    together = jax.vmap(lambda rows, w: jaxem.fit(MODEL, rows, start, weights=w, tol=1e-8))(x, weights)
    for i, part in enumerate(parts):
        alone = jaxem.fit(MODEL, part, start, tol=1e-8)
        np.testing.assert_allclose(together.log_lik[i], alone.log_lik, rtol=1e-8)
    with pytest.raises(ValueError, match="datasets: expected rows of one shape"):
        jaxem.pad_datasets([X, X[:, :1]])


def test_starts_from_few_of_the_rows(float64):
    """They lead to the optimum that many restarts on all rows find, for any tree of data, reproducibly."""
    x, model, key = groups(400, 2, 3), jaxem.gaussian_mixture(3), jax.random.key(1)
    weights = np.ones(400)
    starts = jaxem.subsampled_starts(model, x, key, 120, n_restarts=6, n_kept=2, weights=weights)
    again = jaxem.subsampled_starts(model, x, key, 120, n_restarts=6, n_kept=2)
    np.testing.assert_array_equal(starts.components.mean, again.components.mean)
    assert 1 <= len(starts.weights) <= 2
    best = jaxem.fit_restarts(model, x, key, start=starts).best
    whole = jaxem.fit_restarts(model, x, key, n_restarts=6).best
    np.testing.assert_allclose(best.log_lik, whole.log_lik, atol=1e-3)
    with pytest.raises(ValueError, match="n_rows: expected a whole number"):
        jaxem.subsampled_starts(model, x, key, 401)


def test_failed_fits_are_an_optimum_of_their_own():
    objective = np.array([-10.0, np.nan, -10.0, -np.inf, -20.0], np.float32)
    status = np.array([0, Status.NONFINITE, 0, Status.NONFINITE, 0], np.int32)
    fits = jaxem.Result(None, objective, objective, status, None, None, None, None)
    found = jaxem.optima(fits)
    assert [each.restarts for each in found] == [[0, 2], [4], [1, 3]]
    assert found[-1].statuses == {"NONFINITE": 2}
