"""Structures of covariances against NumPy's dense matrices, and a structure that is not in the library."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxem
from jaxem.families import gaussian
from jaxem.families.covariance import Diagonal, Full, Spherical

D, K, N = 3, 2, 200
STRUCTURES = (Full(), Diagonal(), Spherical())


def covariances(structure, seed=0):
    """(covariances as the structure keeps them, the same as dense matrices [k, d, d])."""
    rng = np.random.default_rng(seed)
    if isinstance(structure, Full):
        factors = rng.standard_normal((K, D, D)) + 2 * np.eye(D)
        dense = factors @ factors.swapaxes(1, 2)
        return jnp.asarray(dense), dense
    variances = rng.uniform(0.5, 3, (K, *structure.shape(D)))
    columns = np.broadcast_to(variances if variances.ndim == 2 else variances[:, None], (K, D))
    return jnp.asarray(variances), columns[:, :, None] * np.eye(D)


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda structure: structure.metric)
def test_a_structure_is_its_dense_matrix(structure, float64):
    cov, dense = covariances(structure)
    pooled, dense_pooled = (matrices[0] for matrices in covariances(structure, 1))
    assert cov.shape == (K, *structure.shape(D))
    assert structure.constraint(0.0).violation(np.asarray(cov)) is None
    np.testing.assert_allclose(structure.half_log_det(cov, D), 0.5 * np.linalg.slogdet(dense)[1], rtol=1e-12)
    norms = np.linalg.norm(np.linalg.inv(dense), axis=(1, 2))
    np.testing.assert_allclose(structure.precision_norm(cov, D), norms, rtol=1e-12)
    smallest, relative = structure.smallest_eigenvalues(cov, pooled, D)
    np.testing.assert_allclose(smallest, np.linalg.eigvalsh(dense).min(-1), rtol=1e-9)
    against = np.linalg.eigvals(np.linalg.solve(dense_pooled, dense)).real.min(-1)
    np.testing.assert_allclose(relative, against, rtol=1e-9)


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda structure: structure.metric)
def test_features_and_natural_parameters_make_the_log_density(structure, float64):
    cov, dense = covariances(structure)
    rng = np.random.default_rng(2)
    mean, x = rng.standard_normal((K, D)), rng.standard_normal((N, D))
    linear, quadratic = structure.natural(jnp.asarray(mean), cov)
    features = structure.quadratic(jnp.asarray(x.T))
    assert structure.n_quadratic(D + len(features)) == len(features)
    got = linear @ x.T + quadratic @ features
    precision = np.linalg.inv(dense)
    want = np.einsum("kd,kde,ne->kn", mean, precision, x) - 0.5 * np.einsum("nd,kde,ne->kn", x, precision, x)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)
    expected = structure.unpack(structure.expected_quadratic(cov, D))
    np.testing.assert_allclose(structure.from_second(expected, D), cov, rtol=1e-12)


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda structure: structure.metric)
def test_factors_whiten_what_they_colour(structure, float64):
    cov, dense = covariances(structure)
    noise = jnp.asarray(np.random.default_rng(3).standard_normal((N, K, D)))
    rows = structure.colour(cov, noise)
    for j, factor in enumerate(structure.inverse_factor(cov, D)):
        np.testing.assert_allclose(structure.whiten(factor, rows[:, j]), noise[:, j], rtol=1e-9, atol=1e-9)
        half = -np.log(np.asarray(structure.diagonal(factor))).sum()
        np.testing.assert_allclose(half, 0.5 * np.linalg.slogdet(dense[j])[1], rtol=1e-9)


class EqualVolumes(Diagonal):
    """Diagonal covariances of the same determinant: EVI of Celeux and Govaert (1995), Fraley and Raftery (1998)."""

    independent_columns = False

    def combined(self, cov, rows):
        size = jnp.exp(jnp.log(cov).mean(-1, keepdims=True))  # |S_k|^(1/d)
        return cov / size * (rows @ size / rows.sum())


def test_a_new_structure_is_one_class(monkeypatch, float64):
    monkeypatch.setitem(gaussian.STRUCTURES, "evi", (EqualVolumes(), False))
    rng = np.random.default_rng(4)
    x = np.concatenate([rng.standard_normal((N, 2)) * [2, 0.5], rng.standard_normal((N, 2)) * [0.5, 2] + [6, 6]])
    model = jaxem.gaussian_mixture(2, "evi")
    result = jaxem.fit(model, x, model.init(jax.random.key(0), x), tol=1e-10)
    assert result.converged
    history = np.asarray(result.history)[: int(result.n_steps)]
    assert (np.diff(history) >= -1e-9 * abs(history[-1])).all()
    np.testing.assert_allclose(*jnp.linalg.det(result.params.components.cov[..., None] * jnp.eye(2)), rtol=1e-9)
    # Between one diagonal for all components and one for each.
    tied, free = (
        jaxem.fit_restarts(jaxem.gaussian_mixture(2, covariance), x, jax.random.key(0), n_restarts=4)[0].log_lik
        for covariance in ("diag_tied", "diag")
    )
    assert tied + 10 < result.log_lik <= free
    resp = model.e_step(result.params, x).resp
    for fitted, column in zip(model.m_step(resp, x).components.cov, resp.T, strict=True):
        assert fitted.shape == (2,)
        assert column.sum() > 0
