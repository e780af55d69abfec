"""float32 against a float64 fit of the same rounded data, from the same start, with the same number of steps."""

import functools

import jax
import numpy as np
import pytest

import jaxem
from jaxem import Status

COVARIANCES = ("full", "tied", "diag", "spherical")
N, D, K, STEPS = 120, 3, 2, 25
MODELS = {covariance: jaxem.gaussian_mixture(K, covariance) for covariance in COVARIANCES}
GROUP = np.arange(N) % K


def groups(apart):
    """Rows [120, 3] of two groups with different covariances, `apart` standard deviations from each other."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((N, D)) @ [[1, 0.3, 0], [0, 1, 0.2], [0, 0, 1]]
    return np.where(GROUP[:, None] == 1, x * [1.5, 0.7, 1.2] + [apart, 0.3 * apart, 0], x)


def rotation():
    return np.linalg.qr(np.random.default_rng(5).standard_normal((D, D)))[0]


CASES = {
    "overlapping": groups(2),
    "offset 100 sd": groups(3) + 1e2,
    "offset 1e4 sd": groups(3) + 1e4,
    "offset 1e6 sd": groups(3) + 1e6,
    "offset 1e6 sd in one column": groups(3) - np.array([0, 0, 1e6]),
    "columns scaled 1e-6 to 1e6": groups(3) * [1e-6, 1, 1e6],
    "condition 1e8, axis-aligned": groups(3) * [1, 1e-4, 1e-2],
    "condition 1e4, rotated, offset": groups(3) * [1, 1e-2, 1e-1] @ rotation() + 1e2,
    "condition 1e8, rotated": groups(3) * [1, 1e-4, 1e-2] @ rotation(),
    "10 sd apart": groups(10),
    "30 sd apart": groups(30),
    "100 sd apart": groups(100),
    "300 sd apart": groups(300),
    "30 sd apart, offset": groups(30) + 1e4,
    "300 sd apart, offset": groups(300) - 1e4,
}


def start_of(covariance, x):
    """float64 params that the true groups, blurred, would give."""
    resp = 0.8 * (GROUP[:, None] == np.arange(K)) + 0.1
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, MODELS[covariance].m_step(resp, np.asarray(x, np.float64)))


@functools.cache
def oracle(covariance, case, rounded=True):
    """(rows, start, result of the fit in float64)."""
    x = CASES[case].astype(np.float32) if rounded else CASES[case]
    start = start_of(covariance, x)
    with jax.enable_x64(True):
        result = jaxem.fit(MODELS[covariance], x.astype(np.float64), start, max_steps=STEPS, tol=0)
        return x, start, jax.tree.map(np.asarray, result)


def covariances(covariance, cov):
    cov = np.asarray(cov, np.float64)
    if covariance in ("full", "tied"):
        return np.broadcast_to(cov, (K, D, D))
    return np.stack([np.diag(np.broadcast_to(v, D)) for v in cov])


def assert_close(covariance, params, expected, x, tolerance=2e-3):
    """Weights; means in units of the data's sd, as far as float32 holds them; covariances in units of their sd."""
    sd = np.std(np.asarray(x, np.float64), 0)
    np.testing.assert_allclose(params.weights, expected.weights, atol=tolerance, rtol=0)
    mean = expected.components.mean
    spacing = np.spacing(np.abs(mean).astype(np.float32))
    assert (np.abs(np.asarray(params.components.mean, np.float64) - mean) <= tolerance * sd + spacing).all()
    want = covariances(covariance, expected.components.cov)
    scale = np.sqrt(np.einsum("kii->ki", want))
    got = covariances(covariance, params.components.cov)
    np.testing.assert_allclose((got - want) / (scale[:, :, None] * scale[:, None, :]), 0, atol=tolerance)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("case", CASES)
def test_fits_agree(covariance, case):
    x, start, expected = oracle(covariance, case)
    result = jaxem.fit(MODELS[covariance], x, start, max_steps=STEPS, tol=0)
    assert result.log_lik.dtype == np.float32
    assert_close(covariance, result.params, expected.params, x)
    np.testing.assert_allclose(result.log_lik, expected.log_lik, rtol=1e-5, atol=1e-5 * N)
    assert result.status in (Status.CONVERGED, Status.MAX_STEPS)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("case", ["offset 1e6 sd", "condition 1e8, rotated", "300 sd apart, offset"])
def test_float64_rows_where_jax_has_none(covariance, case):
    x, start, expected = oracle(covariance, case, rounded=False)
    assert x.dtype == np.float64
    result = jaxem.fit(MODELS[covariance], x, start, max_steps=STEPS, tol=0)
    assert_close(covariance, result.params, expected.params, x)
    np.testing.assert_allclose(result.log_lik, expected.log_lik, rtol=1e-5, atol=1e-5 * N)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("case", ["overlapping", "offset 1e4 sd"])
def test_slow_fits_do_not_stop_early(covariance, case):
    x, start, _ = oracle(covariance, case)
    with jax.enable_x64(True):
        expected = jaxem.fit(MODELS[covariance], x.astype(np.float64), start, max_steps=128, tol=1e-12)
        expected = jax.tree.map(np.asarray, expected)
    result = jaxem.fit(MODELS[covariance], x, start, max_steps=128)
    assert_close(covariance, result.params, expected.params, x)
    fixed = jaxem.fit(MODELS[covariance], x, start, max_steps=128, tol=0)
    assert_close(covariance, fixed.params, expected.params, x, 2e-4)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("case", [name for name in CASES if name != "condition 1e8, rotated"])
def test_steps_on_raw_rows_agree(covariance, case):
    """The public e_step and m_step, which see the data in its own units. (Rotated, 1e8 is more than float32 holds.)"""
    model, (x, _, fitted) = MODELS[covariance], oracle(covariance, case)
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32), fitted.params)
    resp, log_prob = model.e_step(params, x)
    assert log_prob.dtype == np.float32
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: leaf.astype(np.float64), params)
        want = jax.tree.map(
            np.asarray, model.e_step(wide._replace(weights=fitted.params.weights), x.astype(np.float64))
        )
        back = jax.tree.map(np.asarray, model.m_step(want.resp, x.astype(np.float64)))
    np.testing.assert_allclose(resp, want.resp, atol=2e-3)
    np.testing.assert_allclose(log_prob, want.log_prob, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(model.predict(params, x), want.resp.argmax(1))
    assert_close(covariance, model.m_step(want.resp, x), back, x)


@pytest.mark.parametrize("case", ["condition 1e8, rotated", "offset 1e6 sd", "300 sd apart"])
@pytest.mark.parametrize("covariance", ["full", "tied"])
def test_random_starts_of_hard_data(covariance, case):
    """A start made in float32 has proper covariances, and a float64 fit from it ends at the same place."""
    model, x = MODELS[covariance], CASES[case].astype(np.float32)
    start = model.init(jax.random.key(1), x)
    np.linalg.cholesky(np.asarray(start.components.cov))
    result = jaxem.fit(model, x, start, max_steps=128)
    np.linalg.cholesky(np.asarray(result.params.components.cov))
    with jax.enable_x64(True):
        start = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), start)
        start = start._replace(weights=start.weights / start.weights.sum())
        want = jaxem.fit(model, x.astype(np.float64), start, max_steps=128).log_lik
        np.testing.assert_allclose(result.log_lik, want, rtol=1e-5, atol=1e-5 * N)


def test_float32_rows_stay_float32_where_float64_is_on():
    x, start, expected = oracle("full", "overlapping")
    with jax.enable_x64(True):
        result = jaxem.fit(MODELS["full"], x, start, max_steps=STEPS, tol=0)
        assert {leaf.dtype for leaf in jax.tree.leaves(result.params)} == {np.dtype(np.float32)}
        assert_close("full", result.params, expected.params, x)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("apart", [100, 1e4])
def test_honest_groups_far_apart_are_not_degenerate(covariance, apart):
    x = groups(apart).astype(np.float32)
    result = jaxem.fit(MODELS[covariance], x, start_of(covariance, x), max_steps=STEPS)
    assert not result.degenerate.any()
    assert result.status in (Status.CONVERGED, Status.DECREASED)
    np.testing.assert_array_equal(MODELS[covariance].predict(result.params, x), GROUP)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_small_honest_groups_are_not_degenerate(covariance):
    rng = np.random.default_rng(11)
    member = np.arange(30) % 3
    x = (rng.standard_normal((30, 2)) + 100 * np.array([[0, 0], [1, 0], [0, 1]])[member]).astype(np.float32)
    model = jaxem.gaussian_mixture(3, covariance)
    result = jaxem.fit(model, x, model.m_step(0.8 * (member[:, None] == np.arange(3)) + 0.2 / 3, x))
    assert result.converged
    assert not result.degenerate.any()
    np.testing.assert_array_equal(model.predict(result.params, x), member)
