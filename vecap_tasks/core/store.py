"""The storage of datasets: a local folder or an S3 bucket, with one interface.

Writes are atomic. `put` replaces; `create` wins or loses a race: with `link(2)` on a file system, with a conditional
put on object storage. Paths are relative to the root, with forward slashes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pyarrow.fs as pafs

from vecap_tasks.errors import PermanentError, VecapError

Local = Callable[[str], AbstractContextManager[Path]]  # yields a local path to a file of the store

STAGING = ".staging"
_CHUNK = 1 << 20
_CONFLICT_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6)  # seconds between retries of a conflicting conditional put
# Environment variables that pyarrow and boto3 read when they create a client.
_S3_VARIABLES = (
    "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION",
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
)  # fmt: skip


def open_filesystem(root: str) -> tuple[pafs.FileSystem, str]:
    """Return the file system of *root* (a path, `file://…` or `s3://…`), and *root*'s path in it.

    S3 uses boto3's variables for endpoint and credentials (`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID` …).
    """
    if root.startswith("s3://"):
        return _s3(tuple(os.environ.get(name) for name in _S3_VARIABLES)), root.removeprefix("s3://")
    return pafs.LocalFileSystem(), str(Path(root.removeprefix("file://")).absolute())


@lru_cache(maxsize=4)
def _s3(variables: tuple[str | None, ...]) -> pafs.FileSystem:
    """Return the cached file system for these values of `_S3_VARIABLES`, so that connections are reused."""
    endpoint_s3, endpoint, region, default_region, *_ = variables
    return pafs.S3FileSystem(
        endpoint_override=endpoint_s3 or endpoint,
        region=region or default_region or "us-east-1",
        allow_delayed_open=True,  # small files take one request instead of the three of a multipart upload
    )


@lru_cache(maxsize=4)
def _s3_client(variables: tuple[str | None, ...]) -> Any:
    """Return the cached, thread-safe boto3 client for these values of `_S3_VARIABLES`."""
    import boto3

    return boto3.client("s3")


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file of the store: path, size, and time of the last write (seconds since the epoch)."""

    path: str
    bytes: int
    written: float


class Store:
    """Files under *root*: a path, `file://…` or `s3://bucket/prefix`."""

    def __init__(self, root: str) -> None:
        self.root = root.removesuffix("/")
        self.remote = root.startswith("s3://")
        self._fs, self._base = open_filesystem(self.root)
        if "\\" in self._base and not self.remote:  # DuckDB treats it as a slash
            raise PermanentError(f"the root {self.root} has a backslash; rename the folder")

    def path(self, name: str) -> str:
        """Return *name* as a path for DuckDB and pyarrow: an absolute path, or bucket/key on S3."""
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
        return f"s3://{self.path(name)}" if self.remote else self.path(name)

    def exists(self, name: str) -> bool:
        return bool(self._fs.get_file_info(self.path(name)).type == pafs.FileType.File)

    def size(self, name: str) -> int:
        info = self._fs.get_file_info(self.path(name))
        if info.type != pafs.FileType.File:
            raise FileNotFoundError(self.path(name))
        return int(info.size)

    def folders(self, name: str = "") -> list[str]:
        """Return the names of the folders directly under *name*, sorted; none if it does not exist."""
        return self._list(name, pafs.FileType.Directory)

    def files(self, name: str = "") -> list[str]:
        """Return the names of the files directly under *name*, sorted; none if it does not exist."""
        return self._list(name, pafs.FileType.File)

    def _list(self, name: str, kind: pafs.FileType) -> list[str]:
        base = self.path(name) if name else self._base
        found = self._fs.get_file_info(pafs.FileSelector(base, allow_not_found=True))
        return sorted(info.base_name for info in found if info.type == kind and info.base_name != STAGING)

    def open(self, name: str) -> IO[bytes]:
        """Open a file for seekable reading. Raises FileNotFoundError."""
        stream: IO[bytes] = self._fs.open_input_file(self.path(name))
        return stream

    def read(self, name: str) -> bytes:
        """Return the content of the file *name*. Raises FileNotFoundError, and OSError if it cannot be read.

        On S3 this is one request. pyarrow requests the length first, and returns garbage if a shorter object replaces
        the file in between.
        """
        if not self.remote:
            with self.open(name) as stream:
                return stream.read()
        from botocore.exceptions import BotoCoreError, ClientError

        bucket, _, key = self.path(name).partition("/")
        client = self._client()
        try:
            data: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        except client.exceptions.NoSuchKey:
            raise FileNotFoundError(self.path(name)) from None
        except (BotoCoreError, ClientError) as error:
            raise OSError(f"cannot read {self.query_path(name)}: {error}") from error
        return data

    def sha256(self, name: str) -> str:
        digest = hashlib.sha256()
        with self.open(name) as stream:
            while block := stream.read(_CHUNK):
                digest.update(block)
        return digest.hexdigest()

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """Yield a local path to the file: itself, or a temporary copy."""
        if not self.remote:
            path = Path(self.path(name))
            if not path.is_file():
                raise FileNotFoundError(str(path))
            yield path
            return
        with tempfile.TemporaryDirectory(prefix="vecap-") as folder:
            path = Path(folder) / PurePosixPath(name).name
            with self.open(name) as stream, path.open("wb") as copy:
                shutil.copyfileobj(stream, copy, _CHUNK)
            yield path

    def put(self, name: str, data: bytes) -> None:
        """Write *data* atomically, replacing an existing file."""
        if self.remote:
            with self._writing_remote(name) as (client, target):
                client.put_object(Body=data, **target)
            return
        with self._temporary_file() as temporary:
            temporary.write_bytes(data)
            self._publish(temporary, name)

    def upload(self, name: str, source: Path) -> None:
        """Publish the local file *source* atomically, replacing an existing file; *source* may be moved."""
        if self.remote:
            with self._writing_remote(name) as (client, target):
                client.upload_file(str(source), **target)
            return
        with self._temporary_file() as temporary:
            shutil.move(source, temporary)
            self._publish(temporary, name)

    @contextmanager
    def _writing_remote(self, name: str) -> Iterator[tuple[Any, dict[str, str]]]:
        """Yield boto3's client and its arguments for the object *name*. Errors of boto3 become OSError.

        pyarrow cannot be used to write: closing its stream after an error or Ctrl-C publishes a partial file.
        """
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        bucket, _, key = self.path(name).partition("/")
        try:
            yield self._client(), {"Bucket": bucket, "Key": key}
        except (Boto3Error, BotoCoreError, ClientError) as error:
            raise OSError(f"cannot write {self.query_path(name)}: {error}") from error

    def remove(self, name: str) -> None:
        """Delete the file *name* if it exists."""
        if self.exists(name):
            self._fs.delete_file(self.path(name))

    def remove_folder(self, name: str) -> None:
        """Delete the folder *name* with its contents if it exists."""
        with suppress(FileNotFoundError):
            self._fs.delete_dir(self.path(name))

    def copy(self, name: str, to: str) -> None:
        """Publish a copy of the file *name* as *to*, atomically. Raises FileNotFoundError."""
        if self.remote:
            self._fs.copy_file(self.path(name), self.path(to))
            return
        with self._temporary_file() as temporary:
            shutil.copyfile(self.path(name), temporary)
            self._publish(temporary, to)

    def tree(self, name: str = "") -> list[WrittenFile]:
        """Return all files under *name*, recursively, sorted by path; `.staging` only if *name* is in it."""
        base = self.path(name) if name else self._base
        infos = self._fs.get_file_info(pafs.FileSelector(base, recursive=True, allow_not_found=True))
        found = [
            WrittenFile(f"{name}/{info.path[len(base) :].lstrip('/')}".lstrip("/"), info.size, info.mtime.timestamp())
            for info in infos
            if info.type == pafs.FileType.File
        ]
        return sorted(found, key=lambda stored: stored.path)

    def create(self, name: str, data: bytes) -> bool:
        """Write *data* if the file does not exist; return whether it was written. Of concurrent calls exactly one wins.

        Raises OSError if the write fails.
        """
        if self.remote:
            return self._create_remote(name, data)
        with self._temporary_file() as temporary:
            temporary.write_bytes(data)
            try:
                self._publish(temporary, name, replace=False)
            except FileExistsError:
                return False
        return True

    def _create_remote(self, name: str, data: bytes) -> bool:
        from botocore.exceptions import BotoCoreError, ClientError

        bucket, _, key = self.path(name).partition("/")
        client = self._client()
        for pause in _CONFLICT_PAUSES:
            try:
                client.put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
                return True
            except (BotoCoreError, ClientError) as error:
                response = error.response if isinstance(error, ClientError) else {}
                status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
                if status == 412:
                    return False
                if status != 409:
                    raise OSError(f"cannot write {self.query_path(name)}: {error}") from error
                time.sleep(pause)  # another writer is still active, so the winner is not known yet
        return False

    def _client(self) -> Any:
        return _s3_client(tuple(map(os.environ.get, _S3_VARIABLES)))

    @contextmanager
    def _temporary_file(self) -> Iterator[Path]:
        """Yield a path for a file to publish; removed at the end if it is still there."""
        path = self._staging() / uuid.uuid4().hex
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _staging(self) -> Path:
        folder = Path(self._base) / STAGING
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (PermissionError, NotADirectoryError, FileExistsError) as error:
            raise VecapError(
                f"cannot write to {self._base}: {error.strerror}; set `root` to a writable folder"
            ) from error
        return folder

    def _publish(self, temporary: Path, name: str, *, replace: bool = True) -> None:
        """Move the file *temporary* to *name*, atomically and durably.

        Raises FileExistsError if *name* exists and *replace* is false.
        """
        target = Path(self.path(name))
        _make_folder(target.parent)
        _sync(temporary)
        if replace:
            temporary.replace(target)
        else:
            os.link(temporary, target)
        _sync(target.parent)

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """Yield an empty temporary folder for files to publish.

        On a file system it is inside the root, so that publishing is a rename.
        """
        parent = None
        if not self.remote:
            parent = self._staging()
        with tempfile.TemporaryDirectory(prefix="work-", dir=parent) as folder:
            yield Path(folder)


def _sync(path: Path) -> None:
    """Flush the file or folder *path* to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    """Create *folder* and its parents, flushing each to disk."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)
