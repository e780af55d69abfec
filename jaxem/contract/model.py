"""The contract of a latent-variable model. Read this file first.

EM consists of two pure functions of immutable params,

    e_step(params, x) -> EStep(resp, log_prob)   expected latent variables, log p(x_i | params)
    m_step(resp, x)   -> params                  maximiser of the expected complete-data
                                                 log-likelihood

and the M-step consists of two steps, with statistics in between that are sums over examples and
linear in their weights:

    m_step(resp, x) = maximize(sufficient_statistics(resp, x))

The loop, restarts, chunks, devices, accelerations and the gradient baseline use this class alone,
and none of them knows which model it fits. What a model may offer besides (samples, predictions,
conjugate priors, ...) is in `capabilities`; k components side by side are a `Family`.
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
    """The result of an E-step.

    Attributes:
        resp: the expected latent variables, any pytree; for a mixture the responsibilities [n, k].
        log_prob: log p(x_i | params) [n], in nats, with every constant.
    """

    resp: Any
    log_prob: jax.Array


_Class = TypeVar("_Class")


@dataclass_transform(frozen_default=True)
def model_class(cls: type[_Class]) -> type[_Class]:
    """Decorator that makes a `Model` or a `Family` a frozen dataclass and a pytree.

    It also compiles the methods that the contract declares as compiled. Fields are hyperparameters
    that are traced (numbers, arrays, other models), unless they are declared with `static()`.
    """
    return pytree_class(compile_methods(cls))


#: The names of the optional methods. A model that does not have one raises NotProvidedError for it.
_OPTIONAL = {name for each in capabilities.ALL for name in vars(each) if not name.startswith("_")}


class Part:
    """The common base of models and families: the steps of EM, and questions about the data."""

    #: This is False for a model whose "statistics" are not sums over examples (see `from_steps`).
    additive = True

    #: This is False for a model whose log_prob is not a log density (see `Hard`).
    normalised = True

    #: Where this is True, `degenerate` and `empty` take the statistics at params in place of
    #: n_points, which needs one more pass over the data after the fit.
    judged_by_statistics = False

    def __getattr__(self, name: str) -> Any:
        # Python calls this only for attributes that it does not find elsewhere.
        if name in _OPTIONAL:
            raise NotProvidedError(self, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    # --- the steps --------------------------------------------------------------------------------

    @compiled_method(gives=expectations)
    def e_step(self, params: Any, x: Any) -> EStep:
        """The E-step: expected latent variables and log p(x_i | params), in nats.

        Args:
            params: the current params.
            x: rows [n, ...], or prepared data (see `prepare`).
        """
        raise _unwritten(self, "e_step(params, x) -> EStep(resp, log_prob)")

    def sufficient_statistics(self, resp: Any, x: Any, weights: Any = None) -> Any:
        """The expected sufficient statistics: a sum over examples, linear in the weights.

        Args:
            resp: the expected latent variables of an E-step.
            x: rows [n, ...], or prepared data.
            weights: [n], or None for weights of 1.
        """
        raise _unwritten(self, "sufficient_statistics(resp, x, weights=None) -> stats")

    def maximize(self, stats: Any, params: Any = None) -> Any:
        """The params that maximise Q given the statistics.

        Args:
            stats: the expected sufficient statistics.
            params: the incumbent: the params at which the statistics were computed. An iterative
                M-step starts from it, and params about which the statistics say nothing (those of
                an empty component) keep its values. It is None for a random start.
        """
        raise _unwritten(self, "maximize(stats, params=None) -> params")

    def constraints(self) -> Any:
        """The set of values that each leaf may take: a tree of `Constraint` shaped like params."""
        raise _unwritten(self, "constraints() -> a tree of constraints shaped like params")

    def expected_log_joint(self, params: Any, stats: Any) -> Any:
        """Q(params) = E[log p(x, z | params)], total in nats, linear in the statistics.

        This method is optional. Bishop (2006), equation (9.30).
        """
        raise NotProvidedError(self, "expected_log_joint")

    def log_prior(self, params: Any) -> Any:
        """log p(params) in nats: the objective is the log-likelihood plus this.

        It is 0 for maximum likelihood.
        """
        return 0.0

    # --- the data ---------------------------------------------------------------------------------

    def rows(self, x: Any) -> Any:
        """Data as a pytree of float arrays [n, ...], one row for each example.

        Data that are given on the host stay there.
        """
        return arrays.as_rows(x)

    def n_observations(self, x: Any, weights: Any = None) -> Any:
        """The number of observations in x, for criteria such as BIC: the total weight of rows."""
        return arrays.n_rows(self.rows(x)) if weights is None else jnp.sum(jnp.asarray(weights))

    def check_finite(self, x: Any) -> None:
        """Raise ValueError where rows x hold NaN or infinite values.

        A model of missing entries allows NaN, which stands for them.
        """
        arrays.check_finite(x)

    def check(self, x: Any, params: Any = None) -> None:
        """Raise ValueError, naming the argument, where x or params do not suit the model.

        If values are traced, only shapes are checked.
        """

    def check_fit(self, x: Any, weights: jax.Array, dtype: Any) -> None:
        """Raise ValueError where rows x with these weights cannot be fitted in `dtype`.

        Values may be traced; they are not checked then.
        """

    # --- units: the coordinates that a fit runs in ------------------------------------------------

    def units(self, x: Any, weights: jax.Array | None = None) -> Units:
        """The change to coordinates in which rows x have a standard scale.

        It is `Identity()` where x is not changed.
        """
        return Identity()

    def origin(self, x: Any, params: Any = None) -> Units:
        """Units on the host in which x and params lose no digits when they are rounded to float32.

        They move the origin to x (or without x to the params), and may decorrelate columns that are
        nearly dependent. They are `Identity()` where nothing would be lost.

        Args:
            x: rows [n, ...] on the host, or None.
            params: params on the host, or None.
        """
        return Identity()

    # --- speed and precision, with no effect on the answer ----------------------------------------

    def prepare(self, x: Any, weights: jax.Array | None = None, centred: bool = False) -> Any:
        """Prepared data: functions of x alone, which are computed once for a fit.

        `e_step` and `sufficient_statistics` accept them in place of x.

        Args:
            x: rows [n, ...], or data that are prepared already.
            weights: the weights of the rows in the whole fit, [n]: sums that depend on x and on
                them alone may be computed here.
            centred: whether to take the slower form that stays precise where `ill_conditioned` is
                True. Its statistics are relative to the params of the E-step, so that only
                `maximize(stats, params)` may read them.
        """
        return x

    def shared_log_lik(self, params: Any, stats: Any) -> Any:
        """The part of the log-likelihood that does not depend on latent variables, total in nats.

        It is linear in the statistics. The E-step of prepared data may leave it out of `log_prob`;
        the loop adds it once per iteration.
        """
        return 0.0

    def ill_conditioned(self, params: Any) -> Any:
        """Whether the fast form of prepared data loses precision at these params in their dtype.

        Returns:
            A bool [], or None where the fast form never loses precision.
        """
        return None

    # --- the check of a result --------------------------------------------------------------------

    def degenerate(self, params: Any, n_points: Any) -> Any:
        """Which components are degenerate.

        Args:
            params: params in standard units.
            n_points: the number of rows; for a family the rows of each component, [k].

        Returns:
            An array of bool of any shape.
        """
        return jnp.zeros((), bool)


class Model(Part):
    """A latent-variable model: pure methods, no state.

    A model of your own is a subclass that is decorated with `model_class`. It has to write `init`,
    `e_step`, `sufficient_statistics`, `maximize` and `constraints`. The remaining methods have
    defaults that are right for most models; `log_prob`, `m_step` and `posterior` are derived.
    """

    #: Names of the kinds of random start that `init` offers; `fit_restarts` uses them in turn.
    start_kinds: tuple[str, ...] = ("default",)

    @compiled_method(gives=model_params)
    def init(self, key: jax.Array, x: Any, weights: jax.Array | None = None, kind: Any = 0) -> Any:
        """One random start: params for the data x.

        Args:
            key: a random key.
            x: rows [n, ...].
            weights: [n], or None for equal weights.
            kind: an index into `start_kinds`, which may be traced, or one of its names.
        """
        raise _unwritten(self, "init(key, x, weights=None, kind=0) -> params")

    def empty(self, params: Any, n_points: Any) -> Any:
        """Which components hold no data.

        Args:
            params: params in standard units.
            n_points: the number of rows.

        Returns:
            An array of bool of any shape.
        """
        return jnp.zeros((), bool)

    @compiled_method(gives=model_params)
    def m_step(self, resp: Any, x: Any, weights: jax.Array | None = None) -> Any:
        """The M-step: maximize(sufficient_statistics(resp, x, weights)), in standard units.

        Args:
            resp: the expected latent variables of an E-step.
            x: rows [n, ...].
            weights: [n], or None for weights of 1.

        Returns:
            Params in the data's units.
        """
        units = self.units(x, weights)
        inner, z = units.model(self), units.rows(x)
        params = inner.maximize(inner.sufficient_statistics(resp, z, weights))
        return units.back(inner.refined(params, resp, z, weights))

    def refined(self, params: Any, resp: Any, z: Any, weights: jax.Array | None = None) -> Any:
        """Compute the params of an M-step again from sums that do not cancel.

        Args:
            params: the result of the M-step.
            resp: the expected latent variables of an E-step.
            z: rows [n, ...] in standard units.
            weights: [n], or None for weights of 1.
        """
        return params

    @compiled_method(gives=log_densities)
    def log_prob(self, params: Any, x: Any) -> jax.Array:
        """log p(x_i | params) [n], in nats."""
        return self.e_step(params, x).log_prob

    @compiled_method()
    def posterior(self, params: Any, x: Any) -> jax.Array:
        """The marginal probabilities of the hidden values, [n, k]; for a chain [n, t, k]."""
        resp = self.e_step(params, x).resp
        return posterior_of(self, resp).marginals()


def _unwritten(part, what) -> NotProvidedError:
    name = what.split("(")[0]
    return NotProvidedError(part, name, f"{type(part).__name__} has to write {what}; see jaxem/contract/model.py")
