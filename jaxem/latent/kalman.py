"""The Kalman filter and the Rauch-Tung-Striebel smoother of a linear Gaussian state space."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxem.contract.posterior import Posterior
from jaxem.contract.pytree import pytree_class
from jaxem.numerics import linalg
from jaxem.numerics.special import LOG_2PI


@pytree_class
class StateSpacePosterior(Posterior):
    """E[z_t | x] [n, t, q], its covariances [n, t, q, q], and those of (z_t+1, z_t) [n, t - 1, q, q]."""

    mean: Any
    cov: Any
    cross: Any


def smooth(params: Any, rows: Any, used: Any) -> Any:
    """The posterior of one sequence rows [t, d] and its log p(rows), from those rows that are `used` [t].

    Kalman (1960) in the information form, where d may be large; Rauch, Tung and Striebel (1965).
    """
    eye = jnp.eye(len(params.mean), dtype=rows.dtype)
    weighted = params.loadings / params.noise[:, None]
    information = params.loadings.T @ weighted
    constant = rows.shape[1] * LOG_2PI + jnp.log(params.noise).sum()

    def update(mean, cov, row, use):
        residual = row - observed_mean(params, mean)
        root = linalg.cholesky(cov)
        inverse = linalg.inverse_cholesky(eye + root.T @ information @ root)
        half = root @ inverse.T
        posterior = half @ half.T
        pull = weighted.T @ residual
        log_det = -2 * linalg.log_det_lower(inverse)
        log_prob = -0.5 * (constant + log_det + (residual**2 / params.noise).sum() - pull @ posterior @ pull)
        updated = jnp.where(use, mean + posterior @ pull, mean), jnp.where(use, posterior, cov)
        return updated, jnp.where(use, log_prob, 0)

    def forward(state, given):
        filtered, log_prob = update(*state, *given)
        predicted = params.transition @ filtered[0], predicted_cov(params, filtered[1])
        return predicted, (filtered, predicted, log_prob)

    _, (filtered, predicted, log_probs) = jax.lax.scan(forward, (params.mean, params.cov), (rows, used))

    def backward(later, given):
        (mean, cov), (mean_ahead, cov_ahead) = given
        gain = linalg.solve_positive(cov_ahead, params.transition @ cov).T
        smoothed = mean + gain @ (later[0] - mean_ahead), cov + gain @ (later[1] - cov_ahead) @ gain.T
        return smoothed, (*smoothed, later[1] @ gain.T)

    last = jax.tree.map(lambda leaf: leaf[-1], filtered)
    before = jax.tree.map(lambda leaf: leaf[:-1], (filtered, predicted))
    _, (mean, cov, cross) = jax.lax.scan(backward, last, before, reverse=True)
    mean, cov = jnp.concatenate([mean, last[0][None]]), jnp.concatenate([cov, last[1][None]])
    return StateSpacePosterior(mean, cov, cross), log_probs.sum()


def predicted_cov(params: Any, cov: Any) -> Any:
    """Covariance one step on."""
    return params.transition @ cov @ params.transition.T + jnp.eye(cov.shape[-1], dtype=cov.dtype)


def observed_mean(params: Any, z: Any) -> Any:
    return z @ params.loadings.T + params.offset


def observed_cov(params: Any, cov: Any) -> Any:
    noise = jnp.diag(params.noise)
    return params.loadings @ cov @ params.loadings.T + noise
