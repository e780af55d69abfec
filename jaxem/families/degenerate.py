"""When a component is degenerate: one rule, with one set of bounds, for families with a variance.

The likelihood of a component that sits on a few rows, or on a set of lower dimension, has no
maximum, or a spurious one (Day, 1969; McLachlan and Peel, 2000, section 3.10). Its sign is a
variance that is small in two comparisons: with the variance of all the data, and with the variance
within the other components. Both are needed. Tight groups that lie far apart have small variances
compared with the data's, but not compared with one another; and in data without groups a component
that is tighter than the others may still be as wide as a tenth of the data.

A variance this small can be the truth where many rows agree on it, so how many rows hold the
component decides between the two pairs of bounds.
"""

from typing import Any

import jax
import jax.numpy as jnp

#: Bounds on the variance, as a share of the data's and of the mean within components, under which a
#: component is degenerate however many rows it holds: standard deviations of 1 / 300 and 1 / 30.
SLIVER, SLIVER_WITHIN = 1e-5, 1e-3

#: The same where fewer than `FEW_ROWS` rows for each param hold it: 1 / 30 and 1 / 3. In a fit of n
#: rows without groups, the tightest few of them are often that near to one another by chance.
TIGHT, TIGHT_WITHIN, FEW_ROWS = 1e-3, 0.1, 3

#: A variance at most this much above its floor, relative to it, rests on the floor.
AT_FLOOR = 1e-3


def is_degenerate(variance: Any, within: Any, n_points: Any, n_params: Any, fewest: Any = None) -> jax.Array:
    """Which components [k] are degenerate by their variances and by the rows that they hold.

    Args:
        variance: the smallest variance of each component in any direction, as a share of the
            data's, [k].
        within: the same as a share of the mean variance within components, [k].
        n_points: how many rows each component holds, [k].
        n_params: how many rows a component needs to determine its params.
        fewest: a component with fewer rows is degenerate; None means `n_params` less a half.

    Returns:
        True where a component is degenerate, [k].
    """
    sliver = (variance <= SLIVER) & (within <= SLIVER_WITHIN)
    tight = (variance <= TIGHT) & (within <= TIGHT_WITHIN)
    fewest = n_params - 0.5 if fewest is None else fewest
    return sliver | (tight & (n_points < FEW_ROWS * n_params)) | (n_points < fewest)


def shares(variance: Any, total: Any, n_points: Any) -> tuple[jax.Array, jax.Array]:
    """Variances [k] as shares of the data's, `total`, and of their mean over the rows."""
    pooled = n_points @ variance / n_points.sum()
    return variance / jnp.where(total > 0, total, 1), variance / jnp.where(pooled > 0, pooled, 1)


def rests_on_floor(variance: Any, floor: Any) -> jax.Array:
    """Whether a variance is at its floor.

    A floor above `SLIVER` does not count: a user chose it, so that variances may rest on it.
    """
    return ~(variance > jnp.where(floor <= SLIVER, floor, 0) * (1 + AT_FLOOR))


def default_floor(dtype: Any) -> float:
    """The smallest variance of a component, as a share of the data's, where the user says none.

    It lies far below the share of any group worth a component (groups 30,000 standard deviations
    apart in float32, 1,000,000 in float64), and far above where a Cholesky factor breaks.
    """
    return 1e-9 if jnp.dtype(dtype).itemsize == 4 else 1e-12
