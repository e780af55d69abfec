"""The contract every latent-variable model fulfils. Read this file first.

EM is two pure functions over immutable parameters,

    e_step(params, x)    -> EStep(resp, log_prob)     expected latent variables, log p(x_i | params)
    m_step(resp, x)      -> params                    maximiser of the expected complete-data log-likelihood

and the M-step is split through an object that *adds up* over examples and is linear in their weights:

    m_step(resp, x) = maximize(sufficient_statistics(resp, x))

The loop, restarts, chunks, devices, accelerations and the gradient baseline are written against this class
alone; none of them knows which model it drives.
"""

import dataclasses
import functools
import inspect
import math
from typing import Any, NamedTuple, dataclass_transform

import jax
import jax.numpy as jnp

from jaxem.contract.arguments import check_arguments
from jaxem.inputs import arrays
from jaxem.numerics.compilation import Program, Work, work_of_arguments


class EStep(NamedTuple):
    """What an E-step returns.

    resp: the expected latent variables, any pytree. For a mixture the responsibilities [n, k].
    log_prob: log p(x_i | params) [n], in nats, with every constant.
    """

    resp: Any
    log_prob: jax.Array


#: Methods that `model_class` compiles, with their static arguments: calling one from Python is then one dispatch
#: instead of dozens, and inside a compiled fit it makes no difference.
_COMPILED = {
    "init": (),
    "e_step": (),
    "m_step": (),
    "log_prob": (),
    "posterior": (),
    "predict": (),
    "sample": ("n", "t"),
    "sample_joint": ("n", "t"),
    "sample_like": (),
    "decode": (),
    "conditional_mean": (),
    "filtered": (),
    "pairwise": (),
    "forecast": ("n_steps",),
    "forecast_log_prob": (),
}


@dataclass_transform(frozen_default=True)
def pytree_class(cls):
    """Decorator: a frozen dataclass that is a pytree. Fields are leaves unless declared with `static()`."""
    cls = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(cls)
    leaves = [field.name for field in fields if not field.metadata.get("static")]
    fixed = [field.name for field in fields if field.metadata.get("static")]

    # The class is part of the structure: two classes without leaves are equal nodes to `register_dataclass` (jax 0.10),
    # and a compiled method may then be found for the wrong one.
    def structure(model):
        return cls, *(getattr(model, name) for name in fixed)

    def flatten(model):
        return [getattr(model, name) for name in leaves], structure(model)

    def flatten_with_keys(model):
        return [(jax.tree_util.GetAttrKey(name), getattr(model, name)) for name in leaves], structure(model)

    def unflatten(structure, values):
        model = object.__new__(cls)
        for name, value in (*zip(fixed, structure[1:], strict=True), *zip(leaves, values, strict=True)):
            object.__setattr__(model, name, value)
        return model

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


@dataclass_transform(frozen_default=True)
def model_class(cls):
    """Decorator of a `Model`: a `pytree_class` whose methods are compiled when called from Python."""
    for name, static_names in _COMPILED.items():
        method = getattr(cls, name, None)
        if method is not None and not hasattr(method, "compiled"):
            known = [argument for argument in static_names if argument in inspect.signature(method).parameters]
            # What is drawn may be far larger than what it is drawn from.
            work = work_of_arguments if not known else lambda *args, **kwargs: Work(math.inf)
            setattr(cls, name, _checked(method, Program(method, work, static_argnames=known, inline=True)))
    return pytree_class(cls)


def _checked(method, compiled):
    """`compiled` with arguments made into arrays and checked first, as far as their values are known."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def call(self, *args, **kwargs):
        bound = signature.bind(self, *args, **kwargs).arguments
        del bound[next(iter(bound))]
        return compiled(self, **check_arguments(self, bound, method.__name__))

    call.compiled = compiled  # type: ignore[attr-defined]
    return call


def static(**kwargs):
    """A dataclass field that is structure (shapes, kinds): part of the compiled program, not a leaf."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


class Model:
    """A latent-variable model: pure methods, no state. Subclass it, decorate with `model_class`.

    Write `init`, `e_step`, `sufficient_statistics`, `maximize` and `constraints`. The remaining methods have
    defaults that are right for most models; `log_prob` and `m_step` are derived and not overridden.
    """

    #: False for a model whose "statistics" are not sums over examples (see `from_steps`).
    additive = True

    #: False for a model whose log_prob is no log density (see `Hard`).
    normalised = True

    #: True: `degenerate` and `empty` take the statistics at params in place of n_points (one more pass after the fit).
    judged_by_statistics = False

    #: Names of the kinds of random start that `init` knows; `fit_restarts` cycles through them.
    start_kinds: tuple[str, ...] = ("default",)

    # --- to be written -------------------------------------------------------------------------------------

    def init(self, key, x, weights=None, kind=0) -> Any:
        """One random start: params drawn with `key` for the data x; `kind` indexes `start_kinds` and may be traced."""
        raise NotImplementedError(f"{type(self).__name__}.init")

    def e_step(self, params, x) -> EStep:
        """Expected latent variables and log p(x_i | params) at `params`."""
        raise NotImplementedError(f"{type(self).__name__}.e_step")

    def sufficient_statistics(self, resp, x, weights=None) -> Any:
        """Expected sufficient statistics: a sum over examples, linear in `weights` [n] (None: all one)."""
        raise NotImplementedError(f"{type(self).__name__}.sufficient_statistics")

    def maximize(self, stats, params=None) -> Any:
        """The params that maximise Q given the statistics.

        `params` is the incumbent, the point at which the statistics were taken: the warm start of an iterative
        M-step and the value of whatever the statistics say nothing about (an empty component).
        """
        raise NotImplementedError(f"{type(self).__name__}.maximize")

    def constraints(self) -> Any:
        """A tree of `Constraint` shaped like params: where each leaf lives."""
        raise NotImplementedError(f"{type(self).__name__}.constraints")

    # --- derived -------------------------------------------------------------------------------------------

    def m_step(self, resp, x, weights=None) -> Any:
        """params = maximize(sufficient_statistics(resp, x, weights)), taken in the data's standard units."""
        units = self.units(x, weights)
        z = self.to_units(units, x)
        inner = self.in_units(units)
        params = inner.maximize(inner.sufficient_statistics(resp, z, weights))
        return self.settle(self.params_from_units(units, inner.refine(params, resp, z, weights)))

    def log_prob(self, params, x) -> jax.Array:
        """log p(x_i | params) [n], in nats."""
        return self.e_step(params, x).log_prob

    # --- optional: what the model knows about itself --------------------------------------------------------

    def log_prior(self, params):
        """log p(params), added to the log-likelihood to give the objective; 0 for maximum likelihood."""
        return 0.0

    def expected_log_joint(self, params, stats):
        """Q(params) = E[log p(x, z | params)], total in nats, linear in the statistics."""
        raise NotImplementedError(f"{type(self).__name__}.expected_log_joint")

    def hard_e_step(self, params, x) -> EStep:
        """The E-step of `Hard`: resp of the most probable hidden values z, and log p(x_i, z_i) in place of log_prob."""
        raise NotImplementedError(f"{type(self).__name__}.hard_e_step")

    def latent_entropy(self, resp):
        """Entropy H(q_i) [n] of the distribution over the latent variables that `resp` stands for, in nats."""
        raise NotImplementedError(f"{type(self).__name__}.latent_entropy")

    def assignment_entropy(self, resp):
        """Entropy [n] of the discrete hidden value (component, path of states) alone, in nats: what ICL charges for."""
        raise NotImplementedError(f"{type(self).__name__}.assignment_entropy")

    def latent_divergence(self, resp, other):
        """KL(q_i || p_i) [n], in nats, between the distributions over latent variables that two `resp` stand for."""
        raise NotImplementedError(f"{type(self).__name__}.latent_divergence")

    def posterior(self, params, x) -> jax.Array:
        """The hidden variable's marginal probabilities [n, k]."""
        return self.posterior_of(self.e_step(params, x).resp)

    def posterior_of(self, resp) -> jax.Array:
        """The marginals as one array, whatever else `resp` holds."""
        return resp

    def predict(self, params, x) -> jax.Array:
        """The most probable hidden value of each example [n]."""
        return jnp.argmax(self.posterior(params, x), axis=-1)

    def sample(self, params, key, n: int):
        """n examples drawn from the model."""
        raise NotImplementedError(f"{type(self).__name__}.sample")

    def sample_like(self, params, key, x):
        """A data set like x drawn from the model: what it does not describe (inputs, exposures, lengths...) is x's."""
        return self.sample(params, key, arrays.n_rows(x))

    def embed(self, x, weights=None):
        """Coordinates [n, e] in which distances between rows (in standard units) mean something, for starts."""
        raise NotImplementedError(f"{type(self).__name__}.embed")

    def permute(self, params, order):
        """The same model with its components renumbered: new component j is old component order[j]."""
        raise NotImplementedError(f"{type(self).__name__}.permute")

    def conditional_mean(self, params, x):
        """x with what was not seen of it (holes, noise, censored times) replaced by its expectation given the rest."""
        raise NotImplementedError(f"{type(self).__name__}.conditional_mean")

    # --- optional: what is known or believed beyond the rows ----------------------------------------------------

    def labelled(self, x, labels):
        """(model, x) with what is known of the hidden values joined to the rows, see `Labelled`."""
        raise NotImplementedError(f"{type(self).__name__}.labelled")

    def tempered(self, resp, exponent):
        """`resp` with the distribution over the hidden values raised to a power and normalised, see `jaxem.anneal`."""
        raise NotImplementedError(f"{type(self).__name__}.tempered")

    def pseudo_statistics(self, params, strength, units=None) -> Any:
        """Expected statistics of complete rows drawn at `params`, as a conjugate prior adds them, see `WithPrior`.

        `strength` is a tree like params: how many rows speak of each leaf. `units`: those that params are in.
        """
        raise NotImplementedError(f"{type(self).__name__}.pseudo_statistics")

    def pooled(self, x, weights=None) -> Any:
        """Params at which every component is what a single one would be: nothing is known of the hidden values."""
        raise NotImplementedError(f"{type(self).__name__}.pooled")

    def in_units(self, units):
        """The model with those of its hyperparameters that have units (a prior's centre, held values) in `units`."""
        return self

    def settle(self, params):
        """`params` with what fits are not to move put to where it belongs, to the last bit."""
        return params

    # --- optional: what comes out ------------------------------------------------------------------------------

    def degenerate(self, params, n_points):
        """Which components are degenerate (bool, any shape), for params in standard units and n_points rows."""
        return jnp.zeros((), bool)

    def empty(self, params, n_points):
        """Which components hold no data (bool, any shape)."""
        return jnp.zeros((), bool)

    def rows(self, x) -> Any:
        """Data as a pytree of float arrays [n, ...], one row per example (host side); what `fit` hands to the rest."""
        return arrays.as_rows(x)

    def n_observations(self, x, weights=None):
        """How many observations x amounts to, for criteria such as BIC: the total weight of the rows."""
        return arrays.n_rows(self.rows(x)) if weights is None else jnp.sum(jnp.asarray(weights))

    def check_finite(self, x) -> None:
        """Raise ValueError where rows x hold numbers that are none: NaN, unless it stands for what is missing."""
        arrays.check_finite(x)

    def check(self, x, params=None) -> None:
        """Raise ValueError, naming the argument, where x or params do not fit the model (host side)."""

    def check_shapes(self, x, params=None) -> None:
        """What of `check` needs no values: called in its place while a program is traced."""

    def check_resp(self, resp, x) -> None:
        """Raise ValueError where `resp` is not what an E-step of x gives; its values may be traced."""

    def check_fit(self, x, weights, dtype) -> None:
        """Raise ValueError where rows x (of these weights) have no fit in `dtype`; values may be traced."""

    # --- optional: speed and precision, with no effect on the answer ------------------------------------------

    def prepare(self, x, weights=None, centred=False) -> Any:
        """What of x does not change during a fit, computed once: e_step and sufficient_statistics accept it.

        `weights` [n] are the rows' weights for the whole fit: what depends on them alone may be summed here.
        `centred` asks for the slower form that keeps its precision when `ill_conditioned` says so. Statistics of
        centred data are relative to the params of the E-step, so only `maximize(stats, params)` may read them.
        """
        return x

    def shared_log_lik(self, params, stats):
        """The part of the log-likelihood that no latent variable touches, linear in the statistics.

        The E-step of *prepared* data may leave it out of `log_prob`; the loop adds it once per iteration.
        """
        return 0.0

    def ill_conditioned(self, params):
        """True where the fast form loses precision at these params in this dtype; None if it never does."""
        return None

    # --- optional: units ---------------------------------------------------------------------------------------

    def units(self, x, weights=None) -> Any:
        """The affine change of coordinates in which the data have a standard scale; None: x is used as it is."""
        return None

    def refine(self, params, resp, z, weights=None):
        """`params` = maximize(statistics of z in standard units), once more from sums that do not cancel."""
        return params

    def origin(self, x, params=None) -> Any:
        """Units for the host in which x, and params of a start, lose no digits when rounded to float32; None: as is.

        They move the origin to where x lies, and may decorrelate columns that are nearly dependent.
        """
        return None

    def to_units(self, units, x) -> Any:
        return x

    def params_to_units(self, units, params) -> Any:
        return params

    def params_from_units(self, units, params) -> Any:
        return params

    def log_volume(self, units):
        """log p(x) = log p(to_units(x)) - log_volume, per example: one number, or [n] where examples differ."""
        return 0.0
