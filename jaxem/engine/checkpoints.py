"""All there is of a running fit, on disk: written whole or not at all, the last two kept, checked on the way in."""

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

#: A checkpoint is written when this many times as long has passed as the last one took: it costs 5 % at most.
PATIENCE = 20

#: Bytes of the data that a fingerprint looks at; of more, rows spread evenly over them.
FINGERPRINT_BYTES = 64 << 20


class Checkpoint:
    """A path for one fit. The file before the last is kept beside it, as `path.previous`."""

    def __init__(self, path: Any) -> None:
        try:
            self.path = Path(os.fspath(path))
        except TypeError:
            raise ValueError(f"checkpoint: expected a path; got {path!r}") from None
        if not self.path.parent.is_dir():
            raise ValueError(f"checkpoint: there is no folder {self.path.parent}")
        self.previous = self.path.with_name(self.path.name + ".previous")
        self.fingerprint, self.due = "", 0.0

    def of_fit(self, what: Any) -> "Checkpoint":
        self.fingerprint = fingerprint(what)
        return self

    def keep(self, state: Any, now: bool = False) -> None:
        """Write `state` if the last writing is long enough ago. A full disk is a warning: the fit goes on."""
        begun = time.monotonic()
        if begun < self.due and not now:
            return
        arrays = [host(leaf) for leaf in jax.tree.leaves(state)]
        if jax.process_index():
            return  # one process writes, and all of them read
        try:
            if self.path.exists():
                self._give_second_name()
            container.write(self.path, {"fit": self.fingerprint}, arrays)
        except OSError as error:
            warnings.warn(f"checkpoint: {self.path} was not written ({error}); the fit goes on", stacklevel=2)
        taken = time.monotonic() - begun
        self.due = begun + (1 + PATIENCE) * taken

    def _give_second_name(self):
        """What is at `path` gets a second name before a new file takes the first: at no moment is there none."""
        self.previous.unlink(missing_ok=True)
        try:
            os.link(self.path, self.previous)
        except OSError:  # not every file system has links
            shutil.copyfile(self.path, self.previous)

    def resumed(self, state: Any) -> Any:
        """The state that was kept, or `state` where there is none. ValueError for that of another fit."""
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
                warnings.warn(f"checkpoint: {what}; going on from {path}", stacklevel=2)
            return _like(state, arrays)
        if damage:
            raise ValueError(f"checkpoint: {'; '.join(damage)}")
        return state


def _like(state, arrays):
    """The arrays as a tree like `state`, each where its leaf there is: on the host, on a device, on many."""
    leaves, structure = jax.tree.flatten(state)
    return structure.unflatten(
        jax.device_put(jnp.asarray(array), leaf.sharding) if isinstance(leaf, jax.Array) else np.array(array)
        for leaf, array in zip(leaves, arrays, strict=True)
    )


def fingerprint(what: Any) -> str:
    """A digest of all that a fit depends on. Functions count by their names, large arrays by rows spread over them."""
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
