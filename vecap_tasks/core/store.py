"""The storage of datasets: a local folder or object storage, with one interface.

Writes are atomic. `put` replaces; `create` wins or loses a race: with `link(2)` on a file system, with a conditional
put on object storage. Paths are relative to the root, with forward slashes. Operations wait while the disk is full or
object storage does not answer (`vecap_tasks.outages`), then raise OutageError.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.fs as pafs
from fsspec import AbstractFileSystem

from vecap_tasks.core.object_storage import (
    SEQUENTIAL_BYTES,
    Bucket,
    ObjectInfo,
    ObjectReader,
    digest_stream,
    is_remote,
    open_bucket,
)
from vecap_tasks.core.temporary import list_folder, make_folder, remove_abandoned, sync, temporary_folder
from vecap_tasks.errors import PermanentError, VecapError
from vecap_tasks.outages import retry_when_full

STAGING = ".staging"
_READ_AHEAD = 1 << 20  # bytes of a request for a small read


def open_filesystem(root: str) -> tuple[pafs.FileSystem, str]:
    """Return the file system of *root* (a path, `file://…`, `s3://…`, `gs://…` or `az://…`), and *root*'s path in it.

    On object storage it is for reading; the path is bucket/key.
    """
    if is_remote(root):
        scheme, _, path = root.partition("://")
        return pafs.PyFileSystem(_Handler(ObjectFiles(scheme))), path
    return pafs.LocalFileSystem(), str(Path(root.removeprefix("file://")).absolute())


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file of the store: path, size, and time of the last write (seconds since the epoch)."""

    path: str
    bytes: int
    written: float


class Store:
    """Files under *root*: a path, `file://…`, or `s3://`, `gs://` or `az://` with bucket/prefix."""

    def __init__(self, root: str) -> None:
        self.root = root.removesuffix("/")
        self.remote = is_remote(root)
        self.scheme = self.root.partition("://")[0] if self.remote else "file"
        self._fs, self._base = open_filesystem(self.root)
        if "\\" in self._base and not self.remote:  # DuckDB treats it as a slash
            raise PermanentError(f"the root {self.root} has a backslash; rename the folder")

    def path(self, name: str) -> str:
        """Return *name* as a path for DuckDB and pyarrow: an absolute path, or bucket/key."""
        clean = PurePosixPath(name)
        if clean.is_absolute() or ".." in clean.parts:
            raise ValueError(f"{name} is outside the store")
        return f"{self._base}/{clean}"

    @property
    def filesystem(self) -> pafs.FileSystem:
        """The pyarrow file system of the paths that `path` returns."""
        return self._fs

    def query_path(self, name: str) -> str:
        """Return *name* as a path for a query on `connect()`; `scan` inserts it into SQL."""
        return f"{self.scheme}://{self.path(name)}" if self.remote else self.path(name)

    def _object(self, name: str) -> tuple[Bucket, str]:
        """Return the bucket and the key of the object *name*."""
        bucket, _, key = (self.path(name) if name else self._base).partition("/")
        return open_bucket(self.scheme, bucket), key

    def exists(self, name: str) -> bool:
        try:
            self.stat(name)
        except FileNotFoundError:
            return False
        return True

    def size(self, name: str) -> int:
        """Return the size of the file *name* in bytes. Raises FileNotFoundError."""
        return self.stat(name).bytes

    def stat(self, name: str) -> WrittenFile:
        """Return the size and the time of the last write of the file *name*. Raises FileNotFoundError."""
        if self.remote:
            bucket, key = self._object(name)
            found = bucket.head(key)
            return WrittenFile(name, found.bytes, found.written)
        info = self._fs.get_file_info(self.path(name))
        if info.type != pafs.FileType.File:
            raise FileNotFoundError(self.path(name))
        return WrittenFile(name, info.size, info.mtime.timestamp())

    def folders(self, name: str = "") -> list[str]:
        """Return the names of the folders directly under *name*, sorted; none if it does not exist."""
        return self._list(name)[0]

    def files(self, name: str = "") -> list[str]:
        """Return the names of the files directly under *name*, sorted; none if it does not exist."""
        return [file.path for file in self.written(name)]

    def written(self, name: str = "") -> list[WrittenFile]:
        """Return the files directly under *name*, with `path` relative to it, sorted; none if it does not exist."""
        return self._list(name)[1]

    def _list(self, name: str) -> tuple[list[str], list[WrittenFile]]:
        if self.remote:
            bucket, key = self._object(name)
            prefixes, objects = bucket.children(key)
            folders = [PurePosixPath(prefix).name for prefix in prefixes]
            files = [WrittenFile(PurePosixPath(info.key).name, info.bytes, info.written) for info in objects]
        else:
            base = self.path(name) if name else self._base
            infos = list_folder(base)
            folders = [info.base_name for info in infos if info.type == pafs.FileType.Directory]
            found = [info for info in infos if info.type == pafs.FileType.File]
            files = [WrittenFile(info.base_name, info.size, info.mtime.timestamp()) for info in found]
        folders = sorted(folder for folder in folders if folder != STAGING)
        return folders, sorted((file for file in files if file.path != STAGING), key=lambda file: file.path)

    def open(self, name: str) -> IO[bytes]:
        """Open a file for seekable reading. Raises FileNotFoundError."""
        if self.remote:
            bucket, key = self._object(name)
            return cast("IO[bytes]", io.BufferedReader(bucket.open(key), _READ_AHEAD))
        stream: IO[bytes] = self._fs.open_input_file(self.path(name))
        return stream

    def read(self, name: str) -> bytes:
        """Return the content of the file *name*, in one request on object storage.

        Raises FileNotFoundError, and OSError if it cannot be read.
        """
        if self.remote:
            bucket, key = self._object(name)
            return bucket.read(key)
        with self.open(name) as stream:
            return stream.read()

    def sha256(self, name: str) -> str:
        with self.open(name) as stream:
            return digest_stream(stream)

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """Yield a local path to the file: itself, or a temporary copy."""
        if not self.remote:
            path = Path(self.path(name))
            if not path.is_file():
                raise FileNotFoundError(str(path))
            yield path
            return
        with temporary_folder() as folder:
            path = folder / PurePosixPath(name).name
            with self.open(name) as stream, path.open("wb") as copy:
                shutil.copyfileobj(stream, copy, SEQUENTIAL_BYTES)
            yield path

    def put(self, name: str, data: bytes) -> None:
        """Write *data* atomically, replacing an existing file."""
        if self.remote:
            bucket, key = self._object(name)
            bucket.put(key, data)
            return
        self._write(name, lambda path: path.write_bytes(data))

    def upload(self, name: str, source: Path) -> None:
        """Publish the local file *source* atomically, replacing an existing file; *source* may be moved.

        On a full disk it raises OSError without waiting, because *source* may be gone.
        """
        if self.remote:
            bucket, key = self._object(name)
            bucket.upload(key, source)
            return
        self._publish(name, lambda path: shutil.move(source, path))

    def remove(self, name: str) -> None:
        """Delete the file *name* if it exists."""
        if self.remote:
            bucket, key = self._object(name)
            bucket.delete([key])
        elif self.exists(name):
            self._fs.delete_file(self.path(name))

    def remove_folder(self, name: str) -> None:
        """Delete the folder *name* with its contents if it exists."""
        if self.remote:
            bucket, key = self._object(name)
            bucket.delete_folder(key)
            return
        folder = Path(self.path(name))
        while folder.exists():  # again if another run adds or deletes a file meanwhile
            try:
                shutil.rmtree(folder)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                    raise

    def copy(self, name: str, to: str) -> None:
        """Publish a copy of the file *name* as *to*, atomically. Raises FileNotFoundError."""
        if self.remote:
            bucket, key = self._object(name)
            bucket.copy(key, self._object(to)[1])
            return
        self._write(to, lambda path: shutil.copyfile(self.path(name), path))

    def tree(self, name: str = "") -> list[WrittenFile]:
        """Return all files under *name*, recursively, sorted by path; `.staging` only if *name* is in it."""
        if self.remote:
            bucket, key = self._object(name)
            start = len(self._object("")[1].rstrip("/") + "/") if self._object("")[1] else 0
            return [WrittenFile(info.key[start:], info.bytes, info.written) for info in bucket.tree(key)]
        base = self.path(name) if name else self._base
        infos = list_folder(base, recursive=True)
        found = [
            WrittenFile(f"{name}/{info.path[len(base) :].lstrip('/')}".lstrip("/"), info.size, info.mtime.timestamp())
            for info in infos
            if info.type == pafs.FileType.File
        ]
        return sorted(found, key=lambda stored: stored.path)

    def create(self, name: str, data: bytes) -> bool:
        """Write *data* if the file does not exist; return whether it was written. Of concurrent calls exactly one wins.

        Raises OSError and OutageError if the write fails.
        """
        if self.remote:
            bucket, key = self._object(name)
            return bucket.create(key, data)
        try:
            self._write(name, lambda path: path.write_bytes(data), replace=False)
        except FileExistsError:
            return False
        return True

    def _write(self, name: str, fill: Callable[[Path], object], *, replace: bool = True) -> None:
        """Call `_publish`, again while the disk is full."""
        retry_when_full(lambda: self._publish(name, fill, replace=replace), self._base)

    def _publish(self, name: str, fill: Callable[[Path], object], *, replace: bool = True) -> None:
        """Publish the file that *fill* writes to the path it gets as *name*, atomically and durably.

        Raises FileExistsError if *name* exists and *replace* is false.
        """
        target = Path(self.path(name))
        with temporary_folder(self._staging()) as folder:
            temporary = folder / "file"
            fill(temporary)
            sync(temporary)
            for last in (*[False] * 20, True):
                try:
                    make_folder(target.parent)
                    (os.replace if replace else os.link)(temporary, target)
                    break
                except FileNotFoundError:  # another run has deleted the folder meanwhile
                    if last:
                        raise
        with suppress(FileNotFoundError):
            sync(target.parent)

    def _staging(self) -> Path:
        folder = Path(self._base) / STAGING
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (PermissionError, NotADirectoryError, FileExistsError) as error:
            raise VecapError(
                f"cannot write to {self._base}: {error.strerror}; set `root` to a writable folder"
            ) from error
        return folder

    @property
    def scratch(self) -> Path:
        """The folder in which `workspace` creates its folders: inside the root, or the system's temporary folder."""
        return Path(tempfile.gettempdir()) if self.remote else self._staging()

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """Yield an empty temporary folder for files to publish: by a rename, if the root is on a file system."""
        with temporary_folder(self.scratch) as folder:
            yield folder

    def remove_abandoned(self) -> None:
        """Remove the unpublished files of processes that were killed."""
        if not self.remote:
            remove_abandoned(Path(self._base) / STAGING)


class ObjectFiles(AbstractFileSystem):  # type: ignore[misc]
    """The buckets of one service for DuckDB and, through `open_filesystem`, for pyarrow. Paths are `bucket/key`.

    With *remember*, an object's properties are requested once; a read fails if it changed meanwhile.
    """

    cachable = False  # fsspec would return one object for all connections

    def __init__(self, scheme: str, *, remember: bool = False) -> None:
        super().__init__()
        self.protocol = scheme
        self._remember = remember
        self._known: dict[str, ObjectInfo] = {}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return (path.partition("://")[2] if "://" in path else path).rstrip("/")

    def _locate(self, path: str) -> tuple[Bucket, str]:
        name, _, key = self._strip_protocol(path).partition("/")
        return open_bucket(self.protocol, name), key

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        bucket, key = self._locate(path)
        try:
            if key:
                return _file(bucket, self._head(bucket, key))
        except FileNotFoundError:
            if not any(bucket.children(key)):
                raise
        return _folder(bucket, key)

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        bucket, key = self._locate(path)
        folders, files = bucket.children(key)
        found = [*(_folder(bucket, folder) for folder in folders), *(_file(bucket, info) for info in files)]
        return found if detail else [entry["name"] for entry in found]

    def find(
        self, path: str, maxdepth: int | None = None, withdirs: bool = False, detail: bool = False, **_: Any
    ) -> Any:
        """Return the files under *path* with one listing."""
        entries = self.ls(path) if maxdepth == 1 else _all(*self._locate(path), maxdepth)
        found = {entry["name"]: entry for entry in entries if withdirs or entry["type"] == "file"}
        return found if detail else sorted(found)

    def modified(self, path: str) -> datetime:
        return datetime.fromtimestamp(self._head(*self._locate(path)).written, UTC)

    def open(self, path: str, mode: str = "rb", **_: Any) -> ObjectReader:
        if mode not in ("r", "rb"):
            raise io.UnsupportedOperation(f"{path} is read-only; use Store to write")
        bucket, key = self._locate(path)
        return ObjectReader(bucket, self._head(bucket, key))

    def _head(self, bucket: Bucket, key: str) -> ObjectInfo:
        found = self._known.get(bucket.url(key)) or bucket.head(key)
        if self._remember:
            self._known[bucket.url(key)] = found
        return found


def _file(bucket: Bucket, info: ObjectInfo) -> dict[str, Any]:
    name = f"{bucket.name}/{info.key}"
    return {"name": name, "size": info.bytes, "type": "file", "mtime": info.written, "etag": info.etag}


def _folder(bucket: Bucket, key: str) -> dict[str, Any]:
    return {"name": f"{bucket.name}/{key}".rstrip("/"), "size": 0, "type": "directory"}


def _all(bucket: Bucket, folder: str, maxdepth: int | None) -> Iterator[dict[str, Any]]:
    """Yield the folders and files under *folder*, down to *maxdepth* levels."""
    start = f"{folder}/" if folder else ""
    folders: set[str] = set()
    for info in bucket.tree(folder):
        *parents, _ = info.key.removeprefix(start).split("/")
        folders |= {start + "/".join(parents[:depth]) for depth in range(1, len(parents) + 1)}
        if maxdepth is None or len(parents) < maxdepth:
            yield _file(bucket, info)
    for key in sorted(folders):
        if maxdepth is None or key.removeprefix(start).count("/") < maxdepth:
            yield _folder(bucket, key)


class _Handler(pafs.FSSpecHandler):  # type: ignore[misc]
    def open_input_file(self, path: str) -> pa.NativeFile:
        return pa.PythonFile(self.fs.open(path), mode="r")
