"""Dataset versions: one per crawl interval, and a revision for every other configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from vecap_tasks.config.recorded import with_current_names
from vecap_tasks.core.manifest import Manifest, map_concurrently, read_manifest, seal, unseal
from vecap_tasks.core.store import Store
from vecap_tasks.errors import ConfigError, CorruptError, PermanentError

DATASET_STAGES = ("crawl", "quality", "rewrite", "assemble")
UNCAPTIONED_STAGES = DATASET_STAGES[:2]  # of a configuration without the section `rewrite`
_FILE = "version.json"
_NOTES = "_notes"  # folder of a dataset; intervals never start with _
_INTERVAL = re.compile(r"^[A-Za-z0-9](?:[A-Za-z0-9_.+:]|-(?!r\d+$))*$")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:T[0-9]{2}(?::[0-9]{2}(?::[0-9]{2})?)?)?")
_NAME = re.compile(r"^(?P<interval>.+?)(?:-r(?P<revision>\d+))?$")


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a dataset. `revision` counts from 1."""

    dataset: str
    interval: str
    revision: int
    fingerprint: str

    @property
    def name(self) -> str:
        return self.interval if self.revision == 1 else f"{self.interval}-r{self.revision}"

    @property
    def folder(self) -> str:
        return f"{self.dataset}/{self.name}"


@dataclass(frozen=True, slots=True)
class Deletion:
    """The deletion of a version: `when` in ISO format (UTC), `digest` of the published content, None if unpublished."""

    when: str
    why: str
    digest: str | None


def interval_of(name: str) -> str:
    """Return the interval of a version's *name*: `2026-01-01` for `2026-01-01-r2`. Raises ConfigError.

    Earlier releases accepted any name as an interval; `check_interval` checks new ones.
    """
    match = _NAME.match(name)
    interval = match.group("interval") if match else ""
    if not _INTERVAL.match(interval):
        raise ConfigError(f"invalid version name {name!r}; use a date, such as 2026-01-01")
    return interval


def check_interval(interval: str) -> None:
    """Raise ConfigError unless *interval* is a real date or time, such as `2026-01-01` or `2026-01-01T05:00:00`."""
    try:
        if not _DATE.fullmatch(interval):
            raise ValueError
        datetime.fromisoformat(interval)
    except ValueError:
        raise ConfigError(
            f"{interval} is not a date; name an interval by its first day or hour, such as 2026-01-01 or 2026-01-01T05"
        ) from None


def register(store: Store, dataset: str, interval: str, fingerprint: str, config: dict[str, Any]) -> Version:
    """Return the version of *interval* with *fingerprint*; register the next revision if it is new.

    If two processes register at once, one wins and the other finds it or takes the next number. Numbers of deleted
    versions are not reused.
    """
    while True:
        entries = _entries(store, dataset, interval)
        for entry in entries:
            if entry.version.fingerprint == fingerprint and entry.deletion is None:
                return entry.version
        version = Version(dataset, interval, max((e.version.revision for e in entries), default=0) + 1, fingerprint)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        if store.create(f"{version.folder}/{_FILE}", _json(asdict(version) | {"config": config, "created": created})):
            return version


def read_version(store: Store, dataset: str, name: str) -> Version:
    """Return the registered version *name*. Raises VecapError if it does not exist or was deleted."""
    entry = _entry(store, dataset, name)
    if entry is None:
        known = ", ".join(version.name for version in list_versions(store, dataset)) or "none"
        raise PermanentError(f"dataset {dataset} has no version {name}; its versions are: {known}")
    if entry.deletion is not None:
        raise PermanentError(
            f"version {name} was deleted on {entry.deletion.when[:10]}: {entry.deletion.why}; run `vecap run` to "
            "create it again"
        )
    return entry.version


def read_config(store: Store, version: Version) -> dict[str, Any]:
    """Return the configuration that identifies *version* and decides its content. Raises CorruptError."""
    try:
        config: dict[str, Any] = _read(store, f"{version.folder}/{_FILE}")["config"]
    except (KeyError, TypeError) as error:
        raise CorruptError(f"{version.folder}/{_FILE} is corrupt: {error}; restore it") from error
    return config


def recorded_images(store: Store, version: Version) -> dict[str, str] | None:
    """Return the earlier `version` whose image shards *version* may refer to, and the `digest` of its manifest.

    None if it has its own images. It is decided when *version* is registered.
    """
    try:
        images: dict[str, str] | None = read_config(store, version).get("assemble", {}).get("images")
    except FileNotFoundError:
        return None
    return images


def read_created(store: Store, version: Version) -> str | None:
    """Return when *version* was registered, in UTC (ISO 8601); None for versions of release 0.1.0."""
    return _read(store, f"{version.folder}/{_FILE}").get("created")


def write_note(store: Store, version: Version, text: str) -> None:
    """Record *text* as the note of *version*, which replaces an earlier one; "" removes it."""
    name = f"{version.dataset}/{_NOTES}/{version.name}.json"
    if text:
        store.put(name, _json({"note": text}))
    else:
        store.remove(name)


def read_note(store: Store, version: Version) -> str:
    """Return the note of *version*, "" if it has none. Raises CorruptError."""
    name = f"{version.dataset}/{_NOTES}/{version.name}.json"
    try:
        return str(_read(store, name)["note"])
    except FileNotFoundError:
        return ""
    except KeyError as error:
        raise CorruptError(f"{name} is corrupt: it has no {error}; write the note again") from error


def list_versions(store: Store, dataset: str, interval: str | None = None) -> list[Version]:
    """Return the registered versions by interval and revision, published or not, without deleted ones."""
    versions = [entry.version for entry in _entries(store, dataset, interval) if entry.deletion is None]
    return sorted(versions, key=lambda version: (version.interval, version.revision))


def deleted_versions(store: Store, dataset: str) -> list[tuple[Version, Deletion]]:
    """Return the versions with a tombstone, by name, whether or not their files are deleted yet."""
    found = [(entry.version, entry.deletion) for entry in _entries(store, dataset) if entry.deletion is not None]
    return sorted(found, key=lambda pair: (pair[0].interval, pair[0].revision))


def is_deleted(store: Store, dataset: str, name: str) -> bool:
    """Return whether version *name* has a tombstone."""
    entry = _entry(store, dataset, name)
    return entry is not None and entry.deletion is not None


def tombstone(store: Store, version: Version, deletion: Deletion) -> None:
    """Set the tombstone: from now on readers do not find *version*, and other versions do not reuse its stages.

    Raises FileNotFoundError if the version does not exist.
    """
    body = _read(store, f"{version.folder}/{_FILE}")
    store.put(f"{version.folder}/{_FILE}", _json(body | {"deleted": asdict(deletion)}))


def restore(store: Store, version: Version) -> None:
    """Remove the tombstone of *version*, whose files must all exist."""
    body = _read(store, f"{version.folder}/{_FILE}")
    body.pop("deleted", None)
    store.put(f"{version.folder}/{_FILE}", _json(body))


def purge(store: Store, version: Version) -> None:
    """Remove the record of *version*, which was never published; its name can be reused."""
    store.remove(f"{version.folder}/{_FILE}")


def published(store: Store, version: Version) -> Manifest | None:
    """Return the manifest that publishes *version*, or None if it is unpublished."""
    return read_manifest(store, f"{version.folder}/assemble")


def finished(store: Store, version: Version) -> Manifest | None:
    """Return the manifest of the last dataset stage of *version*, or None if it is not committed.

    A version without captions, whose configuration has no section `rewrite`, ends with `quality` and is not published.
    """
    manifest = published(store, version)
    if manifest is not None or "rewrite" in read_config(store, version):
        return manifest
    return read_manifest(store, f"{version.folder}/{UNCAPTIONED_STAGES[-1]}")


def newer_revision(store: Store, version: Version) -> Version | None:
    """Return the newest published revision after *version*, else the newest after it, None if it is the newest."""
    versions = list_versions(store, version.dataset, version.interval)
    newer = [other for other in reversed(versions) if other.revision > version.revision]
    return next((other for other in newer if published(store, other) is not None), newer[0] if newer else None)


def how_to_finish(store: Store, version: Version, command: str) -> str:
    """Return what to do if *version* lacks what the `vecap` subcommand *command* writes: finish or use a revision."""
    newer = newer_revision(store, version)
    if newer is None:
        return f"run `vecap {command} --version {version.name}` first"
    if published(store, newer) is not None:
        return f"use its newer revision {newer.name}, which is published"
    return f"finish its newer revision with `vecap run --version {newer.name}`, and use that"


@dataclass(frozen=True, slots=True)
class _Entry:
    version: Version
    deletion: Deletion | None


def _entries(store: Store, dataset: str, interval: str | None = None) -> list[_Entry]:
    """Return the registered entries of one *interval* or of all; reads only their files."""
    names = store.folders(dataset)
    if interval is not None:
        names = [name for name in names if name == interval or name.startswith(f"{interval}-r")]
    found = [entry for entry in map_concurrently(partial(_entry, store, dataset), names) if entry is not None]
    return [entry for entry in found if interval in (None, entry.version.interval)]


def _entry(store: Store, dataset: str, name: str) -> _Entry | None:
    path = f"{dataset}/{name}/{_FILE}"
    try:
        body = _read(store, path)
        version = Version(body["dataset"], body["interval"], body["revision"], body["fingerprint"])
        deletion = Deletion(**body["deleted"]) if "deleted" in body else None
    except FileNotFoundError:
        return None
    except (KeyError, TypeError) as error:
        raise CorruptError(f"{path} is corrupt: {error}; restore it") from error
    if version.name != name:
        raise CorruptError(f"{path} belongs to version {version.name}; restore it")
    return _Entry(version, deletion)


def _read(store: Store, path: str) -> dict[str, Any]:
    return unseal(store.read(path), path)


def _json(body: dict[str, Any]) -> bytes:
    return json.dumps(seal(body), indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


_DIGEST = re.compile(r"[0-9a-f]{16,}")


@dataclass(frozen=True, slots=True)
class Change:
    """One setting that differs; None if a version does not have it."""

    key: str
    a: Any
    b: Any

    def __str__(self) -> str:
        return f"{self.key} {_short(self.a)} -> {_short(self.b)}"


def changed_settings(store: Store, a: Version, b: Version) -> tuple[Change, ...]:
    """Return the settings that decide the content and differ between *a* and *b*, including digests, by key.

    Where the images are is not a setting.
    """
    before, after = (dict(_flat(with_current_names(read_config(store, version)))) for version in (a, b))
    keys = sorted(key for key in before.keys() | after.keys() if not key.startswith("assemble.images."))
    return tuple(Change(key, before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key))


def _short(value: Any) -> str:
    """Return the representation of *value*; digests are shortened."""
    return repr(value[:12]) if isinstance(value, str) and _DIGEST.fullmatch(value) else repr(value)


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, value


_MAX_CHANGES = 6  # settings in a status line


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """`digest` is that of the last dataset stage, None if it is not committed. `has_work` is False for a new version.
    `previous` is the preceding revision, None for the first, and `changes` are the settings that differ from it."""

    version: Version
    digest: str | None
    has_work: bool
    previous: Version | None
    changes: tuple[Change, ...]

    def __str__(self) -> str:
        name = self.version.name
        if self.digest is not None:
            state = f"version {name} ({self.digest[:12]}) is already complete; nothing to do"
        else:
            state = f"{'resuming' if self.has_work else 'created'} version {name} (unpublished)"
        if self.previous is None:
            return state
        changes = "; ".join(str(change) for change in self.changes[:_MAX_CHANGES])
        more = f"; and {len(self.changes) - _MAX_CHANGES} more" if len(self.changes) > _MAX_CHANGES else ""
        return f"{state}; revision of {self.previous.name}: {changes}{more}"


def version_status(store: Store, version: Version) -> VersionStatus:
    """Return the status of the registered *version*. Raises CorruptError."""
    manifest = finished(store, version)
    earlier = [v for v in list_versions(store, version.dataset, version.interval) if v.revision < version.revision]
    complete = [v for v in earlier if published(store, v) is not None]
    previous = next(reversed(complete or earlier), None)
    changes = changed_settings(store, previous, version) if previous is not None else ()
    digest = manifest.digest if manifest else None
    return VersionStatus(version, digest, bool(store.folders(version.folder)), previous, changes)
