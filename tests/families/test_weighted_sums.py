"""Sums of features over rows: the same alone, side by side and differentiated, and no long array is turned over."""

import re

import jax
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxem.families.exponential_family import weighted_sums

N, F, K, LANES = 700, 6, 3, 4


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return rng.normal(size=(F, N)), rng.uniform(size=(LANES, N, K))


def test_alone_and_side_by_side(arrays, float64):
    features, weights = arrays
    want = np.einsum("fn,lnk->lkf", features, weights)
    np.testing.assert_allclose(weighted_sums(features, weights[0]), want[0], rtol=1e-12)
    np.testing.assert_allclose(jax.vmap(weighted_sums, (None, 0))(features, weights), want, rtol=1e-12)
    both = jax.vmap(weighted_sums)(np.stack([features, 2 * features]), weights[:2])
    np.testing.assert_allclose(both, want[:2] * np.array([1, 2])[:, None, None], rtol=1e-12)


def test_derivatives(arrays, float64):
    features, weights = arrays
    check_grads(weighted_sums, (features, weights[0]), order=2, modes=("fwd", "rev"))
    side_by_side = jax.grad(lambda w: (jax.vmap(weighted_sums, (None, 0))(features, w) ** 2).sum())(weights)
    alone = [jax.grad(lambda w: (weighted_sums(features, w) ** 2).sum())(each) for each in weights]
    np.testing.assert_allclose(side_by_side, alone, rtol=1e-9)


@pytest.mark.parametrize("lanes", [None, LANES])
def test_compiled_as_it_is_meant(arrays, lanes):
    """Features by weights for one fit, weights by features for several; what has n rows is not copied for it."""
    features, weights = arrays
    by_component = weights.swapaxes(1, 2)  # [k, n], as an E-step makes them
    function, axes = (lambda f, w: weighted_sums(f, w.T)), (None, 0)
    function, given = (function, by_component[0]) if lanes is None else (jax.vmap(function, axes), by_component)
    text = jax.jit(function).lower(features, given).compile().as_text()
    assert not re.search(rf"\[[\d,]*{N}[\d,]*\]\S* (transpose|copy)\(", text)
    rows = re.findall(r"= f32\[(\d+),(\d+)\]\S* (?:dot|custom-call)\(", text)
    assert [int(row[0]) == F for row in rows] == [lanes is None]
