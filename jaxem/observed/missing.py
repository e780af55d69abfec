"""Missing entries in rows with independent columns: their rows have weight 0 in their columns."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.contract.family import Family, full_axes
from jaxem.contract.model import EStep, model_class
from jaxem.contract.posterior import Posterior
from jaxem.contract.pytree import pytree_class, static
from jaxem.contract.units import Identity, Units
from jaxem.contract.wrapper import Wrapper
from jaxem.families.gaussian import Gaussian
from jaxem.inputs import arrays
from jaxem.inputs.covariance_rank import check_ranges
from jaxem.numerics.tracing import is_traced
from jaxem.observed.incomplete_gaussian import IncompleteGaussian
from jaxem.observed.missing_entries import (
    check_columns_seen,
    column_ranges,
    filled,
    missing_as_nan,
    require_no_infinity,
    rows_seen,
    seen_columns,
)


class ColumnRows(NamedTuple):
    """Rows that are cut into columns.

    Attributes:
        data: leaves [n, d, ...]; they hold valid numbers in place of missing entries.
        seen: [n, d], 1 for an entry that was seen and 0 for a missing one.
    """

    data: Any
    seen: Any


@pytree_class
class ColumnPosterior(Posterior):
    """The posteriors of the hidden variables of each column.

    Attributes:
        each: the posterior of the family for each column, whose leaves have a leading axis d. For
            missing entries it has no meaning.
    """

    each: Any


class PreparedColumns(NamedTuple):
    """Prepared data of each column.

    Attributes:
        each: the prepared data of the family for each column, whose leaves have a leading axis d.
        seen: [d, n], 1 for an entry that was seen and 0 for a missing one.
    """

    each: Any
    seen: Any


class ColumnStats(NamedTuple):
    """The expected sufficient statistics of `Missing`.

    Attributes:
        count: the expected number of rows of each component, [k].
        each: the statistics of the family for each column, whose leaves have a leading axis d.
    """

    count: Any
    each: Any


@model_class
class Missing(Wrapper, Family):
    """A family of independent columns for rows in which NaN stands for entries missing at random.

    log p(x_i | k) is the sum over the columns of row i that were seen, in nats. This is the
    ignorable likelihood: a missing entry has weight 0 in its column, so nothing is imputed, and the
    M-step of every column uses only the entries that were seen. Where rows are numbers (one
    column), a missing row has no information by itself; in a `Product` with other columns, or in an
    HMM, it is skipped. Little and Rubin (2019), chapter 6.

    `jaxem.missing(family)` also takes normals whose columns depend on each other.

    Args:
        model: the family.

    Raises:
        ValueError: the columns of the family are not independent.

    Examples:
        >>> import jax, jaxem
        >>> nan = jax.numpy.nan
        >>> x = jax.numpy.array([
        ...     [1., 1., nan], [1., nan, 0.], [0., 0., 1.],
        ...     [nan, 1., 1.], [1., 1., 0.], [0., 0., 1.],
        ... ])
        >>> model = jaxem.Mixture(jaxem.Missing(jaxem.Bernoulli()), 2)
        >>> best, _ = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=8)
        >>> best.params.components.prob.shape
        (2, 3)
    """

    model: Any

    def __post_init__(self) -> None:
        if not self.model.independent_columns:
            raise ValueError(
                f"model: expected a family of independent columns; got {type(self.model).__name__} "
                "(for a Gaussian use jaxem.missing(family))"
            )

    def rows(self, x: Any) -> Any:
        return arrays.as_rows(missing_as_nan(x))

    # --- rows and params by columns ---------------------------------------------------------------

    def _cut(self, x) -> ColumnRows:
        if isinstance(x, ColumnRows):
            return x
        columns, seen = seen_columns(x)
        data = columns.T[..., None] if self.row_ndim else columns.T
        return ColumnRows(data, seen.T)

    def _by_column(self, params):
        """The params of d families of one column each, leaves [d, k, 1, ...]."""
        return params_by_column(self.model, params)

    def _joined(self, each):
        """The inverse of `_by_column`."""
        return params_joined(self.model, each)

    # --- the steps of every column, side by side --------------------------------------------------

    def prepare(self, x: Any, weights: jax.Array | None = None, centred: bool = False) -> Any:
        if isinstance(x, PreparedColumns):
            return x
        data, seen = self._cut(x)
        if weights is None:
            each = jax.vmap(lambda column: self.model.prepare(column, None, centred), 1)(data)
        else:
            each = jax.vmap(lambda column, s: self.model.prepare(column, weights * s, centred), 1)(data, seen)
        return PreparedColumns(each, seen.T)

    def e_step(self, params: Any, x: Any) -> EStep:
        if isinstance(x, PreparedColumns):
            each, seen, axis = x.each, x.seen, 0
        else:  # Rows that are not prepared go through the direct form of the family.
            each, seen = self._cut(x)
            seen, axis = seen.T, 1
        resp, log_prob = jax.vmap(self.model.e_step, (0, axis))(self._by_column(params), each)
        latent = None if resp is None else ColumnPosterior(resp)
        return EStep(latent, jnp.where(seen[..., None] > 0, log_prob, 0).sum(0))

    def sufficient_statistics(self, resp: Any, x: Any, weights: jax.Array) -> Any:
        x = self.prepare(x)

        def one(resp, column, seen):
            return self.model.sufficient_statistics(resp, column, weights * seen[:, None])

        each = None if resp is None else resp.each
        return ColumnStats(weights.sum(0), jax.vmap(one)(each, x.each, x.seen))

    def maximize(self, stats: Any, params: Any = None) -> Any:
        if params is None:
            return self._joined(jax.vmap(self.model.maximize)(stats.each))
        return self._joined(jax.vmap(self.model.maximize)(stats.each, self._by_column(params)))

    def init_components(self, key: jax.Array, x: Any, weights: jax.Array) -> Any:
        return self.maximize(self.sufficient_statistics(None, x, weights))

    def expected_log_joint(self, params: Any, stats: Any) -> jax.Array:
        return jax.vmap(self.model.expected_log_joint)(self._by_column(params), stats.each).sum()

    def shared_log_lik(self, params: Any, stats: Any) -> Any:
        shared = jax.vmap(lambda p, s: jnp.asarray(self.model.shared_log_lik(p, s)))
        return shared(self._by_column(params), stats.each).sum()

    def pseudo_statistics(self, params: Any, strength: Any, units: Any = None) -> Any:
        each = self._by_column(params)
        inner = units.each if isinstance(units, ColumnUnits) else Identity()
        stats = jax.vmap(lambda p, u: self.model.pseudo_statistics(p, strength, u))(each, inner)
        leaf = jax.tree.leaves(params)[0]
        return ColumnStats(jnp.zeros(leaf.shape[0], leaf.dtype), stats)

    def refined(self, params: Any, z: Any, weights: jax.Array) -> Any:
        return params

    # --- missing entries --------------------------------------------------------------------------

    def conditional_mean(self, params: Any, x: Any) -> Any:
        """x with each missing entry replaced by its mean under every component, [n, k, ...]."""
        return jnp.where(jnp.isnan(x)[:, None], self.model.mean(params), x[:, None])

    def observed(self, x: Any) -> Any:
        return rows_seen(x)

    def sample_like(self, params: Any, key: jax.Array, x: Any) -> Any:
        """Draw rows [n, k, ...] of every component, with the missing entries of x."""
        rows = self.model.sample_like(params, key, filled(x))
        return jnp.where(jnp.isnan(x)[:, None], jnp.nan, rows)

    def embed(self, x: Any, weights: jax.Array | None = None) -> Any:
        """The coordinates of each column, with the mean of the column for missing entries."""
        data, seen = self._cut(x)
        ones = jnp.ones(len(seen), seen.dtype) if weights is None else weights

        def one(column, seen):
            weights = ones * seen
            rows = self.model.embed(column, weights)
            mean = weights @ rows / weights.sum()
            return jnp.where(seen[:, None] > 0, rows, mean)

        rows = jax.vmap(one, 1)(data, seen)
        return rows.swapaxes(0, 1).reshape(len(seen), -1)

    # --- units of each column ---------------------------------------------------------------------

    def units(self, x: Any, weights: jax.Array | None = None) -> Units:
        data, seen = self._cut(x)
        weights = jnp.ones(len(seen), seen.dtype) if weights is None else weights
        each = jax.vmap(lambda column, s: self.model.units(column, weights * s), 1)(data, seen)
        return each if each.is_identity else ColumnUnits(each, seen, self.model, self.row_ndim)

    def origin(self, x: Any, params: Any = None) -> Units:
        """The origin of the family, which moves every column by itself."""
        return self.model.origin(None if x is None else filled(x), params)

    # --- checks -----------------------------------------------------------------------------------

    def check_finite(self, x: Any) -> None:
        require_no_infinity(x)

    def check(self, x: Any, params: Any = None) -> Any:
        if is_traced(x):
            return self.model.check(x, params)
        if np.ndim(x) not in (1, 2):
            return self.model.check(x, params)
        x = np.asarray(x)
        check_columns_seen(x if x.ndim == 2 else x[:, None])
        self.model.check(filled(x), params)

    def check_fit(self, x: Any, weights: jax.Array, dtype: Any) -> None:
        if is_traced(x, weights):
            return
        check_columns_seen(x if x.ndim == 2 else x[:, None], weights)
        if isinstance(self.model, Gaussian):  # Only normals need columns that vary.
            check_ranges(*column_ranges(x, weights), "diag", dtype)


@pytree_class
class ColumnUnits(Units):
    """The units of each column; the density of a row changes with each entry that was seen.

    Attributes:
        each: the units of the family for each column, whose leaves have a leading axis d.
        seen: [n, d], 1 for an entry that was seen and 0 for a missing one.
        family: the family of the columns.
        row_ndim: the number of axes of a row: 1, or 0 for numbers.
    """

    each: Units
    seen: Any
    family: Any
    row_ndim: int = static(default=1)

    def rows(self, x: Any) -> Any:
        if isinstance(x, ColumnRows):
            data, seen = x
        else:
            columns, seen = seen_columns(x)
            data, seen = (columns.T[..., None] if self.row_ndim else columns.T), seen.T
        return ColumnRows(jax.vmap(lambda units, column: units.rows(column), (0, 1), 1)(self.each, data), seen)

    def params(self, params: Any) -> Any:
        return self._moved(lambda units, p: units.params(p), params)

    def back(self, params: Any) -> Any:
        return self._moved(lambda units, p: units.back(p), params)

    def _moved(self, move, params):
        moved = jax.vmap(move)(self.each, params_by_column(self.family, params))
        return params_joined(self.family, moved)

    def log_volume(self) -> Any:
        return self.seen @ jax.vmap(lambda units: jnp.asarray(units.log_volume()))(self.each)


def _column_axes(family, params):
    """The axis of the columns in each leaf of params; -1 for numbers, which have no columns."""
    return jax.tree.map(
        lambda axis, leaf: -1 if family.row_ndim == 0 else 0 if axis is None else 1,
        full_axes(family),
        params,
        is_leaf=lambda node: node is None,
    )


def params_by_column(family: Family, params: Any) -> Any:
    """The params of d families of one column each, from the params of one family of d columns.

    Their leaves are [d, k, 1, ...].
    """

    def cut(axis, leaf):
        leaf = jnp.asarray(leaf)
        return leaf[None] if axis < 0 else jnp.moveaxis(jnp.expand_dims(leaf, axis + 1), axis, 0)

    return jax.tree.map(cut, _column_axes(family, params), params)


def params_joined(family: Family, each: Any) -> Any:
    """The inverse of `params_by_column`."""

    def join(axis, leaf):
        return leaf[0] if axis < 0 else jnp.squeeze(jnp.moveaxis(leaf, 0, axis), axis + 1)

    return jax.tree.map(join, _column_axes(family, each), each)


def missing(family: Family, noise: str = "none") -> Family:
    """A family for rows in which NaN stands for entries missing at random; they are integrated out.

    Args:
        family: any family of independent columns or of numbers, or any `Gaussian`.
        noise: "diag" or "full" for a `Gaussian` whose rows have noise of known size, see
            `IncompleteGaussian`; otherwise "none".

    Returns:
        An `IncompleteGaussian` or a `Missing`.

    Raises:
        ValueError: the columns of the family depend on each other and it is no `Gaussian`.

    Examples:
        >>> import jaxem
        >>> type(jaxem.missing(jaxem.Gaussian("full"))).__name__
        'IncompleteGaussian'
        >>> type(jaxem.missing(jaxem.Poisson())).__name__
        'Missing'
    """
    if isinstance(family, Gaussian) and (noise != "none" or not family.independent_columns):
        return IncompleteGaussian(family, noise)
    return Missing(family)
