"""Samples in webdataset tars: `<key>.jpg`, `<key>.txt`, `<key>.json`, one after the other, nothing else.

The same samples give the same bytes: the headers carry no time, owner or machine.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from vecap_tasks.dataset.members import read_members

_KEY = re.compile(r"^[A-Za-z0-9_-]+$")  # webdataset takes all after the first dot for the member's kind

_BLOCK, _RECORD = tarfile.BLOCKSIZE, tarfile.RECORDSIZE
_MAX_NAME, _MAX_SIZE = 100, 8**11 - 1  # of a POSIX.1-1988 header (ustar)
_EMPTY = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)  # no time, no owner
_MODE_AND_OWNER, _TIME, _REST = _EMPTY[100:124], _EMPTY[136:148], _EMPTY[156:]
_SUM = sum(_REST) + 8 * ord(" ")  # a header's sum is taken with blanks in its own place


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample: `members` holds the bytes by kind, such as `jpg`, in the order of the tar."""

    key: str
    members: Mapping[str, bytes]


class TarWriter:
    """Writes samples, in the order given, into the new file *path*. Use it in a `with` block."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if kind is None:
                end = self._file.tell() + 2 * _BLOCK
                self._file.write(bytes(2 * _BLOCK + -end % _RECORD))

    def write(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append one sample. Raises ValueError for a key that webdataset could not read back."""
        if not _KEY.match(key):
            raise ValueError(f"{key!r} cannot be a key: letters, digits, - and _ alone")
        for kind, data in members.items():
            self._file.write(_header(f"{key}.{kind}".encode("ascii"), len(data)))
            self._file.write(data)
            self._file.write(bytes(-len(data) % _BLOCK))


def _header(name: bytes, size: int) -> bytes:
    """Return the header of a file of *size* bytes, as tarfile puts it together, at less cost."""
    if len(name) > _MAX_NAME or size > _MAX_SIZE:
        raise ValueError(f"{name.decode()}, {size} bytes, is too long for a tar")
    begin = name.ljust(_MAX_NAME, b"\0") + _MODE_AND_OWNER + b"%011o\0" % size + _TIME
    return begin + b"%06o\0 " % (sum(begin) + _SUM) + _REST


def read_samples(stream: IO[bytes], name: str = "the tar", kinds: Collection[str] | None = None) -> Iterator[Sample]:
    """Give the samples in order, one in memory at a time, with their members of *kinds*, or all of them.

    *stream* can be sought in. Raises DamagedError, naming *name*, for a broken tar.
    """
    for key, group in groupby(read_members(stream, name), key=lambda member: member.key):
        members: dict[str, bytes] = {}
        for member in group:
            if kinds is None or member.kind in kinds:
                stream.seek(member.offset)
                members[member.kind] = stream.read(member.size)
        yield Sample(key, members)
