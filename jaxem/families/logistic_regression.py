"""Logistic regressions of successes among trials."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln

from jaxem.contract.model import model_class
from jaxem.families.regression import GivenInputs, Regression
from jaxem.families.support import COUNTS, Support, require


class Successes(Support):
    """Targets [n] of 0 and 1, or [n, 2]: successes and trials."""

    row_ndim = None

    def check_shape(self, x: Any, name: str = "x") -> None:
        shape = np.shape(x)
        if len(shape) != 1 and (len(shape) != 2 or shape[1] != 2):
            raise ValueError(f"{name}: expected targets [n], or [n, 2] of successes and trials; got shape {shape}")

    def check_values(self, x: Any, name: str = "x") -> None:
        x = np.asarray(x)
        if x.ndim == 1:
            return require((x == 0) | (x == 1), x, "0 or 1", name)
        require(COUNTS.holds(x), x, COUNTS.expected, name)
        require(x[:, 0] <= x[:, 1], x, "no more successes than trials", name)


@model_class
class LogisticRegression(Regression):
    """A regression of successes: Binomial(successes | trials, sigmoid(inputs @ coef_k)).

    x is (inputs [n, p], targets), where targets are [n] of 0 and 1, or [n, 2] of successes and
    trials. A third array is an offset [n]. No intercept is added. Given the expected Polya-Gamma
    variable w = trials tanh(eta / 2) / (2 eta), a quadratic that touches the log-likelihood bounds
    it from below, so every M-step raises it. Polson, Scott and Windle (2013); Jaakkola and Jordan
    (2000).
    """

    support = GivenInputs(Successes())

    def _counts(self, x):
        if x[1].ndim == 1:
            return x[1][:, None], jnp.ones_like(x[1])[:, None]
        return x[1][:, :1], x[1][:, 1:]

    def log_density(self, eta: Any, x: Any) -> Any:
        successes, trials = self._counts(x)
        choose = gammaln(trials + 1) - gammaln(successes + 1) - gammaln(trials - successes + 1)
        return choose + successes * jax.nn.log_sigmoid(eta) + (trials - successes) * jax.nn.log_sigmoid(-eta)

    def working(self, eta: Any, x: Any) -> Any:
        successes, trials = self._counts(x)
        small = jnp.abs(eta) < 1e-3
        safe = jnp.where(small, 1, eta)
        weight = trials * jnp.where(small, 0.25 - eta**2 / 48, jnp.tanh(safe / 2) / (2 * safe))
        return weight, jnp.broadcast_to(successes - trials / 2, weight.shape)

    def guess(self, x: Any) -> Any:
        successes, trials = self._counts(x)
        return trials / 4, successes - trials / 2

    def draw(self, params: Any, key: jax.Array, eta: Any, x: Any) -> Any:
        trials = self._counts(x)[1]
        successes = jax.random.binomial(key, trials, jax.nn.sigmoid(eta), eta.shape, eta.dtype)
        return successes if x[1].ndim == 1 else jnp.stack([successes, jnp.broadcast_to(trials, eta.shape)], -1)
