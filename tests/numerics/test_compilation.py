"""Compiler options change how long a call takes, and nothing else."""

from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_data import groups

import jaxem
from jaxem.numerics import compilation
from jaxem.numerics.compilation import FEW_FEATURES, MANY_COLUMNS, SMALL, Program, Work
from jaxem.testing import count_compilations

LARGE = Work(2 * SMALL, MANY_COLUMNS, FEW_FEATURES)


@pytest.mark.parametrize(
    ("work", "dtype", "variant"),
    [
        (Work(SMALL), np.float32, 0),
        (LARGE, np.float32, 2),
        (LARGE, np.float64, 1),
        (LARGE._replace(params=MANY_COLUMNS - 1), np.float32, 1),
        (LARGE._replace(row=FEW_FEATURES + 1), np.float32, 1),
        (LARGE._replace(once=True), np.float64, 3),
        (Work(SMALL, once=True), np.float64, 0),
    ],
)
def test_options_go_by_shapes_and_dtypes(work, dtype, variant):
    assert compilation._variant(work, (np.zeros(3, dtype),)) == variant


@pytest.mark.parametrize("variant", range(len(compilation.VARIANTS)))
def test_answers_do_not_depend_on_options(variant, monkeypatch):
    x = groups(200, 3).astype(np.float32)
    model = jaxem.gaussian_mixture(3)
    start = jaxem.MixtureParams(
        np.full(3, 1 / 3), jaxem.GaussianParams(x[:3].astype(float), np.tile(np.cov(x.T), (3, 1, 1)))
    )
    want = jaxem.fit(model, x, start, max_steps=5, tol=0.0)
    monkeypatch.setattr(compilation, "_variant", lambda work, args: variant)
    got = jaxem.fit(model, x, start, max_steps=5, tol=0.0)
    np.testing.assert_allclose(got.log_lik, want.log_lik, rtol=1e-5)
    np.testing.assert_allclose(got.params.components.mean, want.params.components.mean, rtol=1e-4, atol=1e-4)


def test_options_that_the_compiler_does_not_know_are_left_out(monkeypatch):
    monkeypatch.setattr(compilation, "VARIANTS", ({"no_such_option": True},) * 4)
    compilation._known.cache_clear()
    try:
        program = Program(lambda x: x + 1, work=lambda x: LARGE)
        assert int(program(jnp.int32(1))) == 2
    finally:
        compilation._known.cache_clear()


def test_programs_compiled_ahead_are_those_that_are_called():
    def fit():
        counts = np.abs(groups(173, 3)[:, 0]).round()
        start = jaxem.MixtureParams(np.full(13, 1 / 13), jaxem.PoissonParams(np.arange(1.0, 14)))
        return jaxem.fit(jaxem.poisson_mixture(13), counts, start, max_steps=3)

    with count_compilations() as first:
        fit()
    for name in ("_initialise", "iterate", "finish"):
        assert [name in program for program in first].count(True) == 1, first
    with count_compilations() as second:
        fit()
    assert not second


def test_a_program_ahead_says_what_a_call_returns():
    program = Program(lambda x: {"twice": 2 * x, "sum": x.sum()}, work=lambda x: LARGE)
    with ThreadPoolExecutor(1) as pool:
        shapes, compiled = program.ahead(pool, np.ones(3, np.float32))
    compiled.result()
    with count_compilations() as compilations:
        found = program(np.ones(3, np.float32))
    assert not compilations
    assert jax.tree.map(lambda s: (s.shape, s.dtype), shapes) == jax.tree.map(lambda a: (a.shape, a.dtype), found)
    assert float(found["sum"]) == 3
