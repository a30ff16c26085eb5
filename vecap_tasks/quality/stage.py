"""The stage `quality`: a verdict on every row of a crawl, and the gate that a bad crawl does not pass."""

# ruff: noqa: S608 - the queries are put together from this package's own rules and quoted literals

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import duckdb

from vecap_tasks.dataset.manifest import digest
from vecap_tasks.dataset.parquet import write_rows
from vecap_tasks.dataset.query import connect, create_view
from vecap_tasks.dataset.schemas import CRAWL, DUPLICATES, VERDICTS
from vecap_tasks.dataset.stage import Made, ShardResult, Stage
from vecap_tasks.errors import GateClosed
from vecap_tasks.quality.clean import cleaned
from vecap_tasks.quality.measures import Measures, Reason, limits, measure, problems, reasons, refusals
from vecap_tasks.quality.report import Findings
from vecap_tasks.quality.rules import ALTTEXT_RULES, DUPLICATE_RULES, ROW_RULES, all_that_fire, first_that_fires
from vecap_tasks.quality.verdicts import judge_rows

_VERDICTS = "verdicts.parquet"
_BATCH = 10_000
_TOLD = 5  # reasons that a closed gate names
_SHARD_FILE = re.compile(r"[0-9]+\.parquet")


class Quality(Stage):
    """Rules say which rows go on (`rules.py`); the gate says whether the crawl does (`judge.py`)."""

    name: ClassVar[str] = "quality"
    upstream: ClassVar[tuple[str, ...]] = ("crawl",)
    on_workers: ClassVar[bool] = False

    def identity(self) -> dict[str, Any]:
        rules = self.config.quality.rows
        alttext, rows = first_that_fires(ALTTEXT_RULES, rules), all_that_fire([*ROW_RULES, *DUPLICATE_RULES], rules)
        return super().identity() | {"rules": digest([cleaned("caption"), alttext, rows])[:16]}

    def shards(self) -> list[str]:
        return ["verdicts"]

    def process(self, shard: str, work: Path) -> Made:
        with self._crawl(work) as connection:
            judge_rows(connection, self.config.quality.rows)
            verdicts = connection.sql("SELECT * FROM verdicts ORDER BY key")
            rows = write_rows(verdicts.to_arrow_reader(_BATCH), VERDICTS, work / _VERDICTS)
            accepted = connection.execute("SELECT count(*) FROM verdicts WHERE accepted").fetchall()[0][0]
            counters = {"rows": rows, "accepted": accepted, "refused": rows - accepted}
            counters |= {f"reason.{reason.name}": reason.rows for reason in reasons(connection)}
            counters |= {f"alttext.{problem.name}": problem.rows for problem in problems(connection)}
        return Made({_VERDICTS: rows}, counters)

    def finish(self, results: list[ShardResult], work: Path) -> Made:
        """Judge the crawl. Raises GateClosed where an expectation fails; the report is in the store even then."""
        from vecap_tasks.quality.judge import SAMPLE_COLUMNS, judge

        config = self.config.quality
        with self._crawl(work) as connection:
            create_view(connection, self.store, "verdicts", [f"{self.folder}/{_VERDICTS}"], VERDICTS)
            measures = measure(connection)
            refused, troubled = refusals(connection), problems(connection)
            sample = connection.execute(f"""
                SELECT {", ".join(SAMPLE_COLUMNS)} FROM (
                    SELECT crawl.*, accepted, alttext, alttext_problem, array_to_string(reasons, ' ') AS reasons,
                        accepted = (len(reasons) = 0) AND NOT (accepted AND status != 'success')
                            AND NOT (alttext IS NULL AND alttext_problem IS NULL) AS consistent
                    FROM crawl LEFT JOIN verdicts USING (key)
                ) ORDER BY md5(uid), key LIMIT {config.sample_rows}""").df()
        crawled = datetime.fromisoformat(self.upstream_manifest("crawl").provenance["created"])
        report = work / "report"
        failures = judge(measures, sample, config, crawled, report / "data_docs")
        pages = sorted(page.relative_to(work).as_posix() for page in report.rglob("*") if page.is_file())
        findings = Findings(
            self.version.interval, measures, limits(config.gate), refused, troubled, [str(one) for one in failures]
        )
        (report / "measures.json").write_text(findings.to_json(), encoding="utf-8")
        (report / "index.html").write_text(findings.to_html(), encoding="utf-8")
        steady = ("report/index.html", "report/measures.json")
        if not failures:
            return Made(dict.fromkeys(steady), attachments=tuple(pages))
        for page in (*pages, *steady):
            self.store.upload(f"{self.folder}/{page}", work / page)
        raise GateClosed(self._refusal(str(failures[0]), len(failures) - 1, measures, refused))

    def _refusal(self, what: str, more: int, measures: Measures, refused: list[Reason]) -> str:
        others = f" (and {more} more)" if more else ""
        told = ", ".join(f"{reason.rows} {reason.name}" for reason in refused[:_TOLD])
        rest = f", and {len(refused) - _TOLD} other reasons" if len(refused) > _TOLD else ""
        counted = f"{measures.rows} rows: {told or 'none refused'}{rest}" if measures.rows else "it names no image"
        return (
            f"the crawl of {self.version.interval} is refused: {what}{others}; {counted}; "
            f"look at {self.store.root}/{self.folder}/report/index.html; mend the source and remove "
            f"{self.store.root}/{self.version.folder} to crawl again, or change quality.gate"
        )

    @contextmanager
    def _crawl(self, work: Path) -> Iterator[duckdb.DuckDBPyConnection]:
        """Give a connection with the views `crawl` and `duplicates`."""
        manifest = self.upstream_manifest("crawl")
        tables = {name.rsplit("/", 1)[1]: name for name in manifest.files_ending(".parquet")}
        shards = [name for file, name in tables.items() if _SHARD_FILE.fullmatch(file)]
        duplicates = [name for file, name in tables.items() if file == "duplicates.parquet"]
        with connect(self.store, self.config.quality.memory_limit) as connection:
            connection.execute(f"SET temp_directory = '{work / 'duckdb'}'")
            create_view(connection, self.store, "crawl", shards, CRAWL)
            create_view(connection, self.store, "duplicates", duplicates, DUPLICATES)
            yield connection
