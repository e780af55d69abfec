"""The law over entry points: every public way to fit gives the same params and the same objective.

And what is asked afterwards is answered as the fit did: float32 answers as float64 does, far from the origin too. The
reference is `jaxem.fit` in float64 from the same start with the same number of steps. A default run takes the core rows
of the zoo and, of the others, those of the day (`rotation.py`); `pytest tests/laws -m slow` takes all.
"""

import functools
import itertools

import jax
import numpy as np
import pytest
import rotation
from entry_points import ENTRY_POINTS, LOG_LIK, SITUATIONS, Case, on_host, wide
from questions import DRAWN, QUESTIONS, Asked
from zoo import ZOO

#: How far params may be from those of float64, in standard units and relative to the largest entry of a leaf.
#: Rounding a mean at 1e4 standard deviations to float32 moves it by up to 5e-4 of them.
PARAMS = 2e-3

#: How far log densities and probabilities may be from those that float64 has at the same params: of a row, and of all.
PER_ROW, PROBABILITIES = 1e-4, 1e-3

#: Params are of order 1 in standard units; a leaf far below this is rounding.
SMALL = 1e-2


@functools.lru_cache(maxsize=2)
def case_of(row, situation):
    """The case, made once for all of its entry points and questions."""
    return Case(row, situation)


def asked(case):
    """The fit of a case, with its data, as a person asks about them."""
    model, x = case.joined()
    return Asked(model, x, case.weights, case.result, case.starts[1], case.key)


def asked_in_float64(case):
    """The same params, to be asked about in float64."""
    model, x = case.joined(case.wide_model, case.wide_x)
    result = case.result._replace(params=wide(case.result.params), log_lik=np.float64(case.result.log_lik))
    return Asked(model, x, case.weights, result, case.starts[1], case.key)


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


def assert_same_fit(case, found, reference):
    """The same params, the same objective, and a log-likelihood that is that of the params."""
    assert_close(case.in_standard_units(found.params), case.in_standard_units(reference.params), PARAMS)
    for name in ("log_lik", "objective"):
        got, want = getattr(found, name), getattr(reference, name)
        if got is not None:
            off = abs(float(got) - float(want))
            assert off <= LOG_LIK * (abs(float(want)) + case.total_weight), f"{name}: {got}, not {want}"
    if found.log_lik is not None:
        assert_is_log_lik(case, found.log_lik, case.wide_log_lik(found.params))


def assert_is_log_lik(case, said, computed):
    allowed = PER_ROW * (abs(float(said)) + case.total_weight)
    assert abs(float(said) - computed) <= allowed, f"log_lik is {float(said)}, and {computed} at the params"


# --- how answers are compared -------------------------------------------------------------------------------------------


def _close_params(case, got, want):
    assert_close(case.in_standard_units(got), case.in_standard_units(want), PARAMS)


def _close_densities(case, got, want):
    assert_close(got, want, PER_ROW, least=1.0)


def _close_probabilities(case, got, want):
    assert_close(got, want, PROBABILITIES, least=1.0)


def _equal(case, got, want):
    np.testing.assert_array_equal(got, want)


def _close_numbers(case, got, want):
    off = abs(float(got) - float(want))
    assert off <= PER_ROW * (abs(float(want)) + case.total_weight), f"{got}, not {want}"


def _close_rows(case, got, want):
    assert_close(*(_by_columns(case, answer) for answer in (got, want)), PARAMS, least=1.0)


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
    assert_close(_by_columns(case, got), _by_columns(case.twin, want), PARAMS, least=1.0)


def _close_starts(case, got, want):
    for far, near in zip(got, want, strict=True):
        assert_close(case.in_standard_units(far), case.twin.in_standard_units(near), PARAMS)


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


# --- which cases a run takes --------------------------------------------------------------------------------------------


def _in_default_run(row, situation, name, day):
    """Core rows far away with all entry points and questions; the others of the day with `fit` and one more."""
    if day == rotation.ALL:
        return True
    if situation is not SITUATIONS[0]:
        return row.core and name == "fit"
    return row.core or (name == "fit" and rotation.day_of(row.name, "float32") == day)


def _cases(table, day, suits):
    """Every row in every situation it suits, with every entry of a table that suits both."""
    cases = []
    for row, situation, entry in itertools.product(ZOO, SITUATIONS, table):
        if situation.suits(row) and suits(entry, row, situation):
            marks = () if _in_default_run(row, situation, entry.name, day) else pytest.mark.slow
            name = f"{row.name}-{situation.name}-{entry.name}"
            cases.append(pytest.param(row, situation, entry, marks=marks, id=name))
    return cases


def pytest_generate_tests(metafunc):
    day = metafunc.config.getoption("--laws-day")
    if metafunc.function is test_every_way_to_fit_gives_the_same:
        cases = _cases(ENTRY_POINTS, day, lambda entry, row, situation: entry.suits(row, situation))
        metafunc.parametrize(("row", "situation", "entry"), cases)
    elif metafunc.function is test_answers_are_those_of_float64:
        cases = _cases(QUESTIONS, day, lambda entry, row, situation: entry.suits(row.model))
        metafunc.parametrize(("row", "situation", "question"), cases)
    elif metafunc.function is test_draws_are_those_near_the_origin_moved:
        cases = _cases(DRAWN, day, lambda entry, row, situation: entry.suits(row.model))
        metafunc.parametrize(("row", "situation", "question"), cases)


# --- the law ------------------------------------------------------------------------------------------------------------


def test_every_way_to_fit_gives_the_same(row, situation, entry):
    case = case_of(row, situation)
    found = entry.run(case)
    assert_same_fit(case, found, case.reference(entry.steps, found.start))


def test_answers_are_those_of_float64(row, situation, question):
    case = case_of(row, situation)
    answer = question.ask(asked(case))
    with jax.enable_x64(True):
        want = on_host(question.ask(asked_in_float64(case)))
    COMPARED[question.like](case, answer, want)


def test_draws_are_those_near_the_origin_moved(row, situation, question):
    case = case_of(row, situation)
    COMPARED[question.like](case, question.ask(asked(case)), question.ask(asked(case.twin)))
