"""Input files of a source: by path or glob, on this machine or on S3, under the names a manifest gives them."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pyarrow.fs as pafs
from fsspec.utils import glob_translate

from vecap_tasks.config import Config
from vecap_tasks.core.manifest import Input
from vecap_tasks.core.store import open_filesystem
from vecap_tasks.errors import PermanentError, VecapError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


_MAGIC = re.compile(r"[*?\[]")


def split_glob(written: str, resolve: Callable[[str], str]) -> tuple[str, str]:
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


_AHEAD = 4 << 20  # bytes of one request to S3: reads from its files are small and mostly in order
_BLOCK = 1 << 20


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
        return io.BufferedReader(filesystem.open_input_file(key), _AHEAD)


class Digesting(io.RawIOBase):
    """Reads *stream* from its start to its end, and tells the sha256 of what passed: a file is read once for both."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._sha256 = hashlib.sha256()
        self.bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        block = self._stream.read(memoryview(buffer).nbytes)
        memoryview(buffer)[: len(block)] = block
        self.passed(block)
        return len(block)

    def passed(self, block: bytes) -> None:
        """Take note of the next bytes."""
        self._sha256.update(block)
        self.bytes += len(block)

    def input(self, name: str) -> Input:
        """Read what is left, and return the whole as an input of the manifest."""
        while block := self._stream.read(_BLOCK):
            self.passed(block)
        return Input("source", name, self._sha256.hexdigest(), self.bytes)


def find_files(config: Config, patterns: Sequence[str], interval: str, kind: str) -> dict[str, SourceFile]:
    """Return the files by name, in the order of the patterns and by name within one; each file once.

    *kind* is how an error calls them. Raises VecapError for a pattern that finds nothing.
    """
    files: dict[str, SourceFile] = {}
    taken: set[str] = set()
    for pattern in patterns:
        for file in _find(config, pattern.replace("{interval}", interval), kind):
            real = file.place if file.remote else str(Path(file.place).resolve())
            if real not in taken:
                taken.add(real)
                files[file.name] = file
    return files


def _find(config: Config, written: str, kind: str) -> list[SourceFile]:
    folder, tail = split_glob(written, config.resolve)
    place = config.resolve(folder or ".").removeprefix("file://")
    if len(place) > 1:
        place = place.rstrip("/")
    if "://" in place and not place.startswith("s3://"):
        raise PermanentError(f"crawl.source.paths: {written} is neither on this machine nor on s3://; copy it first")
    filesystem, base = open_filesystem(place)
    try:
        if tail:
            everything = pafs.FileSelector(base, allow_not_found=True, recursive="/" in tail)
            found = _matching(filesystem.get_file_info(everything), base, tail)
        else:
            found = {"": filesystem.get_file_info(base)}
    except OSError as error:
        raise VecapError(
            f"{place} cannot be read: {' '.join(str(error).split())}; check crawl.source.paths and the AWS variables"
        ) from error
    files = [
        SourceFile(folder + name, f"{place}/{name}" if tail else place, info.size)
        for name, info in sorted(found.items())
        if info.type == pafs.FileType.File
    ]
    if not files:
        where = f"{place}/{tail}" if tail else place
        raise PermanentError(f"there is no {kind} file {where}; put it there, or change crawl.source.paths")
    return files


def _matching(infos: Sequence[pafs.FileInfo], base: str, tail: str) -> dict[str, pafs.FileInfo]:
    """Return those of *infos* whose name below *base* the glob *tail* matches, by that name."""
    matches = re.compile(glob_translate(tail)).match
    named = {info.path.removeprefix(base).lstrip("/"): info for info in infos}
    return {name: info for name, info in named.items() if matches(name)}
