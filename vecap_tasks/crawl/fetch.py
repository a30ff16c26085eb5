"""Downloads over HTTP that a site's owner and our own network can live with.

One session with one pool of connections and one DNS cache serves all downloads of a shard. Each has a deadline by the
wall clock, a cap on its bytes and a few tries; each host has its own slots, so that a slow one holds up itself alone.
"""

from __future__ import annotations

import asyncio
import errno
import random
import socket
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from vecap_tasks.config import FetchConfig
from vecap_tasks.crawl.address import absolute
from vecap_tasks.crawl.failure import Failure
from vecap_tasks.crawl.guard import Guard
from vecap_tasks.crawl.optout import opted_out
from vecap_tasks.crawl.resolver import Resolver
from vecap_tasks.crawl.robots import ALLOW_ALL, MAX_BYTES, Robots, parse_robots, product_token

T = TypeVar("T")

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 5
_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
_BLOCK = 1 << 16
_FIRST_WAIT = 0.5  # seconds before the second try, doubled for each further one, give or take half
_ERRNO = {
    errno.EACCES: "forbidden_address",  # as the guard has it
    errno.ECONNREFUSED: "connection_refused",
    errno.ECONNRESET: "connection_reset",
    errno.EPIPE: "connection_reset",
    errno.ETIMEDOUT: "timeout",
}


@dataclass(frozen=True, slots=True)
class Download:
    """A body with what the answer's header says of it. `url` is the address after redirects."""

    url: str
    body: bytes
    content_type: str  # in lower case, without parameters
    charset: str | None
    robots_tags: tuple[str, ...]


class Fetcher:
    """Downloads, within `async with`, as *config* says."""

    def __init__(self, config: FetchConfig) -> None:
        self._config = config
        self._product = product_token(config.user_agent)
        self._all = asyncio.Semaphore(config.connections)
        self._hosts: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(config.connections_per_host)
        )
        self._robots: dict[str, asyncio.Task[Robots | Failure]] = {}

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            limit=0,  # the slots above bound it
            limit_per_host=self._config.connections_per_host,
            resolver=Resolver(self._config.connect_to),
            ttl_dns_cache=None,
            socket_factory=Guard(self._config.allow_networks).socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers={"User-Agent": self._config.user_agent, "Accept-Encoding": "gzip, deflate"},
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),  # `_tried` keeps the time
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._robots.values():
            task.cancel()
        await asyncio.gather(*self._robots.values(), return_exceptions=True)
        await self._session.close()

    async def get(self, url: str, use: Callable[[Download], Awaitable[T]]) -> T:
        """Download the canonical address *url* and return what *use* makes of it. Raises Failure.

        Waiting for a free slot is not part of the deadline. The slot is held until *use* is done, so that no more
        bodies than slots are in memory.
        """
        async with self._hosts[urlsplit(url).netloc]:
            return await self._tried(url, use, self._all, polite=True)

    async def _tried(
        self,
        url: str,
        use: Callable[[Download], Awaitable[T]],
        slots: AbstractAsyncContextManager[object],
        *,
        polite: bool,
    ) -> T:
        left = self._config.deadline
        loop = asyncio.get_running_loop()
        for tries_left in range(self._config.retries, -1, -1):
            if polite:
                await self._permit(url)  # robots.txt has a deadline of its own
            async with slots:
                start = loop.time()
                try:
                    async with asyncio.timeout(left):
                        download = await self._follow(url, polite=polite)
                except TimeoutError as error:
                    raise Failure("timeout") from error
                except Failure as failure:
                    wait = failure.retry_after
                    if wait is None:
                        wait = _FIRST_WAIT * 2 ** (self._config.retries - tries_left) * random.uniform(0.5, 1.5)
                    left -= loop.time() - start + wait
                    if not failure.temporary or not tries_left or left <= 0:
                        raise
                else:
                    return await use(download)
            await asyncio.sleep(wait)
        raise AssertionError("the last try returns or raises")

    async def _follow(self, url: str, *, polite: bool) -> Download:
        """Ask for *url* and whatever it redirects to; each step must be permitted."""
        for step in range(_MAX_REDIRECTS + 1):
            if polite and step:
                await self._permit(url)
            try:
                answer = await self._ask(url, polite=polite)
            except aiohttp.ClientError as error:
                raise _failure(error) from error
            if isinstance(answer, Download):
                return answer
            try:
                url = absolute(answer, url)
            except Failure as failure:
                raise Failure("bad_redirect", failure.message) from failure
        raise Failure("too_many_redirects")

    async def _ask(self, url: str, *, polite: bool) -> Download | str:
        """Return the answer to one request, or where it redirects to."""
        async with self._session.get(URL(url, encoded=True), allow_redirects=False) as response:
            if response.status in _REDIRECTS and "Location" in response.headers:
                return response.headers["Location"]
            if response.status != HTTPStatus.OK:
                raise Failure(
                    f"http_{response.status}",
                    temporary=response.status in _TEMPORARY,
                    retry_after=_seconds(response.headers.get("Retry-After")),
                )
            tags = tuple(response.headers.getall("X-Robots-Tag", ()))
            if polite and self._config.robots and (rule := opted_out(tags, self._product)):
                raise Failure("opt_out", rule)
            body = await self._body(response, polite=polite)
            return Download(url, body, response.content_type.lower(), response.charset, tags)

    async def _body(self, response: aiohttp.ClientResponse, *, polite: bool) -> bytes:
        most = self._config.max_bytes if polite else MAX_BYTES
        if polite and (response.content_length or 0) > most:
            raise Failure("too_large")
        body = bytearray()
        async for block in response.content.iter_chunked(_BLOCK):
            body += block
            if len(body) > most:
                if polite:
                    raise Failure("too_large")
                break  # of a long robots.txt the beginning counts
        return bytes(body)

    async def _permit(self, url: str) -> None:
        """Return if robots.txt of the host lets us have *url*, else raise Failure. It is read once per host."""
        if not self._config.robots:
            return
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        if origin not in self._robots:
            self._robots[origin] = asyncio.create_task(self._read_robots(origin))
        # One download's deadline must not end what the others of the host wait for too.
        robots = await asyncio.shield(self._robots[origin])
        if isinstance(robots, Failure):
            raise Failure(robots.reason, robots.detail)
        if not robots.allows(url):
            raise Failure("robots")

    async def _read_robots(self, origin: str) -> Robots | Failure:
        """Return the rules of a host, or why none of it may be fetched (RFC 9309, section 2.3.1)."""
        try:
            return await self._tried(f"{origin}/robots.txt", self._rules, nullcontext(), polite=False)
        except Failure as failure:
            if failure.reason.startswith("http_5"):
                return Failure("robots", f"robots.txt answers {failure.reason.removeprefix('http_')}")
            if failure.reason.startswith("http_") or failure.reason == "too_many_redirects":
                return ALLOW_ALL
            return Failure(failure.reason, "robots.txt")

    async def _rules(self, download: Download) -> Robots:
        return parse_robots(download.body, self._product)


def _failure(error: aiohttp.ClientError) -> Failure:
    """Name what went wrong."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            return Failure("dns", temporary=error.os_error.errno == socket.EAI_AGAIN)
        case aiohttp.ClientSSLError():
            return Failure("tls")
        case aiohttp.ClientConnectorError():
            reason = _ERRNO.get(error.os_error.errno or 0, "unreachable")
            return Failure(reason, temporary=reason != "forbidden_address")
        case aiohttp.ClientPayloadError():
            return Failure("incomplete", temporary=True)
        case aiohttp.InvalidURL():
            return Failure("bad_url")
        case aiohttp.ClientConnectionError():
            return Failure("connection_reset", temporary=True)
        case _:
            return Failure("bad_response")


def _seconds(retry_after: str | None) -> float | None:
    """Return the seconds that Retry-After asks for, as a number or as a date (RFC 9110, 10.2.3)."""
    if not retry_after:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        until = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())
