"""Files that a command found intact, in the user's cache, so that an interrupted verification resumes."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import IO

from vecap_tasks.core.store import Store, WrittenFile
from vecap_tasks.core.verify import RecordedFile, file_problem

_MAX_AGE = 86_400.0  # seconds; after a pause of this length, all files are read again
_FLUSH_SECONDS = 2.0  # a killed command loses at most the files of this time
_Key = tuple[str, int, str, float]  # name, size, sha256, time of the last write


class VerifyJournal:
    """Compares files with their records, except those that an earlier attempt of the same command found intact.

    A file that was written since is read again. Thread-safe.
    """

    def __init__(self, found: frozenset[_Key], stream: IO[str] | None) -> None:
        self._found = found
        self._stream = stream  # None if the cache cannot be written
        self._lock = Lock()
        self._flushed = time.monotonic()
        self._folders: dict[tuple[str, str], dict[str, WrittenFile]] = {}
        self.skipped = 0  # files

    def check(self, file: RecordedFile) -> str | None:
        """Return how *file* differs from its record, or None."""
        key = self._key(file)
        if key in self._found:
            with self._lock:
                self.skipped += 1
            return None
        problem = file_problem(file)
        if problem is None and key is not None:
            self._add(key)
        return problem

    def _key(self, file: RecordedFile) -> _Key | None:
        folder, _, name = file.name.rpartition("/")
        with self._lock:
            listing = self._folders.get((file.store.root, folder))
            if listing is None:
                try:
                    listing = {found.path: found for found in file.store.written(folder)}
                except OSError:
                    listing = {}  # reading the file reports the problem
                self._folders[file.store.root, folder] = listing
        found = listing.get(name)
        return None if found is None else (file.name, found.bytes, file.sha256, found.written)

    def _add(self, key: _Key) -> None:
        if self._stream is None:
            return
        with self._lock:
            self._stream.write(json.dumps(key) + "\n")
            if time.monotonic() - self._flushed > _FLUSH_SECONDS:
                self._stream.flush()
                self._flushed = time.monotonic()


@contextmanager
def verify_journal(store: Store, command: Sequence[str]) -> Iterator[VerifyJournal]:
    """Yield the journal of *command* on *store*. It is deleted at the end, and kept if the block raises."""
    name = hashlib.sha256(json.dumps([store.root, *command]).encode()).hexdigest()[:32]
    path = _cache_folder() / f"{name}.jsonl"
    found = _read(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream: IO[str] | None = path.open("a" if found else "w", encoding="utf-8")
    except OSError:
        stream = None
    try:
        yield VerifyJournal(found, stream)
    finally:
        if stream is not None:
            stream.close()
    path.unlink(missing_ok=True)


def _read(path: Path) -> frozenset[_Key]:
    try:
        if time.time() - path.stat().st_mtime > _MAX_AGE:
            return frozenset()
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return frozenset()
    found = set()
    for line in lines:
        try:
            name, size, sha256, written = json.loads(line)
            found.add((str(name), int(size), str(sha256), float(written)))
        except (ValueError, TypeError):  # the last line of a killed command
            continue
    return frozenset(found)


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vecap" / "verify"
