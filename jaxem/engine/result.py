"""How a fit ended: its status, and the record of a finished fit."""

import enum
from typing import Any, NamedTuple

import jax


class Status(enum.IntEnum):
    """How a fit ended. Compiled code reports it as an integer; `Status(int(result.status)).message` says more."""

    CONVERGED = 0
    MAX_STEPS = 1
    DECREASED = 2
    EMPTY = 3
    DEGENERATE = 4
    NONFINITE = 5
    INTERRUPTED = 6
    SCREENED = 7

    @property
    def message(self) -> str:
        return _MESSAGES[self]


_MESSAGES = {
    Status.CONVERGED: "the last step gained less than tol nats per unit of weight",
    Status.MAX_STEPS: "the fit stopped at max_steps before the gain fell below tol; raise max_steps, or continue from "
    "params",
    Status.DECREASED: "a step lowered the objective beyond rounding and was undone; check m_step against e_step, "
    "or use float64",
    Status.EMPTY: "a component holds no data; fewer components fit as well",
    Status.DEGENERATE: "a component collapsed onto a few rows or a lower-dimensional set, where the likelihood has "
    "no maximum; use fewer components, a simpler covariance, a larger floor, a prior (jaxem.weak_prior), or another "
    "start",
    Status.NONFINITE: "a step (or the start) gave a non-finite objective and was undone; check the data and the start",
    Status.INTERRUPTED: "the fit was interrupted; params are those of the last finished block",
    Status.SCREENED: "the start was left out after a few steps because others were ahead; it might have overtaken them",
}

#: Statuses of a finite fit at a proper optimum (or on the way to one): what `fit_restarts` may call best.
PROPER = (Status.CONVERGED, Status.MAX_STEPS, Status.DECREASED, Status.EMPTY, Status.INTERRUPTED)


class Result(NamedTuple):
    """A fit. All leaves are arrays; fits side by side share a leading axis.

    params: the parameters, in the data's units.
    log_lik: log-likelihood at params, total in nats, with every constant. objective: log_lik plus the log prior.
    status: see `Status`. degenerate: which components collapsed.
    n_steps: steps that led to params. n_evaluations: passes over the data.
    history: objective after each step, [max_steps], NaN beyond n_steps.
    """

    params: Any
    log_lik: jax.Array
    objective: jax.Array
    status: jax.Array
    n_steps: jax.Array
    n_evaluations: jax.Array
    history: jax.Array
    degenerate: jax.Array

    @property
    def converged(self) -> Any:
        return self.status == Status.CONVERGED

    @property
    def message(self) -> str:
        """The status of a single fit in words."""
        status = Status(int(self.status))
        return f"{status.name}: {status.message}"


class Finished(NamedTuple):
    """What is kept of each fit, [r, ...]."""

    params: Any
    log_lik: jax.Array
    objective: jax.Array
    status: jax.Array
    n_steps: jax.Array
    n_evaluations: jax.Array
