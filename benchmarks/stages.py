"""Cost per sample of the real stages, as a version grows: `python -m benchmarks.scale --stages N …`.

For each number of shards, of 100 rows each, a process per stage runs `crawl` (of local webdataset tars with tiny
images), `quality`, `rewrite` (with a model that answers immediately), `assemble`, and `verify`. A process plans, runs
all shards, and commits. Each finished cell is a line of a file, so that an interrupted benchmark continues; cells of
another commit are measured again.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from benchmarks.fakes import CONFIG
from benchmarks.report import Measure, machine, median
from benchmarks.tree import used_by, watching
from vecap_tasks.config import Config, load_config
from vecap_tasks.core.open_version import open_version
from vecap_tasks.core.stage import Stage, load_stage
from vecap_tasks.core.store import Store
from vecap_tasks.core.verify import verify_version
from vecap_tasks.core.version import Version
from vecap_tasks.errors import VecapError
from vecap_tasks.local.settings import REPOSITORY
from vecap_tasks.rewrite.accepted_rows import ImageInput
from vecap_tasks.rewrite.backends.sampling_params import GeneratedText, OnFinished, Sampling
from vecap_tasks.rewrite.prompt import Prompt, Texts
from vecap_tasks.rewrite.stage import Rewrite

STAGES = ("crawl", "quality", "rewrite", "assemble", "verify")
ROWS = 100  # per shard
SMALLEST = 10  # shards; the cost per sample at 100 shards is that of the samples beyond these
REFERENCE = 100
_REFERENCE_ROUNDS = 9
_SAMPLES = 2_000  # of the bootstrap
_LIMIT = 1.1  # of the cost per sample, over that at 100 shards
_SIDE = 64  # pixels
_NOUNS = ("lamp", "harbor", "garden", "bridge", "kettle", "orchard", "violin", "tower", "meadow", "bicycle")
_ADJECTIVES = ("small", "old", "green", "quiet", "wooden", "bright", "narrow", "painted", "round", "broken")


@dataclass(frozen=True, slots=True)
class Cell:
    """The cost of one stage of one version: seconds, CPU seconds with child processes, bytes, and rows."""

    commit: str
    stage: str
    shards: int
    round: int
    rows: int
    seconds: float
    cpu: float
    memory: int
    disk: int

    @property
    def key(self) -> tuple[str, str, int, int]:
        return self.commit, self.stage, self.shards, self.round


class Instant(Rewrite):
    """The stage `rewrite` with a model that answers immediately: it decodes each image and composes short sentences."""

    def _vlm(self) -> _Vlm:
        return _Vlm(self._settings["vlm"].batch_size)

    def _llm(self, prompt: Prompt) -> _Llm:
        return _Llm(self._settings["llm"].batch_size)


class _Vlm:
    decode_threads = 1

    def __init__(self, size: int) -> None:
        self._size = size

    def describe(self, requests: Iterator[tuple[ImageInput, Sampling]], finished: OnFinished) -> list[GeneratedText]:
        texts = (f"A photo of {_phrase(int(item.row.sha256[:8], 16))}." for item, _ in requests)
        return _answer(texts, self._size, finished)


class _Llm:
    def __init__(self, size: int) -> None:
        self._size = size

    def fuse(self, requests: Sequence[tuple[Texts, Sampling]], finished: OnFinished) -> list[GeneratedText]:
        texts = (f"{vec.rstrip('.')}, {alttext}." for (alttext, vec), _ in requests)
        return _answer(texts, self._size, finished)


def _answer(texts: Iterator[str], size: int, finished: OnFinished) -> list[GeneratedText]:
    answers: list[GeneratedText] = []
    for text in texts:
        answers.append(GeneratedText(text, len(text.split()) + 1, True, 20))
        if len(answers) % size == 0:
            finished(dict(enumerate(answers[-size:], start=len(answers) - size)))
    return answers


def _phrase(number: int) -> str:
    words = [_ADJECTIVES[number % 10], _NOUNS[number // 10 % 10], _ADJECTIVES[number // 100 % 10]]
    return "a {} {} near a {} {}".format(*words, _NOUNS[number // 1000 % 10])


def write_tars(folder: Path, shards: int) -> None:
    """Write *shards* webdataset tars with distinct JPEG images of 64 x 64 pixels and AltTexts; keep finished ones."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        path = folder / f"{shard:05d}.tar"
        if path.exists():
            continue
        random = np.random.default_rng(shard)
        unfinished = path.with_suffix(".part")
        with tarfile.open(unfinished, "w") as tar:
            for number in range(shard * ROWS, (shard + 1) * ROWS):
                _add(tar, f"{number:09d}.jpg", _jpeg(random))
                _add(tar, f"{number:09d}.txt", f"{_phrase(number).capitalize()}, picture {number}".encode())
        unfinished.rename(path)


def _jpeg(random: np.random.Generator) -> bytes:
    blocks = random.integers(0, 256, (8, 8, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(blocks).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=80)
    return stream.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def measure_stages(sizes: Sequence[int], rounds: int, folder: Path) -> list[Measure]:
    """Measure the stages at *sizes* in shards, *rounds* times each; *folder* has the tars and `cells.jsonl`.

    Measures the sizes up to 100 shards at least nine times: their fixed cost varies by as much as 90 shards take.
    """
    sizes = sorted({SMALLEST, REFERENCE, *sizes})
    commit = _commit()
    log = folder / "cells.jsonl"
    write_tars(folder / "tars", max(sizes))
    for number in range(max(rounds, _REFERENCE_ROUNDS)):
        measured = [size for size in sizes if number < rounds or size <= REFERENCE]
        for shards in measured if number % 2 == 0 else reversed(measured):
            known = {cell.key for cell in read_cells(log)}
            if all((commit, stage, shards, number) in known for stage in STAGES):
                continue
            place = folder / f"of-{shards}"
            shutil.rmtree(place, ignore_errors=True)
            _link_tars(folder / "tars", place, shards)
            for stage in STAGES:
                command = [sys.executable, "-m", "benchmarks.stages", stage, str(place)]
                cost = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
                cell = Cell(commit, stage, shards, number, shards * ROWS, **cost)
                with log.open("a", encoding="utf-8") as stream:
                    stream.write("\n" + json.dumps(asdict(cell)))  # after the unfinished line of a killed process
            shutil.rmtree(place)
    return summarize([cell for cell in read_cells(log) if cell.commit == commit])


def _commit() -> str:
    """Return the commit of the checkout, with a mark if files are changed."""
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY).stdout.strip()


def _link_tars(tars: Path, place: Path, shards: int) -> None:
    """Link the first *shards* tars into *place*."""
    (place / "tars").mkdir(parents=True)
    for shard in range(shards):
        (place / "tars" / f"{shard:05d}.tar").hardlink_to(tars / f"{shard:05d}.tar")


def read_cells(log: Path) -> list[Cell]:
    """Return the finished cells in *log*; a line that a killed process left unfinished is skipped."""
    if not log.exists():
        return []
    return [Cell(**json.loads(line)) for line in log.read_text("utf-8").splitlines() if line.endswith("}")]


def summarize(cells: Sequence[Cell]) -> list[Measure]:
    """Return the measures of all *cells* of one commit.

    The CPU time per sample at N shards is the slope from 100 to N shards, between medians, so that fixed costs do not
    hide growth. It is compared with the slope from 10 to 100 shards. The interval of the ratio is by bootstrap over the
    rounds of each size.
    """
    measures = []
    conditions = f"{machine()}, {ROWS} rows per shard"
    for stage in (stage for stage in STAGES if any(cell.stage == stage for cell in cells)):
        by_size: dict[int, list[Cell]] = {}
        for cell in (cell for cell in cells if cell.stage == stage):
            by_size.setdefault(cell.shards, []).append(cell)
        cpu = {size: np.array([cell.cpu for cell in found]) for size, found in by_size.items()}
        for size in sorted(by_size.keys() - {SMALLEST}):
            ours, theirs = _slopes(cpu, size)
            random = np.random.default_rng(0)
            samples = [
                _slopes({shards: random.choice(values, len(values)) for shards, values in cpu.items()}, size)
                for _ in range(_SAMPLES)
            ]
            low, high = np.quantile([above / below for above, below in samples if below] or [np.nan], (0.025, 0.975))
            rounds = f"{len(by_size[size])} rounds, {len(by_size[REFERENCE])} of 100 shards"
            spread = f"ratio [{low:.3f}, {high:.3f}], {rounds}; {conditions}"
            name = f"{stage} {{}}, {size:,} shards"
            wall = median(1e3 * cell.seconds / cell.rows for cell in by_size[size])
            memory, disk = (
                max(values) / 2**20 for values in zip(*((c.memory, c.disk) for c in by_size[size]), strict=True)
            )
            measures += [
                Measure(name.format("CPU per sample"), "ms", ours, theirs, theirs * _LIMIT, spread),
                Measure(name.format("wall clock per sample"), "ms", wall),
                Measure(name.format("peak memory of a process"), "MiB", memory),
                Measure(name.format("temporary files"), "MiB", disk),
            ]
    return measures


def _slopes(cpu: Mapping[int, np.ndarray], size: int) -> tuple[float, float]:
    """Return the CPU milliseconds per row beyond 100 shards, up to *size*, and of the rows from 10 to 100 shards.

    *cpu* has the CPU seconds of each round, float64 [rounds], by size.
    """

    def slope(low: int, high: int) -> float:
        return float(1e3 * (np.median(cpu[high]) - np.median(cpu[low])) / ((high - low) * ROWS))

    reference = slope(SMALLEST, REFERENCE)
    return (slope(REFERENCE, size) if size > REFERENCE else reference), reference


def load_place(place: Path) -> tuple[Config, Version]:
    """Return the configuration and the version in *place*, which is created if needed."""
    settings = {
        "root": f"{place}/store",
        "crawl.source.kind": "webdataset",
        "crawl.source.paths": json.dumps([f"{place}/tars/*.tar"]),
        "crawl.shard_size": ROWS,
        "rewrite.shard_size": ROWS,
        "assemble.shard_size": ROWS,
    }
    config = load_config(CONFIG, [f"{name}={value}" for name, value in settings.items()])
    return config, open_version(config, Store(config.root), "2026-01-01")


def run_stage(name: str, place: Path) -> dict[str, float]:
    """Run the stage *name*, or `verify`, of the version in *place*, and return its cost."""
    config, version = load_place(place)
    stage = load_stage("crawl" if name == "verify" else name, config, version)
    if name == "rewrite":
        stage = Instant(config, version)
    before, _ = used_by(os.getpid())
    with watching(stage.store.scratch) as cost:
        if name == "verify":
            found = verify_version(stage.store, version)
            if found.corruptions:
                raise VecapError(f"{found.corruptions[0].path} {found.corruptions[0].problem}")
        else:
            run_all(stage)
    cpu, _ = used_by(os.getpid())
    peak = max((child.memory_info().rss for child in psutil.Process().children(recursive=True)), default=0)
    ended = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {"seconds": cost.seconds, "cpu": cpu - before, "memory": max(cost.memory, peak, ended), "disk": cost.disk}


def run_all(stage: Stage) -> None:
    """Prepare, plan, run all shards in this process, and commit."""
    for part in stage.pending_preparations():
        stage.prepare(part)
    for shard in stage.plan():
        stage.run(shard)
    stage.commit()


def main() -> None:
    """Run one stage, for `measure_stages`, and print its cost as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("place", type=Path)
    arguments = parser.parse_args()
    print(json.dumps(run_stage(arguments.stage, arguments.place)))


if __name__ == "__main__":
    from benchmarks.stages import main as run  # the stage is recorded by this module name

    run()
