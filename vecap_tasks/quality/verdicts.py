"""Verdicts on all rows of a crawl, computed by DuckDB from parquet to parquet.

DuckDB spills data over its memory limit to the work folder.

each crawl shard ── row rules (`write_judged`) ── judged rows ─┬─ verdicts of the shard (`open_verdicts`)
all judged rows ── `group_rules.py` ── decisions of each shard ─┘
"""

# ruff: noqa: S608 - queries contain only this package's rules and quoted literals

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb

from vecap_tasks.config import QualityConfig, RowRules
from vecap_tasks.core.private_data import HIDDEN
from vecap_tasks.core.releases import Released
from vecap_tasks.core.schemas import VERDICTS
from vecap_tasks.core.tables import scan, write_sorted
from vecap_tasks.quality.alttext_rules import ALTTEXT_RULES, add_functions, all_matches, cleaned, first_match, literal
from vecap_tasks.quality.group_rules import apply_group_rules, write_decisions
from vecap_tasks.quality.rules import CLIP_SCORE, ROW_RULES, SCORE, score_limits

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


def compute_verdicts(
    connection: duckdb.DuckDBPyConnection, config: QualityConfig, work: Path, released: Released | None = None
) -> None:
    """Create the view `verdicts` (VERDICTS) from `crawl` (CRAWL), `duplicates` (DUPLICATES) and, with a CLIP model,
    `scores` (SCORES), and the views `judged` and `outcomes`.

    The rows are unordered. *work* is a folder that must exist as long as the connection.
    """
    judged = work / "judged.parquet"
    write_judged(connection, config, {"all": judged})
    create_judged(connection, [str(judged)])
    apply_group_rules(connection, config, released or Released(), work)
    (decisions,) = write_decisions(connection, ["all"], work)
    open_verdicts(connection, str(judged), str(decisions))


def write_judged(connection: duckdb.DuckDBPyConnection, config: QualityConfig, paths: Mapping[str, Path]) -> None:
    """Apply the rules about single rows to the view `crawl`, and write the result of each crawl shard to its path.

    *paths* are by shard. If there are several, the view's column `filename` tells the rows of each. The view `scores`
    has the CLIP scores, if a CLIP model is configured.
    """
    add_functions(connection)
    rules = config.rows
    source = "crawl"
    if config.clip is not None:
        source = f'crawl LEFT JOIN (SELECT key, similarity AS "{CLIP_SCORE}" FROM scores) USING (key)'
    scores = "".join(f', {_score(name)} AS "{SCORE}{name}"' for name in sorted(score_limits(config)))
    shard = "parse_filename(filename, true)" if len(paths) > 1 else literal(*paths)
    # From a table, not the query, so that the bytes are the same for one shard and for several.
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE judged_rows AS
        SELECT key, uid, sha256, CASE WHEN alttext_problem IS NULL THEN text END AS alttext, alttext_problem,
            hash(lower(text)) AS text_hash,
            CASE WHEN downloaded THEN hash(coalesce(phash, sha256)) END AS image_hash,
            {all_matches(ROW_RULES, rules)} AS reasons, {shard} AS shard, url, status,
            CASE alttext_problem WHEN 'private_data' THEN {literal(HIDDEN)}
                ELSE left(raw, {_MAX_CAPTION_CHARS}) END AS caption,
            width, height, original_width, original_height,
            downloaded, failure, lower(regexp_extract(url, {literal(_HOST)}, 1)) AS host, language,
            least(original_width, original_height) AS side, md5_number_lower(uid) AS draw{scores}
        FROM (SELECT *, {first_match(ALTTEXT_RULES, rules)} AS alttext_problem FROM ({texts(source, rules)}))""")
    for name, path in paths.items():
        rows = f"FROM judged_rows WHERE shard = {literal(name)}"
        connection.execute(f"COPY ({rows}) TO $1 (FORMAT parquet, COMPRESSION lz4_raw)", [str(path)])
    connection.execute("DROP TABLE judged_rows")


def create_judged(connection: duckdb.DuckDBPyConnection, paths: Sequence[str]) -> None:
    """Create the view `judged` of the files *paths* of `write_judged`."""
    connection.execute(f"CREATE OR REPLACE TEMP VIEW judged AS SELECT * EXCLUDE (filename) FROM {scan(paths)}")


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
