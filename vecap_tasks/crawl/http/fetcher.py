"""Downloads over HTTP with retries, within the rules of each host and the configured limits."""

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
from functools import partial
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from vecap_tasks.config import FetchConfig
from vecap_tasks.crawl.http.connector import LenientConnector
from vecap_tasks.crawl.http.content_encoding import decode_body
from vecap_tasks.crawl.http.headers import MAX_HEADER, media_type, opt_out_values
from vecap_tasks.crawl.http.robots import MAX_BYTES, opted_out, product_token
from vecap_tasks.crawl.http.robots_cache import RobotsCache
from vecap_tasks.crawl.http.ssrf import AddressGuard, Resolver
from vecap_tasks.crawl.http.throttle import Host, Slots
from vecap_tasks.crawl.http.url import absolute
from vecap_tasks.errors import Failure, retry_after_seconds

_ERRNO_REASONS = {
    errno.EACCES: "forbidden_address",  # raised by AddressGuard
    errno.ECONNREFUSED: "connection_refused",
    errno.ECONNRESET: "connection_reset",
    errno.EPIPE: "connection_reset",
    errno.ETIMEDOUT: "timeout",
}
T = TypeVar("T")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 5  # RFC 9309, section 2.3.1.2, requires five for robots.txt
_TEMPORARY_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_NO_RESPONSE = frozenset({"timeout", "connection_refused", "connection_reset", "unreachable", "dns", "tls"})
_READ_BUFFER = 1 << 18  # bytes of a body that are buffered before the socket pauses; most images are smaller
_BACKOFF_SECONDS = 0.5  # seconds before the first retry; doubles for each further retry, with ±50 % jitter
_DNS_THREADS = 32  # concurrent DNS lookups; each blocks a thread
_MAX_LISTING_BYTES = 50 << 20  # limit of the sitemap protocol
_SMALL_BODY = 1 << 16  # compressed bytes that are decompressed on the event loop
_MAX_HOSTS = 10_000  # hosts kept in memory before idle ones are evicted


def failure_from_exception(error: aiohttp.ClientError | OSError) -> Failure:
    """Return the failure for *error*. An OSError from aiohttp is a connection error."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            return Failure("dns", temporary=error.os_error.errno == socket.EAI_AGAIN)
        case aiohttp.ClientSSLError():
            return Failure("tls")
        case aiohttp.ClientConnectorError():
            reason = _ERRNO_REASONS.get(error.os_error.errno or 0, "unreachable")
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
            return Failure(_ERRNO_REASONS.get(error.errno or 0, "connection_reset"), temporary=True)
        case _:
            return Failure("bad_response")


@dataclass(frozen=True, slots=True)
class Download:
    """A response body and its header fields. `url` is the URL after redirects."""

    url: str
    body: bytes
    content_type: str  # lowercase, without parameters
    charset: str | None
    robots_tags: tuple[str, ...]  # values of X-Robots-Tag, and `name: value` of the other fields with opt-outs


class Fetcher:
    """Downloads with *config*, inside `async with`. *resolver* replaces the default name resolution."""

    def __init__(self, config: FetchConfig, resolver: AbstractResolver | None = None) -> None:
        self._config = config
        self._product = product_token(config.user_agent)
        self._resolver = resolver or Resolver(config.connect_to)
        self._slots = Slots(config.connections)
        self._hosts: dict[str, Host] = {}
        self._sweep_at = _MAX_HOSTS
        self._robots_cache = RobotsCache(config, self._product, self._read_policy)

    async def __aenter__(self) -> Self:
        # The default executor has few threads, and a slow DNS lookup blocks one for many seconds.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_DNS_THREADS, thread_name_prefix="lookup"))
        connector = LenientConnector(
            limit=0,  # `Slots` limits connections
            resolver=self._resolver,
            ttl_dns_cache=int(self._config.dns_ttl),
            socket_factory=AddressGuard(self._config.allow_networks, self._config.has_contact).socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers={"User-Agent": self._config.user_agent, "Accept-Encoding": "gzip, deflate"},
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=_READ_BUFFER,
            max_line_size=MAX_HEADER,  # `LenientConnector` limits the header
            max_field_size=MAX_HEADER,
            max_headers=MAX_HEADER,
            timeout=aiohttp.ClientTimeout(total=None),  # `_Budget` limits the time
            auto_decompress=False,  # aiohttp decompresses without a size limit
            trust_env=False,  # a proxy would bypass AddressGuard
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._robots_cache.close()
        await self._session.close()

    async def get(self, url: str, use: Callable[[Download], Awaitable[T]], *, listing: bool = False) -> T:
        """Download the canonical *url* and return the result of *use*. Raises Failure.

        The deadline excludes waiting for a slot. The slot is held until *use* returns, so that at most one body per
        slot is in memory. A *listing*, such as a sitemap, may be `noindex`.
        """
        return await self._get_with_retries(url, use, is_content=True, listing=listing)

    async def _read_policy(self, url: str) -> bytes:
        """Return the first bytes of a policy file: robots.txt or tdmrep.json."""

        async def body(download: Download) -> bytes:
            return download.body

        return await self._get_with_retries(url, body, is_content=False)

    async def _get_with_retries(
        self, url: str, use: Callable[[Download], Awaitable[T]], *, is_content: bool, listing: bool = False
    ) -> T:
        """Download with the configured retries. *is_content* is False for policy files, which are always allowed."""
        budget = _Budget(self._config.deadline)
        for retries_left in range(self._config.retries, -1, -1):
            try:
                return await self._follow_redirects(
                    url, use, budget, last_attempt=not retries_left, is_content=is_content, listing=listing
                )
            except Failure as failure:
                wait = failure.retry_after
                if wait is None:
                    wait = _BACKOFF_SECONDS * 2 ** (self._config.retries - retries_left) * random.uniform(0.5, 1.5)
                budget.seconds_left -= wait
                if not failure.temporary or not retries_left or budget.seconds_left <= 0:
                    raise
            await asyncio.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    async def _follow_redirects(
        self,
        url: str,
        use: Callable[[Download], Awaitable[T]],
        budget: _Budget,
        *,
        last_attempt: bool,
        is_content: bool,
        listing: bool,
    ) -> T:
        """Request *url* and follow redirects. Each step is checked against the host's rules and throttled."""
        for _ in range(_MAX_REDIRECTS + 1):
            parts = urlsplit(url)
            host = self._host(parts.netloc)
            if is_content and (self._config.robots or self._config.tdmrep):
                policy = await self._robots_cache.policy(f"{parts.scheme}://{parts.netloc}")
                policy.check(url, listing=listing)
                host.set_crawl_delay(policy.robots.delay or 0.0)
            async with host.slot(self._slots):
                start = asyncio.get_running_loop().time()
                try:
                    async with budget.spend():
                        response = await self._request(url, is_content=is_content, listing=listing)
                except Failure as failure:
                    if failure.retry_after:
                        host.pause(failure)
                    if failure.reason not in _NO_RESPONSE:
                        host.record_response()
                    elif last_attempt or not failure.temporary:
                        host.record_no_response(start, failure)
                    raise
                host.record_response()
                if isinstance(response, Download):
                    return await use(response)
            try:
                url = absolute(response, url)
            except Failure as failure:
                raise Failure("bad_redirect", failure.message) from failure
        raise Failure("too_many_redirects")

    async def _request(self, url: str, *, is_content: bool, listing: bool) -> Download | str:
        """Return the download, or the target of a redirect, of one request."""
        try:
            headers = None if is_content else {"Accept-Encoding": "identity"}  # only plain text can be truncated
            async with self._session.get(URL(url, encoded=True), allow_redirects=False, headers=headers) as response:
                if response.status in _REDIRECTS and "Location" in response.headers:
                    return _location(response.headers["Location"])
                if response.status != HTTPStatus.OK:
                    raise Failure(
                        f"http_{response.status}",
                        temporary=response.status in _TEMPORARY_STATUSES,
                        retry_after=retry_after_seconds(response.headers.get("Retry-After")),
                    )
                tags = opt_out_values(response.headers.items())
                if is_content and self._config.robots and (rule := opted_out(tags, self._product, listing=listing)):
                    raise Failure("opt_out", rule)
                body = await self._read_body(response, is_content=is_content, listing=listing)
                return Download(url, body, *media_type(_text(response.headers.get("Content-Type", ""))), tags)
        except (aiohttp.ClientError, OSError) as error:
            raise failure_from_exception(error) from error

    async def _read_body(self, response: aiohttp.ClientResponse, *, is_content: bool, listing: bool) -> bytes:
        """Return the decoded body. Of a policy file, only the first bytes count."""
        max_bytes = self._config.max_bytes if is_content else MAX_BYTES
        if listing:
            max_bytes = max(max_bytes, _MAX_LISTING_BYTES)
        if is_content and (response.content_length or 0) > max_bytes:
            raise Failure("too_large")
        blocks: list[bytes] = []
        size = 0
        async for block in response.content.iter_any():
            blocks.append(block)
            size += len(block)
            if size > max_bytes:
                if is_content:
                    raise Failure("too_large")
                break
        body = b"".join(blocks)
        written = ",".join(response.headers.getall("Content-Encoding", ()))
        codings = written.lower().replace(" ", "").split(",") if written else []
        decode = partial(decode_body, body, "", codings, max_bytes, truncate=not is_content)
        if not codings or size <= _SMALL_BODY:
            return decode()
        return await asyncio.get_running_loop().run_in_executor(None, decode)

    def _host(self, name: str) -> Host:
        host = self._hosts.get(name)
        if host is None:
            if len(self._hosts) >= self._sweep_at:
                for idle in [key for key, state in self._hosts.items() if state.idle]:
                    del self._hosts[idle]
                    self._robots_cache.evict(idle)
                self._sweep_at = max(_MAX_HOSTS, 2 * len(self._hosts))
            host = self._hosts[name] = Host(self._config)
        return host


@dataclass(slots=True)
class _Budget:
    """The seconds left for a download, excluding time spent waiting for slots."""

    seconds_left: float

    @asynccontextmanager
    async def spend(self) -> AsyncIterator[None]:
        """Subtract the time that the block takes. Raises Failure if none is left."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        try:
            async with asyncio.timeout(self.seconds_left):
                yield
        except TimeoutError as error:
            raise Failure("timeout") from error
        finally:
            self.seconds_left -= loop.time() - start


def _location(written: str) -> str:
    """Return a Location as browsers read it: UTF-8, otherwise with bytes outside ASCII percent-encoded."""
    raw = written.encode("utf-8", "surrogateescape")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(chr(byte) if byte < 0x80 else f"%{byte:02X}" for byte in raw)


def _text(written: str) -> str:
    """Return a header value with U+FFFD for bytes that are not UTF-8."""
    return written.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class FetcherThread:
    """A fetcher in its own thread, for all shards of a process. The thread ends with this object."""

    def __init__(self, config: FetchConfig) -> None:
        self._loop = asyncio.new_event_loop()
        # A daemon, so that a process can exit during downloads.
        threading.Thread(target=_run, args=(self._loop,), name="fetch", daemon=True).start()
        self._fetcher = asyncio.run_coroutine_threadsafe(_open_fetcher(config), self._loop).result()
        self.close = weakref.finalize(self, _close, self._loop, self._fetcher)

    def run(self, work: Callable[[Fetcher], Coroutine[Any, Any, T]]) -> T:
        """Return the result of *work*, or raise its error. An interrupt cancels the work."""
        future = asyncio.run_coroutine_threadsafe(work(self._fetcher), self._loop)
        try:
            return future.result()
        finally:
            future.cancel()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


async def _open_fetcher(config: FetchConfig) -> Fetcher:
    return await Fetcher(config).__aenter__()


def _close(loop: asyncio.AbstractEventLoop, fetcher: Fetcher) -> None:
    async def end() -> None:
        await fetcher.__aexit__(None, None, None)
        loop.stop()

    asyncio.run_coroutine_threadsafe(end(), loop)
