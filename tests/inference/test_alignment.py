"""Renumbering of components: any permutation is undone, ties and failed fits stay as they are."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxem
from jaxem.contract.model import Model, model_class

X = jaxem.datasets.old_faithful()


def four_components(covariance="full"):
    """Four overlapping components with means that no single coordinate sorts."""
    mean = jnp.array([[2.0, 55.0], [4.3, 80.0], [2.1, 80.0], [4.2, 56.0]])
    cov = {
        "full": jnp.broadcast_to(jnp.diag(jnp.array([0.2, 40.0])), (4, 2, 2)),
        "tied": jnp.diag(jnp.array([0.2, 40.0])),
    }
    params = jaxem.MixtureParams(jnp.array([0.3, 0.3, 0.2, 0.2]), jaxem.GaussianParams(mean, cov[covariance]))
    return jaxem.gaussian_mixture(4, covariance=covariance), params


@pytest.mark.parametrize("covariance", ["full", "tied"])
@pytest.mark.parametrize("rows", ["given", "drawn"])
def test_every_permutation_is_undone(covariance, rows):
    model, reference = four_components(covariance)
    orders = jnp.array(list(itertools.permutations(range(4))))
    shuffled = jax.vmap(model.permute, (None, 0))(reference, orders)
    aligned, found = jaxem.align(model, shuffled, reference, X if rows == "given" else None)
    assert (jnp.take_along_axis(orders, found, axis=1) == jnp.arange(4)).all()
    for leaf, want in zip(jax.tree.leaves(aligned), jax.tree.leaves(reference), strict=True):
        assert (leaf == want).all()


def test_one_fit_and_many_agree_under_jit():
    model, reference = four_components()
    noisy = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf * 1.01]), reference)
    noisy = jax.vmap(model.permute)(noisy, jnp.array([[3, 1, 0, 2], [1, 2, 3, 0]]))
    many, orders = jaxem.align(model, noisy, reference, X)
    assert orders.tolist() == [[2, 1, 3, 0], [3, 0, 1, 2]]
    for r in range(2):
        single = jax.tree.map(lambda leaf, r=r: leaf[r], noisy)
        one, order = jax.jit(jaxem.align)(model, single, reference, X)
        assert (order == orders[r]).all()
        assert all((a == b[r]).all() for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True))
    nested, twice = jaxem.align(model, jax.tree.map(lambda leaf: leaf[None], noisy), reference, X)
    assert twice.shape == (1, 2, 4)
    assert nested.weights.shape == (1, 2, 4)


def test_the_assignment_is_the_best_of_all():
    """Against enumeration, for params that are no permutation of the reference."""
    model, reference = four_components()
    for seed in range(5):
        params = model.init(jax.random.key(seed), X)
        order = jaxem.align(model, params, reference, X).order
        target, resp = model.posterior(reference, X), model.posterior(params, X)
        distance = {p: float(((target - resp[:, jnp.array(p)]) ** 2).sum()) for p in itertools.permutations(range(4))}
        assert distance[tuple(order.tolist())] <= min(distance.values()) * (1 + 1e-4)


@pytest.mark.slow
def test_restarts_at_one_optimum_agree_after_aligning(float64):
    model = jaxem.gaussian_mixture(3, covariance="tied")
    best, every = jaxem.fit_restarts(model, X, jax.random.key(0), n_restarts=64, tol=1e-12, max_steps=5000)
    aligned, orders = jaxem.align(model, every.params, best.params, X)
    same = np.asarray(jaxem.optima(every)[0].restarts)
    assert len(same) > 20
    assert len(set(map(tuple, orders[same].tolist()))) == 6  # chance had numbered them in every possible way
    assert np.abs(every.params.weights[same] - best.params.weights).max() > 0.1
    for leaf, want in zip(jax.tree.leaves(aligned), jax.tree.leaves(best.params), strict=True):
        spread = np.abs(leaf[same] - want).max()
        assert spread < 1e-3 * np.abs(want).max()


def test_ties_and_failed_fits_keep_their_numbers():
    model, reference = four_components()
    twins = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape), reference)._replace(
        weights=jnp.full(4, 0.25)
    )
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, reference)
    swapped = model.permute(reference, jnp.array([1, 0, 2, 3]))
    lanes = jax.tree.map(lambda *leaves: jnp.stack(leaves), twins, broken, swapped)
    aligned, orders = jaxem.align(model, lanes, reference, X)
    assert orders.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [1, 0, 2, 3]]
    assert jnp.isnan(aligned.weights[1]).all()
    # Two equal components in the reference: the others are matched, the twins keep their order.
    reference = model.permute(reference, jnp.array([0, 1, 1, 3]))
    params = model.permute(reference, jnp.array([3, 1, 2, 0]))
    assert jaxem.align(model, params, reference, X).order.tolist() == [3, 1, 2, 0]


def test_one_component_and_rows_far_from_every_component():
    model = jaxem.gaussian_mixture(1)
    params = model.init(jax.random.key(0), X)
    assert jaxem.align(model, params, params, X).order.tolist() == [0]
    model, reference = four_components()
    shuffled = model.permute(reference, jnp.array([2, 3, 1, 0]))
    far = np.concatenate([X, [[1e25, -1e25]]])
    assert jaxem.align(model, shuffled, reference, far).order.tolist() == [3, 2, 0, 1]


@model_class
class Sampleless(Model):
    """A model of two groups of a line that cannot draw rows."""

    def e_step(self, params, x):
        resp = jax.nn.softmax(-((x[:, None] - params) ** 2), -1)
        return jaxem.EStep(resp, x)

    def permute(self, params, order):
        return params[order]


def test_any_model_with_a_posterior_will_do():
    model, reference, x = Sampleless(), jnp.array([-1.0, 2.0]), np.linspace(-3, 3, 20)
    assert jaxem.align(model, reference[::-1], reference, x).order.tolist() == [1, 0]
    with pytest.raises(ValueError, match="x: expected rows, because Sampleless cannot sample them; got None"):
        jaxem.align(model, reference[::-1], reference)


def test_unusable_arguments_are_named():
    model, reference = four_components()
    fewer = jax.tree.map(lambda leaf: leaf[:3], reference)
    with pytest.raises(
        ValueError,
        match=r"params: expected a leaf of shape \(4,\), as in reference, after any leading axes; got \(3,\)",
    ):
        jaxem.align(model, fewer, reference, X)
    with pytest.raises(ValueError, match="params: expected the structure of reference"):
        jaxem.align(model, reference.components, reference, X)
    with pytest.raises(ValueError, match="reference: mean has shape"):
        jaxem.align(model, reference, reference, X[:, :1])
    result = jaxem.Result(reference, *[jnp.zeros(())] * 7)
    with pytest.raises(ValueError, match="params: expected params; got a Result"):
        jaxem.align(model, result, reference, X)
