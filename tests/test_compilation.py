"""Compiler options change how long a call takes, and nothing else."""

import jax.numpy as jnp
import numpy as np
import pytest
from small_data import groups

import jaxem
from jaxem import compilation
from jaxem.compilation import FEW_FEATURES, MANY_COLUMNS, SMALL, Program, Work

LARGE = Work(2 * SMALL, MANY_COLUMNS, FEW_FEATURES)


@pytest.mark.parametrize(
    ("work", "dtype", "variant"),
    [
        (Work(SMALL), np.float32, 0),
        (LARGE, np.float32, 2),
        (LARGE, np.float64, 1),
        (LARGE._replace(params=MANY_COLUMNS - 1), np.float32, 1),
        (LARGE._replace(row=FEW_FEATURES + 1), np.float32, 1),
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
    monkeypatch.setattr(compilation, "VARIANTS", ({"no_such_option": True},) * 3)
    compilation._known.cache_clear()
    try:
        program = Program(lambda x: x + 1, work=lambda x: LARGE)
        assert int(program(jnp.int32(1))) == 2
    finally:
        compilation._known.cache_clear()
