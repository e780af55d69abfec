"""Rows that do not fit into memory, which a thread reads ahead in blocks of one size."""

import queue
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxem.inputs import arrays

#: Bytes of a block of rows as the device gets it. Its work is large compared with the cost of a
#: call, and it is small compared with any memory.
BLOCK_BYTES = 32 << 20

#: The numbers of rows, and of runs of them, that are read before the fit for units and checks. The
#: runs are spread over the source.
SAMPLE_ROWS, SAMPLE_RUNS = 1 << 16, 64


class SourceError(RuntimeError):
    """A source could not be read to its end.

    Attributes:
        result: the fit up to then (INTERRUPTED), or None before its first pass.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.result: Any = None


class Block(NamedTuple):
    """Rows that are read together.

    Attributes:
        rows: a pytree of arrays [m, ...] on the host.
        weights: the weights of the rows [m].
        n: the number of rows of the source among them; the others fill the block up.
    """

    rows: Any
    weights: Any
    n: int


class Source:
    """A source of rows, which can be read in blocks many times.

    Args:
        model: the model, which says what rows are.
        source: anything with a shape and slices (an array, a memmap, ...), or a tuple of such; or
            what gives arrays of rows each time it is iterated over: a list, an object with
            `__iter__`, or a function that returns a fresh iterator.
        weights: the same kind of thing, or None.
        block_rows: the number of rows of a block; None means as many as have `BLOCK_BYTES`.

    Raises:
        ValueError: the source is none of these, is empty, or does not fit the weights.
    """

    def __init__(self, model: Any, source: Any, weights: Any = None, block_rows: Any = None) -> None:
        self.model, self.source, self.weights = model, source, weights
        self.sliceable = all(hasattr(part, "shape") and hasattr(part, "__getitem__") for part in _parts(source))
        if not self.sliceable and isinstance(source, (tuple, dict)):
            raise ValueError("source: expected its parts to have a shape and slices, or one re-iterable of rows")
        if not self.sliceable and not callable(source):
            _check_again("source", source)
        if weights is not None and not self.sliceable and not callable(weights):
            _check_again("weights", weights)
        if self.sliceable:
            lengths = sorted({int(part.shape[0]) for part in _parts(source)})
            if len(lengths) > 1 or lengths == [0]:
                raise ValueError(f"source: expected parts of one length above 0; got {lengths}")
            shape = None if weights is None else getattr(weights, "shape", None)
            if weights is not None and shape != (lengths[0],):
                raise ValueError(f"weights: expected an array of shape ({lengths[0]},); got {shape or weights!r}")
        first = next(self._raw(), None)
        if first is None:
            raise ValueError("source: expected at least one row; got none")
        rows = model.rows(first[0])
        per_row = sum(leaf.nbytes for leaf in jax.tree.leaves(rows)) / arrays.n_rows(rows)
        self.block_rows = block_rows or max(1, int(BLOCK_BYTES / per_row))
        self.dtype = np.result_type(*(leaf.dtype for leaf in jax.tree.leaves(rows)))
        if self.sliceable:
            self.n_rows = int(_parts(source)[0].shape[0])
            self.block_rows = min(self.block_rows, arrays.bucket(self.n_rows))

    def _raw(self):
        """(rows, weights) in pieces of any size, as the source gives them."""
        if self.sliceable:
            size = getattr(self, "block_rows", 1)
            for start in range(0, int(_parts(self.source)[0].shape[0]), size):
                cut = slice(start, start + size)
                rows = jax.tree.map(lambda part, cut=cut: np.asarray(part[cut]), self.source, is_leaf=_is_part)
                yield rows, None if self.weights is None else np.asarray(self.weights[cut])
            return
        pieces = _fresh(self.source)
        if self.weights is None:
            yield from ((piece, None) for piece in pieces)
        else:
            yield from zip(pieces, _fresh(self.weights), strict=True)

    def blocks(self) -> Any:
        """All rows once, as blocks of one size. Raises `SourceError` where the source does."""
        kept, n_kept = [], 0
        try:
            for raw, weights in self._raw():
                rows = self.model.rows(raw)
                self.model.check_finite(rows)
                kept.append((rows, self._checked(weights, arrays.n_rows(rows))))
                n_kept += arrays.n_rows(rows)
                while n_kept >= self.block_rows:
                    (rows, weights), kept = _split(kept, self.block_rows)
                    n_kept -= self.block_rows
                    yield Block(rows, weights, self.block_rows)
        except Exception as error:
            raise SourceError(f"source: failed while it was read ({type(error).__name__}: {error})") from error
        if n_kept:
            (rows, weights), _ = _split(kept, n_kept)
            rows, weights = arrays.pad_rows(rows, weights, self.block_rows)
            yield Block(rows, weights, n_kept)

    def _checked(self, weights, n):
        """Weights of a piece, of which all may be 0."""
        if weights is None:
            return np.ones(n, self.dtype)
        weights = np.asarray(weights, self.dtype)
        if weights.shape != (n,) or not np.isfinite(weights).all() or (weights < 0).any():
            raise ValueError(f"weights: expected {n} finite numbers of at least 0")
        return weights

    @property
    def total_weight(self) -> float:
        """The sum of the weights of all rows. Without slices it is known after `sample`."""
        if not self.sliceable:
            return self._seen_weight
        if self.weights is None:
            return float(self.n_rows)
        cuts = range(0, self.n_rows, self.block_rows)
        return float(sum(np.sum(self.weights[at : at + self.block_rows], dtype=np.float64) for at in cuts))

    def sample(self) -> Block:
        """Rows spread over the whole source, as one block."""
        if not self.sliceable:
            return self._reservoir()
        n = int(_parts(self.source)[0].shape[0])
        runs = min(SAMPLE_RUNS, n)
        length = min(-(-SAMPLE_ROWS // runs), n // runs)
        starts = np.linspace(0, n - length, runs).astype(int)
        at = [slice(start, start + length) for start in starts]
        rows = jax.tree.map(lambda part: np.concatenate([part[cut] for cut in at]), self.source, is_leaf=_is_part)
        weights = None if self.weights is None else np.concatenate([self.weights[cut] for cut in at])
        rows = self.model.rows(rows)
        self.model.check_finite(rows)
        return Block(rows, self._checked(weights, arrays.n_rows(rows)), arrays.n_rows(rows))

    def _reservoir(self) -> Block:
        """A pass over the source that keeps every row with the same chance."""
        rng, seen, total, kept = np.random.default_rng(0), 0, 0.0, None
        for block in self.blocks():
            new = jax.tree.map(lambda leaf, n=block.n: leaf[:n], block[:2])
            kept = new if kept is None else jax.tree.map(lambda *leaves: np.concatenate(leaves), kept, new)
            seen, total = seen + block.n, total + float(block.weights.sum(dtype=np.float64))
            n = len(kept[1])
            if n > SAMPLE_ROWS:
                # Rows kept from before stand for `seen - block.n` of all.
                chance = np.where(np.arange(n) < n - block.n, (seen - block.n) / (n - block.n), 1.0)
                chosen = np.sort(rng.choice(n, SAMPLE_ROWS, replace=False, p=chance / chance.sum()))
                kept = jax.tree.map(lambda leaf, chosen=chosen: leaf[chosen], kept)
        if kept is None:
            raise ValueError("source: expected at least one row; got none")
        self.n_rows, self._seen_weight = seen, total
        rows, weights = kept
        return Block(rows, weights, len(weights))


def _parts(source):
    return jax.tree.leaves(source, is_leaf=_is_part)


def _is_part(node):
    return not isinstance(node, (tuple, dict))


def _fresh(source: Any) -> Iterator:
    given: Any = source() if callable(source) else source
    return iter(given)


def _check_again(name, source: Any):
    """Whether it can be read more than once."""
    if not hasattr(source, "__iter__"):
        raise ValueError(f"{name}: expected arrays with slices, or a re-iterable of arrays; got {source!r}")
    if iter(source) is source:
        raise ValueError(
            f"{name}: a {type(source).__name__} can be read only once, and every EM iteration reads all rows; "
            "give a list, an object with __iter__, or the function that makes it"
        )


def _split(pieces, n):
    """(the first n rows and weights of the pieces as one, what is left of them)."""
    joined = pieces[0] if len(pieces) == 1 else jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)
    rest = jax.tree.map(lambda leaf: leaf[n:], joined)
    return jax.tree.map(lambda leaf: leaf[:n], joined), [rest] if len(rest[1]) else []


#: Blocks that may wait between the reader and the device.
AHEAD = 2


def read_ahead(blocks: Any, change: Any) -> Any:
    """change(block) for every block, made by a thread.

    `change` has to use NumPy alone: a thread does not have the settings of jax of its caller.
    """
    waiting, stop = queue.Queue(AHEAD), threading.Event()

    def put(item):
        while not stop.is_set():
            try:
                return waiting.put(item, timeout=0.1)
            except queue.Full:
                continue

    def read():
        try:
            for block in blocks:
                put(change(block))
                if stop.is_set():
                    return
            put(None)
        except BaseException as error:  # handed over to who waits for it
            put(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
