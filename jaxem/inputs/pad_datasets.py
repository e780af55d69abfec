"""Many data sets of different sizes in one program: rows of weight 0 give all the same length."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxem.inputs import arrays


def pad_datasets(datasets: Sequence[Any]) -> tuple[Any, jax.Array]:
    """Data sets of different numbers of rows as one array, with weights.

    `jax.vmap` then fits all data sets in one compiled program, each with the result that it would
    have alone.

    Args:
        datasets: b data sets with n_i rows each.

    Returns:
        The rows x [b, n, ...], and the weights [b, n], which are 0 for the rows that fill a data
        set up.

    Raises:
        ValueError: there is no data set, or their rows differ in shape.

    Examples:
        >>> import jax, jaxem
        >>> geyser = jaxem.datasets.old_faithful()
        >>> x, weights = jaxem.pad_datasets([geyser, geyser[:100], geyser[100:]])
        >>> model, keys = jaxem.gaussian_mixture(2), jax.random.split(jax.random.key(0), 3)
        >>> def best(x, weights, key):
        ...     return jaxem.fit_restarts(model, x, key, weights=weights, n_restarts=4).best
        >>> [round(float(value), 1) for value in jax.vmap(best)(x, weights, keys).log_lik]
        [-1130.3, -418.6, -702.6]
    """
    each = [arrays.as_rows(x, f"datasets[{i}]") for i, x in enumerate(datasets)]
    if not each:
        raise ValueError("datasets: expected at least one; got none")
    shapes = {tuple(leaf.shape[1:] for leaf in jax.tree.leaves(x)) for x in each}
    if len(shapes) > 1:
        raise ValueError(f"datasets: expected rows of one shape; got {sorted(shapes)}")
    n = arrays.bucket(max(arrays.n_rows(x) for x in each))
    dtype = np.result_type(*(leaf.dtype for leaf in jax.tree.leaves(each)))
    padded = [arrays.pad_rows(x, np.ones(arrays.n_rows(x), dtype), n) for x in each]
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *padded)
