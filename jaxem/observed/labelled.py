"""Knowledge about hidden values in one table: labels, allowed sets and prior responsibilities."""

import functools
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.contract.errors import NotProvidedError
from jaxem.contract.family import Family
from jaxem.contract.model import EStep, model_class
from jaxem.contract.pytree import pytree_class
from jaxem.contract.units import Units
from jaxem.contract.wrapper import Wrapper
from jaxem.numerics.tracing import is_traced

#: The label of a row whose hidden value is unknown.
UNKNOWN = -1


class LabelledRows(NamedTuple):
    """Rows of a family with what is known about their hidden values.

    Attributes:
        rows: rows of the family.
        evidence: [n, k], the likelihood of what is known about each row under every hidden value.
    """

    rows: Any
    evidence: Any


@pytree_class
class LabelledUnits(Units):
    """The units of the rows; the evidence has no units."""

    inner: Units

    @property
    def broadcasts(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.broadcasts

    def rows(self, x: Any) -> Any:
        return LabelledRows(self.inner.rows(x.rows), x.evidence)

    def rows_back(self, z: Any) -> Any:
        return LabelledRows(self.inner.rows_back(z.rows), z.evidence)

    def params(self, params: Any) -> Any:
        return self.inner.params(params)

    def back(self, params: Any) -> Any:
        return self.inner.back(params)

    def log_volume(self) -> Any:
        return self.inner.log_volume()

    def loses_digits(self, params: Any) -> bool:
        return self.inner.loses_digits(params)


@model_class
class Labelled(Wrapper, Family):
    """A family with evidence about the hidden value of each row.

    p(x_i | k) becomes evidence_ik p(x_i | k). For a label, a row of evidence has a single 1; for an
    allowed set it has a 1 for each member; prior responsibilities are any numbers of at least 0.
    The log-likelihood of a row is then log sum_k weights_k evidence_ik p(x_i | k), in nats; for a
    label y it is that of the pair (x, y). The latent structure around the family stays the same.

    Args:
        model: the family. A fit with `labels=` wraps the family of its model in this class.
    """

    model: Any

    @classmethod
    def taken_over(cls, name: str, declared: Any) -> Any:
        """The method `name` of the wrapped family, which gets the rows without their evidence."""
        names = list(inspect.signature(declared).parameters)[1:]
        places = [i for i, argument in enumerate(names) if argument in ("x", "z")]
        if not places:
            return super().taken_over(name, declared)
        at = places[0]

        @functools.wraps(declared)
        def method(self, *args, **kwargs):
            args = [*args]
            if len(args) > at:
                args[at] = _rows_of(args[at])
            else:
                kwargs[names[at]] = _rows_of(kwargs.get(names[at]))
            return getattr(self.model, name)(*args, **kwargs)

        return method

    @classmethod
    def own_methods(cls) -> Any:
        return super().own_methods() - {"init_components"}

    def rows(self, x: Any) -> Any:
        return LabelledRows(self.model.rows(x.rows), x.evidence)

    def prepare(self, x: Any, weights: jax.Array | None = None, centred: bool = False) -> Any:
        return LabelledRows(self.model.prepare(x.rows, weights, centred), x.evidence)

    def e_step(self, params: Any, x: Any) -> EStep:
        latent, log_prob = self.model.e_step(params, x.rows)
        return EStep(latent, log_prob + jnp.log(x.evidence))

    def units(self, x: Any, weights: jax.Array | None = None) -> Units:
        return _with_evidence(self.model.units(x.rows, weights))

    def origin(self, x: Any, params: Any = None) -> Units:
        return _with_evidence(self.model.origin(_rows_of(x), params))

    def sample_like(self, params: Any, key: jax.Array, x: Any) -> Any:
        """Draw rows of every component, leaves [n, k, ...], with evidence that says nothing."""
        rows = self.model.sample_like(params, key, x.rows)
        return LabelledRows(rows, jnp.ones((*x.evidence.shape, x.evidence.shape[1]), x.evidence.dtype))

    def informed(self, resp: Any, x: Any) -> Any:
        """`resp` times the evidence, normalised.

        The columns of `resp` are renumbered before, so that they agree with the evidence as well as
        the greedy choice of `matched` can make them.
        """
        share = x.evidence / x.evidence.sum(-1, keepdims=True)
        tells = (share.max(-1) > share.min(-1)).astype(resp.dtype)
        resp = self.model.informed(resp, x.rows)[:, matched((resp * tells[:, None]).T @ share)]
        both = resp * x.evidence
        total = both.sum(-1, keepdims=True)
        return jnp.where(total > 0, both / jnp.where(total > 0, total, 1), share)

    def permute(self, params: Any, order: Any) -> Any:
        raise NotProvidedError(self, "permute", "labels number the components")


def _rows_of(x):
    return x.rows if isinstance(x, LabelledRows) else x


def _with_evidence(units: Units) -> Units:
    return units if units.is_identity else LabelledUnits(units)


def matched(agreement: jax.Array) -> jax.Array:
    """A different row for every column of a table [k, k]: [k] of int.

    Rows are chosen greedily, by the largest entries first.
    """
    k = agreement.shape[0]

    def take(_, carry):
        table, rows = carry
        row, column = jnp.divmod(jnp.argmax(table), k)
        return table.at[row].set(-1).at[:, column].set(-1), rows.at[column].set(row)

    return jax.lax.fori_loop(0, k, take, (agreement, jnp.arange(k)))[1]


def label_rows(component: Any, rows: Any, labels: Any, shape: tuple[int, ...], k: int) -> Any:
    """A family of labelled rows, and the rows with the evidence of their labels.

    Args:
        component: the family of the rows.
        rows: rows of the family, with leading axes of `shape`.
        labels: labels, or a table, see `evidence_of`.
        shape: the shape of the labels, [n]; for sequences [n, t].
        k: the number of hidden values.

    Returns:
        (the `Labelled` family, `LabelledRows`).
    """
    dtype = jnp.result_type(*jax.tree.leaves(rows))
    return Labelled(component), LabelledRows(rows, evidence_of(labels, shape, k, dtype))


def evidence_of(labels: Any, shape: tuple[int, ...], k: int, dtype: Any) -> Any:
    """The table of evidence, [*shape, k].

    Args:
        labels: labels [*shape] of int, where -1 stands for unknown, or a table [*shape, k] of bool
            or of numbers of at least 0. The values may be traced; they are not checked then.
        shape: the leading axes of the rows.
        k: the number of hidden values.
        dtype: the dtype of the table.

    Raises:
        ValueError: the labels have another dtype, another shape, or impossible values.
    """
    if not is_traced(labels):
        labels = np.asarray(labels)
        if labels.dtype.kind not in "biuf":
            raise ValueError(f"labels: expected whole numbers, -1 for unknown; got dtype {labels.dtype}")
    if labels.shape == tuple(shape):
        _check_labels(labels, k)
        known = jax.nn.one_hot(labels, k, dtype=dtype) if is_traced(labels) else np.eye(k)[labels.astype(int)]
        module = jnp if is_traced(labels) else np
        return module.where((labels == UNKNOWN)[..., None], 1, known).astype(dtype)
    if labels.shape != (*shape, k):
        raise ValueError(
            f"labels: expected shape {tuple(shape)} of int (-1: unknown), or {(*shape, k)} of what each row allows; "
            f"got {labels.shape}"
        )
    _check_table(labels)
    return labels.astype(dtype)


def _check_labels(labels, k):
    if is_traced(labels):
        return
    if labels.dtype.kind == "b":
        raise ValueError("labels: expected whole numbers; got bool (what rows allow is a table with k columns)")
    wrong = (labels < UNKNOWN) | (labels >= k) | (labels != np.floor(labels))
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        at = place[0] if len(place) == 1 else place
        raise ValueError(f"labels: expected -1 (unknown) or 0 to {k - 1}; got {labels[place]} at row {at}")


def _check_table(table):
    if is_traced(table):
        return
    bad = ~(np.isfinite(table) & (table >= 0)).all(-1)
    empty = ~bad & ~(table > 0).any(-1)
    for wrong, what in (
        (bad, "expected numbers of at least 0; got negative, NaN or infinite ones"),
        (empty, "expected an allowed hidden value in every row; got none"),
    ):
        if wrong.any():
            place = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise ValueError(f"labels: {what} at row {place[0] if len(place) == 1 else place}")
