"""Mixtures that differ only in their number of components, fitted in one compiled program.

A component of weight 0 gets no responsibility in the E-step and keeps weight 0 in the M-step. So a
mixture of k components is a mixture of more components, of which only k are active. Where data are
small, compiling costs far more time than iterating.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.algorithms.em import EM
from jaxem.contract.family import map_components
from jaxem.contract.model import Model
from jaxem.engine.result import Status
from jaxem.families.exponential_family import ExponentialFamily
from jaxem.fitting.data import check_data
from jaxem.fitting.fit import run_fit
from jaxem.fitting.restarts import START_ROWS, Restarts, best_of, lanes_for
from jaxem.inputs import arrays
from jaxem.latent.mixture import Mixture
from jaxem.numerics.chunks import map_in_batches
from jaxem.numerics.hardware import hardware

#: Up to this number of rows times restarts, one program for all sizes is faster. On CPU, the times
#: of a first call of `select`, and of a call whose programs were compiled before, were these shares
#: of the times with a program for each size: 0.4 and 0.6 for 4 sizes and 6,000 rows; 0.5 and 0.65
#: for 4 sizes and 20,000 rows; 0.65 and 1 for 12 sizes and 6,000 rows. Every iteration has the
#: width of the largest size, but lanes are refilled from one long queue. Larger problems were not
#: measured.
SHARED_ROWS = 64 * START_ROWS


class SizedStarts(NamedTuple):
    """A function that makes n starts of every size inside the compiled program.

    Start r of a size does not depend on the other sizes.

    Attributes:
        sizes: the numbers of components.
        n: the number of starts of each size.
    """

    sizes: tuple[Any, ...]
    n: int

    def __call__(self, model: Model, units: Any, x: Any, weights: jax.Array, key: jax.Array) -> Any:
        z = units.rows(x)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(self.n))
        kinds = np.resize(range(len(model.start_kinds)), self.n)
        plan = (
            jnp.tile(keys, len(self.sizes)),
            jnp.asarray(np.tile(kinds, len(self.sizes))),
            jnp.asarray(np.repeat(self.sizes, self.n)),
        )
        batch = max(1, min(len(self.sizes) * self.n, hardware().batch_rows // arrays.n_rows(z)))
        return map_in_batches(lambda each: model.init(each[0], z, weights, *each[1:]), plan, batch)


def groups(models: dict, n_rows: int, n_restarts: int, algorithm: Any) -> list[list]:
    """The names of the models, in groups that one program fits.

    Args:
        models: the models by name.
        n_rows: the number of rows.
        n_restarts: the number of starts of each model.
        algorithm: the algorithm; only EM can fit several sizes in one program.
    """
    small = n_rows <= START_ROWS and n_rows * n_restarts <= SHARED_ROWS and isinstance(algorithm, EM)
    together: dict = {}
    for name, model in models.items():
        together.setdefault(_kind(model) if small and _can_be_padded(model) else name, []).append(name)
    return list(together.values())


def _can_be_padded(model):
    """Whether a model may be padded with components: a mixture with free weights and no prior.

    A prior would include the components that were added.
    """
    if type(model) is not Mixture or model.mixing != "free" or not isinstance(model.component, ExponentialFamily):
        return False
    return Model.log_prior is type(model).log_prior is type(model.component).log_prior


def _kind(model):
    """A key that two mixtures share if they differ only in their number of components."""
    leaves, structure = jax.tree.flatten(dataclasses.replace(model, n_components=1))
    return structure, tuple((np.shape(leaf), np.asarray(leaf).tobytes()) for leaf in leaves)


def fit_sizes(
    models: Any,
    x: Any,
    key: jax.Array,
    *,
    n_restarts: int,
    weights: jax.Array,
    algorithm: Any,
    tol: Any,
    max_steps: Any,
) -> list[Restarts]:
    """`fit_restarts` of several mixtures that differ only in their sizes, in one program.

    Args:
        models: the mixtures.
        x: rows [n, ...].
        key: a random key.
        n_restarts: the number of starts of each model.
        weights: sample weights [n], or None.
        algorithm: the algorithm.
        tol: as in `fit`.
        max_steps: as in `fit`.

    Returns:
        The fits of each model, in order.
    """
    sizes = [model.n_components for model in models]
    largest = models[int(np.argmax(sizes))]
    data = check_data(largest, x, weights, tol, max_steps, None)
    starts = {"key": key, "make_starts": SizedStarts(tuple(sizes), n_restarts)}
    fits = run_fit(largest, data, algorithm, tol, max_steps, None, n_lanes=lanes_for(largest), **starts)
    fits = jax.tree.map(np.asarray, fits)
    used = np.asarray(data.weights)
    n_points = max(used.sum(), (used > 0).sum())
    every = []
    for i, model in enumerate(models):
        own = jax.tree.map(lambda leaf, at=i * n_restarts: leaf[at : at + n_restarts], fits)
        own = _unpadded(model, own, float(n_points))
        best = int(best_of(own))
        every.append(Restarts(_placed(jax.tree.map(lambda leaf, at=best: leaf[at], own)), _placed(own)))
    return every


def _placed(fits):
    """Fits on the device, except for leaves in a dtype that JAX lacks (see `Frame.params_back`)."""

    # Arrays are moved but not converted, because a conversion compiles a program for every shape.
    def place(leaf):
        return jax.device_put(leaf) if jax.dtypes.canonicalize_dtype(leaf.dtype) == leaf.dtype else leaf

    return jax.tree.map(place, fits)


def _unpadded(model, fits, n_points):
    """Fits [r] without the components that were added, which then do not count as empty."""
    k = model.n_components
    components = map_components(model.component, lambda leaf: leaf[:, :k], fits.params.components)
    params = fits.params._replace(weights=fits.params.weights[:, :k], components=components)
    empty = np.asarray(model.empty(params, n_points)).reshape(len(fits.status), -1).any(1)
    status = np.where((fits.status == Status.EMPTY) & ~empty, Status.CONVERGED, fits.status).astype(fits.status.dtype)
    return fits._replace(params=params, status=status, degenerate=fits.degenerate[:, :k])


def padded(model: Model, params: Any, k: int) -> Any:
    """Params of a mixture as those of a mixture of k components, on the host.

    Args:
        model: the mixture.
        params: its params.
        k: the number of components; those that are added have weight 0.
    """

    def grow(leaf):
        return np.concatenate([leaf, np.repeat(leaf[:1], k - model.n_components, 0)])

    params = jax.tree.map(np.asarray, params)
    weights = np.concatenate([params.weights, np.zeros(k - model.n_components, params.weights.dtype)])
    return params._replace(weights=weights, components=map_components(model.component, grow, params.components))
