"""The case that the laws are checked on: a model, data in standard units, starts and tolerances."""

import dataclasses
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.contract.constraints import constrain, movable, unconstrain
from jaxem.inputs import arrays


class Violation(AssertionError):  # noqa: N818
    """A law does not hold; the message says where, and by how much."""


class NotChecked(Exception):  # noqa: N818  (It is not an error, but a reason.)
    """A law does not apply to this model; the message says why."""


class Tolerances(NamedTuple):
    """The largest relative differences that rounding explains in one dtype.

    They were measured, and have a margin of about ten.

    Attributes:
        sums: of sums in one pass over the data, in another order.
        steps: of params after a few EM steps, computed in another order.
        gradient: of gradients for each unit of weight, in unconstrained coordinates.
        objective: of a fall of the objective, relative to the objective.
        jit: of the same operations, fused or not.
    """

    sums: float
    steps: float
    gradient: float
    objective: float
    jit: float


TOLERANCES = {
    4: Tolerances(sums=5e-5, steps=1e-3, gradient=2e-4, objective=1e-6, jit=1e-4),
    8: Tolerances(sums=1e-12, steps=1e-10, gradient=1e-9, objective=1e-12, jit=1e-12),
}

#: The number of starts from which the laws are checked.
N_STARTS = 3
#: The number of EM steps over which the objective must not fall.
N_STEPS = 30
#: Params are O(1) in standard units; differences are relative to this number at least, since a leaf
#: far below it is rounding.
PARAMS_SCALE = 1e-2


class Expectation(NamedTuple):
    """The result of an E-step, with the statistics."""

    resp: Any
    log_prob: Any
    stats: Any


@dataclasses.dataclass
class Case:
    """What the checks share; each part is computed, and each program compiled, once.

    The property `z` is x in the standard units of the model.

    Attributes:
        model: the model.
        key: a random key.
        x: the data, of which an even number of rows is kept.
        affine: as in `check_model`.
        reference: as in `check_model`.
        exact_m_step: as in `check_model`.
        paths: the objective along plain EM, once it is computed.
        margin: the largest difference in the current check, as a share of what is allowed.
    """

    model: Any
    key: Any
    x: Any
    affine: Any = None
    reference: Any = None
    exact_m_step: bool = True
    paths: Any = None
    margin: float = 0.0

    def __post_init__(self) -> None:
        rows = self.model.rows(self.x)
        even = arrays.n_rows(rows) // 2 * 2
        if even < 4:
            raise ValueError(f"x: expected at least 4 rows to state the laws on; got {arrays.n_rows(rows)}")
        self.model.check(rows)
        self.x = on_host(jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[:even]), rows))

    @cached_property
    def n(self) -> int:
        """The number of rows."""
        return arrays.n_rows(self.x)

    @cached_property
    def dtype(self) -> Any:
        return jnp.result_type(*jax.tree.leaves(self.x))

    @cached_property
    def tol(self) -> Tolerances:
        """The tolerances for the dtype of x."""
        return TOLERANCES[self.dtype.itemsize]

    @cached_property
    def units(self) -> Any:
        return compiled(self.model.units)(self.x)

    @cached_property
    def z(self) -> Any:
        return compiled(lambda units, x: units.rows(x))(self.units, self.x)

    @cached_property
    def inner(self) -> Any:
        """The model with its hyperparameters in standard units."""
        return on_host(self.units.model(self.model))

    @cached_property
    def starts(self) -> Any:
        """N_STARTS random starts in the units of the data, of different kinds where there are."""
        kinds = [r % len(self.model.start_kinds) for r in range(N_STARTS)]
        return [on_host(self.model.init(self.split(r), self.x, None, kind)) for r, kind in enumerate(kinds)]

    @cached_property
    def points(self) -> Any:
        """The starts in standard units."""
        return [self.params_in_units(self.units, start) for start in self.starts]

    @cached_property
    def params_in_units(self) -> Any:
        """The function (units, params) -> params in standard units."""
        return compiled(lambda units, params: units.params(params))

    @cached_property
    def rng(self) -> Any:
        """Random numbers on the host, where draws compile nothing."""
        return np.random.default_rng(np.asarray(jax.random.key_data(self.key)).ravel())

    @cached_property
    def movable(self) -> Any:
        """Which unconstrained coordinates a fit may move: a tree of bool."""
        return on_host(movable(self.inner, self.unconstrain(self.points[0])))

    @cached_property
    def weights(self) -> Any:
        """Two vectors of random weights, [2, n]."""
        return self.rng.uniform(0.5, 1.5, (2, self.n)).astype(self.dtype)

    @cached_property
    def ones(self) -> Any:
        return np.ones(self.n, self.dtype)

    # Every law calls the same few programs, so that a model costs few compilations.

    @cached_property
    def expectation(self) -> Any:
        """The function (params, z, weights) -> resp, log_prob and statistics."""
        return compiled(partial(expect, self.inner))

    @cached_property
    def maximize(self) -> Any:
        """The function (stats, params) -> params."""
        return compiled(self.inner.maximize)

    @cached_property
    def unconstrain(self) -> Any:
        """The function params -> unconstrained coordinates."""
        return compiled(partial(unconstrain, self.inner))

    @cached_property
    def constrain(self) -> Any:
        """The function unconstrained coordinates -> params."""
        return compiled(partial(constrain, self.inner))

    @cached_property
    def q_and_gradient(self) -> Any:
        """The function (unconstrained params, stats) -> an objective and its gradient.

        The objective is Q plus the log prior, in nats per example.
        """

        def q(free, stats):
            params = constrain(self.inner, free)
            return (self.inner.expected_log_joint(params, stats) + self.inner.log_prior(params)) / self.n

        return compiled(jax.value_and_grad(q))

    @cached_property
    def objective_gradient(self) -> Any:
        """The function (unconstrained params, z, weights) -> the gradient of the objective.

        The objective is the log-likelihood plus the log prior, in nats per example.
        """

        def objective(free, z, weights):
            params = constrain(self.inner, free)
            return ((weights * self.inner.log_prob(params, z)).sum() + self.inner.log_prior(params)) / self.n

        return compiled(jax.grad(objective))

    @cached_property
    def at_start(self) -> Expectation:
        """The E-step at the first start, with weights of 1."""
        return self.expectation(self.points[0], self.z, self.ones)

    @cached_property
    def moved(self) -> Any:
        """Params after one EM step from the first start."""
        self.needs_statistics()
        return self.maximize(self.at_start.stats, self.points[0])

    def split(self, label: int) -> jax.Array:
        """A random key for this label."""
        return jax.random.fold_in(self.key, label)

    def needs_statistics(self) -> None:
        """Raise NotChecked where the model has no statistics."""
        if not self.model.additive:
            raise NotChecked("a model from two plain functions has no statistics")

    # --- how close is close enough ----------------------------------------------------------------

    def same(self, what: str, got: Any, want: Any, tol: float, scale: float = 0.0) -> None:
        """Raise Violation unless every leaf of `got` is close to that of `want`.

        Args:
            what: the name in the message.
            got: a tree of arrays.
            want: the tree that is right.
            tol: the largest difference, relative to the largest entry of the leaf of `want`.
            scale: differences are relative to at least this number.
        """
        if jax.tree.structure(got) != jax.tree.structure(want):
            raise Violation(f"{what}: has structure {jax.tree.structure(got)}, not {jax.tree.structure(want)}")
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True):
            self._same_leaf(f"{what}{jax.tree_util.keystr(path)}", np.asarray(a), np.asarray(b), tol, scale)

    def _same_leaf(self, name, a, b, tol, scale):
        if a.shape != b.shape:
            raise Violation(f"{name}: has shape {a.shape}, not {b.shape}")
        if not a.size:
            return
        equal = (a == b) | (np.isnan(a) & np.isnan(b))
        with np.errstate(invalid="ignore"):
            error = np.where(equal, 0, np.abs(a - b))
        size = np.abs(np.where(np.isfinite(b), b, 0)).max()
        self.within(
            name, error.max() if np.isfinite(error).all() else np.inf, tol * max(size, scale, np.finfo(float).tiny)
        )

    def within(self, name: str, error: Any, allowed: Any) -> None:
        """Raise Violation unless `error` is at most what is allowed."""
        error, allowed = float(error), float(allowed)
        if not error <= allowed:
            raise Violation(f"{name}: off by {error:.3g}, at most {allowed:.3g} is rounding")
        if error > 0:
            self.margin = max(self.margin, error / allowed)

    def same_sums(self, what: str, got: Any, want: Any) -> None:
        """`same` for statistics: sums over n rows whose entries are O(1) in standard units."""
        self.same(what, got, want, self.tol.sums, self.n)

    def same_params(self, what: str, got: Any, want: Any) -> None:
        """`same` for params after a few EM steps."""
        self.same(what, got, want, self.tol.steps, PARAMS_SCALE)


def expect(model: Any, params: Any, z: Any, weights: jax.Array) -> Expectation:
    """The E-step at params, with the statistics (an empty tuple where the model has none)."""
    resp, log_prob = model.e_step(params, z)
    return Expectation(resp, log_prob, model.sufficient_statistics(resp, z, weights) if model.additive else ())


def take(tree: Any, index: Any) -> Any:
    """Rows of a pytree of arrays with one leading axis."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def stack(trees: Any) -> Any:
    """Trees of the same structure as one tree, whose leaves have a new leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def compiled(function: Callable) -> Any:
    """`function`, compiled; the result returns numpy arrays."""
    program = jax.jit(function)
    return lambda *args: on_host(program(*args))


def on_host(tree: Any) -> Any:
    """A tree of arrays as numpy arrays, whose slices and sums compile nothing."""
    return jax.tree.map(np.asarray, tree)


def normal_like(rng: Any, tree: Any) -> Any:
    """Standard normal draws with the shapes of the leaves of a tree."""
    return jax.tree.map(lambda leaf: rng.standard_normal(np.shape(leaf)).astype(leaf.dtype), tree)
