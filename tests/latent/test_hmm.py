"""Hidden Markov models: exact inference against enumeration, fits against hmmlearn, and what the edges do."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hmmlearn import hmm as hmmlearn
from scipy.stats import multivariate_normal, poisson

import jaxem
from jaxem.engine.result import Status
from jaxem.latent import forward_backward, markov

RNG_SEED = 3


def random_chain(rng, k):
    return rng.dirichlet(np.ones(k)), rng.dirichlet(np.ones(k), k)


def gaussian_params(rng, k, d):
    a = rng.standard_normal((k, d, d))
    cov = a @ a.swapaxes(1, 2) + np.eye(d)
    return jaxem.HMMParams(*random_chain(rng, k), jaxem.GaussianParams(2 * rng.standard_normal((k, d)), cov))


def ragged(rng, lengths, d, k=3):
    """Sequences of a sticky chain with separated states, padded with NaN: (values [n, t, d], lengths [n])."""
    values = np.full((len(lengths), max(lengths), d), np.nan)
    for row, length in zip(values, lengths, strict=True):
        state = np.repeat(rng.integers(k, size=length // 4 + 1), 4)[:length]
        row[:length] = 3.0 * state[:, None] + rng.standard_normal((length, d)) * (1 + 0.3 * state[:, None])
    return values, np.array(lengths)


def enumerate_paths(params, log_density):
    """(log p(x), marginals, pairwise marginals, best path, its log joint) of one sequence, from all k^t paths."""
    t, k = log_density.shape
    paths = np.array(list(itertools.product(range(k), repeat=t)))
    with np.errstate(divide="ignore"):
        joint = np.log(params.initial)[paths[:, 0]] + log_density[np.arange(t), paths].sum(1)
        joint = joint + np.log(params.transition)[paths[:, :-1], paths[:, 1:]].sum(1)
    log_norm = np.logaddexp.reduce(joint)
    hot = np.eye(k)[paths]
    share = np.exp(joint - log_norm)
    both = np.einsum("p,pti,ptj->tij", share, hot[:, :-1], hot[:, 1:])
    return log_norm, np.einsum("p,pti->ti", share, hot), both, paths[joint.argmax()], joint.max()


@pytest.mark.parametrize("method", ["scan", "associative_scan"])
def test_inference_equals_enumeration(float64, method):
    """Every answer about the hidden states, for ragged sequences and forbidden transitions."""
    rng = np.random.default_rng(RNG_SEED)
    params = gaussian_params(rng, 3, 2)
    params.transition[0] = [0.6, 0.4, 0.0]
    values, lengths = ragged(rng, [6, 1, 4], 2)
    model = jaxem.HMM(jaxem.Gaussian("full"), 3, method=method)
    x = (values, lengths)
    log_prob, resp = np.asarray(model.log_prob(params, x)), model.e_step(params, x).resp
    posterior, both, path = model.posterior(params, x), model.pairwise(params, x), model.decode(params, x)
    filtered, score = model.filtered(params, x), jaxem.Hard(model).log_prob(params, x)
    for i, n in enumerate(lengths):
        normals = [multivariate_normal(m, c) for m, c in zip(*params.emissions, strict=True)]
        density = np.stack([normal.logpdf(values[i, :n]).reshape(n) for normal in normals], 1)
        expected = enumerate_paths(params, density)
        np.testing.assert_allclose(log_prob[i], expected[0], rtol=1e-12)
        np.testing.assert_allclose(posterior[i, :n], expected[1], atol=1e-12)
        np.testing.assert_allclose(both[i, : n - 1], expected[2], atol=1e-12)
        np.testing.assert_allclose(resp.transitions[i], expected[2].sum(0), atol=1e-12)
        np.testing.assert_array_equal(path[i, :n], expected[3])
        np.testing.assert_allclose(score[i], expected[4], rtol=1e-12)
        for s in range(n):
            np.testing.assert_allclose(filtered[i, s], enumerate_paths(params, density[: s + 1])[1][-1], atol=1e-12)
        assert not np.asarray(posterior[i, n:]).any()
        assert not np.asarray(both[i, n - 1 :]).any()
        assert (np.asarray(path[i, n:]) == -1).all()


def hmmlearn_twin(params, n_steps, x, lengths):
    k = len(params.initial)
    twin = hmmlearn.GaussianHMM(
        k,
        "full",
        n_iter=n_steps,
        tol=-np.inf,
        init_params="",
        covars_prior=0,
        covars_weight=0,
        means_weight=0,
        min_covar=0,
    )
    twin.startprob_, twin.transmat_ = params.initial, params.transition
    twin.means_, twin.covars_ = params.emissions.mean, params.emissions.cov
    return twin.fit(x, lengths)


def test_twenty_steps_equal_hmmlearn(float64):
    rng = np.random.default_rng(RNG_SEED)
    values, lengths = ragged(rng, [60, 1, 33, 2, 60, 47], 2)
    start = gaussian_params(rng, 3, 2)
    flat = np.concatenate([row[:n] for row, n in zip(values, lengths, strict=True)])
    twin = hmmlearn_twin(start, 20, flat, lengths)
    fit = jaxem.fit(jaxem.gaussian_hmm(3), (values, lengths), start, tol=0.0, max_steps=20)
    assert fit.n_steps == 20
    np.testing.assert_allclose(fit.params.initial, twin.startprob_, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(fit.params.transition, twin.transmat_, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(fit.params.emissions.mean, twin.means_, rtol=1e-6)
    np.testing.assert_allclose(fit.params.emissions.cov, twin.covars_, rtol=1e-6)
    np.testing.assert_allclose(fit.log_lik, twin.score(flat, lengths), rtol=1e-10)


def test_what_lies_beyond_a_length_is_ignored(float64):
    """NaN, infinities and other padding give the same fit; so do chunks, and a weight of 2 is the sequence twice."""
    rng = np.random.default_rng(RNG_SEED)
    values, lengths = ragged(rng, [20, 1, 13, 20, 7, 16], 2)
    model = jaxem.gaussian_hmm(2)
    start = model.init(jax.random.key(0), (values, lengths))
    reference = jaxem.fit(model, (values, lengths), start, max_steps=5)
    for filler in (np.inf, -1e30, 0.0):
        filled = np.where(np.isnan(values), filler, values)
        other = jaxem.fit(model, (filled, lengths), start, max_steps=5)
        jax.tree.map(np.testing.assert_array_equal, reference, other)
    chunked = jaxem.fit(model, (values, lengths), start, max_steps=5, chunk_size=2)
    np.testing.assert_allclose(chunked.log_lik, reference.log_lik, rtol=1e-12)
    twice = np.array([0, 1, 2, 3, 4, 5, 5])
    repeated = jaxem.fit(model, (values[twice], lengths[twice]), start, max_steps=5)
    weights = np.array([1.0, 1, 1, 1, 1, 2])
    weighted = jaxem.fit(model, (values, lengths), start, max_steps=5, weights=weights)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), repeated.params, weighted.params)


def test_one_sequence_is_a_row_without_its_axis(float64):
    rng = np.random.default_rng(RNG_SEED)
    x = ragged(rng, [30], 2)[0][0]
    model, params = jaxem.gaussian_hmm(3), gaussian_params(rng, 3, 2)
    assert model.log_prob(params, x).shape == (1,)
    for name in ("posterior", "filtered", "pairwise", "decode", "predict", "forecast"):
        one, many = (np.asarray(getattr(model, name)(params, each)) for each in (x, x[None]))
        assert many.shape == (1, *one.shape), name
        np.testing.assert_array_equal(one, many[0])
        inside_jit = jax.jit(lambda p, x, name=name: getattr(model, name)(p, x))(params, x)
        np.testing.assert_array_equal(one, inside_jit)


def test_forecasts(float64):
    """One step ahead is the chain rule of log p(x); the predictive densities add up to 1; far ahead is stationary."""
    rng = np.random.default_rng(RNG_SEED)
    x = rng.integers(0, 4, (3, 12)).astype(float)
    model = jaxem.categorical_hmm(3, 4)
    params = model.init(jax.random.key(0), x)
    lengths = np.array([12, 5, 1])
    ahead = model.forecast(params, (x, lengths), 300)
    np.testing.assert_allclose(ahead.sum(-1), 1, rtol=1e-12)
    np.testing.assert_allclose(ahead[:, -1], np.tile(markov.stationary(params.transition), (3, 1)), rtol=1e-9)
    symbols = np.stack([model.forecast_log_prob(params, (x, lengths), np.full((3, 2), float(s))) for s in range(4)])
    np.testing.assert_allclose(np.exp(symbols).sum(0), 1, rtol=1e-12)
    longer = np.concatenate([x[:, :5], np.full((3, 1), 2.0)], 1)
    gain = model.log_prob(params, longer) - model.log_prob(params, x[:, :5])
    np.testing.assert_allclose(model.forecast_log_prob(params, x[:, :5], longer[:, 5:])[:, 0], gain, rtol=1e-10)


def test_long_sequence(dtype):
    """t = 100,000: neither overflow nor loss, by both methods, against a recursion in extended precision."""
    rng = np.random.default_rng(RNG_SEED)
    t, transition = 100_000, np.array([[0.99, 0.01], [0.03, 0.97]])
    x = rng.poisson(np.repeat(rng.choice([2.0, 9.0], t // 50), 50)).astype(dtype)
    params = jaxem.HMMParams(np.array([0.5, 0.5]), transition, jaxem.PoissonParams(np.array([2.0, 9.0])))
    density = poisson.pmf(x[:, None], [2.0, 9.0]).astype(np.longdouble)
    state, expected = np.array([0.5, 0.5], np.longdouble), np.longdouble(0)
    for row in density:
        state = state * row
        expected += np.log(state.sum())
        state = state / state.sum() @ transition
    tolerance = 2e-6 if dtype == "float32" else 1e-12
    for method in ("scan", "associative_scan"):
        model = jaxem.HMM(jaxem.Poisson(), 2, method=method)
        np.testing.assert_allclose(model.log_prob(params, x)[0], float(expected), rtol=tolerance)
        posterior = np.asarray(model.posterior(params, x))
        np.testing.assert_allclose(posterior.sum(-1), 1, atol=10 * tolerance)


@pytest.mark.parametrize("method", ["scan", "associative_scan"])
def test_paths_that_fall_out_of_the_dtype_are_not_lost(dtype, method):
    """A chain that never moves is a mixture of sequences: the one that is behind by e^1000 half-way may still win."""
    log_density = np.zeros((2000, 1, 2), dtype)
    log_density[:500, 0, 0], log_density[500:, 0, 1] = 2.0, 2.0
    chain = np.array([0.5, 0.5], dtype), np.eye(2, dtype=dtype), log_density
    out = jax.jit(lambda *chain: forward_backward.smooth(*chain, None, method))(*chain)
    np.testing.assert_allclose(out.log_norm, [3000 + np.log(0.5)], rtol=1e-6)
    np.testing.assert_allclose(out.posterior[:, 0, 1], 1.0)
    lanes = jax.jit(jax.vmap(lambda a: forward_backward.smooth(a, *chain[1:], None, method).log_norm))
    np.testing.assert_allclose(
        lanes(np.array([[0.5, 0.5], [1.0, 0.0]], dtype))[:, 0], [3000 + np.log(0.5), 1000], rtol=1e-6
    )


def test_derivatives_equal_those_of_the_plain_recursion(float64):
    """First and second derivatives of log p(x), in forward and in reverse mode."""
    rng = np.random.default_rng(RNG_SEED)
    chain = (*random_chain(rng, 3), rng.standard_normal((5, 2, 3)))

    def plain(initial, transition, log_density):
        state = initial * jnp.exp(log_density[0])
        for row in log_density[1:]:
            state = (state @ transition) * jnp.exp(row)
        return jnp.log(state.sum(-1)).sum()

    def ours(*chain):
        return forward_backward.smooth(*chain, None, "scan").log_norm.sum()

    for derivative in (jax.grad, jax.jacfwd, jax.hessian):
        ours_and_plain = [jax.jit(derivative(f, argnums=(0, 1, 2)))(*chain) for f in (ours, plain)]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), *ours_and_plain)


def test_forbidden_transitions_stay_forbidden(float64):
    """Zeros of a start stay zeros under EM; with `allowed` also in random starts and gradient fits."""
    rng = np.random.default_rng(RNG_SEED)
    x = ragged(rng, [40, 40, 40, 40], 1)[0]
    allowed = np.triu(np.ones((3, 3), bool))
    model = jaxem.gaussian_hmm(3, allowed=allowed)
    start = model.init(jax.random.key(1), x)
    assert (np.asarray(start.transition) > 0).tolist() == allowed.tolist()
    em = jaxem.fit(jaxem.gaussian_hmm(3), x, start, max_steps=30)
    gradient = jaxem.fit(model, x, start, algorithm=jaxem.Gradient(optax.adam(0.05)), max_steps=30)
    for fit in (em, gradient):
        assert not np.asarray(fit.params.transition)[~allowed].any()
        np.testing.assert_allclose(fit.params.transition.sum(-1), 1, rtol=1e-12)
        assert fit.log_lik > model.log_prob(start, x).sum()
    assert jaxem.n_free_params(model, start) == 2 + (2 + 1 + 0) + 3 + 3
    with pytest.raises(ValueError, match="is not 0 where it is not allowed"):
        jaxem.fit(model, x, start._replace(transition=np.full((3, 3), 1 / 3)))


def test_a_state_never_visited_keeps_its_row(float64):
    x = np.array([[0.0, 1, 0, 2, 1, 0], [1, 0, 1, 0, 0, 2]])
    far = jaxem.PoissonParams(np.array([0.5, 1.5, 1e6]))
    start = jaxem.HMMParams(np.array([0.5, 0.5, 0.0]), np.full((3, 3), 1 / 3), far)
    fit = jaxem.fit(jaxem.poisson_hmm(3), x, start, max_steps=500, tol=1e-4)
    np.testing.assert_allclose(fit.params.transition.sum(-1), 1, rtol=1e-12)
    np.testing.assert_allclose(fit.params.transition[2], 1 / 3)
    assert fit.params.emissions.rate[2] == 1e6
    assert fit.status == Status.EMPTY


def test_an_impossible_observation(dtype):
    """Log-likelihood -inf and finite posteriors; the fit says NONFINITE and returns its start."""
    prob = np.array([[[0.5, 0.5, 0.0]], [[0.9, 0.1, 0.0]]])
    params = jaxem.HMMParams(np.array([0.5, 0.5]), np.full((2, 2), 0.5), jaxem.CategoricalParams(prob))
    x = np.array([[0.0, 1, 2, 0], [0, 1, 1, 0]])
    model = jaxem.categorical_hmm(2, 3)
    log_prob = np.asarray(model.log_prob(params, x))
    assert log_prob[0] == -np.inf
    assert np.isfinite(log_prob[1])
    np.testing.assert_allclose(model.posterior(params, x).sum(-1), 1, rtol=1e-5)
    fit = jaxem.fit(model, x, params)
    assert fit.status == Status.NONFINITE
    np.testing.assert_allclose(fit.params.transition, 0.5)


def test_a_collapsed_state_is_degenerate(float64):
    """A state on two equal values: the likelihood has no maximum there, whatever the rest does."""
    rng = np.random.default_rng(RNG_SEED)
    x = rng.standard_normal((1, 60, 1))
    x[0, [20, 40]] = 5.0
    start = jaxem.HMMParams(
        np.array([1.0, 0.0]),
        np.array([[0.95, 0.05], [0.5, 0.5]]),
        jaxem.GaussianParams(np.array([[0.0], [5.0]]), np.array([[[1.0]], [[1e-6]]])),
    )
    fit = jaxem.fit(jaxem.gaussian_hmm(2), x, start)
    assert fit.status == Status.DEGENERATE
    assert fit.degenerate.tolist() == [False, True]


def test_the_stationary_start(float64):
    """params.initial is what the transitions keep, the objective never falls, and the optimum's gradient is 0."""
    rng = np.random.default_rng(RNG_SEED)
    x = rng.poisson(np.where(np.cumsum(rng.random((30, 4)) < 0.3, 1) % 2, 2.0, 9.0)).astype(float)
    model = jaxem.poisson_hmm(3, initial="stationary")
    best, fits = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=4, tol=1e-13)
    assert best.converged
    np.testing.assert_allclose(best.params.initial @ best.params.transition, best.params.initial, rtol=1e-9, atol=1e-14)
    assert (np.diff(fits.history, axis=1) >= -1e-9)[np.isfinite(fits.history[:, 1:])].all()

    def log_lik(free):
        return model.log_prob(jaxem.constrain(model, free), x).sum()

    gradient = jax.grad(log_lik)(jaxem.unconstrain(model, best.params))
    assert max(abs(leaf).max() for leaf in jax.tree.leaves(gradient)) < 1e-3
    free = jaxem.fit(jaxem.poisson_hmm(3), x, best.params)
    assert free.log_lik >= best.log_lik


def test_the_stationary_m_step_reaches_a_maximum(float64):
    """From any incumbent, repeated: nothing near the fixed point has a larger expected log p(z)."""
    rng = np.random.default_rng(RNG_SEED)
    step, objective = jax.jit(markov.stationary_m_step), jax.jit(markov.chain_objective)
    for _ in range(5):
        first, counts = 5 * rng.random(4), 4 * rng.random((4, 4))
        counts[0, 1] = 0
        a = rng.dirichlet(np.ones(4), 4)
        value = objective(first, counts, a)
        for _ in range(40):
            a = step(first, counts, a)
            new = objective(first, counts, a)
            assert new >= value - 1e-12
            value = new
        for _ in range(200):
            near = np.asarray(a) * np.exp(1e-2 * rng.standard_normal((4, 4)))
            assert objective(first, counts, near / near.sum(1, keepdims=True)) <= value + 1e-10


def test_a_fixed_initial_distribution(float64):
    x = np.array([[0.0, 1, 0, 9, 8, 11], [10, 9, 1, 0, 0, 2]])
    start = jaxem.HMMParams(np.array([0.3, 0.7]), np.full((2, 2), 0.5), jaxem.PoissonParams(np.array([1.0, 8.0])))
    model = jaxem.poisson_hmm(2, initial="fixed")
    fit = jaxem.fit(model, x, start)
    np.testing.assert_array_equal(fit.params.initial, start.initial)
    assert jaxem.n_free_params(model, start) == 4


@pytest.mark.slow
def test_gradient_reaches_what_em_reaches(float64):
    rng = np.random.default_rng(RNG_SEED)
    x = rng.poisson(np.where(np.arange(90) // 15 % 2, 2.0, 9.0)).astype(float)
    model = jaxem.poisson_hmm(2)
    start = model.init(jax.random.key(0), x)
    em = jaxem.fit(model, x, start)
    gradient = jaxem.fit(model, x, start, algorithm=jaxem.Gradient(optax.lbfgs()), max_steps=300)
    np.testing.assert_allclose(gradient.log_lik, em.log_lik, rtol=1e-6)


def test_samples_give_the_model_back(float64):
    params = jaxem.HMMParams(
        np.array([0.7, 0.3]), np.array([[0.9, 0.1], [0.2, 0.8]]), jaxem.PoissonParams(np.array([2.0, 12.0]))
    )
    model = jaxem.poisson_hmm(2)
    states, x = model.sample_joint(params, jax.random.key(0), 400, t=50)
    fit = jaxem.fit(model, x, params)
    np.testing.assert_allclose(fit.params.transition, params.transition, atol=0.01)
    np.testing.assert_allclose(fit.params.emissions.rate, params.emissions.rate, rtol=0.01)
    np.testing.assert_allclose(fit.params.initial, params.initial, atol=0.08)
    assert (np.asarray(model.decode(params, x)) == states).mean() > 0.95


def test_float32_is_near_float64():
    """Data far from 0, in float32: the log-likelihood to 1e-5, the params to 1e-3 of float64's."""
    rng = np.random.default_rng(RNG_SEED)
    x = (ragged(rng, [50, 31, 50, 44], 2)[0] + 1e4, np.array([50, 31, 50, 44]))
    with jax.enable_x64(True):
        model = jaxem.gaussian_hmm(3)
        start = model.init(jax.random.key(0), x)
        wide = jaxem.fit(model, x, start, max_steps=25, tol=0.0)
        wide = jax.tree.map(np.asarray, wide)
        start = jax.tree.map(np.asarray, start)
    narrow = jaxem.fit(model, x, start, max_steps=25, tol=0.0)
    np.testing.assert_allclose(narrow.log_lik, wide.log_lik, rtol=1e-5)
    np.testing.assert_allclose(narrow.params.transition, wide.params.transition, atol=1e-3)
    np.testing.assert_allclose(narrow.params.emissions.cov, wide.params.emissions.cov, rtol=1e-2, atol=1e-2)


def test_viterbi_training(float64):
    """Hard EM of a chain: log p(x, best path) never falls."""
    rng = np.random.default_rng(RNG_SEED)
    model = jaxem.Hard(jaxem.poisson_hmm(2))
    x = rng.poisson(np.where(np.arange(90) // 15 % 2, 2.0, 9.0)).astype(float)
    fit = jaxem.fit(model, x, model.init(jax.random.key(0), x))
    history = fit.history[: int(fit.n_steps)]
    assert (np.diff(history) >= -1e-9).all()
    assert fit.log_lik <= jaxem.poisson_hmm(2).log_prob(fit.params, x).sum()


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (jaxem.gaussian_hmm(2), np.zeros(5), r"x\[:, None\]"),
        (jaxem.gaussian_hmm(2), np.zeros((2, 3, 4, 5)), r"got shape \(2, 3, 4, 5\)"),
        (jaxem.poisson_hmm(2), np.zeros((2, 3, 4)), r"sequences of numbers \[n, t\]"),
        (jaxem.poisson_hmm(2), (np.zeros((2, 3)), [3]), "expected 2 lengths"),
        (jaxem.poisson_hmm(2), (np.zeros((2, 3)), [3, 4]), "lengths from 1 to 3; got 4 for sequence 1"),
        (jaxem.poisson_hmm(2), (np.zeros((2, 3)), [0, 3]), "got 0 for sequence 0"),
        (jaxem.poisson_hmm(2), np.array([1.0, -1.0, 2.0]), "x"),
        (jaxem.poisson_hmm(2), np.array([[1.0, np.nan], [2.0, 3.0]]), "the first is row 0"),
        (jaxem.poisson_hmm(5), np.array([1.0, 2.0]), "at least as many observations as states"),
    ],
)
def test_bad_data(model, x, message):
    with pytest.raises(ValueError, match=message):
        model.init(jax.random.key(0), x)


def test_a_value_outside_the_support_is_named_by_its_place():
    x = np.ones((3, 10))
    x[1, 4] = -2
    with pytest.raises(ValueError, match=r"counts .*; time 4 of sequence 1 holds -2. \(1 of 30"):
        jaxem.fit_restarts(jaxem.poisson_hmm(2), x, jax.random.key(0), n_restarts=2)
    with pytest.raises(ValueError, match=r"categories coded from 0 to 2; time 4 holds -2"):
        jaxem.fit_restarts(jaxem.categorical_hmm(2, 3), x[1], jax.random.key(0), n_restarts=2)


def test_bad_options():
    with pytest.raises(ValueError, match="initial: expected 'free'"):
        jaxem.poisson_hmm(2, initial="uniform")
    with pytest.raises(ValueError, match="method: expected one of"):
        jaxem.HMM(jaxem.Poisson(), 2, method="parallel")
    with pytest.raises(ValueError, match="n_states"):
        jaxem.poisson_hmm(0)
    with pytest.raises(ValueError, match="allowed"):
        jaxem.poisson_hmm(2, allowed=[[True, False], [False, False]])
    start = jaxem.HMMParams(np.full(3, 1 / 3), np.full((3, 3), 1 / 3), jaxem.PoissonParams(np.ones(2)))
    with pytest.raises(ValueError, match="transition"):
        jaxem.fit(jaxem.poisson_hmm(2), np.arange(5.0), start._replace(initial=np.full(2, 0.5)))
