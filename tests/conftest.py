"""Fixtures shared by all tests. Warnings are errors (see pyproject.toml)."""

import gc
import json
import os
from importlib.metadata import version
from pathlib import Path

# Tests compile far more than they compute: unoptimised programs compile in a third of the time, and by one thread
# each where every core has a worker of its own. XLA stops at a flag that it does not know, so only versions that are
# known to have these get them; your own XLA_FLAGS win.
QUICK_COMPILATION = "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0"
QUICK_COMPILATION += " --xla_cpu_parallel_codegen_split_count=1"
if tuple(map(int, version("jaxlib").split(".")[:2])) <= (0, 10):
    os.environ.setdefault("XLA_FLAGS", QUICK_COMPILATION)

import jax
import pytest
import rotation

# Tracing makes many objects that live for long, and looking for garbage among them takes time.
gc.set_threshold(100_000, 50, 50)

GROUND = Path(__file__).parents[2] / "shared" / "ground"


def pytest_addoption(parser):
    parser.addoption(
        "--laws-day",
        choices=[*rotation.DAYS, rotation.ALL],
        help="check the laws of the rows of this day of the week (1 is Monday), or of all rows; default: today",
    )
    parser.addoption("--kills", type=int, default=1, help="how many checkpointed fits are killed twice; default: 1")


def pytest_configure(config):
    # The processes of pytest-xdist start with the options of the first one, so that all of them agree on the day.
    config.option.laws_day = config.option.laws_day or rotation.today()


def pytest_report_header(config):
    return f"laws: core rows and those of day {config.option.laws_day}; --laws-day {config.option.laws_day} repeats it"


@pytest.fixture
def float64():
    """The test runs with float64 as jax's default."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """The test runs once in each dtype."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param


@pytest.fixture(scope="session")
def ground():
    """A function: name of a file of trusted fits -> its cases; skipped where they are not at hand."""
    if not GROUND.is_dir():
        pytest.skip("no trusted fits beside this checkout")

    def load(name):
        content = json.loads((GROUND / f"{name}.json").read_text())
        return content if isinstance(content, list) else content.get("cases", content.get("traces"))

    return load


#: Compiled programs hold on to some fifty memory maps each, of which a process may have only so many (65,530 on Linux).
MAX_PROGRAMS = 600

_programs: list[str] = []


def _count(event, *_, fun_name="", **__):
    if event.endswith("backend_compile_duration"):
        _programs.append(fun_name)


jax.monitoring.register_event_duration_secs_listener(_count)


def _forget_programs():
    jax.clear_caches()
    gc.collect()
    _programs.clear()


@pytest.fixture(autouse=True)
def _few_programs():
    yield
    if len(_programs) > MAX_PROGRAMS:
        _forget_programs()


@pytest.fixture(autouse=True, scope="module")
def _no_programs_of_other_modules():
    yield
    _forget_programs()
