"""Methods that people call: compiled, with their arguments checked, in a frame where float32 keeps its digits."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxem.contract.arguments import check_arguments
from jaxem.contract.frame import called_in_frame, unchanged
from jaxem.numerics.compilation import Program, Work, work_of_arguments


class CompiledMethod(NamedTuple):
    """static: arguments that are part of the program. gives: how the outcome leaves the frame of the call."""

    static: tuple[Any, ...]
    gives: Callable


def compiled_method(*, static: Any = (), gives: Any = unchanged) -> Any:
    """Decorator of a method of the contract: `model_class` compiles it, and what overrides it, in every model.

    Calling such a method from Python is one dispatch instead of dozens; inside a compiled fit it makes no difference.
    """

    def mark(method):
        method.compiled_method = CompiledMethod(tuple(static), gives)
        return method

    return mark


def compile_methods(cls) -> Any:
    """`cls` with every method that the contract declares as compiled in its compiled form."""
    for name in dir(cls):
        declared = _declared(cls, name)
        method = getattr(cls, name, None)
        if declared is None or method is None or hasattr(method, "compiled"):
            continue
        known = [argument for argument in declared.static if argument in inspect.signature(method).parameters]
        # What is drawn may be far larger than what it is drawn from.
        work = work_of_arguments if not known else lambda *args, **kwargs: Work(math.inf)
        program = Program(method, work, static_argnames=known, inline=True)
        setattr(cls, name, _checked(method, program, declared))
    return cls


def _declared(cls, name) -> CompiledMethod | None:
    """What the contract says of a method, where it is declared first."""
    for base in cls.__mro__:
        found = getattr(vars(base).get(name), "compiled_method", None)
        if found is not None:
            return found
    return None


def _checked(method, compiled, declared: CompiledMethod):
    """`compiled` with arguments made into arrays and checked first, as far as their values are known."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def call(self, *args, **kwargs) -> Any:
        bound = signature.bind(self, *args, **kwargs).arguments
        del bound[next(iter(bound))]
        arguments = check_arguments(self, bound, method.__name__)
        return called_in_frame(self, compiled, declared.gives, arguments)

    call.compiled = compiled  # type: ignore[attr-defined]
    call.compiled_method = declared  # type: ignore[attr-defined]
    return call
