"""What is worth doing at once on a kind of device: the numbers that were measured on each."""

import functools
from typing import NamedTuple

import jax


class Hardware(NamedTuple):
    """chunk_bytes: working set of one chunk of rows; max_rows: rows of a chunk at most.

    chunk_has_features: whether the chunk's prepared data count in it, beside what an E-step holds of each row.
    store_bytes: above this size prepared data are computed anew in every iteration instead of being stored once.
    lane_components: components of all fits side by side; max_lanes: how many of these at most.
    narrow_from: fewer lanes than this are not worth a narrower loop for the last of them, which has to be compiled.
    batch_rows: starts made side by side hold no more rows than this in all.
    library_factors: whether small matrices are factorised by the vendor's library.
    """

    chunk_bytes: int
    chunk_has_features: bool
    max_rows: int
    store_bytes: int
    lane_components: int
    max_lanes: int
    narrow_from: int
    batch_rows: int
    library_factors: bool


#: Iterations are fastest while the features of a chunk and its log densities stay in the last-level cache, and are flat
#: within a factor of two around this; they took twice as long in chunks of 20,000 rows as in chunks of 14,336 (k 16 and
#: 32). Fits side by side make longer vector operations, but from 256 components on a fit does not get cheaper, and
#: more lanes stand idle at the end (k 3 and 8, d 2 and 8). The library's factors are out of the question there: its
#: batches share one thread pool, and two that wait for each other never end.
CPU = Hardware(6 << 20, True, 1 << 14, 512 << 20, 256, 128, 16, 1 << 18, False)

#: Every operation of a loop costs its launch, and a chunk of stored features is copied before it is used: few, large
#: pieces. On an H100 an iteration of 1,024 fits (10,000 x 8, k 8) took 3.8, 2.3 and 1.8 ms in chunks of 400, 1,250 and
#: 2,500 rows, one of 1,000,000 x 32, k 64, 9.4, 8.5 and 8.1 ms in chunks of 62,500, 125,000 and 250,000. Per fit, 1,024
#: side by side took half the time of 256; fewer take hardly less time in all, for that of the launches stays.
GPU = Hardware(256 << 20, False, 1 << 20, 2 << 30, 8192, 1024, 512, 1 << 24, True)

#: Shares of a GPU's memory that a chunk's working set and stored features may take, where it says how much it has.
CHUNK_SHARE, STORE_SHARE = 1 / 64, 1 / 8


def hardware() -> Hardware:
    """Of the default device."""
    return CPU if jax.default_backend() == "cpu" else _accelerator()


@functools.cache
def _accelerator() -> Hardware:
    memory = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    if memory is None:
        return GPU
    return GPU._replace(chunk_bytes=int(CHUNK_SHARE * memory), store_bytes=int(STORE_SHARE * memory))
