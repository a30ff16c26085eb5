"""Reads the decompressed bytes of a file, gzipped or plain, in one pass.

The reader hashes the file, verifies the checksum of each gzip member, and reports the offsets of members, so that a
record can be read separately later. Memory: one block of the file and the output of one decompression step. ISA-L
decompresses pages twice as fast as zlib, and decompression dominates reading an archive.
"""

from __future__ import annotations

import hashlib
import re
from typing import IO

from isal import isal_zlib

_GZIP = b"\x1f\x8b"
_LINE_BREAKS = re.compile(rb"[\r\n]*")
_BLOCK = 1 << 18
_STEP = 1 << 13  # compressed bytes per step; decompressed at most about 8 MB


class GzipReader:
    """Reads the binary *stream*, which need not be seekable.

    Every method raises EOFError if the file or a gzip member is truncated, and IsalError if it is corrupt.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._sha256 = hashlib.sha256()
        self._read = 0  # bytes of the file read
        self._block = self._next_block()
        self._block_at = 0
        self._gzipped = self._block.startswith(_GZIP)
        self._member: isal_zlib.Decompress | None = None
        self._member_start = 0  # offset in the file
        self._member_bytes = 0  # decompressed bytes of the member
        self._plain = b""
        self._plain_at = 0

    @property
    def sha256(self) -> str:
        """sha256 of the file bytes read, 64 hex digits."""
        return self._sha256.hexdigest()

    @property
    def size(self) -> int:
        """File bytes read."""
        return self._read

    def has_more(self) -> bool:
        """Return whether any bytes are left."""
        while self._plain_at == len(self._plain):
            if not self._fill():
                return False
        return True

    def position(self) -> int:
        """Return the file offset of the next byte, or of the gzip member that contains it."""
        return self._member_start if self._gzipped and self._member_has_more() else self._offset()

    def start_offset(self) -> int | None:
        """Return the file offset of the next byte, None inside a gzip member. Call only if bytes are left."""
        if not self._gzipped:
            return self._offset()
        return self._member_start if self._member_bytes == len(self._plain) - self._plain_at else None

    def end_offset(self) -> int | None:
        """Return the file offset after the last byte read, None inside a gzip member."""
        if not self._gzipped:
            return self._offset()
        self._member_has_more()
        finished = self._member is None and self._plain_at == len(self._plain)
        return self._offset() if finished else None

    def read_line(self, limit: int) -> bytes:
        """Return the bytes up to and including the next line feed, at most *limit*; b"" at the end."""
        end = self._plain.find(b"\n", self._plain_at, self._plain_at + limit)
        if end >= 0:
            start, self._plain_at = self._plain_at, end + 1
            return self._plain[start : end + 1]
        line = bytearray()
        while len(line) < limit and self.has_more():
            end = self._plain.find(b"\n", self._plain_at, self._plain_at + limit - len(line)) + 1
            stop = end or min(len(self._plain), self._plain_at + limit - len(line))
            line += self._plain[self._plain_at : stop]
            self._plain_at = stop
            if end:
                break
        return bytes(line)

    def read_header(self, limit: int) -> bytes:
        """Return the lines before the next blank line. Call after `read_line`.

        Raises ValueError if they exceed *limit* bytes.
        """
        previous = self._plain_at - 1  # the line feed of the previous line
        if previous >= 0:
            end = self._plain.find(b"\n\r\n", previous, previous + limit)
            if end >= 0 and self._plain.find(b"\n\n", previous, end + 1) < 0:  # fast path: the buffer has all of it
                self._plain_at = end + 3
                return self._plain[previous + 1 : end + 1]
        header = bytearray()
        while (line := self.read_line(limit)) not in (b"\r\n", b"\n"):
            if not line:
                raise EOFError
            header += line
            if len(header) > limit:
                raise ValueError("the record header has no end")
        return bytes(header)

    def skip_blank_lines(self) -> None:
        """Skip line breaks, within the gzip member."""
        while self._member_has_more():
            self._plain_at = _LINE_BREAKS.match(self._plain, self._plain_at).end()  # type: ignore[union-attr]
            if self._plain_at < len(self._plain):
                return

    def read(self, count: int) -> bytes:
        """Return the next *count* bytes."""
        stop = self._plain_at + count
        if stop <= len(self._plain):
            start, self._plain_at = self._plain_at, stop
            return self._plain[start:stop]
        pieces: list[bytes] = []
        while count:
            if not self.has_more():
                raise EOFError
            piece = self._plain[self._plain_at : self._plain_at + count]
            pieces.append(piece)
            self._plain_at += len(piece)
            count -= len(piece)
        return b"".join(pieces)

    def skip(self, count: int) -> None:
        """Skip the next *count* bytes."""
        while count:
            if not self.has_more():
                raise EOFError
            step = min(count, len(self._plain) - self._plain_at)
            self._plain_at += step
            count -= step

    def _offset(self) -> int:
        unread = len(self._block) - self._block_at
        return self._read - (unread if self._gzipped else unread + len(self._plain) - self._plain_at)

    def _member_has_more(self) -> bool:
        """Return whether the current gzip member, or an uncompressed file, has bytes left."""
        if not self._gzipped:
            return self.has_more()
        while self._plain_at == len(self._plain) and self._member is not None:
            self._fill()
        return self._plain_at < len(self._plain)

    def _fill(self) -> bool:
        """Replace the consumed bytes with the next ones, possibly none; return False at the end of the file."""
        if self._block_at == len(self._block):
            self._block, self._block_at = self._next_block(), 0
            if not self._block:
                if self._member is not None:
                    raise EOFError
                return False
        if not self._gzipped:
            self._plain, self._plain_at, self._block = self._block, 0, b""
            return True
        if self._member is None:
            self._member, self._member_start, self._member_bytes = isal_zlib.decompressobj(31), self._offset(), 0
        step = memoryview(self._block)[self._block_at : self._block_at + _STEP]
        self._plain, self._plain_at = self._member.decompress(step), 0
        self._member_bytes += len(self._plain)
        self._block_at += len(step) - len(self._member.unused_data)
        if self._member.eof:
            self._member = None
        return True

    def _next_block(self) -> bytes:
        block = self._stream.read(_BLOCK)
        self._sha256.update(block)
        self._read += len(block)
        return block
