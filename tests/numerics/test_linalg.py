"""Small symmetric matrices against NumPy, and derivatives against differences; every size has its own way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxem.numerics import linalg


@pytest.mark.parametrize("d", [1, 3, 6, 11])
@pytest.mark.parametrize("name", ["cholesky", "inverse_cholesky"])
def test_factors(name, d):
    with jax.enable_x64(True):
        rows = np.random.default_rng(d).normal(size=(2, 3 * d, d))
        matrix = np.einsum("bni,bnj->bij", rows, rows)
        factor, lower = jax.jit(getattr(linalg, name)), np.linalg.cholesky(matrix)
        want = lower if name == "cholesky" else np.linalg.inv(lower)
        np.testing.assert_allclose(factor(matrix), want, rtol=1e-9, atol=1e-12)
        symmetric = jax.jit(lambda a: factor(0.5 * (a + jnp.swapaxes(a, -1, -2))))
        check_grads(symmetric, (matrix,), order=1, modes=("fwd", "rev"), rtol=1e-4)
        assert np.isnan(factor(matrix - np.trace(matrix.sum(0)) * np.eye(d))).any((1, 2)).all()
