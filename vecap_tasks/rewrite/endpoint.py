"""One address of a served model: how many requests it is sent at once, and whether it is left aside for now."""

from __future__ import annotations

import math
import time

_FIRST = 8  # requests in flight to begin with
_ASIDE_AFTER = 3  # failures in a row
_ASIDE_SECONDS = (1.0, 60.0)  # the first time, and at most
_LONGEST_WAIT = 300.0  # seconds that a server's Retry-After is believed


class Endpoint:
    """Raises the number of requests in flight by one a round, and halves it where the server is overloaded or slow.

    Additive increase and multiplicative decrease, after a first phase of doubling (Jacobson, 1988). Overload is told
    by many requests at once: what was sent before the last halving halves nothing again. An address that fails again
    and again is left aside, for longer each time, and then tried with a single request.
    """

    def __init__(self, url: str, most: int, slow: float) -> None:
        self.url = url
        self.flying = 0
        self.sent = 0
        self.limit = float(min(_FIRST, most))
        self.closed_until = 0.0  # on the clock of time.monotonic
        self.wrote = -math.inf  # when it last sent a text, on the same clock
        self._most = most
        self._slow = slow
        self._cut = 0.0
        self._failures = 0

    @property
    def load(self) -> float:
        """How full the address is; from 1 it takes no more."""
        return self.flying / int(self.limit)

    def answered(self, begun: float) -> None:
        """Note an answer to a request sent at *begun*."""
        self._failures = 0
        if time.monotonic() - begun > self._slow:
            self._lower(begun)
            return
        step = 1 / self.limit if self._cut else 1
        self.limit = min(float(self._most), self.limit + step)

    def overloaded(self, begun: float, wait: float | None) -> None:
        """Note that the server asks for less, and for nothing in the next *wait* seconds if it says so."""
        self._lower(begun)
        if wait is not None:
            self.closed_until = max(self.closed_until, time.monotonic() + min(wait, _LONGEST_WAIT))

    def failed(self, begun: float) -> None:
        """Note a request without a usable answer."""
        self._lower(begun)
        self._failures += 1
        if self._failures >= _ASIDE_AFTER:
            first, longest = _ASIDE_SECONDS
            aside = min(longest, first * 2 ** (self._failures - _ASIDE_AFTER))
            self.closed_until = max(self.closed_until, time.monotonic() + aside)
            self.limit = 1.0

    def _lower(self, begun: float) -> None:
        if begun >= self._cut:
            self.limit = max(1.0, self.limit / 2)
            self._cut = time.monotonic()
