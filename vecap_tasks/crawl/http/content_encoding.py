"""Undoes what a server did to a body on its way: chunks and compression, as the archived answer's header says.

Many archives keep the header but store the body plain; a body that does not look coded is taken as it is.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Sequence

from fastwarc.stream_io import BrotliReader, ChunkedReader

from vecap_tasks.errors import Failure

_CHUNK = re.compile(rb"[0-9A-Fa-f]{1,8}[ \t]*(?:;[^\r\n]*)?\r?\n")
_GZIP = b"\x1f\x8b"
_GZIP_WINDOW = 31
_STEP = 1 << 14  # packed bytes unpacked at a time: zlib copies what a step has beyond the end of a member


def decode_body(body: bytes, transfer: str, content: Sequence[str], most: int) -> bytes:
    """Return *body* without its transfer and content codings (names in lower case, in the order applied).

    Raises Failure: `bad_encoding` where it cannot be read, `too_large` where more than *most* bytes come out.
    """
    if "chunked" in transfer and _CHUNK.match(body):
        body = _read(ChunkedReader(io.BytesIO(body)), most)
    for name in reversed(content):
        if name in ("gzip", "x-gzip") and body.startswith(_GZIP):
            body = _inflate(body, _GZIP_WINDOW, most)
        elif name == "deflate":
            body = _inflate(body, 15 if body[:1] == b"\x78" else -15, most)
        elif name == "br":
            body = _read(BrotliReader(io.BytesIO(body)), most)
    if len(body) > most:
        raise Failure("too_large")
    return body


def _inflate(body: bytes, window: int, most: int) -> bytes:
    """Unpack *body*; of gzip all members, what follows them being ignored."""
    plain = bytearray()
    rest = memoryview(body)
    while len(plain) <= most:
        unpacker = zlib.decompressobj(window)
        while not unpacker.eof and len(plain) <= most:
            step = rest[:_STEP]
            if not step:
                raise Failure("bad_encoding", "cut short")
            try:
                plain += unpacker.decompress(step, most + 1 - len(plain))
            except zlib.error as error:
                raise Failure("bad_encoding") from error
            rest = rest[len(step) - len(unpacker.unused_data) - len(unpacker.unconsumed_tail) :]
        if rest[:2] != _GZIP or window != _GZIP_WINDOW:
            break
    return bytes(plain)


def _read(reader: ChunkedReader | BrotliReader, most: int) -> bytes:
    try:
        return bytes(reader.read(most + 1))
    except OSError as error:
        raise Failure("bad_encoding") from error
