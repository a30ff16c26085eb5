"""Samples in webdataset tars: `<key>.jpg`, `<key>.txt`, `<key>.json`, one after the other, nothing else.

The same samples give the same bytes: the headers carry no time, owner or machine.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from vecap_tasks.errors import DamagedError

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


def read_samples(stream: IO[bytes], name: str = "the tar") -> Iterator[Sample]:
    """Give the samples in order, one in memory at a time. Raises DamagedError, naming *name*, for a broken tar."""
    key: str | None = None
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for entry in tar:
                file = tar.extractfile(entry)
                if file is None:
                    continue
                found, _, kind = entry.name.partition(".")
                if key is not None and found != key:
                    yield Sample(key, members)
                    members = {}
                key = found
                members[kind] = file.read()
    except tarfile.TarError as error:
        raise DamagedError(f"{name} is cut short or damaged: {error}; restore it, or make the stage again") from error
    if key is not None:
        yield Sample(key, members)
