"""Accelerations x zoo: the objective never falls, the end is one of EM, and fewer looks lead there."""

import jax
import numpy as np
import pytest
from small_data import groups
from zoo import ZOO

import jaxem
from jaxem import Status

KEY = jax.random.key(1)
ACCELERATIONS = [jaxem.SQUAREM(), jaxem.Anderson()]
ROWS = {row.name: row for row in ZOO}
TRIED = ["gaussian-full-2d", "gaussian-tied-2d", "poisson", "bernoulli", "student-t-full-each", "linear-regression"]
TRIED += ["poisson-hmm", "factor-analysis", "gaussian-prior"]


def slow_problem():
    """Three components that overlap: EM needs hundreds of steps."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(300, 2)) + centre for centre in ([0, 0], [1.8, 0], [0.9, 1.6])])
    model = jaxem.gaussian_mixture(3)
    return model, x, model.init(jax.random.key(4), x)


@pytest.mark.parametrize("name", TRIED)
@pytest.mark.parametrize("algorithm", ACCELERATIONS, ids=lambda each: type(each).__name__)
def test_every_model_climbs_to_an_end_of_em(name, algorithm, float64):
    row = ROWS[name]
    x = row.data()
    start = row.model.init(KEY, x)
    tol = 1e-9
    fit = jaxem.fit(row.model, x, start, algorithm=algorithm, tol=tol, max_steps=400)
    history = np.asarray(fit.history)[: int(fit.n_steps)]
    assert Status(int(fit.status)) in (Status.CONVERGED, Status.DEGENERATE, Status.EMPTY, Status.MAX_STEPS)
    assert np.isfinite(history).all()
    assert (np.diff(history) >= -1e-9 * np.abs(history[1:])).all()
    assert history[-1] == pytest.approx(float(fit.objective), abs=1e-9)
    if Status(int(fit.status)) == Status.CONVERGED:
        more = jaxem.fit(row.model, x, fit.params, tol=0.0, max_steps=1)
        total = float(row.model.n_observations(x))
        assert (float(more.objective) - float(fit.objective)) / total <= 2 * tol


@pytest.mark.parametrize("algorithm", ACCELERATIONS, ids=lambda each: type(each).__name__)
def test_fewer_looks_lead_to_the_same_end(algorithm, float64):
    model, x, start = slow_problem()
    plain, fast = (
        jaxem.fit(model, x, start, algorithm=each, tol=1e-10, max_steps=5000) for each in (jaxem.EM(), algorithm)
    )
    assert Status(int(fast.status)) == Status.CONVERGED
    assert 1.5 * int(fast.n_evaluations) < int(plain.n_evaluations)
    assert float(fast.log_lik) >= float(plain.log_lik) - 1e-5


@pytest.mark.parametrize("algorithm", ACCELERATIONS, ids=lambda each: type(each).__name__)
def test_every_lane_is_accelerated_as_if_alone(algorithm, float64):
    x = groups(90, 2, 3)
    model = jaxem.gaussian_mixture(3, "diag")
    fits = jaxem.fit_restarts(model, x, KEY, n_restarts=6, algorithm=algorithm, tol=0.0, max_steps=12).all
    few = jaxem.fit_restarts(model, x, KEY, n_restarts=2, algorithm=algorithm, tol=0.0, max_steps=12).all
    np.testing.assert_allclose(fits.history[:2], few.history, rtol=1e-9)
    np.testing.assert_array_equal(fits.n_evaluations[:2], few.n_evaluations)


def test_a_jump_out_of_the_parameter_space_is_forgotten(float64):
    """Rates near 0: an extrapolated sum of counts is negative there."""
    rng = np.random.default_rng(0)
    x = np.where(rng.random(200) < 0.97, 0.0, rng.poisson(1.0, 200))
    model = jaxem.poisson_mixture(2)
    for algorithm in ACCELERATIONS:
        fit = jaxem.fit(model, x, model.init(KEY, x), algorithm=algorithm, max_steps=300)
        assert (np.asarray(fit.params.components.rate) >= 0).all()
        assert (np.asarray(fit.params.weights) >= 0).all()
        assert np.isfinite(float(fit.objective))


@pytest.mark.parametrize("algorithm", ACCELERATIONS, ids=lambda each: type(each).__name__)
def test_a_tight_component_in_float32_ends_where_float64_does(algorithm):
    """Its precision is too large for the product form: the centred one takes over, and with it plain EM."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(120, 2)), 2 + 0.015 * rng.normal(size=(60, 2))])
    model = jaxem.gaussian_mixture(2)
    resp = np.repeat(np.eye(2), [120, 60], 0)
    ends = []
    for dtype, each in ((np.float64, jaxem.EM()), (np.float32, algorithm)):
        with jax.enable_x64(dtype == np.float64):
            start = model.m_step(resp.astype(dtype), x.astype(dtype))
            start = start._replace(weights=np.asarray([0.5, 0.5], dtype))
            fit = jaxem.fit(model, x.astype(dtype), start, algorithm=each, tol=1e-6)
            assert Status(int(fit.status)) == Status.CONVERGED
            ends.append(float(fit.log_lik))
    np.testing.assert_allclose(ends[1], ends[0], rtol=2e-5)


def test_two_plain_functions_have_nothing_to_extrapolate():
    model = jaxem.from_steps(lambda p, x: (x, -((x - p) ** 2)), lambda resp, x: resp.mean())
    with pytest.raises(ValueError, match="algorithm: from_steps has no additive statistics"):
        jaxem.fit(model, np.ones(3), np.float32(0), algorithm=jaxem.SQUAREM())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jaxem.Anderson(order=1), "order: expected a whole number of at least 2"),
        (lambda: jaxem.Anderson(late=0.0), "late: expected a number above 0"),
        (lambda: jaxem.OnlineEM(batch_size=0), "batch_size: expected a whole number"),
        (lambda: jaxem.OnlineEM(exponent=0.5), "exponent: expected a number above 0.5"),
    ],
)
def test_wrong_options_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
