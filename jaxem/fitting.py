"""`fit`: from what a person gives to the loop, and back. `solve` is the compiled part, shared with restarts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from jaxem import inputs
from jaxem.algorithms.em import EM
from jaxem.arguments import as_params, check_batch, check_values, n_starts
from jaxem.blocks import Watch, solve_in_blocks
from jaxem.chunks import even_chunks
from jaxem.devices import on_mesh, placement_of, some_rows
from jaxem.loop import HONEST, Result, Status
from jaxem.programs import Plan, solve

#: Nats per unit of weight (per example). A slow fit gains about this much in each of its last hundreds of steps.
DEFAULT_TOL = 1e-8
DEFAULT_MAX_STEPS = 2000

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
    callback=None,
    progress=False,
    checkpoint=None,
) -> Result:
    """Maximise the objective (log-likelihood + log prior) of `model` on `x`, beginning at `start`.

    x: rows, [n, ...] (or a tuple of arrays with n rows each). start: params. weights: [n], a row of weight w counts
    as w rows. labels: what is known of the hidden values, [n] of int (-1: unknown; an HMM's are [n, t]), or [n, k] of
    bool (the values that each row allows) or of numbers >= 0 (prior responsibilities), see `jaxem.knowledge.labelled`.
    algorithm: `EM()`, `SQUAREM()`, `Anderson()`, or `Gradient(optimizer)`.
    tol: stop when a step gains less than this many nats per unit of weight (per example); gains below what the dtype
    resolves always stop it. max_steps: M-steps at most.
    chunk_size: rows per pass; with it nothing larger than chunk_size x k is ever stored, without it what does not
    change is computed once and kept.
    callback, progress, checkpoint: see `jaxem.blocks`; the fit has the same bits with and without them.

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
    starts = jax.tree.map(lambda leaf: leaf[None], start)
    watch = Watch.of(callback, progress, checkpoint)
    return run_fit(model, data, algorithm, tol, max_steps, chunk_size, starts=starts, alone=True, watch=watch)


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
    """One fit of many, taken on the host where that can be: on the device every shape is one more program."""
    if inputs.is_traced((fits, index)):
        return jax.tree.map(lambda leaf: leaf[index], fits)
    return jax.device_put(jax.tree.map(lambda leaf: np.asarray(leaf)[int(index)], fits))


class Data:
    """Checked rows and weights of a fit in `dtype`.

    Rows on the host are moved to the units `origin` (if any) before they are rounded and placed: until `x` is asked
    for, a start may still choose others.
    """

    def __init__(self, model, rows, weights, dtype, traced=False):
        self.model, self.dtype, self.n, self.origin, self.placement = model, dtype, inputs.n_rows(rows), None, None
        self.on_host = not traced and all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(rows))
        if not traced and model.additive:  # else a padded row would count
            rows, weights = inputs.pad_rows(rows, weights, inputs.bucket(self.n))
        self.rows, self.weights = rows, inputs.on_device(weights, dtype)

    @functools.cached_property
    def x(self):
        rows = self.rows
        if self.origin is not None:
            rows = inputs.map_rows(lambda block: self.model.to_units(self.origin, block), rows, self.dtype)
        return jax.tree.map(lambda leaf: inputs.on_device(leaf, self.dtype), rows)


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
    if (placement := placement_of(x)) and model.additive:
        return spread_data(model, x, weights, placement)
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


def spread_data(model, x, weights, placement) -> Data:
    """The data of a fit whose rows lie on many devices and stay there. Checks that need rows see some of them."""
    dtype = jax.tree.leaves(x)[0].dtype
    x = on_mesh(x, placement, placement.of_rows)
    if not hasattr(weights, "sharding"):
        given = inputs.as_weights(weights, inputs.n_rows(x), dtype)
        weights = jax.device_put(given, NamedSharding(placement.mesh, placement.of_rows))
    weights = on_mesh(weights, placement, placement.of_rows)
    finite, positive = _sound(x, weights)
    if not positive:
        raise ValueError("weights: expected finite numbers of at least 0, and not all 0")
    sample = some_rows(x, weights, SPREAD_SAMPLE, placement)
    if not finite and not _takes_holes(model, sample):
        raise ValueError("x: some rows hold NaN or infinite values")
    model.check(sample)
    model.check_fit(sample, np.ones(inputs.n_rows(sample), dtype), dtype)
    data = Data(model, x, weights, dtype, traced=True)
    data.placement = placement
    return data


def _takes_holes(model, rows) -> bool:
    """Whether NaN is data to the model."""
    try:
        model.check_finite(jax.tree.map(lambda leaf: np.full_like(leaf[:1], np.nan), rows))
    except ValueError:
        return False
    return True


#: Rows, of those that are spread over devices, that the checks of a model look at.
SPREAD_SAMPLE = 1 << 14


@jax.jit
def _sound(x, weights):
    """Whether all rows in use are finite, and whether the weights are weights."""
    finite = [
        jnp.isfinite(jnp.where(weights.reshape(-1, *[1] * (leaf.ndim - 1)) > 0, leaf, 0)).all()
        for leaf in jax.tree.leaves(x)
    ]
    return jnp.stack(finite).all(), jnp.isfinite(weights).all() & (weights >= 0).all() & (weights.sum() > 0)


def check_start(model, start, data: Data, batch=False):
    """`start` as arrays of the data's dtype, in the units of its origin (which it may choose)."""
    if inputs.is_traced(start):
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, data.dtype), start)
    start = as_params(model, start, "start")
    if batch:
        n_starts(start, "start")
    one = jax.tree.map(lambda leaf: leaf[0], start) if batch else start
    if inputs.is_traced(data.rows) or data.placement is not None:
        model.check_shapes(data.rows, one)
    else:
        model.check(data.rows, one)
    (check_batch if batch else check_values)(model, start, "start")
    if data.on_host and data.dtype == np.float32 and model.additive:
        data.origin = model.origin(data.rows, one)
    start = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), start)
    if data.origin is not None:
        start = model.params_to_units(data.origin, start)
    return jax.tree.map(lambda leaf: np.asarray(leaf).astype(data.dtype), start)


def run_fit(
    model,
    data,
    algorithm,
    tol,
    max_steps,
    chunk_size,
    *,
    starts=None,
    key=None,
    make_starts=None,
    n_lanes=1,
    watch=Watch(),  # noqa: B008  (immutable)
    screening=(),
    alone=False,
) -> Result:
    """Fits from `starts`, or from those that `make_starts` makes with `key`: every number traced, carried back.

    alone: there is one start, and the result has no axis for it.
    """
    inputs.check_algorithm(algorithm)
    if algorithm.needs_statistics and not model.additive:
        name = type(algorithm).__name__
        raise ValueError(f"algorithm: from_steps has no additive statistics; write a Model to use {name}")
    if make_starts is not None:
        inputs.check_key(key)
    if inputs.is_traced(max_steps):
        length = n_history = TRACED_HISTORY
    else:
        length = int(max_steps)
        n_history = max(128, 1 << max(length - 1, 0).bit_length())
    if chunk_size is not None:
        here = len(data.weights) // (1 if data.placement is None else data.placement.mesh.shape[data.placement.rows])
        chunk_size = even_chunks(here, int(chunk_size))
    plan = Plan(n_history, chunk_size, n_lanes, make_starts, data.placement, screening, alone)
    inner = model if data.origin is None else model.in_units(data.origin)
    limits = inputs.as_number(tol, data.dtype), inputs.as_number(max_steps, np.int32)
    call = inner, data.x, data.weights, algorithm, *limits, starts, key, plan
    if inputs.is_traced(call[:-1]):
        watch.refuse_trace()
        # Where neither model nor data are traced nobody differentiates, and there is less to compile.
        result = solve(*call, differentiable=inputs.is_traced((inner, data.x, data.weights)))
        return result._replace(history=result.history[..., :length])
    if data.origin is not None and (watch.callback or watch.progress):
        watch = watch._replace(volume=_volume_of_origin(model, data))
    result = solve_in_blocks(*call, watch=watch)
    # Cut on the host: slicing on the device would compile a program for every max_steps.
    result = result._replace(history=jax.device_put(np.asarray(result.history)[..., :length]))
    if data.placement is not None and alone:
        result = jax.device_put(jax.tree.map(np.asarray, result))  # off the mesh
    elif data.placement is not None:
        # Groups of devices that do restarts of their own have the same number of them each.
        n_fits = plan.make_starts.n if plan.make_starts is not None else inputs.n_rows(starts)
        result = jax.tree.map(lambda leaf: np.asarray(leaf)[:n_fits], result)
    return result if data.origin is None else _from_origin(model, data, result)


def from_origin(model, data, params):
    """Params in the units of data.origin, carried back in float64 on the host and rounded there."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    params = model.params_from_units(data.origin, params)
    return jax.tree.map(lambda leaf: inputs.on_device(np.asarray(leaf), data.dtype), params)


def _volume_of_origin(model, data):
    return np.sum(np.asarray(data.weights, np.float64) * model.log_volume(data.origin))


def _from_origin(model, data, result):
    """A result in the units of data.origin, carried back."""
    params = from_origin(model, data, result.params)
    volume = _volume_of_origin(model, data)

    def rounded(leaf):
        return inputs.on_device(np.asarray(leaf), data.dtype)

    moved = {name: getattr(result, name) for name in ("log_lik", "objective", "history")}
    if volume:
        moved = {name: rounded(np.asarray(value, np.float64) - volume) for name, value in moved.items()}
    settle = jax.vmap(model.settle) if result.status.ndim else model.settle
    return result._replace(params=settle(params), **moved)


def raise_if_failed(result) -> None:
    """Raise RuntimeError with the status's message unless the fit ended at a finite, proper point (host side)."""
    for status in np.atleast_1d(np.asarray(result.status)):
        if Status(int(status)) not in HONEST:
            raise RuntimeError(f"{Status(int(status)).name}: {Status(int(status)).message}")
