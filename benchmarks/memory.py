"""How much memory does a fit of many rows take, in multiples of the data? Each contestant in a process of its own."""

import json
import subprocess
import sys
from functools import partial

from benchmarks.contestants import CONTESTANTS
from benchmarks.measure import peak_memory
from benchmarks.problems import overlapping, start_from_rows
from benchmarks.suite import Case, Record, Target

STEPS = 3

#: n, d, k, jaxem's chunk_size, and how many times the data it may take.
PROBLEMS = {
    "tiny": [(5_000, 4, 3, 1_000, None)],
    "quick": [(1_000_000, 8, 16, 16_384, 4)],
    "full": [(1_000_000, 8, 16, 16_384, 4)],
    "gpu": [],
}


def cases(size):
    return [
        Case(
            "peak memory",
            f"full, {n:,} x {d}, k {k}, chunk_size {chunk:,}",
            "float32",
            partial(run, n, d, k, chunk, most),
        )
        for n, d, k, chunk, most in PROBLEMS[size]
    ]


def run(n, d, k, chunk, most, repeats):
    values, notes = {"data": 1.0}, {"data_bytes": 4 * n * d, "steps": STEPS}
    for name in CONTESTANTS:
        command = [sys.executable, "-m", "benchmarks.memory", name, *map(str, (n, d, k, chunk))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        values[name] = found.pop("peak") / (4 * n * d)
        notes[name] = found
    values = {"jaxem": values.pop("jaxem"), **values}
    targets = [Target("data", most, "at most")] if most else []
    return Record(values, "x data", targets, notes)


def main(name, n, d, k, chunk):
    """In the child: peak above the level before the fit, for a second fit and, with its compilation, for the first."""
    x = overlapping(n, d, k)
    options = {"chunk_size": chunk} if name == "jaxem" else {}
    contestant = CONTESTANTS[name](x, start_from_rows(x, k, "full"), "full", **options)
    first, how = peak_memory(lambda: contestant.fit(STEPS))
    again, _ = peak_memory(lambda: contestant.fit(STEPS))
    print(json.dumps({"peak": again, "bytes_first_fit_with_compilation": first, "bytes": again, "read_as": how}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
