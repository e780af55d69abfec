"""Rows read anew in every iteration: the answer of `fit`, from any source, or an error that keeps what there is."""

import itertools

import jax
import numpy as np
import pytest
from small_data import groups
from zoo import ZOO

import jaxem
from jaxem import Status

KEY = jax.random.key(2)
ROWS = {row.name: row for row in ZOO}


def pieces_of(x, *cuts):
    """x in pieces of different sizes."""
    n = jax.tree.leaves(x)[0].shape[0]
    edges = [0, *cuts, n]
    return [jax.tree.map(lambda leaf, a=a, b=b: leaf[a:b], x) for a, b in itertools.pairwise(edges)]


def assert_same_fit(a, b, rtol):
    np.testing.assert_allclose(a.history, b.history, rtol=rtol)
    np.testing.assert_allclose(a.objective, b.objective, rtol=rtol)
    jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=1e4 * rtol, atol=1e4 * rtol), a.params, b.params)


@pytest.mark.parametrize(
    "name", ["gaussian-full-2d", "poisson", "linear-regression", "gaussian-hmm", "gaussian-missing-diag"]
)
def test_a_stream_gives_what_the_whole_gives(name, float64):
    """Also where units hold something of every row: lengths of sequences, what is seen of a row."""
    row = ROWS[name]
    x = row.data()
    start = row.model.init(KEY, x)
    n = jax.tree.leaves(x)[0].shape[0]
    whole = jaxem.fit(row.model, x, start, tol=0.0, max_steps=8)
    cut = jaxem.fit_stream(row.model, x, start, chunk_size=n // 3 + 1, tol=0.0, max_steps=8)
    # A fit at rest stays where it is: the last bit of a sum says whether it makes one more step there.
    staying = [fit._replace(history=np.fmax.accumulate(np.asarray(fit.history))) for fit in (cut, whole)]
    assert_same_fit(*staying, 1e-11)


@pytest.mark.parametrize("algorithm", [jaxem.SQUAREM(), jaxem.Anderson()], ids=lambda each: type(each).__name__)
def test_accelerations_work_over_a_stream(algorithm, float64):
    x = groups(300, 2, 3)
    model = jaxem.gaussian_mixture(3)
    start = model.init(KEY, x)
    # To the very end: whether a look on the way is accepted may hang on the last bit of a sum.
    whole = jaxem.fit(model, x, start, algorithm=algorithm, tol=1e-12)
    cut = jaxem.fit_stream(model, x, start, algorithm=algorithm, tol=1e-12, chunk_size=101)
    assert Status(int(cut.status)) == Status.CONVERGED
    np.testing.assert_allclose(cut.log_lik, whole.log_lik, rtol=1e-8)


def test_sources_of_every_kind(float64, tmp_path):
    x = groups(200, 2, 2)
    weights = np.r_[np.zeros(20), np.ones(150), np.full(30, 2.0)]
    model = jaxem.gaussian_mixture(3)  # one more than there are groups: five steps are not the end
    start = model.init(KEY, x)
    options = dict(tol=0.0, max_steps=5)
    want = jaxem.fit(model, x, start, weights=weights, **options)
    np.save(tmp_path / "x.npy", x)
    parts, some = pieces_of(x, 3, 90), pieces_of(weights, 3, 90)

    class Again:
        def __iter__(self):
            return iter(parts)

    for source, given in (
        (np.load(tmp_path / "x.npy", mmap_mode="r"), weights),
        (parts, some),
        (Again(), some),
        (lambda: iter(parts), lambda: iter(some)),
    ):
        got = jaxem.fit_stream(model, source, start, weights=given, chunk_size=64, **options)
        assert_same_fit(got, want, 1e-10)


def test_a_parquet_file_is_a_source(float64, tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.dataset
    import pyarrow.parquet

    x = groups(200, 2, 2)
    path = tmp_path / "x.parquet"
    pa.parquet.write_table(pa.table({"a": x[:, 0], "b": x[:, 1]}), path, row_group_size=70)
    rows = pyarrow.dataset.dataset(path)
    model = jaxem.gaussian_mixture(2)
    start = model.init(KEY, x)
    got = jaxem.fit_stream(model, lambda: (batch.to_pandas() for batch in rows.to_batches()), start)
    np.testing.assert_allclose(got.log_lik, jaxem.fit(model, x, start).log_lik, rtol=1e-9)


def test_float32_far_from_the_origin():
    x = groups(400, 2, 2) + 1e6
    model = jaxem.gaussian_mixture(2)
    with jax.enable_x64(True):
        start = jax.tree.map(np.asarray, model.init(KEY, x))
        want = jaxem.fit(model, x, start, tol=1e-10)
    got = jaxem.fit_stream(model, x, start, chunk_size=150)
    np.testing.assert_allclose(got.log_lik, want.log_lik, rtol=1e-5)
    np.testing.assert_allclose(
        np.asarray(got.params.components.cov), np.asarray(want.params.components.cov), rtol=2e-3, atol=2e-3
    )


def test_float32_sequences_far_from_the_origin():
    """Each sequence has its own length, so each block has its own share of what moving the origin changes."""
    values = groups(24 * 9, 2, 2).reshape(24, 9, 2) + 1e6
    x = values, np.resize([9, 4, 7], 24)
    model = jaxem.gaussian_hmm(2, covariance="tied")
    with jax.enable_x64(True):
        start = jax.tree.map(np.asarray, model.init(KEY, x))
        want = jaxem.fit(model, x, start, max_steps=8, tol=0.0)
    seen = []
    options = dict(chunk_size=7, max_steps=8, tol=0.0, callback=lambda progress: seen.append(progress.objective))
    got = jaxem.fit_stream(model, x, start, **options)
    np.testing.assert_allclose(got.log_lik, want.log_lik, rtol=1e-5)
    np.testing.assert_allclose(got.params.emissions.cov, want.params.emissions.cov, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(seen[-1], got.log_lik, rtol=1e-6)


@pytest.mark.parametrize("algorithm", [jaxem.EM(), jaxem.OnlineEM(batch_size=50)])
def test_progress_speaks_of_the_datas_units(algorithm):
    x = 1e3 * groups(400, 2, 2) + 1e6
    model, seen = jaxem.gaussian_mixture(2), []
    start = model.init(KEY, x)
    options = dict(algorithm=algorithm, max_steps=3, callback=lambda progress: seen.append(progress.objective))
    got = jaxem.fit_stream(model, x, start, chunk_size=150, **options)
    np.testing.assert_allclose(seen[-1], got.history[2], rtol=1e-6)


class Failing:
    """Gives its pieces `good` times, then fails in the middle, or gives too few."""

    def __init__(self, parts, good, how):
        self.parts, self.good, self.how = parts, good, how

    def __iter__(self):
        self.good -= 1
        yield from self.parts[: 1 if self.good < 0 else None]
        if self.good < 0 and self.how == "fails":
            raise OSError("the disk went away")


@pytest.mark.parametrize(
    ("how", "message"), [("fails", "the disk went away"), ("shrinks", "rows, as in the pass before")]
)
def test_a_source_that_breaks_keeps_the_last_good_params(how, message, float64):
    x = groups(200, 2, 2)
    model = jaxem.gaussian_mixture(2)
    start = model.init(KEY, x)
    # One pass for the sample, one for the start, three steps.
    source = Failing(pieces_of(x, 50, 120), 5, how)
    with pytest.raises(jaxem.SourceError, match=message) as found:
        jaxem.fit_stream(model, source, start, tol=0.0, max_steps=10)
    kept = found.value.result
    assert Status(int(kept.status)) == Status.INTERRUPTED
    want = jaxem.fit(model, x, start, tol=0.0, max_steps=int(kept.n_steps))
    assert int(kept.n_steps) >= 2
    np.testing.assert_allclose(kept.log_lik, want.log_lik, rtol=1e-10)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ((row for row in [np.ones((3, 2))]), "source: a generator can be read only once"),
        ([], "source: expected at least one row"),
        (3.5, "source: expected arrays with slices"),
        (np.ones((0, 2)), "source: expected parts of one length above 0"),
        ((np.ones((3, 2)), np.ones(4)), "source: expected parts of one length"),
    ],
)
def test_sources_that_are_none(source, message):
    model = jaxem.gaussian_mixture(2)
    start = model.init(KEY, groups(50, 2, 2))
    with pytest.raises(ValueError, match=message):
        jaxem.fit_stream(model, source, start)


def test_a_bad_row_is_named_with_its_source():
    x = groups(200, 2, 2)
    model = jaxem.gaussian_mixture(2)
    start = model.init(KEY, x)
    bad = x.copy()
    bad[150, 0] = np.nan
    with pytest.raises((ValueError, jaxem.SourceError), match="NaN or infinite"):
        jaxem.fit_stream(model, pieces_of(bad, 100), start)


def test_an_interrupted_stream_goes_on_from_its_checkpoint(float64, tmp_path):
    x = groups(200, 2, 2)
    model = jaxem.gaussian_mixture(2)
    start = model.init(KEY, x)
    options = dict(tol=1e-9, chunk_size=70)
    want = jaxem.fit_stream(model, x, start, **options)
    seen = []

    def stop(progress):
        seen.append(progress)
        return len(seen) == 3

    cut = jaxem.fit_stream(model, x, start, callback=stop, checkpoint=tmp_path / "fit", **options)
    assert Status(int(cut.status)) == Status.INTERRUPTED
    again = jaxem.fit_stream(model, x, start, checkpoint=tmp_path / "fit", **options)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), again, want)


def test_online_em_finds_the_groups(float64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 2)) + 4 * rng.integers(3, size=(3000, 1))
    model = jaxem.gaussian_mixture(3)
    start = jaxem.fit_restarts(model, x[:300], KEY, n_restarts=8).best.params
    exact = jaxem.fit(model, x, start)
    online = jaxem.fit_stream(model, x, start, algorithm=jaxem.OnlineEM(batch_size=100), max_steps=4, chunk_size=1000)
    assert int(online.n_steps) <= 4
    assert float(exact.log_lik - online.log_lik) / len(x) < 2e-3
    np.testing.assert_allclose(online.log_lik, model.log_prob(online.params, x).sum(), rtol=1e-10)
    # And EM goes on from there.
    end = jaxem.fit_stream(model, x, online.params, chunk_size=1000)
    np.testing.assert_allclose(end.log_lik, exact.log_lik, rtol=1e-6)


def test_going_on_with_new_rows(float64):
    x = np.random.default_rng(0).permutation(groups(2000, 2, 3)) + 50.0
    model = jaxem.gaussian_mixture(3)
    state = start = model.init(KEY, x[:500])
    for rows in np.split(x, 10):
        state = jaxem.fit_partial(model, rows, state, algorithm=jaxem.OnlineEM(batch_size=100))
    exact = jaxem.fit(model, x, start)
    assert float(exact.log_lik - model.log_prob(state.params, x).sum()) / len(x) < 5e-3


def test_online_em_is_for_streams():
    x = groups(50, 2, 2)
    model = jaxem.gaussian_mixture(2)
    with pytest.raises(ValueError, match="it is for fit_stream"):
        jaxem.fit(model, x, model.init(KEY, x), algorithm=jaxem.OnlineEM())
