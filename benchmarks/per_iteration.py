"""How long does one EM iteration take? The same data, start, dtype and number of steps for everybody."""

import math
from functools import partial

from benchmarks.contestants import CONTESTANTS, Floor, mean_log_lik, takes
from benchmarks.measure import per_step
from benchmarks.problems import overlapping, start_from_rows
from benchmarks.suite import Case, Record, Target

#: covariance, n, d, k, dtype, and what is to be reached: times scikit-learn, times gmmx, floors at most.
QUICK = [
    ("full", 100_000, 16, 32, "float32", 15, 15, 1.5),
    ("tied", 100_000, 32, 16, "float32", 30, None, 2.2),
    ("diag", 100_000, 32, 16, "float32", 4, None, 2.2),
    ("spherical", 100_000, 32, 16, "float32", 6, None, 2.2),
]
FULL = [
    *QUICK,
    ("full", 65_536, 32, 64, "float32", 9, None, 1.5),
    ("full", 100_000, 16, 32, "float64", 10, None, None),
]
GPU = [
    ("full", 65_536, 32, 64, "float32", None, None, None),
    ("full", 65_536, 32, 64, "float64", None, None, None),
    ("full", 1_000_000, 32, 64, "float32", None, None, None),
    ("spherical", 1_000_000, 128, 1_024, "float32", None, None, None),
]
TINY = [("full", 2_000, 4, 3, "float32", None, None, None), ("tied", 2_000, 4, 3, "float64", None, None, None)]


def cases(size):
    problems = {"tiny": TINY, "quick": QUICK, "full": FULL, "gpu": GPU}[size]
    many = {"tiny": 42, "quick": 12, "full": 12, "gpu": 22}[size]
    alone = size == "gpu"  # the others would run on the CPU beside it
    return [Case("per iteration", _name(*p[:5]), p[4], partial(run, *p, many=many, alone=alone)) for p in problems]


def _name(covariance, n, d, k, dtype):
    return f"{covariance}, {n:,} x {d}, k {k}, {dtype}"


def run(covariance, n, d, k, dtype, times_sklearn, times_gmmx, floors, repeats, many, few=2, alone=False):
    x = overlapping(n, d, k, dtype)
    start = start_from_rows(x, k, covariance)
    fits = {
        name: make(x, start, covariance)
        for name, make in CONTESTANTS.items()
        if _runs(name, covariance, dtype, alone, n * k * d * d)
    }
    floor = Floor(n, d, k, covariance, dtype)
    runs = {name: contestant.fit for name, contestant in fits.items()}
    runs |= {layout: lambda steps, layout=layout: floor.run(steps, layout) for layout in floor.layouts}
    times = per_step(runs, few, many, repeats)
    layout = min(floor.layouts, key=lambda name: (math.isnan(times[name]), times[name]))
    times = {name: times[name] for name in fits} | {"floor": times[layout]}
    outcomes = {name: contestant.fit(many) for name, contestant in fits.items()}
    for name, outcome in outcomes.items():
        if outcome.n_steps != many:
            raise RuntimeError(f"{name} took {outcome.n_steps} steps where {many} were asked for: not the same work")
    reached = {name: mean_log_lik(x, outcome.params, covariance) for name, outcome in outcomes.items()}
    targets = [
        Target("scikit-learn", times_sklearn, "at least"),
        Target("gmmx", times_gmmx, "at least"),
        Target("floor", floors, "at most"),
    ]
    notes = {"steps": many - few, "mean_log_lik_after_the_same_steps": reached, "best_layout_of_the_floor": layout}
    return Record(times, "s", [t for t in targets if t.factor is not None], notes)


#: gmmx holds n x k x d numbers and takes about a second an iteration from here on.
TOO_LARGE_FOR_GMMX = 2e9


def _runs(name, covariance, dtype, alone, work):
    if name == "gmmx" and (work > TOO_LARGE_FOR_GMMX or covariance != "full" or dtype == "float64"):
        return False
    return name == "jaxem" or (not alone and takes(name, covariance))
