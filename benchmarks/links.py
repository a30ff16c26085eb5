"""AltText links per CPU second: ours from WARC and WAT files, cc2dataset's from WAT files, and parsing only.

    python -m benchmarks.links [--json FILE] [--pages N] [--rounds N]

Ours is what a worker does for one part of the crawl's source: from the file to the table of links. Only links with a
non-empty AltText count. Seconds are CPU seconds of one process with all its threads and child processes. The limit is
the cost of reading and parsing the same pages with FastWARC and lexbor without extracting anything.
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

import psutil
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
_PUBLISHED = 8_100.0  # links per second and core published by cc2dataset, for WAT files on its own machines


@dataclass(frozen=True, slots=True)
class Run:
    """One pass over a file: number of links or records, and CPU seconds."""

    count: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.count / self.seconds


@dataclass(frozen=True, slots=True)
class Bench:
    """Paths of the input files and the Python of the other tools."""

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
        """Extract the links of the only part of *source*, like a worker."""
        table = self.work / "links.parquet"
        extract(source, source.parts()[0], table)  # starts the child processes, which workers keep for all parts
        start = _cpu_seconds()
        extract(source, source.parts()[0], table)
        seconds = _cpu_seconds() - start
        captions = pq.read_table(table, columns=["caption"])["caption"]
        return Run(pc.sum(pc.greater(pc.utf8_length(captions), 0)).as_py() or 0, seconds)

    def records(self) -> Run:
        """Read every record completely, verifying checksums."""
        start = time.process_time()
        with self.warc.open("rb", buffering=0) as stream:
            records = Records(
                stream, self.warc.name, frozenset({"warcinfo", "request", "response", "metadata"}), 1 << 30
            )
            count = sum(1 for _ in records)
        return Run(count, time.process_time() - start)

    def parsed(self, links: int) -> Run:
        """Read and parse every page without extraction: a lower bound for extracting *links* links."""
        start = time.process_time()
        with self.warc.open("rb") as stream:
            for record in ArchiveIterator(stream, record_types=WarcRecordType.response):
                LexborHTMLParser(record.reader.read())
        return Run(links, time.process_time() - start)

    def other(self, function: str, file: Path) -> Run:
        """Read *file* with one of the other tools."""
        command = [str(self.theirs), str(Path(__file__).with_name("links_theirs.py")), function, str(file)]
        result = subprocess.run(
            [*command, str(self.work / f"{function}.parquet")], check=True, capture_output=True, text=True
        )
        return Run(**json.loads(result.stdout))

    def measure(
        self, name: str, unit: str, ours: Callable[[], Run], theirs: Callable[[], Run], conditions: str
    ) -> Measure:
        our_runs, their_runs = alternate(self.rounds, ours, theirs)
        details = f"{conditions}; {our_runs[0].count} and {their_runs[0].count}, {self.rounds} rounds"
        rates = (median(run.rate for run in side) for side in (our_runs, their_runs))
        return Measure(name, unit, *rates, conditions=details)


def run(bench: Bench, config: Config, count: int) -> list[Measure]:
    """Write files with *count* pages, and measure."""
    write_warc(pages(count), bench.warc)
    write_wat(pages(count), bench.wat)
    size = sum(len(page.html) for page in pages(count)) // count
    warc = WarcFiles(config, WarcSource(kind="warc", paths=[str(bench.warc)]), "x")
    wat = WatFiles(config, WatSource(kind="wat", paths=[str(bench.wat)]), "x")
    setup = f"{count} pages of {size} bytes on average, {machine()}"
    from_warc = partial(bench.links, warc)
    resiliparse = partial(bench.other, "resiliparse_warc", bench.warc)
    measures = [
        bench.measure("links, from pages", "links/s", from_warc, resiliparse, f"theirs: resiliparse; {setup}"),
        bench.measure(
            "links, from WAT", "links/s", partial(bench.links, wat), partial(bench.other, "cc2dataset_wat", bench.wat),
            f"theirs: one task of {_CC2DATASET}; {setup}",
        ),
    ]  # fmt: skip
    links = from_warc().count
    measures[0] = replace(measures[0], limit=median(bench.parsed(links).rate for _ in range(bench.rounds)))
    for tool in ("fastwarc", "warcio"):
        theirs = partial(bench.other, f"{tool}_records", bench.warc)
        measures.append(
            bench.measure(f"records, {tool}", "records/s", bench.records, theirs, f"theirs: {tool}; {setup}")
        )
    fastwarc, warcio = (partial(bench.other, f"{tool}_records", bench.warc) for tool in ("fastwarc", "warcio"))
    measures.append(
        bench.measure("FastWARC, warcio", "records/s", fastwarc, warcio, f"FastWARC against warcio; {setup}")
    )
    for measure, kind in zip(measures[:2], ("WARC", "WAT"), strict=True):
        details = f"{kind} files here; theirs: 8,100 published by cc2dataset for WAT files on other machines; {setup}"
        measures.append(Measure(f"{measure.name}, published", "links/s", measure.ours, _PUBLISHED, None, details))
    return measures


def _cpu_seconds() -> float:
    """Return the CPU time of this process and its running children, which parse the pages."""
    process = psutil.Process()
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the measures to this file")
    parser.add_argument("--pages", type=int, default=4000, help="number of pages (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each pair (default %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vecap-links-") as work:
        bench = Bench(Path(work), _theirs(), arguments.rounds)
        report(run(bench, load_config(_REPOSITORY / "configs" / "demo.yaml"), arguments.pages), arguments.json)


def _theirs() -> Path:
    """Return a Python with the other tools; cc2dataset without Spark, which its extraction does not call."""
    python = environment_with(*_OTHERS)
    uv = Path(sys.executable).with_name("uv")
    command = ["uv" if not uv.exists() else str(uv), "pip", "install", "--quiet", "--no-deps", "--python", str(python)]
    subprocess.run([*command, _CC2DATASET], check=True)
    return python


if __name__ == "__main__":
    main()
