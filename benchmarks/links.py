"""AltText links per second and core: ours from WARC and WAT files, cc2dataset's from WAT files, and the reading alone.

    python -m benchmarks.links [--json FILE] [--pages N] [--rounds N]

Ours is what a worker runs for one part of the crawl's source: from the file to the table of links. A link counts if
it has an AltText that is not empty. Seconds are CPU seconds of one process, all its threads together. The limit is
what FastWARC and lexbor need to read and parse the same pages, with nothing looked up in them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
from fastwarc.warc import ArchiveIterator, WarcRecordType
from selectolax.lexbor import LexborHTMLParser

from benchmarks.links_web import pages, write_warc, write_wat
from benchmarks.other import environment_with
from benchmarks.report import Measure, alternate, machine, median, report
from vecap_tasks.config import Config, WarcSource, WatSource, load_config
from vecap_tasks.crawl.candidates import Source, extract
from vecap_tasks.crawl.sources.warc import WarcFiles
from vecap_tasks.crawl.sources.wat import WatFiles
from vecap_tasks.crawl.warc.records import Records

_REPOSITORY = Path(__file__).resolve().parent.parent
_CC2DATASET = "cc2dataset==1.5.0"
_OTHERS = (
    "fastwarc==2.0.1", "fsspec==2026.9.0", "loguru==0.7.3", "pyarrow==25.0.1", "pysimdjson==7.0.2",
    "resiliparse==2.0.1", "warcio==1.8.1",
)  # fmt: skip
_PUBLISHED = 8_100.0  # links per second and core that cc2dataset states for itself, of WAT files on its own machines


@dataclass(frozen=True, slots=True)
class Run:
    """One pass over a file: links, or records, and CPU seconds."""

    count: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.count / self.seconds


@dataclass(frozen=True, slots=True)
class Bench:
    """Where the files lie, and who else reads them."""

    work: Path
    theirs: Path  # a Python with the other tools
    rounds: int

    @property
    def warc(self) -> Path:
        return self.work / "pages.warc.gz"

    @property
    def wat(self) -> Path:
        return self.work / "pages.warc.wat.gz"

    def links(self, source: Source) -> Run:
        """Do what a worker does with the one part of *source*."""
        table = self.work / "links.parquet"
        start = time.process_time()
        extract(source, source.parts()[0], table)
        seconds = time.process_time() - start
        captions = pq.read_table(table, columns=["caption"])["caption"]
        return Run(pc.sum(pc.greater(pc.utf8_length(captions), 0)).as_py() or 0, seconds)

    def records(self) -> Run:
        """Read every record to its end, checksums and all."""
        start = time.process_time()
        with self.warc.open("rb", buffering=0) as stream:
            records = Records(
                stream, self.warc.name, frozenset({"warcinfo", "request", "response", "metadata"}), 1 << 30
            )
            count = sum(1 for _ in records)
        return Run(count, time.process_time() - start)

    def parsed(self, links: int) -> Run:
        """Read and parse every page, and look at nothing: what *links* would take at the very least."""
        start = time.process_time()
        with self.warc.open("rb") as stream:
            for record in ArchiveIterator(stream, record_types=WarcRecordType.response):
                LexborHTMLParser(record.reader.read())
        return Run(links, time.process_time() - start)

    def other(self, way: str, file: Path) -> Run:
        """Let one of the other tools read *file*."""
        command = [str(self.theirs), str(Path(__file__).with_name("links_theirs.py")), way, str(file)]
        answer = subprocess.run(
            [*command, str(self.work / f"{way}.parquet")], check=True, capture_output=True, text=True
        )
        return Run(**json.loads(answer.stdout))

    def measure(
        self, name: str, unit: str, ours: Callable[[], Run], theirs: Callable[[], Run], conditions: str
    ) -> Measure:
        mine, others = alternate(self.rounds, ours, theirs)
        said = f"{conditions}; {mine[0].count} and {others[0].count}, {self.rounds} rounds"
        rates = (median(run.rate for run in side) for side in (mine, others))
        return Measure(name, unit, *rates, conditions=said)


def run(bench: Bench, config: Config, count: int) -> list[Measure]:
    """Make the files of *count* pages, and measure."""
    write_warc(pages(count), bench.warc)
    write_wat(pages(count), bench.wat)
    size = sum(len(page.html) for page in pages(count)) // count
    warc = WarcFiles(config, WarcSource(kind="warc", paths=[str(bench.warc)]), "x")
    wat = WatFiles(config, WatSource(kind="wat", paths=[str(bench.wat)]), "x")
    made = f"{count} pages of {size} bytes on average, {machine()}"
    from_warc = partial(bench.links, warc)
    resiliparse = partial(bench.other, "resiliparse_warc", bench.warc)
    measures = [
        bench.measure("links, from pages", "links/s", from_warc, resiliparse, f"against FastWARC, resiliparse; {made}"),
        bench.measure(
            "links, from WAT", "links/s", partial(bench.links, wat), partial(bench.other, "cc2dataset_wat", bench.wat),
            f"against {_CC2DATASET}, one task of it; {made}",
        ),
    ]  # fmt: skip
    links = from_warc().count
    measures[0] = replace(measures[0], limit=median(bench.parsed(links).rate for _ in range(bench.rounds)))
    for tool in ("fastwarc", "warcio"):
        other = partial(bench.other, f"{tool}_records", bench.warc)
        measures.append(bench.measure(f"records, {tool}", "records/s", bench.records, other, f"against {tool}; {made}"))
    fastwarc, warcio = (partial(bench.other, f"{tool}_records", bench.warc) for tool in ("fastwarc", "warcio"))
    measures.append(
        bench.measure("FastWARC, warcio", "records/s", fastwarc, warcio, f"FastWARC against warcio; {made}")
    )
    for measure, kind in zip(measures[:2], ("WARC", "WAT"), strict=True):
        said = f"{kind} files here against the 8,100 that cc2dataset states, of WAT files and other machines; {made}"
        measures.append(Measure(f"{measure.name}, stated", "links/s", measure.ours, _PUBLISHED, None, said))
    return measures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the measures to this file")
    parser.add_argument("--pages", type=int, default=4000, help="pages in the files (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each pair (default %(default)s)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vecap-links-") as work:
        bench = Bench(Path(work), _theirs(), given.rounds)
        report(run(bench, load_config(_REPOSITORY / "configs" / "demo.yaml"), given.pages), given.json)


def _theirs() -> Path:
    """Return a Python that has the other tools; cc2dataset without Spark, which its extraction does not call."""
    python = environment_with(*_OTHERS)
    uv = Path(sys.executable).with_name("uv")
    command = ["uv" if not uv.exists() else str(uv), "pip", "install", "--quiet", "--no-deps", "--python", str(python)]
    subprocess.run([*command, _CC2DATASET], check=True)
    return python


if __name__ == "__main__":
    main()
