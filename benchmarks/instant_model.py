"""A model server that answers immediately, so that the stage rewrite costs only what the project adds.

    python -m benchmarks.instant_model --port N

OpenAI-compatible chat completions, for both roles: a request with an image gets a VeC, any other a VeCap. The answers
are constant and pass screening.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import cast

import uvloop

NAME = "instant"
VEC = "a red tulip in a garden"
VECAP = "a red Belvo tulip in a garden"


def _response(body: dict[str, object]) -> bytes:
    data = json.dumps(body).encode()
    return f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


def _completion(text: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 20, "completion_tokens": len(text.split())}
    return _response({"object": "chat.completion", "choices": [choice], "usage": usage})


_MODELS = _response({"object": "list", "data": [{"id": NAME}]})
_VEC, _VECAP = _completion(VEC), _completion(VECAP)


class Connection(asyncio.Protocol):
    """Minimal HTTP/1.1 with keep-alive; requests have a Content-Length, as the client sends them."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # true for uvloop, but not in its types
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, rest = self._buffer.partition(b"\r\n\r\n")
            length = next(
                (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
            )
            if len(rest) < length:
                return
            body, self._buffer = rest[:length], rest[length:]
            answer = _MODELS if head.startswith(b"GET") else _VEC if b'"image_url"' in body else _VECAP
            self._transport.write(answer)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port, backlog=1024)
    print("ready", flush=True)
    await server.serve_forever()


def main() -> None:
    """Serve until terminated; prints `ready` once listening."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(_serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
