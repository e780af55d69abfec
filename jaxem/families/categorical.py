"""Vectors of unordered categories, independent given the component: latent class analysis."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.contract.constraints import Simplex
from jaxem.contract.model import model_class
from jaxem.contract.pytree import static
from jaxem.families.exponential_family import ExponentialFamily, log_or_impossible
from jaxem.families.support import Numbers, Values, Vectors


class CategoricalParams(NamedTuple):
    """The params of `Categorical`.

    Attributes:
        prob: the probability of each category of each item, [k, d, c]; it is 0 beyond the
            categories that an item has.
    """

    prob: Any


@dataclasses.dataclass(frozen=True)
class PaddedSimplex(Simplex):
    """Probabilities [..., d, c] along the last axis, of which item j uses the first sizes[j].

    The coordinates [..., sum(sizes - 1)] are log-odds against the last category of each item.
    """

    sizes: tuple[Any, ...] = ()

    event_ndim = 2

    def to_params(self, free: Any) -> Any:
        width = max(self.sizes)
        index = np.full((len(self.sizes), width), free.shape[-1] + 1)
        for j, (size, end) in enumerate(
            zip(self.sizes, np.cumsum(self.sizes) - np.arange(len(self.sizes)), strict=True)
        ):
            index[j, : size - 1] = np.arange(end - size, end - 1)
            index[j, size - 1] = free.shape[-1]
        ends = jnp.broadcast_to(jnp.array([0.0, -jnp.inf], free.dtype), (*free.shape[:-1], 2))
        return jax.nn.softmax(jnp.concatenate([free, ends], -1)[..., index], -1)

    def to_free(self, value: Any) -> Any:
        logs = jnp.log(jnp.maximum(value, jnp.finfo(value.dtype).tiny))
        odds = [logs[..., j, : size - 1] - logs[..., j, size - 1 : size] for j, size in enumerate(self.sizes)]
        return jnp.concatenate(odds, -1)

    def n_free(self, shape: Any) -> int:
        return int(np.prod(shape[:-2])) * sum(size - 1 for size in self.sizes)

    def violation(self, value: Any) -> Any:
        beyond = np.arange(value.shape[-1]) >= np.asarray(self.sizes)[:, None]
        return super().violation(value) or ("is not 0 beyond an item's categories" if (value * beyond).any() else None)


@model_class
class Categorical(ExponentialFamily):
    """Items with unordered categories: p(x) = prod_j prob[j, x_j], for x [n, d] coded 0, 1, ...

    The M-step is the weighted share of each category. Probabilities may be exactly 0: 0 log 0 = 0,
    and a row that contradicts one has log_prob -inf. Goodman (1974); McLachlan and Peel (2000),
    section 5.10.

    Args:
        n_categories: how many categories each item has: one number, or one for each item.
        scalar: True for a single item, x [n]; its params have d = 1.

    Raises:
        ValueError: n_categories are not whole numbers above 0.

    Examples:
        >>> import jax, jaxem
        >>> x = jax.numpy.array([[0., 2.], [0., 2.], [1., 0.], [1., 1.]])
        >>> model = jaxem.categorical_mixture(2, n_categories=(2, 3))
        >>> best, _ = jaxem.fit_restarts(model, x, jax.random.key(0), n_restarts=8)
        >>> best.params.components.prob.shape, round(float(best.log_lik), 3)
        ((2, 2, 3), -4.159)
    """

    n_categories: int | Sequence[int] = static()
    scalar: bool = static(default=False)
    excludes = True

    def __post_init__(self) -> None:
        if isinstance(self.n_categories, (list, np.ndarray)):
            object.__setattr__(self, "n_categories", tuple(int(size) for size in self.n_categories))
        sizes = self.n_categories if isinstance(self.n_categories, tuple) else (self.n_categories,)
        whole = all(isinstance(size, (int, np.integer)) and not isinstance(size, bool) and size > 0 for size in sizes)
        if not whole or not sizes:
            raise ValueError(f"n_categories: expected one whole number above 0, or one per item; got {sizes!r}")

    @property
    def support(self) -> Any:
        sizes = np.asarray(self.n_categories)
        limit = f"{self.width - 1}" if sizes.ndim == 0 else f"{(sizes - 1).tolist()} (by column)"
        codes = Values(f"categories coded from 0 to {limit}", lambda x: (x >= 0) & (x < sizes) & (x == np.floor(x)))
        return Numbers(codes) if self.scalar else Vectors(codes)

    @property
    def param_shapes(self) -> Any:
        return CategoricalParams(("k", 1 if self.scalar else "d", self.width))

    @property
    def width(self) -> int:
        """The number of categories of the largest item."""
        return self.n_categories if isinstance(self.n_categories, int) else max(self.n_categories)

    @property
    def independent_columns(self) -> bool:
        return True

    def features(self, x: Any) -> Any:
        return jax.nn.one_hot(jnp.atleast_1d(x).astype(jnp.int32), self.width, dtype=x.dtype).ravel()

    def natural(self, params: Any) -> Any:
        return log_or_impossible(params.prob.ravel())

    def log_normalizer(self, params: Any) -> Any:
        return jnp.zeros((), params.prob.dtype)

    def from_moments(self, moments: Any) -> CategoricalParams:
        share = moments.reshape(-1, self.width)
        return CategoricalParams(share / share.sum(-1, keepdims=True))

    def moments(self, params: Any) -> Any:
        return params.prob.ravel()

    def constraints(self) -> CategoricalParams:
        sizes = self.n_categories
        return CategoricalParams(PaddedSimplex(sizes) if isinstance(sizes, tuple) else Simplex())

    def embed(self, x: Any, weights: jax.Array | None = None) -> Any:
        """One-hot items [n, d c]: the more items differ, the larger the distance of two rows."""
        return jax.vmap(self.features)(x)

    def sample(self, params: Any, key: jax.Array, n: int) -> Any:
        """n rows of every component, [n, k, d], or [n, k] if scalar."""
        logits = jnp.log(params.prob)
        codes = jax.random.categorical(key, logits, shape=(n, *logits.shape[:-1])).astype(params.prob.dtype)
        return codes[..., 0] if self.scalar else codes

    def check(self, x: Any, params: Any = None) -> None:
        self.support.check_shape(x)
        d = 1 if self.scalar else x.shape[1]
        if isinstance(self.n_categories, tuple) and len(self.n_categories) != d:
            raise ValueError(f"x: n_categories names {len(self.n_categories)} items; got {d} columns")
        super().check(x, params)
