"""`check_model` on models with one mistake each: it must name the law that the mistake breaks."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_data import groups

from jaxem.contract.constraints import Positive, Simplex
from jaxem.contract.model import EStep, model_class
from jaxem.contract.pytree import pytree_class
from jaxem.contract.units import FieldUnits
from jaxem.families.gaussian import Gaussian, GaussianParams
from jaxem.latent.mixture import Mixture, MixtureParams
from jaxem.testing import check_model

#: The laws that need no whole fit: a mistake in a model shows in them.
CHEAP = (1, 2, 3, 4, 5, 6, 7, 10)


def shares(resp):
    """Responsibilities [n, k], also where resp holds latent variables of the components besides."""
    return getattr(resp, "resp", resp)


def with_shares(resp, new):
    return dataclasses.replace(resp, resp=new) if hasattr(resp, "resp") else new


def change_components(params, **changes):
    return params._replace(components=params.components._replace(**changes))


@model_class
class Right(Mixture):
    """No mistake: what the others are compared with."""


@model_class
class WrongPosterior(Mixture):
    """Responsibilities tempered by a power."""

    def e_step(self, params, x):
        resp, log_prob = super().e_step(params, x)
        tempered = shares(resp) ** 0.8
        return EStep(with_shares(resp, tempered / tempered.sum(-1, keepdims=True)), log_prob)


@model_class
class DroppedConstant(Mixture):
    """The 2 pi is missing, in log_prob and Q alike: they agree with one another, and both are wrong."""

    def e_step(self, params, x):
        resp, log_prob = super().e_step(params, x)
        return EStep(resp, log_prob + np.log(2 * np.pi))

    def expected_log_joint(self, params, stats):
        return super().expected_log_joint(params, stats) + stats.count.sum() * np.log(2 * np.pi)


@model_class
class BiasedMStep(Mixture):
    """Variances divided by n_k - 1 instead of n_k."""

    def maximize(self, stats, params=None):
        new = super().maximize(stats, params)
        factor = stats.count / (stats.count - 1) if hasattr(stats.components, "common") else 1
        return change_components(new, cov=new.components.cov * jnp.reshape(factor, (-1, 1)))


@model_class
class WrongWeights(Mixture):
    """Statistics that see only the square root of a row's weight."""

    def sufficient_statistics(self, resp, x, weights=None):
        return super().sufficient_statistics(resp, x, None if weights is None else jnp.sqrt(weights))


@model_class
class NormalisedWeights(Mixture):
    """Statistics that are means over the rows: linear in no weights, and they do not add up."""

    def sufficient_statistics(self, resp, x, weights=None):
        weights = jnp.ones_like(shares(resp)[:, 0]) if weights is None else weights
        return super().sufficient_statistics(resp, x, weights / weights.sum())


@model_class
class WrongQ(Mixture):
    """Q without the mixing proportions."""

    def expected_log_joint(self, params, stats):
        return self.component.expected_log_joint(params.components, stats.components)


@model_class
class NotAdditive(Mixture):
    """Statistics divided by the number of rows at hand."""

    def sufficient_statistics(self, resp, x, weights=None):
        stats = super().sufficient_statistics(resp, x, weights)
        return jax.tree.map(lambda leaf: leaf * 90 / len(shares(resp)), stats)


@model_class
class FirstRowTwice(Mixture):
    """The place of a row in the data matters."""

    def sufficient_statistics(self, resp, x, weights=None):
        return super().sufficient_statistics(with_shares(resp, shares(resp).at[0].multiply(2)), x, weights)


@model_class
class Overshooting(Mixture):
    """An M-step that goes 2.5 times as far as it should."""

    def maximize(self, stats, params=None):
        new = super().maximize(stats, params)
        if params is None:
            return new
        old = params.components.mean
        return change_components(new, mean=old + 2.5 * (new.components.mean - old))


@model_class
class HalfPermuted(Mixture):
    """Renumbering that forgets the mixing proportions."""

    def permute(self, params, order):
        return params._replace(components=self.component.permute(params.components, order))


@pytree_class
class WrongSign(FieldUnits):
    def log_volume(self):
        return -super().log_volume()


@model_class
class WrongVolume(Mixture):
    """The change of units with the wrong sign."""

    def units(self, x, weights=None):
        units = super().units(x, weights)
        return WrongSign(units.inner, units.field)


class OneWay(Positive):
    """value = exp(u), u = value."""

    def to_free(self, value):
        return value


@model_class
class WrongConstraint(Mixture):
    def constraints(self):
        return MixtureParams(Simplex(), GaussianParams(self.component.constraints().mean, OneWay()))


class Unconstrained(Positive):
    """Says "positive" and lets any number through."""

    def to_params(self, free):
        return free

    def to_free(self, value):
        return value


@model_class
class LooseConstraint(Mixture):
    def constraints(self):
        return MixtureParams(Simplex(), GaussianParams(self.component.constraints().mean, Unconstrained()))


@model_class
class SinglePrecision(Mixture):
    """Rounds to float32 whatever came in."""

    def e_step(self, params, x):
        resp, log_prob = super().e_step(params, x)
        return EStep(resp, log_prob.astype(jnp.float32))


MISTAKES = {
    WrongPosterior: {4, 5},
    DroppedConstant: {10},
    BiasedMStep: {3},
    WrongWeights: {2},
    NormalisedWeights: {1, 2},
    WrongQ: {4, 5},
    NotAdditive: {1},
    FirstRowTwice: {7},
    Overshooting: {3, 5},
    HalfPermuted: {7},
    WrongVolume: {7},
    WrongConstraint: {6},
    LooseConstraint: {6},
}


def broken_laws(model, laws=CHEAP):
    with pytest.raises(AssertionError) as caught:
        check_model(model, jax.random.key(1), groups(90, 2, 2), laws=laws)
    return {int(number) for number in re.findall(r"law (\d+) ", str(caught.value))}, str(caught.value)


def test_the_right_model_breaks_none(float64):
    report = check_model(Right(Gaussian("diag"), 2), jax.random.key(1), groups(90, 2, 2), laws=CHEAP)
    assert {outcome.law for outcome in report.with_status("passed")} == set(CHEAP)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda cls: cls.__name__)
def test_each_mistake_is_named(mistake, float64):
    laws, message = broken_laws(mistake(Gaussian("diag"), 2), tuple(MISTAKES[mistake]))
    assert laws == MISTAKES[mistake], message


def test_a_lone_mistake_is_not_blamed_on_other_laws(float64):
    assert broken_laws(DroppedConstant(Gaussian("diag"), 2))[0] == {10}
    assert broken_laws(HalfPermuted(Gaussian("diag"), 2))[0] == {7}


def test_lost_precision_is_named(float64):
    laws, message = broken_laws(SinglePrecision(Gaussian("diag"), 2), laws=(8,))
    assert laws == {8}
    assert "e_step" in message
    assert "float32 for float64 data" in message


def test_the_message_names_leaf_and_size(float64):
    message = broken_laws(BiasedMStep(Gaussian("diag"), 2), laws=(3,))[1]
    assert re.search(r"law 3 \(M-step\): .*maximize\(stats\)\.components\.cov: off by 0\.\d+, at most", message), (
        message
    )
