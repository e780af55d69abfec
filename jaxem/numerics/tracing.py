"""A test whether values of arrays are known: inside `jit`, `vmap` and `grad` they are tracers."""

from typing import Any

import jax
from jax.core import Tracer


def is_traced(*trees: Any) -> bool:
    """Whether any leaf of the trees is a tracer, whose value is not known."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees))
