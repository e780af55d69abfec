"""What is known of hidden values: labels, allowed sets and prior responsibilities of rows, all in one table."""

import functools
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.contract.family import Family
from jaxem.contract.model import EStep, Model, model_class
from jaxem.contract.wrapper import Wrapper
from jaxem.inputs import arrays

#: The label of a row of which nothing is known.
UNKNOWN = -1


class LabelledRows(NamedTuple):
    """Rows of a family, and evidence [n, k]: how likely what is known of each row is under every hidden value."""

    rows: Any
    evidence: Any


@model_class
class Labelled(Wrapper, Family):
    """`model`, a family, with what is known of each row's hidden value: p(x_i | k) becomes evidence_ik p(x_i | k).

    A label is a row of evidence with a single 1, an allowed set has a 1 for each of its members, and prior
    responsibilities are any numbers of at least 0. A row's log-likelihood is then log sum_k weights_k evidence_ik
    p(x_i | k): for a label y that of the pair (x, y). The latent structure around the family knows nothing of it.
    """

    model: Any

    @property
    def row_ndim(self):
        return self.model.row_ndim

    def rows(self, x):
        return LabelledRows(self.model.rows(x.rows), x.evidence)

    def prepare(self, x, weights=None, centred=False):
        return LabelledRows(self.model.prepare(x.rows, weights, centred), x.evidence)

    def to_units(self, units, x):
        return LabelledRows(self.model.to_units(units, x.rows), x.evidence)

    def e_step(self, params, x):
        latent, log_prob = self.model.e_step(params, x.rows)
        return EStep(latent, log_prob + jnp.log(x.evidence))

    def sample_like(self, params, key, x):
        """Rows of every component, and nothing known of them: leaves [n, k, ...]."""
        rows = self.model.sample_like(params, key, x.rows)
        return LabelledRows(rows, jnp.ones((*x.evidence.shape, x.evidence.shape[1]), x.evidence.dtype))

    def informed(self, resp, x):
        """`resp` with its columns renumbered to agree with the evidence as well as may be, times the evidence."""
        share = x.evidence / x.evidence.sum(-1, keepdims=True)
        tells = (share.max(-1) > share.min(-1)).astype(resp.dtype)
        resp = self.model.informed(resp, x.rows)[:, matched((resp * tells[:, None]).T @ share)]
        both = resp * x.evidence
        total = both.sum(-1, keepdims=True)
        return jnp.where(total > 0, both / jnp.where(total > 0, total, 1), share)

    def permute(self, params, order):
        raise NotImplementedError("permute: labels number the components")

    def in_units(self, units):
        return self

    def component_axes(self):
        return self.model.component_axes()


def _of_rows(name):
    """The method of the wrapped family, called with the rows in place of the labelled rows."""
    original = getattr(Family, name)
    names = list(inspect.signature(original).parameters)[1:]
    at = next(i for i, argument in enumerate(names) if argument in ("x", "z"))

    def method(self, *args, **kwargs):
        args = [*args]
        if len(args) > at:
            args[at] = args[at].rows
        else:
            kwargs[names[at]] = kwargs[names[at]].rows
        return getattr(self.model, name)(*args, **kwargs)

    setattr(Labelled, name, functools.wraps(original)(method))


for _name in (
    *("sufficient_statistics", "embed", "init_components", "units", "origin", "refine", "observed", "n_observations"),
    *("check_finite", "check", "check_shapes", "check_fit", "conditional_mean"),
):
    _of_rows(_name)


def matched(agreement):
    """For every column of [k, k] a row of its own, the largest entries first."""
    k = agreement.shape[0]

    def take(_, carry):
        table, rows = carry
        row, column = jnp.divmod(jnp.argmax(table), k)
        return table.at[row].set(-1).at[:, column].set(-1), rows.at[column].set(row)

    return jax.lax.fori_loop(0, k, take, (agreement, jnp.arange(k)))[1]


def label_rows(component: Model, rows, labels, shape, k):
    """(the family of labelled rows, the rows with their evidence); rows have leading axes of `shape`."""
    dtype = jnp.result_type(*jax.tree.leaves(rows))
    return Labelled(component), LabelledRows(rows, evidence_of(labels, shape, k, dtype))


def evidence_of(labels, shape, k, dtype):
    """A table [*shape, k] from labels [*shape] of int (-1: unknown), or from a table of bool or of numbers >= 0."""
    if not arrays.is_traced(labels):
        labels = np.asarray(labels)
        if labels.dtype.kind not in "biuf":
            raise ValueError(f"labels: expected whole numbers, -1 for unknown; got dtype {labels.dtype}")
    if labels.shape == tuple(shape):
        _check_labels(labels, k)
        known = jax.nn.one_hot(labels, k, dtype=dtype) if arrays.is_traced(labels) else np.eye(k)[labels.astype(int)]
        module = jnp if arrays.is_traced(labels) else np
        return module.where((labels == UNKNOWN)[..., None], 1, known).astype(dtype)
    if labels.shape != (*shape, k):
        raise ValueError(
            f"labels: expected shape {tuple(shape)} of int (-1: unknown), or {(*shape, k)} of what each row allows; "
            f"got {labels.shape}"
        )
    _check_table(labels)
    return labels.astype(dtype)


def _check_labels(labels, k):
    if arrays.is_traced(labels):
        return
    if labels.dtype.kind == "b":
        raise ValueError("labels: expected whole numbers; got bool (what rows allow is a table with k columns)")
    wrong = (labels < UNKNOWN) | (labels >= k) | (labels != np.floor(labels))
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        at = place[0] if len(place) == 1 else place
        raise ValueError(f"labels: expected -1 (unknown) or 0 to {k - 1}; got {labels[place]} at row {at}")


def _check_table(table):
    if arrays.is_traced(table):
        return
    bad = ~(np.isfinite(table) & (table >= 0)).all(-1)
    empty = ~bad & ~(table > 0).any(-1)
    for wrong, what in ((bad, "expected numbers of at least 0"), (empty, "no hidden value is allowed")):
        if wrong.any():
            place = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise ValueError(f"labels: {what} at row {place[0] if len(place) == 1 else place}")
