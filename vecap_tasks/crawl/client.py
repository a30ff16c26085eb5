"""One fetcher for all shards that a process works on.

It lives on an event loop in a thread of its own, so that shards that follow each other, or run side by side, share
its connections, the addresses that it looked up, what hosts permit, and the pace that is kept with each of them.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from vecap_tasks.config import FetchConfig
from vecap_tasks.crawl.fetch import Fetcher

T = TypeVar("T")


class Client:
    """Runs work with its fetcher; ends with the object."""

    def __init__(self, config: FetchConfig) -> None:
        self._loop = asyncio.new_event_loop()
        # A daemon, so that a process that is told to stop does not wait for what is still downloading.
        threading.Thread(target=_run, args=(self._loop,), name="fetch", daemon=True).start()
        self._fetcher = asyncio.run_coroutine_threadsafe(_open(config), self._loop).result()
        self.close = weakref.finalize(self, _close, self._loop, self._fetcher)

    def run(self, work: Callable[[Fetcher], Coroutine[Any, Any, T]]) -> T:
        """Return what *work* returns, or raise what it raises. Where this is interrupted, the work is ended."""
        future = asyncio.run_coroutine_threadsafe(work(self._fetcher), self._loop)
        try:
            return future.result()
        finally:
            future.cancel()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


async def _open(config: FetchConfig) -> Fetcher:
    return await Fetcher(config).__aenter__()


def _close(loop: asyncio.AbstractEventLoop, fetcher: Fetcher) -> None:
    async def end() -> None:
        await fetcher.__aexit__(None, None, None)
        loop.stop()

    asyncio.run_coroutine_threadsafe(end(), loop)
