"""Checkpoints: files with the state of a running fit.

A file is written whole or not at all, the last two files are kept, and a file is checked when it is
read.
"""

import hashlib
import os
import re
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxem.engine import container
from jaxem.numerics.devices import host

#: The time between two checkpoints is at least this many times the time that the last one took, so
#: that checkpoints cost 5 % at most.
PATIENCE = 20

#: A fingerprint reads about this many bytes of an array; of a larger one, evenly spaced rows.
FINGERPRINT_BYTES = 64 << 20


class Checkpoint:
    """A path for the checkpoints of one fit.

    The file before the last one is kept next to it, as `path.previous`.

    Args:
        path: the path of the file.

    Raises:
        ValueError: `path` is not a path, or its folder does not exist.
    """

    def __init__(self, path: Any) -> None:
        try:
            self.path = Path(os.fspath(path))
        except TypeError:
            raise ValueError(f"checkpoint: expected a path; got {path!r}") from None
        if not self.path.parent.is_dir():
            raise ValueError(f"checkpoint: expected a path in a folder that exists; got {self.path}")
        self.previous = self.path.with_name(self.path.name + ".previous")
        self.fingerprint, self.due = "", 0.0

    def of_fit(self, what: Any) -> "Checkpoint":
        """This checkpoint, for the fit of a model, data, start and options, a pytree."""
        self.fingerprint = fingerprint(what)
        return self

    def keep(self, state: Any, now: bool = False) -> None:
        """Write the state of the fit, if the last write was long enough ago.

        A write that fails, for instance because the disk is full, is a warning, and the fit goes
        on.

        Args:
            state: the state, a pytree of arrays.
            now: whether to write in any case.
        """
        begun = time.monotonic()
        if begun < self.due and not now:
            return
        arrays = [host(leaf) for leaf in jax.tree.leaves(state)]
        if jax.process_index():
            return  # Only one process writes, and all of them read.
        try:
            if self.path.exists():
                self._give_second_name()
            container.write(self.path, {"fit": self.fingerprint}, arrays)
        except OSError as error:
            warnings.warn(f"checkpoint: {self.path} was not written ({error}); the fit goes on", stacklevel=2)
        taken = time.monotonic() - begun
        self.due = begun + (1 + PATIENCE) * taken

    def _give_second_name(self):
        """Give the last file its second name before it is replaced, so that one always exists."""
        self.previous.unlink(missing_ok=True)
        try:
            os.link(self.path, self.previous)
        except OSError:  # Some file systems have no links.
            shutil.copyfile(self.path, self.previous)

    def resumed(self, state: Any) -> Any:
        """The state from which the fit resumes.

        A damaged file is a warning if the file before it can be read.

        Args:
            state: the state of a fit that begins.

        Returns:
            The state that was written last, or `state` where there is none.

        Raises:
            ValueError: the file belongs to another fit, or no file that exists can be read.
        """
        damage = []
        for path in (self.path, self.previous):
            if not path.exists():
                continue
            try:
                tree, arrays = container.read(path.read_bytes())
            except container.DAMAGE as error:
                damage.append(f"{path}: {error}")
                continue
            if tree.get("fit") != self.fingerprint:
                raise ValueError(
                    f"checkpoint: {path} belongs to another fit (other data, model, start or options); "
                    "delete it, or give another path"
                )
            for what in damage:
                warnings.warn(f"checkpoint: {what}; the fit resumes from {path}", stacklevel=2)
            return _like(state, arrays)
        if damage:
            raise ValueError(f"checkpoint: {'; '.join(damage)}")
        return state


def _like(state, arrays):
    """The arrays as a pytree like `state`, each placed (host, device, devices) like its leaf."""
    leaves, structure = jax.tree.flatten(state)
    return structure.unflatten(
        jax.device_put(jnp.asarray(array), leaf.sharding) if isinstance(leaf, jax.Array) else np.array(array)
        for leaf, array in zip(leaves, arrays, strict=True)
    )


def fingerprint(what: Any) -> str:
    """A digest of all that a fit depends on.

    Functions are represented by their names, and large arrays by evenly spaced rows. Of an array on
    devices of other processes only the dtype and the shape are used.
    """
    leaves, structure = jax.tree.flatten(what)
    digest = hashlib.blake2b(re.sub(r" at 0x[0-9a-f]+", "", str(structure)).encode(), digest_size=16)
    for leaf in leaves:
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            digest.update(f"{leaf.dtype} {leaf.shape}".encode())
            continue
        array = np.asarray(leaf)
        digest.update(f"{array.dtype} {array.shape}".encode())
        if array.nbytes > FINGERPRINT_BYTES:
            array = array[:: -(-array.nbytes // FINGERPRINT_BYTES)]
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
