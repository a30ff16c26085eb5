"""The manifest: what a stage made, from what, under which configuration. Written last, it makes the stage real."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from vecap_tasks.core.store import Store
from vecap_tasks.errors import CorruptError, PermanentError

FORMAT = 1
NAME = "manifest.json"


def canonical(value: Any) -> bytes:
    """Return the one JSON spelling of *value* (sorted keys, no spaces, UTF-8)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: Any) -> str:
    """Return the sha256 of the canonical JSON of *value*, 64 hex digits."""
    return hashlib.sha256(canonical(value)).hexdigest()


def fingerprint(
    stage: str,
    revision: int,
    dataset: str,
    interval: str,
    identity: Mapping[str, Any],
    upstream: Mapping[str, str],
) -> str:
    """Return what a stage is bound to: a sha256 over what decides its bytes, 64 hex digits."""
    return digest(
        {
            "stage": stage,
            "revision": revision,
            "dataset": dataset,
            "interval": interval,
            "config": identity,
            "upstream": upstream,
        }
    )


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a stage. `path` is relative to the stage's folder; `rows` is None where rows mean nothing."""

    path: str
    bytes: int
    rows: int | None
    sha256: str

    @classmethod
    def of(cls, folder: Path, path: str, rows: int | None) -> FileEntry:
        """Return the entry of the file *path* in the local *folder*. Raises FileNotFoundError."""
        with (folder / path).open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        return cls(path, (folder / path).stat().st_size, rows, sha256)

    def lies_in(self, store: Store, folder: str) -> bool:
        """Say whether *folder* of the store has the very file."""
        name = f"{folder}/{self.path}"
        try:
            return store.size(name) == self.bytes and store.sha256(name) == self.sha256
        except FileNotFoundError:
            return False


@dataclass(frozen=True, slots=True)
class ShardOutput:
    """What a shard, or the end of a stage, left in its work folder: file name to rows (None where rows mean nothing).

    `counters` are added up over shards into the manifest. `attachments` are files whose bytes carry times. `notes`
    are counters of how it was done, such as what was found ready-made: they go to the manifest's provenance.
    """

    files: Mapping[str, int | None]
    counters: Mapping[str, int] = field(default_factory=dict)
    attachments: tuple[str, ...] = ()
    notes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ShardResult:
    """The receipt of one finished shard. `seconds` is wall clock; it and `notes` enter no digest."""

    shard: str
    files: tuple[FileEntry, ...]
    counters: dict[str, int]
    seconds: float
    notes: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: bytes) -> ShardResult:
        body = json.loads(data)
        files = tuple(FileEntry(**item) for item in body["files"])
        return cls(body["shard"], files, body["counters"], body["seconds"], body["notes"])


@dataclass(frozen=True, slots=True)
class Input:
    """Something that the stage read; `digest` is a sha256. `kind` is stage, source, version, model, prompt or dataset;
    the digest of an earlier version is that of its crawl."""

    kind: str
    name: str
    digest: str
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one stage of one version made."""

    dataset: str
    interval: str
    stage: str
    fingerprint: str
    config: dict[str, Any]
    inputs: tuple[Input, ...]
    files: tuple[FileEntry, ...]
    counters: dict[str, int]
    # Files whose bytes carry times, such as a report's pages: checked by `verify`, not part of the digest.
    attachments: tuple[FileEntry, ...] = ()
    # Folder of the store that holds the files: another version's, where that one made the very same.
    location: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "dataset": self.dataset,
            "interval": self.interval,
            "stage": self.stage,
            "fingerprint": self.fingerprint,
            "config": self.config,
            "inputs": [asdict(item) for item in self.inputs],
            "files": [asdict(item) for item in self.files],
            "counters": dict(sorted(self.counters.items())),
        }

    @property
    def digest(self) -> str:
        """sha256 of the content, 64 hex digits."""
        return digest(self.content)

    def file(self, path: str) -> str:
        """Return where the store has this stage's file *path*. Raises KeyError for one that is not listed."""
        if not any(entry.path == path for entry in (*self.files, *self.attachments)):
            raise KeyError(path)
        return f"{self.location}/{path}"

    def files_ending(self, suffix: str) -> list[str]:
        """Return where the store has the files that end with *suffix*, in the manifest's order."""
        return [f"{self.location}/{entry.path}" for entry in self.files if entry.path.endswith(suffix)]

    def to_json(self) -> bytes:
        body: dict[str, Any] = {
            "content": self.content,
            "digest": self.digest,
            "location": self.location,
            "attachments": [asdict(item) for item in self.attachments],
            "provenance": self.provenance,
        }
        body["seal"] = digest(body)
        return json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Manifest:
        """Read a manifest and check its seal and digest. Raises CorruptError naming *where* it lies."""
        try:
            body = json.loads(data)
            seal = body.pop("seal")
            content = body["content"]
            if digest(body) != seal or digest(content) != body["digest"]:
                raise CorruptError(f"{where} was changed after it was written; restore it, or make the stage again")
            if content["format"] != FORMAT:
                raise PermanentError(
                    f"{where} has format {content['format']}, this release reads {FORMAT}; update vecap"
                )
            return cls(
                dataset=content["dataset"],
                interval=content["interval"],
                stage=content["stage"],
                fingerprint=content["fingerprint"],
                config=content["config"],
                inputs=tuple(Input(**item) for item in content["inputs"]),
                files=tuple(FileEntry(**item) for item in content["files"]),
                counters=content["counters"],
                attachments=tuple(FileEntry(**item) for item in body["attachments"]),
                location=body["location"],
                provenance=body["provenance"],
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptError(f"{where} is not a manifest: {error}; restore it, or make the stage again") from error


def read_manifest(store: Store, folder: str) -> Manifest | None:
    """Return the manifest in *folder* of the store, or None where there is none. Raises CorruptError."""
    name = f"{folder}/{NAME}"
    try:
        data = store.read(name)
    except FileNotFoundError:
        return None
    return Manifest.from_json(data, name)


@lru_cache(maxsize=1)
def code_version() -> str:
    """Return the commit that runs: `VECAP_CODE_VERSION` of an image, else the checkout's; `unknown` outside of one."""
    baked = os.environ.get("VECAP_CODE_VERSION")
    if baked:
        return baked
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # installed; git would find the repository of whoever installed it
        return "unknown"
    try:
        asked = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return asked.stdout.strip() or "unknown"


class Attachments:
    """What one run has to attach to the stage in *folder* of the store; its offers lie in *place*."""

    def __init__(self, store: Store, folder: str, place: str) -> None:
        self._store = store
        self._folder = folder
        self._taken = f"{place}/taken"
        self._offer = f"{place}/{uuid.uuid4().hex}"

    def publish(self, names: Sequence[str], work: Path, committed: Callable[[], bool]) -> tuple[FileEntry, ...]:
        """Offer the files *names* of *work*, copy the offer that is taken to the stage, and return its entries.

        *committed* says whether the stage has its manifest by now.
        """
        if not names:
            return ()
        entries = [FileEntry.of(work, name, None) for name in sorted(names)]
        for entry in entries:
            self._store.upload(f"{self._offer}/{entry.path}", work / entry.path)
        body = {"offer": self._offer, "entries": [asdict(entry) for entry in entries]}
        if not self._store.create(self._taken, json.dumps(body).encode()):
            body = json.loads(self._store.read(self._taken))
            entries = [FileEntry(**item) for item in body["entries"]]
        try:
            for entry in entries:
                if not entry.lies_in(self._store, self._folder):
                    self._store.copy(f"{body['offer']}/{entry.path}", f"{self._folder}/{entry.path}")
        except FileNotFoundError:
            if not committed():  # else they lie there, and whose they are has cleared the offer away
                raise
        return tuple(entries)

    def clear(self) -> None:
        """Remove this run's offer, the stage having its manifest."""
        self._store.remove_folder(self._offer)
