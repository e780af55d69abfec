"""Regressions: families of a target given inputs, x = (inputs [n, p], targets).

No intercept is added. A third array, x = (inputs, targets, offset [n]), is a known part of the
linear predictor (the log of an exposure).

The M-steps of generalised linear models have no finite statistics, but a weighted least-squares
problem at the current params has: its weights and responses are part of what the E-step expects. So
all regressions share one M-step, the normal equations, and their statistics add up and are linear
in the weights like any others. Q is that problem too: it touches the expected log density where the
statistics were taken, with the same gradient.

`LinearRegression`, `PoissonRegression` and `LogisticRegression` have a file each.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.contract.constraints import Real
from jaxem.contract.errors import NotProvidedError
from jaxem.contract.family import Family, alive_components
from jaxem.contract.model import EStep
from jaxem.contract.posterior import Posterior
from jaxem.contract.pytree import pytree_class
from jaxem.contract.units import Identity, Units
from jaxem.families.input_units import DEPENDENT, InputUnits, host_input_units, whitening
from jaxem.families.support import Numbers, Support, Vectors
from jaxem.numerics import linalg
from jaxem.numerics.linalg import PRECISION
from jaxem.numerics.tracing import is_traced


class RegressionParams(NamedTuple):
    """The params of a regression.

    Attributes:
        coef: the coefficients, on the scale of the linear predictor, [k, p].
    """

    coef: Any


@pytree_class
class Working(Posterior):
    """The least-squares problem of each row: log p(y | eta) near the eta of one E-step.

    It is rest + response eta - weight eta^2 / 2, where rest, response and weight are [n, k].
    """

    weight: Any
    response: Any
    rest: Any


class NormalEquations(NamedTuple):
    """The expected sufficient statistics of a regression.

    The offset is subtracted from the responses.

    Attributes:
        count: the number of rows, [k].
        gram: the sum of weight x x^T, packed, [k, p (p + 1) / 2].
        cross: the sum of response x, [k, p].
        rest: the sum of `Working.rest`, [k]. For a linear regression it is the sum of the squared
            responses.
    """

    count: jax.Array
    gram: jax.Array
    cross: jax.Array
    rest: jax.Array


class GivenInputs(Support):
    """(inputs [n, p], targets), or with an offset [n]."""

    def __init__(self, targets: Support) -> None:
        self.targets = targets
        self.row_ndim = (1, targets.row_ndim)

    def check_shape(self, x: Any, name: str = "x") -> None:
        if not isinstance(x, tuple) or len(x) not in (2, 3):
            raise ValueError(
                f"{name}: expected the pair (inputs [n, p], targets), or with an offset [n]; got {type(x)}"
            )
        for j, (part, array) in enumerate(zip((Vectors(), self.targets, Numbers()), x, strict=False)):
            part.check_shape(array, f"{name}[{j}]")

    def check_values(self, x: Any, name: str = "x") -> None:
        self.targets.check_values(x[1], f"{name}[1]")

    def sizes(self, x: Any) -> Any:
        return {"p": x[0].shape[1]}


class Regression(Family):
    """A target whose distribution depends on inputs through the linear predictor inputs @ coef_k.

    A subclass writes its `support`, and five methods: `log_density`, `working`, `guess`, `draw` and
    possibly `spread`.
    """

    param_shapes: Any = RegressionParams(("k", "p"))

    def log_density(self, eta: Any, x: Any) -> jax.Array:
        """log p(target | eta) [n, k], in nats."""
        raise NotImplementedError(f"{type(self).__name__}.log_density")

    def working(self, eta: Any, x: Any) -> tuple[jax.Array, jax.Array]:
        """(weight, response) of the least-squares problem at eta, each [n, k]."""
        raise NotImplementedError(f"{type(self).__name__}.working")

    def guess(self, x: Any) -> tuple[jax.Array, jax.Array]:
        """(weight, response) [n, 1] of a random start, which knows no eta."""
        raise NotImplementedError(f"{type(self).__name__}.guess")

    def draw(self, params: Any, key: jax.Array, eta: Any, x: Any) -> Any:
        """Targets [n, k, ...] drawn at the linear predictors eta [n, k]."""
        raise NotImplementedError(f"{type(self).__name__}.draw")

    def predictor(self, params: Any, x: Any) -> Any:
        """The linear predictor of every component, [n, k]."""
        return jnp.dot(x[0], params.coef.T, precision=PRECISION) + offset_of(x)

    # --- the steps --------------------------------------------------------------------------------

    def e_step(self, params: Any, x: Any) -> EStep:
        eta = self.predictor(params, x)
        weight, response = self.working(eta, x)
        log_prob = self.log_density(eta, x)
        return EStep(Working(weight, response, log_prob - (response - 0.5 * weight * eta) * eta), log_prob)

    def sufficient_statistics(self, resp: Any, x: Any, weights: jax.Array) -> NormalEquations:
        resp = Working(*self.guess(x), jnp.zeros(())) if resp is None else resp
        offset = offset_of(x)
        response = resp.response - resp.weight * offset
        rest = resp.rest + (resp.response - 0.5 * resp.weight * offset) * offset
        return self._sums(x, weights, resp.weight, response, rest)

    def _sums(self, x, weights, weight, response, rest):
        rows, cols = linalg.tril_indices(x[0].shape[1])
        products = x[0][:, rows] * x[0][:, cols]
        gram = jnp.dot((weights * weight).T, products, precision=PRECISION)
        cross = jnp.dot((weights * response).T, x[0], precision=PRECISION)
        return NormalEquations(weights.sum(0), gram, cross, (weights * rest).sum(0))

    def expected_log_joint(self, params: Any, stats: Any) -> jax.Array:
        return (stats.rest + explained(params.coef, stats)).sum()

    def maximize(self, stats: Any, params: Any = None) -> Any:
        coef, enough = solve_normal_equations(stats)
        new = self.from_least_squares(coef, stats)
        return new if params is None else self.keep_where(enough, new, params)

    def from_least_squares(self, coef: Any, stats: Any) -> Any:
        """Params with the coefficients [k, p] that solve the normal equations."""
        return RegressionParams(coef)

    def constraints(self) -> Any:
        return RegressionParams(Real())

    # --- starts and draws -------------------------------------------------------------------------

    def embed(self, x: Any, weights: jax.Array | None = None) -> Any:
        target = x[1] if x[1].ndim == 1 else x[1][:, 0] / x[1][:, 1]
        return super().embed(jnp.concatenate([x[0], self.spread(target)[:, None]], 1), weights)

    def spread(self, target: Any) -> Any:
        """The target on a scale where distances mean something, for starts."""
        return target

    def sample(self, params: Any, key: jax.Array, n: int) -> Any:
        raise NotProvidedError(self, "sample", "targets need inputs; write sample_like(params, key, x)")

    def sample_like(self, params: Any, key: jax.Array, x: Any) -> Any:
        """Targets [n, k, ...] for the inputs and offsets of x, with the inputs of each draw."""
        targets = self.draw(params, key, self.predictor(params, x), x)
        given = [jnp.broadcast_to(part[:, None], (*targets.shape[:2], *part.shape[1:])) for part in (x[0], *x[2:])]
        return (given[0], targets, *given[1:])

    def check_fit(self, x: Any, weights: jax.Array, dtype: Any) -> None:
        if not is_traced(x[0]):
            _check_independent(np.asarray(x[0]))

    # --- units ------------------------------------------------------------------------------------

    def units(self, x: Any, weights: jax.Array | None = None) -> InputUnits:
        weights = jnp.ones(len(x[0]), x[0].dtype) if weights is None else weights
        matrix = whitening(x[0], weights / weights.sum())
        return InputUnits(matrix, jnp.linalg.inv(matrix))

    def origin(self, x: Any, params: Any = None) -> Units:
        # Params alone do not say where the inputs lie.
        return Identity() if x is None else self.host_units(x)

    def host_units(self, x: Any) -> Units:
        """Units on the host in which float32 loses no digits of x."""
        return host_input_units(x, linear=False)


def _check_independent(inputs):
    gram = inputs.T.astype(float) @ inputs
    scale = np.sqrt(np.diagonal(gram))
    if not scale.all():
        raise ValueError(f"x[0]: input {int(np.argmin(scale))} is 0 in every row")
    if np.linalg.eigvalsh(gram / np.outer(scale, scale))[0] < 100 * np.finfo(inputs.dtype).eps ** 2 + DEPENDENT:
        raise ValueError("x[0]: the inputs are linearly dependent; drop one")


def explained(coef: Any, stats: Any) -> Any:
    """coef . cross - coef . gram coef / 2, [k]."""
    gram = linalg.unpack_symmetric(stats.gram)
    return (coef * stats.cross).sum(-1) - 0.5 * jnp.einsum("ki,kij,kj->k", coef, gram, coef)


def offset_of(x: Any) -> Any:
    """The known part of the linear predictor, [n, 1]."""
    return x[2][:, None] if len(x) == 3 else 0.0


def solve_normal_equations(stats: Any) -> Any:
    """(coef [k, p], which components had enough rows to determine it [k])."""
    gram = linalg.unpack_symmetric(stats.gram)
    eye = jnp.eye(gram.shape[-1], dtype=gram.dtype)
    # In units where the gram matrix of all rows is I, a ridge of the size of rounding changes no
    # coefficient that the data determine.
    ridge = jnp.finfo(gram.dtype).eps * jnp.trace(gram, axis1=-2, axis2=-1) / gram.shape[-1]
    coef = linalg.solve_positive(gram + ridge[:, None, None] * eye, stats.cross[..., None])[..., 0]
    enough = alive_components(stats.count) & jnp.isfinite(coef).all(-1)
    return jnp.where(enough[:, None], coef, 0), enough
