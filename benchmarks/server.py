"""A lightweight web server of photographs for benchmarks, so that the client dominates the measured cost.

    python -m benchmarks.server --port N [--images N]

`/i/<n>.jpg` is photograph n; a few distinct ones repeat under different numbers. `/page/<from>/<count>` is a page with
`count` of them. `/seen` returns the number of image requests and the monotonic time of the first, and resets both.
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
# Width, height, JPEG quality and grain of the photographs, about 131 KB on average.
_KINDS = ((640, 480, 92, 8.2), (600, 800, 85, 7.5), (1024, 768, 76, 7.0), (1280, 853, 65, 7.2))


def photograph(number: int) -> bytes:
    """Return a synthetic JPEG photograph: large soft shapes, finer ones on top, edges, and sensor grain."""
    random = np.random.default_rng(number)
    width, height, quality, grain = _KINDS[number % len(_KINDS)]
    image = np.zeros((height, width, 3), np.float32)
    cells = 3
    while cells < 200:
        coarse = random.normal(0, 120 / cells**0.6, (cells * 3 // 4 + 1, cells, 3)).clip(-127, 127)
        layer = Image.fromarray((coarse + 128).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
        image += np.asarray(layer, np.float32) - 128
        cells *= 2
    rows, columns = np.mgrid[:height, :width]
    for _ in range(6):
        a, b, c = random.normal(0, 1, 3)
        image[a * (rows - height / 2) + b * (columns - width / 2) > 150 * c] += random.normal(0, 18, 3)
    image += random.normal(0, grain, (height, width, 1))
    out = io.BytesIO()
    Image.fromarray((image + 128).clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=quality)
    return out.getvalue()


class Photographs:
    """Responses of the server, and request statistics."""

    def __init__(self, count: int) -> None:
        self._responses = [_response(photograph(number), "image/jpeg") for number in range(min(count, _DISTINCT))]
        self._images = 0
        self._first: float | None = None

    def respond(self, path: str) -> bytes:
        _, kind, *rest = path.split("/")
        if kind == "i":
            if self._first is None:
                self._first = time.monotonic()
            self._images += 1
            return self._responses[int(rest[0].removesuffix(".jpg")) % len(self._responses)]
        if kind == "page":
            first, count = map(int, rest)
            shown = (f'<img src="/i/{n}.jpg" alt="photograph {n} of a bench">' for n in range(first, first + count))
            return _response(f"<!doctype html><title>Photographs</title>{''.join(shown)}".encode(), "text/html")
        if kind == "seen":
            stats = {"images": self._images, "first": self._first}
            self._images, self._first = 0, None
            return _response(json.dumps(stats).encode(), "application/json")
        return _response(b"", "text/plain", "404 Not Found")


class Connection(asyncio.Protocol):
    """Minimal HTTP/1.1 for GET requests with keep-alive."""

    def __init__(self, photographs: Photographs) -> None:
        self._photographs = photographs
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # true for uvloop, but not in its types

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode()
            self._transport.write(self._photographs.respond(path))
            if b"connection: close" in head.lower():
                self._transport.close()


def _response(body: bytes, kind: str, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def _serve(port: int, photographs: Photographs) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(photographs), "127.0.0.1", port, backlog=1024)
    print("ready", flush=True)
    await server.serve_forever()


def main() -> None:
    """Serve until terminated; prints `ready` once listening."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--images", type=int, default=_DISTINCT, help="number of distinct photographs")
    arguments = parser.parse_args()
    uvloop.run(_serve(arguments.port, Photographs(arguments.images)))


if __name__ == "__main__":
    main()
