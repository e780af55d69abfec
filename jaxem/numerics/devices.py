"""Rows and restarts that are sharded over devices, on one host or many.

Rows are sharded over the mesh axis "rows" and stay where they are. In every iteration each device
computes the statistics of its own rows, one all-reduce adds them up together with the
log-likelihood, and every device does the same M-step. Over an axis "restarts" the starts are
divided among groups of devices, which do not wait for each other.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxem.numerics.tracing import is_traced

ROWS, RESTARTS = "rows", "restarts"


@dataclasses.dataclass(frozen=True)
class Placement:
    """A mesh of devices, and its axes over which rows and restarts are sharded.

    Attributes:
        mesh: the devices.
        rows: name of the axis of rows.
        restarts: name of the axis of restarts, or None.
    """

    mesh: Mesh
    rows: str
    restarts: str | None = None

    @property
    def n_groups(self) -> int:
        """How many groups of devices have restarts of their own."""
        return 1 if self.restarts is None else self.mesh.shape[self.restarts]

    @property
    def of_rows(self) -> PartitionSpec:
        """How arrays with one entry per row are sharded."""
        return PartitionSpec(self.rows)

    @property
    def of_fits(self) -> PartitionSpec:
        """How arrays with one entry per restart are sharded."""
        return PartitionSpec(self.restarts)

    def each(self, function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
        """`function` run by every device on its own shards of the arguments (`jax.shard_map`)."""
        return jax.shard_map(function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)

    def everywhere(self, tree: Any) -> Any:
        """The tree with every leaf replicated on all devices, inside a compiled program."""
        return lax.with_sharding_constraint(tree, NamedSharding(self.mesh, PartitionSpec()))


def placement_of(x: Any) -> Placement | None:
    """The placement of rows that are sharded over devices.

    Args:
        x: a pytree of arrays; the first leaf decides.

    Returns:
        None for rows on one device, on the host, or under a trace.
    """
    leaf = jax.tree.leaves(x)[0]
    if is_traced(leaf) or not isinstance(leaf, jax.Array) or not isinstance(leaf.sharding, NamedSharding):
        return None
    if len(leaf.sharding.device_set) == 1:
        return None
    found = mesh_placement(leaf.sharding.mesh)
    return found if leaf.sharding.spec and leaf.sharding.spec[0] in (found.rows, (found.rows,)) else None


def mesh_placement(mesh: Any) -> Placement:
    """The placement on a mesh with one axis, or with the two axes "restarts" and "rows".

    Raises:
        ValueError: if the mesh has other axes.
    """
    names = mesh.axis_names
    others = set(names) - {ROWS, RESTARTS}
    if len(names) > 1 and (others or ROWS not in names):
        raise ValueError(f'mesh: expected one axis, or the two axes "{RESTARTS}" and "{ROWS}"; got {names}')
    # Sums over rows are written out, or left to the compiler: no axis has to be explicit in types.
    mesh = Mesh(mesh.devices, names, axis_types=(AxisType.Auto,) * len(names))
    return Placement(mesh, ROWS if ROWS in names else names[0], RESTARTS if RESTARTS in names else None)


def on_mesh(tree: Any, placement: Placement, spec: PartitionSpec) -> Any:
    """The arrays of a tree as arrays on the placement's own mesh.

    Arrays that lie on its devices already are not moved.
    """

    def same(leaf: jax.Array) -> jax.Array:
        sharding = NamedSharding(placement.mesh, spec)
        if leaf.sharding.device_set != sharding.device_set:
            return jax.device_put(leaf, sharding)
        if leaf.sharding == sharding:
            return leaf
        return jax.make_array_from_single_device_arrays(
            leaf.shape, sharding, [shard.data for shard in leaf.addressable_shards]
        )

    return jax.tree.map(same, tree)


def summed(tree: Any, axis: str | None) -> Any:
    """The sum of a tree over the devices along a mesh axis, as one collective.

    Where axis is None it is the tree itself.
    """
    if axis is None:
        return tree
    flat, unravel = ravel_pytree(tree)
    return unravel(lax.psum(flat, axis))


def host(leaf: Any) -> np.ndarray:
    """An array on this host, also where other processes hold parts of it."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable and not leaf.is_fully_replicated:
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)


def some_rows(x: Any, weights: jax.Array, n: int, placement: Placement) -> Any:
    """Up to n rows of positive weight, evenly spaced among all rows, as NumPy arrays."""
    total = jax.tree.leaves(x)[0].shape[0]
    at = np.linspace(0, total - 1, min(n, total)).astype(np.int32)
    rows, at_weights = jax.tree.map(np.asarray, _rows_at((x, weights), at, placement))
    return jax.tree.map(lambda leaf: leaf[at_weights > 0], rows)


@partial(jax.jit, static_argnames="placement")
def _rows_at(tree: Any, at: np.ndarray, placement: Placement) -> Any:
    return placement.everywhere(jax.tree.map(lambda leaf: leaf[at], tree))
