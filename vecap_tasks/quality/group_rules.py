"""The rules that compare rows, for all rows of a crawl at once, computed by DuckDB.

To bound memory, each query reads few columns, aggregates or sorts, which DuckDB does on disk beyond its memory limit,
and keeps only the rows that a rule concerns. The rules are joined with the rows once; the result, the outcomes, is a
file that the measures read.
"""

# ruff: noqa: S608 - queries contain only this package's rules and quoted literals

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from math import ceil
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from vecap_tasks.config import QualityConfig, RowRules
from vecap_tasks.core.releases import Released
from vecap_tasks.core.schemas import VERDICTS
from vecap_tasks.core.tables import scan, write_rows
from vecap_tasks.quality.alttext_rules import all_matches, first_match, literal
from vecap_tasks.quality.rules import (
    FINAL,
    GROUP_RULES,
    HOST_CAP,
    REPEATED,
    SCORE,
    duplicate_rules,
    score_limits,
    score_rules,
)

# The columns of VERDICTS that rules which compare rows can change, for each row where they change one.
DECISIONS = pa.schema([VERDICTS.field(name) for name in ("key", "alttext_problem", "reasons", "released")])
_BATCH = 100_000
# Of a row, before the host caps and the releases.
_OUTCOME = """
    shard, key, uid, alttext_problem, reasons, row_problem, row_reasons,
    CASE WHEN alttext_problem IS NULL THEN length(alttext) END AS alttext_chars,
    downloaded, failure, host, language, side, draw, sha256 IS NOT NULL AS is_hashed"""


def apply_group_rules(
    connection: duckdb.DuckDBPyConnection, config: QualityConfig, released: Released, work: Path
) -> None:
    """Create the view `outcomes` from the views `judged` (files of `write_judged`) and `duplicates` (DUPLICATES).

    It has the columns `shard`, `key`, `uid`, `accepted`, `alttext_problem`, `reasons` and `released` of the verdict,
    `changed` (whether a rule that compares rows changed it), and columns for measures: `alttext_chars` (length of the
    usable AltText), `downloaded`, `failure`, `host`, `language`, `side` (shorter side in pixels), `draw` (a
    pseudorandom number derived from the uid) and `is_hashed` (whether it has a sha256). Its rows are unordered. *work*
    is a folder that must exist as long as the connection.

    One row per set of identical images is kept: rows that no other rule rejects come first, then rows with a usable
    AltText, then the order of keys. The others are rejected as `duplicate_image`. Near-duplicates and semantic
    duplicates (the kind `semantic` of `duplicates`) are handled the same way if the rules require it. Host caps apply
    last.
    """
    rules = config.rows
    connection.execute("SET preserve_insertion_order = false")  # saves memory; outputs are sorted
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE texts_often AS SELECT text_hash, true AS text_often FROM judged
        WHERE text_hash IS NOT NULL GROUP BY 1 HAVING count(*) > {rules.max_same_alttext}""")
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE images_often AS
        WITH many AS (
            SELECT image_hash FROM judged WHERE image_hash IS NOT NULL AND text_hash IS NOT NULL
            GROUP BY 1 HAVING count(*) > {rules.max_alttexts_per_image}
        )
        SELECT image_hash, true AS image_often FROM (
            SELECT DISTINCT image_hash, text_hash FROM judged SEMI JOIN many USING (image_hash)
            WHERE text_hash IS NOT NULL
        ) GROUP BY 1 HAVING count(*) > {rules.max_alttexts_per_image}""")
    connection.execute(f"""
        CREATE OR REPLACE TEMP VIEW grouped AS
        SELECT * REPLACE (
            list_concat(reasons, {all_matches([*GROUP_RULES, *score_rules(config)], rules)}) AS reasons)
        FROM (
            SELECT * REPLACE (coalesce(alttext_problem, {first_match([REPEATED], rules)}) AS alttext_problem)
            FROM (
                SELECT *, alttext_problem AS row_problem, reasons AS row_reasons{_thresholds(connection, config)}
                FROM judged
            )
            LEFT JOIN texts_often USING (text_hash) LEFT JOIN images_often USING (image_hash)
        )""")
    _rank_duplicates(connection, rules)
    connection.execute(f"""
        CREATE OR REPLACE TEMP VIEW ranked_rows AS
        SELECT grouped.* REPLACE (list_concat(reasons, {all_matches(duplicate_rules(config), rules)}) AS reasons)
        FROM grouped LEFT JOIN marked USING (key)""")
    _write_outcomes(connection, rules, released, work)


def _thresholds(connection: duckdb.DuckDBPyConnection, config: QualityConfig) -> str:
    """Return SQL columns with the smallest score in the `top_fraction` of each limited score of downloaded rows."""
    columns = ""
    for name, limits in sorted(score_limits(config).items()):
        if limits.top_fraction is not None:
            counts = f'SELECT -"{SCORE}{name}" AS value, count(*) AS rows FROM judged WHERE downloaded GROUP BY 1'
            (least,) = quantiles(connection, counts, [str(limits.top_fraction)])
            value = "NULL" if least is None else f"'{-least!r}'"  # a number in SQL would be a rounded decimal
            columns += f', {value}::DOUBLE AS "{SCORE}{name} least"'
    return columns


def quantiles(connection: duckdb.DuckDBPyConnection, counts: str, fractions: Sequence[str]) -> list[float | int | None]:
    """Return the value at each of *fractions*, like DuckDB's `quantile_disc`, which holds all values in memory.

    *counts* is SQL for the columns `value` and `rows`, one row per value. The result is None without values.
    """
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE running AS
        SELECT value, sum(rows) OVER (ORDER BY value) AS upto FROM ({counts}) WHERE value IS NOT NULL""")
    total = connection.execute("SELECT coalesce(max(upto), 0)::BIGINT FROM running").fetchall()[0][0]
    ranks = [max(1, ceil(Decimal(fraction) * total)) for fraction in fractions]
    values = ", ".join(f"min(value) FILTER (upto >= {rank})" for rank in ranks)
    return list(connection.execute(f"SELECT {values} FROM running").fetchall()[0])


def _rank_duplicates(connection: duckdb.DuckDBPyConnection, rules: RowRules) -> None:
    """Create the table `marked`: what the rules about duplicates need, for the rows that they reject, by key.

    `place` ranks the rows of an image, `near_place` the kept rows of near-duplicates, `semantic_place` those of
    semantic duplicates that are left, and `earlier` is true for an image of an earlier version.
    """
    for kind, is_used in (("exact", True), ("near", rules.reject_near_duplicates), ("semantic", True)):
        connection.execute(f"""
            CREATE OR REPLACE TEMP VIEW {kind} AS
            SELECT uid, duplicate_of AS first_uid FROM duplicates
            WHERE {is_used} AND kind = '{kind}' AND version IS NULL
            UNION SELECT duplicate_of, duplicate_of FROM duplicates
            WHERE {is_used} AND kind = '{kind}' AND version IS NULL""")
    connection.execute(f"""
        CREATE OR REPLACE TEMP VIEW earlier AS SELECT DISTINCT uid FROM duplicates
        WHERE {rules.reject_earlier_duplicates} AND version IS NOT NULL""")
    connection.execute("""
        CREATE OR REPLACE TEMP TABLE members AS
        SELECT key, uid, len(reasons) > 0 AS is_rejected, alttext_problem IS NOT NULL AS has_no_text
        FROM grouped SEMI JOIN (
            SELECT uid FROM exact UNION ALL SELECT uid FROM near UNION ALL SELECT uid FROM semantic
            UNION ALL SELECT uid FROM earlier
        ) USING (uid)""")
    connection.execute("""
        CREATE OR REPLACE TEMP TABLE ranked AS
        SELECT key, first_uid AS kept,
            row_number() OVER (PARTITION BY first_uid ORDER BY is_rejected, has_no_text, key) AS place
        FROM members JOIN exact USING (uid)""")
    # `duplicates` refers to the first row of each image; the kept row may be another one with the same bytes.
    place = "row_number() OVER (PARTITION BY first_uid ORDER BY is_rejected, has_no_text, members.key)"
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE near_ranked AS
        SELECT members.key, {place} AS near_place
        FROM members LEFT JOIN ranked USING (key) JOIN near ON near.uid = coalesce(kept, members.uid)
        WHERE coalesce(place, 1) = 1""")
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE marked AS
        SELECT key, max(place) AS place, max(near_place) AS near_place, max(semantic_place) AS semantic_place,
            bool_or(earlier) AS earlier
        FROM (
            SELECT key, place, NULL::BIGINT AS near_place, NULL::BIGINT AS semantic_place, NULL::BOOLEAN AS earlier
            FROM ranked WHERE place > 1
            UNION ALL SELECT key, NULL, near_place, NULL, NULL FROM near_ranked
            UNION ALL SELECT members.key, NULL, NULL, {place}, NULL
            FROM members LEFT JOIN ranked USING (key) LEFT JOIN near_ranked USING (key) ANTI JOIN earlier USING (uid)
            JOIN semantic ON semantic.uid = coalesce(kept, members.uid)
            WHERE coalesce(place, 1) = 1 AND coalesce(near_place, 1) = 1
            UNION ALL SELECT key, NULL, NULL, NULL, true FROM members SEMI JOIN earlier USING (uid)
        ) GROUP BY 1""")
    connection.execute("DROP TABLE members; DROP TABLE ranked; DROP TABLE near_ranked")


def _write_outcomes(connection: duckdb.DuckDBPyConnection, rules: RowRules, released: Released, work: Path) -> None:
    """Write the view `outcomes`: the host caps apply, and released reasons move from `reasons` to `released`."""
    rows = f"(SELECT {_OUTCOME}, false AS over_cap FROM ranked_rows)"
    if rules.max_host_rows is not None or rules.max_host_share is not None:
        ranked = _copy(connection, f"SELECT {_OUTCOME} FROM ranked_rows", work / "ranked.parquet")
        _cap_hosts(connection, rules, ranked)
        rows = f"{ranked} LEFT JOIN capped USING (key)"
    rows = f"(SELECT * REPLACE (list_concat(reasons, {all_matches([HOST_CAP], rules)}) AS reasons) FROM {rows})"
    kept, waived = "reasons", "NULL::VARCHAR[]"
    if released:
        connection.execute("CREATE OR REPLACE TEMP TABLE released_uids (uid VARCHAR, all_reasons BOOLEAN)")
        connection.execute("INSERT INTO released_uids SELECT unnest($1::VARCHAR[]), true", [list(released.uids)])
        is_waived = f"coalesce(all_reasons, false) OR list_contains({_string_list(released.reasons)}, name)"
        is_waived = f"({is_waived}) AND NOT list_contains({_string_list(FINAL)}, name)"
        kept = f"list_filter(reasons, lambda name: NOT ({is_waived}))"
        waived = f"nullif(list_filter(reasons, lambda name: {is_waived}), [])"
        rows += " LEFT JOIN released_uids USING (uid)"
    query = f"""
        SELECT * EXCLUDE (row_problem, row_reasons, over_cap), len(reasons) = 0 AS accepted,
            reasons IS DISTINCT FROM row_reasons OR alttext_problem IS DISTINCT FROM row_problem
                OR released IS NOT NULL AS changed
        FROM (SELECT * REPLACE ({kept} AS reasons), {waived} AS released FROM {rows})"""
    outcomes = _copy(connection, query, work / "outcomes.parquet")
    connection.execute(f"CREATE OR REPLACE TEMP VIEW outcomes AS FROM {outcomes}")


def _copy(connection: duckdb.DuckDBPyConnection, query: str, path: Path) -> str:
    """Write the rows of *query* to the file *path*, and return SQL that reads it."""
    connection.execute(f"COPY ({query}) TO $1 (FORMAT parquet, COMPRESSION lz4_raw)", [str(path)])
    return f"(SELECT * EXCLUDE (filename) FROM {scan([str(path)])})"


def _cap_hosts(connection: duckdb.DuckDBPyConnection, rules: RowRules, ranked: str) -> None:
    """Create the table `capped`: rows of *ranked* over their host's cap, in the order of `draw`."""
    caps = []
    if rules.max_host_rows is not None:
        caps.append(str(rules.max_host_rows))
    if rules.max_host_share is not None:
        caps.append(f"greatest(1, floor({rules.max_host_share!r} * accepted))")
    cap = f"SELECT least({', '.join(caps)}) FROM (SELECT count(*) AS accepted FROM {ranked} WHERE len(reasons) = 0)"
    connection.execute(f"SET VARIABLE cap = ({cap})")
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE crowded AS SELECT host FROM {ranked} WHERE len(reasons) = 0
        GROUP BY 1 HAVING count(*) > getvariable('cap')""")
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE capped AS
        SELECT key, true AS over_cap FROM {ranked} SEMI JOIN crowded USING (host) WHERE len(reasons) = 0
        QUALIFY row_number() OVER (PARTITION BY host ORDER BY draw, key) > getvariable('cap')""")


def _string_list(names: Sequence[str]) -> str:
    return f"[{', '.join(literal(name) for name in names)}]::VARCHAR[]"


def write_decisions(connection: duckdb.DuckDBPyConnection, shards: Sequence[str], folder: Path) -> Iterator[Path]:
    """Write DECISIONS from the view `outcomes` for each of *shards*, in order, to `{shard}.parquet` in *folder*.

    Yields each path; the caller moves or deletes the file. Deterministic.
    """
    changed = connection.sql(f"""
        SELECT shard, {", ".join(DECISIONS.names)} FROM outcomes WHERE changed ORDER BY shard, key, uid""")
    parts = _parts(changed.to_arrow_reader(_BATCH))
    name, rows = next(parts, (None, None))
    for shard in shards:
        found = []
        while name == shard and rows is not None:
            found.append(rows)
            name, rows = next(parts, (None, None))
        write_rows(found, DECISIONS, folder / f"{shard}.parquet")
        yield folder / f"{shard}.parquet"


def _parts(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Yield the rows of *batches*, sorted by the column `shard`, in parts of one shard, with the shard."""
    for batch in batches:
        start = 0
        for run in pc.run_end_encode(batch["shard"]).run_ends.to_pylist():
            yield batch["shard"][start].as_py(), batch.slice(start, run - start)
            start = run
