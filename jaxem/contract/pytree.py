"""Frozen dataclasses that are pytrees: models, units and algorithms are such classes."""

import dataclasses
from typing import Any, dataclass_transform

import jax


@dataclass_transform(frozen_default=True)
def pytree_class(cls) -> Any:
    """Decorator that makes a class a frozen dataclass and a pytree.

    Fields are children of the pytree unless they are declared with `static()`.
    """
    cls = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(cls)
    leaves = [field.name for field in fields if not field.metadata.get("static")]
    fixed = [field.name for field in fields if field.metadata.get("static")]

    # The class is part of the structure. With `register_dataclass` (jax 0.10) two classes without
    # leaves are equal nodes, and a call could find the compiled method of the wrong class.
    def structure(node):
        return cls, *(getattr(node, name) for name in fixed)

    def flatten(node):
        return [getattr(node, name) for name in leaves], structure(node)

    def flatten_with_keys(node):
        return [(jax.tree_util.GetAttrKey(name), getattr(node, name)) for name in leaves], structure(node)

    def unflatten(structure, values):
        return build(cls, (*zip(fixed, structure[1:], strict=True), *zip(leaves, values, strict=True)))

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def build(cls, values: Any) -> Any:
    """An instance of a frozen dataclass, made without the checks of its constructor.

    Args:
        cls: the class.
        values: pairs (name of a field, value).
    """
    node = object.__new__(cls)
    for name, value in values:
        object.__setattr__(node, name, value)
    return node


def static(**kwargs: Any) -> Any:
    """A dataclass field that is part of the pytree's structure, such as a size or a kind.

    Its value has to be hashable and is part of the compiled program.

    Args:
        **kwargs: arguments of `dataclasses.field`.
    """
    return dataclasses.field(metadata={"static": True}, **kwargs)


def in_data_units(kind: str = "params", **kwargs: Any) -> Any:
    """A dataclass field that moves with the coordinates of the data (see `Units.model`).

    Args:
        kind: "params" for params of the model, which are given in the data's units; "units" for the
            units that those params are in; "part" for a model or family whose units are
            `units.inner`.
        **kwargs: arguments of `dataclasses.field`.
    """
    return dataclasses.field(metadata={"carried": kind}, **kwargs)


def is_pytree_class(cls) -> bool:
    """Whether `pytree_class` or `model_class` has decorated this class itself, not only a base."""
    return "__dataclass_fields__" in vars(cls)
