"""The error for what a model, a family or a posterior does not offer."""

from typing import Any


class NotProvidedError(AttributeError, NotImplementedError):
    """Something optional was asked of a class that does not offer it; `hasattr` is then False."""

    def __init__(self, owner: Any, what: str, why: str = "") -> None:
        cls = owner if isinstance(owner, type) else type(owner)
        super().__init__(f"{what}: {why or f'{cls.__name__} does not provide it'}")
