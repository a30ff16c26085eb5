"""What a version holds and what it took, from its manifests, and the differences between two versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import duckdb

from vecap_tasks.core.manifest import COST_NOTE, Manifest, total
from vecap_tasks.core.schemas import SAMPLES
from vecap_tasks.core.stage_records import StageSummary, read_summary
from vecap_tasks.core.store import Store
from vecap_tasks.core.tables import connect, create_view
from vecap_tasks.core.verify import stage_folders
from vecap_tasks.core.version import (
    DATASET_STAGES,
    Change,
    Version,
    changed_settings,
    finished,
    how_to_finish,
    published,
    read_created,
    read_note,
)
from vecap_tasks.errors import CorruptError, VecapError

_FUNNEL = (
    ("crawl", "candidates"),
    ("crawl", "success"),
    ("quality", "accepted"),
    ("rewrite", "captioned"),
    ("assemble", "samples"),
)
_ROLES = ("vlm", "llm")  # of models whose tokens are in the notes
TEXTS = {"alttext": "AltText", "vec": "VeC", "vecap": "VeCap"}
# Counters of manifests that are grouped by name: stage, prefix of the counters, label.
_COUNTED = (
    ("crawl", "error.", "download"),
    ("quality", "reason.", "rejected"),
    ("quality", "alttext.", "AltText"),
    ("rewrite", "vecap_from.", "VeCap from"),
    ("rewrite", "problem.", "screening"),
)


@dataclass(frozen=True, slots=True)
class Summary:
    """Rows after each stage; 0 if a stage has not run. `warnings` is the count of the quality gate. `digest` is that
    of the published content, None if the version is unpublished."""

    version: str
    interval: str
    revision: int
    crawled: int
    downloaded: int
    accepted: int
    captioned: int
    assembled: int
    warnings: int
    digest: str | None


def summarize(store: Store, version: Version) -> Summary:
    """Return the row counts of *version* from the summaries of its stages. Raises CorruptError."""
    return summarize_stages(
        version, {stage: read_summary(store, f"{version.folder}/{stage}") for stage in DATASET_STAGES}
    )


def summarize_stages(version: Version, stages: Mapping[str, StageSummary | None]) -> Summary:
    """Return the row counts of *version* from the summaries of its *stages*, by name; None if not committed."""
    crawled, downloaded, accepted, captioned, assembled = (_count(stages[stage], counter) for stage, counter in _FUNNEL)
    published, quality = stages["assemble"], stages["quality"]
    return Summary(
        version=version.name,
        interval=version.interval,
        revision=version.revision,
        crawled=crawled,
        downloaded=downloaded,
        accepted=accepted,
        captioned=captioned,
        assembled=assembled,
        warnings=quality.notes.get("warnings", 0) if quality else 0,
        digest=published.digest if published else None,
    )


def _count(stage: StageSummary | None, counter: str) -> int:
    return stage.counters.get(counter, 0) if stage else 0


@dataclass(frozen=True, slots=True)
class Listing:
    """What the list of versions says about one of them.

    `state` is published, complete (without captions), rejected (by the quality gate), unfinished or corrupt. `created`
    is the time in UTC, ISO 8601. `bytes`, `seconds`, tokens and `cost` are those of the version's own files: without
    stages that it shares with an earlier version. `seconds` is the processing time of all shards and trainings; `cost`
    is in the currency of `price` settings, None if none is set. `note` is the user's, and `error` why the version
    cannot be read, each "" if there is none. `changes` are the settings that differ from the preceding revision.
    """

    summary: Summary
    state: str
    created: str | None = None
    bytes: int = 0
    seconds: float = 0.0
    prompt_tokens: int = 0
    tokens: int = 0
    cost: float | None = None
    trained: bool = False
    note: str = ""
    changes: tuple[Change, ...] = ()
    error: str = ""


def list_entry(store: Store, version: Version, previous: Version | None) -> Listing:
    """Return the listing of *version* from the summaries of its stages.

    *previous* is the preceding revision of the interval.
    """
    try:
        found = {folder: read_summary(store, folder) for folder in stage_folders(store, version)}
        summary = summarize_stages(version, {stage: found[f"{version.folder}/{stage}"] for stage in DATASET_STAGES})
        own = [stage for folder, stage in found.items() if stage is not None and stage.location == folder]
        notes = total(stage.notes for stage in own)
        costs = [count for name, count in notes.items() if name.endswith(COST_NOTE)]
        return Listing(
            summary=summary,
            state=_state(store, version, summary),
            created=read_created(store, version) or min((stage.created for stage in own), default=None),
            bytes=sum(stage.bytes for stage in own),
            seconds=round(sum(stage.seconds for stage in own), 3),
            prompt_tokens=sum(notes.get(f"{role}_prompt_tokens", 0) for role in _ROLES),
            tokens=sum(notes.get(f"{role}_tokens", 0) for role in _ROLES),
            cost=sum(costs) / 1e6 if costs else None,
            trained=any(stage is not None and stage.stage == "train" for stage in found.values()),
            note=read_note(store, version),
            changes=changed_settings(store, previous, version) if previous is not None else (),
        )
    except CorruptError as error:
        empty = Summary(version.name, version.interval, version.revision, 0, 0, 0, 0, 0, 0, None)
        return Listing(empty, "corrupt", error=str(error))


def _state(store: Store, version: Version, summary: Summary) -> str:
    if summary.digest is not None:
        return "published"
    if finished(store, version) is not None:
        return "complete"
    has_report = store.exists(f"{version.folder}/quality/report/findings.json")
    return "rejected" if has_report and read_summary(store, f"{version.folder}/quality") is None else "unfinished"


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths in characters of one kind of text, over the samples that have it."""

    text: str
    mean_a: float
    mean_b: float
    median_a: float
    median_b: float

    @property
    def title(self) -> str:
        return TEXTS[self.text]


@dataclass(frozen=True, slots=True)
class Count:
    """A counter of both versions, such as the rows rejected for one reason."""

    what: str
    name: str
    a: int
    b: int


@dataclass(frozen=True, slots=True)
class Diff:
    """Samples match by uid. Of the samples in both, `redescribed` have a changed VeC, `recaptioned` a changed VeCap."""

    a: Summary
    b: Summary
    added: int
    gone: int
    kept: int
    redescribed: int
    recaptioned: int
    lengths: tuple[Lengths, ...]
    counts: tuple[Count, ...]
    settings: tuple[Change, ...]


def diff(store: Store, a: Version, b: Version) -> Diff:
    """Compare two versions of a dataset. Raises VecapError if one is not published."""
    manifests = [_published(store, version) for version in (a, b)]
    with connect(store) as connection:
        for name, manifest in zip("ab", manifests, strict=True):
            create_view(connection, store, name, manifest.files_ending(".parquet"), SAMPLES)
        row = connection.execute(
            """
            SELECT count(*) FILTER (a.uid IS NULL), count(*) FILTER (b.uid IS NULL), count(*) FILTER (a.uid = b.uid),
                count(*) FILTER (a.uid = b.uid AND a.vec <> b.vec),
                count(*) FILTER (a.uid = b.uid AND a.vecap <> b.vecap)
            FROM a FULL JOIN b ON a.uid = b.uid
            """
        ).fetchall()[0]
        lengths = tuple(_lengths(connection, text) for text in TEXTS)
    added, gone, kept, redescribed, recaptioned = row
    return Diff(
        a=summarize(store, a),
        b=summarize(store, b),
        added=added,
        gone=gone,
        kept=kept,
        redescribed=redescribed,
        recaptioned=recaptioned,
        lengths=lengths,
        counts=_counts(store, a, b),
        settings=changed_settings(store, a, b),
    )


def _published(store: Store, version: Version) -> Manifest:
    manifest = published(store, version)
    if manifest is None:
        raise VecapError(f"version {version.name} is not published; {how_to_finish(store, version, 'run')}")
    return manifest


def _lengths(connection: duckdb.DuckDBPyConnection, text: str) -> Lengths:
    found = [
        connection.execute(
            f"SELECT coalesce(avg(length({text})), 0), coalesce(median(length({text})), 0) FROM {view} "  # noqa: S608
            f"WHERE {text} <> ''"
        ).fetchall()[0]
        for view in "ab"
    ]
    (mean_a, median_a), (mean_b, median_b) = found
    return Lengths(text, round(mean_a, 1), round(mean_b, 1), float(median_a), float(median_b))


def _counts(store: Store, a: Version, b: Version) -> tuple[Count, ...]:
    counts = []
    for stage, prefix, what in _COUNTED:
        before, after = (_counters(store, version, stage, prefix) for version in (a, b))
        counts += [
            Count(what, name, before.get(name, 0), after.get(name, 0)) for name in sorted(before.keys() | after.keys())
        ]
    return tuple(counts)


def _counters(store: Store, version: Version, stage: str, prefix: str) -> dict[str, int]:
    summary = read_summary(store, f"{version.folder}/{stage}")
    counters = summary.counters if summary else {}
    return {name.removeprefix(prefix): count for name, count in counters.items() if name.startswith(prefix)}


def format_diff(found: Diff) -> str:
    """Return the comparison as text; counters that are equal in both are omitted."""
    a, b = found.a, found.b
    lines = [
        f"{a.version} -> {b.version}",
        f"  samples      {a.assembled:,} -> {b.assembled:,}: {found.added:,} added, {found.gone:,} removed, "
        f"{found.kept:,} retained",
        f"  captions     {found.redescribed:,} VeC and {found.recaptioned:,} VeCap changed in retained samples",
        f"  accepted     {a.accepted:,} of {a.crawled:,} crawled rows ({_share(a)}) -> "
        f"{b.accepted:,} of {b.crawled:,} ({_share(b)})",
    ]
    lines += [
        f"  {count.what:<12} {count.name} {count.a:,} -> {count.b:,}" for count in found.counts if count.a != count.b
    ]
    lines += [
        f"  {lengths.title:<12} mean {lengths.mean_a} -> {lengths.mean_b} characters, "
        f"median {lengths.median_a:g} -> {lengths.median_b:g}"
        for lengths in found.lengths
    ]
    lines += [f"  setting      {change}" for change in found.settings] or ["  settings     unchanged"]
    return "\n".join(lines)


def _share(summary: Summary) -> str:
    return f"{summary.accepted / summary.crawled:.1%}" if summary.crawled else "none"
