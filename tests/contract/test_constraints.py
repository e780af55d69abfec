"""Unconstrained coordinates: round trips, validity of any vector, degrees of freedom, and complaints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxem
from jaxem.contract.constraints import Fixed, Positive, PositiveDefinite, Real, Simplex, UnitInterval, violations


def spd(rng, *shape):
    factor = rng.standard_normal(shape)
    return factor @ np.swapaxes(factor, -1, -2) + 0.1 * np.eye(shape[-1])


#: constraint -> (a leaf that satisfies it, its degrees of freedom)
PLACES = {
    "real": (Real(), lambda rng: rng.standard_normal((2, 3)), 6),
    "positive": (Positive(), lambda rng: rng.uniform(1e-8, 1e8, (2, 3)), 6),
    "positive above a floor": (Positive(0.5), lambda rng: 0.6 + rng.uniform(0, 9, (2, 3)), 6),
    "unit interval": (UnitInterval(), lambda rng: rng.uniform(0.001, 0.999, (2, 3)), 6),
    "simplex": (Simplex(), lambda rng: rng.dirichlet(np.ones(4), size=2), 6),
    "simplex of one": (Simplex(), lambda rng: np.ones((2, 1)), 0),
    "positive definite": (PositiveDefinite(), lambda rng: spd(rng, 2, 3, 3), 12),
    "positive definite, large": (PositiveDefinite(), lambda rng: spd(rng, 6, 6), 21),
    "positive definite above a floor": (PositiveDefinite(0.05), lambda rng: spd(rng, 2, 2), 3),
    "fixed": (Fixed(), lambda rng: rng.standard_normal(3), 0),
}


@pytest.mark.parametrize("name", PLACES)
def test_round_trip(name, dtype):
    constraint, make, n_free = PLACES[name]
    value = jnp.asarray(make(np.random.default_rng(0)), dtype)
    free = constraint.to_free(value)
    back = constraint.to_params(free)
    assert back.dtype == value.dtype
    np.testing.assert_allclose(
        back, value, rtol=2e-5 if dtype == "float32" else 1e-12, atol=1e-6 if dtype == "float32" else 1e-13
    )
    assert constraint.n_free(value.shape) == n_free
    assert constraint.violation(np.asarray(value)) is None
    if not isinstance(constraint, Fixed):
        assert np.size(free) == n_free


@pytest.mark.parametrize("name", PLACES)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31), size=st.sampled_from([0.0, 0.3, 1.0]))
def test_any_vector_is_valid(name, seed, size):
    constraint, make, _ = PLACES[name]
    with jax.enable_x64(True):
        shape = constraint.to_free(jnp.asarray(make(np.random.default_rng(0)))).shape
        value = constraint.to_params(jnp.asarray(size * np.random.default_rng(seed).standard_normal(shape)))
        assert constraint.violation(np.asarray(value)) is None


@pytest.mark.parametrize(
    ("constraint", "value", "problem"),
    [
        (Real(), [np.nan], "not finite"),
        (Positive(), [1.0, 0.0], "not positive"),
        (UnitInterval(), [1.2], r"outside \[0, 1\]"),
        (Simplex(), [0.5, 0.6], "sums to 1.1"),
        (Simplex(), [1.5, -0.5], "negative"),
        (PositiveDefinite(), [[1.0, 2.0], [2.0, 1.0]], "not positive definite"),
        (PositiveDefinite(), [[1.0, 0.5], [0.0, 1.0]], "not symmetric"),
        (PositiveDefinite(), [1.0, 2.0], "not square"),
    ],
)
def test_complaints(constraint, value, problem):
    assert constraint.violation(np.asarray(value)) is not None
    with pytest.raises(AssertionError, match=problem):
        raise AssertionError(constraint.violation(np.asarray(value)))


def test_violations_name_the_leaf():
    model = jaxem.gaussian_mixture(2, "diag")
    components = jaxem.GaussianParams(np.zeros((2, 1)), np.array([[1.0], [-1.0]]))
    found = violations(model, jaxem.MixtureParams(np.array([0.5, 0.5]), components))
    assert found == [(".components.cov", "is not positive")]
