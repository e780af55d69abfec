"""How long does a person wait for the first answer? A fresh process: start Python, import, compile, fit 1,000 x 2."""

import os
import subprocess
import sys
from functools import partial

from benchmarks.contestants import CONTESTANTS
from benchmarks.measure import alternate
from benchmarks.problems import overlapping, start_from_rows
from benchmarks.suite import Case, Record

N, D, K = 1_000, 2, 3


def cases(size):
    if size == "gpu":
        return []
    return [Case("first fit", f"a fresh process, full, {N:,} x {D}, k {K}, tol 1e-5", "float32", run)]


def run(repeats):
    # A cache of compiled programs would make the first fit a second one.
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    calls = {name: partial(_child, name, environment) for name in CONTESTANTS}
    calls["import jaxem"] = partial(_python, ["-c", "import jaxem"], environment)
    times = alternate(calls, min(repeats, 3))
    return Record(times, "s", [], {"counted": "from the start of the process to its end"})


def _child(name, environment):
    _python(["-m", "benchmarks.first_fit", name], environment)


def _python(arguments, environment):
    subprocess.run([sys.executable, *arguments], env=environment, check=True, timeout=600, capture_output=True)


if __name__ == "__main__":
    data = overlapping(N, D, K)
    CONTESTANTS[sys.argv[1]](data, start_from_rows(data, K, "full"), "full").fit(1000, 1e-5)
