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
    """The posterior of the hidden states of a linear Gaussian state space.

    Attributes:
        mean: E[z_t | x] [n, t, q].
        cov: cov[z_t | x] [n, t, q, q].
        cross: cov[z_t+1, z_t | x] [n, t - 1, q, q].
    """

    mean: Any
    cov: Any
    cross: Any


def smooth(params: Any, rows: Any, used: Any) -> Any:
    """The posterior of one sequence, and its log p(rows) in nats.

    The filter is that of Kalman (1960) in the information form, which suits a large d; the smoother
    is that of Rauch, Tung and Striebel (1965).

    Args:
        params: the params of `StateSpace`.
        rows: [t, d].
        used: [t] of bool; rows where it is False are treated as missing.
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
    """The covariance of the state one step later, given the covariance now."""
    return params.transition @ cov @ params.transition.T + jnp.eye(cov.shape[-1], dtype=cov.dtype)


def observed_mean(params: Any, z: Any) -> Any:
    """The mean of x_t given states z [..., q]: [..., d]."""
    return z @ params.loadings.T + params.offset


def observed_cov(params: Any, cov: Any) -> Any:
    """The covariance of x_t [..., d, d], given the covariance of the state [..., q, q]."""
    noise = jnp.diag(params.noise)
    return params.loadings @ cov @ params.loadings.T + noise
