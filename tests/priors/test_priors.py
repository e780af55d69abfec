"""Conjugate priors: closed forms, scipy's densities, and the cure for collapse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_data as data
from scipy.stats import beta, dirichlet, gamma, invwishart, multivariate_normal

import jaxem
from jaxem import GaussianParams, MixtureParams, PoissonParams, Status

ONE = np.ones(1)


def _fit(model, x, **options):
    return jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=1, tol=1e-14, **options).best


def _difference(model, a, b):
    return float(model.log_prior(a) - model.log_prior(b))


def test_a_normal_inverse_wishart_prior(float64):
    """Posterior mode of one normal, and the density's logarithm up to its constant."""
    x = data.groups(60, 2, 1)
    n, d = x.shape
    kappa, of_cov, mean0, cov0 = 3.0, 9.0, np.array([1.0, -1.0]), np.array([[2.0, 0.3], [0.3, 1.0]])
    believed = MixtureParams(ONE, GaussianParams(mean0[None], cov0[None]))
    model = jaxem.WithPrior(jaxem.gaussian_mixture(1), believed, MixtureParams(0.0, GaussianParams(kappa, of_cov)))
    got = _fit(model, x).params.components
    mean = (x.sum(0) + kappa * mean0) / (n + kappa)
    scatter = (x - mean).T @ (x - mean) + kappa * np.outer(mean - mean0, mean - mean0) + of_cov * cov0
    assert np.allclose(got.mean[0], mean)
    assert np.allclose(got.cov[0], scatter / (n + of_cov))

    def log_density(mean, cov):
        density = invwishart.logpdf(cov, of_cov - d - 2, of_cov * cov0)
        return density + multivariate_normal.logpdf(mean, mean0, cov / kappa)

    a, b = (mean0, cov0), (np.array([0.0, 2.0]), np.array([[1.0, -0.2], [-0.2, 3.0]]))
    params = [MixtureParams(ONE, GaussianParams(m[None], c[None])) for m, c in (a, b)]
    assert np.isclose(_difference(model, *params), log_density(*a) - log_density(*b))
    assert model.log_prior(params[0]) == 0


def test_a_dirichlet_prior_on_weights(float64):
    alpha = np.array([3.0, 2.0])
    strength = alpha.sum() - 2
    start = jaxem.poisson_mixture(2).init(jax.random.key(0), data.counts())
    believed = start._replace(weights=(alpha - 1) / strength)
    model = jaxem.WithPrior(jaxem.poisson_mixture(2), believed, MixtureParams(strength, PoissonParams(0.0)))
    other = start._replace(weights=jnp.array([0.3, 0.7]))
    want = dirichlet.logpdf(believed.weights, alpha) - dirichlet.logpdf([0.3, 0.7], alpha)
    assert np.isclose(_difference(model, believed, other), want)


def test_a_gamma_prior_on_a_rate(float64):
    x, (a, b) = data.counts(), (5.0, 2.0)
    believed = MixtureParams(ONE, PoissonParams(np.array([(a - 1) / b])))
    model = jaxem.WithPrior(jaxem.poisson_mixture(1), believed, b)
    best = _fit(model, x)
    assert np.isclose(best.params.components.rate[0], (x.sum() + a - 1) / (len(x) + b))
    mode = gamma.logpdf((a - 1) / b, a, scale=1 / b)
    want = gamma.logpdf(best.params.components.rate[0], a, scale=1 / b) - mode
    assert np.isclose(best.objective - best.log_lik, want)


def test_a_beta_prior_on_probabilities(float64):
    x, (a, b) = data.bits(), (3.0, 4.0)
    strength = a + b - 2
    believed = MixtureParams(ONE, jaxem.BernoulliParams(np.full((1, 4), (a - 1) / strength)))
    model = jaxem.WithPrior(jaxem.bernoulli_mixture(1), believed, strength)
    best = _fit(model, x)
    assert np.allclose(best.params.components.prob[0], (x.sum(0) + a - 1) / (len(x) + strength))
    other = believed._replace(components=jaxem.BernoulliParams(np.full((1, 4), 0.8)))
    want = 4 * (beta.logpdf((a - 1) / strength, a, b) - beta.logpdf(0.8, a, b))
    assert np.isclose(_difference(model, believed, other), want)


def test_a_dirichlet_prior_on_the_rows_of_a_chain(float64):
    x = data.code_sequences()
    plain = jaxem.categorical_hmm(2, 3)
    start = plain.init(jax.random.key(0), x)
    model = jaxem.WithPrior(plain, start, 4.0)
    resp = plain.e_step(start, x).resp
    moved = model.m_step(resp, x).transition
    counts = resp.transitions.sum(0) + 4.0 * start.transition
    assert np.allclose(moved, counts / counts.sum(1, keepdims=True))


FAMILIES = {
    "bernoulli": (jaxem.bernoulli_mixture(2), data.bits),
    "categorical": (jaxem.categorical_mixture(2, (3, 2, 4)), data.codes),
    "multinomial": (jaxem.multinomial_mixture(2), data.table),
    "poisson": (jaxem.poisson_mixture(2), data.counts),
    "poisson-exposure": (jaxem.poisson_mixture(2, exposure=True), data.exposed_counts),
    "geometric": (jaxem.geometric_mixture(2), data.failures),
    "exponential": (jaxem.exponential_mixture(2), data.times),
    "gamma": (jaxem.gamma_mixture(2), data.times),
    "log-normal": (jaxem.log_normal_mixture(2), data.times),
    "von-mises-fisher": (jaxem.von_mises_fisher_mixture(2), data.directions),
    "gaussian-full": (jaxem.gaussian_mixture(2), lambda: data.groups(90, 2)),
    "gaussian-tied": (jaxem.gaussian_mixture(2, "tied"), lambda: data.groups(90, 2)),
    "gaussian-diag": (jaxem.gaussian_mixture(2, "diag"), lambda: data.groups(90, 2)),
    "gaussian-spherical": (jaxem.gaussian_mixture(2, "spherical"), lambda: data.groups(90, 2)),
    "gaussian-spherical-tied": (jaxem.gaussian_mixture(2, "spherical_tied"), lambda: data.groups(90, 2)),
    "missing": (jaxem.gaussian_mixture(2, "diag", missing=True), lambda: data.with_missing(data.groups(90, 2))),
    "grouped": (jaxem.Mixture(jaxem.Repeated(jaxem.Poisson()), 2), data.grouped_counts),
    "hmm": (jaxem.poisson_hmm(2), data.count_sequences),
    "mixed": (
        jaxem.Mixture(jaxem.Product((jaxem.Gaussian("diag"), jaxem.Poisson())), 2),
        lambda: (data.groups(90, 2), data.counts()),
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_mode_of_a_prior_is_where_it_says(float64, name):
    """Pseudo-statistics by themselves lead back to the params that they came from, and no other params score more."""
    model, make = FAMILIES[name]
    params = model.init(jax.random.key(0), make())
    strength = jax.tree.map(lambda _: jnp.asarray(3.0), params)
    stats = model.pseudo_statistics(params, strength)
    back = model.maximize(stats, params)
    same = jax.tree.map(lambda a, b: np.allclose(a, b, rtol=1e-6, atol=1e-9), back, params)
    assert all(jax.tree.leaves(same)), same
    other = model.init(jax.random.key(1), make())
    assert model.expected_log_joint(params, stats) >= model.expected_log_joint(other, stats)


@pytest.mark.parametrize("covariance", ["tied", "diag"])
def test_strength_zero_changes_nothing(dtype, covariance):
    x = np.asarray(jaxem.datasets.old_faithful(), dtype)
    plain = jaxem.gaussian_mixture(2, covariance)
    start = plain.init(jax.random.key(0), x)
    want = jaxem.fit(plain, x, start)
    got = jaxem.fit(jaxem.weak_prior(plain, x, strength=0.0), x, start)
    assert np.isclose(got.log_lik, want.log_lik, rtol=1e-6 if dtype == "float32" else 1e-13)
    assert float(got.objective) == float(got.log_lik)


def test_a_new_strength_compiles_nothing():
    x = jaxem.datasets.old_faithful()
    model = jaxem.weak_prior(jaxem.gaussian_mixture(2, "diag"), x)
    start = model.init(jax.random.key(0), x)
    fits = [jaxem.fit(model.__class__(model.model, model.params, s), x, start) for s in (1.0, 5.0)]
    assert float(fits[0].log_lik) > float(fits[1].log_lik)


#: Two rows that nearly coincide, far from the others: a component of its own collapses onto them.
PAIR = np.concatenate([data.groups(60, 2, 1), [[30.0, 30.0], [30.0, 30.0001]]])


@pytest.mark.parametrize(
    ("covariance", "dtype"), [("full", "float32"), ("diag", "float64"), ("spherical", "float32")], indirect=["dtype"]
)
def test_a_weak_prior_cures_collapse(dtype, covariance):
    x = PAIR.astype(dtype)
    plain = jaxem.gaussian_mixture(2, covariance)
    start = plain.m_step(np.eye(2)[(np.arange(62) >= 60).astype(int)] * 0.999 + 0.0005, x)
    assert jaxem.fit(plain, x, start).status == Status.DEGENERATE
    model = jaxem.weak_prior(plain, x)
    fit = jaxem.fit(model, x, start, tol=0.0, max_steps=100)
    assert fit.status in (Status.CONVERGED, Status.MAX_STEPS)
    assert jaxem.fit(model, x, fit.params, max_steps=100).converged
    assert not fit.degenerate.any()
    history = np.asarray(fit.history)[: int(fit.n_steps)]
    slack = 1e-6 if dtype == "float32" else 1e-12
    assert (np.diff(history) >= -slack * np.abs(history[1:])).all()


def test_priors_are_in_the_data_s_units(float64):
    """The same belief in other units gives the same fit."""
    x = np.asarray(jaxem.datasets.old_faithful())
    plain = jaxem.gaussian_mixture(2)
    params = plain.init(jax.random.key(0), x)
    scale, shift = np.array([1e3, 1e-3]), np.array([5.0, -7.0])
    moved = params._replace(
        components=GaussianParams(
            params.components.mean * scale + shift, params.components.cov * scale[:, None] * scale
        )
    )
    a = jaxem.fit(jaxem.WithPrior(plain, params, 5.0), x, params)
    b = jaxem.fit(jaxem.WithPrior(plain, moved, 5.0), x * scale + shift, moved)
    assert np.isclose(a.objective - a.log_lik, b.objective - b.log_lik, rtol=1e-8)
    assert np.allclose(a.params.weights, b.params.weights)


def test_priors_far_from_the_origin_in_float32():
    x = np.asarray(jaxem.datasets.old_faithful(), np.float64)
    plain = jaxem.gaussian_mixture(2)
    near = jaxem.fit_restarts(jaxem.weak_prior(plain, x), x, jax.random.key(0), n_restarts=4).best
    far = jaxem.fit_restarts(jaxem.weak_prior(plain, x + 1e5), x + 1e5, jax.random.key(0), n_restarts=4).best
    assert np.isclose(near.objective, far.objective, rtol=1e-4)


def test_models_without_pseudo_statistics_say_so():
    x = data.line_targets()
    model = jaxem.linear_regression_mixture(2)
    start = model.init(jax.random.key(0), x)
    with pytest.raises(NotImplementedError, match="pseudo_statistics"):
        jaxem.fit(jaxem.WithPrior(model, start), x, start)
    with pytest.raises(ValueError, match="strength: expected"):
        jaxem.WithPrior(jaxem.poisson_mixture(1), None, -1.0)
