"""Temporary folders, durable writes, and listings. If a process is killed, the next run removes the folders it left.

Each folder holds a lock file, which its process keeps locked. The kernel unlocks it when the process dies, on any
machine that shares the file system and in any container. A process id would not tell that.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.fs as pafs

_LOCK = "lock"
_FILES = "files"
# Several installations can share a folder for temporary files; each removes only its own.
_PREFIX = f"vecap-{hashlib.sha256(str(Path(__file__).parent).encode()).hexdigest()[:6]}-"

_open: dict[Path, int] = {}  # folder -> descriptor of its lock; of this process
_parents: set[Path] = set()  # folders in which this process or its children create temporary folders
_creating = threading.Lock()  # while a folder exists that is not in `_open` yet
_exiting = threading.Event()
_CREATING_SECONDS = 1.0  # a handler of a signal may interrupt the thread that has the lock
_ROUNDS = 3  # another thread may add a file to a folder that is being removed


@contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """Yield an empty folder in *parent* (default: `TMPDIR`), which is removed at the end of the block."""
    folder = _create(parent or Path(tempfile.gettempdir()))
    try:
        files = folder / _FILES
        files.mkdir()
        yield files
    finally:
        if folder in _open:  # otherwise this process was forked in the block
            _remove(folder)
            os.close(_open.pop(folder))


def _create(parent: Path) -> Path:
    _parents.add(parent)
    with _creating:
        if not _exiting.is_set():
            return _create_locked(parent)
    while True:
        threading.Event().wait()


def _create_locked(parent: Path) -> Path:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        try:
            lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        except FileNotFoundError:  # `remove_abandoned` of another process was faster
            continue
        except OSError:  # such as a full disk
            folder.rmdir()
            raise
        with contextlib.suppress(OSError):  # a file system without locks: the folder then stays after a kill
            fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock).st_nlink:
            _open[folder] = lock
            return folder
        os.close(lock)


def _remove(folder: Path) -> None:
    """Remove *folder*, its lock last, so that an interruption leaves it to `remove_abandoned`."""
    shutil.rmtree(folder / _FILES, ignore_errors=True)
    if (folder / _FILES).exists():  # a thread still adds files
        return
    with contextlib.suppress(OSError):
        (folder / _LOCK).unlink(missing_ok=True)
        folder.rmdir()


def remove_abandoned(parent: Path | None = None) -> int:
    """Remove the temporary folders in *parent* (default: `TMPDIR`) that processes of this user and installation left.

    Returns how many were removed.
    """
    parent = parent or Path(tempfile.gettempdir())
    _parents.add(parent)
    try:
        entries = [entry for entry in os.scandir(parent) if entry.name.startswith(_PREFIX)]
    except OSError:
        return 0
    return sum(_remove_if_abandoned(Path(entry.path)) for entry in entries)


def _remove_if_abandoned(folder: Path) -> bool:
    try:
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return False
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:  # its process was killed before the lock existed, or after
        with contextlib.suppress(OSError):
            folder.rmdir()
        return not folder.exists()
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(folder)
    except OSError:  # in use, or on a file system without locks
        return False
    finally:
        os.close(lock)
    return True


def remove_own() -> None:
    """Remove the temporary folders of this process, which is about to exit, and of its children, which are dead."""
    _exiting.set()
    _creating.acquire(timeout=_CREATING_SECONDS)
    for folder in list(_open) * _ROUNDS:
        _remove(folder)
    for parent in list(_parents):
        remove_abandoned(parent)


def _forget() -> None:
    """In a forked process: the folders are its parent's. A lock counts until all copies of its descriptor close."""
    global _creating  # another thread of the parent may have it
    _creating = threading.Lock()
    for lock in _open.values():
        with contextlib.suppress(OSError):
            os.close(lock)
    _open.clear()


os.register_at_fork(after_in_child=_forget)


def sync(path: Path) -> None:
    """Flush the file or folder *path* to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create *folder* and its parents, flushing each to disk."""
    if not folder.is_dir():
        make_folder(folder.parent)
        try:
            folder.mkdir()
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):  # another run created it, and may have removed it again
                if not stat.S_ISDIR(folder.stat().st_mode):
                    raise
        sync(folder.parent)


def list_folder(folder: str, *, recursive: bool = False) -> list[pafs.FileInfo]:
    """Return what *folder* contains; nothing if it does not exist."""
    selector = pafs.FileSelector(folder, allow_not_found=True, recursive=recursive)
    while True:
        with contextlib.suppress(FileNotFoundError):  # another run created or deleted a folder meanwhile
            found: list[pafs.FileInfo] = pafs.LocalFileSystem().get_file_info(selector)
            return found
