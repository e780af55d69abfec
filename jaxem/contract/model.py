"""The contract every latent-variable model fulfils. Read this file first.

EM is two pure functions over immutable parameters,

    e_step(params, x)    -> EStep(resp, log_prob)     expected latent variables, log p(x_i | params)
    m_step(resp, x)      -> params                    maximiser of the expected complete-data log-likelihood

and the M-step is split through an object that *adds up* over examples and is linear in their weights:

    m_step(resp, x) = maximize(sufficient_statistics(resp, x))

The loop, restarts, chunks, devices, accelerations and the gradient baseline are written against this class alone;
none of them knows which model it drives. What a model may offer besides (samples, predictions, conjugate priors, ...)
is in `capabilities`; k components side by side are a `Family`.
"""

from typing import Any, NamedTuple, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp

from jaxem.contract import capabilities
from jaxem.contract.calls import compile_methods, compiled_method
from jaxem.contract.errors import NotProvidedError
from jaxem.contract.frame import expectations, log_densities, model_params
from jaxem.contract.posterior import posterior_of
from jaxem.contract.pytree import pytree_class
from jaxem.contract.units import Identity, Units
from jaxem.inputs import arrays


class EStep(NamedTuple):
    """What an E-step returns.

    resp: the expected latent variables, any pytree. For a mixture the responsibilities [n, k].
    log_prob: log p(x_i | params) [n], in nats, with every constant.
    """

    resp: Any
    log_prob: jax.Array


_Class = TypeVar("_Class")


@dataclass_transform(frozen_default=True)
def model_class(cls: type[_Class]) -> type[_Class]:
    """Decorator of a `Model` or a `Family`: a frozen dataclass and a pytree, whose methods are compiled.

    Fields are hyperparameters that are traced (numbers, arrays, other models), unless declared with `static()`.
    """
    return pytree_class(compile_methods(cls))


#: The names of what models may provide: an error says so where one of them does not.
_OPTIONAL = {name for each in capabilities.ALL for name in vars(each) if not name.startswith("_")}


class Part:
    """What models and families have in common: the steps of EM, and what the loop asks about the data."""

    #: False for a model whose "statistics" are not sums over examples (see `from_steps`).
    additive = True

    #: False for a model whose log_prob is no log density (see `Hard`).
    normalised = True

    #: True: `degenerate` and `empty` take the statistics at params in place of n_points (one more pass after the fit).
    judged_by_statistics = False

    def __getattr__(self, name: str) -> Any:
        # Python looks here only for what is not there.
        if name in _OPTIONAL:
            raise NotProvidedError(self, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    # --- the steps ---------------------------------------------------------------------------------------------

    @compiled_method(gives=expectations)
    def e_step(self, params: Any, x: Any) -> EStep:
        """Expected latent variables and log p(x_i | params) at `params`."""
        raise _unwritten(self, "e_step(params, x) -> EStep(resp, log_prob)")

    def sufficient_statistics(self, resp: Any, x: Any, weights: Any = None) -> Any:
        """Expected sufficient statistics: a sum over examples, linear in `weights` [n] (None: all one)."""
        raise _unwritten(self, "sufficient_statistics(resp, x, weights=None) -> stats")

    def maximize(self, stats: Any, params: Any = None) -> Any:
        """The params that maximise Q given the statistics.

        `params` is the incumbent, the point at which the statistics were taken: the warm start of an iterative
        M-step and the value of whatever the statistics say nothing about (an empty component). It is None where the
        statistics are those of a random start.
        """
        raise _unwritten(self, "maximize(stats, params=None) -> params")

    def constraints(self) -> Any:
        """A tree of `Constraint` shaped like params: where each leaf lives."""
        raise _unwritten(self, "constraints() -> a tree of constraints shaped like params")

    def expected_log_joint(self, params: Any, stats: Any) -> Any:
        """Q(params) = E[log p(x, z | params)], total in nats, linear in the statistics. Optional."""
        raise NotProvidedError(self, "expected_log_joint")

    def log_prior(self, params: Any) -> Any:
        """log p(params), added to the log-likelihood to give the objective; 0 for maximum likelihood."""
        return 0.0

    # --- the data ------------------------------------------------------------------------------------------------

    def rows(self, x: Any) -> Any:
        """Data as a pytree of float arrays [n, ...], one row per example (on the host, where their values are)."""
        return arrays.as_rows(x)

    def n_observations(self, x: Any, weights: Any = None) -> Any:
        """How many observations x amounts to, for criteria such as BIC: the total weight of the rows."""
        return arrays.n_rows(self.rows(x)) if weights is None else jnp.sum(jnp.asarray(weights))

    def check_finite(self, x: Any) -> None:
        """Raise ValueError where rows x hold numbers that are none: NaN, unless it stands for what is missing."""
        arrays.check_finite(x)

    def check(self, x: Any, params: Any = None) -> None:
        """Raise ValueError, naming the argument, where x or params do not fit the model. Shapes alone if traced."""

    def check_fit(self, x: Any, weights: jax.Array, dtype: Any) -> None:
        """Raise ValueError where rows x (of these weights) have no fit in `dtype`; values may be traced."""

    # --- units: the coordinates that a fit runs in ---------------------------------------------------------------

    def units(self, x: Any, weights: jax.Array | None = None) -> Units:
        """The change of coordinates in which rows x have a standard scale; `Identity()`: x is used as it is."""
        return Identity()

    def origin(self, x: Any, params: Any = None) -> Units:
        """Units for the host in which x (or None), and params, lose no digits when rounded to float32.

        They move the origin to where x lies (or, without x, where params lie), and may decorrelate columns that are
        nearly dependent. `Identity()`: nothing is lost as it is.
        """
        return Identity()

    # --- speed and precision, with no effect on the answer -------------------------------------------------------

    def prepare(self, x: Any, weights: jax.Array | None = None, centred: bool = False) -> Any:
        """What of x does not change during a fit, computed once: e_step and sufficient_statistics accept it.

        `weights` [n] are the rows' weights for the whole fit: what depends on them alone may be summed here.
        `centred` asks for the slower form that keeps its precision when `ill_conditioned` says so. Statistics of
        centred data are relative to the params of the E-step, so only `maximize(stats, params)` may read them.
        """
        return x

    def shared_log_lik(self, params: Any, stats: Any) -> Any:
        """The part of the log-likelihood that no latent variable touches, linear in the statistics.

        The E-step of *prepared* data may leave it out of `log_prob`; the loop adds it once per iteration.
        """
        return 0.0

    def ill_conditioned(self, params: Any) -> Any:
        """True where the fast form loses precision at these params in this dtype; None if it never does."""
        return None

    # --- the verdict ---------------------------------------------------------------------------------------------

    def degenerate(self, params: Any, n_points: Any) -> Any:
        """Which components are degenerate (bool, any shape), for params in standard units and n_points rows."""
        return jnp.zeros((), bool)


class Model(Part):
    """A latent-variable model: pure methods, no state. Subclass it, decorate with `model_class`.

    Write `init`, `e_step`, `sufficient_statistics`, `maximize` and `constraints`. The remaining methods have defaults
    that are right for most models; `log_prob`, `m_step` and `posterior` are derived.
    """

    #: Names of the kinds of random start that `init` knows; `fit_restarts` cycles through them.
    start_kinds: tuple[str, ...] = ("default",)

    @compiled_method(gives=model_params)
    def init(self, key: jax.Array, x: Any, weights: jax.Array | None = None, kind: Any = 0) -> Any:
        """One random start: params drawn with `key` for the data x; `kind` indexes `start_kinds` and may be traced."""
        raise _unwritten(self, "init(key, x, weights=None, kind=0) -> params")

    def empty(self, params: Any, n_points: Any) -> Any:
        """Which components hold no data (bool, any shape)."""
        return jnp.zeros((), bool)

    @compiled_method(gives=model_params)
    def m_step(self, resp: Any, x: Any, weights: jax.Array | None = None) -> Any:
        """params = maximize(sufficient_statistics(resp, x, weights)), taken in the data's standard units."""
        units = self.units(x, weights)
        inner, z = units.model(self), units.rows(x)
        params = inner.maximize(inner.sufficient_statistics(resp, z, weights))
        return units.back(inner.refined(params, resp, z, weights))

    def refined(self, params: Any, resp: Any, z: Any, weights: jax.Array | None = None) -> Any:
        """`params` = maximize(statistics of z in standard units), once more from sums that do not cancel."""
        return params

    @compiled_method(gives=log_densities)
    def log_prob(self, params: Any, x: Any) -> jax.Array:
        """log p(x_i | params) [n], in nats."""
        return self.e_step(params, x).log_prob

    @compiled_method()
    def posterior(self, params: Any, x: Any) -> jax.Array:
        """The hidden variable's marginal probabilities [n, k], as one array, whatever else an E-step expects."""
        resp = self.e_step(params, x).resp
        return posterior_of(self, resp).marginals()


def _unwritten(part, what) -> NotProvidedError:
    name = what.split("(")[0]
    return NotProvidedError(part, name, f"{type(part).__name__} has to write {what}; see jaxem/contract/model.py")
