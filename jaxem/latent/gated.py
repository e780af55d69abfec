"""A mixture whose weights depend on covariates: gating by multinomial logistic regression."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.contract.capabilities import Discrete, Draws
from jaxem.contract.constraints import Real
from jaxem.contract.errors import NotProvidedError
from jaxem.contract.model import EStep, Model, model_class
from jaxem.contract.posterior import Responsibilities
from jaxem.contract.pytree import pytree_class, static
from jaxem.contract.units import Units
from jaxem.families.regression import whitening
from jaxem.latent import starts
from jaxem.latent.mixture import normalized
from jaxem.numerics import linalg
from jaxem.numerics.linalg import PRECISION
from jaxem.observed.labelled import label_rows


class GatedParams(NamedTuple):
    """The params of `GatedMixture`.

    Attributes:
        gate: coefficients [k - 1, g]: how the log-odds of components 2, 3, ... against the first
            change with each gating column.
        components: the params of the family, with a leading axis k.
    """

    gate: Any
    components: Any


@pytree_class
class GatedPosterior(Responsibilities):
    """The posterior of a `GatedMixture`.

    Attributes:
        resp: the responsibilities [n, k].
        component: the posterior of the hidden variables of the components, or None.
        log_odds: the log-odds of the gate [n, k], which are 0 in the first column.
    """

    resp: Any
    component: Any
    log_odds: Any

    def entropy(self) -> jax.Array:
        raise NotProvidedError(self, "entropy", "the gate's part of Q is a quadratic")

    def kl(self, other: Any) -> jax.Array:
        raise NotProvidedError(self, "kl", "the gate's part of Q is a quadratic")


class GatedStats(NamedTuple):
    """The statistics of the components and of the gate.

    The part of Q that belongs to the gate is rest + <target, gate> - <gate, curvature gate> / 2.

    Attributes:
        components: the statistics of the components.
        curvature: [k - 1, g, k - 1, g].
        target: [k - 1, g].
        rest: [].
    """

    components: Any
    curvature: Any
    target: Any
    rest: Any


@pytree_class
class GatedUnits(Units):
    """The units of the components, and the change to gating columns with second moment I."""

    inner: Units
    matrix: Any
    inverse: Any

    @property
    def broadcasts(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.broadcasts

    def rows(self, x: Any) -> Any:
        return self.inner.rows(x[0]), jnp.dot(x[1], self.matrix, precision=PRECISION)

    def rows_back(self, z: Any) -> Any:
        return self.inner.rows_back(z[0]), jnp.dot(z[1], self.inverse, precision=PRECISION)

    def params(self, params: Any) -> Any:
        gate = jnp.dot(params.gate, self.inverse.T, precision=PRECISION)
        return GatedParams(gate, self.inner.params(params.components))

    def back(self, params: Any) -> Any:
        gate = jnp.dot(params.gate, self.matrix.T, precision=PRECISION)
        return GatedParams(gate, self.inner.back(params.components))

    def log_volume(self) -> Any:
        return self.inner.log_volume()

    def loses_digits(self, params: Any) -> bool:
        return self.inner.loses_digits(params.components)


@model_class
class GatedMixture(Discrete, Draws, Model):
    """A mixture of experts: p(x | v) = sum_k softmax(gate v)_k p(x | component_k).

    Data are the pair (rows of the component, gating columns v [n, g]); no intercept is added.
    Jordan and Jacobs (1994).

    The part of Q that belongs to the gate is expanded to second order at the current params. Its
    gradient and curvature are sums over rows, as statistics are, and the M-step of the gate is one
    Newton step. The loop halves a step that went too far.

    Args:
        component: a family.
        n_components: k, at least 2.

    Raises:
        ValueError: n_components is not a whole number of at least 2.

    Examples:
        >>> import jaxem
        >>> model = jaxem.GatedMixture(jaxem.Gaussian("full"), 2)
        >>> model.n_components
        2
    """

    component: Any
    n_components: int = static()

    start_kinds = starts.KINDS

    def __post_init__(self) -> None:
        if isinstance(self.n_components, bool) or not isinstance(self.n_components, int) or self.n_components < 2:
            raise ValueError(f"n_components: expected a whole number of at least 2; got {self.n_components!r}")

    def labelled(self, x: Any, labels: Any) -> Any:
        x = self.rows(x)
        component, rows = label_rows(self.component, x[0], labels, x[1].shape[:1], self.n_components)
        return dataclasses.replace(self, component=component), (rows, x[1])

    def init(self, key: jax.Array, x: Any, weights: jax.Array | None = None, kind: Any = 0) -> Any:
        units = self.units(x, weights)
        z = units.rows(x)
        rows = self.component.embed(z[0], weights)
        resp = starts.responsibilities(kind, key, rows, weights, self.n_components)
        resp = self.component.informed(resp, z[0])
        weights = jnp.ones_like(resp[:, 0]) if weights is None else weights
        gate = self._gate(*self._quadratic(_at_even_odds(resp), z[1], weights)[:2])
        components = self.component.init_components(jax.random.fold_in(key, 1), z[0], resp * weights[:, None])
        return units.back(GatedParams(gate, components))

    def e_step(self, params: Any, x: Any) -> EStep:
        latent, log_prob = self.component.e_step(params.components, x[0])
        log_odds = self._log_odds(params, x[1])
        resp, log_prob = normalized((log_prob + jax.nn.log_softmax(log_odds)).T)
        return EStep(GatedPosterior(resp.T, latent, log_odds), log_prob)

    def _log_odds(self, params, columns):
        log_odds = jnp.dot(columns, params.gate.T, precision=PRECISION)
        return jnp.concatenate([jnp.zeros_like(columns[:, :1]), log_odds], 1)

    def sufficient_statistics(self, resp: Any, x: Any, weights: jax.Array | None = None) -> Any:
        resp = resp if isinstance(resp, GatedPosterior) else _at_even_odds(resp)
        weights = jnp.ones_like(resp.resp[:, 0]) if weights is None else weights
        components = self.component.sufficient_statistics(resp.component, x[0], resp.resp * weights[:, None])
        return GatedStats(components, *self._quadratic(resp, x[1], weights))

    def _quadratic(self, resp, columns, weights):
        """The (curvature, target, rest) of the gate, see `GatedStats`.

        They expand sum_i w_i sum_k resp_ik log softmax(gate v_i)_k to second order.
        """
        log_gate = jax.nn.log_softmax(resp.log_odds)
        prob, log_odds = jnp.exp(log_gate)[:, 1:], resp.log_odds[:, 1:]
        hessian = jax.vmap(lambda p: jnp.diag(p) - jnp.outer(p, p))(prob)
        bent = jnp.einsum("nij,nj->ni", hessian, log_odds)
        slope = resp.resp[:, 1:] - prob
        curvature = jnp.einsum(
            "nij,na,nb->iajb", hessian * weights[:, None, None], columns, columns, precision=PRECISION
        )
        target = jnp.dot(((slope + bent) * weights[:, None]).T, columns, precision=PRECISION)
        rest = (resp.resp * log_gate).sum(1) - ((slope + 0.5 * bent) * log_odds).sum(1)
        return curvature, target, weights @ rest

    def maximize(self, stats: Any, params: Any = None) -> Any:
        components = self.component.maximize(stats.components, None if params is None else params.components)
        return GatedParams(self._gate(stats.curvature, stats.target), components)

    def _gate(self, curvature, target):
        curvature = curvature.reshape(target.size, target.size)
        # In units where the gating columns have second moment I, a ridge of the size of rounding
        # changes no coefficient that the data determine.
        ridge = jnp.finfo(curvature.dtype).eps * (1 + jnp.trace(curvature))
        eye = jnp.eye(target.size, dtype=curvature.dtype)
        return linalg.solve_positive(curvature + ridge * eye, target.reshape(-1, 1)).reshape(target.shape)

    def expected_log_joint(self, params: Any, stats: Any) -> jax.Array:
        """Q in nats, total, with the part of the gate expanded to second order.

        At the params of the E-step the expansion has the value and the gradient of the exact part.
        """
        bent = jnp.tensordot(stats.curvature, params.gate, 2, precision=PRECISION)
        gate = stats.rest + ((stats.target - 0.5 * bent) * params.gate).sum()
        return gate + self.component.expected_log_joint(params.components, stats.components)

    def sample_like(self, params: Any, key: jax.Array, x: Any) -> Any:
        """Draw rows for the gating columns of x; the result is the pair (rows, columns)."""
        hidden_key, row_key = jax.random.split(key)
        hidden = jax.random.categorical(hidden_key, self._log_odds(params, x[1]))
        rows = self.component.sample_like(params.components, row_key, x[0])
        return jax.tree.map(lambda leaf: leaf[jnp.arange(len(hidden)), hidden], rows), x[1]

    def constraints(self) -> Any:
        return GatedParams(Real(), self.component.constraints())

    def predict(self, params: Any, x: Any) -> jax.Array:
        """The most probable component of each row, [n] of int."""
        return jnp.argmax(self.posterior(params, x), -1)

    def sample(self, params: Any, key: jax.Array, n: int) -> Any:
        raise NotProvidedError(self, "sample", "rows need gating columns: use sample_like(params, key, x)")

    def permute(self, params: Any, order: Any) -> Any:
        gate = jnp.concatenate([jnp.zeros_like(params.gate[:1]), params.gate])[jnp.asarray(order)]
        return GatedParams((gate - gate[:1])[1:], self.component.permute(params.components, order))

    def prepare(self, x: Any, weights: jax.Array | None = None, centred: bool = False) -> Any:
        return self.component.prepare(x[0], weights, centred), x[1]

    def shared_log_lik(self, params: Any, stats: Any) -> Any:
        return self.component.shared_log_lik(params.components, stats.components)

    def ill_conditioned(self, params: Any) -> Any:
        return self.component.ill_conditioned(params.components)

    # --- units ------------------------------------------------------------------------------------

    def units(self, x: Any, weights: jax.Array | None = None) -> Units:
        share = jnp.ones_like(x[1][:, 0]) if weights is None else weights
        matrix = whitening(x[1], share / share.sum())
        return GatedUnits(self.component.units(x[0], weights), matrix, jnp.linalg.inv(matrix))

    def origin(self, x: Any, params: Any = None) -> Units:
        """The origin of the component; the gating columns are not changed."""
        inner = self.component.origin(None if x is None else x[0], None if params is None else params.components)
        if inner.is_identity:
            return inner
        columns = x[1] if x is not None else params.gate  # pyright: ignore[reportOptionalMemberAccess]
        eye = np.eye(columns.shape[-1])
        return GatedUnits(inner, eye, eye)

    def check(self, x: Any, params: Any = None) -> None:
        if not isinstance(x, tuple) or len(x) != 2 or np.ndim(x[1]) != 2:
            got = jax.tree.map(np.shape, x)
            raise ValueError(f"x: expected the pair (rows of the component, gating columns [n, g]); got shape {got}")
        self.component.check(x[0], None if params is None else params.components)
        want = (self.n_components - 1, x[1].shape[1])
        if params is not None and np.shape(params.gate) != want:
            raise ValueError(f"start.gate: expected shape {want}; got {np.shape(params.gate)}")

    def check_fit(self, x: Any, weights: jax.Array, dtype: Any) -> None:
        self.component.check_fit(x[0], weights, dtype)


def _at_even_odds(resp):
    """A posterior from responsibilities alone, in which the gate has even odds.

    Starts use it: their gate is one Newton step away from even odds.
    """
    return GatedPosterior(resp, None, jnp.zeros_like(resp))
