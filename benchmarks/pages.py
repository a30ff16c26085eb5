"""What the pages ask of a version of a million rows, in seconds.

    python -m benchmarks.pages [--rows 1000000] [--rounds 5] [--json FILE]

The rows are made up by DuckDB and published as shards of 10,000, as a crawl's and a rewrite's are. Each question is
what a request asks of `vecap_tasks.core.samples`, the version having been opened; the lists of the filters are
counted once a version, when it is opened. There is no other tool to compare with; the limit is the second that a page
may take.
"""

# ruff: noqa: S608 - the queries are put together from the project's own schemas

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.fakes import CONFIG
from benchmarks.report import Measure, machine, median, report
from vecap_tasks.config import load_config
from vecap_tasks.core.manifest import ShardOutput
from vecap_tasks.core.samples import Filter, Samples
from vecap_tasks.core.schemas import CAPTIONS, CRAWL
from vecap_tasks.core.stage import Stage
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import Version

_SHARD = 10_000
_A_PAGE = 24
_LIMIT = 1.0
_ALTTEXT = """['A red', 'An old', 'The small', 'Our blue'][1 + (hash(i + 1) % 4)::BIGINT]
    || [' boat', ' castle', ' bicycle', ' orchard', ' tower'][1 + (hash(i + 2) % 5)::BIGINT]
    || ' by the river, seen from the north in spring ' || i"""
# What the columns of CRAWL and CAPTIONS hold of row `i`; the others are null.
_VALUES = {
    "key": f"printf('%05d%04d', i // {_SHARD}, i % {_SHARD})",
    "uid": "md5(i::VARCHAR)",
    "url": "'https://host' || hash(i) % 5000 || '.example/images/' || i || '.jpg'",
    "page_url": "'https://host' || hash(i) % 5000 || '.example/' || i",
    "caption": _ALTTEXT,
    "language": "['en', 'de-CH', NULL][1 + (hash(i + 3) % 3)::BIGINT]",
    "source": "'made'",
    "status": "'success'",
    "sha256": "md5(i::VARCHAR) || md5((i + 1)::VARCHAR)",
    "alttext": _ALTTEXT,
    "vec": "'two brown apples to the left of a green clock, number ' || hash(i)",
    "vecap": f"{_ALTTEXT} || ' with two brown apples to the left of a green clock'",
    "vecap_from": "['llm', 'llm', 'llm', 'vec', 'alttext'][1 + (hash(i + 4) % 5)::BIGINT]",
    "vecap_problem": "['loop', 'refusal', NULL, NULL, NULL][1 + (hash(i + 5) % 5)::BIGINT]",
    **{f"{text}_model": "'models/one'" for text in ("vec", "vecap")},
    **{f"{text}_revision": "'0123456789abcdef'" for text in ("vec", "vecap")},
    **{f"{text}_prompt": "'prompt@0123'" for text in ("vec", "vecap")},
    **{f"{text}_parameters": "'{{}}'" for text in ("vec", "vecap")},
    **{f"{text}_tokens": "17" for text in ("vec", "vecap")},
}


class MadeUp(Stage):
    """Rows made up by DuckDB: `crawl.shard_size` of them, of the schema that its heirs say."""

    on_workers = False
    schema: pa.Schema

    def identity(self) -> dict[str, Any]:
        return {}

    def shards(self) -> list[str]:
        return [f"{number:05d}" for number in range(-(-self.config.crawl.shard_size // _SHARD))]

    def process(self, shard: str, work: Path) -> ShardOutput:
        columns = ", ".join(f"({_VALUES.get(name, 'NULL')}) AS {name}" for name in self.schema.names)
        first = int(shard) * _SHARD
        last = min(first + _SHARD, self.config.crawl.shard_size)
        with duckdb.connect() as connection:
            made = connection.sql(f"SELECT {columns} FROM range({first}, {last}) AS made(i)").to_arrow_table()
        file = work / f"{shard}.parquet"
        pq.write_table(made.cast(self.schema), file, compression="zstd")
        return ShardOutput({file.name: len(made)}, {"rows": len(made)})


class MadeCrawl(MadeUp):
    """The rows as crawled."""

    name = "crawl"
    schema = CRAWL


class MadeCaptions(MadeUp):
    """The rows as captioned."""

    name = "rewrite"
    schema = CAPTIONS


def run(rows: int, rounds: int, folder: Path) -> list[Measure]:
    """Make a version of *rows* rows in *folder*, and ask."""
    config = load_config(CONFIG, [f"root={folder}", f"crawl.shard_size={rows}"])
    version = Version(config.dataset, "2026-01-01", 1, "")
    for kind in (MadeCrawl, MadeCaptions):
        stage = kind(config, version)
        for shard in stage.plan():
            stage.run(shard)
        stage.commit()
    store = Store(str(folder))
    opened = Samples(store, version)

    def seconds(ask: Callable[[], Any]) -> float:
        start = time.perf_counter()
        ask()
        return time.perf_counter() - start

    middle = rows // 2
    (uid,) = (row.uid for row in opened.page(Filter(), middle, 1).rows)
    pages = {
        "the first page": (Filter(), 0),
        "a page in the middle": (Filter(), middle),
        "a word that many rows have": (Filter(text="castle"), 0),
        "a word that one row has": (Filter(text=f"spring {middle} "), 0),
        "a host": (Filter(host="host17.example"), 0),
        "a language, a page in the middle": (Filter(language="en"), rows // 6),
        "a reason": (Filter(reason="vecap_problem=loop"), 0),
        "a reason, a host and a word": (Filter(reason="vecap_from=llm", host="host17.example", text="boat"), 0),
        "one sample by its uid": (Filter(uid=uid), 0),
    }
    conditions = f"{rows:,} rows in shards of {_SHARD:,}, {machine()}"
    measures = [
        Measure(
            name, "s", median(seconds(lambda w=wanted, f=first: opened.page(w, f, _A_PAGE)) for _ in range(rounds)),
            limit=_LIMIT, conditions=conditions,
        )
        for name, (wanted, first) in pages.items()
    ]  # fmt: skip

    def open_and_count() -> None:
        fresh = Samples(store, version)
        for name in ("reasons", "hosts", "languages"):
            getattr(fresh, name)

    counted = median(seconds(open_and_count) for _ in range(rounds))
    return [*measures, Measure("opened, and the filters' lists counted", "s", counted, conditions=conditions)]


def main() -> None:
    """Measure, print, and write JSON where it is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vecap-bench-", dir="/var/tmp") as folder:
        report(run(options.rows, options.rounds, Path(folder)), options.json)


if __name__ == "__main__":
    main()
