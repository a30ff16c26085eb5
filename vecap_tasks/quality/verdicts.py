"""Verdicts on all rows of a crawl, computed by DuckDB from parquet to parquet.

DuckDB spills data over its memory limit to the work folder.

each crawl shard ── row rules (`write_judged`) ── judged rows ─┬─ verdicts of the shard (`open_verdicts`)
all judged rows ── group rules (`apply_group_rules`) ── decisions of each shard (`write_decisions`) ─┘
"""

# ruff: noqa: S608 - queries contain only this package's rules and quoted literals

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from vecap_tasks.config import QualityConfig, RowRules
from vecap_tasks.core.private_data import HIDDEN
from vecap_tasks.core.releases import Released
from vecap_tasks.core.schemas import VERDICTS
from vecap_tasks.core.tables import scan, write_rows, write_sorted
from vecap_tasks.quality.alttext_rules import ALTTEXT_RULES, add_functions, all_matches, cleaned, first_match, literal
from vecap_tasks.quality.rules import (
    CLIP_SCORE,
    DUPLICATE_RULES,
    FINAL,
    GROUP_RULES,
    HOST_CAP,
    REPEATED,
    ROW_RULES,
    SCORE,
    score_limits,
    score_rules,
)

# Scripts (RE2 names) by ISO 639-1 language code; all other languages use Latin.
SCRIPTS = {
    "ar": ("Arabic",), "fa": ("Arabic",), "ur": ("Arabic",), "he": ("Hebrew",), "el": ("Greek",),
    "ru": ("Cyrillic",), "uk": ("Cyrillic",), "bg": ("Cyrillic",), "sr": ("Cyrillic", "Latin"),
    "ja": ("Han", "Hiragana", "Katakana"), "zh": ("Han", "Bopomofo"), "ko": ("Hangul", "Han"),
    "hi": ("Devanagari",), "mr": ("Devanagari",), "bn": ("Bengali",), "ta": ("Tamil",), "th": ("Thai",),
    "ka": ("Georgian",), "hy": ("Armenian",), "am": ("Ethiopic",),
}  # fmt: skip
_NO_LETTER = r"\P{L}"
_NO_DIGIT = r"\P{Nd}"
_NO_IDEOGRAPH = r"[^\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]"
_WORD = r"[\p{L}\p{M}\p{N}]+"
_HOST = "://([^/:?#]+)"
_MAX_CAPTION_CHARS = 4_000  # of the AltText as crawled, for the examples of the report; not if it is private
# Of a crawl's row, for the report and the sample.
_CRAWL_COLUMNS = "key, uid, url, status, width, height, original_width, original_height, sha256"
# The columns of VERDICTS that rules which compare rows can change, for each row where they change one.
DECISIONS = pa.schema([VERDICTS.field(name) for name in ("key", "alttext_problem", "reasons", "released")])
_BATCH = 100_000


def compute_verdicts(
    connection: duckdb.DuckDBPyConnection, config: QualityConfig, work: Path, released: Released | None = None
) -> None:
    """Create the view `verdicts` from `crawl` (CRAWL), `duplicates` (DUPLICATES) and, with a CLIP model, `scores`
    (SCORES).

    The view has the columns of VERDICTS, and columns for measures: `downloaded`, `failure`, `host`, `language`, `side`
    (shorter side in pixels) and `draw` (a pseudorandom number derived from the uid). Its rows are unordered. *work* is
    a folder that must exist as long as the connection.
    """
    connection.execute("SET preserve_insertion_order = false")  # saves memory; outputs are sorted
    write_judged(connection, config, "", work / "judged.parquet")
    create_judged(connection, [str(work / "judged.parquet")])
    apply_group_rules(connection, config, released or Released())


def create_judged(connection: duckdb.DuckDBPyConnection, paths: Sequence[str]) -> None:
    """Create the view `judged` of the files *paths* of `write_judged`."""
    connection.execute(f"CREATE OR REPLACE TEMP VIEW judged AS SELECT * EXCLUDE (filename) FROM {scan(paths)}")


def open_judged(connection: duckdb.DuckDBPyConnection, paths: Sequence[str]) -> None:
    """Create the views `judged` and `crawl` of the files *paths* of `write_judged`, for rules that compare rows."""
    connection.execute("SET preserve_insertion_order = false")  # saves memory; outputs are sorted
    create_judged(connection, paths)
    connection.execute(f"CREATE OR REPLACE TEMP VIEW crawl AS SELECT {_CRAWL_COLUMNS}, caption FROM {scan(paths)}")


def write_judged(connection: duckdb.DuckDBPyConnection, config: QualityConfig, shard: str, path: Path) -> None:
    """Apply the rules about single rows to the view `crawl`, the crawl shard *shard*, and write the result to *path*.

    The view `scores` has the CLIP scores, if a CLIP model is configured.
    """
    add_functions(connection)
    rules = config.rows
    source = "crawl"
    if config.clip is not None:
        source = f'crawl LEFT JOIN (SELECT key, similarity AS "{CLIP_SCORE}" FROM scores) USING (key)'
    scores = "".join(f', {_score(name)} AS "{SCORE}{name}"' for name in sorted(score_limits(config)))
    query = f"""
        COPY (
            SELECT key, uid, sha256, CASE WHEN alttext_problem IS NULL THEN text END AS alttext, alttext_problem,
                hash(lower(text)) AS text_hash,
                CASE WHEN downloaded THEN hash(coalesce(phash, sha256)) END AS image_hash,
                {all_matches(ROW_RULES, rules)} AS reasons, {literal(shard)} AS shard, url, status,
                CASE alttext_problem WHEN 'private_data' THEN {literal(HIDDEN)}
                    ELSE left(raw, {_MAX_CAPTION_CHARS}) END AS caption,
                width, height, original_width, original_height,
                downloaded, failure, lower(regexp_extract(url, {literal(_HOST)}, 1)) AS host, language,
                least(original_width, original_height) AS side, md5_number_lower(uid) AS draw{scores}
            FROM (SELECT *, {first_match(ALTTEXT_RULES, rules)} AS alttext_problem FROM ({texts(source, rules)}))
        ) TO $1 (FORMAT parquet, COMPRESSION lz4_raw)"""
    connection.execute(query, [str(path)])


def texts(source: str, rules: RowRules) -> str:
    """Return SQL for the rows of *source* (CRAWL) with the columns that rules about single rows use."""
    foreign = "0"
    if rules.languages:
        scripts = {script for code in rules.languages for script in SCRIPTS.get(code, ("Latin",))}
        known = "".join(rf"\p{{{script}}}" for script in sorted(scripts))
        foreign = _count_without("text", rf"[\P{{L}}{known}]")
    return f"""
        SELECT * EXCLUDE (caption), caption AS raw, regexp_extract_all(lower(text), {literal(_WORD)}) AS words,
            {_count_without("text", _NO_LETTER)} AS letters, {_count_without("text", _NO_DIGIT)} AS digits,
            {_count_without("text", _NO_IDEOGRAPH)} AS ideographs, {foreign} AS foreign_letters
        FROM (
            SELECT *, {cleaned("caption")} AS text, status = 'success' AS downloaded,
                CASE WHEN status != 'success' THEN trim(split_part(error_message, ':', 1)) END AS failure
            FROM {source}
        )"""


def _count_without(column: str, pattern: str) -> str:
    """Return SQL for the number of characters of *column* that do not match *pattern* (faster than extracting them)."""
    return f"length(regexp_replace({column}, {literal(f'(?:{pattern})+')}, '', 'g'))"


def _score(name: str) -> str:
    """Return SQL for a score; null if it is not a finite number. The CLIP score requires a usable AltText."""
    if name == CLIP_SCORE:
        return f'CASE WHEN alttext_problem IS NULL THEN "{CLIP_SCORE}" END'
    number = f"CASE WHEN json_valid(scores) THEN TRY_CAST(json_extract_string(scores, '$.{name}') AS DOUBLE) END"
    return f"CASE WHEN isfinite({number}) THEN {number} END"


def apply_group_rules(connection: duckdb.DuckDBPyConnection, config: QualityConfig, released: Released) -> None:
    """Create the view `verdicts` from the view `judged` and the table `duplicates`.

    One row per set of identical images is kept: rows that no other rule rejects come first, then rows with a usable
    AltText, then the order of keys. The others are rejected as `duplicate_image`. Near-duplicates are handled the same
    way if the rules require it. Host caps apply last.
    """
    rules = config.rows
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE texts_often AS SELECT text_hash, true AS text_often FROM judged
        WHERE text_hash IS NOT NULL GROUP BY 1 HAVING count(*) > {rules.max_same_alttext}""")
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE images_often AS
        WITH many AS (
            SELECT image_hash FROM judged WHERE image_hash IS NOT NULL AND text_hash IS NOT NULL
            GROUP BY 1 HAVING count(*) > {rules.max_alttexts_per_image}
        )
        SELECT image_hash, true AS image_often FROM judged SEMI JOIN many USING (image_hash)
        GROUP BY 1 HAVING count(DISTINCT text_hash) > {rules.max_alttexts_per_image}""")
    query = f"SELECT {_top_fraction_thresholds(config)} FROM judged WHERE downloaded"
    connection.execute(f"CREATE OR REPLACE TEMP TABLE thresholds AS {query}")
    connection.execute(f"""
        CREATE OR REPLACE TEMP VIEW grouped AS
        SELECT * REPLACE (
            CASE WHEN {REPEATED.condition(rules)} THEN NULL ELSE alttext END AS alttext,
            list_concat(reasons, {all_matches([*GROUP_RULES, *score_rules(config)], rules)}) AS reasons)
        FROM (
            SELECT * REPLACE (coalesce(alttext_problem, {first_match([REPEATED], rules)}) AS alttext_problem)
            FROM (SELECT *, alttext_problem AS row_problem, reasons AS row_reasons FROM judged)
            LEFT JOIN texts_often USING (text_hash) LEFT JOIN images_often USING (image_hash), thresholds
        )""")
    _rank_duplicates(connection)
    connection.execute(f"""
        CREATE OR REPLACE TEMP VIEW ranked_rows AS
        SELECT * REPLACE (list_concat(reasons, {all_matches(DUPLICATE_RULES, rules)}) AS reasons)
        FROM grouped LEFT JOIN ranked USING (uid) LEFT JOIN near_ranked USING (uid)
        LEFT JOIN (SELECT DISTINCT uid, true AS earlier FROM duplicates WHERE version IS NOT NULL) USING (uid)""")
    _cap_hosts(connection, rules)
    _apply_releases(connection, rules, released)


def _top_fraction_thresholds(config: QualityConfig) -> str:
    """Return SQL columns with the smallest score in the `top_fraction` of each limited score."""
    columns = [
        f'-quantile_disc(-"{SCORE}{name}", {limits.top_fraction!r}) AS "{SCORE}{name} least"'
        for name, limits in sorted(score_limits(config).items())
        if limits.top_fraction is not None
    ]
    return ", ".join(columns) or "count(*) AS downloads"


def _rank_duplicates(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("""
        CREATE OR REPLACE TEMP TABLE ranked AS
        WITH exact AS (
            SELECT uid, duplicate_of AS kept FROM duplicates WHERE kind = 'exact' AND version IS NULL
            UNION SELECT duplicate_of, duplicate_of FROM duplicates WHERE kind = 'exact' AND version IS NULL
        )
        SELECT uid, kept, row_number() OVER (PARTITION BY kept ORDER BY len(reasons) > 0, alttext IS NULL, key) AS place
        FROM grouped JOIN exact USING (uid)""")
    # `duplicates` refers to the first row of each image; the kept row may be another one with the same bytes.
    connection.execute("""
        CREATE OR REPLACE TEMP TABLE near_ranked AS
        WITH near AS (
            SELECT uid, duplicate_of AS first_uid FROM duplicates WHERE kind = 'near' AND version IS NULL
            UNION SELECT duplicate_of, duplicate_of FROM duplicates WHERE kind = 'near' AND version IS NULL
        )
        SELECT grouped.uid,
            row_number() OVER (PARTITION BY first_uid ORDER BY len(reasons) > 0, alttext IS NULL, key) AS near_place
        FROM grouped LEFT JOIN ranked USING (uid) JOIN near ON near.uid = coalesce(ranked.kept, grouped.uid)
        WHERE coalesce(place, 1) = 1""")


def _cap_hosts(connection: duckdb.DuckDBPyConnection, rules: RowRules) -> None:
    """Create the table `capped`: rows over their host's cap, in the order of `draw`."""
    caps = []
    if rules.max_host_rows is not None:
        caps.append(str(rules.max_host_rows))
    if rules.max_host_share is not None:
        caps.append(f"greatest(1, floor({rules.max_host_share!r} * count(*) OVER ()))")
    query = "SELECT NULL::VARCHAR AS key, true AS over_cap LIMIT 0"
    if caps:
        query = f"""
            SELECT key, true AS over_cap FROM ranked_rows WHERE len(reasons) = 0
            QUALIFY row_number() OVER (PARTITION BY host ORDER BY draw, key) > least({", ".join(caps)})"""
    connection.execute(f"CREATE OR REPLACE TEMP TABLE capped AS {query}")


def _apply_releases(connection: duckdb.DuckDBPyConnection, rules: RowRules, released: Released) -> None:
    """Create the view `verdicts`: released reasons move from `reasons` to `released`."""
    capped = f"""
        SELECT ranked_rows.* REPLACE (list_concat(reasons, {all_matches([HOST_CAP], rules)}) AS reasons)
        FROM ranked_rows LEFT JOIN capped USING (key)"""
    kept, waived, rows = "reasons", "NULL::VARCHAR[]", f"({capped})"
    if released:
        connection.execute("CREATE OR REPLACE TEMP TABLE released_uids (uid VARCHAR, all_reasons BOOLEAN)")
        connection.execute("INSERT INTO released_uids SELECT unnest($1::VARCHAR[]), true", [list(released.uids)])
        is_waived = f"coalesce(all_reasons, false) OR list_contains({_string_list(released.reasons)}, name)"
        is_waived = f"({is_waived}) AND NOT list_contains({_string_list(FINAL)}, name)"
        kept = f"list_filter(reasons, lambda name: NOT ({is_waived}))"
        waived = f"nullif(list_filter(reasons, lambda name: {is_waived}), [])"
        rows += " LEFT JOIN released_uids USING (uid)"
    connection.execute(f"""
        CREATE OR REPLACE TEMP VIEW verdicts AS
        SELECT *, len(reasons) = 0 AS accepted
        FROM (SELECT * REPLACE ({kept} AS reasons), {waived} AS released FROM {rows})""")


def _string_list(names: Sequence[str]) -> str:
    return f"[{', '.join(literal(name) for name in names)}]::VARCHAR[]"


def write_decisions(connection: duckdb.DuckDBPyConnection, shards: Sequence[str], folder: Path) -> Iterator[Path]:
    """Write DECISIONS from the view `verdicts` for each of *shards*, in order, to `{shard}.parquet` in *folder*.

    Yields each path; the caller moves or deletes the file. Deterministic.
    """
    changed = connection.sql(f"""
        SELECT shard, {", ".join(DECISIONS.names)} FROM verdicts
        WHERE reasons IS DISTINCT FROM row_reasons OR alttext_problem IS DISTINCT FROM row_problem
            OR released IS NOT NULL
        ORDER BY shard, key, uid""")
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


def open_verdicts(connection: duckdb.DuckDBPyConnection, judged: str, decisions: str) -> None:
    """Create the view `verdicts` (VERDICTS) of one crawl shard from its files *judged* and *decisions*."""
    names = ", ".join(name for name in VERDICTS.names if name not in ("accepted", "alttext"))
    connection.execute(f"""
        CREATE OR REPLACE TEMP VIEW verdicts AS
        SELECT {names}, len(reasons) = 0 AS accepted, CASE WHEN alttext_problem IS NULL THEN alttext END AS alttext
        FROM (
            SELECT judged.key, uid, sha256, alttext,
                CASE WHEN decided.key IS NULL THEN judged.alttext_problem ELSE decided.alttext_problem END
                    AS alttext_problem,
                CASE WHEN decided.key IS NULL THEN judged.reasons ELSE decided.reasons END AS reasons, released
            FROM {scan([judged])} AS judged LEFT JOIN {scan([decisions])} AS decided USING (key)
        )""")


def count_verdicts(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Return the counters of the view `verdicts`: rows, accepted and rejected ones, by reason and AltText problem."""
    rows, accepted, released = connection.execute(
        "SELECT count(*), count(*) FILTER (accepted), count(*) FILTER (len(released) > 0) FROM verdicts"
    ).fetchall()[0]
    counters = {"rows": rows, "accepted": accepted, "refused": rows - accepted}
    if released:
        counters["released"] = released
    named = connection.execute("""
        SELECT 'reason.' || name, count(*) FROM (SELECT unnest(reasons) AS name FROM verdicts) GROUP BY 1
        UNION ALL SELECT 'alttext.' || alttext_problem, count(*) FROM verdicts WHERE alttext_problem IS NOT NULL
        GROUP BY 1 ORDER BY 1""").fetchall()
    return counters | dict(named)


def write_verdicts(connection: duckdb.DuckDBPyConnection, path: Path) -> int:
    """Write the view `verdicts` to *path* as VERDICTS, sorted by key; return the number of rows. Deterministic."""
    return write_sorted(connection, f"SELECT {', '.join(VERDICTS.names)} FROM verdicts", "key, uid", path)
