"""Measuring: contestants in turn, the least of several; peak memory of one call; the machine that did it."""

import contextlib
import ctypes
import gc
import importlib.metadata
import math
import os
import platform
import sys
import time
from pathlib import Path

import jax

import jaxem

#: Seconds between two contestants: BLAS threads go on spinning for a while after their work, on the next one's cores.
PAUSE = 0.2

#: Seconds that a turn lasts: shorter calls are made again and again, because after a pause the first finds caches cold
#: and cores asleep, which costs it milliseconds.
TURN = 0.1

PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "scikit-learn", "gmmx", "hmmlearn")


def seconds(call):
    """Wall time of one call; `call` returns only when its answer is there."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def alternate(calls, repeats):
    """{name: least seconds} of {name: call}: in every round each contestant has one turn, `repeats` rounds.

    A turn is one call, or as many as fit into `TURN`. The least is the time with the least disturbance by whatever else
    the machine did. The first call of each (its compilation) is not counted.
    """
    for call in calls.values():
        call()
    times = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            time.sleep(PAUSE)
            end = time.perf_counter() + TURN
            while not times[name] or time.perf_counter() < end:
                times[name].append(seconds(call))
    return {name: min(values) for name, values in times.items()}


def per_step(runs, few, many, repeats):
    """{name: least seconds per step} of {name: run(steps)}: what `many` steps take longer than `few`.

    Checking, moving and compiling are the same in both and cancel. NaN where noise swallowed the difference.
    """
    calls = {}
    for name, run in runs.items():
        calls[name, few] = lambda run=run: run(few)
        calls[name, many] = lambda run=run: run(many)
    least = alternate(calls, repeats)
    difference = {name: (least[name, many] - least[name, few]) / (many - few) for name in runs}
    return {name: value if value > 0 else math.nan for name, value in difference.items()}


def peak_memory(call):
    """(bytes the resident set rose above its level before `call` at most, how that was read)."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what was freed but kept would hide new use
    try:
        Path("/proc/self/clear_refs").write_text("5")  # start the high-water mark again from here
        before = _proc_status("VmRSS")
        call()
        return _proc_status("VmHWM") - before, "high-water mark of the resident set"
    except OSError:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        call()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before, "growth of the process's own peak"


def _proc_status(field):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(field)


def machine():
    """What the figures belong to: hardware, load and versions."""
    device = jax.devices()[0]
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "jax_device": f"{device.platform}: {device.device_kind}",
        "versions": {"jaxem": jaxem.__version__, **{name: _version(name) for name in PACKAGES}},
    }


def _cpu_name():
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def load():
    """The one-minute load average: processes that wanted a core. A quiet machine says less than about 0.5."""
    return round(os.getloadavg()[0], 2)
