"""Small work is compiled in a hurry: what runs for milliseconds need not be optimised for seconds.

On CPU most of the time of a first small fit goes into optimising its programs. Those whose work is small are compiled
without that, in about a quarter of the time; which, is decided by shapes alone, so equal calls run equal programs.
"""

import contextlib
import functools

import jax
import numpy as np

from jaxem import inputs

#: Compiler options of XLA on CPU: no optimisation of machine code, one unit of it, and the older, simpler fusions.
IN_A_HURRY = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_parallel_codegen_split_count": 1,
    "xla_cpu_use_fusion_emitters": False,
}

#: How much work counts as small: numbers in the data times numbers in the params of all fits. Measured on 2 cores for
#: full normal mixtures, an iteration compiled in a hurry takes about 0.8 ns more for each: here 0.2 ms.
SMALL = 1 << 18


class Program:
    """`jax.jit(function)`, and the same compiled in a hurry for calls that say how little work they are.

    work: (*args) -> how much it is. Under a trace, and where the compiler does not know the options, it is `jax.jit`.
    """

    def __init__(self, function, work, **options):
        functools.update_wrapper(self, function)
        self.work = work
        self.optimised = jax.jit(function, **options)
        self.hurried = jax.jit(function, compiler_options=IN_A_HURRY, **options)

    def __call__(self, *args, **kwargs):
        if not inputs.is_traced((args, kwargs)) and self.work(*args, **kwargs) <= SMALL and _can_hurry():
            # Inside another program, whose constants are no tracers, compiler options are refused. Whatever else is
            # wrong with the call is said by the second one.
            with contextlib.suppress(ValueError):
                return self.hurried(*args, **kwargs)
        return self.optimised(*args, **kwargs)


def size(tree) -> int:
    """How many numbers the leaves of a tree hold."""
    return sum(getattr(leaf, "size", 1) for leaf in jax.tree.leaves(tree))


def work_of_arguments(*args, **kwargs) -> int:
    """That of a function which runs once over its arguments, with a few operations for each number."""
    return 4 * size((args, kwargs))


@functools.cache
def _can_hurry() -> bool:
    if jax.default_backend() != "cpu":
        return False
    try:
        jax.jit(lambda: np.int32(0), compiler_options=IN_A_HURRY)()
    except jax.errors.JaxRuntimeError:
        return False
    return True
