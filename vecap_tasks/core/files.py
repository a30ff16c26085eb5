"""Input files: by path or glob, on this machine or on S3, under the names a manifest gives them."""

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
from typing import IO, TYPE_CHECKING, Self

import pyarrow as pa
import pyarrow.fs as pafs
from fsspec.utils import glob_translate

from vecap_tasks.config import Config
from vecap_tasks.core.manifest import Input
from vecap_tasks.core.store import open_filesystem
from vecap_tasks.errors import PermanentError, VecapError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_MAGIC = re.compile(r"[*?\[]")
_READ_AHEAD = 4 << 20  # bytes of one request to S3: reads from its files are small and mostly in order
_BLOCK = 2 << 20  # bytes
_KEPT_BLOCKS = 3


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file. `name` is the manifest's, `place` a path of this machine or `s3://bucket/key`, `size` in bytes."""

    name: str
    place: str
    size: int

    @property
    def remote(self) -> bool:
        return self.place.startswith("s3://")

    def open(self) -> IO[bytes]:
        """Open for reading, seekable, with a buffer. Raises OSError."""
        if not self.remote:
            return Path(self.place).open("rb")
        filesystem, key = open_filesystem(self.place)
        return io.BufferedReader(filesystem.open_input_file(key), _READ_AHEAD)


def find_files(
    config: Config, patterns: Sequence[str], *, kind: str, setting: str, interval: str | None = None
) -> dict[str, SourceFile]:
    """Return the files of *patterns* (paths or globs) by name, in that order and by name within one; each file once.

    A name that exists is taken literally, whatever characters it has. `{interval}` stands for *interval*, where that is
    given. Errors call a file a *kind* file and name the *setting* to change: PermanentError for a pattern that finds
    nothing, VecapError for a folder that cannot be read.
    """
    files: dict[str, SourceFile] = {}
    taken: set[str] = set()
    for pattern in patterns:
        written = pattern if interval is None else pattern.replace("{interval}", interval)
        for file in _find(config, written, kind, setting):
            real = file.place if file.remote else str(Path(file.place).resolve())
            if real not in taken:
                taken.add(real)
                files[file.name] = file
    return files


def _find(config: Config, written: str, kind: str, setting: str) -> list[SourceFile]:
    folder, tail = _split_glob(written, config.resolve)
    place = config.resolve(folder or ".").removeprefix("file://").rstrip("/") or "/"
    if "://" in place and not place.startswith("s3://"):
        raise PermanentError(f"{setting}: {written} is neither on this machine nor on s3://; copy it first")
    filesystem, base = open_filesystem(place)
    try:
        if tail:
            everything = pafs.FileSelector(base, allow_not_found=True, recursive="/" in tail)
            found = _matching(filesystem.get_file_info(everything), base, tail)
        else:
            found = {"": filesystem.get_file_info(base)}
    except OSError as error:
        reason = " ".join(str(error).split())
        remedy = f"check {setting} and {'the AWS variables' if place.startswith('s3://') else 'the permissions'}"
        raise VecapError(f"{place} cannot be read: {reason}; {remedy}") from error
    files = [
        SourceFile(folder + name, f"{place}/{name}" if tail else place, info.size)
        for name, info in sorted(found.items())
        if info.type == pafs.FileType.File
    ]
    if not files:
        where = f"{place}/{tail}" if tail else place
        raise PermanentError(f"there is no {kind} file {where}; put it there, or change {setting}")
    return files


def _split_glob(written: str, resolve: Callable[[str], str]) -> tuple[str, str]:
    """Split *written* into a path and the glob below it, "" for a plain path.

    A file or folder that exists under a name with `*`, `?` or `[` in it is taken literally. *resolve* makes a written
    path one that `open_filesystem` takes.
    """
    end = 0
    while magic := _MAGIC.search(written, end):
        end = written.find("/", magic.start()) + 1 or len(written)
        if not _exists(resolve(written[:end])):
            start = written.rfind("/", 0, magic.start()) + 1
            return written[:start], written[start:]
    return written, ""


def _exists(place: str) -> bool:
    with suppress(OSError):  # the caller lists the folder and reports the error
        filesystem, path = open_filesystem(place)
        return bool(filesystem.get_file_info(path).type != pafs.FileType.NotFound)
    return False


def _matching(infos: Sequence[pafs.FileInfo], base: str, tail: str) -> dict[str, pafs.FileInfo]:
    """Return those of *infos* whose name below *base* the glob *tail* matches, by that name."""
    matches = re.compile(glob_translate(tail)).match
    named = {info.path.removeprefix(base).lstrip("/"): info for info in infos}
    return {name: info for name, info in named.items() if matches(name)}


class Digesting(io.RawIOBase):
    """Reads *stream* from its start to its end and computes the sha256 of what passed: one read serves both."""

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
        """Return how many bytes *stream* has, which must be seekable."""
        size = self._stream.seek(0, io.SEEK_END)
        self._stream.seek(self.bytes)
        return size

    def read_at(self, size: int, offset: int) -> bytes:
        """Return *size* bytes from *offset* on, fewer at the end. Raises OSError for bytes that passed already."""
        if offset < self.bytes:
            raise io.UnsupportedOperation(f"byte {offset} was read already, up to {self.bytes}")
        while (skipped := offset - self.bytes) and self._take(min(skipped, _BLOCK)):
            pass
        return self._take(size)

    def input(self, name: str) -> Input:
        """Read what is left, and return the whole as an input of the manifest."""
        while self._take(_BLOCK):
            pass
        return Input("source", name, self._sha256.hexdigest(), self.bytes)


class BlockStream:
    """The file *source* for reading, seekable: each read of it is of one whole block, and the last blocks are kept.

    Read in order, with small steps back, it asks *source* for ascending blocks, as a `Digesting` gives them.
    """

    def __init__(self, source: pa.NativeFile | Digesting, block: int = _BLOCK) -> None:
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
            if not part:  # the file is shorter than it was
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
