"""Batches, which depend only on seed and step, and a thread that prefetches them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vecap_tasks.errors import ConfigError

_PREFETCH_BATCHES = 2


@dataclass(frozen=True, slots=True)
class Batch:
    """One rank's slice of a global batch: `uids[i]`, `pixels[i]` and `ids[i]` are one sample."""

    step: int  # from 0
    epoch: int  # from 0
    index: int  # of the batch within the epoch, from 0
    uids: tuple[str, ...]
    pixels: NDArray[np.uint8]  # [n, size, size, 3]
    ids: NDArray[np.int32]  # [n, tokens], padded to the longest text of the slice


class TrainingData(Protocol):
    """The samples of a run in batches, in memory or streamed.

    The samples, order and texts of a global batch depend only on seed, uid, epoch and mixture. `batch_size` must be a
    multiple of `world_size`; rank r gets the r-th of `world_size` equal slices of each global batch.
    """

    samples: int  # per epoch, with a text for the arm
    left_out: int  # per epoch, without one
    batch_size: int  # global, in samples
    steps_per_epoch: int
    steps: int  # of the whole run

    def batches(self, first: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """Yield the batches of the steps *first* to `steps` - 1, prefetched."""


def rank_range(total: int, rank: int, world_size: int, what: str = "samples per batch (train.batch_size)") -> range:
    """Return the slice of *total* items that belongs to *rank*. Raises ConfigError if they do not divide evenly."""
    if total % world_size:
        raise ConfigError(
            f"{total} {what} cannot be split evenly among {world_size} processes; use a multiple of {world_size}"
        )
    count = total // world_size
    return range(rank * count, (rank + 1) * count)


def prefetch(load: Callable[[int], Batch], first: int, steps: int) -> Iterator[Batch]:
    """Yield load(first) to load(steps - 1), called in order on one thread, at most two ahead of the consumer."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
    pending: deque[Future[Batch]] = deque()
    try:
        for step in range(first, steps):
            pending.append(pool.submit(load, step))
            if len(pending) > _PREFETCH_BATCHES:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
