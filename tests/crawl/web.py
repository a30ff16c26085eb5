"""A real web server on localhost whose answers a test writes down, the bad ones too."""

from __future__ import annotations

import asyncio
import io
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Self

from aiohttp import web
from PIL import Image

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Answer:
    """What an address answers: to the first requests with each of *first*, then with itself."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    first: tuple[Answer, ...] = ()


class Web:
    """Answers by host and path, or by path alone; 404 for the rest. `asked` counts the requests."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | Handler] = {}
        self.asked: Counter[str] = Counter()
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

    def image(self, path: str, *, kind: str = "PNG", size: tuple[int, int] = (40, 30), color: str = "red") -> None:
        self.answers[path] = Answer(image(kind, size, color), headers={"Content-Type": f"image/{kind.lower()}"})

    def page(self, path: str, html: str, **headers: str) -> None:
        self.answers[path] = Answer(html.encode(), headers={"Content-Type": "text/html; charset=utf-8"} | headers)

    async def _start(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        name = request.path_qs
        full = f"{request.host}{name}"
        self.asked[full] += 1
        self.agents.add(request.headers["User-Agent"])
        answer = self.answers.get(full) or self.answers.get(name) or Answer(status=404)
        if not isinstance(answer, Answer):
            return await answer(request)
        if self.asked[full] <= len(answer.first):
            answer = answer.first[self.asked[full] - 1]
        return web.Response(body=answer.body, status=answer.status, headers=answer.headers)


def image(kind: str = "PNG", size: tuple[int, int] = (40, 30), color: str = "red", mode: str = "RGB") -> bytes:
    """Return an image file of one colour."""
    out = io.BytesIO()
    Image.new(mode, size, color).save(out, kind)
    return out.getvalue()


async def hang(request: web.Request) -> web.StreamResponse:
    """Promise a body and send a byte of it now and then, for ever: no socket timeout ends this."""
    response = web.StreamResponse(headers={"Content-Length": "1000000"})
    await response.prepare(request)
    while True:
        await response.write(b".")
        await asyncio.sleep(0.05)


async def cut(request: web.Request) -> web.StreamResponse:
    """Promise more than is sent, then close."""
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
