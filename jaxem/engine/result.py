"""The result of a fit and its status."""

import enum
from typing import Any, NamedTuple

import jax


class Status(enum.IntEnum):
    """How a fit ended.

    Compiled code reports a status as an integer; `Status(int(result.status)).message` explains it.
    """

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
        """What the status means, and what can be done about it."""
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

#: The proper statuses: those of a fit at an optimum that means something, or on the way to one.
#: `fit_restarts` chooses the best fit among these.
PROPER = (Status.CONVERGED, Status.MAX_STEPS, Status.DECREASED, Status.EMPTY, Status.INTERRUPTED)


class Result(NamedTuple):
    """The result of a fit. All leaves are arrays; many fits have a leading axis.

    Attributes:
        params: the params, in the data's units.
        log_lik: the log-likelihood at `params`, total in nats, with every constant.
        objective: `log_lik` plus the log prior, in nats.
        status: how the fit ended, as an integer (see `Status`).
        n_steps: the number of steps that led to `params`.
        n_evaluations: the number of passes over the data.
        history: the objective after each step, [max_steps]; NaN after the last step.
        degenerate: which components are degenerate.
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
        """Whether the status is CONVERGED."""
        return self.status == Status.CONVERGED

    @property
    def message(self) -> str:
        """The status of a single fit in words."""
        status = Status(int(self.status))
        return f"{status.name}: {status.message}"


class Finished(NamedTuple):
    """The results of r fits in the loop, in standard units, with leaves [r, ...].

    Attributes:
        params: as in `Result`.
        log_lik: as in `Result`.
        objective: as in `Result`.
        status: as in `Result`, or a code of a lane under way (see `step`).
        n_steps: as in `Result`.
        n_evaluations: as in `Result`.
    """

    params: Any
    log_lik: jax.Array
    objective: jax.Array
    status: jax.Array
    n_steps: jax.Array
    n_evaluations: jax.Array
