"""The manifest of a stage: outputs, inputs and configuration. Writing it, last, commits the stage."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

from vecap_tasks import __version__
from vecap_tasks.core.store import Store
from vecap_tasks.errors import CorruptError, PermanentError
from vecap_tasks.redaction import redact_all

T = TypeVar("T")
R = TypeVar("R")

FORMAT = 1
NAME = "manifest.json"
RECEIPTS = "_shards"  # folder of a stage
COST_NOTE = "_cost_millionths"  # suffix of notes with a cost, in the currency of the `price` settings
_DIGEST_CHARS = 64
_READERS = 16  # files to read at once
_PARSED = 16  # manifests to keep parsed


def canonical_json(value: Any) -> bytes:
    """Return the canonical JSON of *value* (sorted keys, no spaces, UTF-8)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: Any) -> str:
    """Return the sha256 of the canonical JSON of *value*, 64 hex digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def seal(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return *body* with a digest of itself, which `unseal` checks."""
    return {**body, "seal": digest(body)}


def unseal(data: bytes, where: str, remedy: str = "restore it") -> dict[str, Any]:
    """Parse the sealed JSON *data* and return the body.

    Earlier releases sealed only manifests, so a file without a seal is accepted. Raises CorruptError with the location
    *where* and the *remedy*.
    """
    try:
        body: dict[str, Any] = json.loads(data)
        name = "seal" if "seal" in body else _misspelled_seal(body)
        changed = name is not None and (body.pop(name) != digest(body) or name != "seal")
    except (ValueError, TypeError, AttributeError) as error:
        raise CorruptError(f"{where} is corrupt: {error}; {remedy}") from error
    if changed:
        raise CorruptError(f"{where} is corrupt: it was changed after it was written; {remedy}")
    return body


def _misspelled_seal(body: Mapping[str, Any]) -> str | None:
    """Return the key whose value is the digest of all others: a seal whose name has a changed character."""
    names = (name for name, value in body.items() if isinstance(value, str) and len(value) == _DIGEST_CHARS)
    return next((n for n in names if digest({k: v for k, v in body.items() if k != n}) == body[n]), None)


def fingerprint(
    stage: str,
    revision: int,
    dataset: str,
    interval: str,
    identity: Mapping[str, Any],
    upstream: Mapping[str, str],
) -> str:
    """Return the sha256 over everything that decides a stage's output bytes, 64 hex digits."""
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
    """One file of a stage. `path` is relative to the stage's folder; `rows` is None if the file has no rows."""

    path: str
    bytes: int
    rows: int | None
    sha256: str

    @classmethod
    def from_file(cls, folder: Path, path: str, rows: int | None) -> FileEntry:
        """Return the entry of the file *path* in the local *folder*. Raises FileNotFoundError."""
        with (folder / path).open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        return cls(path, (folder / path).stat().st_size, rows, sha256)

    def exists_in(self, store: Store, folder: str) -> bool:
        """Return whether *folder* of the store holds this file with the same content."""
        name = f"{folder}/{self.path}"
        try:
            return store.size(name) == self.bytes and store.sha256(name) == self.sha256
        except FileNotFoundError:
            return False


@dataclass(frozen=True, slots=True)
class ShardOutput:
    """The files that a shard, or the end of a stage, wrote to its work folder: name to rows (None if it has no rows).

    `counters` are summed over shards into the manifest. `attachments` are files outside the digest. `notes`
    are counters about the execution, such as reused captions; they go to the manifest's provenance.
    """

    files: Mapping[str, int | None]
    counters: Mapping[str, int] = field(default_factory=dict)
    attachments: tuple[str, ...] = ()
    notes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ShardResult:
    """The receipt of a finished shard. `seconds` is wall clock; it and `notes` are not part of any digest."""

    shard: str
    files: tuple[FileEntry, ...]
    counters: dict[str, int]
    seconds: float
    notes: dict[str, int] = field(default_factory=dict)
    fingerprint: str = ""  # of the stage; not in receipts of earlier releases

    def to_json(self) -> bytes:
        return json.dumps(seal(asdict(self)), sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes, where: str) -> ShardResult:
        """Parse a receipt and check its seal. Raises CorruptError naming its location *where*."""
        remedy = "restore it, or delete it to process the shard again"
        body = unseal(data, where, remedy)
        try:
            files = tuple(FileEntry(**item) for item in body.pop("files"))
            return cls(files=files, **body)
        except (KeyError, TypeError) as error:
            raise CorruptError(f"{where} is corrupt: {error}; {remedy}") from error


def finished_shards(store: Store, folder: str) -> set[str]:
    """Return the names of the shards of the stage in *folder* that have a receipt, with one listing."""
    return {name.removesuffix(".json") for name in store.files(f"{folder}/{RECEIPTS}") if name.endswith(".json")}


def read_receipt(store: Store, folder: str, shard: str) -> ShardResult | None:
    """Return the receipt of *shard* of the stage in *folder*, None if it is not finished. Raises CorruptError."""
    name = f"{folder}/{RECEIPTS}/{shard}.json"
    try:
        return ShardResult.from_json(store.read(name), name)
    except FileNotFoundError:
        return None


def read_receipts(store: Store, folder: str) -> list[ShardResult]:
    """Return the receipts of the stage in *folder*, by shard, several at once. Raises CorruptError."""
    found = map_concurrently(partial(read_receipt, store, folder), sorted(finished_shards(store, folder)))
    return [receipt for receipt in found if receipt is not None]


def map_concurrently(read: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Return `read(item)` of each of *items*, in order, sixteen at once: object storage answers in milliseconds."""
    with ThreadPoolExecutor(_READERS, "read") as threads:
        return list(threads.map(read, items))


def check_fingerprints(folder: str, results: Iterable[ShardResult], fingerprint: str) -> None:
    """Raise CorruptError if a shard of the stage in *folder* was made with another model or prompt."""
    for result in results:
        if result.fingerprint not in ("", fingerprint):
            receipt = f"{folder}/{RECEIPTS}/{result.shard}.json"
            raise CorruptError(
                f"{receipt}: the shard was made with another model or prompt; delete it and run the same command again"
            )


def publish(store: Store, folder: str, files: Mapping[str, int | None], work: Path) -> tuple[FileEntry, ...]:
    """Upload *files* (name to rows) of *work* to *folder* and return their entries."""
    entries = [FileEntry.from_file(work, name, rows) for name, rows in sorted(files.items())]
    for entry in entries:
        # A killed or concurrent run may have written it already; published files are written once.
        if not entry.exists_in(store, folder):
            store.upload(f"{folder}/{entry.path}", work / entry.path)
    return tuple(entries)


def provenance(
    config: Mapping[str, Any], results: Sequence[ShardResult], notes: Mapping[str, int], started: float | None
) -> dict[str, Any]:
    """Return when, by which code and with which *config* a stage was run.

    *notes* are those of its end. *started* is the start of its first run, in seconds since the epoch, if known.
    """
    begun = {} if started is None else {"started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds")}
    return begun | {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "vecap": __version__,
        "code": code_version(),
        "seconds": round(sum(result.seconds for result in results), 3),
        "notes": total([*(result.notes for result in results), notes]),
        "config": redact_all(config),
    }


def total(sources: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the sums of *sources* by name."""
    counters: dict[str, int] = {}
    for source in sources:
        for name, count in source.items():
            counters[name] = counters.get(name, 0) + count
    return counters


@dataclass(frozen=True, slots=True)
class Input:
    """An input of the stage; `digest` is a sha256. `kind` is stage, source, version, model, prompt or dataset; the
    digest of an earlier version is that of its crawl."""

    kind: str
    name: str
    digest: str
    bytes: int | None = None


@dataclass(frozen=True)  # without slots, for its cached properties
class Manifest:
    """The record of one stage of one version. Immutable: a process parses it once and shares it."""

    dataset: str
    interval: str
    stage: str
    fingerprint: str
    config: dict[str, Any]
    inputs: tuple[Input, ...]
    files: tuple[FileEntry, ...]
    counters: dict[str, int]
    # Files with timestamps in their bytes, such as report pages, or that repeat columns of the files, such as the
    # crawl's index: checked by `verify`, not part of the digest.
    attachments: tuple[FileEntry, ...] = ()
    # Folder of the store that holds the files; another version's if its stage was reused.
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

    @cached_property
    def digest(self) -> str:
        """sha256 of the content, 64 hex digits."""
        return digest(self.content)

    @cached_property
    def entries(self) -> dict[str, FileEntry]:
        """The files and attachments, by path."""
        return {entry.path: entry for entry in (*self.files, *self.attachments)}

    def file(self, path: str) -> str:
        """Return the name in the store of this stage's file *path*. Raises KeyError if it is not listed."""
        if path not in self.entries:
            raise KeyError(path)
        return f"{self.location}/{path}"

    def files_ending(self, suffix: str) -> list[str]:
        """Return the names in the store of the files that end with *suffix*, in the manifest's order."""
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
        """Parse a manifest and check its seal and digest. Raises CorruptError naming its location *where*."""
        try:
            body = json.loads(data)
            seal = body.pop("seal")
            content = body["content"]
            if digest(body) != seal or digest(content) != body["digest"]:
                raise CorruptError(f"{where} was changed after it was written; restore it, or run the stage again")
            if content["format"] != FORMAT:
                raise PermanentError(
                    f"{where} has format {content['format']}, but this release reads format {FORMAT}; update vecap"
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
            raise CorruptError(f"{where} is not a manifest: {error}; restore it, or run the stage again") from error


def read_manifest(store: Store, folder: str) -> Manifest | None:
    """Return the manifest in *folder* of the store, or None if it does not exist. Raises CorruptError.

    The file is read on every call, and parsed and checked once per process unless its content changes.
    """
    name = f"{folder}/{NAME}"
    try:
        data = store.read(name)
    except FileNotFoundError:
        return None
    return _parse(data, name)


@lru_cache(maxsize=_PARSED)
def _parse(data: bytes, where: str) -> Manifest:
    return Manifest.from_json(data, where)


@lru_cache(maxsize=1)
def code_version() -> str:
    """Return the commit of this code: `VECAP_CODE_VERSION` in an image, else that of the checkout, else `unknown`."""
    image_version = os.environ.get("VECAP_CODE_VERSION")
    if image_version:
        return image_version
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # installed; git would find an enclosing repository
        return "unknown"
    try:
        process = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return process.stdout.strip() or "unknown"
