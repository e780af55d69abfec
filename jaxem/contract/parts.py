"""The parts of a model or a family: the other models and families in its fields."""

import dataclasses
from typing import Any


def parts_of(part: Any) -> list:
    """The models and families in the fields of a model or family, also those in tuples."""
    found = []
    for field in dataclasses.fields(part) if dataclasses.is_dataclass(part) else ():
        value = getattr(part, field.name)
        found += [each for each in (value if isinstance(value, tuple) else (value,)) if hasattr(each, "e_step")]
    return found


def any_part(part: Any, name: str) -> bool:
    """Whether the attribute `name` is true for a model or family, or for any part of it."""
    return bool(getattr(part, name, False)) or any(any_part(each, name) for each in parts_of(part))
