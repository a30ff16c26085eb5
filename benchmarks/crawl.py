"""Our crawl and img2dataset on the same photographs from the same server, to webdataset tars of the same make.

    python -m benchmarks.crawl [--json FILE] [--images N] [--rounds N]

Both read, resize to a short side of 256 and write JPEGs of quality 95, as the commands that a person runs. A rate
counts from the first photograph that the server was asked for, as both take seconds to start; CPU counts likewise and
takes in all processes. Memory is the peak of all processes together, once more at ten times the rows. Fetching alone
decodes nothing: our fetcher keeps the bytes as they come, img2dataset is told to keep them so in its tars.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.other import environment_with
from benchmarks.report import Measure, alternate, machine, median, report
from benchmarks.server import photograph
from benchmarks.tree import Usage, watch

_HERE = Path(__file__).resolve().parent.parent
_OTHER = "img2dataset==1.47.0"
_AT_ONCE = 64  # downloads of a process; img2dataset's threads
_PAGE = 500  # photographs on a page
_DECODED = 120  # photographs a core decodes to find the limit


@dataclass(frozen=True, slots=True)
class Run:
    """What one command took for *images* photographs, from the first on."""

    images: int
    seconds: float
    cpu: float
    peak: int

    @property
    def rate(self) -> float:
        return self.images / self.seconds

    @property
    def cpu_each(self) -> float:
        return 1000 * self.cpu / self.images


@dataclass(frozen=True, slots=True)
class Bench:
    """The two commands against the server at *port*; *folder* keeps what they write, until the next."""

    port: int
    folder: Path

    def ours(self, images: int, processes: int) -> Run:
        seeds = [f"{self._site}/page/{first}/{min(_PAGE, images - first)}" for first in range(0, images, _PAGE)]
        settings = {
            "root": str(self._empty("ours") / "store"),
            "crawl.source": {"kind": "site", "seeds": seeds, "max_depth": 0, "max_pages": len(seeds)},
            "crawl.shard_size": _shard_size(images, processes),
            "crawl.fetch.connections": _AT_ONCE,
            "crawl.fetch.connections_per_host": _AT_ONCE,
            "crawl.fetch.user_agent": "vecap-benchmark/1.0 (+https://example.org/benchmark)",
            "dask.address": None,
            "dask.workers": processes,
        }
        sets = [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
        config = str(_HERE / "configs" / "demo.yaml")
        command = [sys.executable, "-m", "vecap_tasks.cli", "crawl", "--config", config, "--version", "2026-01-01"]
        return self._run([*command, *sets, "--json"], "ours", images)

    def fetch(self, images: int) -> Run:
        """Ours, without the stage around it: bodies into a file."""
        words = [str(self.port), str(images), str(_AT_ONCE), str(self._empty("ours") / "bodies")]
        return self._run([sys.executable, "-m", "benchmarks.fetch", *words], "ours", images)

    def theirs(self, images: int, processes: int, *, decode: bool = True) -> Run:
        folder = self._empty("theirs")
        lines = [f"{self._site}/i/{n}.jpg\tphotograph {n} of a bench" for n in range(images)]
        (folder / "list.tsv").write_text("\n".join(["url\tcaption", *lines]) + "\n")
        options = {
            "url_list": "list.tsv", "input_format": "tsv", "caption_col": "caption", "output_folder": "out",
            "output_format": "webdataset", "resize_mode": "keep_ratio", "resize_only_if_bigger": True,
            "image_size": 256, "encode_quality": 95, "processes_count": processes, "thread_count": _AT_ONCE,
            "number_sample_per_shard": _shard_size(images, processes), "enable_wandb": False,
        }  # fmt: skip
        if not decode:
            options |= {"disable_all_reencoding": True, "resize_mode": "no"}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        command = [str(environment_with(_OTHER).parent / "img2dataset"), *words]
        return self._run(command, "theirs", images)

    @property
    def _site(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _empty(self, name: str) -> Path:
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def _run(self, command: list[str], name: str, images: int) -> Run:
        # img2dataset's libraries would ask the network for news of themselves.
        quiet = {"NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled"}
        ours = {"VECAP_HOME": str(self.folder / "ours"), "PYTHONPATH": str(_HERE)}
        self._seen()
        usage: Usage = watch(command, os.environ | quiet | ours, self.folder / name)
        asked, first = self._seen()
        tars = list((self.folder / name).rglob("*.tar"))
        stored = sum(map(_tar_images, tars)) if tars else asked
        if not asked == stored == images:
            raise RuntimeError(f"{name}: {images} photographs wanted, {asked} asked for, {stored} stored")
        return Run(images, usage.end - first, usage.cpu_since(first), usage.peak)

    def _seen(self) -> tuple[int, float]:
        with urllib.request.urlopen(f"{self._site}/seen") as answer:  # noqa: S310 - our own server
            seen = json.load(answer)
        return seen["images"], seen["first"] or 0.0


def _shard_size(images: int, processes: int) -> int:
    """Return a size that gives each process as much, and no shard of more rows at ten times the rows."""
    return min(images // processes, 1000)


def _tar_images(path: Path) -> int:
    import tarfile

    with tarfile.open(path) as tar:
        return sum(name.endswith(".jpg") for name in tar.getnames())


def _decode_all(count: int) -> tuple[float, float]:
    """Decode *count* photographs; return how many a second, and the milliseconds of CPU for each."""
    from vecap_tasks.config import ImageConfig
    from vecap_tasks.crawl.image.decode import decode

    bodies = [photograph(number) for number in range(8)]  # two of each size
    start, cpu = time.perf_counter(), time.process_time()
    for number in range(count):
        decode(bodies[number % len(bodies)], ImageConfig())
    return count / (time.perf_counter() - start), 1000 * (time.process_time() - cpu) / count


def decode_limit(cores: int) -> tuple[float, float]:
    """Return the photographs a second that *cores* processes decode, resize and encode, doing nothing else, and the
    milliseconds of CPU for each."""
    with ProcessPoolExecutor(cores) as pool:
        rates, each = zip(*pool.map(_decode_all, [_DECODED] * cores), strict=True)
    return sum(rates), median(each)


@contextmanager
def served() -> Iterator[int]:
    """Give the port of a server in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [sys.executable, "-m", "benchmarks.server", "--port", str(port)]
    process = subprocess.Popen(command, cwd=_HERE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("the server of photographs did not start")
        yield port
    finally:
        process.terminate()
        process.wait()


def measures(bench: Bench, images: int, rounds: int) -> list[Measure]:
    """Run everything and return what was measured."""
    cores = len(os.sched_getaffinity(0))
    where = f"{images} photographs, {machine()}"
    how = f"{where}, medians of {rounds} rounds"
    bare = alternate(rounds, partial(bench.fetch, images), partial(bench.theirs, images, 1, decode=False))
    made = _pair("fetching alone, 1 process", bare, None, how)
    for processes in dict.fromkeys((1, cores)):
        runs = alternate(rounds, partial(bench.ours, images, processes), partial(bench.theirs, images, processes))
        of = f"{processes} process{'es' if processes > 1 else ''}"
        made += _pair(f"crawl, {of}", runs, decode_limit(cores), f"{how}; limit: decoding alone on all cores")
        once = [median(run.peak for run in side) for side in runs]
        made.append(Measure(f"crawl memory, {of}", "MiB", once[0] / 2**20, once[1] / 2**20, None, how))
    tenfold = bench.ours(10 * images, cores).peak, bench.theirs(10 * images, cores).peak
    growth = tenfold[0] / once[0], tenfold[1] / once[1]
    how = f"{of}, {10 * images} photographs; wanted: at most 1.2"
    made.append(Measure("memory at 10x the rows", "times", *growth, None, how))
    return made


def _pair(name: str, runs: tuple[list[Run], list[Run]], limit: tuple[float, float] | None, how: str) -> list[Measure]:
    """Return rate and CPU of both; *limit* is the best that the machine could do of each."""
    rates = [median(run.rate for run in side) for side in runs]
    each = [median(run.cpu_each for run in side) for side in runs]
    most, least = limit or (None, None)
    return [
        Measure(name, "images/s", rates[0], rates[1], most, how),
        Measure(f"{name}: CPU", "ms/image", each[0], each[1], least, how),
    ]


def main() -> None:
    """Measure, print, and write the file that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measures there as well")
    parser.add_argument("--images", type=int, default=2000, metavar="N", help="photographs of a round (2000)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of which medians are taken (3)")
    arguments = parser.parse_args()
    environment_with(_OTHER)
    with served() as port, tempfile.TemporaryDirectory(prefix="vecap-bench-") as folder:
        report(measures(Bench(port, Path(folder)), arguments.images, arguments.rounds), arguments.json)


if __name__ == "__main__":
    main()
