"""The capabilities that a model or a family may offer beyond EM itself, one small class for each.

A class that has a capability inherits it and writes its methods. A mixture, a chain or a product
has a capability where all its parts have it. A wrapper has the capabilities of what it wraps, but
for those that it names in `withholds`. `provides` says whether a model or family has a capability.
"""

from typing import Any

import jax

from jaxem.contract.calls import compiled_method
from jaxem.contract.errors import NotProvidedError
from jaxem.contract.frame import data_rows, hidden_and_rows
from jaxem.contract.parts import parts_of
from jaxem.inputs import arrays


class Draws:
    """A model or family that can be sampled from."""

    @compiled_method(static=("n", "t"), gives=data_rows)
    def sample(self, params: Any, key: jax.Array, n: int) -> Any:
        """Draw n examples from the model.

        Args:
            params: params of the model, or of the family.
            key: a random key.
            n: number of examples.

        Returns:
            Rows [n, ...]; for a family n rows of every component, [n, k, ...].
        """
        raise NotProvidedError(self, "sample")

    @compiled_method(gives=data_rows)
    def sample_like(self, params: Any, key: jax.Array, x: Any) -> Any:
        """Draw a data set like x from the model.

        Whatever the model does not describe (inputs, lengths, ...) is as in x.

        Args:
            params: params of the model, or of the family.
            key: a random key.
            x: rows [n, ...].

        Returns:
            Rows like x; for a family one of every component for each row, [n, k, ...].
        """
        return self.sample(params, key, arrays.n_rows(x))


class DrawsJointly(Draws):
    """A model whose hidden values can be drawn together with the rows."""

    @compiled_method(static=("n", "t"), gives=hidden_and_rows)
    def sample_joint(self, params: Any, key: jax.Array, n: int) -> Any:
        """Draw n examples together with their hidden values.

        Args:
            params: params of the model.
            key: a random key.
            n: number of examples.

        Returns:
            (hidden values, examples).
        """
        raise NotProvidedError(self, "sample_joint")


class Discrete:
    """A model with one discrete hidden value for each example, or for each time of a sequence."""

    @compiled_method()
    def predict(self, params: Any, x: Any) -> jax.Array:
        """The most probable hidden value of each example by itself, [n]; for a chain [n, t]."""
        raise NotProvidedError(self, "predict")

    def permute(self, params: Any, order: Any) -> Any:
        """Params with the components renumbered: new component j is old component order[j]."""
        raise NotProvidedError(self, "permute")

    def labelled(self, x: Any, labels: Any) -> tuple[Any, Any]:
        """Join labels, which are known hidden values, to the rows (see `Labelled`).

        Returns:
            (model, x): the model for labelled rows, and these rows.
        """
        raise NotProvidedError(self, "labelled")

    def check_resp(self, resp: Any, x: Any) -> None:
        """Raise ValueError where `resp` is not of the form that an E-step of x gives.

        The values of `resp` may be traced.
        """


class Embeds:
    """A part whose examples have coordinates: it can be a component of a mixture or a chain."""

    def embed(self, x: Any, weights: jax.Array | None = None) -> jax.Array:
        """Coordinates [n, e] for random starts, in which distances between rows are meaningful.

        Args:
            x: rows [n, ...] in standard units.
            weights: [n], or None for equal weights.
        """
        raise NotProvidedError(self, "embed")


class Conjugate:
    """A model or family with a conjugate prior: pseudo-statistics that add to those of the data.

    See `WithPrior`.
    """

    def pseudo_statistics(self, params: Any, strength: Any, units: Any = None) -> Any:
        """The expected statistics of complete rows that are drawn at `params`.

        Args:
            params: the mode of the prior.
            strength: a tree like params, with the number of such rows for each leaf.
            units: the units that params are in, or None for the data's own.
        """
        raise NotProvidedError(self, "pseudo_statistics")


class Pools(Conjugate):
    """A model that can estimate a single component, for a prior scaled by the data.

    See `weak_prior`.
    """

    def pooled(self, x: Any, weights: jax.Array | None = None) -> Any:
        """Params at which every component is the one that is estimated from all rows.

        Args:
            x: rows [n, ...].
            weights: [n], or None for equal weights.
        """
        raise NotProvidedError(self, "pooled")


class Imputes:
    """A model or family that can fill in what was not observed of a row."""

    @compiled_method(gives=data_rows)
    def conditional_mean(self, params: Any, x: Any) -> Any:
        """The rows x with what was not observed replaced by its conditional expectation.

        This concerns missing entries, noise and censored times.

        Args:
            params: params of the model, or of the family.
            x: rows [n, ...].

        Returns:
            Rows [n, ...]; for a family those under every component, [n, k, ...].
        """
        raise NotProvidedError(self, "conditional_mean")


ALL = (Draws, DrawsJointly, Discrete, Embeds, Conjugate, Pools, Imputes)


#: The capability that all parts of a composition must have for the composition to have a given one,
#: or None where nothing is asked of them.
OF_PARTS: dict[type, Any] = {
    Draws: Draws,
    DrawsJointly: Draws,
    Discrete: None,
    Embeds: Embeds,
    Conjugate: Conjugate,
    Pools: Conjugate,
    Imputes: Imputes,
}


def provides(part: Any, capability: type) -> bool:
    """Whether a model or family has a capability: its class, and every part that it rests on.

    Args:
        part: a model or a family.
        capability: one of the classes in `ALL`.
    """
    if capability in getattr(part, "withholds", ()):
        return False
    if getattr(part, "is_wrapper", False) and not isinstance(part, capability):
        return provides(part.model, capability)
    if not isinstance(part, capability):
        return False
    of_parts = OF_PARTS[capability]
    return of_parts is None or all(provides(each, of_parts) for each in parts_of(part))
