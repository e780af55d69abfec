"""A finite mixture of any family: one discrete hidden variable per row."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlogy

from jaxem.contract.capabilities import Discrete, DrawsJointly, Embeds, Imputes, Pools
from jaxem.contract.constraints import Fixed, Simplex
from jaxem.contract.model import EStep, Model, model_class
from jaxem.contract.posterior import MixturePosterior, as_posterior
from jaxem.contract.pytree import in_data_units, static
from jaxem.contract.units import FieldUnits, Identity, Units
from jaxem.inputs import arrays
from jaxem.latent import starts
from jaxem.latent.nested import as_family
from jaxem.numerics.tracing import is_traced
from jaxem.observed.labelled import label_rows


class MixtureParams(NamedTuple):
    """The params of `Mixture`.

    Attributes:
        weights: the mixing proportions, [k].
        components: the params of the family, with a leading axis k.
    """

    weights: Any
    components: Any


class MixtureStats(NamedTuple):
    """The expected sufficient statistics of `Mixture`.

    Attributes:
        count: the expected number of rows of each component [k], from which the weights follow.
        components: the statistics of the components. They hold a count of their own, since a prior
            may add different numbers of rows to the weights and to the components.
    """

    count: Any
    components: Any


@model_class
class Mixture(DrawsJointly, Discrete, Embeds, Pools, Imputes, Model):
    """A finite mixture: p(x) = sum_k weights_k p(x | component_k); Bishop (2006), section 9.3.

    E-step: resp_ik = weights_k p(x_i | k) / sum_j weights_j p(x_i | j), equation (9.13).
    M-step: weights_k = sum_i resp_ik / n, and the M-step of each component from the rows weighted
    by its responsibilities.

    Args:
        component: a family, or any model, of which there are k copies then (see `Nested`).
        n_components: k.
        mixing: "free", or "fixed": the weights stay as in the start (equal in a random start).
        start_spread: the share of every row that a random start spreads evenly over the
            components, see `jaxem.latent.starts`.

    Raises:
        ValueError: an argument is not one of these.

    Examples:
        >>> import jax, jaxem
        >>> model = jaxem.Mixture(jaxem.Gaussian("diag"), 2)
        >>> params = model.init(jax.random.key(0), jaxem.datasets.old_faithful())
        >>> model.e_step(params, jaxem.datasets.old_faithful()).resp.shape
        (272, 2)
    """

    component: Any = in_data_units("part")
    n_components: int = static()
    mixing: str = static(default="free")
    start_spread: float = static(default=starts.SPREAD)

    start_kinds = starts.KINDS

    def __post_init__(self) -> None:
        if self.mixing not in ("free", "fixed"):
            raise ValueError(f"mixing: expected 'free' or 'fixed' (weights stay as in the start); got {self.mixing!r}")
        k = self.n_components
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
            raise ValueError(f"n_components: expected a whole number of at least 1; got {k!r}")
        arrays.check_number("start_spread", self.start_spread, 0, maximum=1)
        object.__setattr__(self, "n_components", int(k))
        object.__setattr__(self, "component", as_family(self.component))

    @property
    def row_ndim(self) -> Any:
        return self.component.row_ndim

    @property
    def judged_by_statistics(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.component.judged_by_statistics

    def rows(self, x: Any) -> Any:
        return self.component.rows(x)

    def n_observations(self, x: Any, weights: jax.Array | None = None) -> Any:
        return self.component.n_observations(x, weights)

    def embed(self, x: Any, weights: jax.Array | None = None) -> Any:
        return self.component.embed(x, weights)

    def labelled(self, x: Any, labels: Any) -> Any:
        x = self.component.rows(x)
        component, x = label_rows(self.component, x, labels, (arrays.n_rows(x),), self.n_components)
        return dataclasses.replace(self, component=component), x

    # --- starts -----------------------------------------------------------------------------------

    def init(
        self, key: jax.Array, x: Any, weights: jax.Array | None = None, kind: Any = 0, n_active: Any = None
    ) -> MixtureParams:
        """A random start, in the units of the data.

        Args:
            key: a random key.
            x: rows [n, ...].
            weights: the weights of the rows [n], or None for equal weights.
            kind: the kind of start, an index into `start_kinds`.
            n_active: if given, the start is that of a mixture of so many components, and the others
                have weight 0.
        """
        units = self.units(x, weights)
        z = units.rows(x)
        rows = self.component.embed(z, weights)
        resp = starts.responsibilities(kind, key, rows, weights, self.n_components, n_active, self.start_spread)
        return self._from_resp(key, self.component.informed(resp, z), units, z, weights)

    def pooled(self, x: Any, weights: jax.Array | None = None) -> Any:
        units = self.units(x, weights)
        z = units.rows(x)
        even = jnp.full((arrays.n_rows(z), self.n_components), 1 / self.n_components, jax.tree.leaves(z)[0].dtype)
        return self._from_resp(jax.random.key(0), even, units, z, weights)

    def _from_resp(self, key, resp, units, z, weights):
        """The params from responsibilities alone, for starts."""
        resp = resp if weights is None else resp * weights[:, None]
        components = self.component.init_components(jax.random.fold_in(key, 1), z, resp)
        return units.back(MixtureParams(self._weights(resp.sum(0), None), components))

    # --- EM ---------------------------------------------------------------------------------------

    def e_step(self, params: Any, x: Any) -> EStep:
        # A component of weight 0 has log weight -inf: it gets no rows and adds no density.
        latent, joint = self.component.weighted_e_step(params.components, jnp.log(params.weights), x)
        resp, log_prob = normalized(joint.T)
        resp = resp.T
        return EStep(resp if latent is None else MixturePosterior(resp, latent), log_prob)

    def sufficient_statistics(self, resp: Any, x: Any, weights: jax.Array | None = None) -> MixtureStats:
        posterior = as_posterior(resp)
        weighted = posterior.resp if weights is None else posterior.resp * weights[:, None]
        stats = self.component.sufficient_statistics(posterior.component, x, weighted)
        return MixtureStats(stats.count, stats)

    def maximize(self, stats: Any, params: Any = None) -> MixtureParams:
        components = self.component.maximize(stats.components, None if params is None else params.components)
        return MixtureParams(self._weights(stats.count, params), components)

    def _weights(self, count, params):
        if self.mixing == "free":
            return count / count.sum()
        return jnp.full_like(count, 1 / self.n_components) if params is None else params.weights

    def constraints(self) -> MixtureParams:
        weights = Simplex() if self.mixing == "free" else Fixed(Simplex())
        return MixtureParams(weights, self.component.constraints())

    def expected_log_joint(self, params: Any, stats: Any) -> jax.Array:
        weights = xlogy(stats.count, params.weights).sum()
        return weights + self.component.expected_log_joint(params.components, stats.components)

    def pseudo_statistics(self, params: Any, strength: Any, units: Any = None) -> MixtureStats:
        """The pseudo-statistics of a Dirichlet prior on the weights, and of the components' priors.

        The prior on the weights counts as `strength.weights` rows in all.
        """
        units = (units or Identity()).inner
        components = self.component.pseudo_statistics(params.components, strength.components, units)
        return MixtureStats(strength.weights * params.weights, components)

    def refined(self, params: Any, resp: Any, z: Any, weights: jax.Array | None = None) -> Any:
        resp = as_posterior(resp).resp
        weighted = resp if weights is None else resp * weights[:, None]
        return params._replace(components=self.component.refined(params.components, z, weighted))

    # --- at given params --------------------------------------------------------------------------

    def predict(self, params: Any, x: Any) -> jax.Array:
        """The most probable component of each row, [n] of int."""
        return jnp.argmax(self.posterior(params, x), -1)

    def conditional_mean(self, params: Any, x: Any) -> Any:
        resp = self.posterior(params, x)
        means = self.component.conditional_mean(params.components, x)
        return jax.tree.map(lambda leaf: (resp.reshape(*resp.shape, *[1] * (leaf.ndim - 2)) * leaf).sum(1), means)

    def sample_joint(self, params: Any, key: jax.Array, n: int) -> Any:
        """Draw n rows together with their components.

        Returns:
            (components [n] of int, rows [n, ...]).
        """
        hidden_key, row_key = jax.random.split(key)
        return self._emit(params, hidden_key, self.component.sample(params.components, row_key, n), n)

    def _emit(self, params, key, rows, n):
        """Draw components [n], and take their rows from rows [n, k, ...] of every component."""
        hidden = jax.random.choice(key, self.n_components, (n,), p=params.weights)
        return hidden, jax.tree.map(lambda leaf: leaf[jnp.arange(n), hidden], rows)

    def sample(self, params: Any, key: jax.Array, n: int) -> Any:
        """Draw n rows from the mixture."""
        return self.sample_joint(params, key, n)[1]

    def sample_like(self, params: Any, key: jax.Array, x: Any) -> Any:
        hidden_key, row_key = jax.random.split(key)
        rows = self.component.sample_like(params.components, row_key, x)
        return self._emit(params, hidden_key, rows, arrays.n_rows(x))[1]

    def permute(self, params: Any, order: Any) -> Any:
        return MixtureParams(params.weights[order], self.component.permute(params.components, order))

    # --- the verdict ------------------------------------------------------------------------------

    def degenerate(self, params: Any, n_points: Any) -> Any:
        of_component = n_points.components if self.judged_by_statistics else self._counts(params, n_points)
        return self.component.degenerate(params.components, of_component) & ~self.empty(params, n_points)

    def empty(self, params: Any, n_points: Any) -> Any:
        return self._counts(params, n_points) < EMPTY_BELOW

    def _counts(self, params, n_points):
        """The rows of each component [k]: the count of the statistics, or a share of n_points."""
        return n_points.count if self.judged_by_statistics else params.weights * n_points

    # --- checks -----------------------------------------------------------------------------------

    def check_finite(self, x: Any) -> None:
        self.component.check_finite(x)

    def check(self, x: Any, params: Any = None) -> None:
        self._check_size(params)
        self.component.check(x, None if params is None else params.components)
        if is_traced(x):
            return
        seen = self.component.observed(x)
        if seen is not None and not seen.all():
            count, row = arrays.first_bad_row(~seen)
            raise ValueError(f"x: every entry is missing in {count} of {len(seen)} rows, the first is row {row}")

    def _check_size(self, params):
        if params is not None and np.shape(params.weights) != (self.n_components,):
            raise ValueError(
                f"start.weights: expected shape ({self.n_components},) for n_components={self.n_components}; "
                f"got {np.shape(params.weights)}"
            )

    def check_resp(self, resp: Any, x: Any) -> None:
        resp = as_posterior(resp).resp
        want = (arrays.n_rows(x), self.n_components)
        if np.shape(resp) != want:
            raise ValueError(f"resp: expected shape {want}, one row per row of x; got {np.shape(resp)}")
        if not is_traced(resp) and not (np.isfinite(resp).all() and (np.asarray(resp) >= 0).all()):
            raise ValueError("resp: expected numbers of at least 0; got negative, NaN or infinite ones")

    def check_fit(self, x: Any, weights: jax.Array, dtype: Any) -> None:
        rows = arrays.n_rows(x)
        if weights is not None and not is_traced(weights):
            rows = int(np.count_nonzero(weights))
        if rows < self.n_components:
            kind = "rows of weight above 0" if rows < arrays.n_rows(x) else "rows"
            raise ValueError(f"x: expected at least as many {kind} as components, {self.n_components}; got {rows}")
        self.component.check_fit(x, weights, dtype)

    # --- units, preparation and conditioning of the component -------------------------------------

    def units(self, x: Any, weights: jax.Array | None = None) -> Units:
        return of_component(self.component.units(x, weights))

    def origin(self, x: Any, params: Any = None) -> Units:
        return of_component(self.component.origin(x, None if params is None else params.components))

    def prepare(self, x: Any, weights: jax.Array | None = None, centred: bool = False) -> Any:
        return self.component.prepare(x, weights, centred)

    def shared_log_lik(self, params: Any, stats: Any) -> Any:
        return self.component.shared_log_lik(params.components, stats.components)

    def ill_conditioned(self, params: Any) -> Any:
        return self.component.ill_conditioned(params.components)


def of_component(units: Units) -> Units:
    """The units of a mixture from the units of its component."""
    return units if units.is_identity else FieldUnits(units, "components")


#: A component with fewer expected rows than this is empty: it adds nothing to the density of a row.
EMPTY_BELOW = 1e-3


def normalized(joint: Any) -> Any:
    """The softmax and the logsumexp over the leading axis of log densities [k, n].

    A row that is impossible under every component gets equal responsibilities.
    """
    # The shift by the maximum cancels, so that its derivative is not needed. The derivative of a
    # maximum would compare recomputed numbers for equality.
    top = jax.lax.stop_gradient(joint.max(0))
    # The smallest finite number takes the place of -inf, since -inf minus -inf is NaN.
    low = jnp.finfo(joint.dtype).min
    unnormalized = jnp.exp(jnp.maximum(joint, low) - jnp.maximum(top, low))
    total = unnormalized.sum(0)
    return unnormalized * (1 / total), top + jnp.log(total)
