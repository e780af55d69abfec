"""How long does one EM iteration take? The same data, start, dtype and number of steps for everybody."""

import importlib.util
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


#: Steps that are timed, beyond the first two: the noise of a call is to be little of what they take.
STEPS = {"tiny": 40, "quick": 10, "full": 10, "gpu": 50}

#: Where an iteration takes a few milliseconds: so many times more.
QUICK_STEPS = 4


def cases(size):
    problems = {"tiny": TINY, "quick": QUICK, "full": FULL, "gpu": GPU}[size]
    return [
        Case(
            "per iteration",
            _name(*p[:5]),
            p[4],
            partial(run, *p, steps=STEPS[size] * (1 if p[0] == "full" else QUICK_STEPS), on_gpu=size == "gpu"),
        )
        for p in problems
    ]


def _name(covariance, n, d, k, dtype):
    return f"{covariance}, {n:,} x {d}, k {k}, {dtype}"


def run(covariance, n, d, k, dtype, times_sklearn, times_gmmx, floors, repeats, steps, few=2, on_gpu=False):
    x = overlapping(n, d, k, dtype)
    start = start_from_rows(x, k, covariance)
    fits = {
        name: make(x, start, covariance)
        for name, make in CONTESTANTS.items()
        if _runs(name, covariance, dtype, on_gpu, n * k * d * d)
    }
    floor = Floor(n, d, k, covariance, dtype)
    layouts = floor.layouts[::3] if on_gpu else floor.layouts  # the best two there; each is one more to compile
    runs = {name: contestant.fit for name, contestant in fits.items()}
    # A fit that is at rest before, in float32, stops there: everybody takes the steps that jaxem takes.
    steps = min(steps, fits["jaxem"].fit(few + steps).n_steps - few)
    many = few + steps
    runs |= {layout: lambda steps, layout=layout: floor.run(steps, layout) for layout in layouts}
    times = per_step(runs, few, many, repeats)
    layout = min(layouts, key=lambda name: (math.isnan(times[name]), times[name]))
    times = {name: times[name] for name in fits} | {"floor": times[layout]}
    outcomes = {name: contestant.fit(many) for name, contestant in fits.items()}
    for name, outcome in outcomes.items():
        if outcome.n_steps != many:
            raise RuntimeError(f"{name} took {outcome.n_steps} steps where {many} were asked for: not the same work")
    some = x[: int(REFEREED / (k * d))]
    reached = {name: mean_log_lik(some, outcome.params, covariance) for name, outcome in outcomes.items()}
    targets = [
        Target("scikit-learn", times_sklearn, "at least"),
        Target("gmmx", times_gmmx, "at least"),
        Target("floor", floors, "at most"),
    ]
    notes = {
        "steps": steps,
        "rows_refereed": len(some),
        "mean_log_lik_after_the_same_steps": reached,
        "best_layout_of_the_floor": layout,
    }
    return Record(times, "s", [t for t in targets if t.factor is not None], notes)


#: gmmx holds n x k x d numbers and takes about a second an iteration from here on, without a GPU; and whatever it runs
#: on, it needs the memory.
TOO_LARGE_FOR_GMMX, TOO_LARGE_FOR_GMMX_ON_GPU = 2e9, 2e10

#: Rows times components times columns that the referee, which takes its time, looks at.
REFEREED = 3e8


def _runs(name, covariance, dtype, on_gpu, work):
    if name == "gmmx":
        most = TOO_LARGE_FOR_GMMX_ON_GPU if on_gpu else TOO_LARGE_FOR_GMMX
        return work <= most and covariance == "full" and dtype == "float32" and importlib.util.find_spec("gmmx")
    return name == "jaxem" or (not on_gpu and takes(name, covariance))  # scikit-learn would run on the CPU beside it
