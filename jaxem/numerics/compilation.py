"""How programs are compiled: small work in a hurry, large work for wide vectors. By shapes and dtypes alone.

On CPU most of the time of a first small fit goes into optimising its programs, and what runs for milliseconds does not
need it: small work is compiled without, in about a quarter of the time. Equal calls run equal programs.
"""

import contextlib
import functools
from importlib.metadata import version
from typing import NamedTuple

import jax
import numpy as np

from jaxem.numerics.tracing import is_traced

#: Compiler options of XLA on CPU: no optimisation of machine code, one unit of it, and the older, simpler fusions.
IN_A_HURRY = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_parallel_codegen_split_count": 1,
    "xla_cpu_use_fusion_emitters": False,
}

#: Vectors as wide as the machine has, where XLA stops at half of that, and sums over an axis in XLA's own loops: its
#: library for them takes up to 1.6 times as long per iteration (10,000 x 3, k 5). Where features are many both together
#: were up to a tenth slower (65,536 x 32, k 64: 34 to 36 ms after 33).
FOR_SPEED = {
    "xla_cpu_prefer_vector_width": 512,
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT",
}
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 10):
    # There some programs end the process with a segmentation fault while they are compiled so.
    del FOR_SPEED["xla_cpu_experimental_ynn_fusion_type"]

#: Matrix products by the older library too: 0.65 to 0.9 of the time in float32 where components are many and features
#: few (100,000 x 32, k 16, tied, diagonal, spherical; 32 fits of 8 components), 0.9 with 153 features, all of it with
#: 561, and 1.4 times as much in float64.
FOR_MANY_COLUMNS = {**FOR_SPEED, "xla_cpu_experimental_ynn_fusion_type": ""}

#: For what runs once in a fit: compiled in 0.5 to 0.75 of the time, and up to 1.5 times as slow (starts for
#: 1,000,000 x 8, k 16: compiled in 1.0 s after 1.6, run in 0.14 s after 0.10).
ONCE = {
    **FOR_SPEED,
    "xla_backend_optimization_level": 1,
    "xla_cpu_parallel_codegen_split_count": 2,
    "xla_cpu_use_fusion_emitters": False,
}

VARIANTS = (IN_A_HURRY, FOR_SPEED, FOR_MANY_COLUMNS, ONCE)

#: How much work counts as small: numbers in the data times numbers in the params of all fits. Measured on 2 cores for
#: full normal mixtures, an iteration compiled in a hurry takes about 0.8 ns more for each: here 0.2 ms.
SMALL = 1 << 18

#: Numbers in the params of all fits from which components count as many, and numbers per row up to which features count
#: as few.
MANY_COLUMNS, FEW_FEATURES = 512, 256


class Work(NamedTuple):
    """Numbers in the data, in the params that meet every one of them, and in a row of the data.

    once: the program runs a single time in a fit.
    """

    data: float
    params: float = 1
    row: float = 1
    once: bool = False


class Program:
    """`jax.jit(function)`, and the same with the compiler options that suit the work of a call.

    work: (*args) -> how much it is. Under a trace, and where the compiler does not know the options, it is `jax.jit`.
    """

    def __init__(self, function, work, **options):
        functools.update_wrapper(self, function)
        self.work = work
        self.default = jax.jit(function, **options)
        self.variants = [jax.jit(function, compiler_options=chosen, **options) for chosen in VARIANTS]

    def ahead(self, pool, *args, **kwargs):
        """(shapes of what a call would return, the future of its compilation by a thread of `pool`).

        Shapes may stand for arrays. A call that comes later finds the program.
        """
        variant = _variant(self.work(*args, **kwargs), args)
        program = self.default if variant is None else self.variants[variant]
        lowered = program.lower(*args, **kwargs)
        return lowered.out_info, pool.submit(lowered.compile)

    def __call__(self, *args, **kwargs):
        if not is_traced((args, kwargs)):
            variant = _variant(self.work(*args, **kwargs), args)
            if variant is not None:
                # Inside another program, whose constants are no tracers, compiler options are refused. Whatever else
                # is wrong with the call is said by the second one.
                with contextlib.suppress(ValueError):
                    return self.variants[variant](*args, **kwargs)
        return self.default(*args, **kwargs)


def compiler_options(work: Work, args) -> dict | None:
    """Those for a program of this work, or None where the compiler does not know them."""
    variant = _variant(work, args)
    return None if variant is None else VARIANTS[variant]


def _variant(work: Work, args) -> int | None:
    """Which of VARIANTS; None where the compiler does not know its options."""
    if work.data * work.params <= SMALL:
        chosen = 0
    elif work.once:
        chosen = 3
    elif work.params < MANY_COLUMNS or work.row > FEW_FEATURES or _in_float64(args):
        chosen = 1
    else:
        chosen = 2
    return chosen if _known(chosen) else None


def _in_float64(args) -> bool:
    return any(getattr(leaf, "dtype", None) == np.float64 for leaf in jax.tree.leaves(args))


def size(tree) -> int:
    """How many numbers the leaves of a tree hold."""
    return sum(getattr(leaf, "size", 1) for leaf in jax.tree.leaves(tree))


def work_of_arguments(*args, **kwargs) -> Work:
    """That of a function which runs once over its arguments, with a few operations for each number."""
    return Work(4 * size((args, kwargs)))


@functools.cache
def _known(variant) -> bool:
    """Whether the compiler of the default device knows these options."""
    if jax.default_backend() != "cpu":
        return False
    try:
        jax.jit(lambda: np.int32(0), compiler_options=VARIANTS[variant])()
    except jax.errors.JaxRuntimeError:
        return False
    return True
