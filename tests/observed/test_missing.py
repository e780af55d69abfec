"""Missing entries, row noise and censored times, against marginal densities, closed forms and published numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_data as data
from ground_support import require_reached, rows_of
from references import seen_normals
from scipy.optimize import minimize_scalar
from scipy.stats import expon

import jaxem

COVARIANCES = ("full", "tied", "diag", "spherical", "diag_tied", "spherical_tied")

#: Weeks of remission of 21 leukaemia patients under 6-mercaptopurine, + where it had not ended (Freireich et al. 1963).
REMISSION = "6 6 6 6+ 7 9+ 10 10+ 11+ 13 16 17+ 19+ 20+ 22 23 25+ 32+ 32+ 34+ 35+"


def _gradient(model, params, x):
    """Of the log-likelihood per row, in unconstrained coordinates."""
    free = jaxem.unconstrain(model, params)
    slope = jax.grad(lambda u: model.log_prob(jaxem.constrain(model, u), x).mean())(free)
    return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(slope))


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_the_fit_is_a_maximum_of_the_marginal_likelihood(float64, covariance):
    x = data.with_missing(data.groups(90, 3))
    model = jaxem.gaussian_mixture(2, covariance, missing=True)
    best, _ = jaxem.fit_restarts(model, x, jax.random.key(1), n_restarts=2, tol=1e-13, max_steps=5000)
    assert best.converged
    if covariance in ("full", "tied", "diag", "spherical"):
        want = seen_normals(covariance)(best.params, x).sum()
        assert abs(float(best.log_lik) - want) < 1e-9 * abs(want)
    assert _gradient(model, best.params, jnp.asarray(x)) < 1e-5


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_without_missing_entries_it_is_the_plain_fit(float64, covariance):
    x = jaxem.datasets.old_faithful()
    plain = jaxem.gaussian_mixture(2, covariance)
    start = plain.init(jax.random.key(0), x)
    want = jaxem.fit(plain, x, start)
    got = jaxem.fit(jaxem.gaussian_mixture(2, covariance, missing=True), x, start)
    assert abs(float(got.log_lik - want.log_lik)) < 1e-6
    same = jax.tree.map(lambda a, b: np.allclose(a, b, rtol=1e-4), got.params, want.params)
    assert all(jax.tree.leaves(same)), same


def test_missing_entries_are_expected_at_the_regression_on_what_was_seen(float64):
    x = data.with_missing(data.groups(90, 3, 1))
    model = jaxem.gaussian_mixture(1, missing=True)
    best, _ = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=1)
    mean, cov = best.params.components.mean[0], best.params.components.cov[0]
    filled = np.asarray(model.conditional_mean(best.params, x))
    for row, got in zip(x, filled, strict=True):
        seen, missing = np.flatnonzero(~np.isnan(row)), np.flatnonzero(np.isnan(row))
        slope = np.linalg.solve(cov[np.ix_(seen, seen)], cov[np.ix_(seen, missing)])
        assert np.allclose(got[missing], mean[missing] + (row[seen] - mean[seen]) @ slope)
        assert (got[seen] == row[seen]).all()


def test_missing_entries_of_independent_columns_have_no_weight(float64):
    x = data.with_missing(data.bits())
    best, _ = jaxem.fit_restarts(jaxem.bernoulli_mixture(1, missing=True), x, jax.random.key(0))
    assert np.allclose(best.params.components.prob[0], np.nanmean(x, 0))
    filled = jaxem.bernoulli_mixture(1, missing=True).conditional_mean(best.params, x)
    assert np.allclose(filled, np.where(np.isnan(x), np.nanmean(x, 0), x))


def test_a_missing_observation_of_a_chain_is_summed_over(float64):
    x = data.vector_sequences()[:1, :6]
    model = jaxem.gaussian_hmm(2, "diag", missing=True)
    params = model.init(jax.random.key(0), data.vector_sequences())
    incomplete = x.copy()
    incomplete[0, 3] = np.nan
    plain = jaxem.gaussian_hmm(2, "diag")
    before, after = plain.filtered(params, x[:, :3])[0, -1], x[:, 4:]
    two_later = params.transition @ params.transition
    rest = plain.log_prob(params._replace(initial=before @ two_later), after)
    want = plain.log_prob(params, x[:, :3]) + rest
    assert np.allclose(model.log_prob(params, incomplete), want)
    assert model.decode(params, incomplete).shape == (1, 6)


def test_masked_entries_are_missing():
    x = data.with_missing(data.groups(90, 3))
    masked = np.ma.masked_invalid(np.where(np.isnan(x), np.inf, x))
    model = jaxem.gaussian_mixture(2, "diag", missing=True)
    params = model.init(jax.random.key(0), x)
    assert np.array_equal(model.log_prob(params, masked), model.log_prob(params, x))


def test_noise_that_is_next_to_nothing_changes_nothing(float64):
    x = np.asarray(jaxem.datasets.old_faithful())
    plain = jaxem.gaussian_mixture(2)
    start = plain.init(jax.random.key(0), x)
    want = jaxem.fit(plain, x, start)
    noisy = jaxem.gaussian_mixture(2, noise="diag")
    got = jaxem.fit(noisy, (x, np.full(x.shape, 1e-10)), start)
    assert abs(float(got.log_lik - want.log_lik)) < 1e-5


def test_noise_is_taken_out(float64):
    rng = np.random.default_rng(0)
    noise = rng.gamma(2.0, 1.0, (4000, 2))
    x = rng.multivariate_normal([1.0, -1.0], [[2.0, 0.8], [0.8, 1.0]], 4000) + rng.normal(size=(4000, 2)) * noise**0.5
    model = jaxem.gaussian_mixture(1, noise="diag")
    best, _ = jaxem.fit_restarts(model, (x, noise), jax.random.key(0))
    assert np.allclose(best.params.components.cov[0], [[2.0, 0.8], [0.8, 1.0]], atol=0.2)
    # What is expected of a row lies between it and the mean.
    denoised = model.conditional_mean(best.params, (x, noise))
    assert np.var(denoised, 0).sum() < np.var(x, 0).sum()


# --- censored times ------------------------------------------------------------------------------------------------


def _remission():
    weeks = np.array([float(entry.strip("+")) for entry in REMISSION.split()])
    return weeks, np.where([entry.endswith("+") for entry in REMISSION.split()], np.inf, weeks)


def test_right_censored_times_have_a_closed_form(dtype):
    """9 remissions ended in 359 weeks: a rate of 9 / 359."""
    x = jax.tree.map(lambda leaf: leaf.astype(dtype), _remission())
    best, _ = jaxem.fit_restarts(jaxem.exponential_mixture(1, censored=True), x, jax.random.key(0), tol=1e-14)
    assert np.isclose(best.params.components.rate[0], 9 / 359, rtol=1e-4)
    assert np.isclose(best.log_lik, 9 * np.log(9 / 359) - 9, rtol=1e-6)


def test_interval_censored_times_reach_the_maximum(float64):
    lower, upper = data.intervals()

    def minus_log_lik(rate):
        scale = 1 / rate
        between = expon.sf(lower, scale=scale) - expon.sf(upper, scale=scale)
        exact = lower == upper
        return -np.where(exact, expon.logpdf(lower, scale=scale), np.log(np.where(exact, 1, between))).sum()

    want = minimize_scalar(minus_log_lik, bounds=(1e-3, 1), method="bounded", options={"xatol": 1e-12})
    model = jaxem.exponential_mixture(1, censored=True)
    best, _ = jaxem.fit_restarts(model, (lower, upper), jax.random.key(0), tol=1e-14)
    assert np.isclose(best.log_lik, -want.fun, atol=1e-9)
    assert np.isclose(best.params.components.rate[0], want.x, rtol=1e-5)
    expected = np.asarray(model.conditional_mean(best.params, (lower, upper)))
    assert ((expected >= lower) & (expected <= upper)).all()


# --- what is refused -------------------------------------------------------------------------------------------------

NAN = np.nan
SQUARES = np.broadcast_to(np.eye(2), (6, 2, 2))


def _changed(x, index, value):
    x = np.array(x, float)
    x[index] = value
    return x


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (jaxem.gaussian_mixture(2, missing=True), _changed(data.groups(6, 2), 3, NAN), "x: every entry .* row 3"),
        (jaxem.gaussian_mixture(2, "diag", missing=True), _changed(data.groups(6, 2), 3, NAN), "every entry .* row 3"),
        (jaxem.gaussian_mixture(2, missing=True), _changed(data.groups(6, 2), (slice(None), 1), NAN), "column 1"),
        (jaxem.bernoulli_mixture(2, missing=True), _changed(np.eye(4), (slice(None), 2), NAN), "column 2"),
        (jaxem.bernoulli_mixture(2, missing=True), _changed(np.eye(4), (1, 2), 0.5), "zeros and ones; row 1"),
        (jaxem.gaussian_mixture(2, missing=True), _changed(data.groups(6, 2), (4, 0), np.inf), "infinite .* row 4"),
        (jaxem.gaussian_mixture(2), _changed(data.groups(6, 2), (4, 0), NAN), "NaN or infinite .* row 4"),
        (
            jaxem.gaussian_mixture(2, noise="full"),
            (data.groups(6, 2), _changed(SQUARES, (2, 0, 0), -1)),
            r"x\[1\]: .* row 2",
        ),
        (
            jaxem.gaussian_mixture(2, noise="diag"),
            (data.groups(6, 2), _changed(np.ones((6, 2)), (5, 1), 0)),
            r"x\[1\]: .* row 5",
        ),
        (jaxem.gaussian_mixture(2, noise="diag"), data.groups(6, 2), "expected the pair"),
        (jaxem.gaussian_mixture(2, noise="diag"), (data.groups(6, 2), np.ones((6, 3))), r"x\[1\]: .*\(6, 3\)"),
        (jaxem.exponential_mixture(1, censored=True), (np.ones(3), np.array([1.0, 2.0, 0.5])), r"x\[1\]: .* row 2"),
        (jaxem.exponential_mixture(1, censored=True), (np.ones(3), np.array([1.0, NAN, 2.0])), r"x\[1\]: .* row 1"),
    ],
)
def test_bad_rows_are_named(model, x, message):
    with pytest.raises(ValueError, match=message):
        jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=2)


def test_a_column_seen_in_no_row_that_counts_is_named():
    x = data.with_missing(data.bits())
    weights = np.isnan(x[:, 1]).astype(float)
    with pytest.raises(ValueError, match="every entry of column 1 is missing"):
        jaxem.fit_restarts(jaxem.bernoulli_mixture(2, missing=True), x, jax.random.key(0), weights=weights)


@pytest.mark.parametrize("covariance", ["full", "diag", "spherical"])
def test_missing_entries_far_from_the_origin_in_float32(covariance):
    x = data.with_missing(data.groups(90, 3))
    model = jaxem.gaussian_mixture(2, covariance, missing=True)
    near, far = (jaxem.fit_restarts(model, x + away, jax.random.key(0), n_restarts=2).best for away in (0.0, 1e6))
    assert np.isclose(near.log_lik, far.log_lik, rtol=1e-5)


def test_families_whose_columns_depend_are_refused():
    for family in (jaxem.Gaussian("full"), jaxem.VonMisesFisher(), jaxem.Multinomial()):
        with pytest.raises(ValueError, match="independent columns"):
            jaxem.Missing(family)
    with pytest.raises(ValueError, match="noise: expected"):
        jaxem.gaussian_mixture(2, noise="some")


# --- trusted fits ----------------------------------------------------------------------------------------------------


def _model_and_rows(case):
    rows = rows_of(case)
    x = np.array(
        [[float(row[name]) if row[name] not in ("", "NA") else np.nan for name in case["columns"]] for row in rows]
    )
    k, covariance = case["k"], case["options"]["covariance"]
    if "noise_columns" not in case:
        return jaxem.gaussian_mixture(k, covariance, missing=True), x
    a, b, c = (np.array([float(row[name]) for row in rows]) for name in case["noise_columns"])
    noise = np.stack([np.stack([a, b], -1), np.stack([b, c], -1)], -2)
    return jaxem.gaussian_mixture(k, covariance, noise="full"), (x, noise)


def _cases(ground):
    return [case for case in ground("missing") if not case["id"].startswith("semi")]


@pytest.mark.parametrize("name", ["missing-norm-mdata", "missing-wine-diag-3", "xd-a-1"])
def test_quick_optima(float64, ground, name):
    require_reached([case for case in _cases(ground) if case["id"] == name], _model_and_rows, 1.0, n_restarts=16)


@pytest.mark.slow
def test_optima(float64, ground):
    require_reached(_cases(ground), _model_and_rows, max_steps=5000)
