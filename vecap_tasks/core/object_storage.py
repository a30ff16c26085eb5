"""Object storage (S3, Google Cloud Storage, Azure): one library, obstore, with one policy for errors and retries.

Requests wait for the end of an outage (`vecap_tasks.outages`), then raise OutageError; other errors are OSError, in one
line. Writes are atomic: a failed or interrupted upload publishes nothing, and a failed multipart upload is aborted.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from vecap_tasks.config import REMOTE_SCHEMES
from vecap_tasks.errors import OutageError, VecapError
from vecap_tasks.outages import Cause, retry

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from obstore import GetOptions
    from obstore.store import AzureStore, GCSStore, S3Store

SEQUENTIAL_BYTES = 8 << 20  # bytes of a sequential read, one request
_PART = 8 << 20  # bytes of one part of a multipart upload
_PARTS_AT_ONCE = 4
_QUICK_PAUSE = timedelta(seconds=0.1)  # before the first of two retries by obstore within an attempt
_DEBUG = "\n\nDebug source:"  # obstore appends the error's Rust structure
_RETRIED = " retries, max_retries:"  # in the text of an error after a retry by obstore
_STATUS = re.compile(r"status code: (\d+)([^:\n]*)")
_CODE = re.compile(r"<Code>([^<]+)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]+)</Message>")
_NO_CONTAINER = ("NoSuchBucket", "ContainerNotFound", "specified bucket does not exist")
_CAUSE = re.compile(r'(?:message|error): "([^"]+)"|^ +(\w+),$', re.MULTILINE)  # of a failed connection
_used: list[int] = []  # the ids of processes that have used obstore, this one or an ancestor


class _Busy(Exception):
    """Another writer of the same object is still active."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object: key, size in bytes, last write (seconds since the epoch), and ETag as the server sent it."""

    key: str
    bytes: int
    written: float
    etag: str | None


def is_remote(location: str) -> bool:
    """Return whether *location* is a URL of an object store."""
    scheme, separator, _ = location.partition("://")
    return bool(separator) and scheme in REMOTE_SCHEMES


def open_bucket(scheme: str, name: str) -> Bucket:
    """Return the bucket or container *name*, configured by the environment variables of its service.

    Raises VecapError if there are no credentials.
    """
    prefix = f"{REMOTE_SCHEMES[scheme]}_"
    variables = tuple(sorted((key, value) for key, value in os.environ.items() if key.startswith(prefix)))
    return _bucket(scheme, name, variables)


@lru_cache(maxsize=16)
def _bucket(scheme: str, name: str, variables: tuple[tuple[str, str], ...]) -> Bucket:
    """Return the cached bucket for these environment *variables*, so that connections are reused."""
    from obstore.store import AzureStore, GCSStore, S3Store

    plain = any("ENDPOINT" in key and value.startswith("http://") for key, value in variables)
    client: dict[str, Any] = {
        "allow_http": plain or ("AZURE_STORAGE_USE_EMULATOR", "true") in variables,
        "connect_timeout": timedelta(seconds=10),
        "read_timeout": timedelta(seconds=60),
        "timeout": timedelta(minutes=15),
    }
    backoff = {"init_backoff": _QUICK_PAUSE, "max_backoff": timedelta(seconds=1), "base": 2}
    retry: dict[str, Any] = {"max_retries": 2, "retry_timeout": timedelta(seconds=30), "backoff": backoff}
    options: dict[str, Any] = {"client_options": client, "retry_config": retry}
    authorities = dict(variables).get("AWS_CA_BUNDLE")
    if authorities:
        client["root_certificate"] = Path(authorities).read_bytes()
    if scheme == "gs":
        return Bucket(scheme, name, GCSStore(name, **options))
    if scheme == "az":
        return Bucket(scheme, name, AzureStore(name, **options))
    return Bucket(scheme, name, S3Store(name, **options, **_s3_options(name, dict(variables))))


def _s3_options(name: str, variables: dict[str, str]) -> dict[str, Any]:
    """Return the region and the credentials of S3 that obstore does not find itself, such as those of a profile."""
    region = variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION")
    found: dict[str, Any] = {"region": region} if region else {}
    if "AWS_ACCESS_KEY_ID" in variables or variables.get("AWS_SKIP_SIGNATURE", "").lower() in ("true", "1"):
        return found
    try:
        from boto3 import Session
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ModuleNotFoundError:  # obstore knows the roles of machines and pods, but no profiles
        return found
    try:
        session = Session()
        if session.get_credentials() is None:
            raise ValueError("there are none in the environment, in ~/.aws, or from a role")
        provider = Boto3CredentialProvider(session)
    except Exception as error:  # botocore's errors share no base class with ValueError
        raise VecapError(
            f"cannot find credentials for s3://{name}: {' '.join(str(error).split())}; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY or AWS_PROFILE, or AWS_SKIP_SIGNATURE=true for a public bucket"
        ) from error
    return {"region": session.region_name or "us-east-1", "credential_provider": provider} | found


class Bucket:
    """The objects of one bucket or container. Methods raise OSError and OutageError, in one line with the object."""

    def __init__(self, scheme: str, name: str, store: S3Store | GCSStore | AzureStore) -> None:
        self.scheme = scheme
        self.name = name
        self._store = store

    def url(self, key: str) -> str:
        return f"{self.scheme}://{self.name}/{key}"

    def head(self, key: str) -> ObjectInfo:
        """Return the object *key*. Raises FileNotFoundError."""
        import obstore

        return _info(self._request("read", key, lambda: obstore.head(self._store, key)))

    def read(self, key: str, start: int = 0, stop: int | None = None, etag: str | None = None) -> bytes:
        """Return the bytes *start* to *stop*, by default all, in one request.

        Raises FileNotFoundError, and OSError if the object no longer has the ETag *etag*.
        """
        import obstore

        options: GetOptions = {}
        if stop is not None:
            options["range"] = (start, stop)
        if etag is not None and not etag.startswith("W/"):  # a weak one never matches
            options["if_match"] = etag

        def get() -> bytes:
            return bytes(obstore.get(self._store, key, options=options or None).bytes())

        data: bytes = self._request("read", key, get)
        if stop is not None and len(data) != stop - start:
            raise OSError(f"cannot read {self.url(key)}: {len(data)} bytes came instead of {stop - start}")
        return data

    def open(self, key: str) -> ObjectReader:
        """Open the object *key*; each read is one request. Raises FileNotFoundError."""
        return ObjectReader(self, self.head(key))

    def put(self, key: str, data: bytes) -> None:
        """Write the object *key*, replacing an existing one."""
        import obstore

        self._request("write", key, lambda: obstore.put(self._store, key, data, use_multipart=False))

    def upload(self, key: str, source: Path) -> None:
        """Write the file *source* as the object *key*, replacing an existing one; large files in parts."""
        import obstore

        def send() -> None:
            with source.open("rb") as stream:
                obstore.put(self._store, key, stream, chunk_size=_PART, max_concurrency=_PARTS_AT_ONCE)

        self._request("write", key, send)

    def create(self, key: str, data: bytes) -> bool:
        """Write the object *key* if it does not exist; return whether it was written."""
        import obstore
        from obstore.exceptions import AlreadyExistsError

        unsure = False  # the response to an attempt was lost, so that the object may be ours

        def send() -> bool:
            nonlocal unsure
            try:
                obstore.put(self._store, key, data, mode="create", use_multipart=False)
            except AlreadyExistsError as error:
                unsure |= _RETRIED in str(error).partition(_DEBUG)[0]
                return False
            except Exception:
                unsure = True
                raise
            return True

        def write() -> bool:
            if self._request("write", key, send):
                return True
            try:
                found = self.read(key)
            except FileNotFoundError as error:  # another writer is still active, so the winner is not known yet
                raise _Busy from error
            return unsure and found == data

        busy = Cause(self.url(key), f"cannot write {self.url(key)}: other writers keep it busy")
        return retry(write, lambda error: busy if isinstance(error, _Busy) else None)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete the objects *keys*; missing ones are no error."""
        import obstore

        for start in range(0, len(keys), 1000):
            some = list(keys[start : start + 1000])
            self._request("delete", some[0], partial(obstore.delete, self._store, some), missing=True)

    def delete_folder(self, folder: str) -> None:
        """Delete all objects under *folder*, and the folders themselves on servers that keep them, like SeaweedFS."""
        keys = [info.key for info in self.tree(folder)]
        parents = {key[:end] for key in keys for end in range(len(folder), len(key)) if key[end] == "/"}
        self.delete(keys)
        self.delete(sorted(parents, key=len, reverse=True))

    def copy(self, key: str, to: str) -> None:
        """Copy the object *key* to *to*, on the server. Raises FileNotFoundError."""
        import obstore

        self._request("copy", key, lambda: obstore.copy(self._store, key, to))

    def tree(self, folder: str) -> list[ObjectInfo]:
        """Return all objects under *folder*, recursively, sorted by key."""
        import obstore

        pages = self._request("list", folder, lambda: list(obstore.list(self._store, folder or None)))
        found = sorted((_info(meta) for page in pages for meta in page), key=lambda info: info.key)
        return [info for info in found if not self._is_marker(folder, info)]

    def children(self, folder: str) -> tuple[list[str], list[ObjectInfo]]:
        """Return the keys of the folders and the objects directly under *folder*, sorted."""
        import obstore

        listed = self._request("list", folder, lambda: obstore.list_with_delimiter(self._store, folder or None))
        objects = sorted((_info(meta) for meta in listed["objects"]), key=lambda info: info.key)
        return sorted(listed["common_prefixes"]), [info for info in objects if not self._is_marker(folder, info)]

    def probe(self) -> None:
        """Raise OSError unless the bucket exists and can be listed."""
        import obstore

        self._request("list", "", lambda: obstore.list_with_delimiter(self._store))

    def _is_marker(self, folder: str, info: ObjectInfo) -> bool:
        """Return whether *info* is an empty object `folder/`, which some tools create; obstore drops the slash."""
        if info.bytes:
            return False
        if info.key == folder.strip("/"):
            return True
        try:
            self.head(info.key)
        except FileNotFoundError:
            return True
        return False

    def _request(self, action: str, key: str, send: Callable[[], Any], *, missing: bool = False) -> Any:
        """Return the result of *send*, repeated after temporary errors; None for a missing object if *missing*."""
        if not _used:
            _used.append(os.getpid())
        elif os.getpid() not in _used:  # obstore's threads are gone, so that the request would never end
            raise VecapError("this process was forked from one that had used object storage; start a new process")
        problem = f"cannot {action} {self.url(key)}"

        def outage(error: Exception) -> Cause | None:
            reason, temporary, _ = _classify(error)
            return Cause(f"{self.scheme}://{self.name}", f"{problem}: {reason}") if temporary else None

        try:
            return retry(partial(_interruptible, send), outage)
        except OutageError:
            raise
        except Exception as error:
            reason, _, absent = _classify(error)
            if not absent:
                raise OSError(f"{problem}: {reason}") from error
            if missing:
                return None
            raise FileNotFoundError(self.url(key)) from error


def _info(meta: Any) -> ObjectInfo:
    return ObjectInfo(meta["path"], meta["size"], meta["last_modified"].timestamp(), meta["e_tag"])


def _classify(error: Exception) -> tuple[str, bool, bool]:
    """Return why a request failed in one line, whether that is temporary, and whether the object does not exist.

    Re-raises an error that is not from object storage, such as that of a local file.
    """
    from obstore.exceptions import BaseError, GenericError, InvalidPathError, PreconditionError

    missing = isinstance(error, FileNotFoundError) and error.errno is None  # obstore raises Python's own
    if not missing and not isinstance(error, BaseError):
        raise error
    text, _, debug = str(error).partition(_DEBUG)
    status = _STATUS.search(text)
    code, message = _CODE.search(text), _MESSAGE.search(text)
    if missing and not any(part in text for part in _NO_CONTAINER):
        lost = "NoSuchUpload" in text  # the response to a completed multipart upload was lost
        return "the multipart upload is gone", lost, not lost
    if isinstance(error, PreconditionError):
        return "it changed while it was read", False, False
    if isinstance(error, InvalidPathError):
        return f"{' '.join(text.split())}; rename the object", False, False
    if code:
        reason = f"{code[1]}: {message[1].strip()}" if message else code[1]
    elif status:
        reason = f"{status[1]}{status[2].rstrip()}"
    else:
        causes = [quoted or name for quoted, name in _CAUSE.findall(debug)]
        reason = " ".join(text.rpartition(" - ")[2].split()) + (f" ({causes[-1]})" if causes else "")
    permanent = status is not None and status[1][0] in "34" and status[1] not in ("408", "429")
    return reason, isinstance(error, GenericError) and not permanent, False


def _interruptible(send: Callable[[], Any]) -> Any:
    """Return `send()`. In the main thread, signals such as Ctrl-C interrupt it, which obstore alone does not allow."""
    if threading.current_thread() is not threading.main_thread():
        return send()
    results: list[Any] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(send())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="object-storage", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


class ObjectReader(io.RawIOBase):
    """A seekable stream of one object. A read fails if the object was replaced after it was opened."""

    def __init__(self, bucket: Bucket, info: ObjectInfo) -> None:
        self._bucket = bucket
        self._info = info
        self._at = 0
        self.size = info.bytes

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence] + offset)
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Return the next *size* bytes in one request, or all remaining ones if it is negative."""
        stop = self.size if size is None or size < 0 else min(self.size, self._at + size)
        if stop <= self._at:
            return b""
        data = self._bucket.read(self._info.key, self._at, stop, self._info.etag)
        self._at = stop
        return data

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)


def digest_stream(stream: IO[bytes], copy: IO[bytes] | None = None) -> str:
    """Return the sha256 of the rest of *stream*, 64 hex digits, and write the rest to *copy* if given."""
    digest = hashlib.sha256()
    while block := stream.read(SEQUENTIAL_BYTES):
        digest.update(block)
        if copy is not None:
            copy.write(block)
    return digest.hexdigest()
