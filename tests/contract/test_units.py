"""Where the data lie and how they are scaled decides nothing: fit(c X) = c fit(X), and so for shifts and rotations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxem
from jaxem.contract.affine import host_origin, standardize

COVARIANCES = ("full", "tied", "diag", "spherical")
N, D, K, STEPS = 120, 3, 2, 10
MODELS = {covariance: jaxem.gaussian_mixture(K, covariance) for covariance in COVARIANCES}
TOLERANCE = {"float32": 1e-4, "float64": 1e-8}


def rows():
    """[120, 3]: two overlapping groups of rows."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal((N, D)) @ [[1, 0.5, 0], [0, 1, 0], [0.2, 0, 2]]
    return x + 2.5 * (np.arange(N)[:, None] % K) * [1, 1, 0]


@functools.cache
def fitted(covariance, dtype):
    """(start, log-likelihood and params after a few steps) on the data as they are."""
    x = rows().astype(dtype)
    resp = 0.8 * (np.arange(N)[:, None] % K == np.arange(K)) + 0.1
    start = jax.tree.map(np.asarray, MODELS[covariance].m_step(resp.astype(dtype), x))
    result = jaxem.fit(MODELS[covariance], x, start, max_steps=STEPS, tol=0)
    return start, float(result.log_lik), jax.tree.map(np.asarray, result.params)


def moved(covariance, params, matrix, shift=0.0):
    """Params of the rows x @ matrix + shift; matrix is a multiple of I, a diagonal one, or any [d, d]."""
    mean = np.asarray(params.components.mean, np.float64) @ matrix + shift
    cov = np.asarray(params.components.cov, np.float64)
    if covariance in ("full", "tied"):
        cov = matrix.T @ cov @ matrix
    else:
        cov = cov * (np.diag(matrix) ** 2 if covariance == "diag" else matrix[0, 0] ** 2)
    return jaxem.MixtureParams(np.asarray(params.weights, np.float64), jaxem.GaussianParams(mean, cov))


def assert_moves_along(covariance, dtype, matrix, shift=0.0, tolerance=None):
    start, log_lik, params = fitted(covariance, dtype)
    tolerance = TOLERANCE[dtype] if tolerance is None else tolerance
    x = (rows() @ matrix + shift).astype(dtype)
    result = jaxem.fit(MODELS[covariance], x, moved(covariance, start, matrix, shift), max_steps=STEPS, tol=0)
    want = moved(covariance, params, matrix, shift)
    np.testing.assert_allclose(result.params.weights, want.weights, atol=tolerance)
    sd = x.astype(np.float64).std(0)
    np.testing.assert_allclose((result.params.components.mean - want.components.mean) / sd, 0, atol=tolerance)
    scale = {"spherical": (sd**2).mean(), "diag": sd**2}.get(covariance, sd[:, None] * sd)
    cov = np.asarray(result.params.components.cov, np.float64)
    np.testing.assert_allclose((cov - want.components.cov) / scale, 0, atol=tolerance)
    volume = N * np.linalg.slogdet(matrix)[1]
    np.testing.assert_allclose(result.log_lik, log_lik - volume, rtol=tolerance / 10, atol=tolerance * N / 10)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("c", [1e-12, 1e-6, 1e-3, 1e3, 1e6, 1e12])
def test_scale(covariance, c, dtype):
    assert_moves_along(covariance, dtype, c * np.eye(D))


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_shift(covariance, dtype):
    assert_moves_along(covariance, dtype, np.eye(D), np.array([50.0, -20.0, 100.0]))


@pytest.mark.parametrize("covariance", ["full", "tied"])
def test_rotation_and_shear(covariance, dtype):
    rng = np.random.default_rng(8)
    assert_moves_along(covariance, dtype, np.linalg.qr(rng.standard_normal((D, D)))[0])
    assert_moves_along(covariance, dtype, np.eye(D) + 0.5 * rng.standard_normal((D, D)), 3.0)


@pytest.mark.parametrize("covariance", ["full", "tied", "diag"])
def test_scale_of_each_column(covariance, dtype):
    assert_moves_along(covariance, dtype, np.diag([1e-6, 1.0, 1e6]))


@pytest.mark.parametrize("kind", [0, 1, 2, 3])
@pytest.mark.parametrize("c", [1e-12, 1e12])
def test_random_starts_have_no_units(kind, c):
    x, key = rows().astype(np.float32), jax.random.key(3)
    start = MODELS["full"].init(key, x, kind=kind)
    scaled = MODELS["full"].init(key, x * np.float32(c), kind=kind)
    np.testing.assert_allclose(scaled.components.mean / c, start.components.mean, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(scaled.components.cov / c**2, start.components.cov, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("metric", ["full", "diag", "spherical"])
@pytest.mark.parametrize("c", [1e-15, 1.0, 1e15])
def test_standard_units(metric, c):
    x = (rows() * [1, 5, 30] * c + 40 * c).astype(np.float32)
    weights = np.linspace(0, 1, N).astype(np.float32)
    change = standardize(x, weights, metric)
    z = np.asarray(change.forth(x), np.float64)
    mean = np.average(z, axis=0, weights=weights)
    cov = np.cov(z.T, aweights=weights, bias=True)
    np.testing.assert_allclose(mean, 0, atol=1e-5)
    if metric == "full":
        np.testing.assert_allclose(cov, np.eye(D), atol=1e-5)
    elif metric == "diag":
        np.testing.assert_allclose(np.diagonal(cov), 1, atol=1e-5)
    else:
        np.testing.assert_allclose(np.trace(cov), D, rtol=1e-5)
    back = change.back(change.forth(x))
    np.testing.assert_allclose((back - x) / x.std(0), 0, atol=1e-5)
    exact = np.linalg.slogdet(np.cov(x.astype(np.float64).T, aweights=weights, bias=True))[1] / 2
    if metric == "full":
        np.testing.assert_allclose(change.log_volume(), exact, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("condition", [1e2, 1e6, 1e8, 1e12])
def test_covariances_stay_positive_definite_in_the_data_s_units(condition):
    turn = np.linalg.qr(np.random.default_rng(9).standard_normal((D, D)))[0]
    x = (np.random.default_rng(10).standard_normal((N, D)) * [1, 1, condition**-0.5] @ turn).astype(np.float32)
    change = standardize(x, None, "full")
    cov = change.cov_back(jnp.eye(D))
    factor = jnp.linalg.cholesky(cov)
    assert jnp.isfinite(factor).all()
    want = np.cov(x.astype(np.float64).T, bias=True)
    scale = np.sqrt(np.diagonal(want))
    np.testing.assert_allclose((np.asarray(cov, np.float64) - want) / (scale[:, None] * scale), 0, atol=1e-5)


def test_host_units_keep_the_digits_of_an_ill_conditioned_start():
    turn = np.linalg.qr(np.random.default_rng(9).standard_normal((D, D)))[0]
    x = np.random.default_rng(10).standard_normal((N, D)) * [1, 1, 1e-5] @ turn + 1e3
    cov = np.cov(x.T, bias=True)
    change = host_origin(x, cov)
    assert isinstance(change.shift, np.ndarray)
    np.testing.assert_allclose(np.cov(change.forth(x).T, bias=True), np.eye(D), atol=1e-4)
    np.testing.assert_allclose(change.cov_forth(cov), np.eye(D), atol=1e-4)
    np.testing.assert_allclose(change.back(change.forth(x)), x, rtol=1e-12)
    np.testing.assert_allclose(change.log_volume(), np.linalg.slogdet(cov)[1] / 2, rtol=1e-6)
    # Where float32 loses nothing, float32 rows stay as they are.
    assert host_origin(rows().astype(np.float32), np.cov(rows().T)) is None
