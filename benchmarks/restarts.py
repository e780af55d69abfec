"""How long do many restarts take, and what do they reach? The same starts and the same stopping rule.

jaxem makes its starts inside the timed call, and runs SQUAREM (plain EM is timed too). scikit-learn is handed the same
starts for nothing and runs a sample of them one after the other, as its n_init does; its time is that sample's mean
times the number of restarts.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.contestants import ScikitLearn, mean_log_lik
from benchmarks.measure import alternate
from benchmarks.problems import Start, overlapping
from benchmarks.suite import Case, Record, Target

TOL, MAX_STEPS = 1e-6, 2000

#: n, d, k, restarts, how many of them scikit-learn runs, and how many times scikit-learn is to be reached.
PROBLEMS = {
    "tiny": [(300, 2, 3, 16, 4, None)],
    "quick": [(2_000, 2, 3, 1_000, 20, 80), (5_000, 8, 8, 256, 8, 20)],
    "full": [(2_000, 2, 3, 1_000, 60, 80), (5_000, 8, 8, 256, 24, 20)],
    "gpu": [(2_000, 2, 3, 1_000, 0, None), (10_000, 8, 8, 1_000, 0, None)],
}


def cases(size):
    return [
        Case(
            "restarts", f"{r:,} of {n:,} x {d}, k {k}, tol {TOL:g}", "float32", partial(run, n, d, k, r, sample, times)
        )
        for n, d, k, r, sample, times in PROBLEMS[size]
    ]


def run(n, d, k, n_restarts, n_sample, times_sklearn, repeats):
    import jaxem

    x = overlapping(n, d, k)
    model, key, on_device = jaxem.gaussian_mixture(k), jax.random.key(0), jnp.asarray(x)

    fast, plain, seen = jaxem.SQUAREM(), jaxem.EM(), {}

    def all_restarts(algorithm=fast, max_steps=MAX_STEPS):
        options = dict(n_restarts=n_restarts, tol=TOL, max_steps=max_steps, algorithm=algorithm)
        fits = jaxem.fit_restarts(model, on_device, key, callback=lambda p: seen.update(last=p), **options)
        return jax.block_until_ready(fits)

    own = {"jaxem": all_restarts, "plain EM": partial(all_restarts, plain)}
    if not n_sample:
        times, fits = alternate(own, min(repeats, 2)), all_restarts()
        notes = {"lanes_busy": seen["last"].occupancy, "best": float(fits.best.log_lik) / n, "algorithm": "SQUAREM"}
        return Record(times, "s", [], notes)
    starts = all_restarts(max_steps=0).all.params
    sample = np.linspace(0, n_restarts - 1, n_sample).astype(int)
    singles = [ScikitLearn(x, _start(starts, r), "full") for r in sample]

    def sample_of_restarts():
        return [single.fit(MAX_STEPS, TOL) for single in singles]

    # A sample of fits is a mean already: two rounds of it are enough.
    times = alternate({**own, "scikit-learn": sample_of_restarts}, min(repeats, 2))
    times["scikit-learn"] *= n_restarts / n_sample
    fits, outcomes, busy = all_restarts(), sample_of_restarts(), seen["last"].occupancy
    steps = np.asarray(fits.all.n_steps)
    reached = np.asarray(fits.all.objective)[sample] / n
    theirs = [mean_log_lik(x, outcome.params, "full") for outcome in outcomes]
    notes = {
        "algorithm": "SQUAREM",
        "lanes_busy": busy,
        "best_of_all": {"jaxem": float(fits.best.log_lik) / n},
        "best_of_the_sample": {"jaxem": float(np.nanmax(reached)), "scikit-learn": float(np.nanmax(theirs))},
        "mean_of_the_sample": {"jaxem": float(np.nanmean(reached)), "scikit-learn": float(np.nanmean(theirs))},
        "steps_of_the_sample": {
            "jaxem": float(steps[sample].mean()),
            "scikit-learn": float(np.mean([outcome.n_steps for outcome in outcomes])),
        },
        "restarts_run_by_scikit_learn": n_sample,
        "seconds_per_restart": {name: value / n_restarts for name, value in times.items()},
    }
    targets = [Target("scikit-learn", times_sklearn, "at least")] if times_sklearn else []
    return Record(times, "s", targets, notes)


def _start(starts, r):
    weights, components = jax.tree.map(lambda leaf: np.asarray(leaf[r]), starts)
    return Start(weights / weights.sum(dtype=np.float64).astype(weights.dtype), components.mean, components.cov)
