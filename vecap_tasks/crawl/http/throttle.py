"""When a request may start: requests in flight in all, and one host's slots, delays, pauses and silence.

Waiting for a host holds none of the slots that are for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from vecap_tasks.config import FetchConfig
from vecap_tasks.errors import Failure

_QUICK = 2.0  # seconds after which a request is slow, and its slot free for another
_SLOW = 8  # slow requests that there may be, as a multiple of the slots
_SILENCE = 300.0  # seconds for which a host that gives no answers is left alone


class Slots:
    """Bounds the requests in flight. A slow one gives its slot to others, up to `_SLOW` times as many as *count*."""

    def __init__(self, count: int) -> None:
        self._free = asyncio.Semaphore(count)
        self._slow = 0
        self._most_slow = _SLOW * count

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Hold a slot."""
        await self._free.acquire()
        held = _Held()
        self._later(held)
        try:
            yield
        finally:
            held.timer.cancel()
            if held.lent:
                self._slow -= 1
            else:
                self._free.release()

    def _later(self, held: _Held) -> None:
        held.timer = asyncio.get_running_loop().call_later(_QUICK, self._lend, held)

    def _lend(self, held: _Held) -> None:
        if self._slow >= self._most_slow:
            self._later(held)
            return
        held.lent = True
        self._slow += 1
        self._free.release()


class _Held:
    """A slot that is held."""

    timer: asyncio.TimerHandle
    lent = False


class Host:
    """What one host is asked, and how it answers."""

    def __init__(self, config: FetchConfig) -> None:
        self._config = config
        self._slots = asyncio.Semaphore(config.connections_per_host)
        self._delay = config.host_delay
        self._next = 0.0  # on the loop's clock, as all moments here
        self._paused: Failure | None = None  # what it answered when it asked for the pause up to `_next`
        self._failures = 0  # downloads that ended without an answer, since the last that had one
        self._silent_since = 0.0
        self._left_alone = 0.0
        self._why = ""
        self._users = 0

    @property
    def idle(self) -> bool:
        """Whether nothing is lost if this is forgotten."""
        now = asyncio.get_running_loop().time()
        return not self._users and max(self._next, self._left_alone) <= now

    def crawl_delay(self, seconds: float) -> None:
        """Keep at least *seconds* between the starts of two requests, up to the cap."""
        self._delay = max(self._config.host_delay, min(seconds, self._config.max_crawl_delay))

    def pause(self, failure: Failure) -> None:
        """Start no request for as long as an answer asked for (`retry_after`)."""
        until = asyncio.get_running_loop().time() + (failure.retry_after or 0)
        if until > self._next:
            self._next, self._paused = until, failure

    def answered(self) -> None:
        """Note a whole answer, whatever it says."""
        self._failures = 0

    def silent(self, start: float, failure: Failure) -> None:
        """Note that the download begun at *start* ended without an answer. After several, over the time that one may
        take, the host is left alone for a while: its downloads would hold up the end of the run."""
        now = asyncio.get_running_loop().time()
        if not self._failures:
            self._silent_since = start
        self._failures += 1
        if self._failures >= self._config.host_failures and now - self._silent_since >= self._config.deadline:
            self._left_alone = now + _SILENCE
            self._why = failure.reason

    @asynccontextmanager
    async def turn(self, slots: Slots) -> AsyncIterator[None]:
        """Hold one of the host's slots and one of all *slots*, from a moment at which a request may start.

        Raises Failure where the host is left alone, or asked for a pause that is longer than a download may take.
        """
        self._users += 1
        try:
            async with self._slots:
                while True:
                    await self._wait()
                    async with slots.one():
                        if self._seconds() <= 0:  # nobody else has started a request meanwhile
                            self._next = asyncio.get_running_loop().time() + self._delay
                            self._paused = None
                            yield
                            return
        finally:
            self._users -= 1

    async def _wait(self) -> None:
        while (seconds := self._seconds()) > 0:
            if self._paused is not None and seconds > self._config.deadline:
                raise Failure(self._paused.reason, "the host asked for a pause")
            await asyncio.sleep(seconds)

    def _seconds(self) -> float:
        now = asyncio.get_running_loop().time()
        if now < self._left_alone:
            raise Failure("host_silent", self._why)
        return self._next - now
