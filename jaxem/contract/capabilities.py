"""What a model or a family may offer beyond EM itself, one small class for each: `provides` says who has what.

A class that has a capability inherits it and writes its methods. A mixture, a chain or a product has it where all its
parts do. A wrapper has what it wraps, but for what it names in `withholds`.
"""

from typing import Any

import jax

from jaxem.contract.calls import compiled_method
from jaxem.contract.errors import NotProvidedError
from jaxem.contract.frame import data_rows, hidden_and_rows
from jaxem.contract.parts import parts_of
from jaxem.inputs import arrays


class Draws:
    """It can be sampled from."""

    @compiled_method(static=("n", "t"), gives=data_rows)
    def sample(self, params: Any, key: jax.Array, n: int) -> Any:
        """n examples drawn from the model."""
        raise NotProvidedError(self, "sample")

    @compiled_method(gives=data_rows)
    def sample_like(self, params: Any, key: jax.Array, x: Any) -> Any:
        """A data set like x drawn from the model: what it does not describe (inputs, lengths, ...) is as in x."""
        return self.sample(params, key, arrays.n_rows(x))


class DrawsJointly(Draws):
    """Its hidden values can be drawn with the rows."""

    @compiled_method(static=("n", "t"), gives=hidden_and_rows)
    def sample_joint(self, params: Any, key: jax.Array, n: int) -> Any:
        """(hidden values, examples): n draws of both."""
        raise NotProvidedError(self, "sample_joint")


class Discrete:
    """A model with one discrete hidden value for each example, or for each time of a sequence."""

    @compiled_method()
    def predict(self, params: Any, x: Any) -> jax.Array:
        """The most probable hidden value of each example by itself [n]."""
        raise NotProvidedError(self, "predict")

    def permute(self, params: Any, order: Any) -> Any:
        """The same model with its components renumbered: new component j is old component order[j]."""
        raise NotProvidedError(self, "permute")

    def labelled(self, x: Any, labels: Any) -> tuple[Any, Any]:
        """(model, x) with what is known of the hidden values joined to the rows, see `Labelled`."""
        raise NotProvidedError(self, "labelled")

    def check_resp(self, resp: Any, x: Any) -> None:
        """Raise ValueError where `resp` is not what an E-step of x gives; its values may be traced."""


class Embeds:
    """A model whose examples have coordinates: it can be a component of a mixture or a chain."""

    def embed(self, x: Any, weights: jax.Array | None = None) -> jax.Array:
        """Coordinates [n, e] in which distances between rows (in standard units) mean something, for starts."""
        raise NotProvidedError(self, "embed")


class Conjugate:
    """It has a conjugate prior: pseudo-statistics that add to those of the data, see `WithPrior`."""

    def pseudo_statistics(self, params: Any, strength: Any, units: Any = None) -> Any:
        """Expected statistics of complete rows drawn at `params`.

        Args:
            params: the mode of the prior.
            strength: a tree like params: how many rows speak of each leaf.
            units: those that params are in.
        """
        raise NotProvidedError(self, "pseudo_statistics")


class Pools(Conjugate):
    """A model that can say what a single component would be, for a prior scaled by the data (`weak_prior`)."""

    def pooled(self, x: Any, weights: jax.Array | None = None) -> Any:
        """Params at which every component is what a single one would be: nothing is known of the hidden values."""
        raise NotProvidedError(self, "pooled")


class Imputes:
    """It can say what was not seen of a row."""

    @compiled_method(gives=data_rows)
    def conditional_mean(self, params: Any, x: Any) -> Any:
        """x with what was not seen of it (missing entries, noise, censored times) replaced by its expectation."""
        raise NotProvidedError(self, "conditional_mean")


ALL = (Draws, DrawsJointly, Discrete, Embeds, Conjugate, Pools, Imputes)


#: What the parts of a composition have to provide for it to have a capability; None: nothing.
OF_PARTS: dict[type, Any] = {
    Draws: Draws,
    DrawsJointly: Draws,
    Discrete: None,
    Embeds: Embeds,
    Conjugate: Conjugate,
    Pools: Conjugate,
    Imputes: Imputes,
}


def provides(part: Any, capability: Any) -> bool:
    """Whether a model or family has a capability: its class, and every part of it that the capability rests on."""
    if capability in getattr(part, "withholds", ()):
        return False
    if getattr(part, "is_wrapper", False) and not isinstance(part, capability):
        return provides(part.model, capability)
    if not isinstance(part, capability):
        return False
    of_parts = OF_PARTS[capability]
    return of_parts is None or all(provides(each, of_parts) for each in parts_of(part))
