"""Downloads over HTTP within the limits of the site and of our own network, with retries."""

from __future__ import annotations

import asyncio
import errno
import random
import socket
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from vecap_tasks.config import FetchConfig
from vecap_tasks.crawl.http.content_encoding import decode_body
from vecap_tasks.crawl.http.robots import MAX_BYTES, TDM, RobotsCache, opted_out, product_token
from vecap_tasks.crawl.http.ssrf import AddressGuard, Resolver
from vecap_tasks.crawl.http.throttle import Host, Slots
from vecap_tasks.crawl.http.url import absolute
from vecap_tasks.errors import Failure, retry_after_seconds

_ERRNO = {
    errno.EACCES: "forbidden_address",  # as the guard has it
    errno.ECONNREFUSED: "connection_refused",
    errno.ECONNRESET: "connection_reset",
    errno.EPIPE: "connection_reset",
    errno.ETIMEDOUT: "timeout",
}
T = TypeVar("T")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 5  # what RFC 9309, section 2.3.1.2 wants followed for robots.txt
_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
_SILENCE = frozenset({"timeout", "connection_refused", "connection_reset", "unreachable", "dns", "tls"})
_BUFFER = 1 << 18  # bytes of a body after which the server is held up until they are taken; most images have fewer
_FIRST_WAIT = 0.5  # seconds before the second try, doubled for each further one, give or take half
_LOOKUPS = 32  # names looked up at once; each holds a thread while it waits
_HOSTS = 10_000  # hosts that are remembered


def named(error: aiohttp.ClientError | OSError) -> Failure:
    """Name what went wrong; an OSError that aiohttp lets through is the connection's."""
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
        case TimeoutError():
            return Failure("timeout")
        case OSError():
            return Failure(_ERRNO.get(error.errno or 0, "connection_reset"), temporary=True)
        case _:
            return Failure("bad_response")


@dataclass(frozen=True, slots=True)
class Download:
    """A body with what the answer's header says of it. `url` is the address after redirects."""

    url: str
    body: bytes
    content_type: str  # in lower case, without parameters
    charset: str | None
    robots_tags: tuple[str, ...]  # values of X-Robots-Tag, and of TDM-Reservation with its name before it


class Fetcher:
    """Downloads, within `async with`, as *config* says; names are looked up by *resolver*, where one is given."""

    def __init__(self, config: FetchConfig, resolver: AbstractResolver | None = None) -> None:
        self._config = config
        self._product = product_token(config.user_agent)
        self._resolver = resolver or Resolver(config.connect_to)
        self._slots = Slots(config.connections)
        self._hosts: dict[str, Host] = {}
        self._sweep_at = _HOSTS
        self._robots_cache = RobotsCache(config, self._product, self._read)

    async def __aenter__(self) -> Self:
        # The usual executor has a few threads, and a name that is not answered for holds one for many seconds.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_LOOKUPS, thread_name_prefix="lookup"))
        connector = aiohttp.TCPConnector(
            limit=0,  # the slots bound it
            resolver=self._resolver,
            ttl_dns_cache=int(self._config.dns_ttl),
            socket_factory=AddressGuard(self._config.allow_networks).socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers={"User-Agent": self._config.user_agent, "Accept-Encoding": "gzip, deflate"},
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=_BUFFER,
            timeout=aiohttp.ClientTimeout(total=None),  # `_Budget` keeps the time
            auto_decompress=False,  # it unpacks a block whole, however large it becomes
            trust_env=False,  # a proxy would connect to where the guard lets nobody
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._robots_cache.close()
        await self._session.close()

    async def get(self, url: str, use: Callable[[Download], Awaitable[T]], *, listing: bool = False) -> T:
        """Download the canonical address *url* and return what *use* makes of it. Raises Failure.

        Waiting for a turn is not part of the deadline. The turn is held until *use* is done, so that no more bodies
        than slots are in memory. A *listing*, such as a sitemap, may be `noindex`.
        """
        return await self._tried(url, use, asked=True, listing=listing)

    async def _read(self, url: str) -> bytes:
        """Return the beginning of a file that says what is permitted."""

        async def body(download: Download) -> bytes:
            return download.body

        return await self._tried(url, body, asked=False)

    async def _tried(
        self, url: str, use: Callable[[Download], Awaitable[T]], *, asked: bool, listing: bool = False
    ) -> T:
        """Try as often as the configuration says. *asked* is False for what the owner expects robots to read."""
        budget = _Budget(self._config.deadline)
        for tries_left in range(self._config.retries, -1, -1):
            try:
                return await self._follow(url, use, budget, last=not tries_left, asked=asked, listing=listing)
            except Failure as failure:
                wait = failure.retry_after
                if wait is None:
                    wait = _FIRST_WAIT * 2 ** (self._config.retries - tries_left) * random.uniform(0.5, 1.5)
                budget.left -= wait
                if not failure.temporary or not tries_left or budget.left <= 0:
                    raise
            await asyncio.sleep(wait)
        raise AssertionError("the last try returns or raises")

    async def _follow(
        self,
        url: str,
        use: Callable[[Download], Awaitable[T]],
        budget: _Budget,
        *,
        last: bool,
        asked: bool,
        listing: bool,
    ) -> T:
        """Ask for *url* and whatever it redirects to; each step must be permitted, and waits for its host."""
        for _ in range(_MAX_REDIRECTS + 1):
            parts = urlsplit(url)
            host = self._host(parts.netloc)
            if asked and (self._config.robots or self._config.tdmrep):
                policy = await self._robots_cache.of(f"{parts.scheme}://{parts.netloc}")
                policy.check(url)
                host.crawl_delay(policy.robots.delay or 0.0)
            async with host.turn(self._slots):
                start = asyncio.get_running_loop().time()
                try:
                    async with budget.spent():
                        answer = await self._ask(url, asked=asked, listing=listing)
                except Failure as failure:
                    if failure.retry_after:
                        host.pause(failure)
                    if failure.reason not in _SILENCE:
                        host.answered()
                    elif last or not failure.temporary:
                        host.silent(start, failure)
                    raise
                host.answered()
                if isinstance(answer, Download):
                    return await use(answer)
            try:
                url = absolute(answer, url)
            except Failure as failure:
                raise Failure("bad_redirect", failure.message) from failure
        raise Failure("too_many_redirects")

    async def _ask(self, url: str, *, asked: bool, listing: bool) -> Download | str:
        """Return the answer to one request, or where it redirects to."""
        try:
            headers = None if asked else {"Accept-Encoding": "identity"}  # a beginning can be read of plain text alone
            async with self._session.get(URL(url, encoded=True), allow_redirects=False, headers=headers) as response:
                if response.status in _REDIRECTS and "Location" in response.headers:
                    return response.headers["Location"]
                if response.status != HTTPStatus.OK:
                    raise Failure(
                        f"http_{response.status}",
                        temporary=response.status in _TEMPORARY,
                        retry_after=retry_after_seconds(response.headers.get("Retry-After")),
                    )
                tags = _tags(response)
                if asked and self._config.robots and (rule := opted_out(tags, self._product, listing=listing)):
                    raise Failure("opt_out", rule)
                body = await self._body(response, asked=asked)
                return Download(url, body, response.content_type.lower(), response.charset, tags)
        except (aiohttp.ClientError, OSError) as error:
            raise named(error) from error

    async def _body(self, response: aiohttp.ClientResponse, *, asked: bool) -> bytes:
        most = self._config.max_bytes if asked else MAX_BYTES
        if asked and (response.content_length or 0) > most:
            raise Failure("too_large")
        blocks: list[bytes] = []
        size = 0
        async for block in response.content.iter_any():
            blocks.append(block)
            size += len(block)
            if size > most:
                if asked:
                    raise Failure("too_large")
                break  # of a long robots.txt the beginning counts
        body = b"".join(blocks)
        codings = response.headers.get("Content-Encoding", "").lower().replace(" ", "")
        return decode_body(body, "", codings.split(","), most) if codings else body

    def _host(self, name: str) -> Host:
        host = self._hosts.get(name)
        if host is None:
            if len(self._hosts) >= self._sweep_at:
                for other in [other for other, known in self._hosts.items() if known.idle]:
                    del self._hosts[other]
                    self._robots_cache.forget(other)
                self._sweep_at = max(_HOSTS, 2 * len(self._hosts))
            host = self._hosts[name] = Host(self._config)
        return host


@dataclass(slots=True)
class _Budget:
    """The seconds that a download has left; its turns are not counted."""

    left: float

    @asynccontextmanager
    async def spent(self) -> AsyncIterator[None]:
        """Count what the block takes, and end it when nothing is left. Raises Failure then."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        try:
            async with asyncio.timeout(self.left):
                yield
        except TimeoutError as error:
            raise Failure("timeout") from error
        finally:
            self.left -= loop.time() - start


def _tags(response: aiohttp.ClientResponse) -> tuple[str, ...]:
    reserved = (f"{TDM}: {value}" for value in response.headers.getall(TDM, ()))
    return (*response.headers.getall("X-Robots-Tag", ()), *reserved)


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
