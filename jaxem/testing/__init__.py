"""A test of any model, also of your own: `check_model` checks the ten laws of a model.

 1 additivity: the statistics of two halves add up; chunked, prepared and sharded data give the
   same.
 2 weights: statistics are linear in the weights; an integer weight repeats a row, and weight 0
   leaves it out.
 3 M-step: the gradient of Q at maximize(stats) is 0, and no params near them are better.
 4 Fisher's identity: the gradients of the log-likelihood and of Q are equal at the params of the
   E-step.
 5 monotone objective and bound: the objective never falls; log-likelihood = ELBO + KL for any q.
 6 constraints: params survive a round trip to unconstrained coordinates, and every unconstrained
   vector gives valid params.
 7 equivariance: the order of rows, the numbering of components and the units do not matter.
 8 structure: shapes, dtypes and trees are kept; jit, vmap and restarts change nothing.
 9 no recompilation: a new tol, max_steps, start, weights or hyperparameter compiles nothing.
10 log_prob: it equals a reference, and it is the log of a density that adds up to 1.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from jaxem.testing.case import Case, NotChecked, Violation
from jaxem.testing.compilations import count_compilations
from jaxem.testing.laws import CHECKS, LAWS

__all__ = ["LAWS", "Outcome", "Report", "check_model", "count_compilations"]


class Outcome(NamedTuple):
    """The outcome of one check.

    Attributes:
        law: the number of its law, 1 to 10.
        what: what was checked.
        status: "passed", "skipped" or "failed".
        detail: why the check was skipped, or how it failed.
        margin: the largest difference seen, as a share of what rounding explains.
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
    """The outcomes of all checks of `check_model`, which `print` shows one a line.

    Attributes:
        model: the name of the class of the model.
        outcomes: one `Outcome` for each check.
    """

    model: str
    outcomes: tuple[Outcome, ...]

    def with_status(self, status: str) -> list[Outcome]:
        """The outcomes with this status."""
        return [outcome for outcome in self.outcomes if outcome.status == status]

    def __str__(self) -> str:
        passed, skipped = (len(self.with_status(status)) for status in ("passed", "skipped"))
        return "\n".join([f"{self.model}: {passed} checks passed, {skipped} skipped", *map(str, self.outcomes)])


def check_model(
    model: Any,
    key: jax.Array,
    x: Any,
    *,
    affine: Callable | None = None,
    reference: Callable | None = None,
    exact_m_step: bool = True,
    laws: Sequence[int] = tuple(LAWS),
    thorough: bool = True,
) -> Report:
    """Check the ten laws of a model on data x.

    The laws are checked in the dtype of x (float64 needs the x64 mode of JAX), with tolerances for
    this dtype, from random starts of the model, and through its methods alone. Checks of methods
    that the model does not provide (`expected_log_joint`, `permute`, `sample`, ...) are skipped,
    and the report says so.

    Args:
        model: the model.
        key: a random key for starts and draws.
        x: the data; a few hundred rows are enough.
        affine: a function x -> (changed x, log volume of each example) under which the model is
            equivariant: log p(changed x) = log p(x) - log volume, once the model is fitted to each.
        reference: a function (params, x) -> log_prob [n] that is known to be right.
        exact_m_step: False for an M-step that only raises Q.
        laws: the numbers of the laws to check.
        thorough: False leaves out the three checks that fit the model or draw from it.

    Returns:
        A `Report`.

    Raises:
        AssertionError: a law is broken. The message names every broken law, the leaf, and the size
            of the difference.

    Examples:
        >>> import jax, jaxem
        >>> from jaxem.testing import check_model
        >>> x, model = jaxem.datasets.old_faithful(), jaxem.gaussian_mixture(2, "diag")
        >>> report = check_model(model, jax.random.key(0), x, laws=(2, 4))
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
