"""Twenty kills at random moments, of workers, the scheduler and the driver: the same bytes, and nothing paid twice."""

import logging
import random
import socket
import time

import pytest

from tests.rewrite.chaos import Crew, count_texts
from vecap_tasks.core.verify import check_files
from vecap_tasks.rewrite.stage import Rewrite

ROWS, SHARD, BATCH = 160, 80, 16
KILLS = ["worker 0"] * 6 + ["worker 1"] * 6 + ["scheduler"] * 4 + ["driver"] * 4
# Batches that are begun in vain: one of a worker that dies; with the scheduler both die, and when the driver does,
# each of its two shards may be handed to the other worker before the batch in flight is done.
IN_FLIGHT = {"worker 0": 1, "worker 1": 1, "scheduler": 2, "driver": 2}


@pytest.fixture
def rows(given):
    return [given(f"A Belvo {number} tulip", image=number) for number in range(ROWS)]


@pytest.mark.exhaustive
def test_twenty_kills_end_with_the_same_bytes_and_cost_the_batches_in_flight(place, rows, tmp_path, caplog) -> None:
    caplog.set_level(logging.DEBUG, "vecap_tasks.rewrite.backends.transformers")
    undisturbed = Rewrite(place.config(shard_size=SHARD), place.lay_down(place.config(), rows))
    for shard in undisturbed.plan():
        undisturbed.run(shard)
    wanted = undisturbed.commit()
    (tmp_path / "undisturbed").mkdir()
    (tmp_path / "undisturbed" / "here.log").write_text(caplog.text)
    needed = count_texts(tmp_path / "undisturbed")
    assert needed > 2 * ROWS

    moments = random.Random(5)
    left = moments.sample(KILLS, len(KILLS))
    in_vain, rounds, reached = 0, 0, 0
    while left:
        rounds += 1
        place.folder = tmp_path / f"round {rounds}"
        logs = place.folder / "logs"
        logs.mkdir(parents=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        config = place.config(shard_size=SHARD)
        config = config.model_copy(
            update={"dask": config.dask.model_copy(update={"address": f"tcp://127.0.0.1:{port}"})}
        ).with_base(place.folder)
        version = place.lay_down(config, rows)
        crew = Crew(port, logs, (config.model_dump_json(), place.folder, version))
        disturbed = Rewrite(config, version)
        most = 0
        try:
            seen = 0
            while left and not crew.wait(moments.uniform(0, 0.8), texts=seen + 1):
                reached += count_texts(logs) > seen
                seen = count_texts(logs)
                most += IN_FLIGHT[left[-1]]
                crew.kill(left.pop())
            assert crew.wait(120), "the stage did not come to its end"
            for _ in range(300):  # a worker whose driver was killed may be at its batch yet
                if not disturbed.store.folders(f"{disturbed.folder}/_shards"):
                    break
                time.sleep(0.1)
        finally:
            crew.end()
        manifest = disturbed.manifest()
        assert manifest is not None
        assert manifest.digest == wanted.digest
        assert check_files(disturbed.store, manifest) == []
        assert disturbed.store.folders(f"{disturbed.folder}/_shards") == []
        begun = count_texts(logs)
        assert needed <= begun <= needed + most * BATCH, (needed, begun, most)
        in_vain += begun - needed
    print(f"{len(KILLS)} kills in {rounds} rounds, {reached} of them while models wrote: {in_vain} texts begun in vain")
    assert reached >= len(KILLS) // 2
    assert in_vain > 0  # else no kill met a batch, and nothing was tried
