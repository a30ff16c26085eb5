"""The plain bytes of a file, gzipped or not, read once from its beginning to its end.

What is read is hashed on the way, so that one pass gives the content and its digest, and the places where gzip members
begin are kept, so that a record can be found again without what stands before it. The checksum of each member is
checked. Memory holds a block of the file and what a step through it unpacks to. ISA-L unpacks pages in half the time of
zlib, which is the largest share of reading an archive.
"""

from __future__ import annotations

import hashlib
from typing import IO

from isal import isal_zlib

_GZIP = b"\x1f\x8b"
_BLOCK = 1 << 18
_STEP = 1 << 13  # packed bytes unpacked at a time, to some 8 MB at the very most


class GzipReader:
    """Reads the binary *stream*, which need not be seekable.

    Every method raises EOFError where a gzip member, or what is asked for, does not come to its end, and IsalError
    where the packed bytes are damaged.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._sha256 = hashlib.sha256()
        self._read = 0  # bytes of the file read
        self._block = self._next_block()
        self._block_at = 0
        self._packed = self._block.startswith(_GZIP)
        self._member: isal_zlib.Decompress | None = None
        self._member_start = 0  # where in the file
        self._member_bytes = 0  # unpacked of it
        self._plain = b""
        self._plain_at = 0

    @property
    def sha256(self) -> str:
        """sha256 of the bytes of the file that were read, 64 hex digits."""
        return self._sha256.hexdigest()

    @property
    def size(self) -> int:
        """Bytes of the file that were read."""
        return self._read

    def more(self) -> bool:
        """Say whether anything is left."""
        while self._plain_at == len(self._plain):
            if not self._fill():
                return False
        return True

    def near(self) -> int:
        """Return the offset in the file of what is read next, or of the gzip member that holds it."""
        return self._member_start if self._packed and self._same_member() else self._offset()

    def begins(self) -> int | None:
        """Return the offset in the file of what is read next, something being left; None within a gzip member."""
        if not self._packed:
            return self._offset()
        return self._member_start if self._member_bytes == len(self._plain) - self._plain_at else None

    def ended(self) -> int | None:
        """Return the offset in the file that follows what was read; None within a gzip member."""
        if not self._packed:
            return self._offset()
        self._same_member()
        whole = self._member is None and self._plain_at == len(self._plain)
        return self._offset() if whole else None

    def line(self, most: int) -> bytes:
        """Return the bytes up to the next line feed, and with it, but not more than *most*; b"" at the end."""
        end = self._plain.find(b"\n", self._plain_at, self._plain_at + most)
        if end >= 0:
            start, self._plain_at = self._plain_at, end + 1
            return self._plain[start : end + 1]
        line = bytearray()
        while len(line) < most and self.more():
            end = self._plain.find(b"\n", self._plain_at, self._plain_at + most - len(line)) + 1
            stop = end or min(len(self._plain), self._plain_at + most - len(line))
            line += self._plain[self._plain_at : stop]
            self._plain_at = stop
            if end:
                break
        return bytes(line)

    def header(self, most: int) -> bytes:
        """Return the lines up to a blank one, without it, a line having been read before.

        Raises ValueError where they have more than *most* bytes.
        """
        before = self._plain_at - 1  # the line feed of the line before
        if before >= 0:
            end = self._plain.find(b"\n\r\n", before, before + most)
            if end >= 0 and self._plain.find(b"\n\n", before, end + 1) < 0:  # the usual: all of it is here
                self._plain_at = end + 3
                return self._plain[before + 1 : end + 1]
        header = bytearray()
        while (line := self.line(most)) not in (b"\r\n", b"\n"):
            if not line:
                raise EOFError
            header += line
            if len(header) > most:
                raise ValueError("the record's header does not end")
        return bytes(header)

    def blank_lines(self) -> None:
        """Skip line ends, within a gzip member alone."""
        while self._same_member() and self._plain[self._plain_at] in b"\r\n":
            self._plain_at += 1

    def take(self, count: int) -> bytes:
        """Return the next *count* bytes."""
        stop = self._plain_at + count
        if stop <= len(self._plain):
            start, self._plain_at = self._plain_at, stop
            return self._plain[start:stop]
        pieces: list[bytes] = []
        while count:
            if not self.more():
                raise EOFError
            piece = self._plain[self._plain_at : self._plain_at + count]
            pieces.append(piece)
            self._plain_at += len(piece)
            count -= len(piece)
        return b"".join(pieces)

    def skip(self, count: int) -> None:
        """Pass over the next *count* bytes."""
        while count:
            if not self.more():
                raise EOFError
            step = min(count, len(self._plain) - self._plain_at)
            self._plain_at += step
            count -= step

    def _offset(self) -> int:
        if self._packed:
            return self._read - (len(self._block) - self._block_at)
        return self._read - (len(self._plain) - self._plain_at)

    def _same_member(self) -> bool:
        """Say whether anything is left of the gzip member at hand, or of a file that is not packed."""
        if not self._packed:
            return self.more()
        while self._plain_at == len(self._plain) and self._member is not None:
            self._fill()
        return self._plain_at < len(self._plain)

    def _fill(self) -> bool:
        """Put the next bytes, perhaps none, in place of those that are used up; False at the end of the file."""
        if self._block_at == len(self._block):
            self._block, self._block_at = self._next_block(), 0
            if not self._block:
                if self._member is not None:
                    raise EOFError
                return False
        if not self._packed:
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
