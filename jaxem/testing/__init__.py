"""The laws of a model as a test for anyone's own: `check_model`.

 1 additivity     the statistics of two halves add up; chunks, prepared and sharded data change nothing
 2 weights        statistics are linear in them; an integer weight repeats a row, weight 0 leaves it out
 3 M-step         the gradient of Q at maximize(stats) is 0, and nothing near it is better
 4 Fisher         the gradient of the log-likelihood equals that of Q at the params of the E-step
 5 monotone       the objective never falls; log-likelihood = ELBO + KL for any q
 6 constraints    params survive a round trip; any unconstrained vector is valid
 7 equivariance   rows, components, units
 8 structure      shapes, dtypes and trees are kept; jit, vmap and restarts change nothing
 9 compilation    none for a new tol, max_steps, start, weights or hyperparameter
10 log_prob       equals a reference, and is the log of something that adds up to 1
"""

from typing import Any, NamedTuple

import jax

from jaxem.testing.case import Case, NotChecked, Violation
from jaxem.testing.compilations import count_compilations
from jaxem.testing.laws import CHECKS, LAWS

__all__ = ["LAWS", "Outcome", "Report", "check_model", "count_compilations"]


class Outcome(NamedTuple):
    """One check: its law (1 to 10), what was asked, and "passed", "skipped" or "failed" with the details.

    margin: largest difference seen, as a share of what rounding explains.
    """

    law: int
    what: str
    status: str
    detail: str
    margin: float

    def __str__(self) -> str:
        mark = {"passed": "ok  ", "skipped": "skip", "failed": "FAIL"}[self.status]
        return f"{mark} {self.law:2d} {LAWS[self.law]}: {self.what}{f' ({self.detail})' if self.detail else ''}"


class Report(NamedTuple):
    """What `check_model` looked at; print it."""

    model: str
    outcomes: tuple[Outcome, ...]

    def with_status(self, status: Any) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.status == status]

    def __str__(self) -> Any:
        passed, skipped = (len(self.with_status(status)) for status in ("passed", "skipped"))
        return "\n".join([f"{self.model}: {passed} checks passed, {skipped} skipped", *map(str, self.outcomes)])


def check_model(
    model: Any,
    key: jax.Array,
    x: Any,
    *,
    affine: Any = None,
    reference: Any = None,
    exact_m_step: bool = True,
    laws: Any = tuple(LAWS),
    thorough: bool = True,
) -> Report:
    """Check the ten laws on `model`, with starts drawn by `key` for the data x; a few hundred rows are plenty.

    The laws are checked in the dtype of x (float64 needs jax's x64 mode) with tolerances that belong to it, from the
    model's own random starts, and through its methods alone. What it does not provide (`expected_log_joint`,
    `permute`, `sample`, ...) is skipped and the report says so.

    affine: a function x -> (changed x, log volume per example) under which the model is equivariant:
        log p(changed x) = log p(x) - log volume once each is fitted. reference: (params, x) -> log_prob [n].
    exact_m_step: False for an M-step that only raises Q. laws: which of the ten to check. thorough: False leaves out
        the three checks that fit the model or draw from it.

    Returns a `Report`. Raises AssertionError that names every law that is broken, the leaf, and by how much.

    >>> import jax, jaxem
    >>> from jaxem.testing import check_model
    >>> x = jaxem.datasets.old_faithful()
    >>> report = check_model(jaxem.gaussian_mixture(2, "diag"), jax.random.key(0), x, laws=(2, 4))
    >>> print(report)
    Mixture: 4 checks passed, 0 skipped
    ok   2 weights: statistics are linear in the weights
    ok   2 weights: an integer weight repeats a row, weight 0 leaves it out
    ok   2 weights: no weights are weights of 1
    ok   4 Fisher's identity: the gradient of the log-likelihood is that of Q at the same params
    """
    case = Case(model, key, x, affine, reference, exact_m_step)
    outcomes = [_outcome(case, check) for check in CHECKS if check.law in laws and (thorough or not check.slow)]
    report = Report(type(model).__name__, tuple(outcomes))
    if failed := report.with_status("failed"):
        lines = "\n  ".join(f"law {o.law} ({LAWS[o.law]}): {o.what}: {o.detail}" for o in failed)
        raise AssertionError(f"{report.model} breaks {len({o.law for o in failed})} of the laws:\n  {lines}")
    return report


def _outcome(case, check) -> Outcome:
    case.margin = 0.0
    try:
        check.function(case)
    except Violation as violation:
        return Outcome(check.law, check.what, "failed", str(violation), float("inf"))
    except NotChecked as reason:
        return Outcome(check.law, check.what, "skipped", str(reason), 0.0)
    except NotImplementedError as missing:
        return Outcome(check.law, check.what, "skipped", f"not provided: {missing}", 0.0)
    return Outcome(check.law, check.what, "passed", "", case.margin)
