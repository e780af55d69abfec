"""Rows that were not seen as they are: the complete row is a hidden variable, and the E-step expects its features."""

from typing import Any

import jax.numpy as jnp

from jaxem.contract.family import Family
from jaxem.contract.model import EStep
from jaxem.contract.wrapper import Wrapper
from jaxem.families.exponential_family import Moments
from jaxem.numerics.linalg import PRECISION


class Incomplete(Wrapper, Family):
    """`model`, an exponential family, of which something else was seen than its rows.

    A subclass writes `complete(params, x) -> (E[T(row) | what was seen, component] [n, k, f], log p(what was seen |
    component) [n, k])` and `at_start(x) -> features [n, f]`, a guess without params. The M-step is the family's own,
    from expected features in place of features (Dempster, Laird and Rubin 1977, section 2).
    """

    model: Any

    def complete(self, params, x):
        raise NotImplementedError

    def at_start(self, x):
        raise NotImplementedError

    @property
    def row_ndim(self):
        return self.model.row_ndim

    def component_axes(self):
        return self.model.component_axes()

    def e_step(self, params, x):
        return EStep(*self.complete(params, self.prepare(x)))

    def sufficient_statistics(self, resp, x, weights):
        x = self.prepare(x)
        expected = self.at_start(x)[:, None] if resp is None else resp
        count = weights.sum(0)
        return self.moments_of(count, jnp.einsum("nk,nkf->kf", weights, expected, precision=PRECISION))

    def moments_of(self, count, total):
        """The family's statistics from counts [k] and sums of its features [k, f]."""
        return Moments(count, total, total[0, :0])

    def init_components(self, key, x, weights):
        return self.maximize(self.sufficient_statistics(None, x, weights))

    def refine(self, params, resp, z, weights=None):
        return params

    def ill_conditioned(self, params):
        return None

    def shared_log_lik(self, params, stats):
        return 0.0

    def latent_entropy(self, resp):
        raise NotImplementedError(f"{type(self).__name__}.latent_entropy")

    def latent_divergence(self, resp, other):
        raise NotImplementedError(f"{type(self).__name__}.latent_divergence")
