"""The quarantine: rejected rows of a version, and the releases that let rows pass on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import duckdb
import pyarrow as pa

from vecap_tasks.core.manifest import Manifest, read_manifest
from vecap_tasks.core.releases import Action, Entry, active, add_release, read_releases
from vecap_tasks.core.schemas import CRAWL, VERDICTS
from vecap_tasks.core.store import Store
from vecap_tasks.core.tables import connect, create_view
from vecap_tasks.core.version import Version
from vecap_tasks.errors import VecapError
from vecap_tasks.quality.rules import FINAL, describe_reason

VERDICTS_FILE = "verdicts.parquet"
_SHARD_FILE = re.compile(r"[0-9]+\.parquet")


def shard_tables(crawl: Manifest) -> list[str]:
    """Return where the store has the tables of the crawl's shards, in their order."""
    return [name for name in crawl.files_ending(".parquet") if _SHARD_FILE.fullmatch(name.rsplit("/", 1)[1])]


# ruff: noqa: S608 - the queries are put together from this package's own names


@dataclass(frozen=True, slots=True)
class ReasonCount:
    """A reason, what its rule says, how many rows it refuses, for how many it is the only one, and whether a person
    can waive it."""

    reason: str
    description: str
    rows: int
    only_reason: int
    releasable: bool


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """What a person needs to decide. `caption` is the AltText as crawled; sizes in pixels, of the image as downloaded;
    `tar` is where the store has the picture, as `{key}.jpg`, None where it was not downloaded."""

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


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the refused rows, by key; `total` counts all that were asked for."""

    total: int
    rows: tuple[RefusedRow, ...]


def has_verdicts(store: Store, version: Version) -> bool:
    """Return whether *version* has a quarantine to look at: its rows were judged, whether or not the gate passed."""
    return _verdicts(store, version) is not None


def list_reasons(store: Store, version: Version) -> list[ReasonCount]:
    """Return the reasons of *version*, the most frequent first. Raises VecapError where it has no verdicts yet."""
    with _opened(store, version) as connection:
        found = connection.execute("""
            SELECT reason, count(*), count(*) FILTER (alone)
            FROM (SELECT unnest(reasons) AS reason, len(reasons) = 1 AS alone FROM verdicts WHERE NOT accepted)
            GROUP BY 1 ORDER BY 2 DESC, 1""").fetchall()
    return [ReasonCount(name, describe_reason(name), rows, alone, name not in FINAL) for name, rows, alone in found]


def list_rows(store: Store, version: Version, reason: str | None = None, limit: int = 50, offset: int = 0) -> Page:
    """Return *limit* of the rows refused for *reason*, or at all, after *offset* of them.

    Raises VecapError where the version has no verdicts yet.
    """
    with _opened(store, version) as connection:
        connection.execute("SET VARIABLE asked = $1::VARCHAR", [reason])
        refused = "NOT accepted AND (getvariable('asked') IS NULL OR list_contains(reasons, getvariable('asked')))"
        total = connection.execute(f"SELECT count(*) FROM verdicts WHERE {refused}").fetchall()[0][0]
        # The page's keys first: the crawl's wide tables are then read for these alone.
        found: pa.Table = connection.sql(
            f"""
            WITH page AS (
                SELECT key, alttext_problem, reasons FROM verdicts WHERE {refused} ORDER BY key LIMIT $1 OFFSET $2
            )
            SELECT reasons, key, crawl.uid, url, page_url, caption, alttext_problem, error_message,
                original_width, original_height,
                CASE WHEN status = 'success' THEN regexp_replace(filename, '\\.parquet$', '.tar') END AS tar
            FROM crawl JOIN page USING (key) ORDER BY key""",
            params=[limit, offset],
        ).to_arrow_table()
    rows = tuple(
        RefusedRow(**{**line, "reasons": tuple(line["reasons"])}, releasable=not set(FINAL) & set(line["reasons"]))
        for line in found.to_pylist()
    )
    return Page(total, rows)


def release(
    store: Store,
    version: Version,
    *,
    uids: Sequence[str] = (),
    reason: str | None = None,
    note: str,
    by: str,
) -> str:
    """Let rows of the interval of *version* go on: these *uids* whatever refuses them, or what *reason* alone refuses.

    Writes an entry and returns its name in the store; the next run makes a revision by it. Raises VecapError, and
    writes nothing, where a uid is not refused or has no image to go on with, or where nobody has the *reason*.
    """
    with _opened(store, version) as connection:
        if reason is not None:
            _check_reason(connection, version, reason)
        if uids:
            _check_uids(connection, version, uids)
    return _enter(store, version, "release", uids, reason, note, by)


def withdraw(
    store: Store,
    version: Version,
    *,
    uids: Sequence[str] = (),
    reason: str | None = None,
    note: str,
    by: str,
) -> str:
    """Take back what was released for the interval of *version*, by another entry; return its name in the store.

    Raises VecapError, and writes nothing, where it is not released now.
    """
    now = active(read_releases(store, version.dataset, version.interval))
    unknown = [uid for uid in uids if uid not in now.uids]
    if reason is not None and reason not in now.reasons:
        unknown.append(reason)
    if unknown:
        raise VecapError(f"{_some(unknown)} is not released for {version.interval}; see `vecap quarantine releases`")
    return _enter(store, version, "withdraw", uids, reason, note, by)


def _enter(
    store: Store, version: Version, action: Action, uids: Sequence[str], reason: str | None, note: str, by: str
) -> str:
    if bool(uids) == (reason is not None):
        raise VecapError("say what: either uids or a reason")
    if not note.strip() or not by.strip():
        raise VecapError("a release needs a note that says why, and a name; give both")
    at = datetime.now(UTC).isoformat(timespec="seconds")
    entry = Entry(
        action, version.interval, version.name, tuple(sorted(set(uids))), reason, note.strip(), by.strip(), at
    )
    return add_release(store, version.dataset, entry)


def _check_reason(connection: duckdb.DuckDBPyConnection, version: Version, reason: str) -> None:
    if reason in FINAL:
        raise VecapError(f"{reason} cannot be released: there is no image to go on with; `--retry-failed` tries again")
    known = connection.execute("SELECT DISTINCT unnest(reasons) FROM verdicts WHERE NOT accepted").fetchall()
    names = sorted(name for (name,) in known)
    if reason not in names:
        raise VecapError(f"no row of {version.name} is refused for {reason}; there are: {', '.join(names) or 'none'}")


def _check_uids(connection: duckdb.DuckDBPyConnection, version: Version, uids: Sequence[str]) -> None:
    found = dict(
        connection.execute(
            "SELECT uid, reasons FROM verdicts WHERE NOT accepted AND list_contains($1::VARCHAR[], uid)", [list(uids)]
        ).fetchall()
    )
    unknown = [uid for uid in uids if uid not in found]
    if unknown:
        raise VecapError(f"{version.name} refuses no row {_some(unknown)}; nothing was released")
    lost = [uid for uid in uids if set(FINAL) & set(found[uid])]
    if lost:
        raise VecapError(
            f"{_some(lost)} cannot be released: there is no image to go on with; `--retry-failed` tries again"
        )


def _some(names: Sequence[str]) -> str:
    return f"{names[0]} (and {len(names) - 1} more)" if len(names) > 1 else names[0]


def _verdicts(store: Store, version: Version) -> str | None:
    """Return where *store* has the verdicts on *version*, published or refused; None if it has none yet."""
    quality = read_manifest(store, f"{version.folder}/quality")
    file = quality.file(VERDICTS_FILE) if quality else f"{version.folder}/quality/{VERDICTS_FILE}"
    return file if store.exists(file) else None


@contextmanager
def _opened(store: Store, version: Version) -> Iterator[duckdb.DuckDBPyConnection]:
    """Give a connection with the views `crawl` and `verdicts` of *version*, published or refused."""
    crawl = read_manifest(store, f"{version.folder}/crawl")
    verdicts = _verdicts(store, version)
    if crawl is None or verdicts is None:
        raise VecapError(f"version {version.name} has no verdicts yet; run `vecap quality` first")
    with connect(store) as connection:
        create_view(connection, store, "crawl", shard_tables(crawl), CRAWL)
        create_view(connection, store, "verdicts", [verdicts], VERDICTS)
        yield connection
