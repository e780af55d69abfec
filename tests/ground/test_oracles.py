"""What nobody here wrote: scikit-learn's EM, scipy's densities, and the moments that an M-step must match."""

import warnings

import jax
import numpy as np
import pytest
from references import gaussian_covariances, gaussian_joint
from sklearn.datasets import load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from small_data import groups
from zoo import ZOO

import jaxem

DATA = {
    "faithful": jaxem.datasets.old_faithful,
    "simulated": lambda: groups(272, 2),
    "iris": lambda: load_iris().data,
    "wine": lambda: load_wine().data[:, [0, 6, 9]],
    "twenty": lambda: jaxem.datasets.twenty_numbers()[:, None],
}
N_COMPONENTS = {"twenty": 2}
N_STEPS = 12


def start_from_rows(x, k, covariance):
    """Equal weights, rows far apart as means, the data's covariance in every component."""
    order = np.argsort(x @ np.ones(x.shape[1]))
    mean = x[order[np.linspace(0.1 * len(x), 0.9 * len(x), k).astype(int)]]
    full = np.cov(x.T, bias=True).reshape(x.shape[1], -1)
    cov = {
        "full": np.broadcast_to(full, (k, *full.shape)),
        "tied": full,
        "diag": np.broadcast_to(np.diag(full), (k, x.shape[1])),
        "spherical": np.full(k, np.trace(full) / len(full)),
    }[covariance]
    return jaxem.MixtureParams(np.full(k, 1 / k), jaxem.GaussianParams(mean, cov))


def sklearn_steps(x, start, covariance, n_steps):
    """(weights, means, covariances) after n_steps of scikit-learn's EM."""
    cov = np.asarray(start.components.cov)
    precision = np.linalg.inv(cov) if covariance in ("full", "tied") else 1 / cov
    theirs = GaussianMixture(
        len(start.weights),
        covariance_type=covariance,
        tol=0,
        reg_covar=0,
        max_iter=n_steps,
        weights_init=start.weights,
        means_init=start.components.mean,
        precisions_init=precision,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs.fit(x)
    return theirs.weights_, theirs.means_, theirs.covariances_


@pytest.mark.parametrize("covariance", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("name", DATA)
def test_the_same_steps_as_scikit_learn(name, covariance, float64):
    x = DATA[name]()
    start = start_from_rows(x, N_COMPONENTS.get(name, 3), covariance)
    model = jaxem.gaussian_mixture(len(start.weights), covariance)
    ours = jaxem.fit(model, x, start, tol=0.0, max_steps=N_STEPS)
    assert int(ours.n_steps) == N_STEPS
    weights, means, covs = sklearn_steps(x, start, covariance, N_STEPS)
    np.testing.assert_allclose(ours.params.weights, weights, rtol=1e-6)
    np.testing.assert_allclose(ours.params.components.mean, means, rtol=1e-6, atol=1e-6 * x.std())
    np.testing.assert_allclose(ours.params.components.cov, covs, rtol=1e-6, atol=1e-6 * x.var())


GAUSSIANS = [
    row for row in ZOO if isinstance(row.model, jaxem.Mixture) and isinstance(row.model.component, jaxem.Gaussian)
]


@pytest.mark.parametrize("row", GAUSSIANS, ids=lambda row: row.name)
def test_posterior_is_that_of_scipy_densities(row, float64):
    x = row.data()
    params = row.model.init(jax.random.key(0), x)
    joint = gaussian_joint(row.model.component.covariance, params, x)
    expected = np.exp(joint - np.logaddexp.reduce(joint, axis=1, keepdims=True))
    np.testing.assert_allclose(row.model.posterior(params, x), expected, rtol=1e-9, atol=1e-13)
    np.testing.assert_array_equal(row.model.predict(params, x), expected.argmax(1))


@pytest.mark.parametrize("row", GAUSSIANS, ids=lambda row: row.name)
def test_every_m_step_matches_the_moments_of_the_data(row, dtype):
    """The mixture's mean is the data's, and so is its covariance as far as the structure can say it."""
    x = row.data().astype(dtype)
    tolerance = 1e-6 if dtype == "float32" else 1e-12
    params = row.model.init(jax.random.key(0), x)
    for _ in range(3):
        params = row.model.m_step(row.model.e_step(params, x).resp, x)
        mean, cov = moments(row.model.component.covariance, params)
        scale = x.astype(float).std(0)
        np.testing.assert_allclose((mean - x.astype(float).mean(0)) / scale, 0, atol=10 * tolerance)
        expected = structured(row.model.component.covariance, np.cov(x.T.astype(float), bias=True).reshape(cov.shape))
        cov = structured(row.model.component.covariance, cov)
        np.testing.assert_allclose(cov, expected, rtol=10 * tolerance, atol=10 * tolerance * scale.max() ** 2)


def moments(covariance, params):
    """Mean [d] and covariance [d, d] of a mixture."""
    weights, mean = (np.asarray(leaf, np.float64) for leaf in (params.weights, params.components.mean))
    covs = gaussian_covariances(covariance, params.components.cov, *mean.shape)
    centre = weights @ mean
    outer = np.einsum("k,ki,kj->ij", weights, mean - centre, mean - centre)
    return centre, np.tensordot(weights, covs, 1) + outer


def structured(covariance, cov):
    """The part of a covariance that a structure determines."""
    if covariance in ("full", "tied"):
        return cov
    return np.diag(cov) if covariance.startswith("diag") else np.trace(cov)
