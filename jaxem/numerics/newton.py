"""Maximising a smooth function of few variables to rounding: Newton steps, damped where it bends the wrong way."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxem.numerics import linalg

#: Levels of damping tried side by side, relative to the curvature of each variable; the first is none but for rounding.
DAMPING = (0.0, 1e-2, 1.0, 100.0)

#: Promised gains below this share of the function's size, or so many units of rounding, are in the range where Newton's
#: method squares the error, and differences of the function no longer tell which of two points is better.
LOCAL, UNTOLD = 1e-9, 4

#: A promise that shrinks by less than this is rounding.
STALLED = 0.1

#: Slopes (of the function over its size) below this many units of rounding: the start is the solution.
FLAT = 16

#: Steps at most; one that stops here is an M-step that only raised Q.
MAX_STEPS = 50


class _Climb(NamedTuple):
    point: Any
    value: Any
    promise: Any  # the gain that the last local step promised
    n_steps: Any
    done: Any


def climb(function: Callable, start: Any) -> Any:
    """A point [p] at which the gradient of `function` is 0, uphill from `start`; its derivatives are the solution's."""

    def solve_linear(linear, target):
        return linalg.solve(jax.jacobian(linear)(jnp.zeros_like(target)), target)

    return lax.custom_root(
        jax.grad(function), lax.stop_gradient(start), lambda _, point: _search(function, point), solve_linear
    )


def _search(function, start):
    size = 1 + jnp.abs(function(start))
    eps = jnp.finfo(start.dtype).eps
    nearby = max(LOCAL, UNTOLD * eps)

    def height(point):
        return function(point) / size

    def improve(state):
        steps, promise = _steps(jax.grad(height)(state.point), jax.hessian(height)(state.point))
        points = state.point + steps
        values = jax.vmap(height)(points)
        values = jnp.where(jnp.isfinite(values), values, -jnp.inf)
        local = (promise >= 0) & (promise < nearby)
        chosen = jnp.where(local, 0, jnp.argmax(values))
        done = jnp.where(local, ~(promise < STALLED * state.promise), ~(values[chosen] > state.value))
        return _Climb(
            jnp.where(done, state.point, points[chosen]),
            jnp.where(done, state.value, values[chosen]),
            jnp.where(local, promise, jnp.inf),
            state.n_steps + 1,
            done,
        )

    slope = jnp.abs(jax.grad(height)(start)).max()
    there = slope <= FLAT * eps
    first = _Climb(start, height(start), jnp.asarray(jnp.inf, start.dtype), 0, there)
    return lax.while_loop(lambda s: ~s.done & (s.n_steps < MAX_STEPS), improve, first).point


def _steps(gradient, hessian):
    """(Newton steps [m, p] for every level of damping, the gain that the undamped one promises)."""
    bend = jnp.abs(jnp.diagonal(hessian))
    scale = 1 / jnp.sqrt(jnp.where(bend > 0, bend, 1))
    curvature, slope = -hessian * scale[:, None] * scale, gradient * scale
    eye = jnp.eye(len(scale), dtype=scale.dtype)
    levels = jnp.asarray(DAMPING, scale.dtype) + 4 * len(scale) * jnp.finfo(scale.dtype).eps
    steps = jax.vmap(lambda level: linalg.solve_positive(curvature + level * eye, slope[:, None])[:, 0])(levels)
    promise = 0.5 * slope @ steps[0]
    return jnp.where(jnp.isfinite(steps), steps, 0) * scale, promise
