"""WebDataset tars: write samples, read them, and locate members."""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from io import SEEK_END
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple, Self

from vecap_tasks.errors import CorruptError, PermanentError

# Yields key and JPEG of samples of a crawl's tar, given its name in the store and the JPEGs' sha256 by key.
StoredImages = Callable[[str, Mapping[str, str | None]], Iterator[tuple[str, bytes]]]

_BLOCK, _RECORD = tarfile.BLOCKSIZE, tarfile.RECORDSIZE
MAX_TEXT = 1 << 24  # bytes of a text or JSON member that readers accept
_FILE_KINDS = (b"0", b"\0", b"7")
_DATALESS_KINDS = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, FIFOs
_SPARSE = b"S"
_GLOBAL = b"g"
_PAX_KINDS = (b"x", b"X", _GLOBAL)
_LONG_NAME = b"L"
_EXTENDED_KINDS = (*_PAX_KINDS, _LONG_NAME, b"K")
_MAX_EXTENDED = 1 << 20  # bytes
_MAX_EXTENDED_HEADERS = 16  # of one member
_MAX_DIGITS = 20
_MAX_PATH = 4_096  # characters
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


def read_members(stream: IO[bytes], name: str) -> Iterator[Member]:
    """Yield the files of the tar *stream* with a WebDataset name, in order.

    *stream* must be seekable and is read sequentially, with steps back of at most one block; between two members the
    caller may read elsewhere in it. Raises CorruptError, naming *name*, for a truncated or invalid tar, also if it does
    not end with two blocks of zeros, or if something follows them. Extended headers have limits, because tarfile takes
    minutes for some invalid ones, and repeats a member with a negative size forever.
    """
    headers = _Headers(stream, name)
    while (entry := headers.next()) is not None:
        if entry.regular and (member := _member(entry)) is not None:
            yield member
    headers.check_end()


def read_groups(stream: IO[bytes], name: str) -> Iterator[tuple[str, Iterator[Member]]]:
    """Yield each sample's key and its consecutive members; take the members before the next key.

    Arguments and errors are those of `read_members`. Raises PermanentError for a member that occurs twice, and for a
    sample whose members are not consecutive, as in a tar of all images followed by all texts.
    """
    seen: set[str] = set()
    for key, members in groupby(read_members(stream, name), key=attrgetter("key")):
        if key in seen:
            raise PermanentError(
                f"{name} has other samples between the members of {key}; write it again in the order of names, for "
                "example with `tar --sort=name`"
            )
        seen.add(key)
        yield key, _distinct(members, name)


def _distinct(members: Iterator[Member], name: str) -> Iterator[Member]:
    kinds: set[str] = set()
    for member in members:
        if member.kind in kinds:
            raise PermanentError(f"{name} contains {member.key}.{member.kind} twice; give each sample a unique key")
        kinds.add(member.kind)
        yield member


def read_samples(stream: IO[bytes], name: str = "the tar", kinds: Collection[str] | None = None) -> Iterator[Sample]:
    """Yield the samples in order, one in memory at a time, with their members of *kinds*, or all of them.

    *stream* must be seekable. Raises CorruptError, naming *name*, for a corrupt tar.
    """
    for key, group in read_groups(stream, name):
        selected = (member for member in group if kinds is None or member.kind in kinds)
        yield Sample(key, {member.kind: member.read(stream) for member in selected})


def read_images(
    stream: IO[bytes], name: str, wanted: Mapping[str, str | None], remedy: str
) -> Iterator[tuple[str, bytes]]:
    """Yield key and JPEG of the *wanted* samples of a crawl's tar, in tar order; reads only these images.

    *wanted* maps keys to the JPEG's sha256, or to None if it is not known. Raises CorruptError, which ends with
    *remedy*, if an image is missing or differs, and for a corrupt tar.
    """
    left = dict(wanted)
    if left:
        for sample in read_samples(stream, name, ("jpg",)):
            if sample.key not in left:
                continue
            jpeg, sha256 = sample.members.get("jpg"), left.pop(sample.key)
            if jpeg is None or sha256 not in (None, hashlib.sha256(jpeg).hexdigest()):
                problem = "is missing" if jpeg is None else "differs from its sha256 in the crawl's table"
                raise CorruptError(f"{name} is corrupt: the image of {sample.key} {problem}; {remedy}")
            yield sample.key, jpeg
            if not left:
                return
        raise CorruptError(f"{name} is corrupt: it has no image {min(left)}; {remedy}")


class _Entry(NamedTuple):
    """A header with the extended headers before it. `start` and `size` locate the data, in bytes."""

    path: str
    start: int
    size: int
    regular: bool  # a file, and not sparse


class _Headers:
    """Reads the headers of a tar in order. Errors are those of `read_members`."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream = stream
        self._name = name
        self._size = stream.seek(0, SEEK_END)
        self._offset = 0
        self._defaults: dict[str, bytes] = {}  # of global pax headers

    def next(self) -> _Entry | None:
        """Return the next entry, None at the block of zeros that ends the tar."""
        own: dict[str, bytes] = {}
        for _ in range(_MAX_EXTENDED_HEADERS):
            at, header = self._offset, self._block(self._offset)
            if header.count(0) == _BLOCK:
                return None
            parsed = parse_header(header)
            if parsed is None:
                raise self._corrupt(f"corrupt at byte {at}: invalid tar header")
            kind, path, size = parsed
            if kind not in _EXTENDED_KINDS:
                return self._entry(header, kind, path, size, self._defaults | own)
            data = self._extended(at, size)
            self._offset = at + _BLOCK + _padded(size)
            if kind in _PAX_KINDS:
                (self._defaults if kind == _GLOBAL else own).update(self._records(data, at))
            elif kind == _LONG_NAME:
                own["path"] = data
        raise self._corrupt(f"corrupt at byte {self._offset}: more than {_MAX_EXTENDED_HEADERS} extended headers")

    def _entry(self, header: bytes, kind: bytes, path: str, size: int, records: dict[str, bytes]) -> _Entry:
        at, start = self._offset, self._offset + _BLOCK
        if "size" in records:
            digits = records["size"]
            if not (digits.isdigit() and len(digits) <= _MAX_DIGITS):
                raise self._corrupt(f"corrupt at byte {at}: invalid size")
            size = int(digits)
        if "path" in records:
            path = _text(records["path"])
        if len(path) > _MAX_PATH:
            raise self._corrupt(f"corrupt at byte {at}: a name of {len(path):,} characters")
        if kind in _DATALESS_KINDS:
            size = 0
        elif kind == _SPARSE:
            more = header[482]
            while more:  # blocks with the rest of the map
                more = self._block(start)[504]
                start += _BLOCK
        if start + size > self._size:
            raise self._corrupt(f"truncated after byte {self._size}")
        self._offset = start + _padded(size)
        return _Entry(path, start, size, kind in _FILE_KINDS and "sparse" not in records)

    def _extended(self, at: int, size: int) -> bytes:
        if size > _MAX_EXTENDED:
            raise self._corrupt(f"corrupt at byte {at}: an extended header of {size:,} bytes")
        data = self._stream.read(size)
        if len(data) < size:
            raise self._corrupt(f"truncated after byte {self._size}")
        return data

    def _records(self, data: bytes, at: int) -> dict[str, bytes]:
        """Return the records of a pax header, `LENGTH KEY=VALUE` each, that concern reading."""
        found: dict[str, bytes] = {}
        position = 0
        while position < len(data) and data[position]:
            space = data.find(b" ", position, position + _MAX_DIGITS + 1)
            digits = data[position : max(space, position)]
            end = position + (int(digits) if digits.isdigit() else 0)
            key, separator, value = data[space + 1 : end - 1].partition(b"=")
            if not (space < end <= len(data) and separator and data[end - 1 : end] == b"\n"):
                raise self._corrupt(f"corrupt at byte {at}: invalid pax header")
            if key in (b"path", b"size"):
                found[key.decode()] = value
            elif key.startswith(b"GNU.sparse."):
                found["sparse"] = value
            position = end
        return found

    def _block(self, offset: int) -> bytes:
        self._stream.seek(offset)
        block = self._stream.read(_BLOCK)
        if len(block) < _BLOCK:
            raise self._corrupt(f"truncated after byte {self._size}")
        return block

    def check_end(self) -> None:
        """Check that at least two blocks of zeros and nothing else follow."""
        self._stream.seek(self._offset)
        zeros = 0
        while block := self._stream.read(_RECORD):
            if block.count(0) < len(block):
                start = self._offset + (zeros + len(block) - len(block.lstrip(b"\0"))) // _BLOCK * _BLOCK
                self._stream.seek(start)
                if parse_header(self._stream.read(_BLOCK)) is None:
                    raise self._corrupt(f"corrupt at byte {self._offset}: data after the end of the tar")
                raise PermanentError(
                    f"{self._name} consists of several tars, the second from byte {start}; split it there, or join the "
                    "tars with `tar --concatenate`"
                )
            zeros += len(block)
        if zeros < 2 * _BLOCK:
            raise self._corrupt(f"truncated after byte {self._offset}: its end is missing")

    def _corrupt(self, problem: str) -> CorruptError:
        return CorruptError(f"{self._name} is {problem}; restore it, or download it again")


def parse_header(header: bytes) -> tuple[bytes, str, int] | None:
    """Return the type, the name and the size in bytes of the 512-byte *header*; None if it is invalid."""
    checksum, size = _number(header[148:156]), _number(header[124:136])
    if checksum is None or size is None or len(header) < _BLOCK:
        return None
    if sum(header) - sum(header[148:156]) + 8 * ord(" ") != checksum:
        return None
    path = _text(header[:100])
    if header[257:263] == b"ustar\0" and header[345]:
        path = f"{_text(header[345:500])}/{path}"
    return header[156:157], path, size


def _number(field: bytes) -> int | None:
    """Return a number in octal or base 256, None if it is invalid or negative."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:])
    digits = field.split(b"\0", 1)[0].strip(b" ")
    if not digits:
        return 0
    try:
        return int(digits, 8) if digits.isdigit() else None
    except ValueError:
        return None


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _member(entry: _Entry) -> Member | None:
    """Return the file as a member of a sample. WebDataset's key ends at the first dot after the folder."""
    folder, slash, file = entry.path.rpartition("/")
    stem, _, kind = file.partition(".")
    return Member(f"{folder}{slash}{stem}", kind.lower(), entry.start, entry.size) if stem and kind else None


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
