"""The folder of an export: refused if it has other files, resumed if an earlier attempt began it, complete or absent.

A local export is written to `DIR.unfinished`, which is renamed to `DIR` at the end. Object storage cannot rename
folders: there the files are written in place, and `export.json`, which lists them, is written last. Each file appears
whole. A finished shard has a receipt in `_unfinished`, so that a second attempt continues with the next one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vecap_tasks.core.manifest import FileEntry, ShardResult, digest, seal, unseal
from vecap_tasks.core.object_storage import is_remote
from vecap_tasks.core.store import STAGING, Store
from vecap_tasks.core.temporary import sync
from vecap_tasks.core.verify import RecordedFile, find_differing
from vecap_tasks.errors import CorruptError, PermanentError

RECORD = "export.json"
_UNFINISHED = "_unfinished"  # folder of the receipts
_BEGUN = f"{_UNFINISHED}/{RECORD}"


class Target:
    """The export *identity* in the folder or at the URL *location*, of a dataset whose store is *source*."""

    def __init__(self, location: str, identity: Mapping[str, Any], source: Store) -> None:
        self._identity = dict(identity)
        self.path = None if is_remote(location) else Path(location.removeprefix("file://")).resolve()
        self.location = location.rstrip("/") if self.path is None else str(self.path)
        if self.path is not None:
            _check_folder(self.path)
        root = source.root if source.remote else str(Path(source.root.removeprefix("file://")).resolve())
        if f"{self.location}/".startswith(f"{root}/"):
            raise PermanentError(f"{self.location} is inside the store {root}; choose a folder outside it")
        self._partial = None if self.path is None else self.path.with_name(f"{self.path.name}.unfinished")
        self.store = Store(self.location if self._partial is None else str(self._partial))  # to write to

    @property
    def fingerprint(self) -> str:
        """Return the digest of what is exported, 64 hex digits."""
        return digest(self._identity)

    def open(self) -> dict[str, Any] | None:
        """Return the record of this export if it is complete. Otherwise begin or resume it.

        Raises PermanentError if the folder has other files, or another unfinished export.
        """
        if self.path is not None and self.path.is_dir() and any(self.path.iterdir()):
            record = self._read(Store(self.location), RECORD)
            if record is None or record["export"] != self._identity:
                other = f"has another export ({_describe(record)})" if record else "is not empty"
                raise PermanentError(f"{self.location} {other}; choose another folder, or delete it")
            return record
        store = self.store
        store.remove_abandoned()
        complete, begun = (self._read(store, name) for name in (RECORD, _BEGUN))
        record = complete or begun
        if record is None and (store.files() or any(map(store.tree, store.folders()))):
            raise PermanentError(f"{store.root} is not empty; choose another folder, or delete it")
        if record is not None and record["export"] != self._identity:
            state = "another" if complete else "another unfinished"
            raise PermanentError(
                f"{store.root} has {state} export ({_describe(record)}); repeat its command, or delete the folder"
            )
        if complete is not None:
            self._finish()
            return complete
        if begun is None:
            store.put(_BEGUN, json.dumps(seal({"export": self._identity})).encode())
        return None

    def receipt(self, shard: str) -> ShardResult | None:
        """Return the receipt of a finished *shard*; None if it is not finished or its files differ from it."""
        store, name = self.store, f"{_UNFINISHED}/{shard}.json"
        try:
            result = ShardResult.from_json(store.read(name), f"{store.root}/{name}")
        except FileNotFoundError:
            return None
        files = [RecordedFile(store, entry.path, entry.bytes, entry.sha256, "") for entry in result.files]
        if result.fingerprint != self.fingerprint or find_differing(files, read=not store.remote):
            return None
        return result

    def publish(self, result: ShardResult, work: Path) -> None:
        """Publish the files of a shard, which are in *work*, then its receipt."""
        store = self.store
        for entry in result.files:
            store.upload(entry.path, work / entry.path)
        store.put(f"{_UNFINISHED}/{result.shard}.json", result.to_json())

    def complete(self, files: Mapping[str, bytes], shards: list[FileEntry], body: Mapping[str, Any]) -> dict[str, Any]:
        """Write *files*, and the record of all files with *body*; then move the export to its place."""
        store = self.store
        for name, data in files.items():
            store.put(name, data)
        entries = [*shards, *(_entry(name, data) for name, data in files.items())]
        listed = [asdict(entry) for entry in sorted(entries, key=lambda entry: entry.path)]
        record = {"export": self._identity, **body, "files": listed}
        store.put(RECORD, json.dumps(seal(record), indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n")
        self._finish()
        return record

    def _finish(self) -> None:
        self.store.remove_folder(_UNFINISHED)
        if self.path is None or self._partial is None:
            return
        shutil.rmtree(self._partial / STAGING, ignore_errors=True)
        try:
            self._partial.rename(self.path)  # replaces an empty folder
        except OSError as error:
            raise PermanentError(
                f"cannot move {self._partial} to {self.path}: {error.strerror}; it is complete, move it yourself"
            ) from error
        sync(self.path.parent)

    def _read(self, store: Store, name: str) -> dict[str, Any] | None:
        """Return the record *name*, None if it is missing or not one of this command."""
        try:
            record = unseal(store.read(name), f"{store.root}/{name}")
        except (FileNotFoundError, CorruptError):
            return None
        return record if isinstance(record.get("export"), dict) else None


def _entry(name: str, data: bytes) -> FileEntry:
    return FileEntry(name, len(data), None, hashlib.sha256(data).hexdigest())


def _describe(record: Mapping[str, Any]) -> str:
    export = record["export"]
    return ", ".join(str(export.get(name)) for name in ("dataset", "version", "format", "text"))


def _check_folder(folder: Path) -> None:
    """Raise PermanentError unless *folder* can be created, or replaced if it is empty."""
    if folder.exists() and not folder.is_dir():
        raise PermanentError(f"{folder} is a file; choose a folder")
    if os.path.ismount(folder):
        raise PermanentError(f"{folder} is a mount point, which cannot be replaced; choose a folder in it")
    parent = next(path for path in folder.parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        problem = "is not a folder" if not parent.is_dir() else "is not writable"
        raise PermanentError(f"cannot create {folder}: {parent} {problem}; choose another folder")
