"""Newton's method for a smooth function of few variables, to rounding.

M-steps without a closed form use it: those of restricted models and of families that are known by
their log-partition.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxem.numerics import linalg

#: Levels of damping that are tried side by side, relative to the curvature of each variable. With
#: the first level a step is damped only against rounding.
DAMPING = (0.0, 1e-2, 1.0, 100.0)

#: A step is local where the gain that it promises is below this share of the function's size, or
#: below so many units of rounding. There Newton's method squares the error, and differences of the
#: function no longer tell which of two points is better.
LOCAL, LOCAL_UNITS = 1e-9, 4

#: The search ends where a local step promises more than this share of what the last local step
#: promised, because the gain is then limited by rounding.
STALLED = 0.5

#: Where no slope (of the function over its size there) is above this many units of rounding, the
#: start is the solution.
FLAT = 16

#: Steps are shortened by this factor where they leave the domain of the function or go too far.
SHORTER = 0.5

#: The largest number of steps. An M-step that stops there has raised Q, but not to its maximum.
MAX_STEPS = 100


class _Search(NamedTuple):
    point: Any
    value: Any
    length: Any  # The length of the next steps, as a share of the Newton steps.
    promise: Any  # The gain that the last local step promised, relative to the function's size.
    n_steps: Any
    done: Any


def climb(function: Callable, start: Any, concave: bool = False) -> Any:
    """A point at which the gradient of a function is 0, uphill from `start`.

    Each step tries Newton steps with several levels of damping and takes the best. Points at which
    the function is not finite are outside its domain: steps get shorter until one of them stays
    inside. Where there is no solution (the function rises towards infinity, or towards a boundary),
    the search ends when a step gains no more than rounding, or after `MAX_STEPS`.

    Args:
        function: a smooth function of an array [p], to be maximised.
        start: a point in its domain, [p].
        concave: whether the function is concave. Then no damping is tried, and steps get shorter
            until one of them gains.

    Returns:
        The point, [p]. Its derivatives (in what `function` closes over) are those of the solution,
        by the implicit function theorem, and not those of the search.
    """

    def solve_linear(linear, target):
        return linalg.solve(jax.jacobian(linear)(jnp.zeros_like(target)), target)

    return lax.custom_root(
        jax.grad(function), lax.stop_gradient(start), lambda _, point: _search(function, point, concave), solve_linear
    )


def _search(function, start, concave):
    eps = jnp.finfo(start.dtype).eps
    nearby = max(LOCAL, LOCAL_UNITS * eps)
    damping = DAMPING[:1] if concave else DAMPING

    def improve(state):
        size = 1 + jnp.abs(state.value)
        steps, gain = _steps(jax.grad(function)(state.point), jax.hessian(function)(state.point), damping)
        promise = gain / size
        points = state.point + state.length * steps
        found = jax.vmap(function)(points)
        inside = jnp.isfinite(found)
        values = jnp.where(inside, found, -jnp.inf)
        local = (promise >= 0) & (promise < nearby)
        chosen = jnp.where(local, 0, jnp.argmax(values))
        better = values[chosen] > state.value
        too_long = ~local & ~better & (concave | ~inside.all())
        done = ~too_long & jnp.where(local, ~(promise < STALLED * state.promise), ~better)
        stays = done | too_long
        return _Search(
            jnp.where(stays, state.point, points[chosen]),
            jnp.where(stays, state.value, values[chosen]),
            jnp.where(too_long, SHORTER * state.length, jnp.minimum(1, state.length / SHORTER)).astype(start.dtype),
            jnp.where(local, promise, jnp.inf),
            state.n_steps + 1,
            done,
        )

    value = function(start)
    slope = jnp.abs(jax.grad(function)(start)).max()
    flat = slope <= FLAT * eps * (1 + jnp.abs(value))
    one = jnp.ones((), start.dtype)
    first = _Search(start, value, one, one * jnp.inf, 0, flat)
    return lax.while_loop(lambda s: ~s.done & (s.n_steps < MAX_STEPS), improve, first).point


def _steps(gradient, hessian, damping):
    """Newton steps [m, p] for the levels of damping, and the gain that the first one promises."""
    bend = jnp.abs(jnp.diagonal(hessian))
    scale = 1 / jnp.sqrt(jnp.where(bend > 0, bend, 1))
    curvature, slope = -hessian * scale[:, None] * scale, gradient * scale
    eye = jnp.eye(len(scale), dtype=scale.dtype)
    levels = jnp.asarray(damping, scale.dtype) + 4 * len(scale) * jnp.finfo(scale.dtype).eps
    steps = jax.vmap(lambda level: linalg.solve_positive(curvature + level * eye, slope[:, None])[:, 0])(levels)
    promise = 0.5 * slope @ steps[0]
    return jnp.where(jnp.isfinite(steps), steps, 0) * scale, promise
