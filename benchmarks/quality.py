"""The quality rules over millions of rows: time and memory of the stage's queries and of one equivalent query.

    python -m benchmarks.quality [--json FILE] [--rows 10000000] [--rounds 1] [--folder DIR]

DuckDB generates the crawl. Each side runs in its own process with DuckDB's memory limit. Theirs is one handwritten
query with all rules, from the crawl's table to a file with the same verdicts in the same order. Ours is the work of the
stage before the quality gate: verdicts, counts, distributions, reasons with examples, and the sample.
"""

# ruff: noqa: S608 - queries are built from the project's rules and names in this file

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
from vecap_tasks.quality.alttext_rules import ALTTEXT_RULES, add_functions, all_matches, first_match
from vecap_tasks.quality.measures import measure, write_sample
from vecap_tasks.quality.rules import DUPLICATE_RULES, GROUP_RULES, REPEATED, ROW_RULES
from vecap_tasks.quality.verdicts import compute_verdicts, texts, write_verdicts

_MEMORY = "1GB"  # DuckDB's limit; the process may use twice that
_LIMIT_MIB = 2048


@dataclass(frozen=True, slots=True)
class Run:
    """Cost of one side: wall clock and CPU in seconds, peak resident memory in MiB, and a checksum of all verdicts."""

    seconds: float
    verdicts_seconds: float
    cpu: float
    peak: float
    verdicts: str


def generate_crawl(rows: int, folder: Path) -> None:
    """Write CRAWL and DUPLICATES with *rows* rows: a fifth failed to download, a tenth repeats the previous image."""
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
    """Do the work of the stage; return the seconds until the verdicts were written."""
    config = QualityConfig()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=folder) as work, _connection(folder) as connection:
        compute_verdicts(connection, config, Path(work))
        write_verdicts(connection, folder / "ours.parquet")
        seconds = time.perf_counter() - start
        measured = measure(connection)
        write_sample(connection, config.sample_rows, Path(work) / "sample.parquet")
    if measured.measures.rows_without_verdict or measured.measures.repeated_uids:
        raise AssertionError("the generated crawl has unexpected measures")
    return seconds


def single_query(folder: Path) -> float:
    """Run the single query; return its seconds."""
    rules = QualityConfig().rows
    start = time.perf_counter()
    with _connection(folder) as connection:
        add_functions(connection)
        connection.execute("SET preserve_insertion_order = false")
        connection.execute(f"""
            COPY (
                WITH checked AS MATERIALIZED (
                    SELECT key, uid, sha256, text, phash, downloaded,
                        {first_match(ALTTEXT_RULES, rules)} AS alttext_problem,
                        {all_matches(ROW_RULES, rules)} AS reasons
                    FROM ({texts("crawl", rules)})
                ), repeated_texts AS (
                    SELECT lower(text) AS lowered, true AS text_often FROM checked WHERE text IS NOT NULL
                    GROUP BY 1 HAVING count(*) > {rules.max_same_alttext}
                ), varied_images AS (
                    SELECT coalesce(phash, sha256) AS image_key, true AS image_often FROM checked WHERE downloaded
                    GROUP BY 1 HAVING count(DISTINCT lower(text)) > {rules.max_alttexts_per_image}
                ), compared AS (
                    SELECT * REPLACE (list_concat(reasons, {all_matches(GROUP_RULES, rules)}) AS reasons)
                    FROM (
                        SELECT checked.* REPLACE (
                            coalesce(alttext_problem, {first_match([REPEATED], rules)}) AS alttext_problem),
                            image_often
                        FROM checked LEFT JOIN repeated_texts ON lower(text) = lowered
                        LEFT JOIN varied_images ON downloaded AND coalesce(phash, sha256) = image_key
                    )
                ), twins AS (
                    SELECT uid, duplicate_of AS kept FROM duplicates
                    UNION SELECT duplicate_of, duplicate_of FROM duplicates
                ), ranked AS (
                    SELECT *, CASE WHEN kept IS NOT NULL THEN row_number() OVER (
                        PARTITION BY kept ORDER BY len(reasons) > 0, alttext_problem IS NOT NULL, key) END AS place,
                        NULL AS near_place, false AS earlier
                    FROM compared LEFT JOIN twins USING (uid)
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


def _run_side(side: str, folder: Path) -> Run:
    """Run *side* in a separate process."""
    command = [sys.executable, "-m", "benchmarks.quality", "--side", side, "--folder", str(folder)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return Run(**json.loads(result.stdout))


def _measure_side(side: str, folder: Path) -> Run:
    start = time.perf_counter()
    verdicts_seconds = ours(folder) if side == "ours" else single_query(folder)
    seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_SELF)
    with _connection(folder) as connection:  # compares rows: the files may differ in row groups
        verdicts = connection.execute(f"""
            SELECT count(*) || ' rows, ' || sum(hash(key, uid, sha256, accepted, alttext, alttext_problem, reasons))
            FROM read_parquet('{folder / side}.parquet')""").fetchall()[0][0]
    return Run(seconds, verdicts_seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, verdicts)


def run(rows: int, rounds: int, folder: Path) -> list[Measure]:
    """Measure both sides on the crawl in *folder*, generating it if missing.

    Raises AssertionError if their verdicts differ.
    """
    if not (folder / "crawl.parquet").exists():
        generate_crawl(rows, folder)
    our_runs, their_runs = alternate(rounds, lambda: _run_side("ours", folder), lambda: _run_side("bare", folder))
    if len({run.verdicts for run in (*our_runs, *their_runs)}) != 1:
        raise AssertionError("the verdicts of both sides differ")
    size = (folder / "crawl.parquet").stat().st_size / 2**20
    conditions = f"{rows} rows, {size:.0f} MiB of parquet, DuckDB {duckdb.__version__} with {_MEMORY}, {rounds} rounds"
    conditions = f"{conditions}, {machine()}"
    single = median(run.seconds for run in their_runs)
    cpu = [median(run.cpu for run in side) for side in (our_runs, their_runs)]
    return [
        Measure("verdicts", "s", median(run.verdicts_seconds for run in our_runs), single, None, conditions),
        Measure(
            "all queries of the stage", "s", median(run.seconds for run in our_runs), single, 1.5 * single, conditions,
        ),
        Measure("all queries of the stage, CPU", "s", *cpu, None, conditions),
        Measure(
            "peak memory", "MiB", max(run.peak for run in our_runs), max(run.peak for run in their_runs), _LIMIT_MIB,
            "of the whole process, including Python and pyarrow",
        ),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the measures to this file")
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows of the crawl (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=1, help="rounds of both sides (default %(default)s)")
    parser.add_argument("--side", choices=("ours", "bare"), help=argparse.SUPPRESS)
    parser.add_argument(
        "--folder", type=Path, help="folder for the files, empty or from an earlier run; files are kept"
    )
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(asdict(_measure_side(arguments.side, arguments.folder))))
        return
    with tempfile.TemporaryDirectory(prefix="vecap-quality-") as temporary:
        folder = arguments.folder or Path(temporary)
        report(run(arguments.rows, arguments.rounds, folder), arguments.json)


if __name__ == "__main__":
    main()
