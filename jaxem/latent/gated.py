"""A mixture whose weights depend on covariates: gating by multinomial logistic regression."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxem import linalg, starts
from jaxem.constraints import Real
from jaxem.exponential_family import PRECISION
from jaxem.families.regression import whitening
from jaxem.latent.mixture import normalized
from jaxem.model import EStep, Model, model_class, static


class GatedParams(NamedTuple):
    """gate [k - 1, g]: log-odds of components 2, 3, ... against the first, per gating column; components."""

    gate: Any
    components: Any


class GatedLatent(NamedTuple):
    """Responsibilities [n, k], the components' own latent variables, and the gate's probabilities and log-odds."""

    resp: Any
    component: Any
    prob: Any
    log_odds: Any


class GatedStats(NamedTuple):
    """The components' statistics, and the Newton step of the gate: curvature [k-1, g, k-1, g] and target [k-1, g]."""

    components: Any
    curvature: Any
    target: Any


class GatedUnits(NamedTuple):
    """The components' units, and the change to gating columns of second moment I."""

    components: Any
    matrix: Any
    inverse: Any


@model_class
class GatedMixture(Model):
    """p(x | v) = sum_k softmax(gate v)_k p(x | component_k): a mixture of experts; Jordan and Jacobs (1994).

    Data are the pair (rows of the component, gating columns v [n, g]); no intercept is added. The M-step of the gate
    is one Newton step on Q, whose gradient and curvature at the current params add up like any statistics; one that
    went too far is halved by the loop.

    >>> import jaxem
    >>> model = jaxem.GatedMixture(jaxem.Gaussian("full"), 2)
    >>> model.n_components
    2
    """

    component: Any
    n_components: int = static()

    start_kinds = starts.KINDS

    def __post_init__(self):
        if isinstance(self.n_components, bool) or not isinstance(self.n_components, int) or self.n_components < 2:
            raise ValueError(f"n_components: expected a whole number of at least 2; got {self.n_components!r}")

    def init(self, key, x, weights=None, kind=0):
        units = self.units(x, weights)
        z = self.to_units(units, x)
        rows = self.component.embed(z[0], weights)
        resp = starts.responsibilities(kind, key, rows, weights, self.n_components)
        return self.params_from_units(units, self.maximize(self.sufficient_statistics(resp, z, weights)))

    def e_step(self, params, x):
        latent, log_prob = self.component.e_step(params.components, x[0])
        log_odds = jnp.dot(x[1], params.gate.T, precision=PRECISION)
        log_odds = jnp.concatenate([jnp.zeros_like(x[1][:, :1]), log_odds], 1)
        log_gate = jax.nn.log_softmax(log_odds)
        resp, log_prob = normalized((log_prob + log_gate).T)
        return EStep(GatedLatent(resp.T, latent, jnp.exp(log_gate), log_odds), log_prob)

    def sufficient_statistics(self, resp, x, weights=None):
        if not isinstance(resp, GatedLatent):  # a start knows responsibilities only
            even = jnp.full_like(resp, 1 / self.n_components)
            resp = GatedLatent(resp, None, even, jnp.zeros_like(resp))
        weights = jnp.ones_like(resp.resp[:, 0]) if weights is None else weights
        components = self.component.sufficient_statistics(resp.component, x[0], resp.resp * weights[:, None])
        prob, log_odds = resp.prob[:, 1:], resp.log_odds[:, 1:]
        hessian = jax.vmap(lambda p: jnp.diag(p) - jnp.outer(p, p))(prob)
        # The target of the Newton step, curvature @ gate + gradient, row by row: no params are needed to take it.
        wanted = jnp.einsum("nij,nj->ni", hessian, log_odds) + resp.resp[:, 1:] - prob
        curvature = jnp.einsum("nij,na,nb->iajb", hessian * weights[:, None, None], x[1], x[1], precision=PRECISION)
        target = jnp.dot((wanted * weights[:, None]).T, x[1], precision=PRECISION)
        return GatedStats(components, curvature, target)

    def maximize(self, stats, params=None):
        components = self.component.maximize(stats.components, None if params is None else params.components)
        shape = stats.target.shape
        size = shape[0] * shape[1]
        curvature = stats.curvature.reshape(size, size)
        # In units where the gating columns have second moment I, a ridge of rounding moves nothing that is determined.
        ridge = jnp.finfo(curvature.dtype).eps * (1 + jnp.trace(curvature))
        eye = jnp.eye(size, dtype=curvature.dtype)
        gate = linalg.solve_positive(curvature + ridge * eye, stats.target.reshape(-1, 1))
        return GatedParams(gate.reshape(shape), components)

    def constraints(self):
        return GatedParams(Real(), self.component.constraints())

    def posterior_of(self, resp):
        return resp.resp if isinstance(resp, GatedLatent) else resp

    def permute(self, params, order):
        gate = jnp.concatenate([jnp.zeros_like(params.gate[:1]), params.gate])[jnp.asarray(order)]
        return GatedParams((gate - gate[:1])[1:], self.component.permute(params.components, order))

    def prepare(self, x, weights=None, centred=False):
        return self.component.prepare(x[0], weights, centred), x[1]

    def shared_log_lik(self, params, stats):
        return self.component.shared_log_lik(params.components, stats.components)

    def ill_conditioned(self, params):
        return self.component.ill_conditioned(params.components)

    # --- units --------------------------------------------------------------------------------------------------

    def units(self, x, weights=None):
        share = jnp.ones_like(x[1][:, 0]) if weights is None else weights
        matrix = whitening(x[1], share / share.sum())
        return GatedUnits(self.component.units(x[0], weights), matrix, jnp.linalg.inv(matrix))

    def to_units(self, units, x):
        return self.component.to_units(units.components, x[0]), jnp.dot(x[1], units.matrix, precision=PRECISION)

    def params_to_units(self, units, params):
        components = self.component.params_to_units(units.components, params.components)
        return GatedParams(jnp.dot(params.gate, units.inverse.T, precision=PRECISION), components)

    def params_from_units(self, units, params):
        components = self.component.params_from_units(units.components, params.components)
        return GatedParams(jnp.dot(params.gate, units.matrix.T, precision=PRECISION), components)

    def log_volume(self, units):
        return self.component.log_volume(units.components)

    def check(self, x, params=None):
        if not isinstance(x, tuple) or len(x) != 2 or np.ndim(x[1]) != 2:
            raise ValueError("x: expected the pair (rows of the component, gating columns [n, g])")
        self.component.check(x[0], None if params is None else params.components)
        want = (self.n_components - 1, x[1].shape[1])
        if params is not None and np.shape(params.gate) != want:
            raise ValueError(f"start.gate: expected shape {want}; got {np.shape(params.gate)}")

    def check_fit(self, x, weights, dtype):
        self.component.check_fit(x[0], weights, dtype)
