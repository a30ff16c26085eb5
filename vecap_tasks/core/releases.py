"""Releases: rejected rows that a user accepts, recorded with a note in append-only entries.

{dataset}/_releases/{interval}/000001.json, 000002.json …  one entry each; a version uses those that existed before it
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from vecap_tasks.core.manifest import canonical_json
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import Version, read_config
from vecap_tasks.errors import CorruptError

FOLDER = "_releases"  # intervals never start with _
CONFIG = "releases"  # key in `version.json`: number of entries that apply to the version
Action = Literal["release", "withdraw"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One decision: waive all reasons for these uids, or one *reason* for all rows of the interval.

    `version` is the version that the user inspected, `at` the time in UTC, ISO 8601.
    """

    action: Action
    interval: str
    version: str
    uids: tuple[str, ...]
    reason: str | None
    note: str
    by: str
    at: str


@dataclass(frozen=True, slots=True)
class Released:
    """The combined effect of entries: uids with all reasons waived, and reasons waived for every row; sorted."""

    uids: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.uids or self.reasons)


@dataclass(frozen=True, slots=True)
class ReleasePreview:
    """What a release changes in the next run of the interval, with the same crawl and rules.

    `rows` counts the rejected rows that it covers, and `added` those that become accepted. `already` counts rows that
    earlier releases accept without it. `others` counts the remaining rows by the reasons that still reject them.
    """

    subject: str
    rows: int
    added: int
    already: int
    others: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        text = f"releasing {self.subject} adds {self.added:,} row{'' if self.added == 1 else 's'}"
        return f"{text}: {self.explanation}" if self.explanation else text

    @property
    def explanation(self) -> str:
        """Why rows are not added, "" if all are."""
        notes = [f"earlier releases accept {self.already:,} of them"] if self.already else []
        remaining = self.rows - self.added - self.already
        if remaining:
            names = ", ".join(name if count == remaining else f"{name} ({count:,})" for name, count in self.others)
            every = "all " if remaining == self.rows else ""
            some = "it is" if self.rows == 1 else "1 is" if remaining == 1 else f"{every}{remaining:,} are"
            notes.append(f"{some} also rejected for {names}")
        return "; ".join(notes)


def count_releases(store: Store, dataset: str, interval: str) -> int:
    """Return how many entries the interval has."""
    return len(store.files(f"{dataset}/{FOLDER}/{interval}"))


def read_releases(store: Store, dataset: str, interval: str, count: int | None = None) -> list[Entry]:
    """Return the first *count* entries of the interval, by default all. Raises CorruptError for a corrupt entry."""
    folder = f"{dataset}/{FOLDER}/{interval}"
    entries = []
    for name in store.files(folder)[:count]:
        try:
            body = json.loads(store.read(f"{folder}/{name}"))
            entries.append(Entry(**body | {"uids": tuple(body["uids"])}))
        except (ValueError, TypeError, KeyError) as error:
            raise CorruptError(f"{folder}/{name} is corrupt: {error}; restore it") from error
    if count is not None and len(entries) < count:
        raise CorruptError(f"{folder} has {len(entries)} entries, but a version uses {count}; restore them")
    return entries


def releases_of(store: Store, version: Version) -> list[Entry]:
    """Return the entries that apply to *version*; all of its interval if it is not registered."""
    count = None
    if version.revision > 0:
        try:
            count = int(read_config(store, version).get(CONFIG, 0))
        except FileNotFoundError:
            count = 0
    return read_releases(store, version.dataset, version.interval, count)


def add_release(store: Store, dataset: str, entry: Entry) -> str:
    """Append *entry* and return its name in the store. Concurrent calls get different numbers."""
    folder = f"{dataset}/{FOLDER}/{entry.interval}"
    data = json.dumps(asdict(entry), indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"
    number = count_releases(store, dataset, entry.interval)
    while True:
        number += 1
        name = f"{folder}/{number:06d}.json"
        if store.create(name, data):
            return name


def active(entries: Sequence[Entry]) -> Released:
    """Return the combined effect of *entries*, in order."""
    uids: set[str] = set()
    reasons: set[str] = set()
    for entry in entries:
        named = {entry.reason} if entry.reason is not None else set()
        if entry.action == "release":
            uids |= set(entry.uids)
            reasons |= named
        else:
            uids -= set(entry.uids)
            reasons -= named
    return Released(tuple(sorted(uids)), tuple(sorted(reasons)))


def entry_bytes(entry: Entry) -> bytes:
    """Return the canonical JSON of *entry*, for a digest."""

    return canonical_json(asdict(entry))
