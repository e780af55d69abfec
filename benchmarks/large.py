"""Rows that need not fit into memory: seconds per pass and peak memory of `fit_stream` from a memmap.

The child that reads the memmap does nothing else; another fits the same rows in memory, and both say what they reached.
"""

import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.measure import peak_memory, seconds
from benchmarks.suite import Case, Record, Target

STEPS = 3

#: n, d, k, and how many GB it may take.
PROBLEMS = {
    "tiny": [(20_000, 2, 2, None)],
    "quick": [(2_000_000, 8, 16, 1.5)],
    "full": [(20_000_000, 8, 16, 1.5)],
    "gpu": [(20_000_000, 8, 16, None)],
}


def cases(size):
    return [
        Case("memmap", f"full, {n:,} x {d}, k {k}, {STEPS} steps", "float32", partial(run, n, d, k, most))
        for n, d, k, most in PROBLEMS[size]
    ]


def run(n, d, k, most, repeats):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        _write(path, n, d, k)
        found = {}
        for how in ("stream", "memory"):
            command = [sys.executable, "-m", "benchmarks.large", how, str(path), str(k)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=3000, check=True)
            found[how] = json.loads(done.stdout.splitlines()[-1])
    difference = found["stream"]["log_lik"] / found["memory"]["log_lik"] - 1
    values = {"jaxem": found["stream"]["peak"] / 1e9, "in memory": found["memory"]["peak"] / 1e9}
    if most:
        values["allowed"] = most
    targets = [Target("allowed", 1, "at least")] if most else []
    return Record(values, "GB", targets, {**found, "relative_difference_of_log_lik": difference, "steps": STEPS})


def _write(path, n, d, k):
    rng = np.random.default_rng(0)
    x = np.lib.format.open_memmap(path, "w+", np.float32, (n, d))
    centres = rng.normal(size=(k, d)) * 2
    for first in range(0, n, 1 << 20):
        rows = min(1 << 20, n - first)
        x[first : first + rows] = centres[rng.integers(k, size=rows)] + rng.normal(size=(rows, d))
    x.flush()


def main(how, path, k):
    import jax

    import jaxem

    x = np.load(path, mmap_mode="r")
    model = jaxem.gaussian_mixture(k)
    start = jax.tree.map(np.asarray, model.init(jax.random.key(0), np.asarray(x[:10_000])))

    def fit():
        options = dict(tol=0.0, max_steps=STEPS)
        if how == "stream":
            return jaxem.fit_stream(model, x, start, **options)
        return jaxem.fit(model, np.array(x), start, chunk_size=16_384, **options)

    results = []
    peak, read_as = peak_memory(lambda: results.append(jax.block_until_ready(fit())))
    taken = seconds(lambda: jax.block_until_ready(fit()))
    print(json.dumps({"peak": peak, "seconds": taken, "log_lik": float(results[0].log_lik), "read_as": read_as}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
