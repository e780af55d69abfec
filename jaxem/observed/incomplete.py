"""Rows that were not seen as they are: the complete row is a hidden variable, and the E-step expects its features."""

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
    """What is expected of the complete rows: features [n, k, f], given what was seen and the component."""

    features: Any


class Incomplete(Wrapper, Family):
    """`model`, an exponential family, of which something else was seen than its rows.

    A subclass writes `complete(params, x) -> (E[T(row) | what was seen, component] [n, k, f], log p(what was seen |
    component) [n, k])` and `at_start(x) -> features [n, f]`, a guess without params. The M-step is the family's own,
    from expected features in place of features (Dempster, Laird and Rubin 1977, section 2).
    """

    model: Any

    #: The features are those of the rows, in their units.
    posterior_has_units = True

    def complete(self, params: Any, x: Any) -> Any:
        raise NotImplementedError

    def at_start(self, x: Any) -> Any:
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
        """The family's statistics from counts [k] and sums of its features [k, f]."""
        return Moments(count, total, total[0, :0])

    def refined(self, params: Any, z: Any, weights: jax.Array) -> Any:
        return params

    def ill_conditioned(self, params: Any) -> Any:
        return None

    def shared_log_lik(self, params: Any, stats: Any) -> Any:
        return 0.0
