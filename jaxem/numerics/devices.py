"""Rows (and restarts) spread over devices, on one host or many: who holds what, and the one sum that joins them.

Rows are sharded over the mesh axis "rows" and stay where they are. In every iteration each device makes the statistics
of its own rows, and one all-reduce adds them up together with the log-likelihood; the M-step is done by all alike.
Over an axis "restarts" the starts are dealt out, and its groups of devices go on without waiting for each other.
"""

import dataclasses
from functools import partial

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
    """A mesh, and which of its axes rows and restarts are spread over."""

    mesh: Mesh
    rows: str
    restarts: str | None = None

    @property
    def n_groups(self) -> int:
        """How many groups of devices do restarts of their own."""
        return 1 if self.restarts is None else self.mesh.shape[self.restarts]

    @property
    def of_rows(self) -> PartitionSpec:
        return PartitionSpec(self.rows)

    @property
    def of_fits(self) -> PartitionSpec:
        return PartitionSpec(self.restarts)

    def each(self, function, in_specs, out_specs):
        """`function` on every device, of its own piece of what the specs say is spread."""
        return jax.shard_map(function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)

    def everywhere(self, tree):
        """The leaves of a tree, whole on every device (inside a compiled program)."""
        return lax.with_sharding_constraint(tree, NamedSharding(self.mesh, PartitionSpec()))


def placement_of(x) -> Placement | None:
    """Where rows lie that are spread over devices; None for rows on one device, on the host, or under a trace."""
    leaf = jax.tree.leaves(x)[0]
    if is_traced(leaf) or not isinstance(leaf, jax.Array) or not isinstance(leaf.sharding, NamedSharding):
        return None
    if len(leaf.sharding.device_set) == 1:
        return None
    found = mesh_placement(leaf.sharding.mesh)
    return found if leaf.sharding.spec and leaf.sharding.spec[0] in (found.rows, (found.rows,)) else None


def mesh_placement(mesh) -> Placement:
    names = mesh.axis_names
    others = set(names) - {ROWS, RESTARTS}
    if len(names) > 1 and (others or ROWS not in names):
        raise ValueError(f'mesh: expected one axis, or the two axes "{RESTARTS}" and "{ROWS}"; got {names}')
    # Sums over rows are written out, or left to the compiler: no axis has to be explicit in types.
    mesh = Mesh(mesh.devices, names, axis_types=(AxisType.Auto,) * len(names))
    return Placement(mesh, ROWS if ROWS in names else names[0], RESTARTS if RESTARTS in names else None)


def on_mesh(tree, placement: Placement, spec):
    """Arrays as arrays of the placement's own mesh; those that lie on its devices already are not moved."""

    def same(leaf):
        sharding = NamedSharding(placement.mesh, spec)
        if leaf.sharding.device_set != sharding.device_set:
            return jax.device_put(leaf, sharding)
        if leaf.sharding == sharding:
            return leaf
        return jax.make_array_from_single_device_arrays(
            leaf.shape, sharding, [shard.data for shard in leaf.addressable_shards]
        )

    return jax.tree.map(same, tree)


def summed(tree, axis):
    """The sum of a tree over the devices along a mesh axis, as one collective; the tree itself where axis is None."""
    if axis is None:
        return tree
    flat, unravel = ravel_pytree(tree)
    return unravel(lax.psum(flat, axis))


def host(leaf) -> np.ndarray:
    """An array on this host, also where other processes hold parts of it."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable and not leaf.is_fully_replicated:
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)


def some_rows(x, weights, n, placement: Placement):
    """Up to n rows of positive weight, spread evenly over those that there are, on the host."""
    at = np.linspace(0, jax.tree.leaves(x)[0].shape[0] - 1, min(n, jax.tree.leaves(x)[0].shape[0])).astype(np.int32)
    rows, weights = jax.tree.map(np.asarray, _taken((x, weights), at, placement))
    return jax.tree.map(lambda leaf: leaf[weights > 0], rows)


@partial(jax.jit, static_argnames="placement")
def _taken(tree, at, placement: Placement):
    return placement.everywhere(jax.tree.map(lambda leaf: leaf[at], tree))
