"""Throttling: limits on concurrent requests, in total and per host; delays, pauses and suspended hosts.

A request that waits for its host does not hold a global slot.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from vecap_tasks.config import FetchConfig
from vecap_tasks.errors import Failure

_SLOW_AFTER = 2.0  # seconds after which a request is slow and releases its slot
_MAX_SLOW_RATIO = 8  # maximum slow requests, as a multiple of the slots
_SUSPEND_SECONDS = 300.0  # seconds for which an unresponsive host is suspended


class Slots:
    """Limits concurrent requests to *count*. Slow requests release their slot early, up to a limit."""

    def __init__(self, count: int) -> None:
        self._free = asyncio.Semaphore(count)
        self._slow = 0
        self._max_slow = _MAX_SLOW_RATIO * count

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[None]:
        """Hold a slot inside the block."""
        await self._free.acquire()
        slot = _Slot()
        self._start_timer(slot)
        try:
            yield
        finally:
            slot.timer.cancel()
            if slot.released:
                self._slow -= 1
            else:
                self._free.release()

    def _start_timer(self, slot: _Slot) -> None:
        slot.timer = asyncio.get_running_loop().call_later(_SLOW_AFTER, self._release_early, slot)

    def _release_early(self, slot: _Slot) -> None:
        if self._slow >= self._max_slow:
            self._start_timer(slot)
            return
        slot.released = True
        self._slow += 1
        self._free.release()


class _Slot:
    """A slot in use."""

    timer: asyncio.TimerHandle
    released = False


class Host:
    """Throttling state of one host."""

    def __init__(self, config: FetchConfig) -> None:
        self._config = config
        self._slots = asyncio.Semaphore(config.connections_per_host)
        self._delay = config.host_delay
        self._next_start = 0.0  # time of the event loop, as for all times here
        self._pause_failure: Failure | None = None  # the response that requested the pause until `_next_start`
        self._failures = 0  # downloads without a response since the last response
        self._failing_since = 0.0
        self._suspended_until = 0.0
        self._suspend_reason = ""
        self._active = 0

    @property
    def idle(self) -> bool:
        """Whether this state can be discarded."""
        now = asyncio.get_running_loop().time()
        return not self._active and max(self._next_start, self._suspended_until) <= now

    def set_crawl_delay(self, seconds: float) -> None:
        """Set the minimum *seconds* between two requests, up to `max_crawl_delay`."""
        self._delay = max(self._config.host_delay, min(seconds, self._config.max_crawl_delay))

    def pause(self, failure: Failure) -> None:
        """Pause the host for the Retry-After of a response."""
        until = asyncio.get_running_loop().time() + (failure.retry_after or 0)
        if until > self._next_start:
            self._next_start, self._pause_failure = until, failure

    def record_response(self) -> None:
        """Record a complete response with any status."""
        self._failures = 0

    def record_no_response(self, start: float, failure: Failure) -> None:
        """Record that the download started at *start* got no response.

        After `host_failures` of these over at least one deadline, suspend the host, so that it does not delay the run.
        """
        now = asyncio.get_running_loop().time()
        if not self._failures:
            self._failing_since = start
        self._failures += 1
        if self._failures >= self._config.host_failures and now - self._failing_since >= self._config.deadline:
            self._suspended_until = now + _SUSPEND_SECONDS
            self._suspend_reason = failure.reason

    @asynccontextmanager
    async def slot(self, slots: Slots) -> AsyncIterator[None]:
        """Wait until a request may start; hold one slot of the host and one of *slots* inside the block.

        Raises Failure if the host is suspended, or requested a pause longer than the deadline.
        """
        self._active += 1
        try:
            async with self._slots:
                while True:
                    await self._wait()
                    async with slots.acquire():
                        if self._seconds_to_wait() <= 0:  # no other request started meanwhile
                            self._next_start = asyncio.get_running_loop().time() + self._delay
                            self._pause_failure = None
                            yield
                            return
        finally:
            self._active -= 1

    async def _wait(self) -> None:
        while (seconds := self._seconds_to_wait()) > 0:
            if self._pause_failure is not None and seconds > self._config.deadline:
                raise Failure(self._pause_failure.reason, "the host asked for a pause")
            await asyncio.sleep(seconds)

    def _seconds_to_wait(self) -> float:
        now = asyncio.get_running_loop().time()
        if now < self._suspended_until:
            raise Failure("host_silent", self._suspend_reason)
        return self._next_start - now
