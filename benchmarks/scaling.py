"""How does the time of an iteration grow with n, k, d and the number of restarts? jaxem alone.

The value is the slope of log time over log size, from the largest half of the sizes: 1 is linear. The notes have the
times, and `report.draw_scaling` draws them.
"""

from functools import partial

import jax
import numpy as np

from benchmarks.measure import per_step
from benchmarks.problems import overlapping, start_from_rows
from benchmarks.suite import Case, Record, Target

#: What grows, over which sizes, and the rest: n, d, k, restarts.
GROWING = {
    "n": ((25_000, 50_000, 100_000, 200_000, 400_000), (0, 8, 8, 1)),
    "k": ((8, 16, 32, 64, 128), (20_000, 8, 0, 1)),
    "d": ((4, 8, 16, 32), (20_000, 0, 8, 1)),
    "restarts": ((128, 256, 512, 1_024), (1_000, 2, 3, 0)),
}
NAMES = ("n", "d", "k", "restarts")

#: The steepest slope that counts as linear; the features of a full covariance grow with d squared.
MOST = {"n": 1.15, "k": 1.15, "restarts": 1.15, "d": 2.15}


def cases(size):
    if size == "tiny":
        return [_case("k", (2, 4), (500, 2, 0, 1))]
    if size == "gpu":
        return [_case("n", (250_000, 1_000_000, 4_000_000), (0, 16, 32, 1))]
    return [_case(name, *GROWING[name]) for name in GROWING]


def _case(name, sizes, rest):
    fixed = ", ".join(f"{other} {value:,}" for other, value in zip(NAMES, rest, strict=True) if value)
    what = f"full, {name} {sizes[0]:,} to {sizes[-1]:,}; {fixed}"
    return Case("scaling", what, "float32", partial(run, name, sizes, rest))


def run(name, sizes, rest, repeats):
    times = {}
    for size in sizes:
        n, d, k, restarts = (size if other == name else value for other, value in zip(NAMES, rest, strict=True))
        few, many = (2, 82) if n * k * d * d < 1e6 else (2, 22)
        times[size] = per_step({"jaxem": _steps(n, d, k, restarts)}, few, many, repeats)["jaxem"]
    half = len(sizes) // 2
    slope = np.polyfit(np.log(sizes[half:]), np.log([times[size] for size in sizes[half:]]), 1)[0]
    values = {"jaxem": float(slope), "linear": MOST[name]}
    return Record(values, "slope", [Target("linear", 1, "at least")], {"grows": name, "seconds_per_step": times})


def _steps(n, d, k, restarts):
    import jaxem

    x, model = overlapping(n, d, k), jaxem.gaussian_mixture(k)
    start = start_from_rows(x, k, "full")
    params = jaxem.MixtureParams(start.weights, jaxem.GaussianParams(start.means, start.covs))
    many = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[None], restarts, 0), params)

    def fit(steps):
        fits = jaxem.fit_restarts(model, x, jax.random.key(0), start=many, tol=0.0, max_steps=steps)
        jax.block_until_ready(fits)

    return fit
