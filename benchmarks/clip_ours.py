"""Our side of `benchmarks.clip`: trains a few epochs and prints the speed after the first one as JSON."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import torch
from transformers import AutoTokenizer

from vecap_tasks.config import TrainConfig
from vecap_tasks.core.store import Store
from vecap_tasks.train.checkpoint import Checkpoints
from vecap_tasks.train.data.epoch import Batch, TextDraws, TrainingData, plan_run
from vecap_tasks.train.data.images import Decoder, Index, open_images
from vecap_tasks.train.data.loader import MapTrainingData
from vecap_tasks.train.data.samples import Shard, Source
from vecap_tasks.train.distributed import ProcessGroup, training_device
from vecap_tasks.train.model import build_model
from vecap_tasks.train.throughput import Progress
from vecap_tasks.train.trainer import fit


@dataclass(frozen=True, slots=True)
class _OneBatch:
    """Training data that yields the same batch at every step."""

    batch: Batch
    batch_size: int
    steps_per_epoch: int
    steps: int
    samples: int
    left_out: int = 0

    def batches(self, first: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        for step in range(first, self.steps):
            epoch, position = divmod(step, self.per_epoch)
            yield Batch(step, epoch, position, self.batch.uids, self.batch.images, self.batch.ids)


class _Timed:
    """Wraps training data and records the time when the second epoch starts."""

    def __init__(self, data: TrainingData) -> None:
        self.samples, self.left_out, self.batch_size = data.samples, data.left_out, data.batch_size
        self.steps_per_epoch, self.steps = data.steps_per_epoch, data.steps
        self.begin = self.cpu = 0.0
        self._data = data

    def batches(self, first: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        for batch in self._data.batches(first, rank, world_size):
            if batch.step == self.steps_per_epoch:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                self.begin, self.cpu = time.perf_counter(), time.process_time()
            yield batch


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    config = TrainConfig.model_validate(
        {
            "model": task["model"], "batch_size": task["batch"], "epochs": task["epochs"], "crop_scale": 0.9,
            "precision": task["precision"], "threads": task["threads"], "loader_threads": task["workers"],
            "compile": task["compile"], "deterministic": False, "checkpoint_steps": 1_000_000,
        }
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(task["tokenizer"], trust_remote_code=False)
    data = _Timed(_tars(task, config, tokenizer) if task["kind"] == "tars" else _memory(task, config, tokenizer))
    process_group = ProcessGroup(training_device("cuda" if torch.cuda.is_available() else "cpu"))
    model = build_model(config.model, tokenizer, 0)
    last: list[Progress] = []
    with tempfile.TemporaryDirectory(prefix="vecap-") as folder:
        checkpoints = Checkpoints(Store(folder), "checkpoints", "features", 1)
        fit("bench-0", model, data, config, 0, process_group, checkpoints, last.append)
    seconds = time.perf_counter() - data.begin
    samples = (data.steps - data.steps_per_epoch) * data.batch_size
    rate, cpu = samples / seconds, samples / (time.process_time() - data.cpu)
    speed = last[-1].speed
    mfu = None if speed.mfu is None else speed.mfu * rate / speed.samples_per_second
    name = f"torch {torch.__version__}"
    print(json.dumps({"samples_per_second": rate, "samples_per_cpu_second": cpu, "mfu": mfu, "name": name}))


def _memory(task: dict[str, Any], config: TrainConfig, tokenizer: Any) -> TrainingData:
    rng = np.random.default_rng(0)
    size, count = config.model.image_size, task["batch"]
    pixels = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    ids = rng.integers(10, task["vocabulary"] - 10, (count, 1, config.model.context), np.int32)
    ids[..., -1] = tokenizer.eos_token_id
    batch = Batch(0, 0, 0, tuple(f"{number:032x}" for number in range(count)), pixels, ids)
    return _OneBatch(batch, count, task["steps"], task["steps"] * task["epochs"], task["steps"] * count)


def _tars(task: dict[str, Any], config: TrainConfig, tokenizer: Any) -> TrainingData:
    """Return data that is shuffled globally and decoded in every epoch, like datasets larger than memory."""
    images = task["steps"] * task["batch"]
    local = pafs.LocalFileSystem()
    shards = tuple(Shard(Path(tar).name, local, tar, images // len(task["tars"])) for tar in task["tars"])
    sources = [Source("photographs", shards, images, 1.0, {"vecap": 1.0})]
    index = Index(sources, [TextDraws(0, sources[0].texts)], tokenizer)
    decoder = Decoder(config.model.image_size, config.model.preprocess)
    cache = open_images(index, decoder, cache_bytes=0, threads=config.loader_threads)
    return MapTrainingData(index, cache, plan_run("vecap-0", sources, [images], config), 0)


if __name__ == "__main__":
    main()
