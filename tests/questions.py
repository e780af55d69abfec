"""All that can be asked after a fit, as one table: a new question is a row of `QUESTIONS` or of `DRAWN`."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxem
from jaxem.contract.capabilities import Discrete, Draws, DrawsJointly, Imputes, provides

#: Draws of a sample; steps of a forecast.
DRAWS, AHEAD = 64, 2


class Asked(NamedTuple):
    """A fit, and the data that it is asked about (with labels joined to them, if there are any).

    other: params that are not those of the fit. weights: of the rows, or None.
    """

    model: Any
    x: Any
    weights: Any
    result: Any
    other: Any
    key: Any

    @property
    def params(self):
        return self.result.params


class Question(NamedTuple):
    """A question. ask: an `Asked` -> the answer. like: what the answer is, and so how two of them are compared.

    needs: of which models it can be asked.
    """

    name: str
    ask: Callable[[Asked], Any]
    like: str
    needs: Callable[[Any], bool] = lambda model: True

    def suits(self, row, situation) -> bool:
        """Whether it is asked of a row of the zoo in a situation; how likely rows are is asked in all of them."""
        return self.needs(row.model) and (situation.asked or self.name == "log_prob")


def _method(name):
    """A method that is called with params and rows."""
    return lambda asked: getattr(asked.model, name)(asked.params, asked.x)


def _has(name):
    return lambda model: hasattr(model, name)


def _offers(capability):
    return lambda model: provides(model, capability)


def _is_chain(model):
    return hasattr(model, "forecast_log_prob")


def _is_state_space(model):
    return isinstance(model, jaxem.StateSpace)


def _is_soft(model):
    return model.normalised


def _m_step(asked):
    return asked.model.m_step(asked.model.e_step(asked.params, asked.x).resp, asked.x, asked.weights)


def _forecast_log_prob(asked):
    """Of the first observations, as if they came after the last."""
    values = asked.x[0] if isinstance(asked.x, tuple) else asked.x
    return asked.model.forecast_log_prob(asked.params, asked.x, values[:, :AHEAD])


def _renumbered(asked):
    """The params with the components in the opposite order."""
    k = asked.model.posterior(asked.params, asked.x).shape[-1]
    return asked.model.permute(asked.params, np.arange(k)[::-1])


def _align(asked):
    return jaxem.align(asked.model, _renumbered(asked), asked.params, asked.x).order


def _align_on_draws(asked):
    return jaxem.align(asked.model, _renumbered(asked), asked.params).order


def _criterion(function):
    return lambda asked: function(asked.model, asked.result, asked.x, asked.weights)


def _elbo(asked):
    resp = asked.model.e_step(asked.params, asked.x).resp
    return jaxem.elbo(asked.model, asked.params, resp, asked.x, asked.weights)


def _kl_gap(asked):
    resp = asked.model.e_step(asked.other, asked.x).resp
    return jaxem.kl_gap(asked.model, asked.params, resp, asked.x, asked.weights)


def _saved_and_loaded(asked):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fit.npz"
        jaxem.save(path, asked.model, asked.result)
        return jaxem.load(path)[1].params


#: Answers are compared with those of float64 to the same params.
QUESTIONS = (
    Question("log_prob", _method("log_prob"), "densities"),
    Question("e_step", lambda asked: asked.model.e_step(asked.params, asked.x).log_prob, "densities"),
    Question("m_step", _m_step, "params"),
    Question("posterior", _method("posterior"), "probabilities"),
    Question("predict", _method("predict"), "values", _offers(Discrete)),
    Question("decode", _method("decode"), "values", _has("decode")),
    Question("filtered", _method("filtered"), "probabilities", _has("filtered")),
    Question("pairwise", _method("pairwise"), "probabilities", _has("pairwise")),
    Question("forecast", _method("forecast"), "probabilities", _is_chain),
    Question("forecast-mean", lambda asked: _method("forecast")(asked)[0], "rows", _is_state_space),
    Question("forecast_log_prob", _forecast_log_prob, "densities", _is_chain),
    Question("conditional_mean", _method("conditional_mean"), "rows", _offers(Imputes)),
    Question("icl", _criterion(jaxem.icl), "numbers", _offers(Discrete)),
    Question("bic", _criterion(jaxem.bic), "numbers"),
    Question("aic", _criterion(jaxem.aic), "numbers"),
    Question("align", _align, "values", _offers(Discrete)),
    Question("align-on-draws", _align_on_draws, "values", _offers(Discrete)),
    Question("elbo", _elbo, "numbers"),
    Question("kl_gap", _kl_gap, "numbers", _is_soft),
    Question("save-and-load", _saved_and_loaded, "params"),
)


def _init(asked):
    """One start of every kind."""
    kinds = range(len(asked.model.start_kinds))
    return [asked.model.init(jax.random.fold_in(asked.key, kind), asked.x, asked.weights, kind) for kind in kinds]


#: Random answers are compared with those of the same model to the same data near the origin, with the same key.
DRAWN = (
    Question("init", _init, "starts"),
    Question("sample", lambda asked: asked.model.sample(asked.params, asked.key, DRAWS), "draws", _offers(Draws)),
    Question(
        "sample_joint",
        lambda asked: asked.model.sample_joint(asked.params, asked.key, DRAWS)[1],
        "draws",
        _offers(DrawsJointly),
    ),
    Question(
        "sample_like", lambda asked: asked.model.sample_like(asked.params, asked.key, asked.x), "draws", _offers(Draws)
    ),
)
