"""Laws x zoo: every model, in both dtypes."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from zoo import KIN, ZOO

from jaxem.testing import LAWS, check_model

#: Checks that need more than one device.
NEED_DEVICES = "devices"

#: Few draws tell the total of a density only roughly.
NEED_DRAWS = "too spread"


@pytest.mark.parametrize("row", ZOO, ids=lambda row: row.name)
def test_laws(row, dtype):
    own = ("float32", "float64")[ZOO.index(row) % 2]
    thorough = (row.core and dtype == own) or bool(os.environ.get("JAXEM_SLOW_TESTS"))
    if row.name in KIN and not os.environ.get("JAXEM_SLOW_TESTS"):
        pytest.skip("its kin are tried; all with JAXEM_SLOW_TESTS=1")
    if not (row.core or dtype == own or os.environ.get("JAXEM_SLOW_TESTS")):
        pytest.skip(f"in {own}; in both dtypes with JAXEM_SLOW_TESTS=1")
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
