"""Decodes the transfer and content codings of a response body.

Many archives keep the header but store the decoded body, and some servers name a coding that they do not apply; a body
that does not look encoded is returned unchanged.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Sequence

from fastwarc.stream_io import BrotliReader, ChunkedReader, ZstdReader

from vecap_tasks.errors import Failure

_CHUNK_HEADER = re.compile(rb"[0-9A-Fa-f]{1,8}[ \t]*(?:;[^\r\n]*)?\r?\n")
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_GZIP_WINDOW, _ZLIB_WINDOW, _RAW_WINDOW = 31, 15, -15
_STEP = 1 << 14  # compressed bytes per step: zlib copies the bytes of a step after the end of a member
_MAX_MEMBERS = 10_000  # gzip members; writers of several members use blocks of 64 KB or more
_MAX_CODINGS = 5
# Control characters that text does not contain (WHATWG MIME Sniffing, section 3), and starts of images and UTF-16.
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
_PLAIN = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8|RIFF....WEBP|BM|II\*\x00|MM\x00\*|....ftyp|\x00\x00\x01\x00|\xfe\xff|\xff\xfe",
    re.DOTALL,
)
_SNIFFED = 1445  # bytes; as in that standard


def decode_body(body: bytes, transfer: str, content: Sequence[str], max_bytes: int, *, truncate: bool = False) -> bytes:
    """Return *body* without its transfer and content codings (lowercase names, in the order applied).

    With *truncate*, a body that is cut short or too large yields its first `max_bytes + 1` bytes. Raises Failure:
    `bad_encoding` if it is invalid, `too_large` if the result exceeds *max_bytes*.
    """
    if "chunked" in transfer and _CHUNK_HEADER.match(body):
        body = _read(ChunkedReader(io.BytesIO(body)), max_bytes)
    if len(content) > _MAX_CODINGS:
        raise Failure("bad_encoding", f"more than {_MAX_CODINGS} codings")
    for name in reversed(content):
        try:
            decoded = _decode(body, name, max_bytes, truncate)
        except Failure:
            if not _looks_plain(body):
                raise
        else:
            # Brotli has no signature: some texts begin like an empty stream.
            body = decoded if decoded or not _looks_plain(body) else body
    if truncate:
        return body[: max_bytes + 1]
    if len(body) > max_bytes:
        raise Failure("too_large")
    return body


def _decode(body: bytes, name: str, max_bytes: int, truncate: bool) -> bytes:
    if name in ("gzip", "x-gzip") and body.startswith(_GZIP):
        return _decompress(body, _GZIP_WINDOW, max_bytes, truncate)
    if name == "deflate":
        zlib_header = len(body) > 1 and body[0] & 15 == zlib.DEFLATED and not (body[0] << 8 | body[1]) % 31
        return _decompress(body, _ZLIB_WINDOW if zlib_header else _RAW_WINDOW, max_bytes, truncate)
    if name == "br" and body:
        return _read(BrotliReader(io.BytesIO(body)), max_bytes)
    if name == "zstd" and body.startswith(_ZSTD):
        return _read(ZstdReader(io.BytesIO(body)), max_bytes)
    return body


def _looks_plain(body: bytes) -> bool:
    """Return whether *body* looks like text or an image, not like compressed data."""
    return _PLAIN.match(body) is not None or not _BINARY.search(body, 0, _SNIFFED)


def _decompress(body: bytes, window: int, max_bytes: int, truncate: bool) -> bytes:
    """Decompress *body*; for gzip all members, ignoring trailing data."""
    output = bytearray()
    remaining = memoryview(body)
    for _ in range(_MAX_MEMBERS):
        decompressor = zlib.decompressobj(window)
        while not decompressor.eof and len(output) <= max_bytes:
            step = remaining[:_STEP]
            if not step:
                if truncate:
                    return bytes(output)
                raise Failure("bad_encoding", "cut short")
            try:
                output += decompressor.decompress(step, max_bytes + 1 - len(output))
            except zlib.error as error:
                raise Failure("bad_encoding") from error
            remaining = remaining[len(step) - len(decompressor.unused_data) - len(decompressor.unconsumed_tail) :]
        if len(output) > max_bytes or remaining[:2] != _GZIP or window != _GZIP_WINDOW:
            return bytes(output)
    raise Failure("bad_encoding", f"more than {_MAX_MEMBERS:,} gzip members")


def _read(reader: ChunkedReader | BrotliReader | ZstdReader, max_bytes: int) -> bytes:
    try:
        return bytes(reader.read(max_bytes + 1))
    except OSError as error:
        raise Failure("bad_encoding") from error
