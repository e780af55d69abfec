"""Small data for the zoo: a few dozen rows of every kind, the same in every run."""

import numpy as np


def groups(n, d, k=3, seed=0):
    """n rows in d dimensions: k overlapping groups of different spread and tilt."""
    rng = np.random.default_rng(seed)
    member = rng.integers(k, size=n)
    centre = 3 * rng.standard_normal((k, d))
    tilt = rng.standard_normal((k, d, d)) * 0.4 + np.eye(d)
    return centre[member] + np.einsum("nij,nj->ni", tilt[member], rng.standard_normal((n, d)))


def _member(n, k=3):
    return np.random.default_rng(7).integers(k, size=n)


def counts(n=90):
    return np.random.default_rng(1).poisson(np.array([1.0, 6.0, 20.0])[_member(n)]).astype(float)


def exposed_counts(n=90):
    rng = np.random.default_rng(1)
    exposure = rng.uniform(0.5, 3.0, n)
    return rng.poisson(np.array([1.0, 6.0, 20.0])[_member(n)] * exposure).astype(float), exposure


def inflated_counts(n=90):
    return np.where(_member(n) == 0, 0.0, counts(n))


def failures(n=90):
    return np.random.default_rng(1).geometric(np.array([0.1, 0.5, 0.3])[_member(n)]) - 1.0


def times(n=90):
    return np.random.default_rng(1).gamma(3.0, np.array([0.2, 2.0, 10.0])[_member(n)])


def bits(n=90):
    prob = np.array([[0.2, 0.3, 0.5, 0.7], [0.8, 0.7, 0.2, 0.6], [0.5, 0.5, 0.5, 0.5]])
    return (np.random.default_rng(1).random((n, 4)) < prob[_member(n)]).astype(float)


def codes(n=90):
    rng, member = np.random.default_rng(1), _member(n)
    columns = (member + rng.integers(2, size=n)) % 3, rng.random(n) < 0.3 + 0.2 * member, rng.integers(4, size=n)
    return np.stack(columns, 1).astype(float)


def table(n=90):
    prob = np.array([[0.2, 0.3, 0.5], [0.6, 0.2, 0.2], [0.3, 0.6, 0.1]])
    return np.random.default_rng(1).multinomial(5 + np.arange(n) % 4, prob[_member(n)]).astype(float)


def directions(n=90):
    rows = 0.4 * np.random.default_rng(1).standard_normal((n, 3)) + np.eye(3)[_member(n)]
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def overdispersed(n=90):
    return np.random.default_rng(1).negative_binomial(3, np.array([0.7, 0.3, 0.1])[_member(n)]).astype(float)


def inputs(n=90):
    """A column of ones and a covariate."""
    return np.stack([np.ones(n), np.random.default_rng(3).normal(size=n)], 1)


def _lines(n=90):
    z = inputs(n)
    return z, np.where(_member(n, 2), 1 + 2 * z[:, 1], 0.5 - z[:, 1])


def line_targets(n=90):
    z, eta = _lines(n)
    return z, eta + 0.5 * np.random.default_rng(4).normal(size=n)


def count_targets(n=90):
    """With an offset."""
    z, eta = _lines(n)
    offset = np.random.default_rng(5).uniform(-0.5, 0.5, n)
    return z, np.random.default_rng(4).poisson(np.exp(0.5 * eta + offset)).astype(float), offset


def bit_targets(n=90):
    z, eta = _lines(n)
    return z, (np.random.default_rng(4).random(n) < 1 / (1 + np.exp(-eta))).astype(float)


def vector_sequences():
    """Six of length 16."""
    return groups(96, 2).reshape(6, 16, 2)


def ragged_sequences():
    return vector_sequences(), np.array([16.0, 3, 8, 2, 16, 12])


def count_sequences():
    rates = np.repeat(np.array([[2.0, 9.0]]), 48, 0).reshape(6, 16)
    return np.random.default_rng(2).poisson(rates).astype(float)


def code_sequences():
    return np.random.default_rng(2).integers(3, size=(6, 16)).astype(float)


def walks():
    """Three noisy views of a random walk; six sequences of length 16."""
    rng = np.random.default_rng(0)
    hidden = np.cumsum(rng.normal(size=(6, 16, 1)), 1)
    return hidden * np.array([1.0, -0.5, 0.3]) + 0.3 * rng.normal(size=(6, 16, 3))


def with_missing(x, share=0.2):
    """x with this share of its entries missing at random, and one at least left in every row."""
    x = x.copy()
    drawn = np.random.default_rng(6).random(x.shape) < share
    drawn[np.arange(len(x)), np.arange(len(x)) % x.shape[1]] = False
    x[drawn] = np.nan
    return x


def numbers_with_missing(x):
    """Every fourth number missing."""
    return np.where(np.arange(len(x)) % 4 == 3, np.nan, x)


def noise_variances(n, d):
    return np.random.default_rng(8).gamma(2.0, 0.3, (n, d))


def noise_covariances(n, d):
    factor = 0.6 * np.random.default_rng(8).standard_normal((n, d, d))
    return factor @ factor.swapaxes(1, 2) + 0.1 * np.eye(d)


def sequences_with_missing():
    """Sequences with single missing entries, and whole observations missing."""
    x = with_missing(groups(96, 2)).reshape(6, 16, 2)
    x[:, 5] = np.nan
    return x


def intervals(n=90):
    """Times: seen, right-censored at 3, or known up to a unit."""
    x = times(n)
    kind = np.arange(n) % 3
    lower = np.where(kind == 0, x, np.where(kind == 1, np.minimum(x, 3), np.floor(x)))
    upper = np.where(kind == 0, x, np.where((kind == 1) & (x > 3), np.inf, np.where(kind == 1, x, np.floor(x) + 1)))
    return lower, upper


def grouped_counts():
    """Thirty groups of one to four counts."""
    sizes = np.arange(30) % 4 + 1.0
    rates = np.array([1.0, 6.0, 20.0])[_member(30)]
    return np.random.default_rng(9).poisson(rates[:, None], (30, 4)).astype(float), sizes


def labels(n, k):
    """Known for every third row."""
    return np.where(np.arange(n) % 3 == 0, np.random.default_rng(7).integers(k, size=n), -1)
