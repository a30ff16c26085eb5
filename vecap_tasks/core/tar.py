"""WebDataset tars: write samples, read them, and locate members."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Collection, Generator, Iterator, Mapping
from dataclasses import dataclass
from io import SEEK_END
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from vecap_tasks.errors import CorruptError

_BLOCK, _RECORD = tarfile.BLOCKSIZE, tarfile.RECORDSIZE
_FOLDER = b"5"
_PLAIN_KINDS = (b"0", b"\0", _FOLDER)
_SAMPLE_MEMBER = re.compile(r"^((?:.*/|)[^./]+)\.([^/]+)$", re.DOTALL)  # WebDataset: the key ends at the first dot
_KEY = re.compile(r"^[A-Za-z0-9_-]+$")  # WebDataset takes everything after the first dot as the extension
_MAX_NAME, _MAX_SIZE = 100, 8**11 - 1  # of a POSIX.1-1988 header (ustar)
_EMPTY = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)  # no time, no owner
_MODE_AND_OWNER, _TIME, _REST = _EMPTY[100:124], _EMPTY[136:148], _EMPTY[156:]
_SUM = sum(_REST) + 8 * ord(" ")  # a header's checksum counts its own field as blanks


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar, named `key.kind` with *kind* in lower case; `offset` and `size` are in bytes."""

    key: str
    kind: str
    offset: int
    size: int

    def read(self, stream: IO[bytes], limit: int | None = None) -> bytes:
        """Return its bytes from the tar *stream*, at most *limit*."""
        stream.seek(self.offset)
        return stream.read(self.size if limit is None else min(limit, self.size))


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample: `members` maps a kind, such as `jpg`, to the bytes, in tar order."""

    key: str
    members: Mapping[str, bytes]


def read_members(stream: IO[bytes], name: str, *, strict: bool = False) -> Iterator[Member]:
    """Yield the files of the tar *stream* with a WebDataset name, in order.

    *stream* must be seekable and is read sequentially, with steps back of at most one block; between two members the
    caller may read elsewhere in it. Raises CorruptError, naming *name*, for a truncated or invalid tar; with *strict*
    also unless it ends in at least two blocks of zeros and nothing else.
    """
    size = stream.seek(0, SEEK_END)
    offset = 0
    while header := _read_header(stream, offset, name):
        plain = _parse_plain(header)
        if plain is None:
            offset = yield from _read_by_tarfile(stream, offset, name, size)
            break
        path, length = plain
        start = offset + _BLOCK
        offset = start + -(-length // _BLOCK) * _BLOCK
        if start + length > size:
            raise _corrupt(name, f"truncated after byte {size}")
        member = _member(path, start, length)
        if member is not None and header[156:157] != _FOLDER:
            yield member
    if strict:
        _check_end(stream, offset, name)


def read_groups(stream: IO[bytes], name: str, *, strict: bool = False) -> Iterator[tuple[str, Iterator[Member]]]:
    """Yield each sample's key and its consecutive members; take the members before the next key.

    Arguments and errors are those of `read_members`.
    """
    return groupby(read_members(stream, name, strict=strict), key=attrgetter("key"))


def read_samples(stream: IO[bytes], name: str = "the tar", kinds: Collection[str] | None = None) -> Iterator[Sample]:
    """Yield the samples in order, one in memory at a time, with their members of *kinds*, or all of them.

    *stream* must be seekable. Raises CorruptError, naming *name*, for a corrupt tar.
    """
    for key, group in read_groups(stream, name):
        selected = (member for member in group if kinds is None or member.kind in kinds)
        yield Sample(key, {member.kind: member.read(stream) for member in selected})


def _read_header(stream: IO[bytes], offset: int, name: str) -> bytes:
    """Return the header at *offset*, and b"" at the block of zeros that ends a tar."""
    stream.seek(offset)
    header = stream.read(_BLOCK)
    if len(header) < _BLOCK:
        raise _corrupt(name, f"truncated after byte {stream.seek(0, SEEK_END)}")
    return b"" if header.count(0) == _BLOCK else header


def _parse_plain(header: bytes) -> tuple[str, int] | None:
    """Return name and size of a file or folder, None for another kind of header or other data."""
    if header[156:157] not in _PLAIN_KINDS or header[124] >= 128:
        return None
    try:
        checksum = int(header[148:156].strip(b" \0"), 8)
        length = int(header[124:136].strip(b" \0") or b"0", 8)
    except ValueError:
        return None
    if length < 0 or sum(header) - sum(header[148:156]) + 8 * ord(" ") != checksum:
        return None
    path = _text(header[:100])
    if header[257:263] == b"ustar\0" and header[345]:
        path = f"{_text(header[345:500])}/{path}"
    return path, length


def _read_by_tarfile(stream: IO[bytes], offset: int, name: str, size: int) -> Generator[Member, None, int]:
    """Yield the members from the header at *offset*, as found by tarfile; return the end of the tar."""
    stream.seek(offset)
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            while (entry := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined] # tarfile keeps all members otherwise
                if entry.isreg() and not entry.issparse():
                    member = _member(entry.name, entry.offset_data, entry.size)
                    if not 0 <= entry.size <= size - entry.offset_data:
                        raise _corrupt(name, f"truncated after byte {size}")
                    if member is not None:
                        yield member
            end: int = tar.offset
    except tarfile.TarError as error:
        raise _corrupt(name, f"truncated or corrupt after byte {offset}: {error}") from error
    if _read_header(stream, end, name):  # tarfile takes an invalid header for the end
        raise _corrupt(name, f"corrupt at byte {end}: invalid tar header")
    return end


def _check_end(stream: IO[bytes], offset: int, name: str) -> None:
    stream.seek(offset)
    zeros = 0
    while block := stream.read(_RECORD):
        if block.count(0) < len(block):
            raise _corrupt(name, f"corrupt at byte {offset}: data after the end of the tar")
        zeros += len(block)
    if zeros < 2 * _BLOCK:
        raise _corrupt(name, f"truncated after byte {offset}: its end is missing")


def _corrupt(name: str, problem: str) -> CorruptError:
    return CorruptError(f"{name} is {problem}; restore it, or download it again")


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _member(path: str, offset: int, size: int) -> Member | None:
    parts = _SAMPLE_MEMBER.match(path)
    return Member(parts[1], parts[2].lower(), offset, size) if parts else None


class TarWriter:
    """Writes samples, in the given order, to the new file *path*. Use it in a `with` block."""

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
        """Append one sample. Raises ValueError for a key that WebDataset cannot read back."""
        if not _KEY.match(key):
            raise ValueError(f"invalid key {key!r}: use only letters, digits, - and _")
        for kind, data in members.items():
            self._file.write(_header(f"{key}.{kind}".encode("ascii"), len(data)))
            self._file.write(data)
            self._file.write(bytes(-len(data) % _BLOCK))


def _header(name: bytes, size: int) -> bytes:
    """Return the header of a file of *size* bytes: the same as tarfile's, but faster."""
    if len(name) > _MAX_NAME or size > _MAX_SIZE:
        raise ValueError(f"{name.decode()}, {size} bytes, is too long for a tar")
    begin = name.ljust(_MAX_NAME, b"\0") + _MODE_AND_OWNER + b"%011o\0" % size + _TIME
    return begin + b"%06o\0 " % (sum(begin) + _SUM) + _REST
