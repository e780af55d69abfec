"""Models inside models: mixtures as emissions, mixtures of hidden Markov models, mixtures of mixtures."""

import itertools

import jax
import numpy as np
import pytest
from hmmlearn.hmm import GMMHMM, PoissonHMM
from scipy.special import logsumexp
from small_data import count_sequences, groups, vector_sequences

import jaxem


def hmm_of_mixtures():
    model = jaxem.HMM(jaxem.Mixture(jaxem.Gaussian("diag"), 2), 3)
    x = vector_sequences()
    return model, model.init(jax.random.key(0), x), x


def test_an_hmm_of_mixtures_is_that_of_hmmlearn(float64):
    model, params, x = hmm_of_mixtures()
    theirs = GMMHMM(3, 2, covariance_type="diag")
    theirs.startprob_, theirs.transmat_ = np.asarray(params.initial), np.asarray(params.transition)
    emissions = params.emissions
    theirs.weights_ = np.asarray(emissions.weights)
    theirs.means_, theirs.covars_ = (np.asarray(leaf) for leaf in emissions.components)
    theirs.n_features = 2
    scores = [theirs.score(row) for row in x]
    np.testing.assert_allclose(model.log_prob(params, x), scores, rtol=1e-9)
    posterior = theirs.predict_proba(np.concatenate(x), lengths=[len(row) for row in x])
    np.testing.assert_allclose(np.concatenate(model.posterior(params, x)), posterior, atol=1e-9)


def test_an_hmm_of_mixtures_takes_the_steps_of_one_with_a_state_per_normal(float64):
    """States (s, m) whose transitions do not depend on where within a state one comes from."""
    model, params, x = hmm_of_mixtures()
    weights = np.asarray(params.emissions.weights)
    pairs = list(itertools.product(range(3), range(2)))
    flat = jaxem.gaussian_hmm(6, "diag")
    start = jaxem.HMMParams(
        np.array([params.initial[s] * weights[s, m] for s, m in pairs]),
        np.array([[params.transition[a, s] * weights[s, m] for s, m in pairs] for a, _ in pairs]),
        jax.tree.map(lambda leaf: np.reshape(leaf, (6, 2)), params.emissions.components),
    )
    np.testing.assert_allclose(model.log_prob(params, x), flat.log_prob(start, x), rtol=1e-10)
    ours = model.m_step(model.e_step(params, x).resp, x).emissions.components
    theirs = flat.m_step(flat.e_step(start, x).resp, x).emissions
    jax.tree.map(lambda a, b: np.testing.assert_allclose(np.reshape(a, (6, 2)), b, rtol=1e-8, atol=1e-10), ours, theirs)


def test_a_mixture_of_hmms_weighs_whole_sequences(float64):
    model, x = jaxem.Mixture(jaxem.HMM(jaxem.Poisson(), 2), 2), count_sequences()
    params = model.init(jax.random.key(0), x)
    each = []
    for j in range(2):
        theirs = PoissonHMM(2)
        theirs.startprob_ = np.asarray(params.components.initial[j])
        theirs.transmat_ = np.asarray(params.components.transition[j])
        theirs.lambdas_, theirs.n_features = np.asarray(params.components.emissions.rate[j])[:, None], 1
        each.append([theirs.score(row[:, None].astype(int)) for row in x])
    joint = np.log(np.asarray(params.weights)) + np.transpose(each)
    np.testing.assert_allclose(model.log_prob(params, x), logsumexp(joint, 1), rtol=1e-9)
    posterior = np.exp(joint - logsumexp(joint, 1, keepdims=True))
    np.testing.assert_allclose(model.posterior(params, x), posterior, atol=1e-9)


def test_sequences_are_sorted_by_their_dynamics():
    """Two kinds of chains with the same rates: one that stays, one that jumps. Lengths differ."""
    rng = np.random.default_rng(0)
    jumpy = np.arange(24) % 2
    switch = rng.random((24, 80)) < np.where(jumpy, 0.7, 0.05)[:, None]
    x = rng.poisson(np.where(np.cumsum(switch, 1) % 2, 2.0, 12.0)), rng.integers(40, 81, 24)
    model = jaxem.Mixture(jaxem.HMM(jaxem.Poisson(), 2), 2)
    best, _ = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=16)
    assert best.converged
    found = np.asarray(model.predict(best.params, x))
    assert max(np.mean(found == jumpy), np.mean(found != jumpy)) == 1.0


def test_weights_and_chunks_pass_through(float64):
    model, x = jaxem.Mixture(jaxem.Mixture(jaxem.Gaussian("full"), 2), 2), groups(60, 2)
    start = model.init(jax.random.key(0), x)
    counts = np.random.default_rng(0).integers(0, 3, 60)
    weighted = jaxem.fit(model, x, start, weights=counts.astype(float), tol=0.0, max_steps=10, chunk_size=7)
    repeated = jaxem.fit(model, np.repeat(x, counts, 0), start, tol=0.0, max_steps=10)
    np.testing.assert_allclose(weighted.log_lik, repeated.log_lik, rtol=1e-9)


def test_a_collapse_inside_is_reported(float64):
    x = np.concatenate([groups(40, 2), np.tile([[3.0, 3.0]], (6, 1))])
    model = jaxem.Mixture(jaxem.Mixture(jaxem.Gaussian("full"), 2), 2)
    _, every = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=16, max_steps=500)
    cov = np.asarray(every.params.components.components.cov)
    collapsed = np.linalg.eigvalsh(cov)[..., 0].min((1, 2)) < 1e-6
    assert collapsed.any()
    assert (np.asarray(every.status)[collapsed] == jaxem.Status.DEGENERATE).all()


def test_a_start_of_the_wrong_shape_is_named():
    model, params, x = hmm_of_mixtures()
    wrong = params._replace(emissions=params.emissions._replace(weights=params.emissions.weights[:, :1]))
    with pytest.raises(ValueError, match=r"start\.weights: expected shape \(2,\)"):
        jaxem.fit(model, x, wrong)


@pytest.mark.parametrize("make", [jaxem.Mixture, jaxem.HMM])
@pytest.mark.parametrize("component", ["gaussian", jaxem.Gaussian, None])
def test_what_is_no_component_is_named(make, component):
    with pytest.raises(ValueError, match="component: expected a family such as"):
        make(component, 2)
