"""Data and starts, as NumPy arrays that every contestant takes."""

from typing import NamedTuple

import numpy as np


class Start(NamedTuple):
    """weights [k], means [k, d], covariances of the structure's own shape (see `jaxem.GaussianParams`)."""

    weights: np.ndarray
    means: np.ndarray
    covs: np.ndarray


def overlapping(n, d, k, dtype="float32", seed=0):
    """n rows from k Gaussians that overlap, each with a covariance of its own: EM needs hundreds of steps."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(k, d))
    factors = np.eye(d) + 0.3 * rng.normal(size=(k, d, d)) / np.sqrt(d)
    hidden, noise = rng.integers(k, size=n), rng.normal(size=(n, d))
    x = np.empty((n, d))
    for j in range(k):
        x[hidden == j] = centres[j] + noise[hidden == j] @ factors[j].T
    return x.astype(dtype)


def start_from_rows(x, k, covariance, seed=1):
    """Means at k random rows, every covariance that of half of the data's: far from any optimum, and proper."""
    rows = np.random.default_rng(seed).choice(len(x), k, replace=False)
    cov = 0.5 * np.atleast_2d(np.cov(x, rowvar=False))
    variances = np.diag(cov)
    covs = {
        "full": np.tile(cov, (k, 1, 1)),
        "tied": cov,
        "diag": np.tile(variances, (k, 1)),
        "spherical": np.full(k, variances.mean()),
    }[covariance]
    return Start(np.full(k, 1 / k, x.dtype), x[rows], covs.astype(x.dtype))


def precisions(covs, covariance):
    """Inverse covariances, as scikit-learn wants them: matrices inverted, variances divided into one."""
    return np.linalg.inv(covs) if covariance in ("full", "tied") else 1 / covs


def n_features(d, covariance):
    """Columns of the two matrix products: sufficient statistics per row that differ between components, and 1."""
    return {"full": (d + 1) * (d + 2) // 2, "tied": d + 1, "diag": 2 * d + 1, "spherical": d + 2}[covariance]
