"""Twenty random kills of workers, scheduler and driver: the same bytes, and no repeated work beyond running batches."""

import logging
import random
import socket
import time

import pytest

from tests.rewrite.chaos import Cluster, count_texts
from vecap_tasks.core.verify import check_files
from vecap_tasks.rewrite.stage import Rewrite

ROWS, SHARD, BATCH = 160, 80, 16
KILLS = ["worker 0"] * 6 + ["worker 1"] * 6 + ["scheduler"] * 4 + ["driver"] * 4
# Maximum repeated batches per kill. A dead scheduler takes both workers with it. After a dead driver, both shards can
# move to the other worker while a batch is running.
IN_FLIGHT = {"worker 0": 1, "worker 1": 1, "scheduler": 2, "driver": 2}


@pytest.fixture
def rows(crawl_row):
    return [crawl_row(f"A Belvo {number} tulip", image=number) for number in range(ROWS)]


@pytest.mark.exhaustive
def test_twenty_kills_give_the_same_bytes_and_repeat_only_batches_in_flight(sandbox, rows, tmp_path, caplog) -> None:
    caplog.set_level(logging.DEBUG, "vecap_tasks.rewrite.backends.transformers")
    uninterrupted = Rewrite(sandbox.config(shard_size=SHARD), sandbox.write_crawl(sandbox.config(), rows))
    for shard in uninterrupted.plan():
        uninterrupted.run(shard)
    expected = uninterrupted.commit()
    (tmp_path / "uninterrupted").mkdir()
    (tmp_path / "uninterrupted" / "local.log").write_text(caplog.text)
    needed = count_texts(tmp_path / "uninterrupted")
    assert needed > 2 * ROWS

    rng = random.Random(5)
    pending_kills = rng.sample(KILLS, len(KILLS))
    repeated, rounds, reached = 0, 0, 0
    while pending_kills:
        rounds += 1
        sandbox.folder = tmp_path / f"round {rounds}"
        logs = sandbox.folder / "logs"
        logs.mkdir(parents=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        config = sandbox.config(shard_size=SHARD)
        config = config.model_copy(
            update={"dask": config.dask.model_copy(update={"address": f"tcp://127.0.0.1:{port}"})}
        ).with_base(sandbox.folder)
        version = sandbox.write_crawl(config, rows)
        cluster = Cluster(port, logs, (config.model_dump_json(), sandbox.folder, version))
        interrupted = Rewrite(config, version)
        max_repeated = 0
        try:
            texts_seen = 0
            while pending_kills and not cluster.wait(rng.uniform(0, 0.8), texts=texts_seen + 1):
                reached += count_texts(logs) > texts_seen
                texts_seen = count_texts(logs)
                max_repeated += IN_FLIGHT[pending_kills[-1]]
                cluster.kill(pending_kills.pop())
            assert cluster.wait(120), "the stage did not finish"
            for _ in range(300):  # a worker can still be running a batch of a killed driver
                if not interrupted.store.folders(f"{interrupted.folder}/_shards"):
                    break
                time.sleep(0.1)
        finally:
            cluster.kill_all()
        manifest = interrupted.manifest()
        assert manifest is not None
        assert manifest.digest == expected.digest
        assert check_files(interrupted.store, manifest) == []
        assert interrupted.store.folders(f"{interrupted.folder}/_shards") == []
        started = count_texts(logs)
        assert needed <= started <= needed + max_repeated * BATCH, (needed, started, max_repeated)
        repeated += started - needed
    print(f"{len(KILLS)} kills in {rounds} rounds, {reached} of them during generation: {repeated} texts repeated")
    assert reached >= len(KILLS) // 2
    assert repeated > 0  # at least one kill hit a batch
