"""Fits in blocks: watched, interrupted, killed and resumed, with the bits of a fit that nobody disturbed."""

import random
import signal
import subprocess
import sys
import time
import warnings

import jax
import numpy as np
import pytest

import jaxem
from jaxem import Status
from jaxem.engine import blocks, container

X = jaxem.datasets.old_faithful()
MODEL = jaxem.gaussian_mixture(3)
KEY = jax.random.key(0)
OPTIONS = dict(n_restarts=12, tol=1e-7, max_steps=300)


def restarts(**options):
    return jaxem.fit_restarts(MODEL, X, KEY, **OPTIONS | options)


@pytest.fixture(scope="module")
def undisturbed():
    return restarts()


@pytest.fixture
def short_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "FIRST_BLOCK", 3)
    monkeypatch.setattr(blocks, "BLOCK_SECONDS", 0.0)


def same_bits(a, b):
    jax.tree.map(lambda u, v: np.testing.assert_array_equal(np.asarray(u), np.asarray(v)), a, b)


def test_a_watched_fit_has_the_same_bits(undisturbed, short_blocks, tmp_path, capsys):
    seen = []
    same_bits(restarts(callback=seen.append, progress=True, checkpoint=tmp_path / "fit"), undisturbed)
    assert len(seen) > 10
    assert [each.n_finished for each in seen] == sorted(each.n_finished for each in seen)
    assert seen[-1].n_finished == seen[-1].n_fits == 12
    assert seen[-1].objective == pytest.approx(float(np.max(undisturbed.all.objective)), abs=1e-2)
    assert 0 < seen[-1].occupancy <= 1
    assert "fit" in capsys.readouterr().err


class Interrupt:
    """A callback that stops a fit after so many blocks."""

    def __init__(self, after, how):
        self.left, self.how = after, how

    def __call__(self, progress):
        self.left -= 1
        if not self.left and self.how == "ctrl-c":
            signal.raise_signal(signal.SIGINT)
        return not self.left


@pytest.mark.parametrize("how", ["ctrl-c", "callback"])
def test_an_interrupted_fit_returns_what_there_is_and_goes_on(how, undisturbed, short_blocks, tmp_path):
    best, every = restarts(callback=Interrupt(4, how), checkpoint=tmp_path / "fit")
    statuses = {Status(int(status)) for status in every.status}
    assert Status.INTERRUPTED in statuses
    assert np.isfinite(float(best.objective))
    assert "interrupted" in jaxem.Status.INTERRUPTED.message
    same_bits(restarts(checkpoint=tmp_path / "fit"), undisturbed)


def test_an_interrupt_before_the_first_block_reports_no_success(short_blocks):
    fit = jaxem.fit(MODEL, X, MODEL.init(KEY, X), callback=Interrupt(1, "ctrl-c"))
    assert Status(int(fit.status)) == Status.INTERRUPTED


def test_a_damaged_checkpoint_gives_way_to_the_one_before(undisturbed, short_blocks, tmp_path):
    path = tmp_path / "fit"
    restarts(callback=Interrupt(4, "callback"), checkpoint=path)
    assert path.exists()
    assert (tmp_path / "fit.previous").exists()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"resumes from .*previous"):
        same_bits(restarts(checkpoint=path), undisturbed)


def test_the_checkpoint_of_another_fit_is_refused(short_blocks, tmp_path):
    restarts(checkpoint=tmp_path / "fit")
    for options in ({"tol": 1e-6}, {"n_restarts": 11}, {"weights": np.full(len(X), 2.0)}):
        with pytest.raises(ValueError, match=r"checkpoint: .* belongs to another fit"):
            restarts(checkpoint=tmp_path / "fit", **options)
    with pytest.raises(ValueError, match="checkpoint: expected a path in a folder that exists"):
        restarts(checkpoint=tmp_path / "nowhere" / "fit")


def test_a_full_disk_loses_nothing(undisturbed, short_blocks, tmp_path, monkeypatch):
    restarts(callback=Interrupt(4, "callback"), checkpoint=tmp_path / "fit")
    kept = (tmp_path / "fit").read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(container.np, "savez", full)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with pytest.warns(UserWarning, match="No space left"):
            same_bits(restarts(checkpoint=tmp_path / "fit"), undisturbed)
    assert (tmp_path / "fit").read_bytes() == kept
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fit", "fit.previous"]


def test_what_works_on_the_host_alone_says_so():
    start = MODEL.init(KEY, X)
    with pytest.raises(ValueError, match="callback: works on the host"):
        jax.jit(lambda s: jaxem.fit(MODEL, X, s, callback=print).log_lik)(start)
    for name, value in (("callback", 3), ("progress", "yes"), ("checkpoint", 3.5)):
        with pytest.raises(ValueError, match=f"{name}: expected"):
            jaxem.fit(MODEL, X, start, **{name: value})


#: A long fit that keeps checkpoints as often as it can, and writes its result at the end.
PROGRAM = """
import sys
import jax, numpy as np, jaxem
from jaxem.engine import blocks
from jaxem.engine import checkpoints
blocks.FIRST_BLOCK, blocks.BLOCK_SECONDS, checkpoints.PATIENCE = 2, 0.0, 0
x = jaxem.datasets.old_faithful()
model = jaxem.gaussian_mixture(3)
print("ready", flush=True)
fits = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=12, tol=1e-7, max_steps=300, checkpoint=sys.argv[1])
np.savez(sys.argv[2], *jax.tree.leaves(fits))
"""


def test_a_killed_fit_resumes_to_the_same_bits(undisturbed, tmp_path, request):
    """A fit is killed twice at random moments and then comes to its end; `--kills` asks for more such fits."""
    moments = random.Random(7)
    for fit in range(request.config.getoption("--kills")):
        path, out = tmp_path / f"fit{fit}", tmp_path / f"out{fit}.npz"
        kills = 0
        while not out.exists():
            process = subprocess.Popen([sys.executable, "-c", PROGRAM, path, out], stdout=subprocess.PIPE)
            process.stdout.readline()
            if kills < 2:
                # From before the first checkpoint to about the end.
                time.sleep(moments.uniform(1.0, 4.0))
                process.kill()
                kills += 1
            process.wait()
            process.stdout.close()
        with np.load(out) as found:
            for a, b in zip(found.values(), jax.tree.leaves(undisturbed), strict=True):
                np.testing.assert_array_equal(a, np.asarray(b))
