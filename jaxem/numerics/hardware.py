"""How much work to do at once on a kind of device: numbers that were measured on each."""

import functools
from typing import NamedTuple

import jax


class Hardware(NamedTuple):
    """Sizes that suit a kind of device.

    Attributes:
        chunk_bytes: working set of one chunk of rows, in bytes: what an E-step holds of them, and
            their prepared data where `chunk_has_features`.
        chunk_has_features: whether the prepared data count in `chunk_bytes`.
        min_rows: smallest number of rows in a chunk; there may be fewer where so many take over
            `min_rows_bytes`.
        min_rows_bytes: bytes of `min_rows` rows above which a chunk may have fewer.
        max_rows: largest number of rows in a chunk.
        odd_lines: whether the rows of a chunk fill an odd number of cache lines.
        store_bytes: prepared data above this size are computed again in every iteration instead of
            being stored once.
        lane_components: number of components in all fits that run side by side.
        max_lanes: largest number of fits that run side by side.
        narrow_from: with fewer lanes than this, a narrower loop for the last fits is not worth its
            compilation.
        batch_rows: starts that are made side by side hold no more rows than this in all.
        library_factors: whether small matrices are factorised by the vendor's library.
    """

    chunk_bytes: int
    chunk_has_features: bool
    min_rows: int
    min_rows_bytes: int
    max_rows: int
    odd_lines: bool
    store_bytes: int
    lane_components: int
    max_lanes: int
    narrow_from: int
    batch_rows: int
    library_factors: bool


#: Iterations are fastest while the features of a chunk and its log densities stay in the last-level
#: cache, and their time changes little within a factor of two around this size; they took twice as
#: long in chunks of 20,000 rows as in chunks of 14,336 (k 16 and 32). From min_rows on vector
#: operations are worth their overhead; a row that is a long sequence is enough work by itself.
#: Features that lie 4,096 bytes or a multiple apart share sets of the cache, and products take
#: twice as long. Fits side by side make longer vector operations, but from 256 components on a fit
#: does not get cheaper, and more lanes are idle at the end (k 3 and 8, d 2 and 8). The library's
#: factors cannot be used: its batches share one thread pool, and two batches that wait for each
#: other never end.
CPU = Hardware(
    chunk_bytes=6 << 20,
    chunk_has_features=True,
    min_rows=256,
    min_rows_bytes=64 << 20,
    max_rows=1 << 14,
    odd_lines=True,
    store_bytes=512 << 20,
    lane_components=256,
    max_lanes=128,
    narrow_from=16,
    batch_rows=1 << 18,
    library_factors=False,
)

#: Every operation of a loop costs its launch, so pieces are few and large. Measured on an H100
#: (benchmarks/results/gpu-chunks): 1,000,000 x 128, k 1024 took 10 ms an iteration in chunks of
#: 8,000 rows and 24 ms in chunks of 125,000, whose log densities do not fit into the cache; 1,024
#: fits of 10,000 x 8, k 8 took 3.8 ms in chunks of 400 rows and 1.8 ms in chunks of 2,500. In
#: float32 a log-likelihood was off by 1e-5, relative, where products sum over a million rows, and
#: by 2e-6 where they sum over 65,536. This is the reason for max_rows, although 1,000,000 x 32, k
#: 64 took 5 ms in one piece and takes 9 ms in chunks of that size.
GPU = Hardware(
    chunk_bytes=64 << 20,
    chunk_has_features=False,
    min_rows=1 << 12,
    min_rows_bytes=512 << 20,
    max_rows=1 << 16,
    odd_lines=False,
    store_bytes=2 << 30,
    lane_components=8192,
    max_lanes=1024,
    narrow_from=512,
    batch_rows=1 << 24,
    library_factors=True,
)

#: Share of a GPU's memory that stored features may take, where the device says how much memory it
#: has.
STORE_SHARE = 1 / 8


def hardware() -> Hardware:
    """The sizes that suit the default device."""
    return CPU if jax.default_backend() == "cpu" else _accelerator()


@functools.cache
def _accelerator() -> Hardware:
    memory = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    return GPU if memory is None else GPU._replace(store_bytes=int(STORE_SHARE * memory))
