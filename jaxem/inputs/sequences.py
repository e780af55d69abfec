"""Sequences as rows, in one form.

A person gives many sequences [n, t, ...], one sequence [t, ...], or padded ones with their lengths.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.inputs import arrays
from jaxem.numerics.tracing import is_traced

#: Length of sampled sequences where none is asked for.
SAMPLE_LENGTH = 100


class Sequences(NamedTuple):
    """Sequences in one form; each is one row.

    Attributes:
        values: arrays [n, t, ...]; what lies beyond the length of a sequence is valid too.
        lengths: the lengths of the sequences [n], or None where all are t long.
        single: () where one sequence was given without an axis of sequences, else None. It marks
            the structure and holds no data.
    """

    values: Any
    lengths: Any = None
    single: Any = None

    @property
    def shape(self) -> Any:
        """(n, t)."""
        return jax.tree.leaves(self.values)[0].shape[:2]

    @property
    def dtype(self) -> Any:
        return jax.tree.leaves(self.values)[0].dtype

    @property
    def n_observations(self) -> Any:
        """The length of each sequence [n], as a float."""
        n, t = self.shape
        return np.full(n, t, self.dtype) if self.lengths is None else self.lengths


class Prepared(NamedTuple):
    """Sequences whose observations a family has prepared.

    Attributes:
        data: the prepared observations, with the first ones of all sequences first.
        lengths: the lengths of the sequences [n], or None where all are t long.
        frame: an empty array [t, n, 0], which keeps the shape.
    """

    data: Any
    lengths: Any
    frame: Any

    @property
    def shape(self) -> Any:
        """(n, t)."""
        return self.frame.shape[1], self.frame.shape[0]


def pad_sequences(sequences: Sequence[Any]) -> tuple[Any, np.ndarray]:
    """Sequences of unequal lengths as one array, filled up with zeros, and their lengths.

    Args:
        sequences: n arrays [t_i, ...].

    Returns:
        The values [n, t, ...], where t is the largest length, and the lengths [n].

    Examples:
        >>> values, lengths = pad_sequences([[1.0, 2.0, 3.0], [4.0]])
        >>> values.shape, lengths.tolist()
        ((2, 3), [3, 1])
    """
    sequences = [np.asarray(sequence) for sequence in sequences]
    lengths = np.array([len(sequence) for sequence in sequences])
    values = np.zeros((len(sequences), lengths.max(), *sequences[0].shape[1:]), np.result_type(*sequences))
    for row, sequence in zip(values, sequences, strict=True):
        row[: len(sequence)] = sequence
    return values, lengths


def split_lengths(x: Any, row_ndim: int) -> Any:
    """The values and the lengths (or None) of what a person gives.

    A pair is values and lengths, unless one row is itself several arrays.
    """
    several = not isinstance(row_ndim, int)
    if isinstance(x, tuple) and len(x) == 2 and (not several or isinstance(x[0], tuple)):
        return x
    return x, None


def is_single(x: Any, row_ndim: int) -> bool:
    """True for one sequence given without an axis of sequences."""
    if isinstance(x, Sequences):
        return x.single is not None
    return _extra_axes(split_lengths(x, row_ndim)[0], row_ndim) == 1


def as_sequences(x: Any, row_ndim: int, name: str = "x") -> Sequences:
    """What a person gives as `Sequences`, also under a trace.

    What lies beyond a length becomes the first value of the sequence.

    Raises:
        ValueError: the shapes are not those of sequences, or there is no observation.
    """
    if isinstance(x, Sequences):
        return x
    values, lengths = split_lengths(x, row_ndim)
    values = arrays.as_rows(values, name)
    extra = _extra_axes(values, row_ndim)
    if extra not in (1, 2) or (lengths is not None and extra == 1):
        raise ValueError(f"{name}: {_expected(row_ndim)}; got shape {_shapes(values)}")
    if extra == 1:
        values = jax.tree.map(lambda leaf: leaf[None], values)
    n, t = Sequences(values).shape
    if 0 in (n, t):
        raise ValueError(f"{name}: expected at least one observation; got shape {_shapes(values)}")
    if lengths is None:
        return Sequences(values, None, () if extra == 1 else None)
    lengths = _checked_lengths(lengths, n, t, name).astype(jax.tree.leaves(values)[0].dtype)
    return Sequences(_filled(values, lengths), lengths)


def _extra_axes(values, row_ndim):
    """The number of axes before those of one row, or None if arrays disagree.

    An array whose row has an unknown rank (None) does not count.
    """
    ranks = row_ndim if isinstance(row_ndim, tuple) else (row_ndim,)
    leaves = values if isinstance(values, tuple) else (values,)
    extra = {np.ndim(leaf) - rank for rank, leaf in zip(ranks, leaves, strict=False) if rank is not None}
    return extra.pop() if len(extra) == 1 and len(ranks) == len(leaves) else None


def _expected(row_ndim):
    if row_ndim == 1:
        return "expected sequences of vectors [n, t, d], one sequence [t, d] (write x[:, None] for one feature)"
    if row_ndim == 0:
        return "expected sequences of numbers [n, t], or one sequence [t]"
    return "expected arrays [n, t, ...] (or [t, ...]) of the emission's rows"


def _shapes(values):
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(values)]
    return shapes[0] if len(shapes) == 1 else shapes


def _checked_lengths(lengths, n, t, name):
    if np.shape(lengths) != (n,):
        raise ValueError(f"{name}: expected {n} lengths, one per sequence; got shape {np.shape(lengths)}")
    if is_traced(lengths):
        return jnp.asarray(lengths)
    lengths = np.asarray(lengths)
    bad = ~((lengths >= 1) & (lengths <= t) & (lengths == np.floor(lengths)))
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"{name}: expected lengths from 1 to {t}; got {lengths[row]} for sequence {row}")
    return lengths


def _filled(values, lengths):
    """The values with the first one of a sequence, which is valid, beyond its length too."""

    def fill(leaf):
        module = np if isinstance(leaf, np.ndarray) and isinstance(lengths, np.ndarray) else jnp
        inside = module.arange(leaf.shape[1]) < lengths[:, None]
        return module.where(inside.reshape(*inside.shape, *[1] * (leaf.ndim - 2)), leaf, leaf[:, :1])

    return jax.tree.map(fill, values)


# --- observations as rows, in the order that recursions and emissions take them -----------------


def time_rows(sequences: Any) -> Any:
    """The observations as rows [t n, ...], all sequences' first ones first."""

    def flatten(leaf):
        return leaf.swapaxes(0, 1).reshape(-1, *leaf.shape[2:])

    return jax.tree.map(flatten, sequences.values)


def from_time_rows(rows: Any, n: int, t: Any) -> Any:
    """Leaves [n, t, ...] from rows [t n, ...]."""
    return jax.tree.map(lambda leaf: leaf.reshape(t, n, *leaf.shape[1:]).swapaxes(0, 1), rows)


def inside(lengths: Any, t: Any) -> Any:
    """Which observations count: bool [t, n], or None where all do."""
    return None if lengths is None else jnp.arange(t)[:, None] < lengths


def time_weights(sequences: Any, weights: Any) -> Any:
    """Weights of the rows [t n]: their sequence's, 0 beyond its length; None where all are 1."""
    n, t = sequences.shape
    mask = inside(sequences.lengths, t)
    if weights is None:
        return None if mask is None else mask.astype(sequences.dtype).ravel()
    weights = jnp.broadcast_to(weights, (t, n))
    return (weights if mask is None else jnp.where(mask, weights, 0)).ravel()


def volume_of_sequences(lengths: Any, volume: Any) -> Any:
    """The log-volumes of sequences [n], from those of the observations.

    Observations have one log-volume, or [t n] of them if they differ.
    """
    n = len(lengths)
    if np.ndim(volume) == 0:
        return lengths * volume
    volume = volume.reshape(-1, n)
    module = np if isinstance(volume, np.ndarray) else jnp
    return module.where(module.arange(len(volume))[:, None] < lengths, volume, 0).sum(0)
