"""What a crawl comes to: figures over all its rows, how they are distributed, and a bounded sample. By DuckDB."""

# ruff: noqa: S608 - the queries are put together from this package's own rules and quoted literals

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from vecap_tasks.core.tables import write_sorted
from vecap_tasks.quality.alttext_rules import literal

EXAMPLES = 5
_NAMED = 200  # hosts and languages that are counted by name, the others together

SAMPLE_COLUMNS = (
    "key", "uid", "url", "status", "width", "height", "original_width", "original_height", "sha256",
    "accepted", "alttext", "alttext_problem", "reasons", "consistent",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Measures:
    """Counts over all rows; shares are of `rows`, from 0 to 1, and 0 where there are none; lengths in characters."""

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
    """Rows by host and language (the most frequent ones, and `other`), by the length of usable AltText in characters
    and by the shorter side of downloads in pixels (both by half powers of two, named by where they begin)."""

    hosts: dict[str, int] = field(default_factory=dict)
    languages: dict[str, int] = field(default_factory=dict)
    alttext_chars: dict[str, int] = field(default_factory=dict)
    sides: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reason:
    """A reason for refusing rows, or a problem of AltText: the rows that it was given to, and some of them as they
    were crawled (addresses or AltText)."""

    name: str
    rows: int
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Measured:
    """All that is known of the crawl as a whole. `refused` names what was not downloaded by the crawl's own word."""

    measures: Measures
    distributions: Distributions
    reasons: tuple[Reason, ...]  # by the rules' names, without examples
    refused: tuple[Reason, ...]
    problems: tuple[Reason, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, data: bytes) -> Measured:
        body: dict[str, Any] = json.loads(data)
        lists = {
            name: tuple(Reason(one["name"], one["rows"], tuple(one["examples"])) for one in body[name])
            for name in ("reasons", "refused", "problems")
        }
        return cls(Measures(**body["measures"]), Distributions(**body["distributions"]), **lists)


def measure(connection: duckdb.DuckDBPyConnection) -> Measured:
    """Measure the view `crawl` (CRAWL) and the view `verdicts` that `compute_verdicts` makes of it."""
    connection.execute("""
        CREATE OR REPLACE TEMP TABLE of_hosts AS
        SELECT coalesce(host, '') AS name, count(*) AS rows FROM verdicts GROUP BY 1""")
    return Measured(
        _measures(connection),
        _distributions(connection),
        _counted(connection, "SELECT unnest(reasons) AS name, NULL AS draw, NULL AS key FROM verdicts", None),
        _counted(
            connection,
            """
            SELECT coalesce(CASE WHEN reason = 'not_downloaded' THEN nullif(failure, '') END, reason) AS name, draw, key
            FROM (SELECT unnest(reasons) AS reason, failure, draw, key FROM verdicts WHERE NOT accepted)""",
            "url",
        ),
        _counted(
            connection,
            "SELECT alttext_problem AS name, draw, key FROM verdicts WHERE alttext_problem IS NOT NULL",
            "left(caption, 200)",
        ),
    )


def _measures(connection: duckdb.DuckDBPyConnection) -> Measures:
    counted = connection.execute("""
        SELECT count(*), count(*) FILTER (downloaded), count(*) FILTER (accepted), count(*) FILTER (len(released) > 0),
            count(*) FILTER (list_contains(reasons, 'duplicate_image')),
            count(*) FILTER (list_contains(reasons, 'opted_out')), count(alttext),
            coalesce(quantile_disc(length(alttext), 0.05), 0), coalesce(quantile_disc(length(alttext), 0.5), 0),
            coalesce(quantile_disc(length(alttext), 0.95), 0), count(*) FILTER (downloaded AND sha256 IS NULL)
        FROM verdicts""").fetchall()[0]
    rows, downloaded, accepted, released, duplicates, opted_out, alttexts, p05, p50, p95, unhashed = counted
    crawled = connection.execute("SELECT count(*) FROM crawl").fetchall()[0][0]
    hosts, largest = connection.execute("SELECT count(*), coalesce(max(rows), 0) FROM of_hosts").fetchall()[0]
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
        repeated_keys=_repeated(connection, "key"),
        repeated_uids=_repeated(connection, "uid"),
        downloads_without_sha256=unhashed,
    )


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0


def _repeated(connection: duckdb.DuckDBPyConnection, column: str) -> int:
    """Count the rows whose *column* another row has before them: by hashes first, which take less memory."""
    counted = connection.execute(f"""
        WITH suspects AS (SELECT hash({column}) AS hashed FROM judged GROUP BY 1 HAVING count(*) > 1)
        SELECT count(*) - count(DISTINCT {column}) FROM judged WHERE hash({column}) IN (FROM suspects)""").fetchall()
    return int(counted[0][0])


def _distributions(connection: duckdb.DuckDBPyConnection) -> Distributions:
    languages = """
        SELECT coalesce(lower(regexp_extract(language, '^[A-Za-z]{2,3}')), '') AS name, count(*) AS rows
        FROM verdicts GROUP BY 1"""
    return Distributions(
        _named(connection, "of_hosts"),
        _named(connection, f"({languages})"),
        _binned(connection, "length(alttext)", "alttext IS NOT NULL"),
        _binned(connection, "side", "downloaded AND side > 0"),
    )


def _named(connection: duckdb.DuckDBPyConnection, counts: str) -> dict[str, int]:
    found = connection.execute(f"""
        WITH placed AS (SELECT *, row_number() OVER (ORDER BY rows DESC, name) AS place FROM {counts})
        SELECT CASE WHEN place > {_NAMED} THEN 'other' WHEN name = '' THEN 'unknown' ELSE name END, sum(rows)::BIGINT
        FROM placed GROUP BY 1 ORDER BY 2 DESC, 1""").fetchall()
    return dict(found)


def _binned(connection: duckdb.DuckDBPyConnection, value: str, where: str) -> dict[str, int]:
    found = connection.execute(f"""
        SELECT floor(2 * log2({value}) + 1e-9)::INTEGER AS bin, count(*) FROM verdicts WHERE {where}
        GROUP BY 1 ORDER BY 1""").fetchall()
    return {f"{2 ** (number / 2):.0f}": rows for number, rows in found}


def _counted(connection: duckdb.DuckDBPyConnection, query: str, shown: str | None) -> tuple[Reason, ...]:
    """Count the rows of *query* (name, draw, key) by name, the most frequent first, with examples of what is shown."""
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE counted AS
        SELECT name, count(*) AS rows, arg_min(key, draw, {EXAMPLES}) AS keys FROM ({query}) GROUP BY 1""")
    found = connection.execute("SELECT name, rows, keys FROM counted ORDER BY rows DESC, name").fetchall()
    keys = sorted({key for _, _, keys in found for key in keys or ()})
    said: dict[str, str | None] = {}
    if shown is not None and keys:
        listed = ", ".join(literal(key) for key in keys)
        said = dict(connection.execute(f"SELECT key, {shown} FROM crawl WHERE key IN ({listed})").fetchall())
    return tuple(Reason(name, rows, _texts(said, keys or ())) for name, rows, keys in found)


def _texts(said: dict[str, str | None], keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for key in keys if (text := said.get(key)) is not None))


def write_sample(connection: duckdb.DuckDBPyConnection, rows: int, path: Path) -> int:
    """Write *rows* rows by chance, the same ones each time, with `SAMPLE_COLUMNS` to *path*; return how many."""
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE sampled AS
        SELECT key, uid, accepted, alttext, alttext_problem, reasons FROM verdicts ORDER BY draw, key LIMIT {rows}""")
    query = f"""
        SELECT {", ".join(SAMPLE_COLUMNS)} FROM (
            SELECT crawl.*, accepted, alttext, alttext_problem, array_to_string(reasons, ' ') AS reasons,
                accepted = (len(reasons) = 0) AND NOT (accepted AND status != 'success')
                    AND NOT (alttext IS NULL AND alttext_problem IS NULL) AS consistent
            FROM crawl JOIN sampled USING (key, uid)
        )"""
    return write_sorted(connection, query, "key, uid", path)
