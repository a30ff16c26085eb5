"""The rules over millions of rows: our stage's queries beside the one query that they amount to, time and memory.

    python -m benchmarks.quality [--json FILE] [--rows 10000000] [--rounds 1] [--folder DIR]

The crawl is made up by DuckDB. Each side runs in a process of its own, with the memory limit given to DuckDB. Theirs is
one hand-put query with every rule in it, from the crawl's table to a file of the same verdicts in their order. Ours is
what the stage does before the judge: verdicts, counts, distributions, reasons with examples, the sample.
"""

# ruff: noqa: S608 - the queries are put together from the project's own rules and this file's own names

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import duckdb

from benchmarks.report import Measure, alternate, machine, median, report
from vecap_tasks.config import QualityConfig
from vecap_tasks.core.tables import ROW_GROUP
from vecap_tasks.quality.alttext_rules import ALTTEXT_RULES, all_matches, first_match
from vecap_tasks.quality.measures import measure, write_sample
from vecap_tasks.quality.rules import DUPLICATE_RULES, GROUP_RULES, REPEATED, ROW_RULES
from vecap_tasks.quality.verdicts import compute_verdicts, texts, write_verdicts

_MEMORY = "1GB"  # DuckDB's own limit; the process may take twice that
_LIMIT_MIB = 2048


@dataclass(frozen=True, slots=True)
class Run:
    """One side's run: wall clock and CPU in seconds, peak resident memory in MiB, and a sum over all verdicts."""

    seconds: float
    verdicts_seconds: float
    cpu: float
    peak: float
    verdicts: str


def make_crawl(rows: int, folder: Path) -> None:
    """Write CRAWL and DUPLICATES of *rows* rows: a fifth was not downloaded, a tenth shows what a row before shows."""
    with _connection(folder) as connection:
        connection.execute("SET preserve_insertion_order = true")
        connection.execute(f"""
            COPY (
                SELECT printf('%05d%04d', i // 10000, i % 10000) AS key, md5(i::VARCHAR) AS uid,
                    'https://host' || hash(i) % 5000 || '.example/images/' || i || '.jpg' AS url,
                    CASE i % 10 WHEN 0 THEN NULL WHEN 1 THEN 'IMG_' || i || '.jpg' WHEN 2 THEN 'Add to basket'
                        WHEN 3 THEN 'A heron &amp; a beagle, number ' || i
                        ELSE ['A red', 'An old', 'The small', 'Our blue'][1 + (hash(i + 1) % 4)::BIGINT]
                            || [' boat', ' castle', ' bicycle', ' orchard', ' tower'][1 + (hash(i + 2) % 5)::BIGINT]
                            || ' by the river, seen from the north in spring ' || i END AS caption,
                    NULL::VARCHAR AS page_url, NULL::VARCHAR AS page_title, NULL::VARCHAR AS figcaption,
                    ['en', 'de-CH', NULL][1 + (hash(i + 3) % 3)::BIGINT] AS language, 'made' AS source,
                    NULL::VARCHAR AS scores,
                    NULL::VARCHAR AS stored_in, NULL::BIGINT AS stored_at, NULL::BIGINT AS stored_bytes,
                    CASE WHEN had THEN 'success' ELSE 'failed_to_download' END AS status,
                    CASE WHEN NOT had THEN ['http_404', 'timeout: 30 s', 'robots'][1 + (hash(i + 4) % 3)::BIGINT] END
                        AS error_message,
                    256::INTEGER AS width, 192::INTEGER AS height, (20 + hash(i + 5) % 2000)::INTEGER AS original_width,
                    (20 + hash(i + 6) % 1500)::INTEGER AS original_height, 'JPEG' AS original_format,
                    100000::BIGINT AS original_bytes, '{{}}' AS exif,
                    CASE WHEN had THEN md5(shown::VARCHAR) || md5((shown + 1)::VARCHAR) END AS sha256,
                    CASE WHEN had AND i % 1000 > 0 THEN printf('%016x', hash(shown)) END AS phash
                FROM (
                    SELECT i, i % 5 > 0 AS had, CASE WHEN i % 10 = 9 THEN i - 1 ELSE i END AS shown
                    FROM range({rows}) AS made(i)
                )
            ) TO '{folder / "crawl.parquet"}' (COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP})""")
        connection.execute(f"""
            COPY (
                SELECT printf('%05d%04d', i // 10000, i % 10000) AS key, md5(i::VARCHAR) AS uid,
                    md5((i - 1)::VARCHAR) AS duplicate_of, 'exact' AS kind, 0 AS distance, NULL::VARCHAR AS version
                FROM range(9, {rows}, 10) AS made(i)
            ) TO '{folder / "duplicates.parquet"}' (COMPRESSION zstd)""")


def ours(folder: Path) -> float:
    """Do what the stage does; return the seconds until the verdicts were written."""
    config = QualityConfig()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=folder) as work, _connection(folder) as connection:
        compute_verdicts(connection, config, Path(work))
        write_verdicts(connection, folder / "ours.parquet")
        seconds = time.perf_counter() - start
        measured = measure(connection)
        write_sample(connection, config.sample_rows, Path(work) / "sample.parquet")
    if measured.measures.rows_without_verdict or measured.measures.repeated_uids:
        raise AssertionError("the made crawl is not what it is meant to be")
    return seconds


def bare(folder: Path) -> float:
    """Run the one query; return its seconds."""
    rules = QualityConfig().rows
    start = time.perf_counter()
    with _connection(folder) as connection:
        connection.execute("SET preserve_insertion_order = false")
        connection.execute(f"""
            COPY (
                WITH alone AS MATERIALIZED (
                    SELECT key, uid, sha256, text, phash, downloaded,
                        {first_match(ALTTEXT_RULES, rules)} AS alttext_problem,
                        {all_matches(ROW_RULES, rules)} AS reasons
                    FROM ({texts("crawl", rules)})
                ), often AS (
                    SELECT lower(text) AS said, true AS text_often FROM alone WHERE text IS NOT NULL
                    GROUP BY 1 HAVING count(*) > {rules.max_same_alttext}
                ), shown AS (
                    SELECT coalesce(phash, sha256) AS picture, true AS image_often FROM alone WHERE downloaded
                    GROUP BY 1 HAVING count(DISTINCT lower(text)) > {rules.max_alttexts_per_image}
                ), beside AS (
                    SELECT * REPLACE (list_concat(reasons, {all_matches(GROUP_RULES, rules)}) AS reasons)
                    FROM (
                        SELECT alone.* REPLACE (
                            coalesce(alttext_problem, {first_match([REPEATED], rules)}) AS alttext_problem),
                            image_often
                        FROM alone LEFT JOIN often ON lower(text) = said
                        LEFT JOIN shown ON downloaded AND coalesce(phash, sha256) = picture
                    )
                ), twins AS (
                    SELECT uid, duplicate_of AS kept FROM duplicates
                    UNION SELECT duplicate_of, duplicate_of FROM duplicates
                ), ranked AS (
                    SELECT *, CASE WHEN kept IS NOT NULL THEN row_number() OVER (
                        PARTITION BY kept ORDER BY len(reasons) > 0, alttext_problem IS NOT NULL, key) END AS place,
                        NULL AS near_place, false AS earlier
                    FROM beside LEFT JOIN twins USING (uid)
                )
                SELECT key, uid, sha256, len(all_reasons) = 0 AS accepted,
                    CASE WHEN alttext_problem IS NULL THEN text END AS alttext, alttext_problem,
                    all_reasons AS reasons, NULL::VARCHAR[] AS released
                FROM (
                    SELECT *, list_concat(reasons, {all_matches(DUPLICATE_RULES, rules)}) AS all_reasons FROM ranked
                )
                ORDER BY key, uid
            ) TO '{folder / "bare.parquet"}' (COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP})""")
    return time.perf_counter() - start


def _connection(folder: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(config={"temp_directory": str(folder / "spill")})
    connection.execute(f"SET memory_limit = '{_MEMORY}'; SET enable_progress_bar = false")
    for name in ("crawl", "duplicates"):
        if (folder / f"{name}.parquet").exists():
            connection.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{folder / name}.parquet')")
    return connection


def _child(side: str, folder: Path) -> Run:
    """Run *side* in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.quality", "--side", side, "--folder", str(folder)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return Run(**json.loads(answer.stdout))


def _measured(side: str, folder: Path) -> Run:
    start = time.perf_counter()
    verdicts_seconds = ours(folder) if side == "ours" else bare(folder)
    seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_SELF)
    with _connection(folder) as connection:  # the rows, not the bytes: one query cuts row groups as it likes
        verdicts = connection.execute(f"""
            SELECT count(*) || ' rows, ' || sum(hash(key, uid, sha256, accepted, alttext, alttext_problem, reasons))
            FROM read_parquet('{folder / side}.parquet')""").fetchall()[0][0]
    return Run(seconds, verdicts_seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, verdicts)


def run(rows: int, rounds: int, folder: Path) -> list[Measure]:
    """Measure both sides on a crawl in *folder*, which is made if there is none.

    Raises AssertionError where their verdicts are not the same.
    """
    if not (folder / "crawl.parquet").exists():
        make_crawl(rows, folder)
    mine, theirs = alternate(rounds, lambda: _child("ours", folder), lambda: _child("bare", folder))
    if len({one.verdicts for one in (*mine, *theirs)}) != 1:
        raise AssertionError("the two sides came to other verdicts; the comparison says nothing")
    size = (folder / "crawl.parquet").stat().st_size / 2**20
    said = f"{rows} rows, {size:.0f} MiB of parquet, DuckDB {duckdb.__version__} with {_MEMORY}, {rounds} rounds"
    said = f"{said}, {machine()}"
    least = median(one.seconds for one in theirs)
    cpu = [median(one.cpu for one in side) for side in (mine, theirs)]
    return [
        Measure("verdicts", "s", median(one.verdicts_seconds for one in mine), least, None, said),
        Measure("all of the stage's queries", "s", median(one.seconds for one in mine), least, 1.5 * least, said),
        Measure("CPU, all of them", "s", *cpu, None, said),
        Measure(
            "peak memory", "MiB", max(one.peak for one in mine), max(one.peak for one in theirs), _LIMIT_MIB,
            "of the whole process, Python and pyarrow with it",
        ),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the measures to this file")
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows of the crawl (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=1, help="rounds of both sides (default %(default)s)")
    parser.add_argument("--side", choices=("ours", "bare"), help=argparse.SUPPRESS)
    parser.add_argument(
        "--folder", type=Path, help="an empty folder for the files, or one of such a run: they are kept"
    )
    given = parser.parse_args()
    if given.side:
        print(json.dumps(asdict(_measured(given.side, given.folder))))
        return
    with tempfile.TemporaryDirectory(prefix="vecap-quality-") as temporary:
        folder = given.folder or Path(temporary)
        report(run(given.rows, given.rounds, folder), given.json)


if __name__ == "__main__":
    main()
