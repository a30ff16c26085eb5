"""Where the members of a tar lie, found from its headers alone: a shard's images are stepped over, not read.

`tarfile` gives the same, some ten times slower; it is asked where a tar has headers that are not plain ones (long
names, sparse files, extended headers).
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from vecap_tasks.errors import DamagedError

_BLOCK = tarfile.BLOCKSIZE
_FOLDER = b"5"
_KEY = re.compile(r"^((?:.*/|)[^./]+)\.([^/]+)$", re.DOTALL)  # webdataset's: the key ends at the first dot


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
    parts = _KEY.match(path)
    return Member(parts[1], parts[2].lower(), offset, size) if parts else None
