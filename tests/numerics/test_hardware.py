"""Numbers of a device change how the work is cut, and nothing else."""

import jax
import numpy as np
import pytest
from small_data import groups

import jaxem
from jaxem.numerics import hardware, linalg


@pytest.fixture
def as_gpu(monkeypatch):
    """This device takes a GPU's numbers, and small pieces of data, so that chunks and lanes are many."""
    few = hardware.GPU._replace(chunk_bytes=4096, min_rows=16, narrow_from=4, lane_components=24)
    monkeypatch.setattr(hardware, "CPU", few)
    jax.clear_caches()
    yield
    jax.clear_caches()


def restarts(x):
    options = dict(n_restarts=9, max_steps=60, algorithm=jaxem.SQUAREM())
    return jaxem.fit_restarts(jaxem.gaussian_mixture(3), x, jax.random.key(0), **options).all


def test_fits_are_the_same(request, float64):
    x = groups(300, 5)
    here = restarts(x)
    request.getfixturevalue("as_gpu")
    there = restarts(x)
    np.testing.assert_array_equal(there.status, here.status)
    np.testing.assert_allclose(there.log_lik, here.log_lik, rtol=1e-9)
    np.testing.assert_allclose(there.params.components.cov, here.params.components.cov, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["cholesky", "inverse_cholesky"])
def test_factors_of_the_library_are_ours(name, float64, as_gpu):
    rows = np.random.default_rng(0).normal(size=(4, 30, 6))
    matrix = np.einsum("bni,bnj->bij", rows, rows)
    lower = np.linalg.cholesky(matrix)
    want = lower if name == "cholesky" else np.linalg.inv(lower)
    np.testing.assert_allclose(getattr(linalg, name)(matrix), want, rtol=1e-9, atol=1e-12)
    assert np.isnan(getattr(linalg, name)(-matrix)).any((1, 2)).all()
