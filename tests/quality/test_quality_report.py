"""The quality report describes each name correctly: row rules, AltText rules and crawl errors share names."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import pyarrow as pa

from tests.installation import REPOSITORY
from tests.quality.factories import crawled
from vecap_tasks.config import QualityConfig
from vecap_tasks.core.schemas import CRAWL, DUPLICATES
from vecap_tasks.quality.alttext_rules import ALTTEXT_RULES
from vecap_tasks.quality.measures import measure
from vecap_tasks.quality.report import Findings
from vecap_tasks.quality.rules import REPEATED, ROW_REASONS
from vecap_tasks.quality.verdicts import compute_verdicts


def described(rows: list[dict], work: Path) -> dict[str, dict[str, str]]:
    """Return names and descriptions by section of the report on *rows* of CRAWL."""
    with duckdb.connect() as connection:
        connection.register("crawl", pa.Table.from_pylist(rows, schema=CRAWL))
        connection.register("duplicates", DUPLICATES.empty_table())
        compute_verdicts(connection, QualityConfig(), work)
        page = Findings("2026-01-01", measure(connection), (), (), (), (), {}, (), ()).to_html()
    sections = (section.partition("</h2>") for section in page.split("<h2>")[1:])
    return {title: dict(re.findall(r"<td>(\w+)<br><small>(.*?)</small>", body)) for title, _, body in sections}


def test_crawl_errors_named_as_rules_are_described_as_crawl_errors(tmp_path: Path) -> None:
    names = [rule.name for rule in (*ALTTEXT_RULES, REPEATED)]
    rows = crawled(
        ["A beagle in the snow"] * len(names) + ["", "A red beagle"],
        status=["failed_to_download"] * len(names) + ["success"] * 2,
        error_message=[f"{name}: as the server said" for name in names] + [None] * 2,
        original_height=[64] * (len(names) + 1) + [24],
    )
    sections = described(rows, tmp_path)
    rejected = sections["Rejected rows"]
    assert rejected.pop("too_small") == "shorter side below `min_side` pixels"
    assert rejected.keys() == set(names)
    assert {text.partition(":")[0] for text in rejected.values()} == {"crawl error"}
    assert sections["AltText problems"] == {"empty": "no letters or digits"}


def test_no_crawl_error_has_the_name_of_a_rejection_reason() -> None:
    sources = (REPOSITORY / "vecap_tasks" / "crawl").rglob("*.py")
    errors = {name for file in sources for name in re.findall(r'Failure\("(\w+)"', file.read_text(encoding="utf-8"))}
    assert "empty" in errors
    assert errors.isdisjoint(rule.name for rule in ROW_REASONS)
