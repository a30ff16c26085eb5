"""Batches that depend on the seed and step alone, prefetched on a thread next to the training loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vecap_tasks.errors import ConfigError

_AHEAD = 2


@dataclass(frozen=True, slots=True)
class Batch:
    """One rank's part of a global batch: `uids[i]`, `pixels[i]` and `ids[i]` are one sample."""

    step: int  # from 0
    epoch: int  # from 0
    place: int  # batch within the epoch, from 0
    uids: tuple[str, ...]
    pixels: NDArray[np.uint8]  # [n, size, size, 3]
    ids: NDArray[np.int32]  # [n, tokens], padded to the longest of this part, or to the context


class TrainingData(Protocol):
    """The samples of a run in their batches, in memory or streamed.

    Which samples a global batch holds, in which order and with which texts depends on seed, uid, epoch and recipe
    alone. Of `world` ranks, a number that divides `batch_size` B, rank r gets the rows from r * B / world up to
    (r + 1) * B / world.
    """

    samples: int  # of an epoch, those that have a text for the arm
    left_out: int
    batch_size: int  # global, in samples
    per_epoch: int  # global batches of an epoch
    steps: int  # of the whole run

    def batches(self, first: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Give the batches of the steps *first* … `steps` - 1, read ahead."""


def share(whole: int, rank: int, world: int, what: str = "samples of a batch (train.batch_size)") -> range:
    """Return the part of *whole* that is *rank*'s of *world*. Raises ConfigError where it cannot be shared evenly."""
    if whole % world:
        raise ConfigError(f"{whole} {what} cannot be shared among {world} processes; take a multiple of {world}")
    part = whole // world
    return range(rank * part, (rank + 1) * part)


def prefetch(make: Callable[[int], Batch], first: int, steps: int) -> Iterator[Batch]:
    """Give make(first) … make(steps - 1), called in this order on one thread, at most two ahead of who asks."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
    waiting: deque[Future[Batch]] = deque()
    try:
        for step in range(first, steps):
            waiting.append(pool.submit(make, step))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
