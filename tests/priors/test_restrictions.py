"""Params that are held or tied: bits, equality, degrees of freedom, and the same optimum as a model made for it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_data as data
from ground_support import columns, require_reached, rows_of

import jaxem
from jaxem import GaussianParams, MixtureParams

X = data.groups(90, 2, 2)
MODEL = jaxem.gaussian_mixture(2, "diag")
PARAMS = MixtureParams(
    np.array([0.55, 0.45]), GaussianParams(np.array([[6.1, 5.2], [-1.1, 4.3]]), np.array([[2.3, 1.1], [2.7, 1.3]]))
)


def _best(model, x=X, n_restarts=2, **options):
    return jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=n_restarts, **options).best


def _rises(fit, slack):
    history = np.asarray(fit.history)[: int(fit.n_steps)]
    return (np.diff(history) >= -slack * np.abs(history[1:])).all()


@pytest.mark.parametrize(
    ("freeze", "held", "n_free"),
    [
        ("weights", lambda p: p.weights, 8),
        ("components.mean", lambda p: p.components.mean, 5),
        ("components", lambda p: p.components, 1),
        ({"components.mean": [True, False]}, lambda p: p.components.mean[:, 0], 7),
        (
            {"components.mean": [[True], [False]], "components.cov": [[True], [False]]},
            lambda p: jax.tree.map(lambda leaf: leaf[0], p.components),
            5,
        ),
    ],
)
def test_what_is_frozen_keeps_its_bits(float64, freeze, held, n_free):
    model = jaxem.restrict(MODEL, PARAMS, freeze=freeze)
    fit = _best(model)
    same = jax.tree.map(lambda a, b: (np.asarray(a) == np.asarray(b)).all(), held(fit.params), held(PARAMS))
    assert all(jax.tree.leaves(same))
    assert jaxem.n_free_params(model, fit.params) == n_free
    assert fit.converged
    assert _rises(fit, 1e-12)


def test_bits_are_kept_in_float32_far_from_the_origin():
    away = np.array([1e6, -3e5])
    params = PARAMS._replace(components=PARAMS.components._replace(mean=PARAMS.components.mean + away))
    model = jaxem.restrict(MODEL, params, freeze={"components.mean": [[True], [False]]}, tie="components.cov")
    fit = _best(model, X + away)
    assert (fit.params.components.mean[0] == params.components.mean[0]).all()
    assert (fit.params.components.cov[0] == fit.params.components.cov[1]).all()
    assert fit.converged
    assert _rises(fit, 1e-5)


def test_frozen_means_shape_the_covariances(float64):
    """With everything else in closed form: one component, whose covariance is taken about the held mean."""
    model = jaxem.gaussian_mixture(1)
    start = model.init(jax.random.key(0), X)
    held = start._replace(components=start.components._replace(mean=jnp.array([[1.0, 2.0]])))
    fit = _best(jaxem.restrict(model, held, freeze="components.mean"))
    away = X - np.array([1.0, 2.0])
    assert np.allclose(fit.params.components.cov[0], away.T @ away / len(X))


@pytest.mark.slow
def test_tied_covariances_are_the_tied_model(float64):
    model = jaxem.gaussian_mixture(2)
    start = model.init(jax.random.key(0), X)
    restricted = jaxem.restrict(model, start, tie="components.cov")
    fit = _best(restricted, tol=1e-12)
    want = _best(jaxem.gaussian_mixture(2, "tied"), tol=1e-12)
    assert (fit.params.components.cov[0] == fit.params.components.cov[1]).all()
    assert np.isclose(fit.log_lik, want.log_lik, rtol=1e-9)
    assert jaxem.n_free_params(restricted, fit.params) == 8


def test_tied_rates_are_one_poisson_and_equal_weights_are_equal(float64):
    x = data.counts()
    model = jaxem.poisson_mixture(3)
    start = model.init(jax.random.key(0), x)
    fit = _best(jaxem.restrict(model, start, tie=["components.rate", "weights"]), x)
    assert np.allclose(fit.params.components.rate, x.mean())
    assert (np.asarray(fit.params.weights) == 1 / 3).all()


@pytest.mark.slow
def test_a_gradient_fit_sees_the_same_coordinates(float64):
    model = jaxem.restrict(MODEL, PARAMS, tie="components.mean", freeze="weights")
    by_em = jaxem.fit(model, X, PARAMS, tol=1e-13, max_steps=5000)
    by_gradient = jaxem.fit(model, X, PARAMS, algorithm=jaxem.Gradient(optax.lbfgs()), tol=1e-14, max_steps=500)
    assert np.isclose(by_em.log_lik, by_gradient.log_lik, rtol=1e-6)
    assert (by_gradient.params.components.mean[0] == by_gradient.params.components.mean[1]).all()
    assert (np.asarray(by_gradient.params.weights) == PARAMS.weights).all()


def test_masks_may_be_a_tree(float64):
    masks = MixtureParams(np.array([True, True]), GaussianParams(np.zeros((2, 2), bool), np.zeros((2, 2), bool)))
    by_tree = jaxem.restrict(MODEL, PARAMS, freeze=masks)
    assert by_tree.restrictions == jaxem.restrict(MODEL, PARAMS, freeze="weights").restrictions


def test_a_row_of_transitions_can_be_held(float64):
    x = data.count_sequences()
    model = jaxem.poisson_hmm(2)
    params = model.init(jax.random.key(0), x)
    restricted = jaxem.restrict(model, params, freeze={"transition": [[True], [False]]})
    fit = jaxem.fit(restricted, x, params)
    assert (fit.params.transition[0] == params.transition[0]).all()
    assert fit.converged


def test_priors_and_restrictions_go_together(float64):
    believed = jaxem.weak_prior(MODEL, X, strength=3.0)
    fit = _best(jaxem.restrict(believed, PARAMS, tie="components.cov"))
    assert (fit.params.components.cov[0] == fit.params.components.cov[1]).all()
    assert float(fit.objective) < float(fit.log_lik)
    assert _rises(fit, 1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze": "components.means"}, "freeze: no params at 'components.means'; expected one of weights, "),
        (
            {"tie": {"components.mean": np.zeros((3, 2), bool)}},
            r"tie: the mask of 'components.mean' has shape \(3, 2\)",
        ),
        ({"freeze": {"weights": [True, False]}}, "freeze: a part of one entry of 'weights'"),
        ({"freeze": "weights", "tie": "weights"}, "tie: 'weights' is frozen at unequal values"),
        ({"freeze": "components.mean", "tie": "components.mean"}, "tie: 'components.mean' is frozen at unequal values"),
        (
            {"freeze": {"components.mean": [[True], [False]]}, "tie": "components.mean"},
            "tie: entries of 'components.mean' are tied to one that is frozen",
        ),
    ],
)
def test_contradictions_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        jaxem.restrict(MODEL, PARAMS, **options)


def test_what_a_model_does_not_estimate_cannot_be_tied():
    x = jaxem.datasets.old_faithful()
    model = jaxem.kmeans(2)
    with pytest.raises(ValueError, match="tie: 'weights' is not estimated"):
        jaxem.restrict(model, model.init(jax.random.key(0), x), tie="weights")
    tied = jaxem.gaussian_mixture(2, "tied")
    with pytest.raises(ValueError, match=r"tie: 'components.cov' is one already"):
        jaxem.restrict(tied, tied.init(jax.random.key(0), x), tie="components.cov")


@pytest.mark.slow
def test_components_that_share_a_slope(float64, ground):
    case = next(case for case in ground("families") if case["id"] == "trypanosome_tied_k2")
    rows = rows_of(case)
    inputs = np.column_stack([np.ones(len(rows)), columns(rows, case["columns"]["tied_inputs"])])
    x = inputs, columns(rows, case["columns"]["targets"])[:, 0]
    model = jaxem.logistic_regression_mixture(2)
    shared = jaxem.restrict(model, model.init(jax.random.key(0), x), tie={"components.coef": [False, True]})
    require_reached([case], lambda _: (shared, x), 1.0, n_restarts=8)


@pytest.mark.slow
def test_derivatives_of_a_restricted_fit(float64):
    model = jaxem.restrict(MODEL, PARAMS, tie="components.cov")

    def centre(shift):
        x = jnp.asarray(X).at[3, 0].add(shift)
        return jaxem.fit(model, x, PARAMS, tol=1e-14, max_steps=500).params.components.mean[0, 0]

    assert np.isclose(jax.grad(centre)(0.0), (centre(1e-4) - centre(-1e-4)) / 2e-4, rtol=1e-3)


# --- annealing -------------------------------------------------------------------------------------------------------


def test_annealing_finds_what_plain_starts_miss(float64):
    x = jaxem.datasets.old_faithful()
    model = jaxem.gaussian_mixture(3)
    keys = jax.random.split(jax.random.key(1), 16)
    starts = jax.vmap(lambda key: model.init(key, x, kind="rows"))(keys)
    best = _best(model, x, n_restarts=16).log_lik
    annealed = jax.vmap(lambda start: jaxem.anneal(model, x, start))(starts)

    def reached(start):
        fits = jaxem.fit_restarts(model, x, keys[0], start=start).all
        return int((np.abs(np.asarray(fits.objective) - float(best)) < 0.01).sum())

    assert reached(annealed) > reached(starts)


def test_annealing_is_em_at_exponent_one(float64):
    x = data.counts()
    model = jaxem.poisson_mixture(2)
    start = model.init(jax.random.key(0), x)
    got = jaxem.anneal(model, x, start, exponents=[1.0], n_steps=4)
    want = jaxem.fit(model, x, start, tol=0.0, max_steps=4).params
    assert np.allclose(got.components.rate, want.components.rate)


def test_annealing_far_from_the_origin_in_float32():
    model = jaxem.gaussian_mixture(2)
    start = model.init(jax.random.key(0), X)
    moved = start._replace(components=start.components._replace(mean=np.asarray(start.components.mean, float) + 1e6))
    near, far = jaxem.anneal(model, X, start), jaxem.anneal(model, X + 1e6, moved)
    assert np.allclose(near.components.cov, far.components.cov, rtol=1e-3)


def test_annealing_checks_its_arguments():
    x = data.counts()
    model = jaxem.poisson_mixture(2)
    start = model.init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="exponents: expected"):
        jaxem.anneal(model, x, start, exponents=[0.0, 1.0])
    chain = jaxem.poisson_hmm(2)
    with pytest.raises(ValueError, match="expected one with discrete hidden values; got HMM"):
        jaxem.anneal(chain, data.count_sequences(), chain.init(jax.random.key(0), data.count_sequences()))
