"""Compiler options by the amount of work: small programs are compiled fast, large ones run fast.

On a CPU most of the time of a first small fit goes into optimising its programs. A program that
runs for milliseconds is not worth this: without optimisation it is compiled in about a quarter of
the time. The choice depends on shapes and dtypes alone, so that equal calls run equal programs.
"""

import contextlib
import functools
from collections.abc import Callable
from concurrent.futures import Executor, Future
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxem.numerics.tracing import is_traced

#: Compiler options of XLA on a CPU for small programs: no optimisation of machine code, one unit of
#: it, and the older, simpler fusions.
FAST_COMPILATION = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_parallel_codegen_split_count": 1,
    "xla_cpu_use_fusion_emitters": False,
}

#: For large programs: vectors as wide as the machine has, where XLA stops at half of that, and sums
#: over an axis in XLA's own loops: its library for them takes up to 1.6 times as long per iteration
#: (10,000 x 3, k 5). Where features are many both together were up to a tenth slower (65,536 x 32,
#: k 64: 34 to 36 ms instead of 33).
FAST_EXECUTION = {
    "xla_cpu_prefer_vector_width": 512,
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT",
}
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 10):
    # With these versions some programs end the process with a segmentation fault while they are
    # compiled so.
    del FAST_EXECUTION["xla_cpu_experimental_ynn_fusion_type"]

#: For large programs with many components and few features: matrix products by the older library
#: too. In float32 they take 0.65 to 0.9 of the time (100,000 x 32, k 16, tied, diagonal, spherical;
#: 32 fits of 8 components), 0.9 with 153 features and the same time with 561; in float64 they take
#: 1.4 times as long.
MANY_COMPONENTS = {**FAST_EXECUTION, "xla_cpu_experimental_ynn_fusion_type": ""}

#: For programs that run once in a fit: they are compiled in 0.5 to 0.75 of the time and take up to
#: 1.5 times as long (starts for 1,000,000 x 8, k 16: compiled in 1.0 s instead of 1.6 s, run in
#: 0.14 s instead of 0.10 s).
SINGLE_RUN = {
    **FAST_EXECUTION,
    "xla_backend_optimization_level": 1,
    "xla_cpu_parallel_codegen_split_count": 2,
    "xla_cpu_use_fusion_emitters": False,
}

VARIANTS = (FAST_COMPILATION, FAST_EXECUTION, MANY_COMPONENTS, SINGLE_RUN)

#: Work up to this amount is small: numbers in the data times numbers in the params of all fits.
#: Measured on 2 cores for full normal mixtures, a program that was compiled fast takes about 0.8 ns
#: more per iteration for each: 0.2 ms here.
SMALL = 1 << 18

#: Components are many from this many numbers in the params of all fits on.
MANY_COLUMNS = 512

#: Features are few up to this many numbers per row.
FEW_FEATURES = 256


class Work(NamedTuple):
    """The amount of work of a program.

    Attributes:
        data: how many numbers the data hold.
        params: how many numbers of the params meet every number of the data.
        row: how many numbers a row of the data holds.
        once: whether the program runs a single time in a fit.
    """

    data: float
    params: float = 1
    row: float = 1
    once: bool = False


class Program:
    """`jax.jit(function)`, compiled with the options that suit the work of each call.

    Under a trace, and where the compiler does not know the options, it is plain
    `jax.jit(function)`.

    Args:
        function: what to compile.
        work: (the arguments of a call) -> `Work`.
        options: those of `jax.jit`.
    """

    def __init__(self, function: Callable[..., Any], work: Callable[..., Work], **options: Any) -> None:
        functools.update_wrapper(self, function)
        self.work = work
        self.default = jax.jit(function, **options)
        self.variants = [jax.jit(function, compiler_options=chosen, **options) for chosen in VARIANTS]

    def ahead(self, pool: Executor, *args: Any, **kwargs: Any) -> tuple[Any, Future]:
        """Compile for a later call with these arguments, in a thread of `pool`.

        Shapes may stand for arrays. The later call finds the program compiled.

        Returns:
            The shapes of what the call will return, and the future of the compilation.
        """
        variant = _variant(self.work(*args, **kwargs), args)
        program = self.default if variant is None else self.variants[variant]
        lowered = program.lower(*args, **kwargs)
        return lowered.out_info, pool.submit(lowered.compile)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not is_traced((args, kwargs)):
            variant = _variant(self.work(*args, **kwargs), args)
            if variant is not None:
                # Compiler options are refused inside another program, whose constants are no
                # tracers. If anything else is wrong with the call, the second call says so.
                with contextlib.suppress(ValueError):
                    return self.variants[variant](*args, **kwargs)
        return self.default(*args, **kwargs)


def compiler_options(work: Work, args: Any) -> dict[str, Any] | None:
    """The options for a program of this work, or None where the compiler does not know them."""
    variant = _variant(work, args)
    return None if variant is None else VARIANTS[variant]


def _variant(work: Work, args: Any) -> int | None:
    """Which of VARIANTS suits the work; None where the compiler does not know its options."""
    if work.data * work.params <= SMALL:
        chosen = 0
    elif work.once:
        chosen = 3
    elif work.params < MANY_COLUMNS or work.row > FEW_FEATURES or _in_float64(args):
        chosen = 1
    else:
        chosen = 2
    return chosen if _known(chosen) else None


def _in_float64(args: Any) -> bool:
    return any(getattr(leaf, "dtype", None) == np.float64 for leaf in jax.tree.leaves(args))


def size(tree: Any) -> int:
    """How many numbers the leaves of a tree hold."""
    return sum(getattr(leaf, "size", 1) for leaf in jax.tree.leaves(tree))


def work_of_arguments(*args: Any, **kwargs: Any) -> Work:
    """The work of a function that does a few operations for each number in its arguments."""
    return Work(4 * size((args, kwargs)))


@functools.cache
def _known(variant: int) -> bool:
    """Whether the compiler of the default device knows the options of this variant."""
    if jax.default_backend() != "cpu":
        return False
    try:
        jax.jit(lambda: np.int32(0), compiler_options=VARIANTS[variant])()
    except jax.errors.JaxRuntimeError:
        return False
    return True
