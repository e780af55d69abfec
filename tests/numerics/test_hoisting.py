"""What a chunk of rows does not change is computed once for all chunks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from small_data import groups

import jaxem
from jaxem.engine.expectation import make_problem
from jaxem.numerics.chunks import map_in_batches, scan_sum
from jaxem.numerics.hoisting import hoisted


def primitives(jaxpr):
    """Names of all primitives of a jaxpr, inner ones too."""
    names = set()
    for eqn in jaxpr.eqns:
        names.add(eqn.primitive.name)
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda p: hasattr(p, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            names |= primitives(inner) if hasattr(inner, "eqns") else set()
    return names


def rows_times(shared, x):
    """Something of the shared values alone, of rows alone, and of both."""
    scale = jnp.exp(shared["log_scale"])
    return (jnp.sin(x) * scale).sum(0), jnp.tanh(shared["offset"]).sum() + jnp.zeros(3)


SHARED = {"log_scale": jnp.array([0.1, -0.3]), "offset": jnp.array(0.5)}


def test_what_depends_on_shared_values_alone_is_kept():
    x = jnp.arange(6.0).reshape(3, 2)
    kept, rest = hoisted(rows_times, SHARED, x)
    inside = primitives(jax.make_jaxpr(rest)(kept, x).jaxpr)
    assert "sin" in inside
    assert not {"exp", "tanh"} & inside
    for got, want in zip(rest(kept, x + 1), rows_times(SHARED, x + 1), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_what_is_as_long_as_a_chunk_is_made_anew():
    def function(shared, x):
        return (jnp.broadcast_to(jnp.exp(shared), (1000, *shared.shape)) * x).sum(0)

    kept, rest = hoisted(function, jnp.ones(2), jnp.ones((1000, 2)))
    assert sum(leaf.size for leaf in kept) <= 4
    np.testing.assert_allclose(rest(kept, jnp.ones((1000, 2))), np.full(2, 1000 * np.e), rtol=1e-5)


def test_sums_over_chunks_have_derivatives_and_batches():
    x = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)

    def total(log_scale):
        return scan_sum(rows_times, {**SHARED, "log_scale": log_scale}, x)[0]

    plain = sum(rows_times(SHARED, piece)[0] for piece in x)
    np.testing.assert_allclose(total(SHARED["log_scale"]), plain, rtol=1e-5)
    check_grads(total, (SHARED["log_scale"],), order=1, modes=("fwd", "rev"), rtol=1e-2)
    many = jnp.stack([SHARED["log_scale"], 2 * SHARED["log_scale"]])
    np.testing.assert_allclose(jax.vmap(total)(many), [total(each) for each in many], rtol=1e-5)


@pytest.mark.parametrize(("n", "batch"), [(1, 4), (4, 4), (5, 4), (10, 4), (7, 1)])
def test_batches_have_one_size(n, batch):
    """`lax.map` compiles what is mapped a second time where the last batch is shorter."""
    keys, numbers = jax.random.split(jax.random.key(0), n), jnp.arange(n)
    traced = []

    def one(each):
        return jax.random.uniform(each[0]) + each[1]

    def batched(each):
        traced.append(each)
        return one(each)

    found = map_in_batches(batched, (keys, numbers), batch)
    np.testing.assert_array_equal(found, jax.vmap(one)((keys, numbers)))
    assert len(traced) == 1


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_no_factor_is_computed_for_every_chunk(covariance):
    """A Gaussian's square roots and logarithms of determinants are of params alone."""
    x = jnp.asarray(groups(64, 5), jnp.float32)
    model = jaxem.gaussian_mixture(3, covariance=covariance)
    params = model.init(jax.random.key(0), x)
    problem = make_problem(model, x, jnp.ones(64), 16).chunked()
    traced = jax.make_jaxpr(problem.expectation)(params).jaxpr
    (scan,) = [eqn for eqn in traced.eqns if eqn.primitive.name == "scan" and eqn.params["length"] == 4]
    inside = primitives(scan.params["jaxpr"].jaxpr)
    assert {"dot_general", "exp"} <= inside
    assert not {"sqrt", "while"} & inside
    assert {"sqrt"} <= primitives(traced) or covariance == "diag"
