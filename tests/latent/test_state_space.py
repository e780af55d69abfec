"""The linear Gaussian state space against one big normal distribution, conditioned by linear algebra."""

import jax
import numpy as np
import pytest
from small_data import walks

import jaxem

T = 7


@pytest.fixture
def params():
    rng = np.random.default_rng(0)
    half = rng.normal(size=(2, 2))
    return jaxem.StateSpaceParams(
        rng.normal(size=2), half @ half.T + np.eye(2), 0.6 * rng.normal(size=(2, 2)), rng.normal(size=(3, 2)),
        rng.normal(size=3), rng.uniform(0.2, 1.0, 3)
    )  # fmt: skip


def joint_moments(params, t):
    """Mean and covariance of (z_1, ..., z_t, x_1, ..., x_t), by running a square root of everything forward."""
    q, d = params.loadings.shape[1], len(params.offset)
    sources = q * t + d * t
    mean, root = params.mean, np.zeros((q, sources))
    root[:, :q] = np.linalg.cholesky(params.cov)
    means, roots = [], []
    for s in range(t):
        if s:
            mean, root = params.transition @ mean, params.transition @ root
            root[:, q * s : q * (s + 1)] = np.eye(q)
        means.append(mean)
        roots.append(root)
    for s in range(t):
        seen = params.loadings @ roots[s]
        seen[:, q * t + d * s : q * t + d * (s + 1)] = np.diag(np.sqrt(params.noise))
        means.append(params.loadings @ means[s] + params.offset)
        roots.append(seen)
    root = np.concatenate(roots)
    return np.concatenate(means), root @ root.T


def conditioned(params, row, t):
    """Mean and covariance of (z, x) at times 1, ..., t given the first len(row) values of x."""
    mean, cov = joint_moments(params, t)
    q = params.loadings.shape[1]
    known = np.arange(q * t, q * t + row.size)
    gain = np.linalg.solve(cov[np.ix_(known, known)], cov[known]).T
    return mean + gain @ (row.ravel() - mean[known]), cov - gain @ cov[known]


def test_smoothing_is_conditioning(params, float64):
    """Of sequences of unequal length too; what lies beyond a length may be anything."""
    x = np.random.default_rng(1).normal(size=(3, T, 3))
    lengths = np.array([T, 4, 1])
    x[1, 4:], x[2, 1:] = np.nan, 1e9
    model = jaxem.StateSpace(2)
    resp = model.e_step(params, (x, lengths)).resp
    for row, length, mean, cov, cross in zip(x, lengths, resp.mean, resp.cov, resp.cross, strict=True):
        want, full = conditioned(params, row[:length], length)
        np.testing.assert_allclose(mean[:length].ravel(), want[: 2 * length], rtol=1e-9, atol=1e-12)
        for t in range(length):
            at = slice(2 * t, 2 * t + 2)
            np.testing.assert_allclose(cov[t], full[at, at], rtol=1e-8, atol=1e-12)
        for t in range(length - 1):
            both = full[2 * t + 2 : 2 * t + 4, 2 * t : 2 * t + 2]
            np.testing.assert_allclose(cross[t], both, rtol=1e-8, atol=1e-12)


def test_forecasts_are_conditioning(params, float64):
    x, steps = np.random.default_rng(1).normal(size=(4, 3)), 3
    mean, cov = jaxem.StateSpace(2).forecast(params, x, steps)
    want, full = conditioned(params, x, 4 + steps)
    for h in range(steps):
        at = slice(2 * (4 + steps) + 3 * (4 + h), 2 * (4 + steps) + 3 * (5 + h))
        np.testing.assert_allclose(mean[h], want[at], rtol=1e-9)
        np.testing.assert_allclose(cov[h], full[at, at], rtol=1e-8)


@pytest.mark.slow
def test_em_and_gradient_reach_the_same(float64):
    import optax

    model = jaxem.StateSpace(1)
    one = jaxem.StateSpaceParams(*map(np.array, ([0.0], [[1.0]], [[0.7]], [[1.0], [-0.5]], [1.0, 2.0], [0.4, 0.3])))
    x = model.sample(one, jax.random.key(3), 10, t=20)
    start = model.init(jax.random.key(0), x)
    em = jaxem.fit(model, x, start, tol=1e-10, max_steps=5000)
    gradient = jaxem.fit(model, x, start, algorithm=jaxem.Gradient(optax.lbfgs()), tol=1e-10, max_steps=2000)
    assert em.converged
    np.testing.assert_allclose(em.log_lik, gradient.log_lik, rtol=1e-7)


def test_units_of_the_columns_do_not_matter(float64):
    x, model = walks(), jaxem.StateSpace(1)
    scale, shift = np.array([1e-4, 1.0, 1e5]), np.array([1e3, 0.0, -1e6])
    start = model.init(jax.random.key(0), x)
    moved = start._replace(
        loadings=start.loadings * scale[:, None], offset=start.offset * scale + shift, noise=start.noise * scale**2
    )
    fits = [jaxem.fit(model, x, start, max_steps=30), jaxem.fit(model, x * scale + shift, moved, max_steps=30)]
    volume = x.shape[0] * x.shape[1] * np.log(scale).sum()
    np.testing.assert_allclose(fits[1].log_lik + volume, fits[0].log_lik, rtol=1e-7)


def test_wrong_input_is_named(params):
    model = jaxem.StateSpace(2)
    with pytest.raises(ValueError, match=r"params\.loadings: expected shape \(4, 2\); got \(3, 2\)"):
        model.log_prob(params, np.zeros((5, 4)))
    with pytest.raises(ValueError, match="at least 2 observations"):
        jaxem.fit_restarts(model, np.zeros((5, 1, 3)), jax.random.key(0), n_restarts=2)
    with pytest.raises(ValueError, match="n_factors"):
        jaxem.StateSpace(0)
    with pytest.raises(ValueError, match="n_factors: expected at most the 1 columns"):
        jaxem.fit_restarts(model, np.zeros((5, 10, 1)), jax.random.key(0), n_restarts=2)
