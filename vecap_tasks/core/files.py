"""Input files: local or object-storage paths and globs, and the names that the manifest gives them."""

from __future__ import annotations

import hashlib
import io
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Protocol, Self

import pyarrow.fs as pafs
from fsspec.utils import glob_translate

from vecap_tasks.config import REMOTE_SCHEMES, Config
from vecap_tasks.core.manifest import Input
from vecap_tasks.core.object_storage import is_remote
from vecap_tasks.core.store import open_filesystem
from vecap_tasks.errors import OutageError, PermanentError, VecapError, similar_file

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_MAGIC = re.compile(r"[*?\[]")
_READ_AHEAD = 4 << 20  # bytes per request; reads are small and mostly sequential
_BLOCK = 2 << 20  # bytes
_KEPT_BLOCKS = 3


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file. `name` is its name in the manifest, `location` a local path or URL, `size` in bytes."""

    name: str
    location: str
    size: int

    @property
    def remote(self) -> bool:
        return is_remote(self.location)

    def open(self) -> IO[bytes]:
        """Open for buffered, seekable reading. Raises OSError."""
        if not self.remote:
            return Path(self.location).open("rb")
        filesystem, key = open_filesystem(self.location)
        return io.BufferedReader(filesystem.open_input_file(key), _READ_AHEAD)


def find_files(
    config: Config, patterns: Sequence[str], *, kind: str, setting: str, interval: str | None = None
) -> dict[str, SourceFile]:
    """Return the files that *patterns* (paths or globs) match, by name: in pattern order, then by name, each once.

    A name that exists is taken literally, even with glob characters. `{interval}` is replaced by *interval* if given.
    Errors call a file a *kind* file and name the *setting* to change: PermanentError for a pattern without a match,
    VecapError for a folder that cannot be read.
    """
    files: dict[str, SourceFile] = {}
    seen: set[str] = set()
    for pattern in patterns:
        expanded = pattern if interval is None else pattern.replace("{interval}", interval)
        for file in _find(config, expanded, kind, setting):
            real = file.location if file.remote else str(Path(file.location).resolve())
            if real not in seen:
                seen.add(real)
                files[file.name] = file
    return files


def _find(config: Config, pattern: str, kind: str, setting: str) -> list[SourceFile]:
    folder, tail = _split_glob(pattern, config.resolve)
    location = config.resolve(folder or ".").removeprefix("file://").rstrip("/") or "/"
    if "://" in location and not is_remote(location):
        known = ", ".join(f"{scheme}://" for scheme in REMOTE_SCHEMES)
        raise PermanentError(f"{setting}: {pattern} is neither a local path nor on {known}; copy the files first")
    filesystem, base = open_filesystem(location)
    try:
        if tail:
            everything = pafs.FileSelector(base, allow_not_found=True, recursive="/" in tail)
            found = _matching(filesystem.get_file_info(everything), base, tail)
        else:
            found = {"": filesystem.get_file_info(base)}
    except (OSError, OutageError) as error:
        reason = " ".join(str(error).split())
        service = REMOTE_SCHEMES.get(location.partition("://")[0])
        remedy = f"check {setting} and {f'the {service} variables' if service else 'the permissions'}"
        error_class: type[VecapError] = OutageError if isinstance(error, OutageError) else VecapError
        raise error_class(f"cannot read {location}: {reason}; {remedy}") from error
    files = [
        SourceFile(folder + name, f"{location}/{name}" if tail else location, info.size)
        for name, info in sorted(found.items())
        if info.type == pafs.FileType.File
    ]
    if not files:
        where = f"{location}/{tail}" if tail else location
        hint = "" if tail or is_remote(location) else similar_file(where)
        raise PermanentError(f"{kind} file {where} not found{hint}; create it, or change {setting}")
    return files


def _split_glob(pattern: str, resolve: Callable[[str], str]) -> tuple[str, str]:
    """Split *pattern* into a path and the glob below it, "" for a plain path.

    An existing file or folder with `*`, `?` or `[` in its name is taken literally. *resolve* converts a configured path
    to one that `open_filesystem` accepts.
    """
    end = 0
    while magic := _MAGIC.search(pattern, end):
        end = pattern.find("/", magic.start()) + 1 or len(pattern)
        if not _exists(resolve(pattern[:end])):
            start = pattern.rfind("/", 0, magic.start()) + 1
            return pattern[:start], pattern[start:]
    return pattern, ""


def _exists(location: str) -> bool:
    with suppress(OSError):  # the caller lists the folder and reports the error
        filesystem, path = open_filesystem(location)
        return bool(filesystem.get_file_info(path).type != pafs.FileType.NotFound)
    return False


def _matching(infos: Sequence[pafs.FileInfo], base: str, tail: str) -> dict[str, pafs.FileInfo]:
    """Return the *infos* whose path relative to *base* matches the glob *tail*, by that path."""
    matches = re.compile(glob_translate(tail)).match
    named = {info.path.removeprefix(base).lstrip("/"): info for info in infos}
    return {name: info for name, info in named.items() if matches(name)}


def wide_encoding(head: bytes) -> str | None:
    """Return the encoding of a text that begins with the four bytes *head* if it is UTF-16 or UTF-32, else None."""
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "UTF-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    zeros = bytes(byte == 0 for byte in head)  # without a byte order mark, ASCII text shows
    return {b"\0\1\0\1": "UTF-16LE", b"\1\0\1\0": "UTF-16BE"}.get(zeros)


class DigestReader(io.RawIOBase):
    """Reads *stream* sequentially and computes the sha256 of everything read."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._sha256 = hashlib.sha256()
        self.bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        block = self._take(memoryview(buffer).nbytes)
        memoryview(buffer)[: len(block)] = block
        return len(block)

    def _take(self, size: int) -> bytes:
        block = self._stream.read(size)
        self._sha256.update(block)
        self.bytes += len(block)
        return block

    def size(self) -> int:
        """Return the size of *stream*, which must be seekable, in bytes."""
        size = self._stream.seek(0, io.SEEK_END)
        self._stream.seek(self.bytes)
        return size

    def read_at(self, size: int, offset: int) -> bytes:
        """Return *size* bytes from *offset*, fewer at the end. Raises OSError if *offset* is behind the position."""
        if offset < self.bytes:
            raise io.UnsupportedOperation(f"byte {offset} was already read; the position is {self.bytes}")
        while (skipped := offset - self.bytes) and self._take(min(skipped, _BLOCK)):
            pass
        return self._take(size)

    def input(self, name: str) -> Input:
        """Read the rest, and return the file as an input of the manifest."""
        while self._take(_BLOCK):
            pass
        return Input("source", name, self._sha256.hexdigest(), self.bytes)


class Blocks(Protocol):
    """A file that `BlockStream` reads."""

    def size(self) -> int: ...

    def read_at(self, size: int, offset: int) -> bytes: ...

    def close(self) -> None: ...


class BlockStream:
    """A seekable stream over *source* that reads whole blocks and caches the last ones.

    Sequential reads with small steps back request ascending blocks, as `DigestReader` requires.
    """

    def __init__(self, source: Blocks, block: int = _BLOCK) -> None:
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
        """Return the next *size* bytes, or all remaining ones if *size* is negative; fewer at the end of the file."""
        stop = self._size if size < 0 else min(self._size, self._at + size)
        parts = []
        while self._at < stop:
            number, start = divmod(self._at, self._block)
            part = self._load(number)[start : start + stop - self._at]
            if not part:  # the file was truncated after it was opened
                break
            parts.append(part)
            self._at += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _load(self, number: int) -> bytes:
        found = self._blocks.get(number)
        if found is None:
            found = self._source.read_at(min(self._block, self._size - number * self._block), number * self._block)
            if len(self._blocks) == _KEPT_BLOCKS:
                self._blocks.popitem(last=False)
            self._blocks[number] = found
        else:
            self._blocks.move_to_end(number)
        return found
