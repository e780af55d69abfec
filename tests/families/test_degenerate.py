"""One rule says which components are degenerate, whatever the family: the same variances, the same verdict."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxem
from jaxem.families.degenerate import FEW_ROWS, is_degenerate

#: (variance of the first component as a share of the data's, variance of the others, rows that hold the first, verdict)
TABLE = [
    (0.5, 0.5, 50.0, False),
    (0.02, 0.5, 50.0, False),  # narrower than the others, and no more than that
    (2e-6, 0.5, 50.0, True),  # a sliver, whatever it holds
    (2e-6, 2e-6, 50.0, False),  # tight groups far apart are equal
    (5e-4, 0.5, 5.0, True),  # tight, and held by a few rows
    (5e-4, 0.5, 50.0, False),  # tight, and held by many
    (0.5, 0.5, 1.0, True),  # too few rows for the params
]


def gaussian(variance, others):
    """Means far apart enough for the data to have variance 1 in all."""
    mean = np.array([-1.0, 0.0, 1.0])[:, None]
    return jaxem.Gaussian("diag"), jaxem.GaussianParams(mean, np.array([variance, others, others])[:, None]), 3


def log_normal(variance, others):
    return jaxem.LogNormal(), jaxem.LogNormalParams(np.zeros(3), np.array([variance, others, others])), 3


def regression(variance, others):
    coef = np.zeros((3, 1))
    return jaxem.LinearRegression(), jaxem.LinearRegressionParams(coef, np.array([variance, others, others])), 3


@pytest.mark.parametrize(("variance", "others", "n", "verdict"), TABLE)
@pytest.mark.parametrize("make", [gaussian, regression], ids=lambda make: make.__name__)
def test_the_same_shares_the_same_verdict(make, variance, others, n, verdict, dtype):
    family, params, _ = make(variance, others)
    params = type(params)(*(jnp.asarray(leaf, dtype) for leaf in params))
    flags = family.degenerate(params, jnp.asarray([n, 60.0, 60.0], dtype))
    assert bool(flags[0]) is verdict


def test_a_log_normal_is_compared_with_the_spread_of_its_logs(dtype):
    family, params, _ = log_normal(1e-7, 0.5)
    params = type(params)(*(jnp.asarray(leaf, dtype) for leaf in params))
    flags = family.degenerate(params, jnp.asarray([50.0, 60.0, 60.0], dtype))
    assert flags.tolist() == [True, False, False]


@pytest.mark.parametrize("n_params", [2, 3, 10])
def test_how_many_rows_are_few(n_params):
    n = jnp.array([FEW_ROWS * n_params - 1.0, FEW_ROWS * n_params, n_params - 1.0, n_params])
    tight, wide = jnp.full(4, 5e-4), jnp.full(4, 0.5)
    assert is_degenerate(tight, 10 * tight, n, n_params).tolist() == [True, False, True, True]
    assert is_degenerate(wide, wide, n, n_params).tolist() == [False, False, True, False]
    assert is_degenerate(wide, wide, n, n_params, fewest=0.5).tolist() == [False] * 4
