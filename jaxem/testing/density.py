"""The check that densities add up to 1, from draws of the model, for any sample space."""

import jax
import numpy as np

from jaxem.testing.case import Case, NotChecked, on_host

#: The number of draws from which the comparison density is estimated. It is evaluated at no fewer.
N_DRAWS = 2000
#: The width of the kernel at a draw is its distance from the neighbour with this number.
NEIGHBOUR = 10
#: With more columns than this, a kernel density is too imprecise.
MAX_COLUMNS = 6
#: The largest standard error of the total. A constant that is wrong by 1/4 nat has to be found, so
#: five standard errors must be less than that.
LARGEST_ERROR = 0.04
#: The share of probability that kernels near the edge of a sample space put outside of it.
EDGE = 0.02


def check_normalised(case: Case) -> None:
    """Check that the densities p of the model add up to 1.

    If they do, E_p[q(y) / p(y)] = 1 for any density q inside the support of p. Here y are draws
    from the model, and q is an estimate of their density from other draws: their frequencies where
    all are whole numbers, otherwise normal kernels whose widths follow the distances to neighbours.

    Args:
        case: the `Case` of a model.

    Raises:
        Violation: the densities do not add up to 1.
        NotChecked: the check does not apply to this model, or is too imprecise.
    """
    if not case.model.normalised:
        raise NotChecked("log_prob is not a log density")
    n_batches = -(-N_DRAWS // case.n)
    draws = on_host(case.model.sample(case.points[0], case.split(0), n_batches * case.n + N_DRAWS))
    if jax.tree.structure(draws) != jax.tree.structure(case.z) or isinstance(case.z, (tuple, dict)):
        raise NotChecked("`sample` does not give rows like x")
    draws = np.asarray(draws, case.dtype)
    log_q = _density_of(_as_columns(draws[n_batches * case.n :]))(_as_columns(draws[: n_batches * case.n]))
    # The batches are as long as x, so that no program is compiled for them.
    batches = np.split(draws[: n_batches * case.n], n_batches)
    log_prob = [case.expectation(case.points[0], batch, case.ones).log_prob for batch in batches]
    ratio = np.exp(log_q - np.concatenate(log_prob).astype(np.float64))
    error = ratio.std() / np.sqrt(len(ratio))
    if error > LARGEST_ERROR * max(1, ratio.mean()):
        raise NotChecked(f"the draws are too spread: the total is known to {error:.2g} only")
    case.within("1 / (total probability) minus 1", abs(ratio.mean() - 1), 5 * error + EDGE)


def _density_of(centres):
    """A function y [m, d] -> log q(y) [m], with q estimated from centres [n, d]."""
    if (centres == np.round(centres)).all():
        return lambda y: _log_frequency(y, centres)
    if centres.shape[1] > MAX_COLUMNS:
        raise NotChecked(f"rows of {centres.shape[1]} numbers are too many for a density estimate")
    if len(np.unique(centres, axis=0)) < 0.99 * len(centres):  # Rounding to float32 repeats a few.
        raise NotChecked("draws repeat: they have no density")
    for size in (np.linalg.norm(centres, axis=1), centres.sum(1)):
        if centres.shape[1] > 1 and np.ptp(size) <= 1e-5 * np.abs(size).max():
            raise NotChecked("draws lie on a surface: kernels reach beyond it")
    return lambda y: _log_kernels(y, centres)


def _as_columns(draws):
    draws = np.asarray(draws, np.float64)
    return draws.reshape(len(draws), -1)


def _log_frequency(y, centres):
    rows, counts = np.unique(centres, axis=0, return_counts=True)
    frequency = dict(zip(map(tuple, rows), counts / len(centres), strict=True))
    with np.errstate(divide="ignore"):
        return np.log([frequency.get(tuple(row), 0.0) for row in y])


def _log_kernels(y, centres):
    d = y.shape[1]
    between = np.sqrt(np.partition(_squared_distances(centres, centres), NEIGHBOUR, axis=1)[:, NEIGHBOUR] / d)
    exponent = -0.5 * _squared_distances(y, centres) / between**2 - d * np.log(between * np.sqrt(2 * np.pi))
    return np.logaddexp.reduce(exponent, axis=1) - np.log(len(centres))


def _squared_distances(a, b):
    return np.maximum((a * a).sum(1)[:, None] - 2 * a @ b.T + (b * b).sum(1), 1e-300)
