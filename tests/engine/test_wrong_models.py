"""What a model of one's own does wrong is said when the fit is traced, and not computed with."""

import jax
import jax.numpy as jnp
import pytest

import jaxem

X = jnp.arange(10.0)


class Line(jaxem.Model):
    """The mean of numbers with unit variance, without what the subclasses get wrong."""

    def init(self, key, x, weights=None, kind=0):
        return jnp.zeros(())

    def e_step(self, params, x):
        return jaxem.EStep(jnp.ones_like(x), -0.5 * (x - params) ** 2)

    def sufficient_statistics(self, resp, x, weights=None):
        weights = jnp.ones_like(x) if weights is None else weights
        return weights.sum(), weights @ x

    def maximize(self, stats, params=None):
        return stats[1] / stats[0]

    def constraints(self):
        return jaxem.constraints.Real()


@jaxem.model_class
class Right(Line):
    """Nothing is wrong."""


@jaxem.model_class
class Column(Line):
    """log_prob [n, 1] would be spread over all pairs of rows."""

    def e_step(self, params, x):
        return jaxem.EStep(jnp.ones_like(x), -0.5 * (x - params)[:, None] ** 2)


@jaxem.model_class
class Total(Line):
    """One number for all rows."""

    def e_step(self, params, x):
        return jaxem.EStep(jnp.ones_like(x), (-0.5 * (x - params) ** 2).sum())


@jaxem.model_class
class OtherShape(Line):
    """Params [1] from params []."""

    def maximize(self, stats, params=None):
        return (stats[1] / stats[0])[None]


@jaxem.model_class
class OtherStructure(Line):
    """A pair from a number."""

    def maximize(self, stats, params=None):
        return stats[1] / stats[0], stats[0]


FITS = {
    "fit": lambda model: jaxem.fit(model, X, jnp.zeros(())),
    "fit_restarts": lambda model: jaxem.fit_restarts(model, X, jax.random.key(0), n_restarts=2),
    "fit_stream": lambda model: jaxem.fit_stream(model, [X[:5], X[5:]], jnp.zeros(())),
    "fit_partial": lambda model: jaxem.fit_partial(model, X, jnp.zeros(())),
    "jit": lambda model: jax.jit(jaxem.fit)(model, X, jnp.zeros(())),
}


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Column(), r"model: Column\.e_step has to give log_prob \[n\]: .*\(\d+, 1\)"),
        (Total(), r"model: Total\.e_step has to give log_prob \[n\]"),
        (OtherShape(), r"model: OtherShape\.maximize has to give params like those it was given"),
        (OtherStructure(), r"model: OtherStructure\.maximize has to give params like those it was given"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, jaxem.Model) else "",
)
def test_wrong_models_are_refused(fit, model, message):
    with pytest.raises(ValueError, match=message):
        FITS[fit](model)


def test_the_right_one_is_fitted():
    assert float(FITS["fit"](Right()).params) == 4.5


def test_two_functions_are_held_to_the_same():
    def e_step(params, x):
        return jnp.ones_like(x), -0.5 * (x - params) ** 2

    wrong = jaxem.from_steps(e_step, lambda resp, x: x.mean()[None])
    with pytest.raises(ValueError, match="m_step has to give params like those it was given"):
        jaxem.fit(wrong, X, jnp.zeros(()))
