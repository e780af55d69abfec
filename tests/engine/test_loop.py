"""One fit: what it returns, how it ends, and that it is a function like any other in jax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_data import groups

import jaxem
from jaxem import Status
from jaxem.contract.model import model_class
from jaxem.families.gaussian import Gaussian
from jaxem.latent.mixture import Mixture
from jaxem.testing import count_compilations

MODEL = jaxem.gaussian_mixture(2, "diag")
X = jaxem.datasets.old_faithful()
#: Short fits share one program: the history of all is 128 long inside.
SHORT = 100


def start(x=X, model=MODEL):
    """A start far from the optimum: the lower and the upper quarter of the first column."""
    x = np.asarray(x)
    low, high = np.quantile(x[:, 0], [0.25, 0.75])
    mean = np.stack([x[x[:, 0] <= low].mean(0), x[x[:, 0] >= high].mean(0)])
    return jaxem.MixtureParams(np.full(2, 0.5), jaxem.GaussianParams(mean, np.tile(x.var(0), (2, 1))))


def assert_same(a, b, rtol, atol=0.0):
    jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=rtol, atol=atol), a, b)


# --- what is returned ----------------------------------------------------------------------------------------------


def test_history_rises_and_belongs_to_the_params(dtype):
    x = X.astype(dtype)
    fit = jaxem.fit(MODEL, x, start(), tol=0.0, max_steps=30)
    history = np.asarray(fit.history)
    assert fit.history.dtype == fit.params.weights.dtype == dtype
    assert history.shape == (30,)
    n_steps = int(fit.n_steps)
    assert np.isfinite(history[:n_steps]).all()
    assert np.isnan(history[n_steps:]).all()
    allowed = 1e-6 if dtype == "float32" else 1e-12
    assert (np.diff(history[:n_steps]) >= -allowed * abs(history[0])).all()
    assert history[n_steps - 1] == fit.objective == fit.log_lik
    np.testing.assert_allclose(
        MODEL.log_prob(fit.params, x).sum(), fit.log_lik, rtol=1e-5 if dtype == "float32" else 1e-12
    )


def test_no_steps_give_the_start_back(float64):
    fit = jaxem.fit(MODEL, X, start(), max_steps=0)
    assert (int(fit.n_steps), Status(int(fit.status)), fit.history.shape) == (0, Status.MAX_STEPS, (0,))
    assert_same(fit.params, start(), 1e-12)
    np.testing.assert_allclose(fit.log_lik, MODEL.log_prob(start(), X).sum(), rtol=1e-12)


def test_steps_are_those_of_the_contract(float64):
    params = start()
    for _ in range(4):
        params = MODEL.m_step(MODEL.e_step(params, X).resp, X)
    fit = jaxem.fit(MODEL, X, start(), tol=0.0, max_steps=4)
    assert_same(fit.params, params, 1e-10)


# --- how it ends ---------------------------------------------------------------------------------------------------


def test_converging_exactly_at_the_limit_is_convergence(float64):
    free = jaxem.fit(MODEL, X, start(), tol=1e-5, max_steps=SHORT)
    assert free.converged
    at_limit = jaxem.fit(MODEL, X, start(), tol=1e-5, max_steps=int(free.n_steps))
    assert Status(int(at_limit.status)) == Status.CONVERGED
    assert at_limit.objective == free.objective
    before = jaxem.fit(MODEL, X, start(), tol=1e-5, max_steps=int(free.n_steps) - 1)
    assert Status(int(before.status)) == Status.MAX_STEPS
    assert "max_steps" in before.message


def test_tol_is_a_gain_per_unit_of_weight(float64):
    fit = jaxem.fit(MODEL, X, start(), tol=1e-4, max_steps=SHORT)
    gains = np.diff(np.asarray(fit.history)[: int(fit.n_steps)]) / len(X)
    assert gains[-1] <= 1e-4 < gains[:-1].min()


@model_class
class Drifting(Mixture):
    """An M-step that always moves the means away from where they were: no part of the step helps."""

    def maximize(self, stats, params=None):
        components = params.components
        return params._replace(components=components._replace(mean=components.mean + 10.0))


def test_a_fall_is_undone_and_named(dtype):
    fit = jaxem.fit(Drifting(Gaussian("diag"), 2), X.astype(dtype), start(), max_steps=SHORT)
    assert Status(int(fit.status)) == Status.DECREASED
    assert "lowered the objective" in fit.message
    assert int(fit.n_steps) == 0
    assert_same(fit.params, start(), 1e-5 if dtype == "float32" else 1e-12)


@model_class
class Breaking(Mixture):
    """The third M-step or so breaks: means beyond a bound become NaN."""

    def maximize(self, stats, params=None):
        new = super().maximize(stats, params)
        mean = new.components.mean
        broken = jnp.where(jnp.abs(mean - params.components.mean).max() < 0.02, jnp.nan, mean)
        return new._replace(components=new.components._replace(mean=broken))


def test_a_step_to_nan_is_undone_and_named(float64):
    fit = jaxem.fit(Breaking(Gaussian("diag"), 2), X, start(), tol=0.0, max_steps=SHORT)
    assert Status(int(fit.status)) == Status.NONFINITE
    assert np.isfinite(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(fit.params)])).all()
    assert int(fit.n_steps) > 0
    assert fit.objective == fit.history[int(fit.n_steps) - 1]
    with pytest.raises(RuntimeError, match="NONFINITE"):
        jaxem.raise_if_failed(fit)


def test_a_start_of_nan_is_an_error_outside_and_a_status_inside_jit(float64):
    bad = start()._replace(weights=np.array([0.5, np.nan]))
    with pytest.raises(ValueError, match=r"start.*weights"):
        jaxem.fit(MODEL, X, bad)
    fit = jax.jit(lambda s: jaxem.fit(MODEL, X, s, max_steps=SHORT))(bad)
    assert Status(int(fit.status)) == Status.NONFINITE
    assert int(fit.n_steps) == 0


def test_a_collapse_is_named(float64):
    x = np.concatenate([groups(60, 2, k=1), np.full((3, 2), 40.0)])
    params = start(x)
    params.components.mean[1] = 40.0
    model = jaxem.gaussian_mixture(2, "diag", floor=0)
    fit = jaxem.fit(model, x, params, max_steps=SHORT)
    assert Status(int(fit.status)) == Status.DEGENERATE
    assert np.isfinite(fit.params.components.mean).all()
    np.testing.assert_array_equal(fit.degenerate, [False, True])


def test_an_empty_component_keeps_its_params_and_is_named(float64):
    params = start()
    params.components.mean[1] = 1e4
    fit = jaxem.fit(MODEL, X, params, max_steps=SHORT)
    assert Status(int(fit.status)) == Status.EMPTY
    assert fit.params.weights[1] == 0
    np.testing.assert_allclose(fit.params.components.mean[1], params.components.mean[1], rtol=1e-9)
    np.testing.assert_allclose(fit.params.components.cov[1], params.components.cov[1], rtol=1e-9)
    np.testing.assert_allclose(fit.params.components.mean[0], X.mean(0), rtol=1e-9)


# --- one program for all numbers -----------------------------------------------------------------------------------


def test_new_numbers_compile_nothing(float64):
    model = jaxem.gaussian_mixture(2, "diag", floor=1e-6)
    jaxem.fit(model, X, start(), weights=np.ones(len(X)), tol=1e-3, max_steps=50)
    other = jaxem.gaussian_mixture(2, "diag", floor=1e-4)
    with count_compilations() as programs:
        jaxem.fit(model, X, start(), weights=np.ones(len(X)), tol=1e-6, max_steps=50)
        jaxem.fit(model, X, start(), weights=np.ones(len(X)), tol=1e-3, max_steps=77)
        jaxem.fit(model, X, start(), weights=np.arange(len(X)), tol=1e-3, max_steps=50)
        jaxem.fit(other, X, start(), weights=np.ones(len(X)), tol=1e-3, max_steps=50)
        jaxem.fit(model, X + 1, start(X + 2), tol=1e-3, max_steps=50)
        # A few rows fewer fall into the same bucket.
        jaxem.fit(model, X[:-3], start(), tol=1e-3, max_steps=50)
    assert programs == []


def test_jit_and_vmap_give_the_same_fit(float64):
    alone = jaxem.fit(MODEL, X, start(), max_steps=SHORT)
    compiled = jax.jit(lambda x, s: jaxem.fit(MODEL, x, s, max_steps=SHORT))(X, start())
    assert_same(compiled.params, alone.params, 1e-9)
    assert_same(compiled.history, alone.history, 1e-10)
    both = jax.vmap(lambda x: jaxem.fit(MODEL, x, start(), max_steps=SHORT))(jnp.stack([X, X + 0.1]))
    assert both.status.shape == (2,)
    assert_same(jax.tree.map(lambda leaf: leaf[0], both.params), alone.params, 1e-8)


# --- derivatives ---------------------------------------------------------------------------------------------------


def test_derivatives_in_rows_and_weights(float64):
    """Against central differences of plain EM, iterated until nothing moves."""
    x = groups(40, 2, k=2, seed=4)
    begin = start(x)
    rng = np.random.default_rng(0)
    weights = rng.uniform(0.5, 1.5, len(x))
    probe = rng.standard_normal((2, 2))

    def summary(params, log_lik):
        return jnp.stack([log_lik / 10, (probe * params.components.mean).sum(), params.weights[0]])

    def fitted(x, weights):
        fit = jaxem.fit(MODEL, x, begin, weights=weights, tol=0.0, max_steps=1000)
        return summary(fit.params, fit.log_lik)

    @jax.jit
    def iterated(x, weights):
        step = lambda _, params: MODEL.m_step(MODEL.e_step(params, x).resp, x, weights)  # noqa: E731
        params = jax.lax.fori_loop(0, 3000, step, jax.tree.map(jnp.asarray, begin))
        return summary(params, weights @ MODEL.log_prob(params, x))

    of_x, of_weights = jax.jit(jax.jacrev(fitted, argnums=(0, 1)))(x, weights)
    dx, dw, h = rng.standard_normal(x.shape), rng.standard_normal(len(x)), 1e-4
    by_x = (iterated(x + h * dx, weights) - iterated(x - h * dx, weights)) / (2 * h)
    by_weights = (iterated(x, weights + h * dw) - iterated(x, weights - h * dw)) / (2 * h)
    np.testing.assert_allclose(np.tensordot(of_x, dx, 2), by_x, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(of_weights @ dw, by_weights, rtol=1e-5, atol=1e-7)


# --- weights and chunks --------------------------------------------------------------------------------------------


def test_an_integer_weight_is_a_repeated_row_and_0_an_absent_one(float64):
    counts = np.resize([2, 0, 1, 1], len(X))
    repeated = np.repeat(X, counts, axis=0)
    weighted = jaxem.fit(MODEL, X, start(), weights=counts, tol=0.0, max_steps=5)
    plain = jaxem.fit(MODEL, repeated, start(), tol=0.0, max_steps=5)
    assert_same(weighted.params, plain.params, 1e-9)
    assert_same(weighted.history, plain.history, 1e-11)


def test_rows_of_weight_0_may_hold_anything_finite(float64):
    x = np.concatenate([X, [[1e6, -1e6]]])
    weighted = jaxem.fit(MODEL, x, start(), weights=np.append(np.ones(len(X)), 0), tol=0.0, max_steps=20)
    assert_same(weighted.params, jaxem.fit(MODEL, X, start(), tol=0.0, max_steps=20).params, 1e-9)


@pytest.mark.parametrize("covariance", ["diag", "tied"])
def test_chunks_give_what_the_whole_gives(covariance, dtype):
    model = jaxem.gaussian_mixture(2, covariance)
    x = X.astype(dtype)
    params = model.init(jax.random.key(0), x)
    whole = jaxem.fit(model, x, params, tol=0.0, max_steps=5)
    chunked = jaxem.fit(model, x, params, tol=0.0, max_steps=5, chunk_size=50)
    assert_same(chunked.params, whole.params, *((2e-4, 1e-3) if dtype == "float32" else (1e-10, 1e-10)))
    assert_same(chunked.log_lik, whole.log_lik, 1e-6 if dtype == "float32" else 1e-12)


# --- other ways to the same optimum --------------------------------------------------------------------------------


def test_two_plain_functions_run_in_the_same_loop(float64):
    plain = jaxem.from_steps(MODEL.e_step, MODEL.m_step)
    a = jaxem.fit(MODEL, X, start(), tol=1e-9, max_steps=SHORT)
    b = jaxem.fit(plain, X, start(), tol=1e-9, max_steps=SHORT)
    assert (int(a.status), int(a.n_steps)) == (int(b.status), int(b.n_steps))
    assert_same(b.params, a.params, 1e-8)
    assert_same(b.history, a.history, 1e-11)
    # A number of rows that other models pad: here every row counts.
    odd = jaxem.fit(plain, X[:-1], start(), tol=0.0, max_steps=5)
    assert_same(odd.history, jaxem.fit(MODEL, X[:-1], start(), tol=0.0, max_steps=5).history, 1e-11)


@pytest.mark.parametrize("option", [{"weights": np.ones(len(X))}, {"chunk_size": 50}])
def test_two_plain_functions_refuse_what_needs_sums(option):
    plain = jaxem.from_steps(MODEL.e_step, MODEL.m_step)
    with pytest.raises(ValueError, match=f"^{next(iter(option))}: from_steps"):
        jaxem.fit(plain, X, start(), **option)


@pytest.mark.parametrize(("optimizer", "max_steps"), [(optax.lbfgs(), 60), (optax.adam(0.05), 800)])
def test_gradients_reach_the_optimum_of_em(optimizer, max_steps, float64):
    em = jaxem.fit(MODEL, X, start(), tol=1e-12)
    algorithm = jaxem.Gradient(optimizer)
    fit = jaxem.fit(MODEL, X, start(), algorithm=algorithm, tol=0.0, max_steps=max_steps)
    np.testing.assert_allclose(fit.log_lik, em.log_lik, atol=1e-3)
    assert_same(fit.params, em.params, 1e-2)
    n_steps = int(fit.n_steps)
    assert np.nanmax(np.asarray(fit.history)) == fit.objective
    assert int(fit.n_evaluations) >= n_steps
