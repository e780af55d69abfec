"""Conjugate priors as pseudo-statistics: a prior counts like rows that were seen."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxem.contract.capabilities import Conjugate, Pools, provides
from jaxem.contract.constraints import Constraint
from jaxem.contract.errors import NotProvidedError
from jaxem.contract.frame import Frame
from jaxem.contract.model import Model, model_class
from jaxem.contract.pytree import in_data_units
from jaxem.contract.units import Identity
from jaxem.contract.wrapper import SameDensity
from jaxem.inputs import arrays
from jaxem.numerics.tracing import is_traced


@model_class
class WithPrior(SameDensity):
    """A model with a conjugate prior, which counts like more rows that are distributed as `params`.

    The posterior has the statistics S + S0, where S0 are the expected statistics of `strength`
    complete rows at `params` (Bishop 2006, section 2.4.2). MAP estimation is therefore the same
    loop with `maximize(S + S0)`. The objective is the log-likelihood plus
    log p(params) = Q(params, S0) - Q(mode, S0), which is at most 0, in nats. The mode of the prior
    is `params`.

    Each leaf of a component gets `strength` rows. The weights of a mixture, and the initial
    probabilities of an HMM, get that many in all, and each row of transition probabilities gets
    that many. In the usual names, with e = `strength` and a 0 for "at the mode":

        Dirichlet(alpha) on weights                e weights0 = alpha - 1
        normal-inverse-Wishart(m, kappa, nu, Psi)  mean0 = m, e.mean = kappa,
                                                   e.cov = nu + d + 2, cov0 = Psi / e.cov
        gamma(a, b) on a Poisson rate              e = b, rate0 = (a - 1) / b
        beta(a, b) on a Bernoulli probability      e = a + b - 2, prob0 = (a - 1) / e

    A shared covariance gets `strength` rows in all. Only the leaves of a Gaussian may differ in
    strength; every other family takes that of its first leaf. A strength of 0 changes nothing.

    Args:
        model: a model that provides `Conjugate`.
        params: the mode of the prior, in the units of the data.
        strength: how many rows the prior counts for: one number, or a tree like params with one
            number (or one for each component) for each leaf.
        given_in: the units that params are in; None means those of the data.

    Raises:
        NotProvidedError: a part of the model has no conjugate prior.
        ValueError: a strength is negative or not finite.

    Examples:
        >>> import jax, jaxem
        >>> x = jax.numpy.array([0.0, 1.0, 0.0, 0.0])
        >>> rate = jaxem.PoissonParams(jax.numpy.array([2.0]))
        >>> mode = jaxem.MixtureParams(jax.numpy.ones(1), rate)
        >>> model = jaxem.WithPrior(jaxem.poisson_mixture(1), mode, strength=4.0)
        >>> best = jaxem.fit(model, x, mode).params
        >>> round(float(best.components.rate[0]), 3)  # (1 + 4 * 2) / (4 + 4)
        1.125
    """

    model: Any
    params: Any = in_data_units()
    strength: Any = 1.0
    given_in: Any = in_data_units("units", default=None)

    withholds = (Conjugate, Pools)

    def __post_init__(self) -> None:
        if isinstance(self.model, Model) and not provides(self.model, Conjugate):
            name = type(self.model).__name__
            raise NotProvidedError(self.model, "pseudo_statistics", f"{name} has a part without a conjugate prior")
        if not is_traced(self.strength):
            for leaf in jax.tree.leaves(self.strength):
                if isinstance(leaf, (int, float, np.ndarray)) and not (np.isfinite(leaf).all() and np.all(leaf >= 0)):
                    raise ValueError(f"strength: expected numbers of at least 0; got {leaf!r}")

    def _pseudo(self, dtype):
        """(params, S0) in the dtype of the fit."""
        places = self.model.constraints()
        strength = self.strength
        if jax.tree.structure(strength).num_nodes == 1:
            strength = jax.tree.map(lambda _: self.strength, places, is_leaf=lambda node: isinstance(node, Constraint))
        params, strength = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (self.params, strength))
        return params, self.model.pseudo_statistics(params, strength, self.given_in)

    def maximize(self, stats: Any, params: Any = None) -> Any:
        dtype = jnp.result_type(*jax.tree.leaves(stats))
        return self.model.maximize(jax.tree.map(jnp.add, stats, self._pseudo(dtype)[1]), params)

    def log_prior(self, params: Any) -> Any:
        mode, stats = self._pseudo(jnp.result_type(*jax.tree.leaves(params)))
        q = self.model.expected_log_joint
        return self.model.log_prior(params) + q(params, stats) - q(mode, stats)

    def degenerate(self, params: Any, n_points: Any) -> Any:
        """None, if every leaf has a share of the prior.

        Then the objective is bounded, and a component is at a proper maximum, however tight it is.
        """
        proper = jnp.stack([jnp.min(jnp.asarray(leaf)) > 0 for leaf in jax.tree.leaves(self.strength)]).all()
        return self.model.degenerate(params, n_points) & ~proper

    # The statistics of the centred form are relative to the incumbent params, and those of the
    # prior are not.

    def prepare(self, x: Any, weights: jax.Array | None = None, centred: bool = False) -> Any:
        return self.model.prepare(x, weights)

    def ill_conditioned(self, params: Any) -> Any:
        return None

    def refined(self, params: Any, resp: Any, z: Any, weights: jax.Array | None = None) -> Any:
        return params


def weak_prior(model: Model, x: Any, strength: float = 1.0, weights: ArrayLike | None = None) -> WithPrior:
    """A model with a prior from the data: each component has seen `strength` more rows like x.

    The prior keeps the covariance (rate, probability, ...) of every component away from 0, where
    the likelihood has no maximum, and it matters less the more rows a component holds. It is the
    cure for DEGENERATE. Fraley and Raftery (2007) have it for normal mixtures.

    Args:
        model: a model that provides `Pools`.
        x: the rows, [n, ...].
        strength: how many rows the prior counts for in each component.
        weights: sample weights [n]; None means that all are 1.

    Returns:
        The model with its prior.

    Raises:
        NotProvidedError: the model cannot say what a single component of all rows would be.

    Examples:
        >>> import jax, jaxem
        >>> x = jaxem.datasets.old_faithful()
        >>> model = jaxem.weak_prior(jaxem.gaussian_mixture(6), x)
        >>> best, every = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=8)
        >>> bool((every.status == jaxem.Status.DEGENERATE).any())
        False
    """
    if not provides(model, Pools):
        raise NotProvidedError(model, "pooled", f"{type(model).__name__} cannot say what a single component would be")
    rows = arrays.on_host(model.rows(x))
    model.check_finite(rows)
    model.check(rows)
    dtype = jax.dtypes.canonicalize_dtype(np.result_type(*jax.tree.leaves(rows)))
    host = all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(rows))
    frame = Frame.of(model, rows, None, dtype) if host else Frame(Identity(), dtype)
    rows = frame.rows(rows)
    weights = None if weights is None else jnp.asarray(arrays.as_weights(weights, arrays.n_rows(rows), dtype))
    return WithPrior(model, frame.params_back(model.pooled(rows, weights)), strength)
