"""The classics of EM that are not mixtures, each as two plain functions; published values and trajectories."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxem


def rao_e_step(theta, counts):
    """Rao (1965): the first of four cells is two, of which only the sum is seen."""
    cells = jnp.array([2 + theta, 1 - theta, 1 - theta, theta]) / 4
    return counts[0] * theta / (2 + theta), counts * jnp.log(cells)


def rao_m_step(hidden, counts):
    return (hidden + counts[3]) / (hidden + counts[1:].sum())


def abo_e_step(params, counts):
    """Clarke et al. (1959): genes A, B, O with frequencies p, q, r; groups A, B, AB, O are what is seen."""
    p, q, r = params
    groups = jnp.array([p * p + 2 * p * r, q * q + 2 * q * r, 2 * p * q, r * r])
    pure = counts[:2] * jnp.array([p, q]) / jnp.array([p + 2 * r, q + 2 * r])  # AA among A, BB among B
    return pure, counts * jnp.log(groups)


def abo_m_step(pure, counts):
    mixed = counts[:2] - pure
    genes = jnp.stack([*(2 * pure + mixed + counts[2]), mixed.sum() + 2 * counts[3]])
    return genes / genes.sum()


CASES = {
    "rao_linkage": (rao_e_step, rao_m_step, [125, 18, 20, 34], 0.5, 0.6268214978709824, -205.71588705),
    "abo": (
        *(abo_e_step, abo_m_step, [186, 38, 13, 284], [1 / 3] * 3),
        *([0.21359093908950366, 0.05014532886944852, 0.7362637320410479], -511.57146972),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_classics(name, float64):
    e_step, m_step, counts, start, params, log_lik = CASES[name]
    model = jaxem.from_steps(e_step, m_step)
    fit = jaxem.fit(model, np.array(counts, float), np.array(start), tol=1e-15)
    assert fit.converged
    np.testing.assert_allclose(fit.params, params, rtol=1e-7)
    np.testing.assert_allclose(fit.log_lik, log_lik, rtol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_trajectories(name, ground, float64):
    case = next(case for case in ground("families") if case["id"] == name)
    e_step, m_step, counts, start, *_ = CASES[name]
    coefficient = case["log_lik"] - case["log_lik_without_coefficient"]
    model, counts = jaxem.from_steps(e_step, m_step), np.array(counts, float)
    fit = jaxem.fit(model, counts, np.array(start), tol=0.0, max_steps=50)
    for t, expected in case["trace"].items():
        if t != "0":
            value = fit.history[min(int(t), int(fit.n_steps)) - 1] + coefficient
            np.testing.assert_allclose(value, expected["log_lik"], rtol=1e-8)
