"""A model or a family that is another one in all but a few methods."""

import dataclasses
import functools
import inspect
from typing import Any

from jaxem.contract import capabilities
from jaxem.contract.family import Family
from jaxem.contract.model import Model, Part

#: What a wrapper computes anew, since it follows from methods that it may have changed.
DERIVED = {"m_step", "log_prob", "posterior", "weighted_e_step", "keep_where", "init_components"}

CONTRACT = (Part, Model, Family, *capabilities.ALL)


def contract_methods(cls) -> dict:
    """{name: function} of the public methods of a class that stand as the contract defines them."""
    found = {}
    for base in reversed(cls.__mro__):
        for name, method in vars(base).items():
            if base not in CONTRACT:
                found.pop(name, None)
            elif inspect.isfunction(method) and not name.startswith("_"):
                found[name] = method
    return found


class Wrapper(Part):
    """Subclass it (with `Model` or `Family` after it) and write what is different; the wrapped model does the rest.

    Every method of the contract that a subclass does not write is the wrapped model's, and so is everything that the
    contract does not declare: capabilities, properties, sizes. `withholds` names capabilities that are lost.
    """

    model: Any

    is_wrapper = True
    withholds: tuple[Any, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, declared in contract_methods(cls).items():
            if name not in cls.own_methods():
                setattr(cls, name, cls.taken_over(name, declared))

    @classmethod
    def own_methods(cls) -> set[str]:
        """Names of the contract's methods that keep the contract's own definition."""
        return DERIVED

    @classmethod
    def taken_over(cls, name: str, declared: Any) -> Any:
        """The method `name` of the wrapped model, as a method of the wrapper."""

        @functools.wraps(declared)
        def method(self, *args, **kwargs):
            return getattr(self.model, name)(*args, **kwargs)

        return method

    @property
    def start_kinds(self) -> Any:
        return self.model.start_kinds

    @property
    def judged_by_statistics(self) -> bool:
        return self.model.judged_by_statistics

    @property
    def row_ndim(self) -> Any:
        return self.model.row_ndim

    @property
    def independent_columns(self) -> bool:
        return self.model.independent_columns

    def labelled(self, x: Any, labels: Any) -> Any:
        model, x = self.model.labelled(x, labels)
        return dataclasses.replace(self, model=model), x  # type: ignore[type-var]

    def __getattr__(self, name: str) -> Any:
        # Only for what the contract does not declare (capabilities, n_components, ...).
        if name.startswith("_") or name == "model":
            raise AttributeError(name)
        return getattr(self.model, name)


class SameDensity(Wrapper, Model):
    """A wrapper that changes how params are estimated, and nothing about the distribution they stand for."""

    #: Its hyperparameters move with the units of the wrapped model, see `Units.model`.
    has_params_of_its_model = True

    @classmethod
    def own_methods(cls) -> Any:
        return DERIVED - {"posterior"}

    @property
    def normalised(self) -> Any:
        return self.model.normalised
