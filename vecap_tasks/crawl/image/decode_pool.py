"""Decodes images in child processes, in small batches, because waking a thread and the event loop per image is slow.

A thread per child waits for it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

from vecap_tasks.config import ImageConfig, LimitsConfig
from vecap_tasks.core.isolation import pool
from vecap_tasks.core.isolation.child import Limits, Task
from vecap_tasks.core.isolation.messages import Item
from vecap_tasks.crawl.image.decoded import DecodeResult
from vecap_tasks.errors import Failure

_BATCH_SIZE = 8  # bodies per batch, at most
_DECODE = "vecap_tasks.crawl.image.decode:decode_and_hash"
# Bytes of memory per pixel that decoders need at most, rounded up: 25 for a JPEG 2000 file with alpha, because OpenJPEG
# has 32 bits per channel.
_PIXEL_BYTES = 32


class DecodePool:
    """Decodes images with *config* in *count* children, on threads of *threads*, called from one event loop.

    An image that exceeds *limits*, or the memory that `max_pixels` implies, fails like one that is damaged.
    """

    def __init__(self, config: ImageConfig, limits: LimitsConfig, threads: ThreadPoolExecutor, count: int) -> None:
        memory = max(limits.memory, _PIXEL_BYTES * config.max_pixels)
        settings = SimpleNamespace(**config.model_dump())  # children do not import pydantic
        self._task = Task(_DECODE, (settings,), Limits(limits.cpu_seconds, memory))
        pool.start(self._task, count)
        self._threads = threads
        self._idle = count
        self._waiting: deque[tuple[bytes, str, asyncio.Future[DecodeResult]]] = deque()

    async def decode(self, body: bytes, url: str) -> DecodeResult:
        """Return the result for *body*. Raises errors that the image did not cause, such as MemoryError."""
        future: asyncio.Future[DecodeResult] = asyncio.get_running_loop().create_future()
        self._waiting.append((body, url, future))
        self._dispatch()
        return await future

    def _dispatch(self) -> None:
        """Submit waiting bodies to the idle threads, in equal shares."""
        loop = asyncio.get_running_loop()
        while self._idle and self._waiting:
            share = min(_BATCH_SIZE, -(-len(self._waiting) // self._idle))
            bodies, urls, futures = zip(*(self._waiting.popleft() for _ in range(share)), strict=True)
            self._idle -= 1
            done = loop.run_in_executor(self._threads, _decode_all, bodies, urls, self._task)
            done.add_done_callback(partial(self._on_done, futures))

    def _on_done(
        self, futures: Sequence[asyncio.Future[DecodeResult]], done: asyncio.Future[list[DecodeResult]]
    ) -> None:
        self._idle += 1
        error = None if done.cancelled() else done.exception()
        for number, future in enumerate(futures):
            if future.done():  # the waiting task was cancelled
                continue
            if done.cancelled():
                future.cancel()
            elif error is not None:
                future.set_exception(error)
            else:
                future.set_result(done.result()[number])
        self._dispatch()


def _decode_all(bodies: Sequence[bytes], urls: Sequence[str], task: Task) -> list[DecodeResult]:
    results = pool.run(task, [Item(url, body) for url, body in zip(urls, bodies, strict=True)])
    return [
        DecodeResult(hashlib.sha256(body).hexdigest(), None, b"", result) if isinstance(result, Failure) else result
        for body, result in zip(bodies, results, strict=True)
    ]
