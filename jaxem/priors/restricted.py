"""Params that are held or tied: a fit in fewer coordinates, for any model that provides Q."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxem.contract.constraints import Constraint, Fixed, Simplex, constrain, movable, unconstrain
from jaxem.contract.errors import NotProvidedError
from jaxem.contract.model import model_class
from jaxem.contract.pytree import in_data_units, pytree_class, static
from jaxem.contract.units import Units
from jaxem.contract.wrapper import SameDensity
from jaxem.inputs.arrays import as_start
from jaxem.numerics.newton import climb

#: The number of a held entry, where other entries have the numbers of their coordinates.
HELD = -1


@dataclasses.dataclass(frozen=True)
class Restriction(Constraint):
    """The constraint of a leaf of which some entries are held and others share coordinates.

    Its unconstrained form is {"held": the leaf, "free": one set of coordinates for each number}.

    Attributes:
        place: the constraint of the leaf without restrictions.
        shape: the axes of the leaf before those of an event, such as a matrix.
        ids: for each entry along these axes, flat, the number of its coordinates, or HELD.
    """

    place: Constraint
    shape: tuple[Any, ...]
    ids: tuple

    def _numbers(self):
        return np.array(self.ids, int).reshape(self.shape)

    def _index(self, free_shape):
        """The position of each unconstrained coordinate of the leaf among the flat free ones."""
        event = free_shape[len(self.shape) :]
        size = int(np.prod(event))
        numbers = self._numbers().reshape(self.shape + (1,) * len(event))
        return np.where(numbers == HELD, HELD, numbers * size + np.arange(size).reshape(event))

    def _over_entries(self, mask, value):
        return mask.reshape(self.shape + (1,) * (value.ndim - len(self.shape)))

    def to_free(self, value: Any) -> Any:
        free = self.place.to_free(value)
        index = self._index(free.shape).ravel()
        used = index != HELD
        n = int(index.max(initial=HELD)) + 1
        counts = np.bincount(index[used], minlength=n)
        sums = jnp.zeros(n, free.dtype).at[index[used]].add(free.ravel()[used])
        return {"held": value, "free": sums / np.maximum(counts, 1).astype(free.dtype)}

    def to_params(self, free: Any) -> Any:
        held = jax.lax.stop_gradient(free["held"])
        inside = self.place.to_free(held)
        index = self._index(inside.shape)
        # Held entries may lie on the boundary, where coordinates are infinite. Any others will do
        # here, because the result does not use them.
        here = jnp.where(index == HELD, jnp.nan_to_num(inside), _at(free["free"], index))
        value = self.place.to_params(here)
        return jnp.where(self._over_entries(self._numbers() == HELD, value), held, value)

    def settled(self, value: Any, held: Any) -> Any:
        """A leaf that obeys the restriction.

        Held entries are as in `held`, and tied ones at their mean in unconstrained coordinates.
        """
        numbers = self._numbers()
        counts = np.bincount(numbers[numbers != HELD], minlength=1)
        shared = (numbers != HELD) & (counts[np.maximum(numbers, 0)] > 1)
        if shared.any():
            tied = self.to_params({"held": held, "free": self.to_free(value)["free"]})
            value = jnp.where(self._over_entries(shared, value), tied, value)
        return jnp.where(self._over_entries(numbers == HELD, value), held, value)

    def n_free(self, shape: Any) -> int:
        each = self.place.n_free(shape[len(self.shape) :])
        return each * (max(self.ids, default=HELD) + 1)

    def moves(self, free: Any) -> Any:
        return {"held": jnp.zeros_like(free["held"], bool), "free": jnp.ones_like(free["free"], bool)}

    def violation(self, value: Any) -> Any:
        return self.place.violation(value)


def _at(values, index):
    return values[np.maximum(index, 0)] if values.size else jnp.zeros(index.shape, values.dtype)


@model_class
class Restricted(SameDensity):
    """A model with params that are held at given values or tied to each other; see `restrict`.

    The M-step maximises Q over the coordinates that are left. It starts from the M-step of the
    model and climbs by Newton's method to where the gradient in these coordinates is 0. A step in p
    coordinates costs p^3 operations; no step is taken where the first point is the solution
    already (held weights, held components). `n_free_params` counts what is left, and gradient fits
    and the laws use the same coordinates.

    Attributes:
        model: the model without restrictions.
        params: where entries are held, in the units of the data.
        restrictions: the restriction of each leaf of params, as `restrict` makes them.
    """

    model: Any
    params: Any = in_data_units()
    restrictions: tuple[Any, ...] = static(default=())

    def constraints(self) -> Any:
        places, tree = jax.tree.flatten(self.model.constraints(), is_leaf=_is_constraint)
        every = [
            place if rule is None else Fixed(place) if rule == "held" else Restriction(place, *rule)
            for place, rule in zip(places, self.restrictions, strict=True)
        ]
        return jax.tree.unflatten(tree, every)

    def settled(self, params: Any) -> Any:
        leaves, tree = jax.tree.flatten(params)
        places = jax.tree.leaves(self.constraints(), is_leaf=_is_constraint)
        rows = zip(places, self.restrictions, leaves, jax.tree.leaves(self.params), strict=True)
        settled = [_settled(place, rule, leaf, jnp.asarray(held, leaf.dtype)) for place, rule, leaf, held in rows]
        return jax.tree.unflatten(tree, settled)

    def init(self, key: jax.Array, x: Any, weights: jax.Array | None = None, kind: Any = 0) -> Any:
        return self.settled(self.model.init(key, x, weights, kind))

    def maximize(self, stats: Any, params: Any = None) -> Any:
        guess = self.settled(self.model.maximize(stats, params))
        free = unconstrain(self, guess)
        flat, unravel = ravel_pytree(free)
        moving = np.flatnonzero(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(self._moving(free))]))
        if not len(moving):
            return guess

        def height(point):
            params = constrain(self, unravel(flat.at[moving].set(point)))
            return self.model.expected_log_joint(params, stats) + self.model.log_prior(params)

        start = flat[moving]
        if params is not None:
            before = ravel_pytree(unconstrain(self, params))[0][moving]
            start = jnp.where(height(before) > height(start), before, start)
        found = climb(height, start)
        return self.settled(constrain(self, unravel(flat.at[moving].set(found))))

    def _moving(self, free):
        """Which coordinates move, as arrays on the host. This depends on the structure alone."""
        shapes = jax.tree.map(lambda leaf: np.zeros(leaf.shape), free)
        with jax.ensure_compile_time_eval():
            return jax.tree.map(np.asarray, movable(self, shapes))

    def refined(self, params: Any, resp: Any, z: Any, weights: jax.Array | None = None) -> Any:
        return params

    def permute(self, params: Any, order: Any) -> Any:
        raise NotProvidedError(self, "permute", "components have restrictions of their own")

    # The statistics of the centred form cannot evaluate Q.

    def prepare(self, x: Any, weights: jax.Array | None = None, centred: bool = False) -> Any:
        return self.model.prepare(x, weights)

    def ill_conditioned(self, params: Any) -> Any:
        return None

    # --- units that keep columns apart, so that what is held or tied stays so ---------------------

    def units(self, x: Any, weights: jax.Array | None = None) -> Units:
        return RestrictedUnits(_columnwise(self.model.units(x, weights)), self)

    def origin(self, x: Any, params: Any = None) -> Units:
        origin = _columnwise(self.model.origin(x, params))
        return origin if origin.is_identity else RestrictedUnits(origin, self)


@pytree_class
class RestrictedUnits(Units):
    """The units of a restricted model, in which what is held and tied stays so to the bit.

    Attributes:
        inner_units: the units of the model without restrictions.
        restricted: the restricted model, in the units of the data.
    """

    inner_units: Units
    restricted: Any

    broadcasts = False

    @property
    def inner(self) -> Units:
        return self.inner_units.inner  # pyright: ignore[reportAttributeAccessIssue]

    def rows(self, x: Any) -> Any:
        return self.inner_units.rows(x)

    def rows_back(self, z: Any) -> Any:
        return self.inner_units.rows_back(z)

    def params(self, params: Any) -> Any:
        moved = self.inner_units.params(params)
        if any(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(moved)):
            return moved  # on the host: the program settles them, after they are rounded
        return self.inner_units.model(self.restricted).settled(moved)

    def back(self, params: Any) -> Any:
        return self.restricted.settled(self.inner_units.back(params))

    def log_volume(self) -> Any:
        return self.inner_units.log_volume()

    def loses_digits(self, params: Any) -> bool:
        return self.inner_units.loses_digits(params)

    def model(self, model: Any) -> Any:
        return self.inner_units.model(model)


def _is_constraint(node):
    return isinstance(node, Constraint)


def _settled(place, rule, leaf, held):
    if rule is None:
        return leaf
    return held if rule == "held" else place.settled(leaf, held)


def _columnwise(units):
    """Units in which no matrix mixes columns: each `matrix` and `inverse` becomes the identity."""

    def plain(path, leaf):
        name = getattr(path[-1], "name", "") if path else ""
        if name not in ("matrix", "inverse"):
            return leaf
        module = np if isinstance(leaf, np.ndarray) else jnp
        return module.broadcast_to(module.eye(leaf.shape[-1], dtype=leaf.dtype), leaf.shape)

    return jax.tree_util.tree_map_with_path(plain, units)


# --- from the arguments of `restrict` to the rule of each leaf ----------------------------------


def restrict(model: Any, params: Any, *, freeze: Any = (), tie: Any = ()) -> Restricted:
    """A model in which some params are held at given values, or equal to each other.

    A part of a covariance matrix, or of a vector of probabilities, cannot be held by itself; the
    whole matrix of one component can. Weights that are tied are all equal to 1 / k.

    Args:
        model: a model that provides `expected_log_joint`.
        params: params of the model, in the units of the data. What is frozen keeps its value in
            every restart, to the bit.
        freeze: what is held. Paths of leaves, such as "weights" or "components.mean" (and
            "components" is all below it); a dict from paths to masks of bool, which are broadcast
            to the leaf; or a tree of masks like params.
        tie: what all components share, in the same form. A leaf, or its masked part, is equal along
            its leading axis.

    Returns:
        The restricted model.

    Raises:
        ValueError: a path does not exist, a mask does not fit, or the restrictions contradict each
            other.

    Examples:
        >>> import jax, jaxem
        >>> x = jaxem.datasets.old_faithful()
        >>> model = jaxem.gaussian_mixture(2)
        >>> start = model.init(jax.random.key(0), x)
        >>> equal = jaxem.restrict(model, start, tie=["weights", "components.cov"])
        >>> best, _ = jaxem.fit_restarts(equal, x, jax.random.key(0), n_restarts=4)
        >>> best.params.weights.tolist()
        [0.5, 0.5]
        >>> jaxem.n_free_params(equal, best.params)  # 4 means, 3 of a covariance
        7
    """
    params = as_start(model, params, None, "params")
    places = jax.tree.leaves(model.constraints(), is_leaf=_is_constraint)
    paths = [jax.tree_util.keystr(path).lstrip(".") for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    leaves, tree = jax.tree.flatten(params)
    frozen = _masks("freeze", freeze, paths, leaves, tree)
    tied = _masks("tie", tie, paths, leaves, tree)
    rules = []
    for i, (path, place) in enumerate(zip(paths, places, strict=True)):
        leaves[i], rule = _rule(path, place, np.asarray(leaves[i]), frozen[i], tied[i])
        rules.append(rule)
    return Restricted(model, jax.tree.unflatten(tree, leaves), tuple(rules))


def _masks(name, given, paths, leaves, tree):
    """A mask of bool for each leaf."""
    masks = [np.zeros(np.shape(leaf), bool) for leaf in leaves]
    if jax.tree.structure(given) == tree and not isinstance(given, (str, dict)):
        given = dict(zip(paths, jax.tree.leaves(given), strict=True))
    given = {given: True} if isinstance(given, str) else given
    given = given if isinstance(given, dict) else dict.fromkeys(given, True)
    for path, mask in given.items():
        below = [i for i, known in enumerate(paths) if known == path or known.startswith((f"{path}.", f"{path}["))]
        if not below:
            raise ValueError(f"{name}: no params at {path!r}; expected one of {', '.join(paths)}")
        for i in below:
            try:
                masks[i] = masks[i] | np.broadcast_to(np.asarray(mask, bool), masks[i].shape)
            except ValueError:
                raise ValueError(
                    f"{name}: the mask of {paths[i]!r} has shape {np.shape(mask)}, the leaf {masks[i].shape}"
                ) from None
    return masks


def _rule(path, place, leaf, frozen, tied):
    """The leaf and its rule: None, "held", or the shape and the ids of a `Restriction`."""
    if isinstance(place, Fixed):
        if tied.any():
            raise ValueError(f"tie: {path!r} is not estimated by this model")
        return leaf, None
    if tied.all() and leaf.ndim == 1 and isinstance(place, Simplex):
        if frozen.any() and not np.allclose(leaf, 1 / leaf.size):
            raise ValueError(f"tie: {path!r} is frozen at unequal values, and tied to be equal")
        return np.full_like(leaf, 1 / leaf.size), "held"
    if frozen.all():
        _agree(path, leaf, tied)
        return leaf, "held"
    if not (frozen.any() or tied.any()):
        return leaf, None
    batch = leaf.shape[: leaf.ndim - place.event_ndim]
    frozen, tied = (_of_places(path, name, mask, batch) for name, mask in (("freeze", frozen), ("tie", tied)))
    if tied.any() and not batch:
        raise ValueError(f"tie: {path!r} is one already, there is nothing to tie")
    numbers = np.arange(int(np.prod(batch))).reshape(batch)
    numbers = np.where(tied, np.where(tied, numbers, numbers.max(initial=0)).min(0, keepdims=True), numbers)
    if (tied & frozen).any():
        mixed = tied.any(0) & frozen.any(0) & ~(frozen | ~tied).all(0)
        if mixed.any():
            raise ValueError(f"tie: entries of {path!r} are tied to one that is frozen; freeze all of them or none")
        _agree(path, leaf, np.broadcast_to((tied & frozen).reshape(batch + (1,) * place.event_ndim), leaf.shape))
    _, ids = np.unique(numbers[~frozen], return_inverse=True)
    every = np.full(batch, HELD)
    every[~frozen] = ids.ravel()
    return leaf, (batch, tuple(every.ravel().tolist()))


def _of_places(path, name, mask, batch):
    """The mask of whole events of a leaf, from the mask of its numbers."""
    flat = mask.reshape(*batch, -1)
    if (flat.any(-1) != flat.all(-1)).any():
        raise ValueError(f"{name}: a part of one entry of {path!r} (a matrix, or probabilities) cannot stand alone")
    return flat.all(-1)


def _agree(path, leaf, tied):
    """Raise ValueError unless frozen entries that are tied are equal."""
    first = np.take_along_axis(leaf, np.argmax(tied, 0)[None], 0) if leaf.ndim else leaf
    if (tied & (leaf != first)).any():
        raise ValueError(f"tie: {path!r} is frozen at unequal values, and tied to be equal")
