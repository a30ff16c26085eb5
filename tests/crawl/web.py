"""A real web server on localhost with configurable responses, including invalid ones."""

from __future__ import annotations

import asyncio
import gzip
import io
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Self

from aiohttp import web
from PIL import Image

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Answer:
    """The response for a URL. The first requests get the responses in *first*."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    first: tuple[Answer, ...] = ()


class Web:
    """A server that responds by host and path, or by path only; 404 otherwise.

    `request_counts` counts requests by host and path, `request_times` lists their monotonic times, and
    `local_addresses` the local IP addresses that received them (several if *address* is 0.0.0.0).
    """

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.address = address
        self.answers: dict[str, Answer | Handler] = {}
        self.request_counts: Counter[str] = Counter()
        self.request_times: list[tuple[float, str]] = []
        self.local_addresses: set[str] = set()
        self.agents: set[str] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._runner = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        self.port = self._runner.addresses[0][1]
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def image_requests(self) -> Counter[str]:
        """Return the request counts without those of robots.txt and tdmrep.json."""
        rules = ("/robots.txt", "/.well-known/tdmrep.json")
        return Counter({url: count for url, count in self.request_counts.items() if not url.endswith(rules)})

    def image(self, path: str, *, kind: str = "PNG", size: tuple[int, int] = (40, 30), color: str = "red") -> None:
        self.answers[path] = Answer(image(kind, size, color), headers={"Content-Type": f"image/{kind.lower()}"})

    def page(self, path: str, html: str, **headers: str) -> None:
        self.answers[path] = Answer(html.encode(), headers={"Content-Type": "text/html; charset=utf-8"} | headers)

    async def _start(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, self.address, 0).start()
        return runner

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        name = request.path_qs
        key = f"{request.host}{name}"
        self.request_counts[key] += 1
        self.request_times.append((time.monotonic(), key))
        self.local_addresses.add(request.transport.get_extra_info("sockname")[0])
        self.agents.add(request.headers["User-Agent"])
        answer = self.answers.get(key) or self.answers.get(name) or Answer(status=404)
        if not isinstance(answer, Answer):
            return await answer(request)
        if self.request_counts[key] <= len(answer.first):
            answer = answer.first[self.request_counts[key] - 1]
        return web.Response(body=answer.body, status=answer.status, headers=answer.headers)


def image(kind: str = "PNG", size: tuple[int, int] = (40, 30), color: str = "red", mode: str = "RGB") -> bytes:
    """Return an image file of one color."""
    out = io.BytesIO()
    Image.new(mode, size, color).save(out, kind)
    return out.getvalue()


async def hang(request: web.Request) -> web.StreamResponse:
    """Send a byte now and then without end, so that no socket timeout occurs."""
    response = web.StreamResponse(headers={"Content-Length": "1000000"})
    await response.prepare(request)
    while True:
        await response.write(b".")
        await asyncio.sleep(0.05)


async def cut(request: web.Request) -> web.StreamResponse:
    """Close the connection before Content-Length bytes are sent."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b"half")
    request.transport.close()
    return response


async def endless(request: web.Request) -> web.StreamResponse:
    """Send without a length and without an end."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"x" * 65536)


async def drip(request: web.Request) -> web.StreamResponse:
    """Send one byte a second, for ever."""
    response = web.StreamResponse(headers={"Content-Length": "1000000"})
    await response.prepare(request)
    while True:
        await response.write(b".")
        await asyncio.sleep(1)


async def reset(request: web.Request) -> web.StreamResponse:
    """Reset the connection in the middle of the answer."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b"half")
    request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()
    return response


def bomb(size: int) -> Answer:
    """Return a gzipped response that decompresses to *size* bytes, about a thousand times its own size."""
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb") as packed:
        for _ in range(size >> 20):
            packed.write(bytes(1 << 20))
    return Answer(out.getvalue(), headers={"Content-Encoding": "gzip", "Content-Type": "image/png"})
