"""The parts of the benchmark of the orchestration that need no Airflow: generated versions, models and latencies."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from aiohttp import web

from benchmarks.instant_model import VEC, VECAP
from benchmarks.latency import Latencies, percentile
from benchmarks.orchestration import overrides
from benchmarks.small_shards import ROWS, write_version
from tests.installation import DEMO, REPOSITORY, free_ports
from tests.rewrite.server import ReceivedRequest, Server
from vecap_tasks.config import load_config
from vecap_tasks.core.samples import Filter, Samples
from vecap_tasks.core.stage import load_stage
from vecap_tasks.core.store import Store
from vecap_tasks.core.verify import verify_version


@pytest.fixture
def model() -> Iterator[int]:
    """The port of the model server."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "benchmarks.instant_model", "--port", str(port)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield port
        finally:
            process.terminate()


def test_every_shard_of_four_rows_is_captioned(home, model: int) -> None:
    config = load_config(DEMO, overrides(home, model))
    version = write_version(config, "2026-01-01", 3)
    stage = load_stage("rewrite", config, version)
    shards = stage.plan()
    assert len(shards) == 3
    for shard in shards:
        assert stage.run(shard).counters["vecap_from.llm"] == ROWS
    manifest = stage.commit()
    assert manifest.counters["captioned"] == 3 * ROWS
    store = Store(config.resolve(config.root))
    assert verify_version(store, version).corruptions == ()
    rows = Samples(store, version).page(Filter(), 0, 99).rows
    assert [row.key for row in rows] == sorted(row.key for row in rows)
    assert {(row.vec, row.vecap) for row in rows} == {(VEC, VECAP)}
    assert len({row.uid for row in rows}) == 3 * ROWS, "no caption is reused"


def test_latencies_have_a_row_for_each_page() -> None:
    async def answer(request: ReceivedRequest) -> web.StreamResponse:
        raise AssertionError(request)

    with Server(answer) as server:
        urls = {"models": [f"{server.url}/models"] * 8, "missing": [f"{server.url}/missing"]}
        latencies = Latencies(urls, "token")
        for _ in range(3):
            latencies.round()
    median, high = latencies.measures("300 shards: ")
    assert (median.name, high.name) == ("300 shards: models, median", "300 shards: models, 95th percentile")
    assert 0 < median.ours <= high.ours < 2 == high.limit
    assert high.conditions.startswith("8 requests at once, the slowest ")
    assert high.conditions.endswith(" s, 3 times")


def test_a_failing_page_ends_the_measurement() -> None:
    with Server() as server:
        latencies = Latencies({"posted only": [f"{server.url}/chat/completions"]}, "token")
        with pytest.raises(OSError, match="405"):
            latencies.round()


def test_the_percentile_is_one_of_the_values() -> None:
    assert percentile([3.0], 95) == 3.0
    assert percentile([float(n) for n in range(100, 0, -1)], 95) == 95.0
    assert percentile([1.0, 2.0, 3.0], 95) == 3.0
