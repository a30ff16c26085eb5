"""Verdicts over all rows of a crawl, computed where the rows lie: DuckDB reads parquet and writes parquet.

Nothing here passes a row through Python. What does not fit into the memory limit DuckDB keeps in the work folder.

crawl ── row rules (`apply_row_rules`) ── judged.parquet ── group rules (`apply_group_rules`) ── verdicts.parquet
"""

# ruff: noqa: S608 - the queries are put together from this package's own rules and quoted literals

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb

from vecap_tasks.config import QualityConfig, RowRules
from vecap_tasks.core.releases import Released
from vecap_tasks.core.schemas import VERDICTS
from vecap_tasks.core.tables import scan, write_sorted
from vecap_tasks.quality.alttext_rules import ALTTEXT_RULES, all_that_fire, cleaned, first_that_fires, literal
from vecap_tasks.quality.rules import (
    CLIP_SCORE,
    COMPARING_RULES,
    DUPLICATE_RULES,
    FINAL,
    HOST_CAP,
    REPEATED,
    ROW_RULES,
    SCORE,
    score_limits,
    score_rules,
)

# The scripts that a language is written in, by ISO 639-1 code, as RE2 names them; any other language: Latin.
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


def compute_verdicts(
    connection: duckdb.DuckDBPyConnection, config: QualityConfig, work: Path, released: Released | None = None
) -> None:
    """Make the view `verdicts` from the tables or views `crawl` (CRAWL), `duplicates` (DUPLICATES) and, where a CLIP
    model scores rows, `scores` (SCORES).

    It has the columns of VERDICTS and those of a row that figures are made of: `downloaded`, `failure`, `host`,
    `language`, `side` (pixels of the shorter one) and `draw`, a number by chance that follows from the uid. Its rows
    come in no order. *work* is a folder that lives as long as the connection.
    """
    connection.execute("SET preserve_insertion_order = false")  # what is written is sorted; this saves memory
    apply_row_rules(connection, config, work / "judged.parquet")
    apply_group_rules(connection, config, released or Released())


def apply_row_rules(connection: duckdb.DuckDBPyConnection, config: QualityConfig, path: Path) -> None:
    """Write what can be said of each row alone to *path*, and make the view `judged` of it."""
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
                {all_that_fire(ROW_RULES, rules)} AS reasons,
                downloaded, failure, lower(regexp_extract(url, {literal(_HOST)}, 1)) AS host, language,
                least(original_width, original_height) AS side, md5_number_lower(uid) AS draw{scores}
            FROM (SELECT *, {first_that_fires(ALTTEXT_RULES, rules)} AS alttext_problem FROM ({texts(source, rules)}))
        ) TO $1 (FORMAT parquet, COMPRESSION lz4_raw)"""
    connection.execute(query, [str(path)])
    connection.execute(f"CREATE OR REPLACE TEMP VIEW judged AS SELECT * EXCLUDE (filename) FROM {scan([str(path)])}")


def texts(source: str, rules: RowRules) -> str:
    """SQL: the rows of *source* (CRAWL) with the columns that rules of one row see."""
    foreign = "0"
    if rules.languages:
        scripts = {script for code in rules.languages for script in SCRIPTS.get(code, ("Latin",))}
        known = "".join(rf"\p{{{script}}}" for script in sorted(scripts))
        foreign = _without("text", rf"[\P{{L}}{known}]")
    return f"""
        SELECT * EXCLUDE (caption), caption AS raw, regexp_extract_all(lower(text), {literal(_WORD)}) AS words,
            {_without("text", _NO_LETTER)} AS letters, {_without("text", _NO_DIGIT)} AS digits,
            {_without("text", _NO_IDEOGRAPH)} AS ideographs, {foreign} AS foreign_letters
        FROM (
            SELECT *, {cleaned("caption")} AS text, status = 'success' AS downloaded,
                CASE WHEN status != 'success' THEN trim(split_part(error_message, ':', 1)) END AS failure
            FROM {source}
        )"""


def _without(column: str, pattern: str) -> str:
    """SQL: how many characters of *column* are left without those of *pattern*; faster than to list the others."""
    return f"length(regexp_replace({column}, {literal(f'(?:{pattern})+')}, '', 'g'))"


def _score(name: str) -> str:
    """SQL: the number, null where there is none that can be compared. The model's goes with a usable AltText alone."""
    if name == CLIP_SCORE:
        return f'CASE WHEN alttext_problem IS NULL THEN "{CLIP_SCORE}" END'
    number = f"CASE WHEN json_valid(scores) THEN TRY_CAST(json_extract_string(scores, '$.{name}') AS DOUBLE) END"
    return f"CASE WHEN isfinite({number}) THEN {number} END"


def apply_group_rules(connection: duckdb.DuckDBPyConnection, config: QualityConfig, released: Released) -> None:
    """Make the view `verdicts` from the view `judged` and the table `duplicates`.

    Of images with the same bytes one row is kept: the first by key among those that no other rule refuses, and
    among these one with a usable AltText before one without. All others are refused as `duplicate_image`. Of nearly
    the same pictures one is kept in the same way, where the rules ask for it. Hosts are capped last.
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
    connection.execute(f"CREATE OR REPLACE TEMP TABLE least AS SELECT {_least(config)} FROM judged WHERE downloaded")
    connection.execute(f"""
        CREATE OR REPLACE TEMP VIEW beside AS
        SELECT * REPLACE (
            CASE WHEN {REPEATED.condition(rules)} THEN NULL ELSE alttext END AS alttext,
            list_concat(reasons, {all_that_fire([*COMPARING_RULES, *score_rules(config)], rules)}) AS reasons)
        FROM (
            SELECT * REPLACE (coalesce(alttext_problem, {first_that_fires([REPEATED], rules)}) AS alttext_problem)
            FROM judged LEFT JOIN texts_often USING (text_hash) LEFT JOIN images_often USING (image_hash), least
        )""")
    _rank_duplicates(connection)
    connection.execute(f"""
        CREATE OR REPLACE TEMP VIEW ranked_rows AS
        SELECT * REPLACE (list_concat(reasons, {all_that_fire(DUPLICATE_RULES, rules)}) AS reasons)
        FROM beside LEFT JOIN ranked USING (uid) LEFT JOIN near_ranked USING (uid)
        LEFT JOIN (SELECT DISTINCT uid, true AS earlier FROM duplicates WHERE version IS NOT NULL) USING (uid)""")
    _cap_hosts(connection, rules)
    _release(connection, rules, released)


def _least(config: QualityConfig) -> str:
    """SQL: of each score with a `top_fraction` the least that is in it."""
    columns = [
        f'-quantile_disc(-"{SCORE}{name}", {limits.top_fraction!r}) AS "{SCORE}{name} least"'
        for name, limits in sorted(score_limits(config).items())
        if limits.top_fraction is not None
    ]
    return ", ".join(columns) or "count(*) AS downloads"


def _rank_duplicates(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("""
        CREATE OR REPLACE TEMP TABLE ranked AS
        WITH twins AS (
            SELECT uid, duplicate_of AS kept FROM duplicates WHERE kind = 'exact' AND version IS NULL
            UNION SELECT duplicate_of, duplicate_of FROM duplicates WHERE kind = 'exact' AND version IS NULL
        )
        SELECT uid, kept, row_number() OVER (PARTITION BY kept ORDER BY len(reasons) > 0, alttext IS NULL, key) AS place
        FROM beside JOIN twins USING (uid)""")
    # The crawl names the first row of each picture; the row that is kept for it may be another one of the same bytes.
    connection.execute("""
        CREATE OR REPLACE TEMP TABLE near_ranked AS
        WITH near AS (
            SELECT uid, duplicate_of AS alike FROM duplicates WHERE kind = 'near' AND version IS NULL
            UNION SELECT duplicate_of, duplicate_of FROM duplicates WHERE kind = 'near' AND version IS NULL
        )
        SELECT beside.uid,
            row_number() OVER (PARTITION BY alike ORDER BY len(reasons) > 0, alttext IS NULL, key) AS near_place
        FROM beside LEFT JOIN ranked USING (uid) JOIN near ON near.uid = coalesce(ranked.kept, beside.uid)
        WHERE coalesce(place, 1) = 1""")


def _cap_hosts(connection: duckdb.DuckDBPyConnection, rules: RowRules) -> None:
    """Make the table `capped`: the rows of a host beyond its cap, in the order of `draw`."""
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


def _release(connection: duckdb.DuckDBPyConnection, rules: RowRules, released: Released) -> None:
    """Make the view `verdicts`: the reasons that a person waived are taken from `reasons` and kept in `released`."""
    capped = f"""
        SELECT ranked_rows.* REPLACE (list_concat(reasons, {all_that_fire([HOST_CAP], rules)}) AS reasons)
        FROM ranked_rows LEFT JOIN capped USING (key)"""
    kept, waived, rows = "reasons", "NULL::VARCHAR[]", f"({capped})"
    if released:
        connection.execute("CREATE OR REPLACE TEMP TABLE let_go (uid VARCHAR, all_of_it BOOLEAN)")
        connection.execute("INSERT INTO let_go SELECT unnest($1::VARCHAR[]), true", [list(released.uids)])
        waives = f"coalesce(all_of_it, false) OR list_contains({_strings(released.reasons)}, name)"
        waives = f"({waives}) AND NOT list_contains({_strings(FINAL)}, name)"
        kept = f"list_filter(reasons, lambda name: NOT ({waives}))"
        waived = f"nullif(list_filter(reasons, lambda name: {waives}), [])"
        rows += " LEFT JOIN let_go USING (uid)"
    connection.execute(f"""
        CREATE OR REPLACE TEMP VIEW verdicts AS
        SELECT *, len(reasons) = 0 AS accepted
        FROM (SELECT * REPLACE ({kept} AS reasons), {waived} AS released FROM {rows})""")


def _strings(names: Sequence[str]) -> str:
    return f"[{', '.join(literal(name) for name in names)}]::VARCHAR[]"


def write_verdicts(connection: duckdb.DuckDBPyConnection, path: Path) -> int:
    """Write the view `verdicts` to *path* as VERDICTS, by key; return the rows. The same ones make the same bytes."""
    return write_sorted(connection, f"SELECT {', '.join(VERDICTS.names)} FROM verdicts", "key, uid", path)
