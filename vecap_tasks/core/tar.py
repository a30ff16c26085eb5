"""Webdataset tars: writing samples, reading them, and finding where the members of a tar lie."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from vecap_tasks.errors import DamagedError

_BLOCK = tarfile.BLOCKSIZE
_FOLDER = b"5"
_SAMPLE_MEMBER = re.compile(r"^((?:.*/|)[^./]+)\.([^/]+)$", re.DOTALL)  # webdataset's: the key ends at the first dot


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar: `key.kind` is its name, `offset` and `size` are in bytes."""

    key: str
    kind: str
    offset: int
    size: int


class _NotPlainError(Exception):
    """A header that is not a plain one begins at the byte `offset`."""

    def __init__(self, offset: int) -> None:
        super().__init__(offset)
        self.offset = offset


def read_members(stream: IO[bytes], name: str) -> Iterator[Member]:
    """Give the files of the tar *stream*, open at its start, that have a name of webdataset's form, in their order.

    Between two members the caller may read elsewhere in *stream*. Raises DamagedError, naming *name*, for a tar that
    is cut short or is none.
    """
    try:
        yield from _plain(stream, name)
    except _NotPlainError as found:
        stream.seek(0)
        yield from _by_tarfile(stream, name, found.offset)


def _plain(stream: IO[bytes], name: str) -> Iterator[Member]:
    offset = 0
    size = stream.seek(0, 2)
    while True:
        stream.seek(offset)
        header = stream.read(_BLOCK)
        if header.count(0) == _BLOCK:
            return
        if len(header) < _BLOCK:
            raise DamagedError(f"{name} is cut short after byte {size}; restore it, or get it again")
        try:
            checksum = int(header[148:156].strip(b" \0"), 8)
            length = int(header[124:136].strip(b" \0") or b"0", 8) if header[124] < 128 else None
        except ValueError as error:
            raise DamagedError(
                f"{name} is damaged at byte {offset}: no header of a tar begins there; restore it, or get it again"
            ) from error
        if sum(header) - sum(header[148:156]) + 8 * 32 != checksum:
            raise DamagedError(
                f"{name} is damaged at byte {offset}: no header of a tar begins there; restore it, or get it again"
            )
        if length is None or header[156:157] not in (b"0", b"\0", _FOLDER):
            raise _NotPlainError(offset)
        start = offset + _BLOCK
        offset = start + -(-length // _BLOCK) * _BLOCK
        if start + length > size:
            raise DamagedError(f"{name} is cut short after byte {size}; restore it, or get it again")
        path = _text(header[:100])
        if header[257:263] == b"ustar\0" and header[345]:
            path = f"{_text(header[345:500])}/{path}"
        member = _member(path, start, length)
        if member is not None and header[156:157] != _FOLDER:
            yield member


def _by_tarfile(stream: IO[bytes], name: str, after: int) -> Iterator[Member]:
    """Give the members whose headers begin at *after* or later, as tarfile finds them."""
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            while (entry := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined] # it keeps them all otherwise, and memory follows the tar
                if entry.isreg() and not entry.issparse() and entry.offset >= after:
                    member = _member(entry.name, entry.offset_data, entry.size)
                    if member is not None:
                        yield member
    except tarfile.TarError as error:
        raise DamagedError(f"{name} is cut short or damaged: {error}; restore it, or get it again") from error


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _member(path: str, offset: int, size: int) -> Member | None:
    parts = _SAMPLE_MEMBER.match(path)
    return Member(parts[1], parts[2].lower(), offset, size) if parts else None


_KEY = re.compile(r"^[A-Za-z0-9_-]+$")  # webdataset takes all after the first dot for the member's kind

_RECORD = tarfile.RECORDSIZE
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
