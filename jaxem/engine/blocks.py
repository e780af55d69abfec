"""Fits in blocks of iterations, between which the host is in control.

After every block the host can call a callback, show a progress bar and write a checkpoint, if the
caller of `fit`, `fit_restarts` or `fit_stream` asks for these. None of them changes a bit of the
result, because a run in pieces gives the same bits as a run in one piece. Ctrl-C ends a fit at the
last finished block; fits that had not ended have the status INTERRUPTED.
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

#: The seconds that a block should take: short enough for Ctrl-C and a progress bar, and thousands
#: of times the cost of a call.
BLOCK_SECONDS = 0.2

#: The first block has at most FIRST_BLOCK iterations, and fewer where an iteration is much work:
#: their product with the numbers in the data and the numbers in the params is at most FIRST_WORK. A
#: block is at most BLOCK_GROWTH times as long as the one before.
FIRST_BLOCK, FIRST_WORK, BLOCK_GROWTH = 128, 1 << 28, 8


class Progress(NamedTuple):
    """How far a fit has come, as a callback gets it.

    Attributes:
        n_iterations: the number of iterations so far.
        n_finished: how many fits have ended.
        n_fits: the number of all fits.
        objective: the highest objective so far, total in nats; -inf before there is one.
        seconds: the seconds since the call.
        occupancy: the share of the lanes that were busy.
    """

    n_iterations: int
    n_finished: int
    n_fits: int
    objective: float
    seconds: float
    occupancy: float


class Monitor(NamedTuple):
    """The options of a fit for what happens between blocks.

    Attributes:
        callback: a function of a `Progress`, or None.
        progress: whether to show a progress bar.
        checkpoint: a `Checkpoint`, or None.
        volume: the log-volume of the frame, in nats, which is subtracted from reported objectives.
    """

    callback: Any = None
    progress: bool = False
    checkpoint: Any = None
    volume: float = 0.0

    @classmethod
    def of(cls, callback: Any, progress: Any, checkpoint: Any) -> "Monitor":
        """The monitor for the arguments of `fit`; ValueError where one of them is not usable."""
        if callback is not None and not callable(callback):
            raise ValueError(f"callback: expected a function of a Progress; got {callback!r}")
        if not isinstance(progress, (bool, np.bool_)):
            raise ValueError(f"progress: expected True or False; got {progress!r}")
        return cls(callback, bool(progress), None if checkpoint is None else Checkpoint(checkpoint))

    def refuse_trace(self) -> None:
        """Raise ValueError if anything is asked for, because the fit is traced."""
        for name in ("callback", "progress", "checkpoint"):
            if getattr(self, name):
                raise ValueError(f"{name}: works on the host; this fit is part of a compiled program")


class StoppedByCallbackError(Exception):
    """A callback returned True, which ends the fit."""


class MonitoredFit:
    """The callback, progress bar and checkpoint of one running fit.

    Args:
        monitor: the options.
        what: the model, data, start and options of the fit, which identify its checkpoint.
    """

    def __init__(self, monitor: Monitor, what: Any) -> None:
        self.monitor, self.started = monitor, time.perf_counter()
        self.checkpoint = None if monitor.checkpoint is None else monitor.checkpoint.of_fit(what)
        self.bar = _bar() if monitor.progress else None

    @property
    def seconds(self) -> float:
        """The seconds since the fit began."""
        return time.perf_counter() - self.started

    def resumed(self, kept: Any) -> Any:
        """The state in this fit's checkpoint; without one `kept`, the state at the start."""
        return kept if self.checkpoint is None else self.checkpoint.resumed(kept)

    def keep(self, kept: Any, now: bool = True) -> None:
        """Write the state to the checkpoint, if there is one (see `Checkpoint.keep`)."""
        if self.checkpoint is not None:
            self.checkpoint.keep(kept, now)

    def after_block(self, kept: Any, progress: Any, last: bool = False) -> None:
        """Write the checkpoint, update the progress bar, and call the callback.

        Args:
            kept: the state of the fit.
            progress: a function without arguments that returns the `Progress`.
            last: whether the fit has ended.

        Raises:
            StoppedByCallbackError: the callback returned True before the last block.
        """
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
        """Remove the progress bar."""
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
    """All fits of a plan, from the host: initialise, iterate block by block, and finish.

    The fits pass the stages that are described in `stages`. The centred form is compiled only if
    fits need it.

    Args:
        model: the model.
        x: the rows, [n, ...].
        weights: the weights of the rows, [n].
        algorithm: the algorithm.
        tol: the gain per unit of weight, in nats, below which a fit has converged.
        max_steps: the largest number of steps of a fit.
        starts: params with a leading axis, or None where the plan makes the starts.
        key: the key with which the plan makes starts, or None.
        plan: the plan of the fits.
        monitor: callback, progress bar and checkpoint.

    Returns:
        The result in the data's units; its leaves have a leading axis unless the plan says `alone`.
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
            # Both are set in one statement, so that they belong together if an interrupt comes.
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
    if n < FIRST_BLOCK:  # With much data, the memory of what ran before is set free first.
        jax.block_until_ready(state)
    busy = True  # If no lane is busy, a block without iterations costs less than to find this out.
    while busy:
        begun = time.perf_counter()
        state = iterate(problem, algorithm, state, tol, max_steps, at_most=np.int32(n), placement=placement)
        busy = (host(state.index) >= 0).any()
        yield state
        if jax.process_count() == 1:
            n = int(np.clip(n * BLOCK_SECONDS / (time.perf_counter() - begun), 1, BLOCK_GROWTH * n))
        # Several processes have to agree on the length of a block, but their clocks differ, so that
        # it stays as it is.
