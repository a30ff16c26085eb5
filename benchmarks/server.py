"""A light web server of photographs for benchmarks, so that what is measured is who downloads from it.

    python -m benchmarks.server --port N [--images N]

`/i/<n>.jpg` is photograph n, each made once and served again under further numbers; `/page/<from>/<count>` is a page
that shows `count` of them; `/seen` says how many were asked for and when the first was, on the monotonic clock.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import time
from typing import cast

import numpy as np
import uvloop
from PIL import Image

_DISTINCT = 64
# Width, height, JPEG quality and grain: what the web shows, each of some 131 KB on average.
_KINDS = ((640, 480, 92, 8.2), (600, 800, 85, 7.5), (1024, 768, 76, 7.0), (1280, 853, 65, 7.2))


def photograph(number: int) -> bytes:
    """Return a JPEG made as photographs are: large soft shapes, finer ones upon them, edges, and a sensor's grain."""
    random = np.random.default_rng(number)
    width, height, quality, grain = _KINDS[number % len(_KINDS)]
    picture = np.zeros((height, width, 3), np.float32)
    cells = 3
    while cells < 200:
        coarse = random.normal(0, 120 / cells**0.6, (cells * 3 // 4 + 1, cells, 3)).clip(-127, 127)
        layer = Image.fromarray((coarse + 128).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
        picture += np.asarray(layer, np.float32) - 128
        cells *= 2
    rows, columns = np.mgrid[:height, :width]
    for _ in range(6):
        a, b, c = random.normal(0, 1, 3)
        picture[a * (rows - height / 2) + b * (columns - width / 2) > 150 * c] += random.normal(0, 18, 3)
    picture += random.normal(0, grain, (height, width, 1))
    out = io.BytesIO()
    Image.fromarray((picture + 128).clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=quality)
    return out.getvalue()


class Photographs:
    """What the server holds, and what it was asked for."""

    def __init__(self, count: int) -> None:
        self._answers = [_answer(photograph(number), "image/jpeg") for number in range(min(count, _DISTINCT))]
        self._images = 0
        self._first: float | None = None

    def answer(self, path: str) -> bytes:
        _, kind, *rest = path.split("/")
        if kind == "i":
            if self._first is None:
                self._first = time.monotonic()
            self._images += 1
            return self._answers[int(rest[0].removesuffix(".jpg")) % len(self._answers)]
        if kind == "page":
            first, count = map(int, rest)
            shown = (f'<img src="/i/{n}.jpg" alt="photograph {n} of a bench">' for n in range(first, first + count))
            return _answer(f"<!doctype html><title>Photographs</title>{''.join(shown)}".encode(), "text/html")
        if kind == "seen":
            seen = {"images": self._images, "first": self._first}
            self._images, self._first = 0, None
            return _answer(json.dumps(seen).encode(), "application/json")
        return _answer(b"", "text/plain", "404 Not Found")


class Connection(asyncio.Protocol):
    """HTTP/1.1 as far as a GET goes, with connections kept open where the client asks for it."""

    def __init__(self, photographs: Photographs) -> None:
        self._photographs = photographs
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # as uvloop's is, without saying so

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode()
            self._transport.write(self._photographs.answer(path))
            if b"connection: close" in head.lower():
                self._transport.close()


def _answer(body: bytes, kind: str, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def _serve(port: int, photographs: Photographs) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(photographs), "127.0.0.1", port, backlog=1024)
    print("ready", flush=True)
    await server.serve_forever()


def main() -> None:
    """Serve until ended; says `ready` once it listens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--images", type=int, default=_DISTINCT, help="distinct photographs to make")
    arguments = parser.parse_args()
    uvloop.run(_serve(arguments.port, Photographs(arguments.images)))


if __name__ == "__main__":
    main()
