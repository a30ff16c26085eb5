"""One URL of a model server: how many requests it gets, and when."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence

_INITIAL_LIMIT = 8  # requests in flight
_FAILURES_BEFORE_BACKOFF = 3  # consecutive failures
_BACKOFF_SECONDS = (1.0, 60.0)  # first and maximum
_MAX_RETRY_AFTER = 300.0  # seconds


class Endpoint:
    """Limits the requests in flight at one URL by additive increase and multiplicative decrease (Jacobson, 1988).

    The limit doubles each round until the first decrease, then grows by one. It halves when the server is overloaded
    or slow; failures of requests sent before the last decrease do not halve it again. After repeated failures, the
    endpoint backs off, longer each time, and resumes with a single request.
    """

    def __init__(self, url: str, max_in_flight: int, latency_threshold: float) -> None:
        self.url = url
        self.in_flight = 0
        self.sent = 0
        self.limit = float(min(_INITIAL_LIMIT, max_in_flight))
        self.closed_until = 0.0  # time.monotonic
        self.last_success = -math.inf  # time.monotonic
        self._max_in_flight = max_in_flight
        self._latency_threshold = latency_threshold
        self._last_decrease = 0.0
        self._failures = 0

    @property
    def load(self) -> float:
        """The share of the limit in use; at 1 or more the endpoint takes no request."""
        return self.in_flight / int(self.limit)

    @property
    def is_down(self) -> bool:
        return self._failures >= _FAILURES_BEFORE_BACKOFF

    def record_response(self, started: float) -> None:
        """Record a response to a request sent at *started*."""
        self._failures = 0
        if time.monotonic() - started > self._latency_threshold:
            self._decrease_limit(started)
            return
        step = 1 / self.limit if self._last_decrease else 1
        self.limit = min(float(self._max_in_flight), self.limit + step)

    def record_overload(self, started: float, wait: float | None) -> None:
        """Record that the server is overloaded, and wait *wait* seconds if it sent Retry-After."""
        self._decrease_limit(started)
        if wait is not None:
            self.closed_until = max(self.closed_until, time.monotonic() + min(wait, _MAX_RETRY_AFTER))

    def record_failure(self, started: float) -> None:
        """Record a request without a valid response."""
        self._decrease_limit(started)
        self._failures += 1
        if self.is_down:
            first, longest = _BACKOFF_SECONDS
            backoff = min(longest, first * 2 ** (self._failures - _FAILURES_BEFORE_BACKOFF))
            self.closed_until = max(self.closed_until, time.monotonic() + backoff)
            self.limit = 1.0

    def _decrease_limit(self, started: float) -> None:
        if started >= self._last_decrease:
            self.limit = max(1.0, self.limit / 2)
            self._last_decrease = time.monotonic()


async def acquire_endpoint(endpoints: Sequence[Endpoint], capacity_changed: asyncio.Event) -> Endpoint:
    """Wait until one of *endpoints* takes a request, and return the least loaded.

    *capacity_changed* is set after each response.
    """
    while True:
        now = time.monotonic()
        available = [endpoint for endpoint in endpoints if endpoint.closed_until <= now and endpoint.load < 1]
        if available:
            return min(available, key=lambda endpoint: (endpoint.load, endpoint.sent))
        closed = [endpoint.closed_until - now for endpoint in endpoints if endpoint.closed_until > now]
        capacity_changed.clear()
        try:
            await asyncio.wait_for(capacity_changed.wait(), min(closed, default=None))
        except TimeoutError:
            continue
