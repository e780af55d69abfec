"""Rows that were observed incompletely: the complete row is a hidden variable."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxem.contract.family import Family
from jaxem.contract.model import EStep
from jaxem.contract.posterior import Posterior
from jaxem.contract.pytree import pytree_class
from jaxem.contract.wrapper import Wrapper
from jaxem.families.exponential_family import Moments
from jaxem.numerics.linalg import PRECISION


@pytree_class
class ExpectedFeatures(Posterior):
    """The expected features of the complete rows.

    Attributes:
        features: E[T(row) | observation, component], [n, k, f].
    """

    features: Any


class Incomplete(Wrapper, Family):
    """An exponential family whose rows were observed incompletely.

    A subclass writes `complete` and `at_start`. The M-step is that of the family, with expected
    features in place of features (Dempster, Laird and Rubin 1977, section 2).

    Args:
        model: the family of the complete rows.
    """

    model: Any

    #: The expected features are in the units of the rows.
    posterior_has_units = True

    def complete(self, params: Any, x: Any) -> Any:
        """The expected features of the complete rows, and the density of what was observed.

        Args:
            params: the params of the family.
            x: what was observed, as `prepare` gives it.

        Returns:
            (E[T(row) | x_i, component] [n, k, f], log p(x_i | component) [n, k] in nats).
        """
        raise NotImplementedError

    def at_start(self, x: Any) -> Any:
        """Features [n, f] of the complete rows for a start, where no params are known."""
        raise NotImplementedError

    def e_step(self, params: Any, x: Any) -> EStep:
        features, log_prob = self.complete(params, self.prepare(x))
        return EStep(ExpectedFeatures(features), log_prob)

    def sufficient_statistics(self, resp: Any, x: Any, weights: jax.Array) -> Any:
        x = self.prepare(x)
        expected = self.at_start(x)[:, None] if resp is None else resp.features
        count = weights.sum(0)
        return self.moments_of(count, jnp.einsum("nk,nkf->kf", weights, expected, precision=PRECISION))

    def moments_of(self, count: Any, total: Any) -> Any:
        """The statistics of the family from counts [k] and sums of its features [k, f]."""
        return Moments(count, total, total[0, :0])

    def refined(self, params: Any, z: Any, weights: jax.Array) -> Any:
        return params

    def ill_conditioned(self, params: Any) -> Any:
        return None

    def shared_log_lik(self, params: Any, stats: Any) -> Any:
        return 0.0
