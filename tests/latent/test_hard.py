"""Classification EM, and k-means as its special case."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans

import jaxem


@pytest.fixture
def rows():
    return np.random.default_rng(3).normal(size=(120, 2)) * [3.0, 1.0] + [10.0, 0.0]


def _start(model, x, centres):
    """Params whose centres are these rows."""
    params = model.init(jax.random.key(0), x)
    return params._replace(components=params.components._replace(mean=jnp.asarray(centres)))


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_kmeans_is_lloyd_step_for_step(rows, float64):
    x = np.asarray(rows, float)
    model, centres = jaxem.kmeans(3), x[:3]
    for steps in (1, 2, 3, 5, 30):
        ours = jaxem.fit(model, x, _start(model, x, centres), tol=0, max_steps=steps)
        theirs = KMeans(3, init=centres, n_init=1, max_iter=steps, tol=0).fit(x)
        np.testing.assert_allclose(ours.params.components.mean, theirs.cluster_centers_, rtol=1e-10)
    np.testing.assert_allclose(float(ours.params.components.cov) * x.size, theirs.inertia_, rtol=1e-10)
    np.testing.assert_array_equal(model.predict(ours.params, x), theirs.labels_)


def test_hard_responsibilities_and_objective(rows, float64):
    model = jaxem.Hard(jaxem.gaussian_mixture(2))
    params = model.init(jax.random.key(1), rows)
    resp, log_prob = model.e_step(params, rows)
    assert set(np.unique(resp)) == {0.0, 1.0}
    soft = model.model
    each = jnp.log(params.weights) + soft.component.e_step(params.components, rows).log_prob
    np.testing.assert_allclose(log_prob, each.max(1), rtol=1e-12)


def test_classification_likelihood_never_falls(rows, float64):
    model = jaxem.Hard(jaxem.gaussian_mixture(3, "diag"))
    result = jaxem.fit(model, rows, model.init(jax.random.key(2), rows), tol=0, max_steps=30)
    history = np.asarray(result.history)[: int(result.n_steps)]
    assert (np.diff(history) >= -1e-10).all()


def test_fixed_weights_stay(rows):
    model = jaxem.Mixture(jaxem.Gaussian("full"), 2, mixing="fixed")
    start = model.init(jax.random.key(0), rows)._replace(weights=jnp.array([0.25, 0.75]))
    result = jaxem.fit(model, rows, start)
    np.testing.assert_array_equal(result.params.weights, [0.25, 0.75])
    assert jaxem.n_free_params(model, result.params) == 4 + 6
    with pytest.raises(ValueError, match="mixing"):
        jaxem.Mixture(jaxem.Gaussian("full"), 2, mixing="equal")


def test_a_spread_that_is_no_share_is_named():
    for spread in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="start_spread: expected a number of at least 0 and at most 1"):
            jaxem.Mixture(jaxem.Gaussian(), 2, start_spread=spread)
