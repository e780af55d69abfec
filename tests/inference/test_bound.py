"""log-likelihood = ELBO(q) + KL(q || posterior), for any q whatever."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small_data import groups

import jaxem
from jaxem.contract.model import Model
from jaxem.contract.posterior import posterior_of

N, K = 24, 3
X = groups(N, 2)
MODELS = {covariance: jaxem.gaussian_mixture(K, covariance) for covariance in ("full", "spherical_tied")}


@jax.jit
def parts(model, params, resp, weights):
    log_lik = (weights * model.log_prob(params, X)).sum()
    return log_lik, jaxem.elbo(model, params, resp, X, weights), jaxem.kl_gap(model, params, resp, X, weights)


shares = arrays(np.float64, (N, K), elements=st.floats(0, 1)).map(
    # Rows that sum to 1, entries of exactly 0 included; a row of zeros becomes an even one.
    lambda a: np.where(a.sum(1, keepdims=True) > 1e-6, a, 1) / np.where(a.sum(1) > 1e-6, a.sum(1), K)[:, None]
)
sample_weights = arrays(np.float64, N, elements=st.sampled_from([0.0, 0.5, 1.0, 7.0]))


@pytest.mark.parametrize("covariance", MODELS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(resp=shares, weights=sample_weights, seed=st.integers(0, 5))
def test_bound_plus_gap_is_the_log_likelihood(covariance, resp, weights, seed):
    with jax.enable_x64(True):
        model = MODELS[covariance]
        params = model.init(jax.random.key(seed), X)
        log_lik, bound, gap = parts(model, params, resp, weights)
    scale = 1 + abs(float(log_lik)) + float(gap)
    assert abs(float(log_lik - bound - gap)) <= 1e-12 * scale
    assert float(gap) >= -1e-12 * scale


def test_the_gap_closes_at_the_e_step(dtype):
    model = MODELS["full"]
    x = X.astype(dtype)
    params = model.init(jax.random.key(0), x)
    resp, log_prob = model.e_step(params, x)
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(jaxem.elbo(model, params, resp, x), log_prob.sum(), rtol=tolerance)
    np.testing.assert_allclose(jaxem.kl_gap(model, params, resp, x), 0, atol=tolerance * abs(log_prob.sum()))


def test_the_m_step_raises_the_bound_and_the_e_step_closes_the_gap(float64):
    """EM as alternating maximisation of one function of (q, params)."""
    model = MODELS["full"]
    params = model.init(jax.random.key(1), X)
    for _ in range(5):
        resp = model.e_step(params, X).resp
        new = model.m_step(resp, X)
        assert jaxem.elbo(model, new, resp, X) >= jaxem.elbo(model, params, resp, X)
        assert jaxem.kl_gap(model, new, resp, X) >= 0
        assert model.log_prob(new, X).sum() >= jaxem.elbo(model, new, resp, X)
        params = new


def test_what_a_model_does_not_provide_is_named():
    class Bare(Model):
        pass

    with pytest.raises(NotImplementedError, match="entropy"):
        posterior_of(Bare(), jnp.ones(3)).entropy()
