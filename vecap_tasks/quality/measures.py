"""What a crawl comes to: one row of figures over all its rows, counted by DuckDB."""

# ruff: noqa: S608 - the queries are put together from this package's own rules and quoted literals

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from vecap_tasks.config import Gate

EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Measures:
    """Counts over all rows; shares are of `rows`, from 0 to 1, and 0 where there are none; lengths in characters."""

    rows: int
    downloaded_rows: int
    download_share: float
    accepted_rows: int
    accepted_share: float
    duplicate_rows: int
    duplicate_share: float
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
class Limit:
    """What the gate asks of a measure: at least `least`, or at most `most`."""

    measure: str
    least: float | None = None
    most: float | None = None

    def __str__(self) -> str:
        return f"at least {self.least:g} is asked" if self.least is not None else f"at most {self.most:g} is allowed"


def limits(gate: Gate) -> tuple[Limit, ...]:
    """Return what *gate* asks, and what holds for every crawl; the first that fails is what a user is told."""
    return (
        Limit("rows", least=1),
        Limit("accepted_rows", least=gate.min_accepted_rows),
        Limit("download_share", least=gate.min_download_share),
        Limit("accepted_share", least=gate.min_accepted_share),
        Limit("duplicate_share", most=gate.max_duplicate_share),
        Limit("rows_without_verdict", most=0),
        Limit("repeated_keys", most=0),
        Limit("repeated_uids", most=0),
        Limit("downloads_without_sha256", most=0),
    )


def measure(connection: duckdb.DuckDBPyConnection) -> Measures:
    """Measure the tables or views `crawl` (CRAWL) and `verdicts` (VERDICTS) of one version.

    `duplicate_share` is of the downloaded rows. Lengths are of usable AltText.
    """
    counted = connection.execute("""
        WITH rows AS (
            SELECT crawl.*, accepted, alttext, coalesce(list_contains(reasons, 'duplicate_image'), false) AS duplicate
            FROM crawl LEFT JOIN verdicts USING (key)
        ), hosts AS (
            SELECT lower(regexp_extract(url, '://([^/:?#]+)', 1)) AS host, count(*) AS of_host FROM crawl GROUP BY 1
        )
        SELECT count(*), count(*) FILTER (status = 'success'), count(*) FILTER (accepted), count(*) FILTER (duplicate),
            count(alttext),
            coalesce(quantile_disc(length(alttext), 0.05), 0), coalesce(quantile_disc(length(alttext), 0.5), 0),
            coalesce(quantile_disc(length(alttext), 0.95), 0),
            (SELECT count(*) FROM hosts), (SELECT coalesce(max(of_host), 0) FROM hosts),
            count(*) FILTER (accepted IS NULL), count(*) - count(DISTINCT key), count(*) - count(DISTINCT uid),
            count(*) FILTER (status = 'success' AND sha256 IS NULL)
        FROM rows""").fetchall()
    rows, downloaded, accepted, duplicates, alttexts, p05, p50, p95, hosts, largest, *faults = counted[0]
    return Measures(
        rows=rows,
        downloaded_rows=downloaded,
        download_share=_share(downloaded, rows),
        accepted_rows=accepted,
        accepted_share=_share(accepted, rows),
        duplicate_rows=duplicates,
        duplicate_share=_share(duplicates, downloaded),
        alttext_rows=alttexts,
        alttext_share=_share(alttexts, rows),
        alttext_chars_p05=p05,
        alttext_chars_p50=p50,
        alttext_chars_p95=p95,
        hosts=hosts,
        largest_host_share=_share(largest, rows),
        rows_without_verdict=faults[0],
        repeated_keys=faults[1],
        repeated_uids=faults[2],
        downloads_without_sha256=faults[3],
    )


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0


@dataclass(frozen=True, slots=True)
class Reason:
    """A reason for refusing rows, or a problem of AltText: the rows that it was given to, and some of their AltText."""

    name: str
    rows: int
    examples: tuple[str, ...] = ()


def refusals(connection: duckdb.DuckDBPyConnection) -> list[Reason]:
    """Count the rows refused by each reason, the most frequent first; a row may have several.

    Rows that were not downloaded are counted by what the crawl says of them, up to a colon.
    """
    return _reasons(
        connection,
        """
        SELECT CASE WHEN reason = 'not_downloaded' THEN coalesce(trim(split_part(error_message, ':', 1)), reason)
            ELSE reason END AS name, uid, url AS example
        FROM (SELECT key, unnest(reasons) AS reason FROM verdicts) JOIN crawl USING (key)""",
    )


def reasons(connection: duckdb.DuckDBPyConnection) -> list[Reason]:
    """Count the rows refused by each rule, by the rule's name."""
    return _reasons(connection, "SELECT unnest(reasons) AS name, uid, NULL AS example FROM verdicts")


def problems(connection: duckdb.DuckDBPyConnection) -> list[Reason]:
    """Count the rows whose AltText has each problem."""
    return _reasons(
        connection,
        """
        SELECT alttext_problem AS name, verdicts.uid, left(caption, 200) AS example
        FROM verdicts JOIN crawl USING (key) WHERE alttext_problem IS NOT NULL""",
    )


def _reasons(connection: duckdb.DuckDBPyConnection, query: str) -> list[Reason]:
    counted = connection.execute(f"""
        SELECT name, count(*), arg_min(example, md5(uid), {EXAMPLES}) FROM ({query})
        GROUP BY 1 ORDER BY 2 DESC, 1""").fetchall()
    return [Reason(name, rows, tuple(dict.fromkeys(examples or ()))) for name, rows, examples in counted]
