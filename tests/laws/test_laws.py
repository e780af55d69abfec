"""Every model of the zoo obeys the ten laws, in both dtypes.

A default run checks the core rows and a seventh of the others in full, so that the runs of a week check all of them,
and half of the rest in part (`rotation.py`). `pytest tests/laws --laws-day all` checks all of them at once.
"""

import itertools
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from rotation import DAYS, DTYPES, in_full, in_part
from zoo import COVERED_BY_OTHERS, ZOO

from jaxem.testing import LAWS, check_model

#: Checks that need more than one device.
NEED_DEVICES = "devices"

#: Few draws tell the total of a density only roughly.
NEED_DRAWS = "too spread"


@pytest.fixture
def dtype(request):
    """The dtype of one case of `test_laws`, which chooses its cases itself."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param


def pytest_generate_tests(metafunc):
    """Give `test_laws` every row in both dtypes: in full, in part, or in full and marked as slow."""
    if metafunc.function is not test_laws:
        return
    cases = []
    for row, dtype in itertools.product(ZOO, DTYPES):
        day = metafunc.config.getoption("--laws-day")
        full = in_full(row, dtype, day)
        part = row.name not in COVERED_BY_OTHERS and in_part(row.name, dtype, day)
        marks = () if full or part else pytest.mark.slow
        cases.append(pytest.param(row, dtype, full or not part, marks=marks, id=f"{row.name}-{dtype}"))
    metafunc.parametrize(("row", "dtype", "thorough"), cases, indirect=["dtype"])


def test_laws(row, dtype, thorough):
    x = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), row.data())
    report = check_model(
        row.model,
        jax.random.key(3),
        x,
        affine=row.affine,
        reference=row.reference,
        exact_m_step=row.exact_m_step,
        thorough=thorough,
    )
    looked_at = {outcome.law for outcome in report.outcomes}
    assert looked_at == set(LAWS) - (set() if thorough else {9})
    assert {outcome.law for outcome in report.with_status("passed")} >= looked_at - {
        outcome.law for outcome in report.with_status("skipped")
    }
    for outcome in report.with_status("skipped"):
        assert any(part in str(outcome) for part in (*row.skipped, NEED_DEVICES, NEED_DRAWS)), str(outcome)
    assert f"{len(report.with_status('passed'))} checks passed" in str(report)


def test_a_week_checks_every_row_in_full_in_both_dtypes():
    cases = [(row, dtype) for row in ZOO for dtype in DTYPES]
    assert all(any(in_full(row, dtype, day) for day in DAYS) for row, dtype in cases)


def test_laws_over_devices():
    """The same statistics where rows lie on two devices."""
    program = (
        "import jax, jaxem; from jaxem.testing import check_model; assert len(jax.devices()) == 2;"
        "report = check_model(jaxem.gaussian_mixture(2, 'diag'), jax.random.key(0), jaxem.datasets.old_faithful(),"
        " laws=(1,)); assert not report.with_status('skipped'), report"
    )
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_too_little_data_is_named():
    with pytest.raises(ValueError, match="x: expected at least 4 rows"):
        check_model(ZOO[0].model, jax.random.key(0), np.zeros((3, 2)))
