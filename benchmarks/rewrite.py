"""Captioning compared with the straightforward loop and with model calls only.

    python -m benchmarks.rewrite [--json FILE] [--images N] [--rounds N] [--only vlm|engine|memory …]

vlm: the demo's VLM in one process per core; captions must be identical. engine: a Dask worker with shards of 1,000
images, compared with the same model calls without stage, store and cluster. memory: scheduler and driver over a fake
stage. `benchmarks.llava` is for GPUs.
"""

from __future__ import annotations

import argparse
import gc
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import torch
from distributed import Client, LocalCluster
from PIL import Image

from benchmarks.canned_model import Canned
from benchmarks.fakes import CONFIG
from benchmarks.laid import scenes, write_dataset
from benchmarks.llava import device_limits
from benchmarks.naive import Naive
from benchmarks.report import Measure, alternate, machine, median, report
from vecap_tasks.config import Config, load_config
from vecap_tasks.core.executor import run_shards
from vecap_tasks.core.models import Checkpoint, find_model
from vecap_tasks.rewrite.accepted_rows import ImageInput, Row
from vecap_tasks.rewrite.backends.sampling_params import GREEDY, Sampling
from vecap_tasks.rewrite.llm import load_llm
from vecap_tasks.rewrite.prompt import load_prompt
from vecap_tasks.rewrite.stage import Rewrite
from vecap_tasks.rewrite.vlm import load_vlm

SHARD = 1000  # images
PARTS = ("vlm", "engine", "memory")


def settings(folder: str, threads: int) -> Config:
    """Return the demo's configuration, greedy only: neither side retries captions rejected by screening."""
    overrides = [f"root={folder}/store", "dask.address=null", "dask.workers=1", f"rewrite.shard_size={SHARD}"]
    for role in ("vlm", "llm"):
        overrides += [f"rewrite.{role}.retry_temperature=0", f"rewrite.{role}.threads={threads}"]
    return load_config(CONFIG, overrides)


def model(config: Config, role: str) -> Checkpoint:
    found = find_model(config, getattr(config.rewrite, role))
    assert isinstance(found, Checkpoint)
    return found


def read_inputs(images: Sequence[bytes]) -> Iterator[tuple[ImageInput, Sampling]]:
    for number, data in enumerate(images):
        row = Row(f"{number:05d}", "", f"{number}", None, "")
        yield ImageInput(row, Image.open(io.BytesIO(data)).convert("RGB"), data), GREEDY


def workers(count: int) -> LocalCluster:
    """Start single-threaded workers, like `vecap` without a configured cluster."""
    return LocalCluster(
        n_workers=count,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address=None,
        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
        memory_limit=0,
    )


def describe(config: Config, images: Sequence[bytes]) -> list[str]:
    """Describe *images* on a worker; the model stays loaded."""
    vlm = load_vlm(model(config, "vlm"), config.rewrite.vlm, load_prompt(config.rewrite.vlm.prompt))
    return [caption.text for caption in vlm.describe(read_inputs(images))]


def measure_vlm(images: Sequence[bytes], rounds: int) -> list[Measure]:
    """Measure images per second of our VLM with one process per core, and of the loop at batch 1 on all cores."""
    cores = len(os.sched_getaffinity(0))
    config = settings("unused", 1)
    naive = Naive(
        model(config, "vlm").folder,
        load_prompt(config.rewrite.vlm.prompt).text,
        config.rewrite.vlm.max_new_tokens,
        cores,
    )
    parts = [images[core * len(images) // cores : (core + 1) * len(images) // cores] for core in range(cores)]
    with workers(cores) as cluster, Client(cluster, set_as_default=False) as client:
        addresses = list(client.scheduler_info(n_workers=-1)["workers"])
        scattered = [
            client.scatter([part], [address], hash=False)[0] for part, address in zip(parts, addresses, strict=True)
        ]

        def ours() -> tuple[float, list[str]]:
            start = time.perf_counter()
            futures = [
                client.submit(describe, config, part, workers=address, pure=False)
                for part, address in zip(scattered, addresses, strict=True)
            ]
            texts = [text for future in futures for text in future.result()]
            return len(images) / (time.perf_counter() - start), texts

        def theirs() -> tuple[float, list[str]]:
            start = time.perf_counter()
            texts = naive.caption(images)
            return len(images) / (time.perf_counter() - start), texts

        ours()
        naive.caption(images[:2])
        runs = alternate(rounds, ours, theirs)
    assert len({tuple(texts) for side in runs for _, texts in side}) == 1, "the captions differ"
    _, rate = device_limits(torch.device("cpu"), torch.float32)
    conditions = (
        f"{len(images)} drawn scenes, the demo's VLM, batches of {config.rewrite.vlm.batch_size}, a process for each "
        f"core; theirs: one image at a time on {cores} threads; identical captions; limit: matrix products of "
        f"the prompts at {rate:.3g} FLOP/s measured; {machine()}, medians of {rounds} rounds"
    )
    rates = [median(rate for rate, _ in side) for side in runs]
    return [
        Measure("VLM in process", "images/s", rates[0], rates[1], rate / naive.prompt_products(images[0]), conditions)
    ]


def call_models(config: Config, images: Sequence[bytes], pairs: Sequence[tuple[str, str]]) -> None:
    """Make only the model calls of a shard, on a worker."""
    describe(config, images)
    llm = load_llm(
        model(config, "llm"),
        config.rewrite.llm,
        load_prompt(config.rewrite.llm.prompt),
        config.rewrite.max_alttext_chars,
    )
    llm.fuse([(pair, GREEDY) for pair in pairs])


def decode_images(images: Sequence[bytes]) -> None:
    """Decode *images* on a worker."""
    for _ in read_inputs(images):
        pass


def engine_cost(images: Sequence[bytes], rounds: int) -> list[Measure]:
    """Measure seconds of a shard through the engine, and of only its model calls, on the same worker."""
    with (
        tempfile.TemporaryDirectory(prefix="vecap-bench-") as folder,
        workers(1) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        config = settings(folder, 1)
        dask = config.dask.model_copy(update={"address": cluster.scheduler_address})
        config = config.model_copy(update={"dask": dask}).with_base(config.base)
        alttexts = [f"A Belvo {number} tulip in the garden" for number in range(SHARD)]
        shard_count = 1 + 2 * rounds
        version = write_dataset(config, "2026-01-01", [*images] * shard_count, alttexts * shard_count)
        stage, canned = Rewrite(config, version), Canned(config, version)
        first, *shards = stage.plan()
        (receipt,) = run_shards(stage, [first])  # loads the models
        assert receipt.notes["vlm_captions"] == SHARD
        with stage.store.open(f"{stage.folder}/{first}.parquet") as stream:
            rows = pq.read_table(stream, columns=["alttext", "vec", "vecap_tokens"]).to_pylist()
        pairs = [(row["alttext"], row["vec"]) for row in rows if row["vecap_tokens"]]
        assert len(pairs) == receipt.notes["llm_captions"]

        (scattered,) = client.scatter([images], hash=False)

        def measure(work: Callable[[], object]) -> tuple[float, float]:
            """Return wall clock and CPU seconds of *work*, CPU of the worker and of this process."""
            start, cpu = time.perf_counter(), _cpu(client)
            work()
            return time.perf_counter() - start, _cpu(client) - cpu

        def models_only() -> None:
            client.submit(call_models, config, scattered, pairs, pure=False).result()

        def decode() -> None:
            client.submit(decode_images, scattered, pure=False).result()

        engine, models = alternate(
            rounds, lambda: measure(lambda: run_shards(stage, [shards.pop()])), lambda: measure(models_only)
        )
        canned_runs, decoding = alternate(
            rounds, lambda: measure(lambda: run_shards(canned, [shards.pop()])), lambda: measure(decode)
        )
    conditions = (
        f"a shard of {SHARD} images, VLM and LLM of the demo, on one worker of one thread with loaded models; the "
        f"same images, {len(pairs)} texts fused; theirs: model calls only; {machine()}, medians of {rounds} rounds"
    )
    measures = []
    for name, index in (("wall clock", 0), ("CPU", 1)):
        sides = median(a[index] for a in engine), median(a[index] for a in models)
        # The speed of a shared machine varies, so each round is compared with its counterpart.
        cost = 100 * (median(a[index] / b[index] for a, b in zip(engine, models, strict=True)) - 1)
        measures.append(Measure(f"engine, {name}", "s/shard", *sides, None, conditions))
        measures.append(
            Measure(
                f"engine, {name} over the models", "%", cost, None, 5.0, "median over the rounds; limit: the target"
            )
        )
    sides = median(cpu for _, cpu in canned_runs), median(cpu for _, cpu in decoding)
    share = 100 * (sides[0] - sides[1]) / median(cpu for _, cpu in models)
    canned_conditions = "the same shard with instant models; theirs: decoding its images"
    measures.append(Measure("engine without models, CPU", "s/shard", *sides, None, canned_conditions))
    measures.append(Measure("engine without models, of the models' CPU", "%", share, None, 5.0, "limit: the target"))
    return measures


def _cpu(client: Client) -> float:
    return time.process_time() + sum(client.run(time.process_time).values())


def memory() -> list[Measure]:
    """Measure peak memory of the process with scheduler and driver, over 10 and over 1,000 shards of a fake stage."""
    peaks = []
    for shards in (10, 1000):
        command = [sys.executable, "-m", "benchmarks.fakes", str(shards)]
        output = subprocess.run(command, cwd=CONFIG.parent.parent, check=True, stdout=subprocess.PIPE, text=True).stdout
        peaks.append(int(output) / 2**20)
    conditions = "fake stage of 3 ms per shard; ours: 1,000 shards, theirs: 10; limit: 1.2 times theirs"
    return [Measure("scheduler and driver, fake stage", "MiB", peaks[1], peaks[0], 1.2 * peaks[0], conditions)]


def main() -> None:
    """Measure, print, and write the JSON file if requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measures to this file")
    parser.add_argument("--images", type=int, default=256, metavar="N", help="images for the part vlm (256)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds, for medians (3)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help="vlm engine memory")
    arguments = parser.parse_args()
    rounds = arguments.rounds
    images = scenes(max(arguments.images, SHARD))
    parts: dict[str, Callable[[], list[Measure]]] = {
        "vlm": lambda: measure_vlm(images[: arguments.images], rounds),
        "engine": lambda: engine_cost(images[:SHARD], rounds),
        "memory": memory,
    }
    measures = []
    for name in PARTS:
        if name in arguments.only:
            measures += parts[name]()
            gc.collect()
    report(measures, arguments.json)


if __name__ == "__main__":
    main()
