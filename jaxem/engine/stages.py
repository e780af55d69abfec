"""The stages of a fit, and the fit as one program for use under a trace.

With a screening, all fits first run for given numbers of steps, and after each of these stages only
a share of the fits goes on. The fits that are left then run to their end. In the last stage, those
that met ill-conditioned params go on in the centred form of the E-step, which keeps its precision
there. `blocks` runs the stages from the host, and `solve` in one compiled program.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxem.engine.expectation import Problem, lanes_and_rows
from jaxem.engine.implicit import attach_derivatives
from jaxem.engine.loop import State
from jaxem.engine.programs import Plan, finish, has_centred_form, initialise, iterate, resume
from jaxem.engine.result import Result, Status
from jaxem.engine.step import ILL_CONDITIONED
from jaxem.numerics.chunks import first_of
from jaxem.numerics.devices import host
from jaxem.numerics.tracing import is_traced


class Stages(NamedTuple):
    """The stages of the fits of one problem, by number.

    Attributes:
        problem: the problem in the fast form.
        algorithm: the algorithm that the fits use.
        x: the rows as they came, from which the centred form begins again.
        weights: the rows' weights, [n].
        max_steps: the largest number of steps of a fit.
        plan: the plan of the fits, with its screening.
    """

    problem: Any
    algorithm: Any
    x: Any
    weights: Any
    max_steps: Any
    plan: Plan

    @property
    def centred(self) -> int:
        """The number of the last stage, in the centred form."""
        return len(self.plan.screening) + 1

    def form(self, stage: int, state: State) -> tuple[Any, Any]:
        """The problem and the algorithm in the form that a stage uses."""
        if stage < self.centred:
            return self.problem, self.algorithm
        return self._centred_problem(state), self.algorithm.centred()

    def limit(self, stage: int) -> Any:
        """The number of steps at which a stage ends."""
        ladder = self.plan.screening
        return jnp.minimum(ladder[stage][0], self.max_steps) if stage < len(ladder) else self.max_steps

    def chosen(self, stage: int, state: State) -> tuple[State, Any]:
        """The state at the end of the stage before this one, and which fits [r] enter this one."""
        if stage == self.centred:
            status = state.fits.status
            # On the host NumPy compares: jnp would compile a program for every number of fits.
            return state, (status if is_traced(status) else host(status)) == ILL_CONDITIONED
        return _screen(state, self.plan.screening[stage - 1][1])

    def enter(self, stage: int, state: State, chosen: Any) -> State:
        """The state in which the chosen fits begin a stage."""
        return resume(*self.form(stage, state), state, chosen, placement=self.plan.placement)

    def _centred_problem(self, state: State) -> Problem:
        """The problem in the centred form. Every iteration prepares its chunks; none is stored."""
        placement = self.plan.placement
        n_devices = 1 if placement is None else placement.mesh.shape[placement.rows]
        here = jax.tree.map(lambda leaf: _shape(leaf, (leaf.shape[0] // n_devices, *leaf.shape[1:])), self.x)
        first = jax.tree.map(lambda leaf: _shape(leaf, leaf.shape[1:]), state.lanes.params)
        _, chunk = lanes_and_rows(self.problem.model, here, first, len(state.index), centred=True)
        form = {"chunk": chunk, "prepared": False, "centred": True}
        return dataclasses.replace(self.problem, rows=self.x, weights=self.weights, **form)


def _shape(leaf, shape):
    return jax.ShapeDtypeStruct(shape, leaf.dtype)


@jax.jit
def _screen(state: State, keep):
    """The state, and which fits [r] go on: the best share `keep` of those that were stopped.

    The others are SCREENED.
    """
    stopped = state.fits.status == Status.MAX_STEPS
    score = jnp.where(stopped, state.fits.objective, -jnp.inf)
    rank = jnp.argsort(jnp.argsort(-score, stable=True), stable=True)
    chosen = stopped & (rank < jnp.maximum(1, jnp.ceil(keep * stopped.sum())))
    status = jnp.where(stopped & ~chosen, Status.SCREENED, state.fits.status).astype(jnp.int32)
    return state._replace(fits=state.fits._replace(status=status)), chosen


@partial(jax.jit, static_argnames=("plan", "differentiable"))
def solve(
    model: Any,
    x: Any,
    weights: jax.Array,
    algorithm: Any,
    tol: Any,
    max_steps: Any,
    starts: Any,
    key: Any,
    plan: Plan,
    differentiable: bool,
) -> Result:
    """All fits of a plan in one program, for use under a trace.

    Args:
        model: the model.
        x: the rows, [n, ...].
        weights: the rows' weights, [n].
        algorithm: the algorithm.
        tol: the gain per unit of weight, in nats, below which a fit has converged.
        max_steps: the largest number of steps of a fit.
        starts: params with a leading axis, or None where the plan makes the starts.
        key: the key with which the plan makes starts, or None.
        plan: what of the options is part of the program.
        differentiable: whether a single fit gets derivatives in the data (see `implicit`).

    Returns:
        The result in the data's units; its leaves have a leading axis unless the plan says `alone`.
    """
    frozen, fixed_x, fixed_weights = jax.lax.stop_gradient((model, x, weights))
    problem, state = initialise(frozen, fixed_x, fixed_weights, algorithm, jax.lax.stop_gradient(starts), key, plan)
    stages = Stages(problem, algorithm, fixed_x, fixed_weights, max_steps, plan)
    last = stages.centred if model.additive and has_centred_form(problem, state) else stages.centred - 1
    for stage in range(last + 1):
        if stage > 0:
            state = stages.enter(stage, *stages.chosen(stage, state))
        state = iterate(*stages.form(stage, state), state, tol, stages.limit(stage))
    result = finish(frozen, problem, fixed_weights, state.fits, state.history, plan, len(state.index))
    if not (differentiable and len(state.queue) == 1 and model.additive):
        return result
    units = problem.units
    z, inner, chunk = units.rows(x), units.model(model), problem.chunked().weights.shape[1]
    volume = units.log_volume()
    inside, log_lik = attach_derivatives(inner, z, weights, chunk, state.fits.params, state.fits.log_lik, volume)
    log_lik = log_lik - (fixed_weights * units.log_volume()).sum()
    found = {
        "params": jax.vmap(units.back)(inside),
        "log_lik": log_lik,
        "objective": log_lik + (state.fits.objective - state.fits.log_lik),
    }
    return result._replace(**(first_of(found) if plan.alone else found))
