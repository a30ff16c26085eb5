"""Measures and distributions over all rows of a crawl, and a bounded sample, computed by DuckDB."""

# ruff: noqa: S608 - queries contain only this package's rules and quoted literals

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from vecap_tasks.core.private_data import hide
from vecap_tasks.core.tables import write_sorted
from vecap_tasks.quality.alttext_rules import literal
from vecap_tasks.quality.group_rules import quantiles

EXAMPLES = 5
_MAX_EXAMPLE_CHARS = 200
_MAX_READ_CHARS = 4_000  # of an example that is searched for private data
_MAX_NAMES = 200  # hosts and languages counted by name; the rest is `other`

SAMPLE_COLUMNS = (
    "key", "uid", "url", "status", "width", "height", "original_width", "original_height", "sha256",
    "accepted", "alttext", "alttext_problem", "reasons", "consistent",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Measures:
    """Counts over all rows. Shares are from 0 to 1, and 0 for an empty base; lengths are in characters."""

    rows: int
    downloaded_rows: int
    download_share: float
    accepted_rows: int
    accepted_share: float
    released_rows: int
    duplicate_rows: int
    duplicate_share: float
    opted_out_rows: int
    alttext_rows: int
    alttext_share: float
    alttext_chars_p05: int
    alttext_chars_p50: int
    alttext_chars_p95: int
    hosts: int
    largest_host_share: float
    rows_without_verdict: int
    repeated_keys: int
    repeated_uids: int
    downloads_without_sha256: int


@dataclass(frozen=True, slots=True)
class Distributions:
    """Rows by host and language (the most frequent ones, and `other`), by the length of usable AltText in characters,
    and by the shorter side of downloads in pixels (both in half-octave bins, named by their lower bound)."""

    hosts: dict[str, int] = field(default_factory=dict)
    languages: dict[str, int] = field(default_factory=dict)
    alttext_chars: dict[str, int] = field(default_factory=dict)
    sides: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reason:
    """A rejection reason or AltText problem, its number of rows, and example values as crawled (URLs or AltTexts)."""

    name: str
    rows: int
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything measured on a crawl. `refused` lists rejected rows, failed downloads by crawl error."""

    measures: Measures
    distributions: Distributions
    reasons: tuple[Reason, ...]  # by rule name, without examples
    refused: tuple[Reason, ...]
    problems: tuple[Reason, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, data: bytes) -> Measured:
        body: dict[str, Any] = json.loads(data)
        lists = {
            name: tuple(Reason(item["name"], item["rows"], tuple(item["examples"])) for item in body[name])
            for name in ("reasons", "refused", "problems")
        }
        return cls(Measures(**body["measures"]), Distributions(**body["distributions"]), **lists)


def measure(connection: duckdb.DuckDBPyConnection) -> Measured:
    """Return the measures of the views `judged` (files of `write_judged`) and `outcomes` of `apply_group_rules`."""
    connection.execute("""
        CREATE OR REPLACE TEMP TABLE host_counts AS
        SELECT coalesce(host, '') AS name, count(*) AS rows FROM outcomes GROUP BY 1""")
    return Measured(
        _measures(connection),
        _distributions(connection),
        _count_by_name(connection, "SELECT unnest(reasons) AS name, NULL AS draw, NULL AS key FROM outcomes", None),
        _count_by_name(
            connection,
            """
            SELECT coalesce(CASE WHEN reason = 'not_downloaded' THEN nullif(failure, '') END, reason) AS name, draw, key
            FROM (SELECT unnest(reasons) AS reason, failure, draw, key FROM outcomes WHERE NOT accepted)""",
            "url",
        ),
        _count_by_name(
            connection,
            "SELECT alttext_problem AS name, draw, key FROM outcomes WHERE alttext_problem IS NOT NULL",
            f"left(caption, {_MAX_READ_CHARS})",
        ),
    )


def _measures(connection: duckdb.DuckDBPyConnection) -> Measures:
    counts = connection.execute("""
        SELECT count(*), count(*) FILTER (downloaded), count(*) FILTER (accepted), count(*) FILTER (len(released) > 0),
            count(*) FILTER (list_contains(reasons, 'duplicate_image')),
            count(*) FILTER (list_contains(reasons, 'opted_out')), count(alttext_chars),
            count(*) FILTER (downloaded AND NOT is_hashed)
        FROM outcomes""").fetchall()[0]
    rows, downloaded, accepted, released, duplicates, opted_out, alttexts, unhashed = counts
    lengths = "SELECT alttext_chars AS value, count(*) AS rows FROM outcomes GROUP BY 1"
    p05, p50, p95 = (int(value or 0) for value in quantiles(connection, lengths, ["0.05", "0.5", "0.95"]))
    crawled = connection.execute("SELECT count(*) FROM judged").fetchall()[0][0]
    hosts, largest = connection.execute("SELECT count(*), coalesce(max(rows), 0) FROM host_counts").fetchall()[0]
    return Measures(
        rows=rows,
        downloaded_rows=downloaded,
        download_share=_share(downloaded, rows),
        accepted_rows=accepted,
        accepted_share=_share(accepted, rows),
        released_rows=released,
        duplicate_rows=duplicates,
        duplicate_share=_share(duplicates, downloaded),
        opted_out_rows=opted_out,
        alttext_rows=alttexts,
        alttext_share=_share(alttexts, rows),
        alttext_chars_p05=p05,
        alttext_chars_p50=p50,
        alttext_chars_p95=p95,
        hosts=hosts,
        largest_host_share=_share(largest, rows),
        rows_without_verdict=abs(crawled - rows),
        repeated_keys=_count_repeated(connection, "key"),
        repeated_uids=_count_repeated(connection, "uid"),
        downloads_without_sha256=unhashed,
    )


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0


def _count_repeated(connection: duckdb.DuckDBPyConnection, column: str) -> int:
    """Return the number of rows that repeat a value of *column*. Comparing hashes first saves memory."""
    counts = connection.execute(f"""
        WITH suspects AS (SELECT hash({column}) AS hashed FROM judged GROUP BY 1 HAVING count(*) > 1)
        SELECT count(*) - count(DISTINCT {column}) FROM judged WHERE hash({column}) IN (FROM suspects)""").fetchall()
    return int(counts[0][0])


def _distributions(connection: duckdb.DuckDBPyConnection) -> Distributions:
    languages = """
        SELECT coalesce(lower(regexp_extract(language, '^[A-Za-z]{2,3}')), '') AS name, count(*) AS rows
        FROM outcomes GROUP BY 1"""
    return Distributions(
        _top_names(connection, "host_counts"),
        _top_names(connection, f"({languages})"),
        _histogram(connection, "alttext_chars", "alttext_chars IS NOT NULL"),
        _histogram(connection, "side", "downloaded AND side > 0"),
    )


def _top_names(connection: duckdb.DuckDBPyConnection, counts: str) -> dict[str, int]:
    result = connection.execute(f"""
        WITH ranked AS (SELECT *, row_number() OVER (ORDER BY rows DESC, name) AS rank FROM {counts})
        SELECT CASE WHEN rank > {_MAX_NAMES} THEN 'other' WHEN name = '' THEN 'unknown' ELSE name END,
            sum(rows)::BIGINT
        FROM ranked GROUP BY 1 ORDER BY 2 DESC, 1""").fetchall()
    return dict(result)


def _histogram(connection: duckdb.DuckDBPyConnection, value: str, where: str) -> dict[str, int]:
    bins = connection.execute(f"""
        SELECT floor(2 * log2({value}) + 1e-9)::INTEGER AS bin, count(*) FROM outcomes WHERE {where}
        GROUP BY 1 ORDER BY 1""").fetchall()
    return {f"{2 ** (number / 2):.0f}": rows for number, rows in bins}


def _count_by_name(connection: duckdb.DuckDBPyConnection, query: str, example: str | None) -> tuple[Reason, ...]:
    """Return the row counts of *query* (name, draw, key) by name, the most frequent first.

    *example* is the SQL expression over `judged` that gives example values, None for no examples.
    """
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE counted AS
        SELECT name, count(*) AS rows, arg_min(key, draw, {EXAMPLES}) AS keys FROM ({query}) GROUP BY 1""")
    counts = connection.execute("SELECT name, rows, keys FROM counted ORDER BY rows DESC, name").fetchall()
    keys = sorted({key for _, _, keys in counts for key in keys or ()})
    texts: dict[str, str | None] = {}
    if example is not None and keys:
        key_list = ", ".join(literal(key) for key in keys)
        texts = dict(connection.execute(f"SELECT key, {example} FROM judged WHERE key IN ({key_list})").fetchall())
    return tuple(Reason(name, rows, _examples(texts, keys or ())) for name, rows, keys in counts)


def _examples(texts: dict[str, str | None], keys: Sequence[str]) -> tuple[str, ...]:
    shown = (hide(text) for key in keys if (text := texts.get(key)) is not None)
    return tuple(dict.fromkeys(text[:_MAX_EXAMPLE_CHARS] for text in shown if text is not None))


def write_sample(connection: duckdb.DuckDBPyConnection, rows: int, path: Path) -> int:
    """Write up to *rows* pseudorandom rows (the same on each call) to *path*; return the number written."""
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE sampled AS
        SELECT key, uid, accepted, alttext_problem, reasons FROM outcomes ORDER BY draw, key LIMIT {rows}""")
    query = f"""
        SELECT {", ".join(SAMPLE_COLUMNS)} FROM (
            SELECT judged.* REPLACE (
                    CASE WHEN sampled.alttext_problem IS NULL THEN alttext END AS alttext,
                    sampled.alttext_problem AS alttext_problem, array_to_string(sampled.reasons, ' ') AS reasons),
                accepted, accepted = (len(sampled.reasons) = 0) AND NOT (accepted AND status != 'success')
                    AND NOT (alttext IS NULL AND sampled.alttext_problem IS NULL) AS consistent
            FROM judged JOIN sampled USING (key, uid)
        )"""
    return write_sorted(connection, query, "key, uid", path)
