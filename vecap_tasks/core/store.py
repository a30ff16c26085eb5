"""Where datasets lie: a folder or a bucket, by one code path.

Everything is written aside and appears whole. `put` replaces, `create` wins or loses a race: on a file system by
`link(2)`, on object storage by a conditional put. Paths are relative to the root, with forward slashes.
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

Local = Callable[[str], AbstractContextManager[Path]]  # gives a local path to a file of the store

STAGING = ".staging"
_CHUNK = 1 << 20
_CONFLICT_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6)  # seconds between conditional puts that met another
# What pyarrow takes from the environment when a file system is made, and boto3 with it.
_S3_VARIABLES = (
    "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION",
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
)  # fmt: skip


def open_filesystem(root: str) -> tuple[pafs.FileSystem, str]:
    """Return the file system of *root* (a path, `file://…` or `s3://…`), and what it calls *root*.

    S3 takes its address and credentials as boto3 does (`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID` …).
    """
    if root.startswith("s3://"):
        return _s3(tuple(os.environ.get(name) for name in _S3_VARIABLES)), root.removeprefix("s3://")
    return pafs.LocalFileSystem(), str(Path(root.removeprefix("file://")).absolute())


@lru_cache(maxsize=4)
def _s3(variables: tuple[str | None, ...]) -> pafs.FileSystem:
    """Return the file system for these values of `_S3_VARIABLES`: one, so that its connections are used again."""
    endpoint_s3, endpoint, region, default_region, *_ = variables
    return pafs.S3FileSystem(
        endpoint_override=endpoint_s3 or endpoint,
        region=region or default_region or "us-east-1",
        allow_delayed_open=True,  # what is small goes in one request, not in the three of an upload in parts
    )


@lru_cache(maxsize=4)
def _s3_client(variables: tuple[str | None, ...]) -> Any:
    """Return boto3's client for these values of `_S3_VARIABLES`; it may be used by many threads."""
    import boto3

    return boto3.client("s3")


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file of the store: its path in it, its size, and when it was last written (seconds since the epoch)."""

    path: str
    bytes: int
    written: float


class Store:
    """Files under *root*: a path, `file://…` or `s3://bucket/prefix`."""

    def __init__(self, root: str) -> None:
        self.root = root.removesuffix("/")
        self.remote = root.startswith("s3://")
        self._fs, self._base = open_filesystem(self.root)
        if "\\" in self._base and not self.remote:  # DuckDB takes it for a slash
            raise PermanentError(f"the root {self.root} has a backslash; rename the folder")

    def path(self, name: str) -> str:
        """Return *name* as DuckDB and pyarrow take it: an absolute path, or bucket/key on S3."""
        clean = PurePosixPath(name)
        if clean.is_absolute() or ".." in clean.parts:
            raise ValueError(f"{name} does not lie inside the store")
        return f"{self._base}/{clean}"

    @property
    def filesystem(self) -> pafs.FileSystem:
        """The pyarrow file system that `path` names files in."""
        return self._fs

    def query_path(self, name: str) -> str:
        """Return *name* as a query on `connect()` names it; `scan` puts it into SQL."""
        return f"s3://{self.path(name)}" if self.remote else self.path(name)

    def exists(self, name: str) -> bool:
        return bool(self._fs.get_file_info(self.path(name)).type == pafs.FileType.File)

    def size(self, name: str) -> int:
        info = self._fs.get_file_info(self.path(name))
        if info.type != pafs.FileType.File:
            raise FileNotFoundError(self.path(name))
        return int(info.size)

    def folders(self, name: str = "") -> list[str]:
        """Return the names of the folders directly under *name*, sorted; none where it does not exist."""
        return self._list(name, pafs.FileType.Directory)

    def files(self, name: str = "") -> list[str]:
        """Return the names of the files directly under *name*, sorted; none where it does not exist."""
        return self._list(name, pafs.FileType.File)

    def _list(self, name: str, kind: pafs.FileType) -> list[str]:
        base = self.path(name) if name else self._base
        found = self._fs.get_file_info(pafs.FileSelector(base, allow_not_found=True))
        return sorted(info.base_name for info in found if info.type == kind and info.base_name != STAGING)

    def open(self, name: str) -> IO[bytes]:
        """Open for reading, seekable. Raises FileNotFoundError."""
        stream: IO[bytes] = self._fs.open_input_file(self.path(name))
        return stream

    def read(self, name: str) -> bytes:
        """Return the file *name* whole. Raises FileNotFoundError, and OSError where it cannot be had.

        On S3 it is one request: pyarrow asks for the length first, and gives bytes that nobody wrote where the object
        is replaced by a shorter one in between.
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
        """Give a local path to the file: itself, or a copy that goes afterwards."""
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
        """Write *data* whole, in place of what was there."""
        if self.remote:
            with self._writing_remote(name) as (client, place):
                client.put_object(Body=data, **place)
            return
        with self._aside() as aside:
            aside.write_bytes(data)
            self._publish(aside, name)

    def upload(self, name: str, source: Path) -> None:
        """Publish the local file *source* whole, in place of what was there; *source* is left or moved."""
        if self.remote:
            with self._writing_remote(name) as (client, place):
                client.upload_file(str(source), **place)
            return
        with self._aside() as aside:
            shutil.move(source, aside)
            self._publish(aside, name)

    @contextmanager
    def _writing_remote(self, name: str) -> Iterator[tuple[Any, dict[str, str]]]:
        """Give boto3's client and its arguments for the object *name*. Errors of boto3 become OSError.

        pyarrow is not used to write: a stream that an error or Ctrl-C closes publishes the part that was written.
        """
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        bucket, _, key = self.path(name).partition("/")
        try:
            yield self._client(), {"Bucket": bucket, "Key": key}
        except (Boto3Error, BotoCoreError, ClientError) as error:
            raise OSError(f"cannot write {self.query_path(name)}: {error}") from error

    def remove(self, name: str) -> None:
        """Delete the file *name*; nothing happens where there is none."""
        if self.exists(name):
            self._fs.delete_file(self.path(name))

    def remove_folder(self, name: str) -> None:
        """Delete the folder *name* with all that is in it; nothing happens where there is none."""
        with suppress(FileNotFoundError):
            self._fs.delete_dir(self.path(name))

    def copy(self, name: str, to: str) -> None:
        """Publish a copy of the file *name* as *to*, whole. Raises FileNotFoundError."""
        if self.remote:
            self._fs.copy_file(self.path(name), self.path(to))
            return
        with self._aside() as aside:
            shutil.copyfile(self.path(name), aside)
            self._publish(aside, to)

    def tree(self, name: str = "") -> list[WrittenFile]:
        """Return all files under *name*, at any depth, by path; of `.staging` too where that is named."""
        base = self.path(name) if name else self._base
        infos = self._fs.get_file_info(pafs.FileSelector(base, recursive=True, allow_not_found=True))
        found = [
            WrittenFile(f"{name}/{info.path[len(base) :].lstrip('/')}".lstrip("/"), info.size, info.mtime.timestamp())
            for info in infos
            if info.type == pafs.FileType.File
        ]
        return sorted(found, key=lambda stored: stored.path)

    def create(self, name: str, data: bytes) -> bool:
        """Write *data* only if nothing is there, and say whether it was. Of several racers exactly one wins.

        Raises OSError where it cannot be written.
        """
        if self.remote:
            return self._create_remote(name, data)
        with self._aside() as aside:
            aside.write_bytes(data)
            try:
                self._publish(aside, name, replace=False)
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
                answer = error.response if isinstance(error, ClientError) else {}
                status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
                if status == 412:
                    return False
                if status != 409:
                    raise OSError(f"cannot write {self.query_path(name)}: {error}") from error
                time.sleep(pause)  # a racer is still writing: who won is not known yet
        return False

    def _client(self) -> Any:
        return _s3_client(tuple(map(os.environ.get, _S3_VARIABLES)))

    @contextmanager
    def _aside(self) -> Iterator[Path]:
        """Give a path for a file that is then published; what is still there goes, as after a write that failed."""
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
                f"cannot write to {self._base}: {error.strerror}; give a folder of yours as `root`"
            ) from error
        return folder

    def _publish(self, aside: Path, name: str, *, replace: bool = True) -> None:
        """Make the file *aside* appear as *name*: after a power failure it is there whole, or not at all.

        Raises FileExistsError where *name* exists and must not be replaced.
        """
        target = Path(self.path(name))
        _make_folder(target.parent)
        _sync(aside)
        if replace:
            aside.replace(target)
        else:
            os.link(aside, target)
        _sync(target.parent)

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """Give an empty local folder for files on their way into the store; it goes afterwards.

        On a file system it lies inside the root, so that publishing is a rename.
        """
        parent = None
        if not self.remote:
            parent = self._staging()
        with tempfile.TemporaryDirectory(prefix="work-", dir=parent) as folder:
            yield Path(folder)


def _sync(path: Path) -> None:
    """Wait until the file or folder *path* is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    """Make *folder* and those above it, each on the disk."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)
