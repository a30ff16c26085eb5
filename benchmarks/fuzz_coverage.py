"""Branch coverage of the readers by fuzzed inputs, measured in children with the package `coverage`."""

from __future__ import annotations

import json
import multiprocessing
import signal
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1] / "vecap_tasks"
READERS = (
    "core/json_reader.py", "core/tar.py", "crawl/html/charset.py", "crawl/html/extract.py", "crawl/html/image_urls.py",
    "crawl/html/nesting.py", "crawl/html/parser.py", "crawl/http/content_encoding.py",
    "crawl/http/headers.py", "crawl/http/path_rules.py", "crawl/http/robots.py", "crawl/http/url.py",
    "crawl/image/containers.py", "crawl/image/decode.py", "crawl/image/resize.py", "crawl/sources/columns.py",
    "crawl/sources/json_rows.py", "crawl/sources/list_file.py", "crawl/sources/parquet_rows.py",
    "crawl/sources/sitemap.py", "crawl/sources/table_rows.py", "crawl/sources/url_list.py", "crawl/sources/warc.py",
    "crawl/sources/wat.py", "crawl/sources/wat_record.py", "crawl/sources/webdataset.py", "crawl/warc/gzip_reader.py",
    "crawl/warc/records.py", "evaluate/sets/captions.py", "evaluate/sets/classes.py", "evaluate/sets/types.py",
    "core/private_data.py", "rewrite/backends/openai_errors.py", "rewrite/delimiters.py", "rewrite/prompt.py",
    "rewrite/sanitize.py", "rewrite/screen/content.py", "rewrite/screen/expansions.py", "rewrite/screen/fragment.py",
    "rewrite/screen/grounding.py", "rewrite/screen/language.py", "rewrite/screen/names.py",
    "rewrite/screen/numbers.py", "rewrite/screen/preamble.py",
    "rewrite/screen/shape.py", "rewrite/screen/talk.py", "rewrite/screen/text.py", "train/data/samples.py",
)  # fmt: skip
_MAX_SECONDS = 5.0  # CPU time of one input
_SAVE_EVERY = 100  # inputs


class _TimeUp(BaseException):
    """An input takes too long."""


def report_coverage(kinds: Sequence[str], seed: str, inputs: int, file: Path | None) -> None:
    """Print the covered and the existing branches of each reader after *inputs* inputs of each kind."""
    from coverage import Coverage

    with tempfile.TemporaryDirectory(prefix="vecap-fuzz-") as folder:
        context = multiprocessing.get_context("spawn")
        for kind in kinds:
            process = context.Process(target=_measure, args=(kind, seed, inputs, f"{folder}/data.{kind}"))
            process.start()
            process.join(120 + inputs)
            if process.is_alive():
                process.kill()
        measured = Coverage(data_file=f"{folder}/data", config_file=False, branch=True)
        measured.combine([folder])
        measured.json_report(outfile=f"{folder}/report.json", include=[str(_ROOT / name) for name in READERS])
        body = json.loads(Path(folder, "report.json").read_text(encoding="utf-8"))
    lines = {name: _branches(found["summary"]) for name, found in sorted(body["files"].items())}
    lines["all readers"] = _branches(body["totals"])
    for name, (covered, total) in lines.items():
        short = name.rpartition("vecap_tasks/")[2]
        print(f"{short:<36}{covered:>6} of {total:>5} branches  {100 * covered / max(1, total):5.1f} %")
    if file is not None:
        file.write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")


def _branches(summary: dict[str, int]) -> tuple[int, int]:
    return summary["covered_branches"], summary["num_branches"]


def _measure(kind_name: str, seed: str, inputs: int, path: str) -> None:
    """Read inputs of one kind and write the coverage to *path*, now and then, in case that an input crashes."""
    from coverage import Coverage

    measured = Coverage(data_file=path, branch=True, config_file=False, include=[str(_ROOT / name) for name in READERS])
    measured.start()
    from benchmarks.fuzz_child import read, recorded_errors
    from benchmarks.fuzz_kinds import KINDS

    signal.signal(signal.SIGPROF, _on_time_up)
    kind = KINDS[kind_name]
    with recorded_errors() as errors:
        for index in range(inputs):
            data = kind.input(f"{seed}/{kind_name}/{index}")
            with suppress(_TimeUp):
                signal.setitimer(signal.ITIMER_PROF, _MAX_SECONDS)
                read(kind_name, data, errors)
            signal.setitimer(signal.ITIMER_PROF, 0)
            if index % _SAVE_EVERY == 0:
                measured.save()
    measured.stop()
    measured.save()


def _on_time_up(_signal: int, _frame: object) -> None:
    raise _TimeUp
