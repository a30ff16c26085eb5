"""Quality on Dask workers writes the same files as in one process."""

import sys

import pytest

from tests.conftest import REPOSITORY
from tests.faults import check
from tests.faults.factories import save_clip
from tests.rewrite.conftest import CrawlRow, Sandbox
from vecap_tasks.config import Config
from vecap_tasks.core import executor
from vecap_tasks.core.stage import load_stage
from vecap_tasks.quality import stage as quality_stage

SHARDS, ROWS = 9, 4


@pytest.mark.slow
@pytest.mark.parametrize("semantic", [False, True])
def test_workers_write_the_same_files(tmp_path, monkeypatch, semantic):
    monkeypatch.setitem(sys.modules, "vecap_tasks.quality.expectations", check)
    sandbox = Sandbox(tmp_path, tmp_path, tmp_path)
    rows = [CrawlRow(f"A Belvo {n // 7} tulip in the garden", image=n % 30) for n in range(SHARDS * ROWS)]
    values = sandbox.config().model_dump() | {"quality": {"rows": {"max_same_alttext": 5, "max_host_rows": 20}}}
    if semantic:
        save_clip(tmp_path / "clip", REPOSITORY / "vecap_tasks/demo/models/llm")
        values["quality"]["clip"] = {"model": "clip", "batch_size": 4, "duplicate_similarity": 0.5}
    config = Config.model_validate(values | {"dask": {"workers": 2}}).with_base(tmp_path)
    clusters, connect = [], executor.connect
    monkeypatch.setattr(executor, "connect", lambda config: clusters.append(config) or connect(config))
    manifests = []
    for interval, min_parallel, part_shards in (("2026-01-01", 100, 100), ("2026-01-02", 2, 3)):
        version = sandbox.write_crawl(config, rows, interval, ROWS)
        stage = load_stage("quality", config, version)
        stage.store.remove_folder(stage.folder)
        stage.min_parallel = stage.min_parallel_parts = min_parallel
        monkeypatch.setattr(quality_stage, "_PART_SHARDS", part_shards)
        executor.prepare(stage)
        assert len(executor.run_shards(stage, stage.plan())) == SHARDS
        manifests.append(stage.commit())
    assert len(clusters) == 2, "the second version ran on workers"
    assert manifests[0].counters.get("reason.semantic_duplicate", 0) > 0 or not semantic
    assert manifests[0].files == manifests[1].files
    assert 0 < manifests[0].counters["accepted"] < SHARDS * ROWS
