"""What is known of hidden values: labels, allowed sets, prior responsibilities, and rows that share one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_data as data
from ground_support import columns, require_reached, rows_of

import jaxem


@pytest.fixture
def groups(float64):
    """Three groups [60, 2] and their labels."""
    rng = np.random.default_rng(0)
    label = np.arange(60) % 3
    return np.array([[0.0, 0.0], [4.0, 1.0], [1.0, 5.0]])[label] + rng.normal(size=(60, 2)), label


def test_all_labels_known_is_the_generative_classifier_in_one_step(groups):
    x, label = groups
    model = jaxem.gaussian_mixture(3)
    fit = jaxem.fit(model, x, model.init(jax.random.key(0), x), labels=label, max_steps=1)
    assert np.allclose(fit.params.weights, 1 / 3)
    for k in range(3):
        own = x[label == k]
        assert np.allclose(fit.params.components.mean[k], own.mean(0))
        assert np.allclose(fit.params.components.cov[k], np.cov(own.T, bias=True))
    again = jaxem.fit(model, x, fit.params, labels=label)
    assert again.converged
    assert abs(float(again.log_lik - fit.log_lik)) < 1e-9
    assert (np.asarray(model.predict(fit.params, x)) == label).mean() > 0.9


def test_unknown_labels_and_full_sets_change_nothing(groups):
    x, _ = groups
    model = jaxem.gaussian_mixture(3)
    start = model.init(jax.random.key(0), x)
    want = jaxem.fit(model, x, start)
    for labels in (np.full(60, -1), np.ones((60, 3), bool)):
        got = jaxem.fit(model, x, start, labels=labels)
        assert abs(float(got.log_lik - want.log_lik)) < 1e-9


def test_a_label_is_an_allowed_set_of_one_and_a_sharp_prior(groups):
    x, label = groups
    model, known = jaxem.gaussian_mixture(3), np.arange(60) % 4 == 0
    start = model.init(jax.random.key(0), x)
    some = np.where(known, label, -1)
    allowed = np.where(known[:, None], np.eye(3, dtype=bool)[label], True)
    soft = np.where(known[:, None], np.eye(3)[label], 1.0)
    fits = [jaxem.fit(model, x, start, labels=labels) for labels in (some, allowed, soft)]
    assert len({float(fit.log_lik) for fit in fits}) == 1
    # log-likelihood: of the pair (x, label) where it is known, of x elsewhere.
    joint = np.asarray(model.log_prob(fits[0].params, x))
    labelled = joint + np.log(np.asarray(model.posterior(fits[0].params, x))[np.arange(60), label])
    assert np.isclose(fits[0].log_lik, np.where(known, labelled, joint).sum())


def test_random_starts_agree_with_the_labels(groups):
    x, label = groups
    labels = np.where(np.arange(60) % 6 < 3, label, -1)
    model = jaxem.gaussian_mixture(3)
    best, every = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=8, labels=labels)
    assert (np.asarray(model.predict(best.params, x)) == label).mean() > 0.9
    assert jaxem.optima(every)[0].n_restarts >= 6


def test_labels_of_a_chain(float64):
    x = data.count_sequences()
    model = jaxem.poisson_hmm(2)
    state = np.repeat(np.array([[0, 1]]), 48, 0).reshape(6, 16)
    fit = jaxem.fit(model, x, model.init(jax.random.key(0), x), labels=state, max_steps=1)
    assert np.allclose(fit.params.emissions.rate, [x[:, ::2].mean(), x[:, 1::2].mean()])
    assert np.allclose(fit.params.transition, [[0, 1], [1, 0]], atol=1e-12)


def test_labels_of_one_sequence(float64):
    x, state = data.count_sequences()[0], np.where(np.arange(16) < 4, np.arange(16) % 2, -1)
    model = jaxem.poisson_hmm(2)
    start = model.init(jax.random.key(0), x)
    one = jaxem.fit(model, x, start, labels=state, max_steps=5, tol=0.0)
    as_batch = jaxem.fit(model, x[None], start, labels=state[None], max_steps=5, tol=0.0)
    compiled = jax.jit(lambda labels: jaxem.fit(model, x, start, labels=labels, max_steps=5, tol=0.0).log_lik)
    assert np.isclose(one.log_lik, as_batch.log_lik)
    assert np.isclose(compiled(state), one.log_lik)
    with pytest.raises(ValueError, match=r"got 2 at row \(0, 5\)"):
        jaxem.fit(model, x, start, labels=np.where(np.arange(16) == 5, 2, state))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full(60, 3), "labels: expected -1 .* 0 to 2; got 3 at row 0"),
        (np.where(np.arange(60) == 7, -2, 0), "at row 7"),
        (np.where(np.arange(60) == 7, 0.5, 0), "at row 7"),
        (
            np.where(np.arange(60)[:, None] == 9, False, np.ones((60, 3), bool)),
            "expected an allowed hidden value in every row; got none at row 9",
        ),
        (np.where(np.arange(60)[:, None] == 9, -1.0, np.ones((60, 3))), "at least 0; got .* at row 9"),
        (np.zeros(59, int), r"labels: expected shape \(60,\)"),
        (["a"] * 60, "labels: expected whole numbers"),
    ],
)
def test_bad_labels_are_named(groups, labels, message):
    model = jaxem.gaussian_mixture(3)
    with pytest.raises(ValueError, match=message):
        jaxem.fit_restarts(model, groups[0], jax.random.key(0), n_restarts=2, labels=labels)


def test_models_without_components_have_no_labels():
    model = jaxem.StateSpace(1)
    with pytest.raises(ValueError, match="labels: expected a model with hidden values"):
        jaxem.fit_restarts(model, data.walks(), jax.random.key(0), labels=np.zeros(6, int))


def test_trusted_fits_with_some_labels(float64, ground):
    def model_of(case):
        rows = rows_of(case)
        label = columns(rows, [case["options"]["label_column"]])[:, 0].astype(int)
        known = np.isin(np.arange(len(rows)), case["options"]["known_rows"])
        return (
            jaxem.gaussian_mixture(case["k"], case["options"]["covariance"]),
            columns(rows, case["columns"]),
            {"labels": np.where(known, label, -1)},
        )

    cases = [case for case in ground("missing") if case["id"].startswith("semi")]
    for case in cases:
        model, x, options = model_of(case)
        require_reached([case], lambda _, model=model, x=x: (model, x), 1.0, n_restarts=16, **options)


# --- groups ---------------------------------------------------------------------------------------


def test_groups_of_one_are_rows(float64):
    x = data.counts()
    plain, grouped = jaxem.poisson_mixture(2), jaxem.Mixture(jaxem.Repeated(jaxem.Poisson()), 2)
    start = plain.init(jax.random.key(0), x)
    want, got = jaxem.fit(plain, x, start), jaxem.fit(grouped, x[:, None], start)
    assert np.isclose(got.log_lik, want.log_lik, rtol=1e-12)
    assert np.allclose(got.params.components.rate, want.params.components.rate)


def test_weighted_grouped_and_repeated_rows_agree(float64):
    """One component: a row in a group, a row with a weight and a row that is written twice are the same."""
    x, weights = np.array([1.0, 4.0, 2.0, 7.0]), np.array([2.0, 1.0, 3.0, 1.0])
    repeated = np.repeat(x, weights.astype(int))
    model = jaxem.poisson_mixture(1)
    start = jaxem.MixtureParams(jnp.ones(1), jaxem.PoissonParams(jnp.ones(1)))
    groups = jaxem.group_rows(repeated, np.repeat(np.arange(4), weights.astype(int)))
    fits = [
        jaxem.fit(model, x, start, weights=weights),
        jaxem.fit(model, repeated, start),
        jaxem.fit(jaxem.Mixture(jaxem.Repeated(jaxem.Poisson()), 1), groups, start),
    ]
    for fit in fits:
        assert np.isclose(fit.log_lik, fits[0].log_lik)
        assert np.isclose(fit.params.components.rate[0], fits[0].params.components.rate[0])


def test_a_group_with_a_weight_is_the_group_again(float64):
    rows, sizes = data.grouped_counts()
    model = jaxem.Mixture(jaxem.Repeated(jaxem.Poisson()), 2)
    start = model.init(jax.random.key(0), (rows, sizes))
    weights = np.where(np.arange(30) < 5, 2.0, 1.0)
    weighted = jaxem.fit(model, (rows, sizes), start, weights=weights, max_steps=5, tol=0.0)
    again = np.concatenate([rows, rows[:5]]), np.concatenate([sizes, sizes[:5]])
    repeated = jaxem.fit(model, again, start, max_steps=5, tol=0.0)
    assert np.isclose(weighted.log_lik, repeated.log_lik, rtol=1e-12)


def test_what_lies_beyond_a_group_is_ignored(float64):
    rows, sizes = data.grouped_counts()
    model = jaxem.Mixture(jaxem.Repeated(jaxem.Poisson()), 2)
    params = model.init(jax.random.key(0), (rows, sizes))
    junk = np.where(np.arange(4) < sizes[:, None], rows, np.nan)
    assert np.array_equal(model.log_prob(params, (junk, sizes)), model.log_prob(params, (rows, sizes)))
    with pytest.raises(ValueError, match="row 1 of group 2"):
        model.log_prob(params, (np.where(np.arange(120).reshape(30, 4) == 9, -1.0, rows), sizes))


def test_groups_share_one_regression(float64, ground):
    case = next(case for case in ground("families") if case["id"] == "npreg_grouped_k2")
    rows = rows_of(case)
    inputs = np.column_stack([np.ones(len(rows)), columns(rows, case["columns"]["inputs"])])
    targets = columns(rows, case["columns"]["targets"])[:, 0]
    x = jaxem.group_rows((inputs, targets), [row[case["columns"]["group"]] for row in rows])
    require_reached(
        [case], lambda _: (jaxem.Mixture(jaxem.Repeated(jaxem.LinearRegression()), 2), x), 1.0, n_restarts=8
    )


def test_group_rows_checks_its_groups():
    with pytest.raises(ValueError, match=r"groups: expected shape \(3,\)"):
        jaxem.group_rows(np.ones(3), [0, 1])
