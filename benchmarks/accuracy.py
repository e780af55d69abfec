"""How far is float32 from float64 on this device? The same fit in both; rows that are easy, far away, or stretched.

The value is the relative difference of the log-likelihoods after the same number of steps; the float64 rows are those
that float32 can hold, so that nothing but the arithmetic differs.
"""

from functools import partial

import jax
import numpy as np

from benchmarks.problems import overlapping, start_from_rows
from benchmarks.suite import Case, Record, Target

STEPS = 20

#: What is to hold, relative.
MOST = 1e-5

#: How the rows lie: offset in standard deviations, ratio of the largest variance to the smallest.
LIE = {"as they are": (0.0, 1.0), "1e5 standard deviations away": (1e5, 1.0), "variances 1e8 apart": (0.0, 1e8)}

#: covariance, n, d, k.
PROBLEMS = {
    "tiny": [("full", 500, 2, 2)],
    "quick": [("full", 20_000, 8, 8)],
    "full": [("full", 20_000, 8, 8), ("diag", 20_000, 8, 8)],
    "gpu": [("full", 65_536, 32, 64)],
}


def cases(size):
    return [
        Case(
            "float32 against float64",
            f"{c}, {n:,} x {d}, k {k}, {STEPS} steps, {lie}",
            "float64",
            partial(run, *p, lie),
        )
        for p in PROBLEMS[size]
        for lie in (LIE if size != "tiny" else ["as they are"])
        for c, n, d, k in [p]
    ]


def run(covariance, n, d, k, lie, repeats):
    import jaxem

    offset, ratio = LIE[lie]
    scale = np.geomspace(1, ratio**0.5, d)
    x = (scale * (overlapping(n, d, k, "float64") + offset)).astype(np.float32)
    start = start_from_rows(x.astype(np.float64), k, covariance)
    model = jaxem.gaussian_mixture(k, covariance=covariance)
    params = jaxem.MixtureParams(start.weights, jaxem.GaussianParams(start.means, start.covs))

    def log_lik(dtype):
        with jax.enable_x64(dtype == np.float64):
            return float(jaxem.fit(model, x.astype(dtype), params, tol=0.0, max_steps=STEPS).log_lik)

    ours, exact = log_lik(np.float32), log_lik(np.float64)
    values = {"jaxem": max(abs(ours / exact - 1), 1e-16), "allowed": MOST}
    return Record(
        values, "relative", [Target("allowed", 1, "at least")], {"steps": STEPS, "float32": ours, "float64": exact}
    )
