"""Captioning, beside the loop that everyone writes first and beside the models alone.

    python -m benchmarks.rewrite [--json FILE] [--images N] [--rounds N] [--only vlm|engine|memory …]

The VLM: the demo's, in one process on all cores, and the captions must be the same ones. The engine: a Dask worker
that does shards of 1,000 images, against the same calls of the same models without stage, store and cluster; memory
over a stand-in. `benchmarks.llava` is for GPUs.
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
from benchmarks.laid import lay_down, scenes
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
    """Return the demo's configuration, greedy alone: what screening refuses is not tried again, here or there."""
    overrides = [f"root={folder}/store", "dask.address=null", "dask.workers=1", f"rewrite.shard_size={SHARD}"]
    for role in ("vlm", "llm"):
        overrides += [f"rewrite.{role}.retry_temperature=0", f"rewrite.{role}.threads={threads}"]
    return load_config(CONFIG, overrides)


def model(config: Config, role: str) -> Checkpoint:
    found = find_model(config, getattr(config.rewrite, role))
    assert isinstance(found, Checkpoint)
    return found


def look(pictures: Sequence[bytes]) -> Iterator[tuple[ImageInput, Sampling]]:
    for number, data in enumerate(pictures):
        row = Row(f"{number:05d}", "", f"{number}", None, "")
        yield ImageInput(row, Image.open(io.BytesIO(data)).convert("RGB"), data), GREEDY


def workers(count: int) -> LocalCluster:
    """Start workers of one thread, as `vecap` does where no cluster is configured."""
    return LocalCluster(
        n_workers=count,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address=None,
        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
        memory_limit=0,
    )


def describe(config: Config, pictures: Sequence[bytes]) -> list[str]:
    """Say what *pictures* show, on a worker; the model stays there."""
    vlm = load_vlm(model(config, "vlm"), config.rewrite.vlm, load_prompt(config.rewrite.vlm.prompt))
    return [written.text for written in vlm.describe(look(pictures))]


def describing(pictures: Sequence[bytes], rounds: int) -> list[Measure]:
    """Images a second of our VLM, a process for each core, and of the loop at batch 1 on as many threads."""
    cores = len(os.sched_getaffinity(0))
    config = settings("unused", 1)
    naive = Naive(
        model(config, "vlm").folder,
        load_prompt(config.rewrite.vlm.prompt).text,
        config.rewrite.vlm.max_new_tokens,
        cores,
    )
    parts = [pictures[core * len(pictures) // cores : (core + 1) * len(pictures) // cores] for core in range(cores)]
    with workers(cores) as cluster, Client(cluster, set_as_default=False) as client:
        places = list(client.scheduler_info(n_workers=-1)["workers"])
        there = [client.scatter([part], [place], hash=False)[0] for part, place in zip(parts, places, strict=True)]

        def ours() -> tuple[float, list[str]]:
            begun = time.perf_counter()
            futures = [
                client.submit(describe, config, part, workers=place, pure=False)
                for part, place in zip(there, places, strict=True)
            ]
            texts = [text for future in futures for text in future.result()]
            return len(pictures) / (time.perf_counter() - begun), texts

        def theirs() -> tuple[float, list[str]]:
            begun = time.perf_counter()
            texts = naive.caption(pictures)
            return len(pictures) / (time.perf_counter() - begun), texts

        ours()
        naive.caption(pictures[:2])
        made = alternate(rounds, ours, theirs)
    assert len({tuple(texts) for side in made for _, texts in side}) == 1, "the captions are not the same"
    _, rate = device_limits(torch.device("cpu"), torch.float32)
    how = (
        f"{len(pictures)} drawn scenes, the demo's VLM, batches of {config.rewrite.vlm.batch_size}, a process for each "
        f"core; theirs: one image after the other on {cores} threads; the same captions; limit: matrix products of "
        f"the prompts alone at {rate:.3g} FLOP/s measured; {machine()}, medians of {rounds} rounds"
    )
    rates = [median(rate for rate, _ in side) for side in made]
    return [Measure("VLM in process", "images/s", rates[0], rates[1], rate / naive.prompt_products(pictures[0]), how)]


def models_alone(config: Config, pictures: Sequence[bytes], pairs: Sequence[tuple[str, str]]) -> None:
    """Make the calls of the models that a shard makes, and nothing else, on a worker."""
    describe(config, pictures)
    llm = load_llm(
        model(config, "llm"),
        config.rewrite.llm,
        load_prompt(config.rewrite.llm.prompt),
        config.rewrite.max_alttext_chars,
    )
    llm.fuse([(pair, GREEDY) for pair in pairs])


def decode_alone(pictures: Sequence[bytes]) -> None:
    """Decode *pictures*, on a worker, as whoever captions them has to."""
    for _ in look(pictures):
        pass


def engine_cost(pictures: Sequence[bytes], rounds: int) -> list[Measure]:
    """Seconds of a shard through the engine, and of the same calls of the models alone, on the same worker."""
    with (
        tempfile.TemporaryDirectory(prefix="vecap-bench-") as folder,
        workers(1) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        config = settings(folder, 1)
        dask = config.dask.model_copy(update={"address": cluster.scheduler_address})
        config = config.model_copy(update={"dask": dask}).with_base(config.base)
        alttexts = [f"A Belvo {number} tulip in the garden" for number in range(SHARD)]
        times = 1 + 2 * rounds
        version = lay_down(config, "2026-01-01", [*pictures] * times, alttexts * times)
        stage, canned = Rewrite(config, version), Canned(config, version)
        first, *shards = stage.plan()
        (receipt,) = run_shards(stage, [first])  # pays for loading the models
        assert receipt.notes["vlm_captions"] == SHARD
        with stage.store.open(f"{stage.folder}/{first}.parquet") as stream:
            rows = pq.read_table(stream, columns=["alttext", "vec", "vecap_tokens"]).to_pylist()
        pairs = [(row["alttext"], row["vec"]) for row in rows if row["vecap_tokens"]]
        assert len(pairs) == receipt.notes["llm_captions"]

        (there,) = client.scatter([pictures], hash=False)

        def taken(work: Callable[[], object]) -> tuple[float, float]:
            """Return wall clock and CPU of *work*, of the worker and of this process with scheduler and driver."""
            begun = time.perf_counter(), _cpu(client)
            work()
            return time.perf_counter() - begun[0], _cpu(client) - begun[1]

        def alone() -> None:
            client.submit(models_alone, config, there, pairs, pure=False).result()

        def decode() -> None:
            client.submit(decode_alone, there, pure=False).result()

        through, bare = alternate(
            rounds, lambda: taken(lambda: run_shards(stage, [shards.pop()])), lambda: taken(alone)
        )
        own, decoded = alternate(
            rounds, lambda: taken(lambda: run_shards(canned, [shards.pop()])), lambda: taken(decode)
        )
    how = (
        f"a shard of {SHARD} images, VLM and LLM of the demo, on one worker of one thread with its models loaded; the "
        f"same images, {len(pairs)} texts fused; theirs: the models alone; {machine()}, medians of {rounds} rounds"
    )
    measures = []
    for name, place in (("wall clock", 0), ("CPU", 1)):
        ends = median(one[place] for one in through), median(one[place] for one in bare)
        # A machine that others use too is faster and slower by the minute: each round is held to its own other half.
        cost = 100 * (median(one[place] / other[place] for one, other in zip(through, bare, strict=True)) - 1)
        measures.append(Measure(f"engine, {name}", "s/shard", *ends, None, how))
        measures.append(
            Measure(
                f"engine, {name} over the models", "%", cost, None, 5.0, "median over the rounds; limit: the target"
            )
        )
    ends = median(cpu for _, cpu in own), median(cpu for _, cpu in decoded)
    share = 100 * (ends[0] - ends[1]) / median(cpu for _, cpu in bare)
    canned_how = "the same shard with models that answer at once; theirs: its images decoded"
    measures.append(Measure("engine without models, CPU", "s/shard", *ends, None, canned_how))
    measures.append(Measure("that difference, of the models' CPU", "%", share, None, 5.0, "limit: the target"))
    return measures


def _cpu(client: Client) -> float:
    return time.process_time() + sum(client.run(time.process_time).values())


def memory() -> list[Measure]:
    """Peak memory of the process that holds scheduler and driver, over 10 and over 1,000 shards of a stand-in."""
    peaks = []
    for shards in (10, 1000):
        command = [sys.executable, "-m", "benchmarks.fakes", str(shards)]
        said = subprocess.run(command, cwd=CONFIG.parent.parent, check=True, stdout=subprocess.PIPE, text=True).stdout
        peaks.append(int(said) / 2**20)
    how = "stand-in of some 3 ms a shard; ours: over 1,000 shards, theirs: over 10; limit: 1.2 times those"
    return [Measure("scheduler and driver, stand-in stage", "MiB", peaks[1], peaks[0], 1.2 * peaks[0], how)]


def main() -> None:
    """Measure, print, and write the file that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measures there as well")
    parser.add_argument("--images", type=int, default=256, metavar="N", help="for the VLM in process (256)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of which medians are taken (3)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help="vlm engine memory")
    arguments = parser.parse_args()
    rounds = arguments.rounds
    pictures = scenes(max(arguments.images, SHARD))
    parts: dict[str, Callable[[], list[Measure]]] = {
        "vlm": lambda: describing(pictures[: arguments.images], rounds),
        "engine": lambda: engine_cost(pictures[:SHARD], rounds),
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
