"""The law over entry points: every public way to fit gives the same params and the same objective.

And what is asked afterwards is answered as the fit did: float32 answers as float64 does, far from the origin too. The
reference is `jaxem.fit` in float64 from the same start with the same number of steps. A default run takes the core rows
of the zoo and, of the others, those of the day (`rotation.py`); `pytest tests/laws -m slow` takes all.
"""

import jax
import numpy as np
import pytest
import rotation
from entry_points import ENTRY_POINTS, LOG_LIK, SITUATIONS, Case, on_host, wide
from questions import DRAWN, QUESTIONS, Asked
from zoo import ZOO

import jaxem

#: How far params may be from those of float64, in standard units and relative to the largest entry of a leaf.
PARAMS = 1e-4

#: The same where rows or params are float32 at 1e4 standard deviations: that moves a mean by up to 5e-4 of them.
ROUNDED = 2e-3

#: How far log densities may be from those that float64 has at the same params, relative to them and per row; and
#: probabilities.
DENSITIES, PROBABILITIES = 1e-5, 1e-5

#: Params are of order 1 in standard units; a leaf far below this is rounding.
SMALL = 1e-2


#: The last case and its names: it is made once for all of its entry points and questions.
LATEST = {}


def case_of(row, situation):
    """The case of a row in a situation. Rows cannot be keys: some models hold arrays."""
    names = row.name, situation.name
    if names not in LATEST:
        LATEST.clear()
        LATEST[names] = Case(row, situation)
    return LATEST[names]


def asked(case):
    """The fit of a case, with its data, as a person asks about them."""
    model, x = case.joined()
    return Asked(model, x, case.weights, case.result, case.start, case.key)


def asked_in_float64(case):
    """The same params, to be asked about in float64."""
    model, x = case.joined(case.wide_model, case.wide_x)
    result = case.result._replace(params=wide(case.result.params), log_lik=np.float64(case.result.log_lik))
    return Asked(model, x, case.weights, result, case.start, case.key)


def off_by(got, want, least=SMALL):
    """(the largest difference of two trees relative to the largest entry of each leaf of `want`, where it is)."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    worst, where = 0.0, ""
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True):
        assert np.shape(a) == np.shape(b), jax.tree_util.keystr(path)
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        with np.errstate(invalid="ignore"):
            apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0, np.abs(a - b))
        finite = np.abs(b[np.isfinite(b)])
        share = float(np.nan_to_num(apart, nan=np.inf).max(initial=0)) / max(finite.max(initial=0), least)
        if share > worst:
            worst, where = share, jax.tree_util.keystr(path)
    return worst, where


def assert_close(got, want, tol, least=SMALL):
    worst, where = off_by(got, want, least)
    assert worst <= tol, f"{where}: {worst:.1e} off, where {tol:.0e} are allowed"


def params_tolerance(case, on_device=False):
    """How far params may be off in this case."""
    return ROUNDED if case.situation.far and (on_device or case.situation.dtype == "float32") else PARAMS


def assert_near(name, got, want, tol, weight):
    """Totals in nats of rows of a total weight: the same, relative to themselves and per row."""
    off = abs(float(got) - float(want))
    assert off <= tol * (abs(float(want)) + weight), f"{name}: {got}, not {want}"


def assert_same_fit(case, found, reference, on_device):
    """The same params, the same objective, and a log-likelihood that is that of the params."""
    tol = params_tolerance(case, on_device)
    # Rounding moves a location by so much of a standard deviation, however near to 0 it is.
    least = SMALL if tol == PARAMS else 1.0
    assert_close(case.in_standard_units(found.params), case.in_standard_units(reference.params), tol, least)
    if found.log_lik is None:
        return
    # A start that was drawn, or put on the device, is known as it was rounded; the other fit begins elsewhere.
    of_start = LOG_LIK if tol == PARAMS or not (on_device or found.start is not None) else ROUNDED
    assert_near("log_lik", found.log_lik, reference.log_lik, of_start, case.total_weight)
    assert_near("objective", found.objective, reference.objective, of_start, case.total_weight)
    of_params = case.total(case.wide_log_prob(found.params))
    assert_near("log_lik", found.log_lik, of_params, LOG_LIK if tol == PARAMS else ROUNDED, case.total_weight)


# --- how answers are compared ----------------------------------------


def _close_params(case, got, want):
    assert_close(case.in_standard_units(got), case.in_standard_units(want), params_tolerance(case))


def _close_densities(case, got, want):
    assert_close(got, want, DENSITIES, least=1.0)


def _close_probabilities(case, got, want):
    assert_close(got, want, PROBABILITIES, least=1.0)


def _equal(case, got, want):
    np.testing.assert_array_equal(got, want)


def _close_numbers(case, got, want):
    assert_near("answer", got, want, DENSITIES, case.total_weight)


def _close_rows(case, got, want):
    assert_close(*(_by_columns(case, answer) for answer in (got, want)), params_tolerance(case), least=1.0)


def _by_columns(case, rows):
    """Arrays [..., d] less the means of the data's columns, in their standard deviations."""
    columns = []
    for leaf, of_data in zip(jax.tree.leaves(rows), jax.tree.leaves(case.model.rows(case.x)), strict=False):
        leaf, of_data = np.asarray(leaf, np.float64), np.asarray(of_data, np.float64)
        axes = tuple(range(of_data.ndim - 1)) if of_data.ndim > 1 else 0
        finite = np.where(np.isfinite(of_data), of_data, np.nan)
        spread = np.nanstd(finite, axes)
        columns.append((leaf - np.nanmean(finite, axes)) / np.where(spread > 0, spread, 1))
    return columns


def _close_draws(case, got, want):
    assert_close(_by_columns(case, got), _by_columns(case.twin, want), params_tolerance(case), least=1.0)


def _close_starts(case, got, want):
    for far, near in zip(got, want, strict=True):
        near = case.twin.log_prob_in_standard_units(near)
        assert_close(case.log_prob_in_standard_units(far), near, params_tolerance(case), least=1.0)


COMPARED = {
    "params": _close_params,
    "densities": _close_densities,
    "probabilities": _close_probabilities,
    "values": _equal,
    "numbers": _close_numbers,
    "rows": _close_rows,
    "draws": _close_draws,
    "starts": _close_starts,
}


# --- the law ----------------------------------------


def check_all(law, case, entries):
    """law(case, entry) for every entry of a table; all that fail are named."""
    failures = []
    for entry in entries:
        try:
            law(case, entry)
        except Exception as error:
            error.add_note(f"That was {entry.name} for {case.row.name}, {case.situation.name}.")
            failures.append(error)
    if len(failures) > 1:
        raise ExceptionGroup(f"{len(failures)} of {len(entries)} fail", failures)
    if failures:
        raise failures[0]


def test_every_way_to_fit_gives_the_same(row, situation, entries):
    check_all(_fits_as_in_float64, case_of(row, situation), entries)


def _fits_as_in_float64(case, entry):
    found = entry.run(case)
    assert_same_fit(case, found, case.reference(entry.steps, found.start), entry.on_device)


def test_answers_are_those_of_float64(row, situation, entries):
    check_all(_answers_as_in_float64, case_of(row, situation), entries)


def _answers_as_in_float64(case, question):
    answer = question.ask(asked(case))
    with jax.enable_x64(True):
        want = on_host(question.ask(asked_in_float64(case)))
    COMPARED[question.like](case, answer, want)
    if question.name == "log_prob":
        assert_near("log_lik", case.result.log_lik, case.total(answer), params_tolerance(case), case.total_weight)


def test_draws_are_those_near_the_origin_moved(row, situation, entries):
    check_all(_draws_as_near_the_origin, case_of(row, situation), entries)


def _draws_as_near_the_origin(case, question):
    COMPARED[question.like](case, question.ask(asked(case)), question.ask(asked(case.twin)))


# --- which cases a run takes ----------------------------------------

#: The entries that each of these tests is for.
TABLES = {
    test_every_way_to_fit_gives_the_same: ENTRY_POINTS,
    test_answers_are_those_of_float64: QUESTIONS,
    test_draws_are_those_near_the_origin_moved: DRAWN,
}


def pytest_generate_tests(metafunc):
    if metafunc.function in TABLES:
        cases = _cases(TABLES[metafunc.function], metafunc.config.getoption("--laws-day"))
        metafunc.parametrize(("row", "situation", "entries"), cases)


def _cases(table, day):
    """A case for every entry that a default run takes, and a slow one for the others of a row in a situation."""
    cases = []
    for row in ZOO:
        suited = [each for each in SITUATIONS if each.suits(row)]
        seen = set()
        for situation in suited:
            entries = [entry for entry in table if entry.suits(row, situation)]
            chosen = [entry for entry in entries if _in_default_run(entry, row, entry.name not in seen, day)]
            seen |= {entry.name for entry in entries}
            others = tuple(entry for entry in entries if entry not in chosen)
            name = f"{row.name}-{situation.name}"
            cases += [pytest.param(row, situation, (entry,), id=f"{name}-{entry.name}") for entry in chosen]
            if others:
                cases.append(pytest.param(row, situation, others, marks=pytest.mark.slow, id=name))
    return cases


#: Core rows that another core row stands for.
SIMILAR = ("gaussian-diag-2d",)


def _in_default_run(entry, row, first, day):
    """All entries of core rows, `fit` and `log_prob` of the rows of the day: each in the first situation it suits."""
    if day == rotation.ALL:
        return True
    of_the_day = rotation.day_of(row.name, "float32") == day and entry.name in ("fit", "log_prob")
    return first and ((row.core and row.name not in SIMILAR) or of_the_day)


# --- what was reported ----------------------------------------


def test_two_levels_in_posix_seconds():
    """A chain whose levels lie 100 apart at 1.7e9, where float32 holds multiples of 128."""
    rng = np.random.default_rng(0)
    states = np.repeat(rng.permuted(np.arange(30) % 2), 8)
    x = 1.7e9 + 100.0 * states[:, None] + rng.normal(scale=10.0, size=(len(states), 1))
    model = jaxem.gaussian_hmm(2)
    result = jaxem.fit(model, x, model.init(jax.random.key(0), x))
    with jax.enable_x64(True):
        wide_result = jaxem.fit(model, x, result.params)
        posterior = np.asarray(model.posterior(wide_result.params, x))
    log_lik = float(wide_result.log_lik)
    assert float(result.log_lik) == pytest.approx(log_lik, rel=LOG_LIK)
    assert float(model.log_prob(result.params, x).sum()) == pytest.approx(log_lik, rel=LOG_LIK)
    path = np.asarray(model.decode(result.params, x))
    assert (path == states).all() or (path == 1 - states).all()
    np.testing.assert_array_equal(model.predict(result.params, x), path)
    np.testing.assert_allclose(model.posterior(result.params, x), posterior, atol=1e-3)
    levels = np.sort(np.unique(np.round(np.asarray(model.sample(result.params, jax.random.key(1), 1)) - 1.7e9, -2)))
    np.testing.assert_array_equal(levels, [0.0, 100.0])


def test_the_comparison_of_algorithms_speaks_of_the_data():
    """Means of Old Faithful in minutes, not in standard deviations."""
    x, model = jaxem.datasets.old_faithful(), jaxem.gaussian_mixture(2)
    restarts = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=2, max_steps=0).all.params
    compared = jaxem.compare_algorithms(model, x, restarts, {"EM": jaxem.EM()}, tol=1e-8, repeats=1)
    (trace,) = compared.traces
    means = np.sort(trace.fits.params.components.mean, axis=1)
    np.testing.assert_allclose(means, np.broadcast_to([[2.04, 54.48], [4.29, 79.97]], means.shape), atol=0.01)
    best = jaxem.fit_restarts(model, x, None, start=restarts, tol=1e-8, max_steps=1000).best
    assert compared.best == pytest.approx(float(best.objective), rel=LOG_LIK)
