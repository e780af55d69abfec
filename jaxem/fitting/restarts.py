"""Fits from many starts in one compiled program; the best proper one is chosen."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxem.algorithms.algorithm import Algorithm
from jaxem.algorithms.em import EM
from jaxem.contract.model import Model
from jaxem.engine.blocks import Monitor
from jaxem.engine.result import PROPER, Result, Status
from jaxem.fitting.data import check_data, check_start, join_labels
from jaxem.fitting.fit import DEFAULT_MAX_STEPS, DEFAULT_TOL, one_of, run_fit
from jaxem.inputs import arrays
from jaxem.latent.starts import draw_rows
from jaxem.numerics.chunks import map_in_batches
from jaxem.numerics.hardware import hardware
from jaxem.numerics.tracing import is_traced

#: At least this many fits run side by side in the loop, however many components they have.
MIN_LANES = 8

#: Starts are made from at most this many rows, drawn at random in proportion to their weights.
START_ROWS = 20_000


class Restarts(NamedTuple):
    """The fits from many starts.

    Attributes:
        best: the best fit (see `fit_restarts`).
        all: every fit, with leaves [r, ...], in the order of the starts.
    """

    best: Result
    all: Result


def fit_restarts(
    model: Model,
    x: Any,
    key: jax.Array | None,
    *,
    n_restarts: int | None = None,
    start: Any = None,
    weights: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    algorithm: Algorithm = EM(),  # noqa: B008  (immutable)
    tol: float | jax.Array = DEFAULT_TOL,
    max_steps: int | jax.Array = DEFAULT_MAX_STEPS,
    chunk_size: int | None = None,
    screening: Any = None,
    callback: Callable[..., Any] | None = None,
    progress: bool = False,
    checkpoint: Any = None,
) -> Restarts:
    """Fit `model` from many starts side by side, and return all fits and the best.

    The best is the fit with the highest objective among those whose status is proper. A fit with a
    collapsed component (DEGENERATE) may have a higher objective, but it is never the best one while
    a proper fit exists. If there is none, the failed fit with the highest objective is returned,
    with its status. A fit that fails does not change the others.

    Args:
        model: the model.
        x: rows [n, ...], or a tuple of arrays with n rows each.
        key: a random key; it may be None where `start` is params.
        n_restarts: the number of starts; by default 1, or the number of those in `start`.
        start: None uses the model's kinds of random start (`model.start_kinds`) in turn; the name
            of a kind uses this kind alone; params with a leading axis are used as starts. Random
            start r depends only on `key` and r, not on the number of starts.
        weights: as in `fit`.
        labels: as in `fit`.
        algorithm: as in `fit`.
        tol: as in `fit`.
        max_steps: as in `fit`.
        chunk_size: as in `fit`.
        screening: a `Screening`, which goes on with the most promising starts only; None runs every
            start to its end.
        callback: as in `fit`.
        progress: as in `fit`.
        checkpoint: as in `fit`.

    Returns:
        The best fit and all fits.

    Raises:
        ValueError: an argument is not usable.

    Examples:
        >>> import jax, jaxem
        >>> x = jaxem.datasets.old_faithful()
        >>> model = jaxem.gaussian_mixture(3, covariance="tied")
        >>> best, every = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=16)
        >>> round(float(best.log_lik), 1), every.status.shape
        (-1126.3, (16,))
    """
    model, x = join_labels(model, x, labels)
    data = check_data(model, x, weights, tol, max_steps, chunk_size)
    if start is None or isinstance(start, str):
        n_restarts = 1 if n_restarts is None else n_restarts
        arrays.check_number("n_restarts", n_restarts, 1, whole=True)
        if start is not None and start not in model.start_kinds:
            raise ValueError(f"start: expected one of {', '.join(model.start_kinds)}, or params; got {start!r}")
        kinds = tuple(range(len(model.start_kinds))) if start is None else (model.start_kinds.index(start),)
        n_restarts = int(n_restarts)
        starts = {"key": key, "make_starts": StartMaker(kinds, n_restarts)}
    else:
        starts = {"starts": check_start(model, start, data, batch=True)}
        given = arrays.n_rows(start)
        if n_restarts not in (None, given):
            raise ValueError(f"n_restarts: expected {given}, the number of starts in start; got {n_restarts!r}")
        n_restarts = given
    monitor = Monitor.of(callback, progress, checkpoint)
    options = dict(n_lanes=lanes_for(model), monitor=monitor, screening=_ladder(screening))
    fits = run_fit(model, data, algorithm, tol, max_steps, chunk_size, **options, **starts)
    return Restarts(one_of(fits, best_of(fits)), fits)


def subsampled_starts(
    model: Model,
    x: Any,
    key: jax.Array,
    n_rows: int,
    *,
    n_restarts: int = 64,
    n_kept: int = 1,
    weights: ArrayLike | None = None,
    **options: Any,
) -> Any:
    """Starts for fits of many rows: the best optima of fits of few rows.

    The difference between good and bad optima shows on a subsample already, and a fit of all rows
    that starts at a good one is near its end. The rows are drawn at random without replacement.

    Args:
        model: the model.
        x: an array or memmap of rows [n, ...], or a tuple of them.
        key: a random key.
        n_rows: the number of rows to draw.
        n_restarts: the number of starts on these rows.
        n_kept: the largest number of different optima to keep.
        weights: sample weights [n]; None means that all are 1.
        **options: further arguments of `fit_restarts`.

    Returns:
        Params with a leading axis, best optimum first, for `start` of `fit_restarts`. There are
        fewer than `n_kept` where the fits found fewer optima.

    Raises:
        ValueError: an argument is not usable, for instance if `n_rows` is more than n.

    Examples:
        >>> import jax, jaxem
        >>> x = jaxem.datasets.old_faithful()
        >>> model = jaxem.gaussian_mixture(2)
        >>> starts = jaxem.subsampled_starts(model, x, jax.random.key(0), 100, n_restarts=8)
        >>> best, _ = jaxem.fit_restarts(model, x, jax.random.key(0), start=starts)
        >>> round(float(best.log_lik), 1)
        -1130.3
    """
    n = arrays.n_rows(x)
    arrays.check_number("n_rows", n_rows, 1, maximum=n, whole=True)
    arrays.check_number("n_kept", n_kept, 1, whole=True)
    draws = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
    at = np.sort(draws.choice(n, int(n_rows), replace=False))
    x, weights = jax.tree.map(lambda leaf: np.asarray(leaf[at]), (x, weights))
    fits = fit_restarts(model, x, key, n_restarts=n_restarts, weights=weights, **options).all
    proper = np.isin(fits.status, np.asarray(PROPER)) & np.isfinite(fits.objective)
    if proper.any():
        index = np.flatnonzero(proper)
        found = optima(jax.tree.map(lambda leaf: np.asarray(leaf)[index], fits))
        kept = [index[each.restarts[0]] for each in found[: int(n_kept)]]
    else:
        kept = [int(best_of(fits))]
    return jax.tree.map(lambda leaf: leaf[np.asarray(kept)], fits.params)


class Screening(NamedTuple):
    """A rule that stops unpromising fits early, for `fit_restarts`.

    It costs a fraction of running every start to its end. It can lose the best optimum, because the
    fit with the highest objective after a few steps need not be the best in the end. The fits that
    are left out have the status SCREENED and the params that they had reached. With a single number
    of steps it is the emEM of Biernacki, Celeux and Govaert (2003).

    Attributes:
        steps: numbers of steps, in rising order, after which fits are compared.
        keep: the share of the fits under way, in (0, 1], that goes on after each comparison: those
            with the highest objectives.

    Examples:
        >>> import jax, jaxem
        >>> x = jaxem.datasets.old_faithful()
        >>> model = jaxem.gaussian_mixture(3, covariance="tied")
        >>> best, every = jaxem.fit_restarts(
        ...     model, x, jax.random.key(0), n_restarts=64, screening=jaxem.Screening()
        ... )
        >>> round(float(best.log_lik), 1), int((every.status == jaxem.Status.SCREENED).sum()) > 40
        (-1126.3, True)
    """

    steps: tuple[Any, ...] = (5, 15, 40)
    keep: float = 0.25


def _ladder(screening) -> tuple:
    """The pairs (steps, share that goes on) of a screening, checked."""
    if screening is None:
        return ()
    if not isinstance(screening, Screening):
        raise ValueError(f"screening: expected None or a jaxem.Screening; got {screening!r}")
    steps = tuple(screening.steps) if isinstance(screening.steps, Iterable) else (screening.steps,)
    for each in steps:
        arrays.check_number("screening.steps", each, 1, whole=True)
    if not steps or list(steps) != sorted(set(steps)):
        raise ValueError(f"screening.steps: expected numbers that rise; got {screening.steps!r}")
    arrays.check_number("screening.keep", screening.keep, 0, exclusive=True, maximum=1)
    return tuple((int(each), float(screening.keep)) for each in steps)


def lanes_for(model: Any) -> int:
    """How many fits to run side by side. It does not depend on the number of starts."""
    device = hardware()
    k = getattr(model, "n_components", 1)
    return int(np.clip(device.lane_components // k, MIN_LANES, device.max_lanes))


def best_of(fits: Result) -> Any:
    """The index of the proper fit with the highest objective; of any finite fit if none is proper.

    Args:
        fits: many fits, with leaves [r, ...].
    """
    # NumPy is used where the values are known, because jnp would compile several small programs.
    module = jnp if is_traced(fits) else np
    status, objective = module.asarray(fits.status), module.asarray(fits.objective)
    proper = module.isin(status, np.asarray(PROPER))
    finite = module.isfinite(objective)
    score = module.where(finite, objective, -module.inf)
    preferred = module.where(proper & finite, score, -module.inf)
    return module.where((proper & finite).any(), module.argmax(preferred), module.argmax(score))


class StartMaker(NamedTuple):
    """A function that makes random starts inside the compiled program.

    Attributes:
        kinds: the kinds of start to use in turn, as indices into `model.start_kinds`.
        n: the number of starts.
    """

    kinds: tuple[Any, ...]
    n: int

    def __call__(self, model: Any, units: Any, x: Any, weights: jax.Array, key: jax.Array) -> Any:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(self.n))
        x, weights = draw_rows(keys[0], x, weights, START_ROWS)
        z = units.rows(x)
        kinds = jnp.asarray(np.resize(self.kinds, self.n))
        batch = max(1, min(self.n, hardware().batch_rows // arrays.n_rows(z)))
        return map_in_batches(lambda each: model.init(each[0], z, weights, each[1]), (keys, kinds), batch)


class Optimum(NamedTuple):
    """A group of fits that ended at the same objective.

    Attributes:
        objective: the highest objective of the group, total in nats.
        n_restarts: the number of fits in the group.
        restarts: the indices of these fits.
        statuses: how many fits have which status, by name.
    """

    objective: float
    n_restarts: int
    restarts: list
    statuses: dict


def optima(fits: Result, atol: float | None = None) -> list[Optimum]:
    """The different optima that restarts reached, best first, with the fits that reached each.

    A finite fit belongs to an optimum if its objective is at most `atol` below the highest one of
    the group. Fits that are not finite join the last group.

    Args:
        fits: many fits, such as `fit_restarts(...).all`.
        atol: in nats, total. The default is what the stopping rule and the dtype leave open: 1e-3,
            or 100 times the resolution of the dtype relative to the largest objective (1e-5 of it
            in float32) if that is more.

    Examples:
        >>> import jax, jaxem
        >>> x = jaxem.datasets.old_faithful()
        >>> model = jaxem.gaussian_mixture(2)
        >>> fits = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=16).all
        >>> jaxem.optima(fits)[0].n_restarts
        16
    """
    objective = np.asarray(fits.objective, np.float64)
    status = np.asarray(fits.status)
    if atol is None:
        eps = np.finfo(np.asarray(fits.objective).dtype).eps
        atol = max(1e-3, 100 * eps * np.abs(objective[np.isfinite(objective)]).max(initial=0))
    groups = []
    for r in np.argsort(-np.where(np.isfinite(objective), objective, -np.inf)):
        last = groups[-1][0] if groups else np.nan
        if abs(last - objective[r]) <= atol or (groups and not np.isfinite([last, objective[r]]).any()):
            groups[-1][1].append(int(r))
        else:
            groups.append((objective[r], [int(r)]))
    return [
        Optimum(float(value), len(members), sorted(members), _count_statuses(status[members]))
        for value, members in groups
    ]


def _count_statuses(status):
    values, counts = np.unique(status, return_counts=True)
    return {Status(int(v)).name: int(c) for v, c in zip(values, counts, strict=True)}
