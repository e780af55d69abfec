"""What every model is: a frozen pytree whose methods say what they need; and examples in docstrings that run."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from zoo import COVERED_BY_OTHERS, ZOO

import jaxem
from jaxem.contract.constraints import movable, violations
from jaxem.contract.model import Model


@pytest.mark.parametrize("row", ZOO, ids=lambda row: row.name)
def test_a_model_is_a_frozen_pytree(row):
    leaves, structure = jax.tree.flatten(row.model)
    again = jax.tree.unflatten(structure, leaves)
    assert again == row.model
    # Equal models are one key of jax's caches; structure holds no closure that would make them differ.
    assert hash(structure) == hash(jax.tree.structure(again))
    with pytest.raises(dataclasses.FrozenInstanceError):
        row.model.n_components = 5


def test_different_models_are_different_keys():
    """Of jax's caches: what is compiled for one is never found for another."""
    structures = {str(row.model): jax.tree.structure(row.model) for row in ZOO}
    assert all(a != b for a, b in itertools.combinations(structures.values(), 2))


@pytest.mark.parametrize("row", ZOO, ids=lambda row: row.name)
def test_starts(row):
    """The same key gives the same bits, and starts are valid params."""
    params, again = (row.model.init(jax.random.key(7), row.data()) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, params, again)
    assert violations(row.model, params) == []


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=pytest.mark.slow if row.name in COVERED_BY_OTHERS else (), id=row.name) for row in ZOO],
)
def test_draws(row):
    """The same key gives the same bits, and what is drawn from the params of a start is data like x."""
    if row.name == "censored":
        pytest.skip("It is not known when a time that ended would have been censored.")
    model, x = row.model, row.data()
    params = model.init(jax.random.key(7), x)
    draws, more = (model.sample_like(params, jax.random.key(1), x) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, draws, more)
    assert jax.tree.map(np.shape, draws) == jax.tree.map(np.shape, model.rows(x))
    missing = jax.tree.map(np.isnan, model.rows(x)), jax.tree.map(np.isnan, draws)
    jax.tree.map(np.testing.assert_array_equal, *missing)
    assert np.isfinite(model.log_prob(params, draws)).all()


@pytest.mark.parametrize("row", ZOO, ids=lambda row: row.name)
def test_degrees_of_freedom_are_those_of_the_unconstrained_vector(row):
    params = jax.eval_shape(row.model.init, jax.random.key(0), jax.tree.map(np.float32, row.data()))
    free = jax.eval_shape(lambda params: jaxem.unconstrain(row.model, params), params)
    moves = movable(row.model, jax.tree.map(lambda leaf: np.zeros(leaf.shape), free))
    assert jaxem.n_free_params(row.model, params) == sum(int(leaf.sum()) for leaf in jax.tree.leaves(moves))


@pytest.mark.parametrize("row", [row for row in ZOO if row.name.endswith("2d")][:2], ids=lambda row: row.name)
def test_sample_then_fit_is_the_same_model(row, float64):
    params = row.model.init(jax.random.key(0), row.data())
    x = row.model.sample(params, jax.random.key(1), 4000)
    fit = jaxem.fit(row.model, x, params, tol=1e-6, max_steps=100)
    held_out = row.model.sample(params, jax.random.key(2), 4000)
    # Both are close to the truth in the only coordinates that matter: densities of new rows.
    gap = row.model.log_prob(params, held_out) - row.model.log_prob(fit.params, held_out)
    assert abs(gap.mean()) < 0.01


@pytest.mark.parametrize("name", ["init", "e_step", "sufficient_statistics", "maximize", "constraints", "sample"])
def test_what_is_not_written_yet_says_its_name(name):
    class Sketch(Model):
        pass

    arguments = {"init": 2, "e_step": 2, "sufficient_statistics": 2, "maximize": 1, "constraints": 0, "sample": 3}
    with pytest.raises(NotImplementedError, match=rf"{name}: Sketch"):
        getattr(Sketch(), name)(*[None] * arguments[name])


def test_steps_say_what_they_cannot_do():
    plain = jaxem.from_steps(lambda params, x: (x, x), lambda resp, x: resp.mean())
    with pytest.raises(ValueError, match=r"start: .*init"):
        plain.init(jax.random.key(0), np.ones(3))
    with pytest.raises(ValueError, match="constraints"):
        plain.constraints()
    with pytest.raises(ValueError, match="maximize"):
        plain.maximize(None)
