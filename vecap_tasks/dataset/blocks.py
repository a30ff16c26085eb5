"""A file far away, read in blocks of which the last few are kept, so that a small step back asks for nothing again."""

from __future__ import annotations

import io
from collections import OrderedDict
from types import TracebackType
from typing import Self

import pyarrow as pa

_BLOCK = 2 << 20
_KEPT = 3


class BlockStream:
    """The file *source* for reading, seekable: each read of it is of one whole block."""

    def __init__(self, source: pa.NativeFile, block: int = _BLOCK) -> None:
        self._source = source
        self._block = block
        self._size = int(source.size())
        self._at = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._source.close()

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Return the next *size* bytes, all that are left where it is negative; fewer at the end of the file."""
        stop = self._size if size < 0 else min(self._size, self._at + size)
        parts = []
        while self._at < stop:
            number, start = divmod(self._at, self._block)
            part = self._load(number)[start : start + stop - self._at]
            parts.append(part)
            self._at += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _load(self, number: int) -> bytes:
        found = self._blocks.get(number)
        if found is None:
            found = self._source.read_at(min(self._block, self._size - number * self._block), number * self._block)
            if len(self._blocks) == _KEPT:
                self._blocks.popitem(last=False)
            self._blocks[number] = found
        else:
            self._blocks.move_to_end(number)
        return found
