"""Decodes the transfer and content codings of a response body.

Many archives keep the header but store the decoded body; a body that does not look encoded is returned unchanged.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Sequence

from fastwarc.stream_io import BrotliReader, ChunkedReader

from vecap_tasks.errors import Failure

_CHUNK_HEADER = re.compile(rb"[0-9A-Fa-f]{1,8}[ \t]*(?:;[^\r\n]*)?\r?\n")
_GZIP = b"\x1f\x8b"
_GZIP_WINDOW = 31
_STEP = 1 << 14  # compressed bytes per step: zlib copies the bytes of a step after the end of a member


def decode_body(body: bytes, transfer: str, content: Sequence[str], max_bytes: int) -> bytes:
    """Return *body* without its transfer and content codings (lowercase names, in the order applied).

    Raises Failure: `bad_encoding` if it is invalid, `too_large` if the result exceeds *max_bytes*.
    """
    if "chunked" in transfer and _CHUNK_HEADER.match(body):
        body = _read(ChunkedReader(io.BytesIO(body)), max_bytes)
    for name in reversed(content):
        if name in ("gzip", "x-gzip") and body.startswith(_GZIP):
            body = _decompress(body, _GZIP_WINDOW, max_bytes)
        elif name == "deflate":
            body = _decompress(body, 15 if body[:1] == b"\x78" else -15, max_bytes)
        elif name == "br":
            body = _read(BrotliReader(io.BytesIO(body)), max_bytes)
    if len(body) > max_bytes:
        raise Failure("too_large")
    return body


def _decompress(body: bytes, window: int, max_bytes: int) -> bytes:
    """Decompress *body*; for gzip all members, ignoring trailing data."""
    output = bytearray()
    remaining = memoryview(body)
    while len(output) <= max_bytes:
        decompressor = zlib.decompressobj(window)
        while not decompressor.eof and len(output) <= max_bytes:
            step = remaining[:_STEP]
            if not step:
                raise Failure("bad_encoding", "cut short")
            try:
                output += decompressor.decompress(step, max_bytes + 1 - len(output))
            except zlib.error as error:
                raise Failure("bad_encoding") from error
            remaining = remaining[len(step) - len(decompressor.unused_data) - len(decompressor.unconsumed_tail) :]
        if remaining[:2] != _GZIP or window != _GZIP_WINDOW:
            break
    return bytes(output)


def _read(reader: ChunkedReader | BrotliReader, max_bytes: int) -> bytes:
    try:
        return bytes(reader.read(max_bytes + 1))
    except OSError as error:
        raise Failure("bad_encoding") from error
