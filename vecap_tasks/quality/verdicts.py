"""Verdicts over all rows of a crawl, computed where the rows lie: DuckDB reads parquet and writes tables of its own.

Nothing here passes a row through Python. What does not fit into the memory limit DuckDB keeps in the work folder.
"""

# ruff: noqa: S608 - the queries are put together from this package's own rules and quoted literals

from __future__ import annotations

import duckdb

from vecap_tasks.config import RowRules
from vecap_tasks.quality.clean import cleaned, literal
from vecap_tasks.quality.rules import ALTTEXT_RULES, DUPLICATE_RULES, ROW_RULES, all_that_fire, first_that_fires

# The scripts that a language is written in, by ISO 639-1 code, as RE2 names them; any other language: Latin.
SCRIPTS = {
    "ar": ("Arabic",), "fa": ("Arabic",), "ur": ("Arabic",), "he": ("Hebrew",), "el": ("Greek",),
    "ru": ("Cyrillic",), "uk": ("Cyrillic",), "bg": ("Cyrillic",), "sr": ("Cyrillic", "Latin"),
    "ja": ("Han", "Hiragana", "Katakana"), "zh": ("Han", "Bopomofo"), "ko": ("Hangul", "Han"),
    "hi": ("Devanagari",), "mr": ("Devanagari",), "bn": ("Bengali",), "ta": ("Tamil",), "th": ("Thai",),
    "ka": ("Georgian",), "hy": ("Armenian",), "am": ("Ethiopic",),
}  # fmt: skip
_LETTER = r"\p{L}"
_DIGIT = r"\p{Nd}"
_IDEOGRAPH = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]"
_WORD = r"[\p{L}\p{M}\p{N}]+"


def judge_rows(connection: duckdb.DuckDBPyConnection, rules: RowRules) -> None:
    """Make the table `verdicts` (VERDICTS) from the tables or views `crawl` (CRAWL) and `duplicates` (DUPLICATES).

    Of images with the same bytes one row is kept: the first by key among those that no other rule refuses, and
    among these one with a usable AltText before one without. All others are refused as `duplicate_image`. Of nearly
    the same pictures one is kept in the same way, where the rules ask for it.
    """
    connection.execute("SET preserve_insertion_order = false")  # what is written is sorted; this saves memory
    connection.execute(f"CREATE OR REPLACE TEMP VIEW texts AS {_texts(rules)}")
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE often AS
        SELECT hash(lower(text)) AS text_hash, count(*) AS same FROM texts WHERE text IS NOT NULL
        GROUP BY 1 HAVING count(*) > {rules.max_same_alttext}""")
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE judged AS
        SELECT key, uid, sha256, CASE WHEN alttext_problem IS NULL THEN text END AS alttext, alttext_problem,
            {all_that_fire(ROW_RULES, rules)} AS reasons
        FROM (
            SELECT *, {first_that_fires(ALTTEXT_RULES, rules)} AS alttext_problem
            FROM texts LEFT JOIN often ON hash(lower(texts.text)) = often.text_hash
        )""")
    connection.execute("""
        CREATE OR REPLACE TEMP TABLE ranked AS
        WITH twins AS (
            SELECT uid, duplicate_of AS kept FROM duplicates WHERE kind = 'exact' AND version IS NULL
            UNION SELECT duplicate_of, duplicate_of FROM duplicates WHERE kind = 'exact' AND version IS NULL
        )
        SELECT uid, kept, row_number() OVER (PARTITION BY kept ORDER BY len(reasons) > 0, alttext IS NULL, key) AS place
        FROM judged JOIN twins USING (uid)""")
    # The crawl names the first row of each picture; the row that is kept for it may be another one of the same bytes.
    connection.execute("""
        CREATE OR REPLACE TEMP TABLE near_ranked AS
        WITH near AS (
            SELECT uid, duplicate_of AS alike FROM duplicates WHERE kind = 'near' AND version IS NULL
            UNION SELECT duplicate_of, duplicate_of FROM duplicates WHERE kind = 'near' AND version IS NULL
        )
        SELECT judged.uid,
            row_number() OVER (PARTITION BY alike ORDER BY len(reasons) > 0, alttext IS NULL, key) AS near_place
        FROM judged LEFT JOIN ranked USING (uid) JOIN near ON near.uid = coalesce(ranked.kept, judged.uid)
        WHERE coalesce(place, 1) = 1""")
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE verdicts AS
        SELECT key, uid, sha256, len(reasons) = 0 AS accepted, alttext, alttext_problem, reasons
        FROM (
            SELECT judged.* EXCLUDE (reasons), list_concat(reasons, {all_that_fire(DUPLICATE_RULES, rules)}) AS reasons
            FROM judged LEFT JOIN ranked USING (uid) LEFT JOIN near_ranked USING (uid)
            LEFT JOIN (SELECT DISTINCT uid, true AS earlier FROM duplicates WHERE version IS NOT NULL) USING (uid)
        )""")
    connection.execute("DROP TABLE judged")


def _texts(rules: RowRules) -> str:
    foreign = "0"
    if rules.languages:
        scripts = {script for code in rules.languages for script in SCRIPTS.get(code, ("Latin",))}
        known = "".join(rf"\p{{{script}}}" for script in sorted(scripts))
        foreign = _count("text", rf"[^\P{{L}}{known}]")
    return f"""
        SELECT * EXCLUDE (caption), caption AS raw, regexp_extract_all(lower(text), {literal(_WORD)}) AS words,
            {_count("text", _LETTER)} AS letters, {_count("text", _DIGIT)} AS digits,
            {_count("text", _IDEOGRAPH)} AS ideographs, {foreign} AS foreign_letters
        FROM (SELECT *, {cleaned("caption")} AS text FROM crawl)"""


def _count(column: str, pattern: str) -> str:
    return f"len(regexp_extract_all({column}, {literal(pattern)}))"
