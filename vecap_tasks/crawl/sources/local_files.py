"""Local files that a source may read: only regular files inside its folders."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from vecap_tasks.config import Config
from vecap_tasks.core.object_storage import is_remote
from vecap_tasks.core.tar import MAX_TEXT
from vecap_tasks.crawl.sources.link import ByteRange, digest_url
from vecap_tasks.errors import Failure, PermanentError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # two letters: a single one is a drive


def is_local(reference: str) -> bool:
    """Return whether *reference* is a path or a `file:` URL."""
    scheme = _SCHEME.match(reference)
    return scheme is None or scheme[0].lower() == "file:"


def check_folder(name: str, path: Path) -> None:
    """Raise PermanentError unless the folder *name* of `crawl.source.path` exists at *path*."""
    if "://" in name or not path.is_dir():
        where = "" if name == str(path) else f" ({path})"
        raise PermanentError(
            f"folder {name} does not exist on this machine{where}; create it, or change crawl.source.path"
        )


def folder_name(folder: str, interval: str) -> str:
    """Return the configured *folder* for *interval*, without a slash at the end."""
    name = folder.replace("{interval}", interval)
    return name.rstrip("/") or "/"


def store_folders(config: Config) -> frozenset[Path]:
    """Return the folders of the store, with the real path: a source that contains them does not read them."""
    root = config.resolve(config.root)
    if is_remote(root):
        return frozenset()
    folder = Path(os.path.realpath(root.removeprefix("file://")))
    return frozenset((folder, folder / config.dataset))


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A regular file. `name` has the folder as configured, and the real path below it; `size` is in bytes."""

    name: str
    path: Path
    size: int


class LocalFolders:
    """The *folders* from which a source may read. Links and `..` are followed, but cannot leave them."""

    def __init__(self, config: Config, folders: Sequence[str], interval: str) -> None:
        names = [folder_name(folder, interval).removeprefix("file://") for folder in folders]
        self._roots = {name: Path(os.path.realpath(config.resolve(name))) for name in names}
        self._max_bytes = config.crawl.fetch.max_bytes

    def locate(self, reference: str, base: Path | None) -> LocalFile:
        """Return the file of a path relative to *base*, or of a `file:` URL.

        Raises Failure: `outside_folder`, `no_such_file`, `not_a_file`, `unreadable`, `not_utf8`, `bad_file_name`; and
        `scheme` for a relative path without *base*.
        """
        path = _path_of(reference)
        if base is None and not path.startswith("/"):
            raise Failure("scheme", "a relative path")
        try:
            real = Path(os.path.realpath((base or Path("/")) / path))
            name = next(
                (f"{name}/{real.relative_to(root)}" for name, root in self._roots.items() if root in real.parents), None
            )
            if name is None:
                raise Failure("outside_folder")
            name.encode()
            info = real.stat()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Failure("no_such_file") from error
        except UnicodeEncodeError as error:
            raise Failure("not_utf8") from error
        except PermissionError as error:
            raise Failure("unreadable") from error
        except (OSError, ValueError) as error:  # too long, too many links, a NUL
            raise Failure("bad_file_name") from error
        if not stat.S_ISREG(info.st_mode):
            raise Failure("not_a_file")
        return LocalFile(name, real, info.st_size)

    def image(self, file: LocalFile) -> tuple[str, bytes]:
        """Return the URL of an image, a `ni:` URI, and its sha256. Raises Failure: `too_large`, or as `read` does."""
        digest = hashlib.sha256(self._body(file.path, file.size)).digest()
        return digest_url(digest), digest

    def read(self, stored: ByteRange) -> bytes:
        """Return the bytes of the file `stored.archive`. Raises Failure: `not_stored` if it changed, `too_large`."""
        folders = sorted((name for name in self._roots if stored.archive.startswith(f"{name}/")), key=len)
        if not folders:
            raise Failure("not_stored", "the folder is not configured")
        path = self._roots[folders[-1]] / stored.archive.removeprefix(f"{folders[-1]}/")
        body = self._body(path, stored.length)
        if len(body) != stored.length:
            raise Failure("not_stored", "the file has another size than it had")
        return body

    def text(self, file: LocalFile) -> bytes:
        """Return the bytes of a text file. Raises Failure: `large_text`, or as `read` does."""
        if file.size > MAX_TEXT:
            raise Failure("large_text")
        return self._body(file.path, file.size)

    def _body(self, path: Path, size: int) -> bytes:
        if size > self._max_bytes:
            raise Failure("too_large")
        try:
            # Without O_NONBLOCK, opening a FIFO waits for a writer.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as stream:
                info = os.fstat(stream.fileno())
                # A link may have replaced a folder since the path was checked.
                if os.path.realpath(path) != str(path) or not os.path.samestat(info, path.stat()):
                    raise Failure("not_stored", "the path has become a link")
                if not stat.S_ISREG(info.st_mode):
                    raise Failure("not_stored", "the path is no longer a regular file")
                return stream.read(size + 1)
        except PermissionError as error:
            raise Failure("unreadable") from error
        except OSError as error:  # its text contains local paths
            missing = isinstance(error, FileNotFoundError)
            raise Failure("not_stored", "there is no such file" if missing else "the file cannot be read") from error


def _path_of(reference: str) -> str:
    if reference[:5].lower() != "file:":
        return reference
    parts = urlsplit(reference)
    if parts.netloc not in ("", "localhost"):
        raise Failure("scheme", "file on another host")
    return unquote(parts.path, errors="surrogateescape")
