"""A fit in blocks of iterations. Between them the host shows progress, writes a checkpoint, and can be interrupted.

`fit`, `fit_restarts` and `fit_stream` take

    callback      called with a `Progress` after every block; where it returns True the fit ends as INTERRUPTED
    progress      True: a bar (tqdm where it is installed)
    checkpoint    a path: all there is of the fit is kept there; a call with the same arguments goes on from it

None of them changes a bit of the answer: pieces of a run give what the whole gives. Ctrl-C ends a fit at the last
finished block, with the status INTERRUPTED for what was still running.
"""

import sys
import time
from concurrent.futures import wait
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxem.contract.units import Identity
from jaxem.engine.checkpoints import Checkpoint
from jaxem.engine.loop import State
from jaxem.engine.programs import compile_ahead, finish, initialise, iterate, stop, work_of_state
from jaxem.engine.result import Result
from jaxem.engine.stages import Stages
from jaxem.numerics.devices import host

#: Seconds that a block is to take: short enough for Ctrl-C and a bar, and thousands of times what a call costs.
BLOCK_SECONDS = 0.2

#: Iterations of the first block at most, fewer where they are more work than FIRST_WORK (numbers in the data times
#: numbers in the params); and how much longer a block may be than the last.
FIRST_BLOCK, FIRST_WORK, BLOCK_GROWTH = 128, 1 << 28, 8


class Progress(NamedTuple):
    """How far a fit has come.

    n_iterations: passes of the loop. n_finished: fits of n_fits that have ended. objective: the highest so far, total
    in nats (-inf before there is one). seconds: since the call. occupancy: share of the lanes that were busy.
    """

    n_iterations: int
    n_finished: int
    n_fits: int
    objective: float
    seconds: float
    occupancy: float


class Monitor(NamedTuple):
    """What a fit's caller wants to see of it while it runs. volume: what objectives are reported less by."""

    callback: Any = None
    progress: bool = False
    checkpoint: Any = None
    volume: float = 0.0

    @classmethod
    def of(cls, callback: Any, progress: Any, checkpoint: Any) -> "Monitor":
        if callback is not None and not callable(callback):
            raise ValueError(f"callback: expected a function of a Progress; got {callback!r}")
        if not isinstance(progress, (bool, np.bool_)):
            raise ValueError(f"progress: expected True or False; got {progress!r}")
        return cls(callback, bool(progress), None if checkpoint is None else Checkpoint(checkpoint))

    def refuse_trace(self) -> None:
        for name in ("callback", "progress", "checkpoint"):
            if getattr(self, name):
                raise ValueError(f"{name}: works on the host; this fit is part of a compiled program")


class StoppedByCallbackError(Exception):
    """A callback asked for the end."""


class MonitoredFit:
    """Callback, bar and checkpoint of one fit, called after every block."""

    def __init__(self, monitor: Monitor, what: Any) -> None:
        self.monitor, self.started = monitor, time.perf_counter()
        self.checkpoint = None if monitor.checkpoint is None else monitor.checkpoint.of_fit(what)
        self.bar = _bar() if monitor.progress else None

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def resumed(self, kept: Any) -> Any:
        """What a checkpoint kept of this fit, or `kept`, that of its beginning."""
        return kept if self.checkpoint is None else self.checkpoint.resumed(kept)

    def keep(self, kept: Any, now: bool = True) -> None:
        if self.checkpoint is not None:
            self.checkpoint.keep(kept, now)

    def after_block(self, kept: Any, progress: Any, last: bool = False) -> None:
        """Keep all there is of the fit; `progress()` says how far it has come."""
        self.keep(kept, now=last)
        if self.bar is None and self.monitor.callback is None:
            return
        seen = progress()
        if self.bar is not None:
            self.bar.total, self.bar.n = seen.n_fits, seen.n_finished
            self.bar.set_postfix(iterations=seen.n_iterations, objective=f"{seen.objective:.6g}")
        if self.monitor.callback is not None and self.monitor.callback(seen) and not last:
            raise StoppedByCallbackError

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def _bar():
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise ValueError('progress: needs tqdm; install "jaxem[progress]"') from None
    return tqdm(total=1, unit="fit", file=sys.stderr, leave=False)


def _progress(state: State, volume, seconds) -> Progress:
    n_pending, taken, busy = (int(host(leaf).sum()) for leaf in (state.n_pending, state.taken, state.busy))
    known = np.concatenate([np.ravel(host(leaf)) for leaf in (state.fits.objective, state.lanes.objective)])
    objective = float(np.max(known[np.isfinite(known)], initial=-np.inf))
    occupancy = int(host(state.n_busy).sum()) / max(int(host(state.n_slots).sum()), 1)
    n_finished = n_pending - busy - max(n_pending - taken, 0)
    return Progress(_n_iterations(state), n_finished, n_pending, objective - volume, seconds, occupancy)


def _n_iterations(state) -> int:
    return int(host(state.n_iterations).max())


def solve_in_blocks(
    model: Any,
    x: Any,
    weights: jax.Array,
    algorithm: Any,
    tol: Any,
    max_steps: Any,
    starts: Any,
    key: Any,
    plan: Any,
    monitor: Monitor,
) -> Result:
    """All fits of a plan, from the host: set out, iterate block by block, finish.

    The stages are the rungs of the screening, then to the end, then (for fits that met ill-conditioned params, and only
    then compiled) in the centred form.
    """
    early, late = compile_ahead(model, x, weights, algorithm, tol, max_steps, starts, key, plan)
    wait(early)
    problem, state = initialise(model, x, weights, algorithm, starts, key, plan)
    wait(late)
    volume = monitor.volume + (float(_volume(problem, weights)) if monitor.callback or monitor.progress else 0.0)
    monitored = MonitoredFit(monitor, (model, x, weights, algorithm, tol, max_steps, starts, key, plan))
    state, stage = monitored.resumed((state, np.int32(0)))
    stages = Stages(problem, algorithm, x, weights, max_steps, plan)

    def after_block(last=False):
        monitored.after_block((state, np.int32(stage)), lambda: _progress(state, volume, monitored.seconds), last)

    stage = int(stage)
    try:
        while True:
            form = stages.form(stage, state)
            for reached in _blocks(*form, state, tol, stages.limit(stage), plan.placement):
                state = reached
                after_block()
            if stage == stages.centred:
                break
            ended, chosen = stages.chosen(stage + 1, state)
            if stage + 1 == stages.centred and not host(chosen).any():
                break
            # Both at once: wherever an interrupt comes, they belong together.
            state, stage = stages.enter(stage + 1, ended, chosen), stage + 1
        after_block(last=True)
        fits = state.fits
    except (KeyboardInterrupt, StoppedByCallbackError):
        monitored.keep((state, np.int32(stage)))
        fits = stop(state, placement=plan.placement)
    finally:
        monitored.close()
    return finish(model, problem, weights, fits, state.history, plan, len(state.index))


@jax.jit
def _volume(problem, weights):
    return (weights * getattr(problem, "units", Identity()).log_volume()).sum()


def _blocks(problem, algorithm, state, tol, max_steps, placement):
    """The states after each block, until every fit has ended."""
    work = work_of_state(problem, algorithm, state)
    n = int(np.clip(FIRST_WORK / (work.data * work.params), 1, FIRST_BLOCK))
    if n < FIRST_BLOCK:  # much data: not while what comes before this has its memory too
        jax.block_until_ready(state)
    busy = True  # else the first block makes no iteration: cheaper than to look
    while busy:
        begun = time.perf_counter()
        state = iterate(problem, algorithm, state, tol, max_steps, at_most=np.int32(n), placement=placement)
        busy = (host(state.index) >= 0).any()
        yield state
        if jax.process_count() == 1:
            n = int(np.clip(n * BLOCK_SECONDS / (time.perf_counter() - begun), 1, BLOCK_GROWTH * n))
        # Else all processes have to agree on what a block is, and each has its own clock.
