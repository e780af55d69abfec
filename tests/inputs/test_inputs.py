"""What a person may give to `fit`, `fit_restarts` and a model's methods: a right answer, or an error that names it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxem
from jaxem import Status

COVARIANCES = ("full", "tied", "diag", "spherical")
N, D, K = 120, 2, 2
KEY = jax.random.key(0)


def two_groups(dtype=np.float32):
    """Rows [120, 2] of two groups 6 standard deviations apart."""
    rng = np.random.default_rng(0)
    return (rng.standard_normal((N, D)) + 6 * (np.arange(N)[:, None] % K) * [1, 0.5]).astype(dtype)


X = two_groups()
MODELS = {covariance: jaxem.gaussian_mixture(K, covariance) for covariance in COVARIANCES}
FULL = MODELS["full"]


def start_of(covariance="full", x=X):
    """A proper start built by hand, in the data's units."""
    scale = np.asarray(x, np.float64).var(0)
    cov = {
        "full": np.tile(np.diag(scale), (K, 1, 1)),
        "tied": np.diag(scale),
        "diag": np.tile(scale, (K, 1)),
        "spherical": np.full(K, scale.mean()),
    }[covariance]
    return jaxem.MixtureParams(np.full(K, 1 / K), jaxem.GaussianParams(np.array(x[:K], np.float64), cov))


START = start_of()
PARAMS = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), START)


def changed(start=START, weights=None, mean=None, cov=None):
    """`start` with some leaves changed by functions."""
    return jaxem.MixtureParams(
        weights(start.weights) if weights else start.weights,
        jaxem.GaussianParams(
            mean(start.components.mean) if mean else start.components.mean,
            cov(start.components.cov) if cov else start.components.cov,
        ),
    )


def put(value, *at):
    """A function that sets one entry of an array."""

    def change(array):
        array = np.array(array)
        array[at] = value
        return array

    return change


def refuses(argument, *words):
    """The error names the argument first, and then says the words."""
    return pytest.raises(ValueError, match=rf"(?s)^{re.escape(argument)}.*" + ".*".join(map(re.escape, words)))


def allclose(a, b, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=rtol, atol=atol), a, b)


# --- x -------------------------------------------------------------------------------------------------------------

BAD_X = {
    "nan": (put(np.nan, 7, 1)(X), "NaN", "row 7"),
    "infinite": (put(-np.inf, 7, 1)(X), "infinite", "row 7"),
    "no rows": (X[:0], "at least one row"),
    "one row": (X[:1], "at least as many rows", "got 1"),
    "no columns": (X[:, :0], "at least one column"),
    "one dimension": (X[:, 0], "[n, d]", "x[:, None]"),
    "three dimensions": (X[None], "[n, d]", "(1, 120, 2)"),
    "a number": (3.0, "array of rows"),
    "none": (None, "array of numbers", "NoneType"),
    "ragged": ([[1.0, 2.0], [3.0]], "equal length"),
    "text": (X.astype(str), "real numbers", "<U"),
    "complex": (X + 1j, "real numbers", "complex"),
    "a complex jax array": (jnp.asarray(X) + 1j, "real numbers", "complex"),
    "objects": (put("a", 0, 0)(X.astype(object)), "real numbers", "'a'"),
    "dates": (np.full((N, D), np.datetime64("2020-01-01")), "real numbers", "datetime64"),
    "masked": (np.ma.masked_greater(X, 5), "masked"),
    "a column of text": (pd.DataFrame(X, columns=["a", "b"]).assign(b="t"), "numeric columns", "'b'"),
    "a generator": ((row for row in X), "array of numbers", "generator"),
    "a tuple of arrays": ((X, X), "[n, d]"),
    "too large for squares": (X * np.float32(1e30), "column 0", "too large", "float32"),
    "too small for squares": (X * np.float32(1e-30), "column 0", "too small", "float32"),
    "1e200": (X.astype(np.float64) * 1e200, "too large", "float32"),
    "all rows equal": (np.ones((N, D)), "columns 0, 1 are constant"),
    "a constant column": (X * [1, 0] + 5, "column 1 is constant"),
    "a duplicated column": (X[:, [0, 0]], "columns 0, 1 are linearly dependent"),
    "fewer rows than components": (X[:1], "at least as many rows as components", "2", "got 1"),
    "as many rows as columns": (X[:2], "more rows than columns", "2 rows of 2 columns"),
}


@pytest.mark.parametrize("name", BAD_X)
def test_unusable_x(name):
    x, *words = BAD_X[name]
    with refuses("x", *words):
        jaxem.fit(FULL, x, START)


@pytest.mark.parametrize("name", [name for name in BAD_X if name != "a generator"])
def test_unusable_x_given_to_other_functions(name):
    x, *words = BAD_X[name]
    with refuses("x", *words):
        jaxem.fit_restarts(FULL, x, KEY, n_restarts=2)
    with refuses("x", *words):
        FULL.init(KEY, x)


def test_linear_dependence_names_its_columns():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((20_000, 5))
    x[:, 3] = 2 * x[:, 0] - x[:, 1] + 7
    for model in (jaxem.gaussian_mixture(2), jaxem.gaussian_mixture(2, "tied")):
        with refuses("x", "columns 0, 1, 3 are linearly dependent"):
            model.init(KEY, x.astype(np.float32))
    # Dependent in all rows of the first look but one of the others: allowed.
    x[11, 3] += 1
    jaxem.gaussian_mixture(2).init(KEY, x)


def test_nearly_dependent_columns_are_allowed():
    x = np.random.default_rng(2).standard_normal((N, D)) @ [[1, 1], [-1e-4, 1e-4]]
    for dtype in (np.float32, np.float64):
        FULL.check_fit(x.astype(dtype), None, np.float32)


@pytest.mark.parametrize("covariance", ["diag", "spherical"])
def test_dependent_columns_are_fine_without_covariances(covariance):
    x = X[:, [0, 0]]
    result = jaxem.fit(MODELS[covariance], x, start_of(covariance, x))
    assert result.converged
    np.testing.assert_allclose(result.params.components.mean[:, 0], result.params.components.mean[:, 1], rtol=1e-5)


def test_constant_columns_by_covariance():
    x = X * np.float32([1, 0])
    for covariance in ("full", "tied", "diag"):
        with refuses("x", "column 1 is constant"):
            jaxem.fit(MODELS[covariance], x, START)
    result = jaxem.fit(MODELS["spherical"], x, start_of("spherical", x))
    assert result.converged
    np.testing.assert_array_equal(result.params.components.mean[:, 1], 0)
    with refuses("x", "all rows are equal"):
        jaxem.fit(MODELS["spherical"], np.ones((N, D)), start_of("spherical"))


def test_columns_constant_among_rows_that_count():
    x = np.concatenate([X[:100] * [1, 0], X[100:]])
    with refuses("x", "column 1 is constant"):
        jaxem.fit(FULL, x, START, weights=np.arange(N) < 100)
    with refuses("x", "rows of weight above 0", "got 1"):
        jaxem.fit(FULL, x, START, weights=np.arange(N) == 3)


SAME_X = {
    "lists": X.tolist(),
    "tuples": tuple(map(tuple, X.tolist())),
    "a data frame": pd.DataFrame(X),
    "nothing masked": np.ma.masked_array(X, mask=False),
    "objects": X.astype(object),
    "Fortran order": np.asfortranarray(X),
    "a strided view": np.repeat(X, 2, 0)[::2],
    "a jax array": jnp.asarray(X),
    "float64": X.astype(np.float64),
    "read only": np.broadcast_to(X, X.shape),
}


@pytest.fixture(scope="module")
def reference():
    return jaxem.fit(FULL, X, START)


@pytest.mark.parametrize("name", SAME_X)
def test_all_forms_of_the_same_numbers(name, reference):
    result = jaxem.fit(FULL, SAME_X[name], START)
    assert result.converged
    allclose(result.params, reference.params, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(result.log_lik, reference.log_lik, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint8, np.float16, np.longdouble])
def test_other_number_types(dtype):
    x = np.round(X * 10 + 30)
    expected = jaxem.fit(FULL, x, start_of(x=x), max_steps=5, tol=0)
    result = jaxem.fit(FULL, x.astype(dtype), start_of(x=x), max_steps=5, tol=0)
    allclose(result.params, expected.params, rtol=1e-4)
    allclose(
        jaxem.fit(FULL, jnp.asarray(x.astype(int)), start_of(x=x), max_steps=5, tol=0).params, expected.params, 1e-4
    )


def test_booleans_are_zeros_and_ones():
    x = X > 3
    for rows in (x, jnp.asarray(x)):
        np.testing.assert_allclose(FULL.log_prob(PARAMS, rows), FULL.log_prob(PARAMS, x.astype(np.float32)))


def test_whole_numbers_beyond_float32_keep_their_digits():
    seconds = 1_700_000_000 + np.round(X * 10).astype(np.int64)
    result = jaxem.fit(FULL, seconds, start_of(x=seconds), max_steps=5, tol=0)
    near = jaxem.fit(FULL, np.round(X * 10), start_of(x=np.round(X * 10)), max_steps=5, tol=0)
    allclose(result.params.components.cov, near.params.components.cov, rtol=1e-4)


# --- weights -------------------------------------------------------------------------------------------------------

BAD_WEIGHTS = {
    "nan": (put(np.nan, 3)(np.ones(N)), "not finite", "row 3"),
    "infinite": (put(np.inf, 3)(np.ones(N)), "not finite", "row 3"),
    "negative": (put(-1, 3)(np.ones(N)), "negative", "row 3"),
    "all zero": (np.zeros(N), "all are zero"),
    "too few": (np.ones(N - 1), "(120,)", "(119,)"),
    "a column": (np.ones((N, 1)), "(120,)", "(120, 1)"),
    "one number": (1.0, "(120,)"),
    "text": (["a"] * N, "real numbers"),
    "complex": (np.ones(N) + 0j, "real numbers"),
    "beyond the dtype": (np.full(N, 1e60), "out of float32's range"),
}


@pytest.mark.parametrize("name", BAD_WEIGHTS)
def test_unusable_weights(name):
    weights, *words = BAD_WEIGHTS[name]
    with refuses("weights", *words):
        jaxem.fit(FULL, X, START, weights=weights)
    with refuses("weights", *words):
        jaxem.fit_restarts(FULL, X, KEY, n_restarts=2, weights=weights)
    with refuses("weights", *words):
        FULL.m_step(np.full((N, K), 0.5), X, weights)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_the_size_of_weights_does_not_matter(covariance, size):
    start = start_of(covariance)
    one = jaxem.fit(MODELS[covariance], X, start)
    result = jaxem.fit(MODELS[covariance], X, start, weights=np.full(N, size))
    assert result.converged
    allclose(result.params, one.params, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(result.log_lik / size, one.log_lik, rtol=1e-6)


def test_a_row_of_weight_0_is_absent():
    keep = np.arange(N) % 3 > 0
    weighted = jaxem.fit(FULL, put(1e6, ~keep)(X), START, weights=keep, max_steps=5, tol=0)
    allclose(weighted.params, jaxem.fit(FULL, X[keep], START, max_steps=5, tol=0).params, rtol=1e-3, atol=1e-3)


# --- start and params ----------------------------------------------------------------------------------------------

SYMMETRIC = np.array([[1.0, 2.0], [2.0, 1.0]])
BAD_START = {
    "weights that do not sum to 1": (changed(weights=lambda w: w * 0.9), ".weights", "sums to 0.9"),
    "negative weights": (changed(weights=lambda w: w * [3, -1]), ".weights", "negative"),
    "NaN weights": (changed(weights=put(np.nan, 0)), ".weights", "not finite"),
    "one weight too many": (changed(weights=lambda w: np.full(3, 1 / 3)), ".weights", "(2,)", "(3,)"),
    "NaN means": (changed(mean=put(np.nan, 0, 0)), ".components.mean", "not finite"),
    "infinite means": (changed(mean=put(np.inf, 0, 0)), ".components.mean", "not finite"),
    "means of another d": (changed(mean=lambda m: m[:, :1]), ": mean", "(2, 1)", "2 columns"),
    "means of another k": (changed(mean=lambda m: m[[0, 1, 1]]), "", "(3, 2, 2)"),
    "NaN covariance": (changed(cov=put(np.nan, 0, 0, 0)), ".components.cov", "not finite"),
    "indefinite covariance": (changed(cov=put(SYMMETRIC, 1)), ".components.cov", "positive definite", "component 1"),
    "zero covariance": (changed(cov=put(0, 1)), ".components.cov", "positive definite"),
    "asymmetric covariance": (changed(cov=put(0.3, 0, 0, 1)), ".components.cov", "not symmetric"),
    "covariance of another structure": (start_of("diag"), ": cov", "(2, 2)", "(2, 2, 2)", "'full'"),
    "a string in it": (START._replace(weights="half"), ".weights", "array of numbers", "'half'"),
    "complex numbers in it": (START._replace(weights=START.weights + 0j), ".weights", "array of numbers"),
    "a plain tuple": (tuple(START), "", "MixtureParams"),
    "a dictionary": (START._asdict(), "", "MixtureParams"),
    "a result": (Status.CONVERGED, "", "MixtureParams"),
    "none": (None, "", "MixtureParams"),
    "an array": (np.ones(3), "", "MixtureParams"),
}


@pytest.mark.parametrize("name", BAD_START)
def test_unusable_start(name):
    start, path, *words = BAD_START[name]
    with refuses("start" + path, *words):
        jaxem.fit(FULL, X, start)
    with refuses("params" + path, *words):
        FULL.log_prob(start, X)


@pytest.mark.parametrize("covariance", ["diag", "spherical"])
def test_variances_of_a_start_are_positive(covariance):
    with refuses("start.components.cov", "not positive"):
        jaxem.fit(MODELS[covariance], X, changed(start_of(covariance), cov=lambda c: -c))


def test_a_start_of_lists_and_whole_numbers():
    start = jaxem.MixtureParams([0.5, 0.5], jaxem.GaussianParams([[0, 0], [6, 3]], [[[1, 0], [0, 1]]] * 2))
    assert jaxem.fit(FULL, X, start).converged


def test_a_batch_of_starts():
    batch = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), START)
    with refuses("start[1].weights", "sums to"):
        jaxem.fit_restarts(FULL, X, KEY, start=batch._replace(weights=batch.weights * [[1], [2]]))
    with refuses("n_restarts", "expected 2", "got 3"):
        jaxem.fit_restarts(FULL, X, KEY, start=batch, n_restarts=3)
    with refuses("start", "leading axis"):
        jaxem.fit_restarts(FULL, X, KEY, start=batch._replace(weights=batch.weights[:1]))
    # A start that is not finite is a fit that says so; the others do not notice.
    dead = batch._replace(weights=put(np.nan, 0)(batch.weights))
    best, every = jaxem.fit_restarts(FULL, X, KEY, start=dead)
    assert [Status(int(s)) for s in every.status] == [Status.NONFINITE, Status.CONVERGED]
    assert best.converged
    alive = jaxem.fit_restarts(FULL, X, KEY, start=batch).all
    np.testing.assert_array_equal(alive.log_lik[1], every.log_lik[1])


# --- options -------------------------------------------------------------------------------------------------------

BAD_OPTIONS = [
    *[("tol", value) for value in (np.nan, np.inf, -1e-3, True, "1e-3", None, 1j, [1e-3], np.bool_(True))],
    *[("max_steps", value) for value in (1.5, -1, np.nan, True, "10", None, 2**40, jnp.asarray(True))],
    *[("chunk_size", value) for value in (0, -5, 2.5, True, "10", np.inf)],
    *[("algorithm", value) for value in ("em", None, jaxem.EM, 3)],
]


@pytest.mark.parametrize(("name", "value"), BAD_OPTIONS, ids=str)
def test_unusable_options(name, value):
    if (name, value) == ("chunk_size", None):
        return
    with refuses(name, "expected"):
        jaxem.fit(FULL, X, START, **{name: value})
    with refuses(name, "expected"):
        jaxem.fit_restarts(FULL, X, KEY, n_restarts=2, **{name: value})


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3", np.nan])
def test_unusable_n_restarts(value):
    with refuses("n_restarts", "at least 1"):
        jaxem.fit_restarts(FULL, X, KEY, n_restarts=value)


@pytest.mark.parametrize("key", [0, None, "key", 1.5, np.arange(3), jax.random.split(KEY, 2)], ids=str)
def test_unusable_keys(key):
    for call in (
        lambda: FULL.init(key, X),
        lambda: FULL.sample(PARAMS, key, 5),
        lambda: jaxem.fit_restarts(FULL, X, key, n_restarts=2),
    ):
        with refuses("key", "jax.random.key(0)"):
            call()


def test_keys_of_the_old_kind():
    assert FULL.sample(PARAMS, jax.random.PRNGKey(0), 5).shape == (5, D)
    assert FULL.init(jax.random.PRNGKey(0), X).weights.shape == (K,)


@pytest.mark.parametrize("kind", ["best", 17, 1.5])
def test_unknown_kinds_of_start(kind):
    with refuses("kind", "expected"):
        FULL.init(KEY, X, kind=kind)
    if isinstance(kind, str):
        with refuses("start", "kmeans", "'best'"):
            jaxem.fit_restarts(FULL, X, KEY, n_restarts=2, start=kind)


@pytest.mark.parametrize("n", [0, -1, 2.5, True, "5"])
def test_unusable_sample_sizes(n):
    with refuses("n", "at least 1"):
        FULL.sample(PARAMS, KEY, n)


@pytest.mark.parametrize("k", [0, -1, 1.5, True, "2", None])
def test_unusable_n_components(k):
    with refuses("n_components", "at least 1"):
        jaxem.gaussian_mixture(k)


@pytest.mark.parametrize("floor", [-1, 1.0, np.nan, True, False, "1e-3", [0.1], np.float32(-1)])
def test_unusable_floor(floor):
    with refuses("floor", "[0, 1)"):
        jaxem.gaussian_mixture(2, floor=floor)


@pytest.mark.parametrize("covariance", ["Full", "", None, 3, ["full"]])
def test_unusable_covariance(covariance):
    with refuses("covariance", "full, diag"):
        jaxem.gaussian_mixture(2, covariance)


@pytest.mark.parametrize("model", [jaxem.Mixture, "gaussian", None, 3])
def test_not_a_model(model):
    with refuses("model", "gaussian_mixture"):
        jaxem.fit(model, X, START)


def test_every_option_does_something(reference):
    def fit(**options):
        return jaxem.fit(FULL, X, START, **options)

    assert fit(max_steps=0).n_steps == 0
    assert fit(max_steps=2).n_steps == 2
    assert fit(tol=1.0).n_steps < reference.n_steps
    weighted = fit(weights=np.linspace(0.1, 1, N))
    assert abs(weighted.log_lik - reference.log_lik) > 1
    allclose(fit(chunk_size=7).params, reference.params, rtol=2e-3, atol=2e-3)
    allclose(fit(chunk_size=10**9).params, reference.params, rtol=2e-3, atol=2e-3)
    floored = jaxem.fit(jaxem.gaussian_mixture(K, floor=0.5), X, START)
    relative = [
        np.linalg.eigvals(np.linalg.solve(np.cov(X.T, bias=True), cov)).real.min()
        for fitted in (reference, floored)
        for cov in np.asarray(fitted.params.components.cov)
    ]
    assert max(relative[:K]) < 0.4
    np.testing.assert_allclose(relative[K:], 0.5, rtol=1e-3)


def test_converging_exactly_at_the_limit(reference):
    tried = int(reference.n_evaluations) - 1  # a last step that gains nothing is tried, and not always taken
    at_limit = jaxem.fit(FULL, X, START, max_steps=tried)
    assert at_limit.converged
    assert at_limit.n_steps == reference.n_steps
    assert jaxem.fit(FULL, X, START, max_steps=tried - 1).status == Status.MAX_STEPS


# --- a model's own methods -----------------------------------------------------------------------------------------

METHODS = ("e_step", "log_prob", "posterior", "predict")


@pytest.mark.parametrize("method", METHODS)
def test_methods_name_what_does_not_fit(method):
    call = getattr(FULL, method)
    with refuses("x", "[n, d]", "x[:, None]"):
        call(PARAMS, X[:, 0])
    with refuses("x", "NaN", "row 7"):
        call(PARAMS, put(np.nan, 7, 1)(X))
    with refuses("params", "mean has shape (2, 2)", "3 columns"):
        call(PARAMS, np.ones((4, 3)))
    with refuses("params", "(2, 2)", "'full'"):
        call(start_of("diag"), X)
    with refuses("params", "1 columns"):
        jax.jit(call)(PARAMS, X[:, :1])
    with refuses("x", "[n, d]"):
        jax.jit(call)(PARAMS, X[:, 0])


def test_shapes_are_checked_inside_compiled_code():
    with refuses("start", "1 columns"):
        jax.jit(lambda x: jaxem.fit(FULL, x, START).log_lik)(X[:, :1])
    with refuses("weights", "(120,)", "(3,)"):
        jax.jit(lambda w: jaxem.fit(FULL, X, START, weights=w).log_lik)(np.ones(3))
    with refuses("x", "at least as many rows as components"):
        jax.jit(lambda x: FULL.init(KEY, x))(X[:1])
    with refuses("chunk_size", "traced"):
        jax.jit(lambda c: jaxem.fit(FULL, X, START, chunk_size=c).log_lik)(10)


def test_methods_take_what_fit_takes():
    expected = FULL.log_prob(PARAMS, X)
    for rows in (X.tolist(), pd.DataFrame(X), np.asfortranarray(X), jnp.asarray(X), X.astype(object)):
        np.testing.assert_allclose(FULL.log_prob(PARAMS, rows), expected, rtol=1e-6)


def test_responsibilities_that_do_not_fit():
    resp = np.full((N, K), 0.5)
    for bad in (resp[:-1], resp[:, :1], resp[0], put(np.nan, 0, 0)(resp), -resp):
        with refuses("resp", "expected"):
            FULL.m_step(bad, X)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("far", [1e25, -1e30, 1e37])
def test_a_query_point_very_far_away(covariance, far):
    params = jaxem.fit(MODELS[covariance], X, start_of(covariance)).params
    points = np.float32([[far, far], [far, -far], [0, far], [0, 0]])
    posterior = np.asarray(MODELS[covariance].posterior(params, points))
    np.testing.assert_allclose(posterior.sum(1), 1, rtol=1e-6)
    assert not np.isnan(np.asarray(MODELS[covariance].log_prob(params, points))).any()
    # Where even the distance in standard deviations is beyond the dtype.
    small = changed(params, mean=lambda m: m * 1e-12, cov=lambda c: c * 1e-24)
    np.testing.assert_allclose(np.asarray(MODELS[covariance].posterior(small, points)).sum(1), 1, rtol=1e-6)


# --- fits that go wrong, and say so --------------------------------------------------------------------------------


def test_what_rests_on_a_high_floor_is_no_collapse(float64):
    start = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), start_of("tied"))
    result = jaxem.fit(jaxem.gaussian_mixture(K, "tied", floor=0.5), X.astype(np.float64), start)
    history = np.asarray(result.history)[: int(result.n_steps)]
    assert result.converged
    assert (np.diff(history) >= -1e-12 * abs(history[-1])).all()
    assert result.log_lik < jaxem.fit(jaxem.gaussian_mixture(K, "tied"), X, start_of("tied")).log_lik


@pytest.mark.parametrize("covariance", ["full", "diag", "spherical"])
@pytest.mark.parametrize("floor", [None, 0.0])
def test_a_singleton_cluster_is_no_success(covariance, floor):
    x = put([100.0, 100.0], 0)(X)
    start = start_of(covariance, X)
    start = changed(start, mean=lambda m: np.array([[100.0, 100.0], [3.0, 1.5]]))
    result = jaxem.fit(jaxem.gaussian_mixture(K, covariance, floor=floor), x, start)
    assert result.status == Status.DEGENERATE
    assert result.degenerate.tolist() == [True, False]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.params))
    with pytest.raises(RuntimeError, match="DEGENERATE"):
        jaxem.raise_if_failed(result)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_a_component_far_from_all_rows_keeps_its_params(covariance):
    start = changed(start_of(covariance), mean=put([1e6, 1e6], 1))
    result = jaxem.fit(MODELS[covariance], X, start)
    assert result.status == Status.EMPTY
    np.testing.assert_allclose(result.params.components.mean[1], [1e6, 1e6], rtol=1e-5)
    assert result.params.weights[1] == 0
    assert np.isfinite(result.log_lik)
    if covariance != "tied":
        np.testing.assert_allclose(result.params.components.cov[1], start.components.cov[1], rtol=1e-3, atol=1e-3)


def test_duplicated_rows_that_a_component_collapses_onto():
    x = np.concatenate([X[:100], np.full((20, D), 50, np.float32)])
    result = jaxem.fit(FULL, x, changed(mean=lambda m: np.array([[50.0, 50.0], [3.0, 1.5]])))
    assert result.status == Status.DEGENERATE
    best = jaxem.fit_restarts(FULL, x, KEY, n_restarts=8).best
    assert np.isfinite(best.log_lik)
