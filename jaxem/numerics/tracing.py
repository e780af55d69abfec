"""Whether values are known yet: inside `jit`, `vmap` and `grad` they are tracers."""

import jax
from jax.core import Tracer


def is_traced(*trees) -> bool:
    """Whether any leaf of the trees is a tracer, whose value is not known."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees))
