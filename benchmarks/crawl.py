"""Our crawl and img2dataset on the same photographs from the same server, both writing webdataset tars.

    python -m benchmarks.crawl [--json FILE] [--images N] [--rounds N]

Both commands download, resize to a short side of 256 and write JPEGs of quality 95. Rates and CPU time (of all
processes) count from the first request for a photograph, because both take seconds to start. Memory is the peak of all
processes together, measured again with ten times the rows. The fetch-only measure decodes nothing: our fetcher and
img2dataset store the original bytes.
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
_IMG2DATASET = "img2dataset==1.47.0"
_CONCURRENCY = 64  # downloads per process; img2dataset's threads
_PAGE = 500  # photographs per page
_DECODED = 120  # photographs per core, to measure the limit


@dataclass(frozen=True, slots=True)
class Run:
    """Cost of one command for *images* photographs, from the first request on."""

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
    """Both commands against the server at *port*; *folder* holds the output of the last run."""

    port: int
    folder: Path

    def ours(self, images: int, processes: int) -> Run:
        seeds = [f"{self._site}/page/{first}/{min(_PAGE, images - first)}" for first in range(0, images, _PAGE)]
        settings = {
            "root": str(self._empty("ours") / "store"),
            "crawl.source": {"kind": "site", "seeds": seeds, "max_depth": 0, "max_pages": len(seeds)},
            "crawl.shard_size": _shard_size(images, processes),
            "crawl.fetch.connections": _CONCURRENCY,
            "crawl.fetch.connections_per_host": _CONCURRENCY,
            "crawl.fetch.user_agent": "vecap-benchmark/1.0 (+https://example.org/benchmark)",
            "dask.address": None,
            "dask.workers": processes,
        }
        sets = [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
        config = str(_HERE / "configs" / "demo.yaml")
        command = [sys.executable, "-m", "vecap_tasks.cli", "crawl", "--config", config, "--version", "2026-01-01"]
        return self._run([*command, *sets, "--json"], "ours", images)

    def fetch(self, images: int) -> Run:
        """Run our fetcher without the stage, writing bodies to a file."""
        words = [str(self.port), str(images), str(_CONCURRENCY), str(self._empty("ours") / "bodies")]
        return self._run([sys.executable, "-m", "benchmarks.fetch", *words], "ours", images)

    def theirs(self, images: int, processes: int, *, decode: bool = True) -> Run:
        folder = self._empty("theirs")
        lines = [f"{self._site}/i/{n}.jpg\tphotograph {n} of a bench" for n in range(images)]
        (folder / "list.tsv").write_text("\n".join(["url\tcaption", *lines]) + "\n")
        options = {
            "url_list": "list.tsv", "input_format": "tsv", "caption_col": "caption", "output_folder": "out",
            "output_format": "webdataset", "resize_mode": "keep_ratio", "resize_only_if_bigger": True,
            "image_size": 256, "encode_quality": 95, "processes_count": processes, "thread_count": _CONCURRENCY,
            "number_sample_per_shard": _shard_size(images, processes), "enable_wandb": False,
        }  # fmt: skip
        if not decode:
            options |= {"disable_all_reencoding": True, "resize_mode": "no"}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        command = [str(environment_with(_IMG2DATASET).parent / "img2dataset"), *words]
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
        # Disable update checks of img2dataset's libraries.
        quiet = {"NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled"}
        ours = {"VECAP_HOME": str(self.folder / "ours"), "PYTHONPATH": str(_HERE)}
        self._request_stats()
        usage: Usage = watch(command, os.environ | quiet | ours, self.folder / name)
        requested, first = self._request_stats()
        tars = list((self.folder / name).rglob("*.tar"))
        stored = sum(map(_tar_images, tars)) if tars else requested
        if not requested == stored == images:
            raise RuntimeError(f"{name}: expected {images} photographs, {requested} requested, {stored} stored")
        return Run(images, usage.end - first, usage.cpu_since(first), usage.peak)

    def _request_stats(self) -> tuple[int, float]:
        with urllib.request.urlopen(f"{self._site}/seen") as response:  # noqa: S310 - our server
            stats = json.load(response)
        return stats["images"], stats["first"] or 0.0


def _shard_size(images: int, processes: int) -> int:
    """Return a shard size that gives all processes equal work and stays the same at ten times the rows."""
    return min(images // processes, 1000)


def _tar_images(path: Path) -> int:
    import tarfile

    with tarfile.open(path) as tar:
        return sum(name.endswith(".jpg") for name in tar.getnames())


def _decode_all(count: int) -> tuple[float, float]:
    """Decode *count* photographs; return images per second and CPU milliseconds per image."""
    from vecap_tasks.config import ImageConfig
    from vecap_tasks.crawl.image.decode import decode

    bodies = [photograph(number) for number in range(8)]  # two of each size
    start, cpu = time.perf_counter(), time.process_time()
    for number in range(count):
        decode(bodies[number % len(bodies)], ImageConfig())
    return count / (time.perf_counter() - start), 1000 * (time.process_time() - cpu) / count


def decode_limit(cores: int) -> tuple[float, float]:
    """Return images per second for decoding, resizing and encoding with *cores* processes, and CPU ms per image."""
    with ProcessPoolExecutor(cores) as pool:
        rates, each = zip(*pool.map(_decode_all, [_DECODED] * cores), strict=True)
    return sum(rates), median(each)


@contextmanager
def served() -> Iterator[int]:
    """Run a server in a separate process and yield its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "benchmarks.server", "--port", str(port)]
    process = subprocess.Popen(command, cwd=_HERE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("The photograph server did not start")
        yield port
    finally:
        process.terminate()
        process.wait()


def measures(bench: Bench, images: int, rounds: int) -> list[Measure]:
    """Run all measurements."""
    cores = len(os.sched_getaffinity(0))
    setup = f"{images} photographs, {machine()}"
    conditions = f"{setup}, medians of {rounds} rounds"
    fetch_only = alternate(rounds, partial(bench.fetch, images), partial(bench.theirs, images, 1, decode=False))
    results = _pair("fetch only, 1 process", fetch_only, None, conditions)
    for processes in dict.fromkeys((1, cores)):
        runs = alternate(rounds, partial(bench.ours, images, processes), partial(bench.theirs, images, processes))
        workers = f"{processes} process{'es' if processes > 1 else ''}"
        results += _pair(
            f"crawl, {workers}", runs, decode_limit(cores), f"{conditions}; limit: decoding only, on all cores"
        )
        peaks = [median(run.peak for run in side) for side in runs]
        results.append(Measure(f"crawl memory, {workers}", "MiB", peaks[0] / 2**20, peaks[1] / 2**20, None, conditions))
    tenfold = bench.ours(10 * images, cores).peak, bench.theirs(10 * images, cores).peak
    growth = tenfold[0] / peaks[0], tenfold[1] / peaks[1]
    conditions = f"{workers}, {10 * images} photographs; target: at most 1.2"
    results.append(Measure("memory at 10x the rows", "times", *growth, None, conditions))
    return results


def _pair(
    name: str, runs: tuple[list[Run], list[Run]], limit: tuple[float, float] | None, conditions: str
) -> list[Measure]:
    """Return rate and CPU time of both sides; *limit* is the best value of each on this machine."""
    rates = [median(run.rate for run in side) for side in runs]
    each = [median(run.cpu_each for run in side) for side in runs]
    max_rate, min_cpu = limit or (None, None)
    return [
        Measure(name, "images/s", rates[0], rates[1], max_rate, conditions),
        Measure(f"{name}: CPU", "ms/image", each[0], each[1], min_cpu, conditions),
    ]


def main() -> None:
    """Measure, print, and write the JSON file if requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measures to this file")
    parser.add_argument("--images", type=int, default=2000, metavar="N", help="photographs per round (2000)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds, for medians (3)")
    arguments = parser.parse_args()
    environment_with(_IMG2DATASET)
    with served() as port, tempfile.TemporaryDirectory(prefix="vecap-bench-") as folder:
        report(measures(Bench(port, Path(folder)), arguments.images, arguments.rounds), arguments.json)


if __name__ == "__main__":
    main()
