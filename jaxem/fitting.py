"""`fit`: from what a person gives to the loop, and back. `solve` is the compiled part, shared with restarts."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxem import inputs
from jaxem.algorithms.em import EM
from jaxem.arguments import as_params, check_batch, check_values, n_starts
from jaxem.chunks import even_chunks
from jaxem.differentiation import attach_derivatives
from jaxem.expectation import lanes_that_fit, make_problem, rows_per_chunk
from jaxem.loop import HONEST, ILL_CONDITIONED, Result, Status, not_started, run

#: Nats per unit of weight (per example). A slow fit gains about this much in each of its last hundreds of steps.
DEFAULT_TOL = 1e-8
DEFAULT_MAX_STEPS = 2000

#: Rows times lanes from which a narrower loop for the last lanes is worth its compilation.
NARROW_WORK = 1 << 17

#: Length of the history where `max_steps` is traced and its value is not known.
TRACED_HISTORY = 1024


def fit(
    model,
    x,
    start,
    *,
    weights=None,
    labels=None,
    algorithm=EM(),  # noqa: B008  (immutable)
    tol=DEFAULT_TOL,
    max_steps=DEFAULT_MAX_STEPS,
    chunk_size=None,
) -> Result:
    """Maximise the objective (log-likelihood + log prior) of `model` on `x`, beginning at `start`.

    x: rows, [n, ...] (or a tuple of arrays with n rows each). start: params. weights: [n], a row of weight w counts
    as w rows. labels: what is known of the hidden values, [n] of int (-1: unknown; an HMM's are [n, t]), or [n, k] of
    bool (the values that each row allows) or of numbers >= 0 (prior responsibilities), see `jaxem.knowledge.labelled`.
    algorithm: `EM()`, or `Gradient(optimizer)`.
    tol: stop when a step gains less than this many nats per unit of weight (per example); gains below what the dtype
    resolves always stop it. max_steps: M-steps at most.
    chunk_size: rows per pass; with it nothing larger than chunk_size x k is ever stored, without it what does not
    change is computed once and kept.

    Returns a `Result` with the params, total log-likelihood in nats and an honest `status`. tol, max_steps, weights,
    start and hyperparameters are traced: new values compile nothing. `fit` itself can be compiled, vmapped and
    differentiated (implicitly, through the fixed point: see `jaxem.differentiation`).

    Raises ValueError for arguments that are unusable, and never because of how the fit went.

    >>> import jax, jaxem
    >>> x = jaxem.datasets.old_faithful()
    >>> model = jaxem.gaussian_mixture(2)
    >>> result = jaxem.fit(model, x, model.init(jax.random.key(0), x))
    >>> result.message
    'CONVERGED: converged: the last step gained less than tol per unit of weight'
    >>> round(float(result.log_lik), 2)
    -1130.26
    """
    model, x = join_labels(model, x, labels)
    data = check_data(model, x, weights, tol, max_steps, chunk_size)
    start = check_start(model, start, data)
    fits = run_fit(model, data, algorithm, tol, max_steps, chunk_size, starts=jax.tree.map(lambda p: p[None], start))
    return one_of(fits, 0)


def join_labels(model, x, labels):
    """(model, x) with labels, if any, joined to the rows."""
    inputs.check_model(model)
    if labels is None:
        return model, x
    try:
        return model.labelled(x, labels)
    except NotImplementedError:
        raise ValueError(f"labels: {type(model).__name__} has no hidden value that rows could be labelled by") from None


def one_of(fits: Result, index) -> Result:
    """One fit of many. Its history is cut on the host where that can be: on the device every length is a program."""
    one = jax.tree.map(lambda leaf: leaf[index], fits._replace(history=()))
    if inputs.is_traced(fits):
        return one._replace(history=fits.history[index])
    return one._replace(history=jax.device_put(np.asarray(fits.history)[int(index)]))


class Data:
    """Checked rows and weights of a fit in `dtype`.

    Rows on the host are moved to the units `origin` (if any) before they are rounded and placed: until `x` is asked
    for, a start may still choose others.
    """

    def __init__(self, model, rows, weights, dtype, traced=False):
        self.model, self.dtype, self.n, self.origin = model, dtype, inputs.n_rows(rows), None
        self.on_host = not traced and all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(rows))
        if not traced and model.additive:  # else a padded row would count
            rows, weights = inputs.pad_rows(rows, weights, inputs.bucket(self.n))
        self.rows, self.weights = rows, jnp.asarray(weights)

    @functools.cached_property
    def x(self):
        rows = self.rows
        if self.origin is not None:
            rows = inputs.map_rows(lambda block: self.model.to_units(self.origin, block), rows, self.dtype)
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, self.dtype), rows)


def check_data(model, x, weights, tol, max_steps, chunk_size) -> Data:
    """The data of a fit and its options, checked as far as their values are known."""
    inputs.check_model(model)
    inputs.check_number("tol", tol, 0)
    inputs.check_number("max_steps", max_steps, 0, whole=True, maximum=2**31 - 1)
    if chunk_size is not None:
        inputs.check_concrete("chunk_size", chunk_size)
        inputs.check_number("chunk_size", chunk_size, 1, whole=True)
    for name, value in (("weights", weights), ("chunk_size", chunk_size)):
        if value is not None and not model.additive:
            raise ValueError(f"{name}: from_steps has no additive statistics; write a Model to use {name}")
    x = inputs.on_host(model.rows(x))
    wide = np.result_type(*(leaf.dtype for leaf in jax.tree.leaves(x)))
    dtype = jax.dtypes.canonicalize_dtype(wide)
    traced = inputs.is_traced(x)
    if traced:
        model.check_shapes(x)
    else:
        model.check_finite(x)
        model.check(x)
    weights = inputs.as_weights(weights, inputs.n_rows(x), dtype)
    model.check_fit(x, weights, dtype)
    data = Data(model, x, weights, dtype, traced or inputs.is_traced(weights))
    if data.on_host and wide != dtype:
        data.origin = model.origin(data.rows)
    return data


def check_start(model, start, data: Data, batch=False):
    """`start` as strongly typed arrays of the data's dtype, in the units of its origin (which it may choose)."""
    if inputs.is_traced(start):
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, data.dtype), start)
    start = as_params(model, start, "start")
    if batch:
        n_starts(start, "start")
    one = jax.tree.map(lambda leaf: leaf[0], start) if batch else start
    if inputs.is_traced(data.rows):
        model.check_shapes(data.rows, one)
    else:
        model.check(data.rows, one)
    (check_batch if batch else check_values)(model, start, "start")
    if data.on_host and data.dtype == np.float32 and model.additive:
        data.origin = model.origin(data.rows, one)
    start = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), start)
    if data.origin is not None:
        start = model.params_to_units(data.origin, start)
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), data.dtype), start)


def run_fit(model, data, algorithm, tol, max_steps, chunk_size, **starts) -> Result:
    """Call `solve` with every number traced, then carry params back to the origin."""
    inputs.check_algorithm(algorithm)
    if "key" in starts:
        inputs.check_key(starts["key"])
    if inputs.is_traced(max_steps):
        length = n_history = TRACED_HISTORY
    else:
        length = int(max_steps)
        n_history = max(128, 1 << max(length - 1, 0).bit_length())
    n_lanes = starts.pop("n_lanes", 1)
    result = solve(
        model if data.origin is None else model.in_units(data.origin),
        data.x,
        data.weights,
        algorithm,
        jnp.asarray(tol, data.dtype),
        jnp.asarray(max_steps, jnp.int32),
        n_history=n_history,
        chunk_size=None if chunk_size is None else even_chunks(len(data.weights), int(chunk_size)),
        n_lanes=n_lanes,
        # Where nothing is traced nobody differentiates, and there is less to compile.
        differentiable=inputs.is_traced((model, data.x, data.weights)),
        **starts,
    )
    if inputs.is_traced(result):
        return result._replace(history=result.history[..., :length])
    # Cut on the host: slicing on the device would compile a program for every max_steps.
    result = result._replace(history=jax.device_put(np.asarray(result.history)[..., :length]))
    return result if data.origin is None else _from_origin(model, data, result)


def from_origin(model, data, params):
    """Params in the units of data.origin, carried back in float64 on the host and rounded there."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    params = model.params_from_units(data.origin, params)
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf).astype(data.dtype)), params)


def _from_origin(model, data, result):
    """A result in the units of data.origin, carried back."""
    params = from_origin(model, data, result.params)
    volume = np.sum(np.asarray(data.weights, np.float64) * model.log_volume(data.origin))

    def rounded(leaf):
        return jnp.asarray(np.asarray(leaf).astype(data.dtype))

    moved = {name: getattr(result, name) for name in ("log_lik", "objective", "history")}
    if volume:
        moved = {name: rounded(np.asarray(value, np.float64) - volume) for name, value in moved.items()}
    settle = jax.vmap(model.settle) if result.status.ndim else model.settle
    return result._replace(params=settle(params), **moved)


@partial(jax.jit, static_argnames=("n_history", "chunk_size", "n_lanes", "make_starts", "differentiable"))
def solve(
    model,
    x,
    weights,
    algorithm,
    tol,
    max_steps,
    starts=None,
    key=None,
    *,
    n_history,
    chunk_size,
    n_lanes,
    make_starts=None,
    differentiable=False,
):
    """Fits from `starts` [r, ...] (data's units) or `make_starts(model, units, x, weights, key)`, in one loop."""
    fixed = jax.lax.stop_gradient((model, x, weights))
    units = jax.lax.stop_gradient(model.units(x, weights))
    frozen_model, frozen_x, frozen_weights = fixed
    frozen_model = frozen_model.in_units(units)
    if make_starts is not None:
        starts = make_starts(frozen_model, units, frozen_x, frozen_weights, key)
    else:
        starts = jax.vmap(lambda p: model.params_to_units(units, p))(jax.lax.stop_gradient(starts))
    starts = jax.vmap(frozen_model.settle)(starts)
    first = jax.tree.map(lambda leaf: leaf[0], starts)
    chunk = chunk_size
    z = jax.eval_shape(frozen_model.to_units, units, frozen_x)
    if model.additive:
        n_lanes = min(n_lanes, lanes_that_fit(model, z, first))
    if chunk is None:
        chunk = rows_per_chunk(model, z, first, n_lanes) if model.additive else inputs.n_rows(x)
    data = frozen_model, frozen_x, frozen_weights
    problem = make_problem(*data, chunk, units, store=chunk_size is None)
    fits = not_started(starts)
    n_fits = fits.status.shape[0]
    history = jnp.full((n_fits, n_history), jnp.nan, fits.objective.dtype)
    n_lanes = min(n_lanes, n_fits)
    may_be_ill = frozen_model.ill_conditioned(first) is not None
    everyone = jnp.ones(n_fits, bool)
    # Every width of the loop is compiled (a second or two), which small data are done in.
    narrows = n_fits > 1 and inputs.n_rows(x) * n_lanes >= NARROW_WORK
    fits, history = run(
        problem, algorithm, fits, history, everyone, n_lanes, tol, max_steps, flag_ill=may_be_ill, narrows=narrows
    )
    if may_be_ill:
        # Lanes that met ill-conditioned params go on from there in the centred form; for most data there are none.
        # Nothing is stored for it: an iteration prepares its own chunks.
        centred = make_problem(*data, _centred_chunk(z, first, n_lanes), units, centred=True, store=False)
        ill = fits.status == ILL_CONDITIONED
        fits, history = run(centred, algorithm, fits, history, ill, n_lanes, tol, max_steps)
    status, degenerate = _verdict(problem, fits, n_lanes)
    params = fits.params
    log_lik = fits.log_lik
    if differentiable and n_fits == 1 and model.additive:
        z = model.to_units(units, x)
        inner = model.in_units(units)
        params, log_lik = attach_derivatives(inner, z, weights, chunk, params, log_lik, model.log_volume(units))
    volume = (frozen_weights * frozen_model.log_volume(units)).sum()
    params = jax.vmap(lambda p: model.settle(model.params_from_units(units, p)))(params)
    return Result(
        params,
        log_lik - volume,
        log_lik - volume + (fits.objective - fits.log_lik),
        status,
        fits.n_steps,
        fits.n_evaluations,
        history - volume,
        degenerate,
    )


def _centred_chunk(z, params, n_lanes):
    """Rows whose centred copies, one per component and lane, stay in cache."""
    per_row = 2 * n_lanes * sum(leaf.size for leaf in jax.tree.leaves(params)) * 4
    return even_chunks(inputs.n_rows(z), max((4 << 20) // per_row, 64))


def _verdict(problem, fits, n_lanes):
    """The loop's statuses, made honest: a collapsed or empty component is named whatever the gain said."""
    model = problem.model

    def judge(params):
        size = problem.expectation(params)[0] if model.judged_by_statistics else problem.n_points
        return model.degenerate(params, size), model.empty(params, size)

    # A pass over the data needs as much memory as in the loop: not more fits at once than there.
    together = n_lanes if model.judged_by_statistics else len(fits.status)
    degenerate, empty = jax.lax.map(judge, fits.params, batch_size=together)

    def any_of(flags):
        return flags.reshape(len(fits.status), -1).any(1)

    evaluated = jnp.isfinite(fits.objective)
    status = jnp.where((fits.status == Status.CONVERGED) & any_of(empty), Status.EMPTY, fits.status)
    return jnp.where(evaluated & any_of(degenerate), Status.DEGENERATE, status).astype(jnp.int32), degenerate


def raise_if_failed(result) -> None:
    """Raise RuntimeError with the status's message unless the fit ended at a finite, proper point (host side)."""
    for status in np.atleast_1d(np.asarray(result.status)):
        if Status(int(status)) not in HONEST:
            raise RuntimeError(f"{Status(int(status)).name}: {Status(int(status)).message}")
