"""How long until a given log-likelihood? Never a contestant's own idea of convergence.

All run EM from one start, so the number of steps to come within 1e-5 nats per row of the optimum is the same for all;
the whole call that takes so many steps is timed, and what it reached is checked.
"""

from functools import partial

import numpy as np

from benchmarks.contestants import CONTESTANTS, mean_log_lik
from benchmarks.measure import alternate
from benchmarks.problems import overlapping, start_from_rows
from benchmarks.suite import Case, Record

#: Nats per row below the optimum of the same run.
SHORT = 1e-5
PROBLEMS = {"tiny": [(400, 2, 2)], "quick": [(20_000, 4, 4)], "full": [(20_000, 4, 4), (50_000, 8, 8)], "gpu": []}


def cases(size):
    return [
        Case(
            "time to log-likelihood",
            f"{n:,} x {d}, k {k}, {SHORT:g} nats per row of the optimum",
            "float32",
            partial(run, n, d, k),
        )
        for n, d, k in PROBLEMS[size]
    ]


def run(n, d, k, repeats):
    x = overlapping(n, d, k)
    start = start_from_rows(x, k, "full")
    fits = {name: make(x, start, "full") for name, make in CONTESTANTS.items()}
    optimum, steps = _steps_to(fits["jaxem"], n)
    times = alternate({name: partial(fit.fit, steps) for name, fit in fits.items()}, repeats)
    reached = {name: mean_log_lik(x, fit.fit(steps).params, "full") for name, fit in fits.items()}
    for name, value in reached.items():
        if value < optimum - 10 * SHORT:
            raise RuntimeError(f"{name} reached {value:.6f} after {steps} steps, the optimum is {optimum:.6f}")
    return Record(times, "s", [], {"steps": steps, "optimum": optimum, "reached": reached})


def _steps_to(fit, n):
    history = np.asarray(fit.fit_(tol=0.0, max_steps=5000).history) / n
    optimum = float(np.nanmax(history))
    return optimum, int(np.argmax(history >= optimum - SHORT)) + 1
