"""Wrappers: a model or a family that differs from another one in a few methods only."""

import dataclasses
import functools
import inspect
from typing import Any

from jaxem.contract import capabilities
from jaxem.contract.family import Family
from jaxem.contract.model import Model, Part

#: The methods that a wrapper does not take from the wrapped model, because they are derived from
#: methods that it may have changed.
DERIVED = {"m_step", "log_prob", "posterior", "weighted_e_step", "keep_where", "init_components"}

CONTRACT = (Part, Model, Family, *capabilities.ALL)


def contract_methods(cls) -> dict:
    """The public methods of a class that are defined by the contract: {name: function}."""
    found = {}
    for base in reversed(cls.__mro__):
        for name, method in vars(base).items():
            if base not in CONTRACT:
                found.pop(name, None)
            elif inspect.isfunction(method) and not name.startswith("_"):
                found[name] = method
    return found


class Wrapper(Part):
    """Base class of wrappers, which write the methods that differ from those of the wrapped model.

    A subclass names `Wrapper` before `Model` or `Family` among its bases. Every method of the
    contract that it does not write is the wrapped model's, and so is everything that the contract
    does not declare: capabilities, properties, sizes.

    Attributes:
        model: the wrapped model or family.
        withholds: the capabilities of the wrapped model that the wrapper does not have.
    """

    model: Any

    is_wrapper = True
    withholds: tuple[type, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, declared in contract_methods(cls).items():
            if name not in cls.own_methods():
                setattr(cls, name, cls.taken_over(name, declared))

    @classmethod
    def own_methods(cls) -> set[str]:
        """The names of the methods that keep the contract's own definition."""
        return DERIVED

    @classmethod
    def taken_over(cls, name: str, declared: Any) -> Any:
        """The method `name` of the wrapped model as a method of the wrapper.

        Args:
            name: name of the method.
            declared: the method as the contract declares it.
        """

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
        # Python calls this only for what the contract does not declare (capabilities, sizes, ...).
        if name.startswith("_") or name == "model":
            raise AttributeError(name)
        return getattr(self.model, name)


class SameDensity(Wrapper, Model):
    """A wrapper that changes how params are estimated, but not the distribution of the rows."""

    #: Whether the hyperparameters move with the units of the wrapped model (see `Units.model`).
    has_params_of_its_model = True

    @classmethod
    def own_methods(cls) -> set[str]:
        return DERIVED - {"posterior"}

    @property
    def normalised(self) -> Any:
        return self.model.normalised
