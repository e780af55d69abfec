"""The ten laws, each as a few small checks of a `Case`. No check knows which model it checks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.contract.constraints import constrain, unconstrain, violations
from jaxem.engine.expectation import make_problem
from jaxem.engine.result import Status
from jaxem.fitting.restarts import fit_restarts
from jaxem.inference.bound import elbo, kl_gap
from jaxem.testing.case import (
    N_STARTS,
    N_STEPS,
    Case,
    NotChecked,
    Violation,
    compiled,
    expect,
    normal_like,
    on_host,
    stack,
    take,
)
from jaxem.testing.compilations import count_compilations
from jaxem.testing.density import check_normalised

LAWS = {
    1: "additivity",
    2: "weights",
    3: "M-step",
    4: "Fisher's identity",
    5: "monotone objective and bound",
    6: "constraints",
    7: "equivariance",
    8: "structure",
    9: "no recompilation",
    10: "log_prob",
}


class Check(NamedTuple):
    """A check of a law.

    Attributes:
        law: the number of the law.
        what: what is checked, for the report.
        function: the check; it raises `Violation` or `NotChecked`.
        slow: whether it fits the model, or draws from it.
    """

    law: int
    what: str
    function: Callable[[Case], Any]
    slow: bool


CHECKS: list[Check] = []


def check(law: int, what: str, slow: bool = False) -> Any:
    """Decorator that adds a function to CHECKS, with the fields of `Check`."""

    def register(function):
        CHECKS.append(Check(law, what, function, slow))
        return function

    return register


# --- 1 and 2: statistics add up and are linear in the weights -------------------------------------


@check(1, "the statistics of two halves add up to those of the whole")
def _halves(case):
    case.needs_statistics()
    half = case.n // 2
    parts = [case.expectation(case.points[0], take(case.z, rows), case.ones[rows]) for rows in np.s_[:half, half:]]
    summed = jax.tree.map(np.add, parts[0].stats, parts[1].stats)
    case.same_sums("stats(x1) + stats(x2)", summed, case.at_start.stats)


@check(1, "prepared and centred data in chunks give what raw data give whole")
def _chunks(case):
    case.needs_statistics()
    chunk = case.n // 3 + 1

    @compiled
    def evaluate(params, z, weights):
        forms = [make_problem(case.inner, z, weights, chunk, centred=c).chunked() for c in (False, True)]
        sums = [form.expectation(params) for form in forms]
        return [(log_lik, case.inner.maximize(stats, params)) for stats, log_lik in sums]

    whole = case.at_start.log_prob.sum()
    for form, (log_lik, params) in zip(
        ("prepared", "centred"), evaluate(case.points[0], case.z, case.ones), strict=True
    ):
        case.same(f"log-likelihood of {form} chunks", log_lik, whole, case.tol.sums, case.n)
        case.same_params(f"maximize(stats of {form} chunks)", params, case.moved)


@check(1, "statistics of rows spread over devices are the same")
def _shards(case):
    case.needs_statistics()
    devices = jax.devices()
    if len(devices) == 1 or case.n % len(devices):
        raise NotChecked(f"{len(devices)} device(s) for {case.n} rows")
    rows = jax.NamedSharding(jax.sharding.Mesh(devices, ("rows",)), jax.P("rows"))
    sharded = jax.device_put((case.z, case.ones), jax.tree.map(lambda _: rows, (case.z, case.ones)))
    case.same_sums("stats(sharded x)", case.expectation(case.points[0], *sharded).stats, case.at_start.stats)


@check(2, "statistics are linear in the weights")
def _linear(case):
    case.needs_statistics()
    a, b = case.weights
    of_a, of_b, of_sum = (case.expectation(case.points[0], case.z, w).stats for w in (a, b, 2 * a + 3 * b))
    case.same_sums("stats(2 a + 3 b)", of_sum, jax.tree.map(lambda u, v: 2 * u + 3 * v, of_a, of_b))


@check(2, "an integer weight repeats a row, weight 0 leaves it out")
def _repeated(case):
    case.needs_statistics()
    counts = np.resize([2, 0, 3, 0, 0, 1], case.n // 6 * 6) if case.n >= 6 else np.array([2, 0])
    counts = np.concatenate([counts, np.ones(case.n - len(counts), int)])
    repeated = take(case.z, np.repeat(np.arange(case.n), counts))
    weighted = case.expectation(case.points[0], case.z, counts.astype(case.dtype))
    case.same_sums("stats(weights)", weighted.stats, case.expectation(case.points[0], repeated, case.ones).stats)


@check(2, "no weights are weights of 1")
def _unweighted(case):
    case.needs_statistics()
    stats = compiled(case.inner.sufficient_statistics)(case.at_start.resp, case.z)
    case.same_sums("stats(weights=None)", stats, case.at_start.stats)


# --- 3 and 4: what the M-step maximises, and what links it to the log-likelihood ------------------


@check(3, "the gradient of Q is 0 at maximize(stats)")
def _stationary(case):
    case.needs_statistics()
    if not case.exact_m_step:
        raise NotChecked("exact_m_step=False")
    gradient = case.q_and_gradient(case.unconstrain(case.moved), case.at_start.stats)[1]
    case.same("dQ/du at maximize(stats)", gradient, jax.tree.map(np.zeros_like, gradient), case.tol.gradient, 1)


@check(3, "no params near maximize(stats) have a larger Q")
def _nothing_better(case):
    case.needs_statistics()
    stats, free = case.at_start.stats, case.unconstrain(case.moved)
    best = case.q_and_gradient(free, stats)[0]
    allowed = case.tol.sums * (1 + abs(best))
    incumbent = case.q_and_gradient(case.unconstrain(case.points[0]), stats)[0]
    case.within("Q at the old params minus Q at maximize(stats)", incumbent - best, allowed)
    for size in np.repeat([0.01, 0.1, 1.0], 4 if case.exact_m_step else 0).astype(case.dtype):
        steps = jax.tree.map(np.multiply, normal_like(case.rng, free), case.movable)
        near = jax.tree.map(lambda v, step, size=size: v + size * step, free, steps)
        case.within("Q near maximize(stats) minus Q there", case.q_and_gradient(near, stats)[0] - best, allowed)


@check(3, "Q is linear in the statistics")
def _q_linear(case):
    case.needs_statistics()
    q = compiled(lambda params, stats: case.inner.expected_log_joint(params, stats))
    parts = [case.expectation(case.points[0], case.z, w).stats for w in case.weights]
    both = jax.tree.map(lambda u, v: 2 * u + 3 * v, *parts)
    separate = 2 * q(case.moved, parts[0]) + 3 * q(case.moved, parts[1])
    case.same("Q(2 S1 + 3 S2)", q(case.moved, both), separate, case.tol.sums, case.n)


@check(3, "m_step is maximize(sufficient_statistics) in the data's units")
def _m_step(case):
    case.needs_statistics()
    if not case.exact_m_step:
        raise NotChecked("exact_m_step=False: the result of the M-step depends on the params before it")
    params = case.params_in_units(case.units, case.model.m_step(case.at_start.resp, case.x))
    case.same_params("m_step(resp, x)", params, case.moved)


@check(4, "the gradient of the log-likelihood is that of Q at the same params")
def _fisher(case):
    case.needs_statistics()
    free, weights = case.unconstrain(case.points[1]), case.weights[0]
    stats = case.expectation(case.points[1], case.z, weights).stats
    of_q = case.q_and_gradient(free, stats)[1]
    of_log_lik = case.objective_gradient(free, case.z, weights)
    case.same("d log_lik/du against dQ/du", of_log_lik, of_q, case.tol.gradient, 1)


# --- 5: the objective never falls, and the bound --------------------------------------------------


def _em_step(case, params):
    """The objective at params, and the params after one EM step, from the contract alone."""
    now = case.expectation(params, case.z, case.ones)
    new = case.maximize(now.stats, params) if case.model.additive else on_host(case.model.m_step(now.resp, case.z))
    return now.log_prob.sum(dtype=np.float64) + float(case.inner.log_prior(params)), new


def _paths(case):
    """The objective [N_STARTS, N_STEPS + 1] along plain EM from every start."""
    if case.paths is None:
        case.paths = np.empty((N_STARTS, N_STEPS + 1))
        for r, params in enumerate(case.points):
            for t in range(N_STEPS + 1):
                case.paths[r, t], params = _em_step(case, params)
    return case.paths


@check(5, f"{N_STEPS} EM steps never lower the objective")
def _monotone(case):
    objective = _paths(case)
    if not np.isfinite(objective).all():
        raise Violation(f"objective is not finite after {int(np.argmin(np.isfinite(objective).all(0)))} steps")
    falls = objective[:, :-1] - objective[:, 1:]
    size = np.maximum(np.abs(objective).max(), case.n)
    where = np.unravel_index(np.argmax(falls), falls.shape)
    case.within(f"objective falls in step {where[1] + 1} of start {where[0]}", falls.max(), case.tol.objective * size)


@check(5, "log-likelihood = ELBO(q) + KL(q), for the posterior and for another q")
def _bound(case):
    case.needs_statistics()
    model, params = case.inner, case.points[0]

    parts = compiled(lambda resp: (elbo(model, params, resp, case.z), kl_gap(model, params, resp, case.z)))
    log_lik = case.at_start.log_prob.sum()
    scale = max(abs(float(log_lik)), case.n)
    bound, gap = parts(case.at_start.resp)
    case.same("ELBO at the E-step's resp", bound, log_lik, case.tol.sums / 10, scale)
    case.within("KL at the E-step's resp", abs(gap), case.tol.sums / 10 * scale)
    bound, gap = parts(case.expectation(case.points[1], case.z, case.ones).resp)
    case.same("ELBO + KL at another resp", bound + gap, log_lik, case.tol.sums / 10, scale)
    case.within("-KL at another resp", -gap, 0.0 + case.tol.sums / 10 * scale)


# --- 6: constraints -------------------------------------------------------------------------------


@check(6, "params survive the way to unconstrained coordinates and back")
def _round_trip(case):
    case.needs_statistics()
    for point in case.points:
        back = case.constrain(case.unconstrain(point))
        case.same("constrain(unconstrain(params))", back, point, case.tol.jit * 10)


@check(6, "any unconstrained vector is valid params with a finite log_prob")
def _any_vector(case):
    case.needs_statistics()
    free = case.unconstrain(case.points[0])
    for _ in range(N_STARTS):
        # Coordinates that a fit does not move keep their values.
        moved = jax.tree.map(
            lambda at, new, may: np.where(may, new, at), free, normal_like(case.rng, free), case.movable
        )
        params = case.constrain(moved)
        for path, problem in violations(case.inner, params):
            raise Violation(f"constrain(random vector){path}: {problem}")
        if not np.isfinite(case.expectation(params, case.z, case.ones).log_prob).all():
            raise Violation("log_prob at constrain(random vector) is not finite")


# --- 7: equivariance ------------------------------------------------------------------------------


@check(7, "the order of rows does not matter")
def _rows(case):
    order = case.rng.permutation(case.n)
    shuffled = case.expectation(case.points[0], take(case.z, order), case.ones)
    case.same("log_prob of shuffled rows", shuffled.log_prob, case.at_start.log_prob[order], case.tol.sums, 1)
    case.same_sums("stats of shuffled rows", shuffled.stats, case.at_start.stats)


@check(7, "the numbering of components does not matter")
def _components(case):
    case.needs_statistics()
    posterior = np.asarray(case.model.posterior(case.points[0], case.z))
    order = np.roll(np.arange(posterior.shape[-1]), 1)
    permuted = on_host(case.model.permute(case.points[0], order))
    after = case.expectation(permuted, case.z, case.ones)
    case.same("log_prob of permuted components", after.log_prob, case.at_start.log_prob, case.tol.sums, 1)
    case.same("posterior", case.model.posterior(permuted, case.z), posterior[..., order], case.tol.sums, 1)
    case.same_params("M-step", case.maximize(after.stats, permuted), case.model.permute(case.moved, order))


@check(7, "the model's standard units change nothing but the units")
def _units(case):
    if case.units.is_identity:
        raise NotChecked("the model has no standard units")
    carry_back = compiled(lambda units, params: (units.log_volume(), units.back(params)))
    volume, back = carry_back(case.units, case.points[0])
    moved = np.asarray(case.model.log_prob(case.starts[0], case.x)) + volume
    case.same("log_prob + log_volume", moved, case.at_start.log_prob, case.tol.steps, 1)
    case.same("units.back(units.params(params))", back, case.starts[0], case.tol.steps)


@check(7, "an affine change of the data changes params and log_prob accordingly")
def _affine(case):
    if case.affine is None:
        raise NotChecked("no affine= given")
    changed, log_volume = case.affine(case.x)
    resp = case.model.e_step(case.starts[0], case.x).resp
    log_prob = case.model.log_prob(case.model.m_step(resp, case.x), case.x)
    moved = case.model.log_prob(case.model.m_step(resp, changed), changed) + log_volume
    case.same("log_prob after an M-step on changed data", moved, log_prob, case.tol.steps, 1)


# --- 8 and 9: structure, dtype, and one program for all numbers -----------------------------------


@check(8, "trees and shapes are kept, log_prob is [n]")
def _shapes(case):
    if case.at_start.log_prob.shape != (case.n,):
        raise Violation(f"log_prob: has shape {case.at_start.log_prob.shape}, not ({case.n},)")
    resp = case.model.e_step(case.starts[0], case.x).resp
    new = case.model.m_step(resp, case.x)
    for what, params in (("m_step(resp, x)", new), ("maximize(stats)", case.moved if case.model.additive else new)):
        case.same(what, _blank(params), _blank(case.starts[0]), 0)


def _blank(tree):
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape), tree)


@check(8, "float32 data give float32, float64 data float64, whatever jax's default")
def _dtypes(case):
    with jax.enable_x64(True):
        for dtype in (jnp.float32, jnp.float64):
            x = jax.tree.map(lambda leaf, dtype=dtype: jax.ShapeDtypeStruct(leaf.shape, dtype), case.x)
            for name, tree in jax.eval_shape(lambda x: _everything(case.model, case.key, x), x).items():
                _require_dtype(name, tree, dtype)


def _everything(model, key, x):
    params = model.init(key, x)
    resp, log_prob = model.e_step(params, x)
    found = {"init": params, "e_step": (resp, log_prob), "m_step": model.m_step(resp, x)}
    if model.additive:
        stats = model.sufficient_statistics(resp, x)
        found |= {"sufficient_statistics": stats, "maximize": model.maximize(stats, params)}
        found["constrain"] = constrain(model, unconstrain(model, params))
    return found


def _require_dtype(name, tree, dtype):
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype != dtype:
            raise Violation(f"{name}{jax.tree_util.keystr(path)}: is {leaf.dtype} for {jnp.dtype(dtype)} data")


@check(8, "called from Python and inside jit, the steps give the same")
def _jit(case):
    resp, log_prob = case.model.e_step(case.points[0], case.z)
    case.same("e_step.log_prob", log_prob, case.at_start.log_prob, case.tol.jit, 1)
    case.same("e_step.resp", resp, case.at_start.resp, case.tol.jit * 10, 1)
    if case.model.additive:
        params = case.inner.maximize(case.at_start.stats, case.points[0])
        case.same("maximize(stats)", params, case.moved, case.tol.jit * 10, 1)


@check(8, "vmap over starts equals a loop over them")
def _vmap(case):
    together = compiled(jax.vmap(lambda p: expect(case.model, p, case.z, case.ones)))(stack(case.points))
    for r, point in enumerate(case.points):
        alone = case.expectation(point, case.z, case.ones)
        case.same(f"log_prob of start {r}", together.log_prob[r], alone.log_prob, case.tol.sums, 1)
        case.same_sums(f"stats of start {r}", take(together.stats, r), alone.stats)


def _restarts(case, model, starts, weights, tol, max_steps):
    weights = weights if model.additive else None
    return fit_restarts(model, case.x, case.key, start=starts, weights=weights, tol=tol, max_steps=max_steps).all


@check(8, "every restart of fit_restarts follows plain EM from its start", slow=True)
def _lanes(case):
    n_steps = 5
    fits = _restarts(case, case.model, stack(case.starts), case.ones, 0.0, n_steps)
    volume = np.broadcast_to(case.units.log_volume(), case.n).sum()
    paths = _paths(case) - volume
    for r in range(N_STARTS):
        status = Status(int(fits.status[r]))
        if status == Status.NONFINITE:
            raise Violation(f"restart {r} ended as {status.name}")
        taken = int(fits.n_steps[r])
        history = np.asarray(fits.history)[r, :taken]
        case.same(f"history of restart {r}", history, paths[r, 1 : taken + 1], case.tol.steps / 10, case.n)


@check(9, "a new tol, max_steps, start, weights or hyperparameter compiles nothing", slow=True)
def _compilations(case):
    _restarts(case, case.model, stack(case.starts), case.ones, 0.0, 5)
    other = jax.tree.map(lambda leaf: leaf * (1 - 2**-6) if isinstance(leaf, float) else leaf, case.model)
    starts = stack(case.starts[::-1])
    with count_compilations() as programs:
        _restarts(case, other, starts, case.weights[0], 1e-3, 7)
    if programs:
        raise Violation(f"{len(programs)} programs were compiled for new numbers: {', '.join(programs)}")


# --- 10: log_prob is a log density ----------------------------------------------------------------


@check(10, "log_prob equals the reference")
def _reference(case):
    if case.reference is None:
        raise NotChecked("no reference= given")
    for r, start in enumerate(case.starts):
        want = np.asarray(case.reference(start, case.x))
        case.same(f"log_prob at start {r}", case.model.log_prob(start, case.x), want, case.tol.steps / 10, 1)


@check(10, "densities add up to 1 (over draws of `sample`)", slow=True)
def _normalised(case):
    check_normalised(case)
