"""Counting compilations, which shows that new numbers compile nothing."""

import contextlib
from typing import Any

import jax

#: The event that JAX reports once for each program that XLA compiles.
EVENT = "/jax/core/compile/backend_compile_duration"


@contextlib.contextmanager
def count_compilations() -> Any:
    """A context whose value is a list: it gets one entry for each program compiled in the block.

    The entries are the names of the programs.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> double, x = jax.jit(lambda x: 2 * x), jnp.ones(3)
        >>> with count_compilations() as first:
        ...     y = double(x)
        >>> with count_compilations() as second:
        ...     y = double(y)
        >>> len(first), len(second)
        (1, 0)
    """
    programs = []

    def listen(event: str, duration_secs: float, **kwargs):
        if event == EVENT:
            programs.append(kwargs.get("fun_name", "a program"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield programs
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
