"""Frozen dataclasses that are pytrees: what models, units and algorithms are made of."""

import dataclasses
from typing import Any, dataclass_transform

import jax


@dataclass_transform(frozen_default=True)
def pytree_class(cls) -> Any:
    """Decorator: a frozen dataclass that is a pytree. Fields are leaves unless declared with `static()`."""
    cls = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(cls)
    leaves = [field.name for field in fields if not field.metadata.get("static")]
    fixed = [field.name for field in fields if field.metadata.get("static")]

    # The class is part of the structure: two classes without leaves are equal nodes to `register_dataclass` (jax 0.10),
    # and a compiled method may then be found for the wrong one.
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
    """An instance of a frozen dataclass from pairs (field, value), without the checks of its constructor."""
    node = object.__new__(cls)
    for name, value in values:
        object.__setattr__(node, name, value)
    return node


def static(**kwargs: Any) -> Any:
    """A dataclass field that is structure (shapes, kinds): part of the compiled program, not a leaf."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


def in_data_units(kind: str = "params", **kwargs: Any) -> Any:
    """A dataclass field that moves with the coordinates of the data (see `Units.model`).

    Args:
        kind: "params": params of the model, in the data's units; "units": the units that those params are in.
        **kwargs: what `dataclasses.field` takes.
    """
    return dataclasses.field(metadata={"carried": kind}, **kwargs)


def is_pytree_class(cls) -> bool:
    """Whether `pytree_class` (or `model_class`) has decorated this very class."""
    return "__dataclass_fields__" in vars(cls)
