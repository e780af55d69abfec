"""Groups of rows that share one hidden value, such as repeated measurements and panels."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxem.contract.family import Family
from jaxem.contract.model import EStep, model_class
from jaxem.contract.posterior import Posterior
from jaxem.contract.pytree import pytree_class
from jaxem.contract.units import Identity, SequenceUnits, Units
from jaxem.contract.wrapper import Wrapper
from jaxem.families.support import RowError
from jaxem.inputs import arrays
from jaxem.inputs.sequences import (
    Prepared,
    Sequences,
    as_sequences,
    from_time_rows,
    inside,
    pad_sequences,
    time_rows,
    time_weights,
)


@pytree_class
class GroupPosterior(Posterior):
    """The posterior of the hidden variables that the family has itself.

    Attributes:
        rows: the posterior of the family, for every row. The posterior of a group is not computed.
    """

    rows: Any


class GroupStats(NamedTuple):
    """The expected sufficient statistics of `Repeated`.

    Attributes:
        count: the expected number of groups of each component, [k].
        rows: the statistics of the family, from the rows of the groups.
    """

    count: Any
    rows: Any


@model_class
class Repeated(Wrapper, Family):
    """A family whose rows come in groups with one component each: p(group | k) = prod_i p(x_i | k).

    Data x are [g, m, ...] for g groups of m rows, or the pair (rows [g, m, ...], sizes [g]), which
    `group_rows` makes from rows and their groups. Rows beyond the size of a group are ignored. An
    example is a group: log_prob is [g], in nats, the weights of a mixture are shares of the groups,
    and sample weights are one number for each group.

    Args:
        model: the family of the rows.

    Examples:
        >>> import jax, jaxem
        >>> x, group = jax.numpy.array([1., 2., 9., 8., 1., 3., 9.]), [0, 0, 1, 1, 2, 2, 3]
        >>> model = jaxem.Mixture(jaxem.Repeated(jaxem.Poisson()), 2)
        >>> groups = jaxem.group_rows(x, group)
        >>> best, _ = jaxem.fit_restarts(model, groups, jax.random.key(0), n_restarts=8)
        >>> sorted(round(rate, 1) for rate in best.params.components.rate.tolist())
        [1.8, 8.7]
        >>> model.predict(best.params, groups).shape
        (4,)
    """

    model: Any

    # --- data: an example is a group --------------------------------------------------------------

    def rows(self, x: Any) -> Sequences:
        groups = as_sequences(x, self.model.row_ndim)
        if groups.single is not None:
            raise ValueError(
                "x: expected groups of rows [g, m, ...]; got the rows of one (jaxem.group_rows makes them)"
            )
        return groups

    def n_observations(self, x: Any, weights: jax.Array | None = None) -> Any:
        groups = self.rows(x)
        return groups.shape[0] if weights is None else jnp.sum(jnp.asarray(weights))

    def prepare(self, x: Any, weights: jax.Array | None = None, centred: bool = False) -> Any:
        if isinstance(x, Prepared):
            return x
        x = self.rows(x)
        weights = None if weights is None else time_weights(x, weights)
        g, m = x.shape
        return Prepared(self.model.prepare(time_rows(x), weights, centred), x.lengths, jnp.zeros((m, g, 0), x.dtype))

    def e_step(self, params: Any, x: Any) -> EStep:
        x = x if isinstance(x, Prepared) else self.rows(x)
        g, m = x.shape
        latent, log_prob = self.model.e_step(params, x.data if isinstance(x, Prepared) else time_rows(x))
        log_prob = log_prob.reshape(m, g, -1)
        mask = inside(x.lengths, m)
        latent = None if latent is None else GroupPosterior(latent)
        return EStep(latent, (log_prob if mask is None else jnp.where(mask[..., None], log_prob, 0)).sum(0))

    def sufficient_statistics(self, resp: Any, x: Any, weights: jax.Array) -> Any:
        x = self.prepare(x)
        latent = None if resp is None else resp.rows
        rows = self.model.sufficient_statistics(latent, x.data, self._of_rows(weights, x.lengths, x.shape[1]))
        return GroupStats(weights.sum(0), rows)

    def _of_rows(self, weights, lengths, m):
        """The weights [m g, k] of the rows from the weights [g, k] of their groups."""
        weights = jnp.broadcast_to(weights, (m, *weights.shape))
        mask = inside(lengths, m)
        weights = weights if mask is None else jnp.where(mask[..., None], weights, 0)
        return weights.reshape(-1, weights.shape[-1])

    def maximize(self, stats: Any, params: Any = None) -> Any:
        return self.model.maximize(stats.rows, params)

    def init_components(self, key: jax.Array, x: Any, weights: jax.Array) -> Any:
        x = self.rows(x)
        return self.model.init_components(key, time_rows(x), self._of_rows(weights, x.lengths, x.shape[1]))

    def expected_log_joint(self, params: Any, stats: Any) -> jax.Array:
        return self.model.expected_log_joint(params, stats.rows)

    def shared_log_lik(self, params: Any, stats: Any) -> Any:
        return self.model.shared_log_lik(params, stats.rows)

    def pseudo_statistics(self, params: Any, strength: Any, units: Any = None) -> Any:
        stats = self.model.pseudo_statistics(params, strength, (units or Identity()).inner)
        leaf = jax.tree.leaves(params)[0]
        return GroupStats(jnp.zeros(leaf.shape[0], leaf.dtype), stats)

    def refined(self, params: Any, z: Any, weights: jax.Array) -> Any:
        z = self.rows(z)
        return self.model.refined(params, time_rows(z), self._of_rows(weights, z.lengths, z.shape[1]))

    def embed(self, x: Any, weights: jax.Array | None = None) -> Any:
        """The mean of the rows of each group, in the coordinates of the family."""
        x = self.rows(x)
        rows = from_time_rows(self.model.embed(time_rows(x), time_weights(x, weights)), *x.shape)
        used = inside(x.lengths, x.shape[1])
        used = jnp.ones(x.shape, rows.dtype) if used is None else used.T.astype(rows.dtype)
        return jnp.einsum("gm,gme->ge", used / used.sum(1, keepdims=True), rows)

    def sample_like(self, params: Any, key: jax.Array, x: Any) -> Any:
        """Draw groups with the sizes of those of x, from every component.

        Returns:
            `Sequences` with leaves [g, k, m, ...], and with the sizes where x has them.
        """
        x = self.rows(x)
        rows = from_time_rows(self.model.sample_like(params, key, time_rows(x)), *x.shape)
        values = jax.tree.map(lambda leaf: leaf.swapaxes(1, 2), rows)
        k = jax.tree.leaves(values)[0].shape[1]
        lengths = None if x.lengths is None else jnp.broadcast_to(x.lengths[:, None], (x.shape[0], k))
        return Sequences(values, lengths)

    def conditional_mean(self, params: Any, x: Any) -> Any:
        x = self.rows(x)
        rows = from_time_rows(self.model.conditional_mean(params, time_rows(x)), *x.shape)
        return jax.tree.map(lambda leaf: leaf.swapaxes(1, 2), rows)

    # --- units of the rows ------------------------------------------------------------------------

    def units(self, x: Any, weights: jax.Array | None = None) -> Units:
        x = self.rows(x)
        units = self.model.units(time_rows(x), time_weights(x, weights))
        return units if units.is_identity else SequenceUnits(units, x.n_observations)

    def origin(self, x: Any, params: Any = None) -> Units:
        rows = None if x is None else self.rows(x)
        origin = self.model.origin(None if rows is None else time_rows(rows), params)
        return origin if origin.is_identity else SequenceUnits(origin, None if rows is None else rows.n_observations)

    # --- checks -----------------------------------------------------------------------------------

    def check_finite(self, x: Any) -> None:
        self.model.check_finite(self.rows(x).values)

    def check(self, x: Any, params: Any = None) -> None:
        x = self.rows(x)
        try:
            self.model.check(time_rows(x), params)
        except RowError as error:
            row, group = divmod(error.row, x.shape[0])
            raise error.at(f"row {row} of group {group}") from None

    def check_fit(self, x: Any, weights: jax.Array, dtype: Any) -> None:
        self.model.check_fit(time_rows(self.rows(x)), None, dtype)


def group_rows(x: Any, groups: ArrayLike) -> Any:
    """Sort rows into groups, which is the form of data that `Repeated` takes.

    Args:
        x: rows [n, ...], or a tuple of arrays of rows.
        groups: [n], the label of the group of each row: numbers or text.

    Returns:
        (rows [g, m, ...], sizes [g]), where m is the largest size. The groups are in the sorted
        order of their labels, and rows beyond the size of a group are 0.

    Raises:
        ValueError: `groups` has another shape.

    Examples:
        >>> rows, sizes = group_rows([1.0, 2.0, 3.0], ["b", "a", "b"])
        >>> rows.tolist(), sizes.tolist()
        ([[2.0, 0.0], [1.0, 3.0]], [1, 2])
    """
    x = jax.tree.map(np.asarray, arrays.as_rows(x))
    groups = np.asarray(groups)
    if groups.shape != (arrays.n_rows(x),):
        raise ValueError(f"groups: expected shape ({arrays.n_rows(x)},), one per row of x; got {groups.shape}")
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    parts = jax.tree.map(lambda leaf: pad_sequences([leaf[rows] for rows in members])[0], x)
    return parts, np.array([len(rows) for rows in members])
