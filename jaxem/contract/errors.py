"""The error for what a model, a family or a posterior does not offer."""

from typing import Any


class NotProvidedError(AttributeError, NotImplementedError):
    """A class was asked for something optional that it does not offer.

    It is an AttributeError, so that `hasattr` is False then.

    Args:
        owner: the class, or an instance of it.
        what: what was asked for, such as the name of a method.
        why: the reason (default: the class does not provide it).
    """

    def __init__(self, owner: Any, what: str, why: str = "") -> None:
        cls = owner if isinstance(owner, type) else type(owner)
        super().__init__(f"{what}: {why or f'{cls.__name__} does not provide it'}")
