"""Reading training data from tar shards: ours compared with open_clip's webdataset pipeline, on the same tars.

    python -m benchmarks.loading [--json FILE] [--theirs PYTHON] [--images N] [--rounds N] [--recaption]

Samples per CPU second in one process without workers, from JPEGs with a short side of 256 to a batch. Ours measures
both the iterable dataset (resized and cropped uint8 pixels, and token ids; the device crops and normalizes) and the map
dataset without cached images; theirs yields normalized floats. --theirs is the Python of an environment with
open_clip_torch, torchvision, webdataset and pandas. Without it, webdataset runs with PIL and equivalent transforms, and
the report says that this is not open_clip.

The last measures compare shards whose texts are in tables, as in a recaption, with shards that have their own texts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerFast

from benchmarks.photographs import as_jpeg, photograph
from benchmarks.report import Measure, alternate, machine, median, paired_ratio, report
from vecap_tasks.config import Config, ReadingConfig, load_config
from vecap_tasks.core.store import Store
from vecap_tasks.core.tar import TarWriter
from vecap_tasks.core.verify import RecordedFile
from vecap_tasks.train.data.epoch import TextDraws, TrainingData, plan_run
from vecap_tasks.train.data.images import Decoder, Index, open_images
from vecap_tasks.train.data.iterable_dataset import IterableTrainingData
from vecap_tasks.train.data.loader import MapTrainingData
from vecap_tasks.train.data.samples import Shard, Source
from vecap_tasks.train.data.tokenizer import load_tokenizer

_REPOSITORY = Path(__file__).resolve().parent.parent
_SHARDS = 8
_IMAGES = 64  # distinct photographs; copies are decoded each time
_BATCH = 256
_TEXT = "a photograph of soft shapes with finer ones upon them, some edges and the grain of a sensor, number {}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loading", description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measures to this file")
    parser.add_argument("--theirs", metavar="PYTHON", help="Python of an environment with open_clip")
    parser.add_argument("--images", type=int, default=4096, help="photographs in the tars (default: 4096)")
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds per side (default: 3)")
    parser.add_argument("--recaption", action="store_true", help="only compare tables with own texts")
    arguments = parser.parse_args()
    config = load_config(
        _REPOSITORY / "configs" / "demo.yaml",
        ["train.model.image_size=224", "train.model.context=77", f"train.batch_size={_BATCH}", "train.epochs=1"],
    )
    with tempfile.TemporaryDirectory(prefix="vecap-loading-") as folder:
        tars = _write(Path(folder), arguments.images)
        ours = _Ours(config, tars, arguments.images)
        measures = []
        if not arguments.recaption:
            theirs = _Theirs(arguments.theirs, tars, arguments.images, config.resolve(config.train.model.tokenizer))
            measures = _measure(ours, theirs, arguments.rounds, arguments.images)
        recaption = _Ours(config, tars, arguments.images, tables=True)
        measures += _compare_tables(recaption, ours, arguments.rounds, arguments.images)
    report(measures, arguments.json)


@dataclass(frozen=True, slots=True)
class _Pass:
    """Cost of a pass: samples, CPU seconds of the process, wall clock seconds, and the name of the side."""

    samples: int
    cpu: float
    wall: float
    name: str


def _measure(ours: _Ours, theirs: _Theirs, rounds: int, images: int) -> list[Measure]:
    measures = []
    for name, data in (("iterable dataset", ours.streamed), ("map dataset", ours.shuffled)):
        our_passes, their_passes = alternate(rounds, lambda data=data: _read_epoch(data()), theirs.run)  # type: ignore[misc]
        conditions = f"{images} JPEGs, batch {_BATCH}, medians of {rounds}; theirs: {their_passes[0].name}; {machine()}"
        rate, their_rate = (median(item.samples / item.cpu for item in side) for side in (our_passes, their_passes))
        measures.append(Measure(f"loading, {name}", "samples/CPU s", rate, their_rate, None, conditions))
        rate, their_rate = (median(item.samples / item.wall for item in side) for side in (our_passes, their_passes))
        measures.append(
            Measure(f"loading, {name}, wall clock", "samples/s", rate, their_rate, None, "one thread decodes")
        )
    return measures


def _compare_tables(recaption: _Ours, ours: _Ours, rounds: int, images: int) -> list[Measure]:
    measures = []
    conditions = f"{images} JPEGs, medians of {rounds}; theirs: shards with their own texts; {machine()}"
    sides = (
        ("iterable dataset", recaption.streamed, ours.streamed),
        ("map dataset", recaption.shuffled, ours.shuffled),
    )
    for name, tables, tars in sides:
        passes = alternate(rounds, lambda data=tables: _read_epoch(data()), lambda data=tars: _read_epoch(data()))  # type: ignore[misc]
        rates = [[item.samples / item.cpu for item in side] for side in passes]
        paired = f"{paired_ratio(*rates)}; {conditions}"
        measures.append(Measure(f"recaption, {name}", "samples/CPU s", *map(median, rates), None, paired))
    return measures


def _read_epoch(data: TrainingData) -> _Pass:
    """Read one epoch."""
    count, wall, cpu = 0, time.monotonic(), time.process_time()
    for batch in data.batches(0):
        count += len(batch.images)
    return _Pass(count, time.process_time() - cpu, time.monotonic() - wall, "ours")


class _Ours:
    def __init__(self, config: Config, tars: list[Path], images: int, *, tables: bool = False) -> None:
        local = pafs.LocalFileSystem()
        usable = images // _SHARDS
        shards = tuple(
            Shard(tar.name, local, str(tar), usable, None, _table(tar) if tables else None)  # type: ignore[arg-type]
            for tar in tars
        )
        self._config = config.train
        self._sources = [Source("photographs", shards, images, 1.0, {"vecap": 1.0})]
        self._draws = [TextDraws(0, self._sources[0].texts)]
        self._tokenizer: PreTrainedTokenizerFast = load_tokenizer(config)
        self._decoder = Decoder(config.train.model.image_size, "default")
        self._plan = plan_run("vecap-0", self._sources, [images], config.train)

    def streamed(self) -> TrainingData:
        reading = ReadingConfig()
        return IterableTrainingData(
            self._sources, self._draws, self._plan, self._decoder, self._tokenizer, reading, 0, 1
        )

    def shuffled(self) -> TrainingData:
        index = Index(self._sources, self._draws, self._tokenizer)
        return MapTrainingData(index, open_images(index, self._decoder, cache_bytes=0, threads=1), self._plan, 0)


@dataclass(frozen=True, slots=True)
class _Theirs:
    python: str | None
    tars: list[Path]
    images: int
    tokenizer: str

    def run(self) -> _Pass:
        """Read the tars with the other side in a separate process; loading its libraries does not count."""
        pipeline, python = ("open_clip", self.python) if self.python else ("webdataset", sys.executable)
        braces = f"{self.tars[0].parent}/{{{self.tars[0].stem}..{self.tars[-1].stem}}}.tar"
        script = Path(__file__).with_name("loading_theirs.py")
        command = [python, str(script), pipeline, braces, str(self.images), str(_BATCH), self.tokenizer]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            sys.exit(f"theirs failed: {result.stderr.strip().splitlines()[-1]}")
        body = json.loads(result.stdout.splitlines()[-1])
        return _Pass(body["samples"], body["cpu"], body["wall"], body["name"])


def _write(folder: Path, images: int) -> list[Path]:
    """Write *images* samples in this project's format to tars in *folder*."""
    images_jpeg = [as_jpeg(photograph(number, (341, 256)), 95) for number in range(_IMAGES)]
    tars = []
    for shard in range(_SHARDS):
        tars.append(folder / f"{shard:05d}.tar")
        rows = []
        with TarWriter(tars[-1]) as tar:
            for number in range(shard * (images // _SHARDS), (shard + 1) * (images // _SHARDS)):
                text = _TEXT.format(number)
                body = {"uid": f"{number:032x}", "alttext": text, "vec": text, "vecap": text}
                rows.append(body | {"key": f"{number:09d}"})
                members = {"txt": text.encode(), "json": json.dumps(body).encode()}
                tar.write(f"{number:09d}", {"jpg": images_jpeg[number % _IMAGES], **members})
        pq.write_table(pa.Table.from_pylist(rows), tars[-1].with_suffix(".parquet"))
    return tars


def _table(tar: Path) -> RecordedFile:
    data = tar.with_suffix(".parquet").read_bytes()
    store = Store(str(tar.parent))
    return RecordedFile(store, f"{tar.stem}.parquet", len(data), hashlib.sha256(data).hexdigest(), "restore it")


if __name__ == "__main__":
    main()
