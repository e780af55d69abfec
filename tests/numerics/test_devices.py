"""Rows and restarts over devices and processes: the answer of one device, and one collective an iteration."""

import os
import socket
import subprocess
import sys
import textwrap

import pytest

COMMON = """
import sys
import jax, numpy as np, jaxem
from jaxem.engine import programs
from jaxem.testing.compilations import count_compilations
rng = np.random.default_rng(0)
x = rng.normal(size=(1003, 2)) + 2 * rng.integers(3, size=(1003, 1))
model = jaxem.gaussian_mixture(3)
start = jaxem.MixtureParams(np.full(3, 1 / 3), jaxem.GaussianParams(x[:3], np.tile(np.eye(2), (3, 1, 1))))
"""

ONE_HOST = (
    COMMON
    + """
assert len(jax.devices()) == 8
for dtype, rtol in ((np.float32, 1e-5), (np.float64, 1e-10)):
    jax.config.update("jax_enable_x64", dtype == np.float64)
    options = dict(tol=0.0, max_steps=20)
    # Whether a jump is accepted may hang on the last bit: in float32 paths part there, and meet again at the end.
    for algorithm in (jaxem.EM(),) if dtype == np.float32 else (jaxem.SQUAREM(), jaxem.EM()):
        one = jaxem.fit(model, x.astype(dtype), start, algorithm=algorithm, **options)
        # Explicit axes and fewer rows on the last device.
        rows, weights = jaxem.shard_rows(x.astype(dtype), jax.make_mesh((8,), ("rows",)))
        assert rows.sharding.spec == jax.P("rows") and len(rows.sharding.device_set) == 8
        many = jaxem.fit(model, rows, start, weights=weights, algorithm=algorithm, **options)
        np.testing.assert_allclose(many.log_lik, one.log_lik, rtol=rtol)
        np.testing.assert_allclose(many.history, one.history, rtol=rtol)
        assert all(len(leaf.devices()) == 1 for leaf in jax.tree.leaves(many))  # to be used with data of one device
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=100 * rtol), many.params, one.params)
    chunked = jaxem.fit(model, rows, start, weights=weights, chunk_size=50, **options)
    np.testing.assert_allclose(chunked.log_lik, one.log_lik, rtol=rtol)
    # Two groups of four devices, and a number of restarts that does not divide.
    rows, weights = jaxem.shard_rows(x.astype(dtype), jax.make_mesh((2, 4), ("restarts", "rows")))
    one = jaxem.fit_restarts(model, x.astype(dtype), jax.random.key(0), n_restarts=5, **options)
    many = jaxem.fit_restarts(model, rows, jax.random.key(0), weights=weights, n_restarts=5, **options)
    np.testing.assert_allclose(many.all.log_lik, one.all.log_lik, rtol=10 * rtol)
    assert many.all.status.shape == (5,)

# One all-reduce an iteration, in the compiled program.
rows, weights = jaxem.shard_rows(x, jax.make_mesh((8,), ("rows",)))
seen = []
original = programs.iterate.default
def spy(*args, **kwargs):
    seen.append(original.lower(*args, **kwargs).compile().as_text())
    return original(*args, **kwargs)
kept = programs.iterate.variants
programs.iterate.variants = [spy] * len(kept)
jaxem.fit(model, rows, start, weights=weights, **options)
programs.iterate.variants = kept
lines = [line for line in seen[0].splitlines() if " all-reduce(" in line or " all-gather(" in line]
assert len(lines) == 1, lines
assert "all-to-all" not in seen[0] and "collective-permute" not in seen[0]

for wrong in (jax.make_mesh((8,), ("x",)), jax.make_mesh((2, 4), ("rows", "x"))):
    try:
        jaxem.shard_rows(x, wrong)
        assert len(wrong.axis_names) == 1
    except ValueError as error:
        assert "mesh: expected" in str(error)
# A second fit, with other numbers, compiles nothing.
jaxem.fit(model, rows, start, weights=weights, tol=1e-3, max_steps=20)
with count_compilations() as compiled:
    jaxem.fit(model, rows, start, weights=weights, tol=1e-4, max_steps=19)
assert not compiled, compiled
few, weights = jaxem.shard_rows(x[:5], jax.make_mesh((8,), ("rows",)))
assert few.shape[0] % 8 == 0 and float(weights.sum()) == 5
bad = x.copy(); bad[7, 0] = np.nan
rows, weights = jaxem.shard_rows(bad, jax.make_mesh((8,), ("rows",)))
try:
    jaxem.fit(model, rows, start, weights=weights)
except ValueError as error:
    assert "x: some rows hold NaN" in str(error)
else:
    raise AssertionError("NaN rows were accepted")
print("done")
"""
)

TWO_PROCESSES = (
    COMMON
    + """
port, index = sys.argv[1:]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=int(index))
assert len(jax.devices()) == 4 and len(jax.local_devices()) == 2
mesh = jax.make_mesh((4,), ("rows",))
mine = x[:600] if index == "0" else x[600:]  # not the same number each
for dtype, rtol in ((np.float32, 1e-5), (np.float64, 1e-10)):
    jax.config.update("jax_enable_x64", dtype == np.float64)
    options = dict(tol=0.0, max_steps=20)
    rows, weights = jaxem.shard_rows(mine.astype(dtype), mesh)
    many = jaxem.fit(model, rows, start, weights=weights, **options)
    with jax.default_device(jax.local_devices()[0]):
        one = jaxem.fit(model, x.astype(dtype), start, **options)
    np.testing.assert_allclose(many.log_lik, one.log_lik, rtol=rtol)
    np.testing.assert_allclose(many.history, one.history, rtol=rtol)
print("done")
"""
)


def child(program, n_devices, *arguments):
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(n_devices), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(program), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "done" in out


def test_eight_devices_give_the_answer_of_one():
    finish(child(ONE_HOST, 8))


def test_two_processes_give_the_answer_of_one():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [child(TWO_PROCESSES, 2, port, index) for index in range(2)]
    try:
        for process in processes:
            finish(process)
    finally:
        for process in processes:
            process.kill()


def test_a_mesh_is_what_it_takes():
    import jax

    import jaxem

    _, weights = jaxem.shard_rows(jaxem.datasets.old_faithful(), jax.make_mesh((1,), ("rows",)))
    assert float(weights.sum()) == 272
    with pytest.raises(ValueError, match="weights: expected shape"):
        jaxem.shard_rows(jaxem.datasets.old_faithful(), jax.make_mesh((1,), ("rows",)), weights=[1.0])
