"""Compiled methods: arguments are checked, and calls run in a frame where float32 is precise."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxem.contract.arguments import check_arguments
from jaxem.contract.frame import called_in_frame, unchanged
from jaxem.numerics.compilation import Program, Work, work_of_arguments


class CompiledMethod(NamedTuple):
    """How a method of the contract is compiled.

    Attributes:
        static: names of the arguments that are part of the program.
        gives: (frame, result) -> the result as it leaves the frame of the call (see `frame`).
    """

    static: tuple[str, ...]
    gives: Callable


def compiled_method(*, static: tuple[str, ...] = (), gives: Callable = unchanged) -> Any:
    """Decorator of a method of the contract, which `model_class` then compiles in every model.

    Methods that override it are compiled too. A call of such a method from Python is one dispatch
    instead of dozens; inside a compiled fit it makes no difference.

    Args:
        static: names of the arguments that are part of the program.
        gives: how the result leaves the frame of the call: one of the functions in `frame`.
    """

    def mark(method):
        method.compiled_method = CompiledMethod(tuple(static), gives)
        return method

    return mark


def compile_methods(cls) -> Any:
    """Compile every method of `cls` that the contract declares as compiled, and return `cls`."""
    for name in dir(cls):
        declared = _declared(cls, name)
        method = getattr(cls, name, None)
        if declared is None or method is None or hasattr(method, "compiled"):
            continue
        known = [argument for argument in declared.static if argument in inspect.signature(method).parameters]
        # A sample may be far larger than the params that it is drawn from.
        work = work_of_arguments if not known else lambda *args, **kwargs: Work(math.inf)
        program = Program(method, work, static_argnames=known, inline=True)
        setattr(cls, name, _checked(method, program, declared))
    return cls


def _declared(cls, name) -> CompiledMethod | None:
    """The `CompiledMethod` of a method, from the first class in the MRO that has one, or None."""
    for base in cls.__mro__:
        found = getattr(vars(base).get(name), "compiled_method", None)
        if found is not None:
            return found
    return None


def _checked(method, compiled, declared: CompiledMethod):
    """`compiled`, called with arguments that are made into arrays and checked before."""
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
