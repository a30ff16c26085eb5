"""Threads that decode. Bodies that wait are handed over in lots, as waking a thread, and then the event loop, for each
image takes a share of the time that its decoding does."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from vecap_tasks.config import ImageConfig
from vecap_tasks.crawl.image.decode import DecodedImage, decode
from vecap_tasks.errors import Failure, failure_of

_LOT = 8  # bodies at most


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a body came to: a picture with its JPEG, or why there is none. `sha256` is of the body, 64 hex digits."""

    sha256: str
    image: DecodedImage | None
    jpeg: bytes
    failure: Failure | None


class Decoders:
    """Decodes as *config* says on *count* of *threads*, from one event loop."""

    def __init__(self, config: ImageConfig, threads: ThreadPoolExecutor, count: int) -> None:
        self._config = config
        self._threads = threads
        self._idle = count
        self._waiting: deque[tuple[bytes, str, asyncio.Future[Decoded]]] = deque()

    async def decode(self, body: bytes, url: str) -> Decoded:
        """Return what *body* came to. A fault that is not the image's, such as a lack of memory, is raised."""
        future: asyncio.Future[Decoded] = asyncio.get_running_loop().create_future()
        self._waiting.append((body, url, future))
        self._hand_over()
        return await future

    def _hand_over(self) -> None:
        """Give the idle threads what waits, as much to each."""
        loop = asyncio.get_running_loop()
        while self._idle and self._waiting:
            share = min(_LOT, -(-len(self._waiting) // self._idle))
            bodies, urls, futures = zip(*(self._waiting.popleft() for _ in range(share)), strict=True)
            self._idle -= 1
            done = loop.run_in_executor(self._threads, _decode_all, bodies, urls, self._config)
            done.add_done_callback(partial(self._take_back, futures))

    def _take_back(self, futures: Sequence[asyncio.Future[Decoded]], done: asyncio.Future[list[Decoded]]) -> None:
        self._idle += 1
        error = None if done.cancelled() else done.exception()
        for number, future in enumerate(futures):
            if future.done():  # whoever waited was ended
                continue
            if done.cancelled():
                future.cancel()
            elif error is not None:
                future.set_exception(error)
            else:
                future.set_result(done.result()[number])
        self._hand_over()


def _decode_all(bodies: Sequence[bytes], urls: Sequence[str], config: ImageConfig) -> list[Decoded]:
    return [_decode(body, url, config) for body, url in zip(bodies, urls, strict=True)]


def _decode(body: bytes, url: str, config: ImageConfig) -> Decoded:
    sha256 = hashlib.sha256(body).hexdigest()
    try:
        image, jpeg = decode(body, config)
    except Exception as error:
        return Decoded(sha256, None, b"", failure_of(error, url))
    return Decoded(sha256, image, jpeg, None)
