"""The quarantine: rejected rows of a version, and releases that waive their reasons."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import duckdb
import pyarrow as pa

from vecap_tasks.core.manifest import Manifest, read_manifest
from vecap_tasks.core.releases import Action, Entry, ReleasePreview, active, add_release, read_releases
from vecap_tasks.core.samples import crawl_tables, hide_columns
from vecap_tasks.core.schemas import CRAWL, VERDICTS
from vecap_tasks.core.stage_records import read_failure, read_plan, read_summary
from vecap_tasks.core.store import Store
from vecap_tasks.core.tables import connect, create_view, files_at, scan
from vecap_tasks.core.version import Version, how_to_finish
from vecap_tasks.errors import VecapError
from vecap_tasks.quality.rules import FINAL, describe_reason

VERDICTS_FOLDER = "verdicts"  # one table per crawl shard
_OLD_FILE = "verdicts.parquet"  # of earlier releases
_IS_SHOWN = "NOT accepted AND (getvariable('reason') IS NULL OR list_contains(reasons, getvariable('reason')))"
_DOWNLOAD_MEMORY = "256MB"
_SHARD_FILE = re.compile(r"[0-9]+\.parquet")


def shard_tables(crawl: Manifest) -> list[str]:
    """Return the tables of the crawl's shards, as names in the store, in order."""
    return [name for name in crawl.files_ending(".parquet") if _SHARD_FILE.fullmatch(name.rsplit("/", 1)[1])]


# ruff: noqa: S608 - queries contain only this package's own names


@dataclass(frozen=True, slots=True)
class ReasonCount:
    """A rejection reason: its rows, the rows with no other reason, and whether a release can waive it."""

    reason: str
    description: str
    rows: int
    only_reason: int
    releasable: bool


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A rejected row. `caption` is the AltText as crawled; sizes are in pixels, of the image as downloaded; `tar` is
    the path of the tar that holds the image as `{key}.jpg`, None if it was not downloaded."""

    reasons: tuple[str, ...]
    key: str
    uid: str
    url: str
    page_url: str | None
    caption: str | None
    alttext_problem: str | None
    error_message: str | None
    original_width: int | None
    original_height: int | None
    tar: str | None
    releasable: bool


# The columns of `RejectedRow` that `rejected_batches` yields.
REJECTED_SCHEMA = pa.schema(
    [
        pa.field("reasons", pa.list_(pa.string())),
        *(pa.field(name, pa.string()) for name in ("key", "uid", "url", "page_url", "caption")),
        *(pa.field(name, pa.string()) for name in ("alttext_problem", "error_message")),
        *(pa.field(name, pa.int32()) for name in ("original_width", "original_height")),
    ]
)


@dataclass(frozen=True, slots=True)
class Page:
    """A page of rejected rows in key order; `total` counts the rows on all pages."""

    total: int
    rows: tuple[RejectedRow, ...]


@dataclass(frozen=True, slots=True)
class RejectedIndex:
    """The numbers of rejected rows in each of `files`, the tables of verdicts in key order.

    `rows` has them by reason, and under None the rows with any reason. `reasons` begins with the most frequent one.
    """

    files: tuple[str, ...]
    rows: Mapping[str | None, tuple[int, ...]]
    reasons: tuple[ReasonCount, ...]

    def total(self, reason: str | None) -> int:
        return sum(self.rows.get(reason, ()))

    def files_at(self, reason: str | None, offset: int, limit: int) -> tuple[list[str], int]:
        """Return the files with the rows *offset* to *offset* + *limit* of *reason*, and the rows to skip in them."""
        return files_at(zip(self.files, self.rows.get(reason, [0] * len(self.files)), strict=True), offset, limit)


def has_verdicts(store: Store, version: Version) -> bool:
    """Return whether *version* has a quarantine, whether or not it passed the quality gate."""
    quality = read_summary(store, f"{version.folder}/quality")
    if quality is not None and quality.counters.get("rows"):
        return True
    folder = f"{version.folder}/quality"
    if read_plan(store, folder) is not None and read_failure(store, folder) is None:
        return False  # still running; listing the tables of many shards takes seconds
    return bool(find_verdicts(store, version))


def index_rejected(store: Store, version: Version) -> RejectedIndex:
    """Return the index of the rejected rows of *version*. Reads all verdicts. Raises VecapError without verdicts."""
    files = find_verdicts(store, version)
    numbers = {store.query_path(name): number for number, name in enumerate(files)}
    with _open_verdicts(store, version, files=files) as connection:
        found = connection.execute("""
            SELECT filename, reason, count(*), count(*) FILTER (only_reason)
            FROM (
                SELECT filename, unnest(list_append(reasons, NULL)) AS reason, len(reasons) = 1 AS only_reason
                FROM verdicts WHERE NOT accepted
            )
            GROUP BY ALL""").fetchall()
    rows: dict[str | None, list[int]] = {}
    only = Counter[str | None]()
    for path, reason, count, only_reason in found:
        rows.setdefault(reason, [0] * len(files))[numbers[path]] = count
        only[reason] += only_reason
    counts = sorted(((sum(each), name) for name, each in rows.items() if name is not None), key=lambda c: (-c[0], c[1]))
    reasons = tuple(
        ReasonCount(name, describe_reason(name), count, only[name], name not in FINAL) for count, name in counts
    )
    return RejectedIndex(tuple(files), {reason: tuple(each) for reason, each in rows.items()}, reasons)


def list_rows(
    store: Store,
    version: Version,
    reason: str | None = None,
    limit: int = 50,
    offset: int = 0,
    index: RejectedIndex | None = None,
) -> Page:
    """Return up to *limit* rejected rows after *offset*; with *reason*, only rows that have it.

    A notice replaces an AltText with private data. *index* is that of `index_rejected`, which is read without it.

    Raises VecapError without verdicts.
    """
    index = index or index_rejected(store, version)
    files, skipped = index.files_at(reason, offset, limit)
    if not files:
        return Page(index.total(reason), ())
    with _open_verdicts(store, version, files=files) as connection:
        connection.execute("SET VARIABLE reason = $1::VARCHAR", [reason])
        connection.execute(
            f"""CREATE TEMP TABLE page AS
            SELECT key, alttext_problem, reasons FROM verdicts WHERE {_IS_SHOWN} ORDER BY key LIMIT $1 OFFSET $2""",
            [limit, skipped],
        )
        keys = [key for (key,) in connection.execute("SELECT key FROM page ORDER BY key").fetchall()]
        table = _join(connection, store, crawl_tables(store, _crawl(store, version), keys))
    rows = tuple(
        RejectedRow(**{**row, "reasons": tuple(row["reasons"])}, releasable=not set(FINAL) & set(row["reasons"]))
        for row in table.to_pylist()
    )
    return Page(index.total(reason), rows)


def rejected_batches(store: Store, version: Version, reason: str | None = None) -> Iterator[pa.RecordBatch]:
    """Yield all rejected rows of *version* by shard in key order, with the columns of `REJECTED_SCHEMA`.

    With *reason*, only rows that have it. Holds one shard of the crawl in memory. Raises VecapError without verdicts.
    """
    manifest = read_manifest(store, f"{version.folder}/crawl")
    with _open_verdicts(store, version, _DOWNLOAD_MEMORY) as connection:
        connection.execute("SET VARIABLE reason = $1::VARCHAR", [reason])
        for name in shard_tables(manifest) if manifest is not None else ():
            shard = scan([store.query_path(name)])
            first, last = connection.execute(f"SELECT min(key), max(key) FROM {shard}").fetchall()[0]
            connection.execute(
                f"""CREATE OR REPLACE TEMP TABLE page AS SELECT key, alttext_problem, reasons FROM verdicts
                WHERE {_IS_SHOWN} AND key BETWEEN $1::VARCHAR AND $2::VARCHAR""",
                [first, last],
            )
            yield from _join(connection, store, [name]).select(REJECTED_SCHEMA.names).to_batches()


def _join(connection: duckdb.DuckDBPyConnection, store: Store, tables: Sequence[str]) -> pa.Table:
    """Return the rows of the table `page`, with columns of the crawl's *tables*; a notice replaces private AltTexts."""
    connection.execute("DROP VIEW IF EXISTS crawl")
    create_view(connection, store, "crawl", tables, CRAWL)
    table: pa.Table = connection.sql(
        """
        SELECT reasons, key, crawl.uid, url, page_url, caption, alttext_problem, error_message,
            original_width, original_height,
            CASE WHEN status = 'success' THEN regexp_replace(filename, '\\.parquet$', '.tar') END AS tar
        FROM crawl JOIN page USING (key) ORDER BY key"""
    ).to_arrow_table()
    return hide_columns(table, ("caption",))


def release(
    store: Store,
    version: Version,
    *,
    uids: Sequence[str] = (),
    reason: str | None = None,
    note: str,
    by: str,
    force: bool = False,
) -> str:
    """Release rows of the interval of *version*: *uids* from all reasons, or all rows from *reason*.

    Writes an entry and returns its name in the store; the next run of the interval creates a revision with it. Raises
    VecapError, and writes nothing, in the cases of `preview_release`, and if it adds no row, unless *force* is true.
    """
    preview = preview_release(store, version, uids=uids, reason=reason)
    if not preview.added and not force:
        raise VecapError(f"{preview}; nothing was released; to record the release anyway, use --force")
    return _add_entry(store, version, "release", uids, reason, note, by)


def preview_release(
    store: Store, version: Version, *, uids: Sequence[str] = (), reason: str | None = None
) -> ReleasePreview:
    """Return what a release of *uids* or of *reason* adds, given the releases of the interval.

    Raises VecapError if a uid is not rejected or has no image, or if no row has *reason*.
    """
    if bool(uids) == (reason is not None):
        raise VecapError("give --uid or --reason, not both")
    released = active(read_releases(store, version.dataset, version.interval))
    subject = f"{reason}" if reason is not None else f"{len(uids)} uids" if len(uids) > 1 else uids[0]
    with _open_verdicts(store, version) as connection:
        if reason is not None:
            _check_reason(connection, version, reason)
        if uids:
            _check_uids(connection, version, uids)
        values = {
            "final": list(FINAL),
            "reason": reason,
            "uids": list(uids),
            "reasons_before": list(released.reasons),
            "uids_before": list(released.uids),
        }
        connection.execute(
            """
            CREATE TEMP TABLE covered AS
            SELECT list_filter(reasons, lambda name: list_contains($final, name) OR NOT was_released
                AND NOT list_contains($reasons_before::VARCHAR[], name)) AS before,
                list_filter(before, lambda name: list_contains($final, name)
                    OR NOT is_named AND name IS DISTINCT FROM $reason) AS after
            FROM (
                SELECT reasons, list_contains($uids_before::VARCHAR[], uid) AS was_released,
                    list_contains($uids::VARCHAR[], uid) AS is_named
                FROM verdicts
                WHERE NOT accepted AND (list_contains($uids::VARCHAR[], uid) OR list_contains(reasons, $reason))
            )""",
            values,
        )
        rows, added, already = connection.execute(
            "SELECT count(*), count(*) FILTER (before != [] AND after = []), count(*) FILTER (before = []) FROM covered"
        ).fetchall()[0]
        others = connection.execute(
            "SELECT name, count(*) FROM (SELECT unnest(after) AS name FROM covered) GROUP BY 1 ORDER BY 2 DESC, 1"
        ).fetchall()
    return ReleasePreview(subject, rows, added, already, tuple(others))


def withdraw(
    store: Store,
    version: Version,
    *,
    uids: Sequence[str] = (),
    reason: str | None = None,
    note: str,
    by: str,
) -> str:
    """Withdraw a release for the interval of *version* with a new entry; return the entry's name in the store.

    Raises VecapError, and writes nothing, if it is not released.
    """
    released = active(read_releases(store, version.dataset, version.interval))
    unknown = [uid for uid in uids if uid not in released.uids]
    if reason is not None and reason not in released.reasons:
        unknown.append(reason)
    if unknown:
        raise VecapError(f"{_first_of(unknown)} is not released in {version.interval}; run `vecap quarantine releases`")
    return _add_entry(store, version, "withdraw", uids, reason, note, by)


def _add_entry(
    store: Store, version: Version, action: Action, uids: Sequence[str], reason: str | None, note: str, by: str
) -> str:
    if bool(uids) == (reason is not None):
        raise VecapError("give --uid or --reason, not both")
    if not note.strip() or not by.strip():
        raise VecapError("a release needs a note and a user name; give both")
    at = datetime.now(UTC).isoformat(timespec="seconds")
    entry = Entry(
        action, version.interval, version.name, tuple(sorted(set(uids))), reason, note.strip(), by.strip(), at
    )
    return add_release(store, version.dataset, entry)


def _check_reason(connection: duckdb.DuckDBPyConnection, version: Version, reason: str) -> None:
    if reason in FINAL:
        raise VecapError(f"cannot release {reason}: these rows have no image; retry them with `--retry-failed`")
    known = connection.execute("SELECT DISTINCT unnest(reasons) FROM verdicts WHERE NOT accepted").fetchall()
    names = sorted(name for (name,) in known)
    if reason not in names:
        raise VecapError(f"{version.name} rejects no rows for {reason}; its reasons: {', '.join(names) or 'none'}")


def _check_uids(connection: duckdb.DuckDBPyConnection, version: Version, uids: Sequence[str]) -> None:
    found = dict(
        connection.execute(
            "SELECT uid, reasons FROM verdicts WHERE NOT accepted AND list_contains($1::VARCHAR[], uid)", [list(uids)]
        ).fetchall()
    )
    unknown = [uid for uid in uids if uid not in found]
    if unknown:
        raise VecapError(f"{version.name} has no rejected row {_first_of(unknown)}; nothing was released")
    final = [uid for uid in uids if set(FINAL) & set(found[uid])]
    if final:
        raise VecapError(f"cannot release {_first_of(final)}: no image; retry with `--retry-failed`")


def _first_of(names: Sequence[str]) -> str:
    return f"{names[0]} (and {len(names) - 1} more)" if len(names) > 1 else names[0]


def find_verdicts(store: Store, version: Version) -> list[str]:
    """Return the tables of verdicts of *version*, whether or not it passed the gate; none if one is missing."""
    crawl, quality = (read_summary(store, f"{version.folder}/{stage}") for stage in ("crawl", "quality"))
    if crawl is None:
        return []
    folder = quality.location if quality else f"{version.folder}/quality"
    shards = [name for name in store.files(crawl.location) if _SHARD_FILE.fullmatch(name)]
    if set(store.files(f"{folder}/{VERDICTS_FOLDER}")).issuperset(shards):
        return [f"{folder}/{VERDICTS_FOLDER}/{name}" for name in shards]
    old = f"{folder}/{_OLD_FILE}"
    return [old] if store.exists(old) else []


def _crawl(store: Store, version: Version) -> str:
    """Return the folder with the crawl of *version*. Raises VecapError if it is not finished."""
    crawl = read_summary(store, f"{version.folder}/crawl")
    if crawl is None:
        raise VecapError(f"version {version.name} has no verdicts; {how_to_finish(store, version, 'quality')}")
    return crawl.location


@contextmanager
def _open_verdicts(
    store: Store, version: Version, memory: str = "1GB", files: Sequence[str] | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection with the view `verdicts` of *version*, whether or not it passed the gate.

    The view has only the tables *files*, by default all.
    """
    verdicts = find_verdicts(store, version) if files is None else files
    if not verdicts:
        raise VecapError(f"version {version.name} has no verdicts; {how_to_finish(store, version, 'quality')}")
    with connect(store, memory) as connection:
        create_view(connection, store, "verdicts", verdicts, VERDICTS)
        yield connection
