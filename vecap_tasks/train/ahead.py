"""What both ways of reading share: a rank's rows of a batch, and batches made on a thread beside the loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from vecap_tasks.errors import ConfigError
from vecap_tasks.train.batch import Batch

_AHEAD = 2


def share(whole: int, rank: int, world: int, what: str = "samples of a batch (train.batch_size)") -> range:
    """Return the part of *whole* that is *rank*'s of *world*. Raises ConfigError where it cannot be shared evenly."""
    if whole % world:
        raise ConfigError(f"{whole} {what} cannot be shared among {world} processes; take a multiple of {world}")
    part = whole // world
    return range(rank * part, (rank + 1) * part)


def made_ahead(make: Callable[[int], Batch], first: int, steps: int) -> Iterator[Batch]:
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
