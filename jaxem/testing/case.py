"""What the laws are stated on: a model, its data in standard units, a few starts, and how close two trees must be."""

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
    """A law does not hold; the message says where and by how much."""


class NotChecked(Exception):  # noqa: N818  (not an error: a reason)
    """A law says nothing about this model; the message says why."""


class Tolerances(NamedTuple):
    """Largest relative differences that rounding explains, by dtype; measured, with a margin of about ten."""

    sums: float  # one pass over the data, summed in another order
    steps: float  # params after a few EM steps, computed in another order
    gradient: float  # per unit of weight, in unconstrained coordinates
    objective: float  # a fall of the objective, relative to it
    jit: float  # the same operations, fused or not


TOLERANCES = {
    4: Tolerances(sums=5e-5, steps=1e-3, gradient=2e-4, objective=1e-6, jit=1e-4),
    8: Tolerances(sums=1e-12, steps=1e-10, gradient=1e-9, objective=1e-12, jit=1e-12),
}

#: Starts that the laws are tried from.
N_STARTS = 3
#: EM steps over which the objective must not fall.
N_STEPS = 30
#: Params are O(1) in standard units; a leaf far below this share of 1 is rounding.
PARAMS_SCALE = 1e-2


class Expectation(NamedTuple):
    resp: Any
    log_prob: Any
    stats: Any


@dataclasses.dataclass
class Case:
    """Everything the checks share, each piece compiled once. `z` is x in the model's standard units."""

    model: Any
    key: Any
    x: Any
    affine: Any = None
    reference: Any = None
    exact_m_step: bool = True
    paths: Any = None  # the objective along plain EM, once computed
    margin: float = 0.0  # largest difference seen by the current check, as a share of what is allowed

    def __post_init__(self) -> None:
        rows = self.model.rows(self.x)
        even = arrays.n_rows(rows) // 2 * 2
        if even < 4:
            raise ValueError(f"x: expected at least 4 rows to state the laws on; got {arrays.n_rows(rows)}")
        self.model.check(rows)
        self.x = on_host(jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[:even]), rows))

    @cached_property
    def n(self) -> Any:
        return arrays.n_rows(self.x)

    @cached_property
    def dtype(self) -> Any:
        return jnp.result_type(*jax.tree.leaves(self.x))

    @cached_property
    def tol(self) -> Any:
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
        """Params in the data's units, one per kind of start."""
        kinds = [r % len(self.model.start_kinds) for r in range(N_STARTS)]
        return [on_host(self.model.init(self.split(r), self.x, None, kind)) for r, kind in enumerate(kinds)]

    @cached_property
    def points(self) -> Any:
        """The starts in standard units."""
        return [self.params_in_units(self.units, start) for start in self.starts]

    @cached_property
    def params_in_units(self) -> Any:
        """(units, params) -> params in standard units."""
        return compiled(lambda units, params: units.params(params))

    @cached_property
    def rng(self) -> Any:
        """Draws on the host compile nothing."""
        return np.random.default_rng(np.asarray(jax.random.key_data(self.key)).ravel())

    @cached_property
    def movable(self) -> Any:
        """A tree like unconstrained coordinates: which of them fits may move."""
        return on_host(movable(self.inner, self.unconstrain(self.points[0])))

    @cached_property
    def weights(self) -> Any:
        return self.rng.uniform(0.5, 1.5, (2, self.n)).astype(self.dtype)

    @cached_property
    def ones(self) -> Any:
        return np.ones(self.n, self.dtype)

    # Every law calls the same few programs, so that a model costs few compilations.

    @cached_property
    def expectation(self) -> Any:
        """(params, z, weights) -> resp, log_prob and statistics."""
        return compiled(partial(expect, self.inner))

    @cached_property
    def maximize(self) -> Any:
        """(stats, params) -> params."""
        return compiled(self.inner.maximize)

    @cached_property
    def unconstrain(self) -> Any:
        return compiled(partial(unconstrain, self.inner))

    @cached_property
    def constrain(self) -> Any:
        return compiled(partial(constrain, self.inner))

    @cached_property
    def q_and_gradient(self) -> Any:
        """(free, stats) -> Q plus the log prior, per example, and its gradient in unconstrained coordinates."""

        def q(free, stats):
            params = constrain(self.inner, free)
            return (self.inner.expected_log_joint(params, stats) + self.inner.log_prior(params)) / self.n

        return compiled(jax.value_and_grad(q))

    @cached_property
    def objective_gradient(self) -> Any:
        """(free, z, weights) -> gradient of the log-likelihood plus the log prior, per example."""

        def objective(free, z, weights):
            params = constrain(self.inner, free)
            return ((weights * self.inner.log_prob(params, z)).sum() + self.inner.log_prior(params)) / self.n

        return compiled(jax.grad(objective))

    @cached_property
    def at_start(self) -> Expectation:
        return self.expectation(self.points[0], self.z, self.ones)

    @cached_property
    def moved(self) -> Any:
        """Params after one EM step from the first start."""
        self.needs_statistics()
        return self.maximize(self.at_start.stats, self.points[0])

    def split(self, label: int) -> Any:
        return jax.random.fold_in(self.key, label)

    def needs_statistics(self) -> None:
        if not self.model.additive:
            raise NotChecked("a model from two plain functions has no statistics")

    # --- how close is close enough -----------------------------------------------------------------------------

    def same(self, what: str, got: Any, want: Any, tol: Any, scale: Any = 0.0) -> None:
        """Every leaf of `got` within tol times the leaf's largest entry (or `scale`, if larger) of `want`."""
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
        """A number that is at most what is allowed."""
        error, allowed = float(error), float(allowed)
        if not error <= allowed:
            raise Violation(f"{name}: off by {error:.3g}, at most {allowed:.3g} is rounding")
        if error > 0:
            self.margin = max(self.margin, error / allowed)

    def same_sums(self, what: str, got: Any, want: Any) -> None:
        """Statistics: sums over n rows whose entries are O(1) in standard units."""
        self.same(what, got, want, self.tol.sums, self.n)

    def same_params(self, what: str, got: Any, want: Any) -> None:
        self.same(what, got, want, self.tol.steps, PARAMS_SCALE)


def expect(model: Any, params: Any, z: Any, weights: jax.Array) -> Expectation:
    resp, log_prob = model.e_step(params, z)
    return Expectation(resp, log_prob, model.sufficient_statistics(resp, z, weights) if model.additive else ())


def take(tree: Any, index: Any) -> Any:
    """Rows of a pytree of arrays with one leading axis."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def stack(trees: Any) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def compiled(function: Callable) -> Any:
    """`function`, compiled, giving numpy arrays."""
    program = jax.jit(function)
    return lambda *args: on_host(program(*args))


def on_host(tree: Any) -> Any:
    """numpy arrays: slicing and adding these compiles nothing."""
    return jax.tree.map(np.asarray, tree)


def normal_like(rng: Any, tree: Any) -> Any:
    """Standard normal draws shaped like the leaves of a tree."""
    return jax.tree.map(lambda leaf: rng.standard_normal(np.shape(leaf)).astype(leaf.dtype), tree)
