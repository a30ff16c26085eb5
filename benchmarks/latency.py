"""How long pages take: those of Airflow's grid, with the requests that they make, and those of VeCap."""

from __future__ import annotations

import statistics
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus

from benchmarks.report import Measure

LIMIT_SECONDS = 2.0  # of the 95th percentile
_TIMEOUT = 120.0  # seconds
_PAUSE_SECONDS = 3.0  # between rounds during a run, as Airflow's UI refreshes
_CONNECTIONS = 6  # of a browser to one server
# Ignores proxy settings of the environment: the server is on this machine.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass
class Latencies:
    """Times GET requests, with *token*, of the URLs of each page in *pages*, six at once, as a browser makes them."""

    pages: Mapping[str, Sequence[str]]
    token: str
    seconds: dict[str, list[float]] = field(default_factory=dict)  # of each page
    slowest: dict[str, list[float]] = field(default_factory=dict)  # request of each page

    def round(self) -> None:
        """Load each page once, one after another. Raises OSError for an error, except of a page that does not exist."""
        with ThreadPoolExecutor(_CONNECTIONS) as connections:
            for name, urls in self.pages.items():
                start = time.monotonic()
                requests = list(connections.map(self._request, urls))
                if None not in requests:
                    self.seconds.setdefault(name, []).append(time.monotonic() - start)
                    self.slowest.setdefault(name, []).append(max(filter(None, requests)))

    def _request(self, url: str) -> float | None:
        """Return the seconds of a request, None if there is no page yet."""
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {self.token}"})  # noqa: S310
        start = time.monotonic()
        try:
            with _opener.open(request, timeout=_TIMEOUT) as response:
                response.read()
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.NOT_FOUND:
                return None
            raise
        return time.monotonic() - start

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Make rounds during the block, with pauses. Raises the error of a request at the end."""
        stopped = threading.Event()
        errors: list[OSError] = []

        def watch() -> None:
            try:
                while not stopped.wait(_PAUSE_SECONDS):
                    self.round()
            except OSError as error:
                errors.append(error)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield
        finally:
            stopped.set()
            watcher.join()
        if errors:
            raise errors[0]

    def measures(self, prefix: str) -> list[Measure]:
        """Return the median and the 95th percentile of each page; *prefix* begins their names."""
        rows = []
        for name, seconds in self.seconds.items():
            count, slowest = len(self.pages[name]), percentile(self.slowest[name], 95)
            requests = f"{count} requests at once, the slowest {slowest:.2f} s" if count > 1 else "1 request"
            conditions = f"{requests}, {len(seconds)} times"
            rows.append(Measure(f"{prefix}{name}, median", "s", statistics.median(seconds), conditions=conditions))
            high = percentile(seconds, 95)
            rows.append(Measure(f"{prefix}{name}, 95th percentile", "s", high, None, LIMIT_SECONDS, conditions))
        return rows


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the smallest of *values* that at least *percent* % of them do not exceed."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]
