"""Shards over Dask: the same bytes whatever the workers, and a clear line when something is lost."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

from tests.rewrite.conftest import two_workers
from vecap_tasks.config import Config
from vecap_tasks.core.dask_cluster import connect
from vecap_tasks.core.executor import prepare, run_shards
from vecap_tasks.core.manifest import ShardOutput
from vecap_tasks.errors import PermanentError, VecapError
from vecap_tasks.rewrite.stage import Rewrite


def on(config: Config, **dask) -> Config:
    """The same configuration, its work done elsewhere."""
    return config.model_copy(update={"dask": config.dask.model_copy(update=dask)}).with_base(config.base)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with two_workers() as cluster:
        yield cluster


@pytest.fixture
def rows(given):
    return [given(f"A Belvo {number} tulip", image=number) for number in range(8)]


def digest_here(place, config: Config, rows) -> str:
    """The digest of the stage done without workers, under a name of its own that enters no digest."""
    stage = Rewrite(config, place.lay_down(config, rows))
    for shard in stage.plan():
        stage.run(shard)
    return stage.commit().digest


def test_two_workers_of_its_own_make_the_bytes_that_none_makes(place, rows, tmp_path) -> None:
    wanted = digest_here(place, place.config(shard_size=1), rows)
    place.folder = tmp_path / "again"
    place.folder.mkdir()
    config = on(place.config(shard_size=1), workers=2)
    stage = Rewrite(config, place.lay_down(config, rows))
    seen = []
    results = run_shards(stage, stage.plan(), lambda done, total: seen.append((done, total)))
    assert [result.shard for result in results] == stage.shards()
    assert seen == [(done, 8) for done in range(9)]
    assert stage.commit().digest == wanted


def test_a_worker_killed_in_the_middle_costs_no_byte(place, rows, tmp_path, cluster) -> None:
    wanted = digest_here(place, place.config(shard_size=1), rows)
    place.folder = tmp_path / "again"
    place.folder.mkdir()
    config = on(place.config(shard_size=1), address=cluster.scheduler_address)
    stage = Rewrite(config, place.lay_down(config, rows))
    with Client(cluster, set_as_default=False) as client:
        pids = sorted(client.run(os.getpid).values())
    killed = []

    def kill(done: int, total: int) -> None:
        if done == 3 and not killed:
            os.kill(pids[0], signal.SIGKILL)
            killed.append(pids[0])

    run_shards(stage, stage.plan(), kill)
    assert killed
    assert stage.commit().digest == wanted


class Unlucky(Rewrite):
    """Fails the first time that a shard is tried."""

    error: type[VecapError] = VecapError

    def process(self, shard: str, work: Path) -> ShardOutput:
        tries = tries_of(self.config, shard)
        if not tries.exists():
            tries.write_text("1")
            raise self.error("not this time")
        tries.write_text("2")
        return super().process(shard, work)


class Hopeless(Unlucky):
    """Fails for a reason that a retry cannot help."""

    error = PermanentError


def tries_of(config: Config, shard: str) -> Path:
    """Return the file that counts how often *shard* was tried."""
    return Path(config.resolve(config.root)).parent / f"{shard}.tries"


def test_a_shard_that_fails_once_is_tried_again(place, rows, cluster) -> None:
    config = on(place.config(shard_size=4), address=cluster.scheduler_address)
    stage = Unlucky(config, place.lay_down(config, rows))
    assert [result.shard for result in run_shards(stage, stage.plan())] == ["00000", "00001"]
    assert [tries_of(config, shard).read_text() for shard in stage.shards()] == ["2", "2"]


def test_an_error_that_a_retry_cannot_help_is_not_tried_again(place, rows, cluster) -> None:
    config = on(place.config(shard_size=4), address=cluster.scheduler_address)
    stage = Hopeless(config, place.lay_down(config, rows))
    with pytest.raises(PermanentError, match="2 of 2 shards failed; shard 00000: not this time"):
        run_shards(stage, stage.plan())
    assert [tries_of(config, shard).read_text() for shard in stage.shards()] == ["1", "1"]


class Mixed(Rewrite):
    """Fails for good in the first shard, and for now in the others."""

    def process(self, shard: str, work: Path) -> ShardOutput:
        raise PermanentError("for good") if shard == "00000" else VecapError("for now")


def test_a_stage_is_tried_again_if_any_of_its_failures_may_pass(place, rows, cluster) -> None:
    config = on(place.config(shard_size=4), address=cluster.scheduler_address)
    stage = Mixed(config, place.lay_down(config, rows))
    with pytest.raises(VecapError, match="2 of 2 shards failed") as told:
        run_shards(stage, stage.plan())
    assert not isinstance(told.value, PermanentError)


class Prepared(Rewrite):
    """Has two parts to prepare; each notes the process that did it."""

    def preparations(self) -> list[str]:
        return [part for part in ("a", "b") if not tries_of(self.config, part).exists()]

    def prepare(self, part: str) -> None:
        tries_of(self.config, part).write_text(str(os.getpid()))


def test_several_parts_are_prepared_by_workers_and_one_is_prepared_here(place, rows, cluster) -> None:
    config = on(place.config(), address=cluster.scheduler_address)
    stage = Prepared(config, place.lay_down(config, rows))
    prepare(stage)
    assert str(os.getpid()) not in {tries_of(config, part).read_text() for part in "ab"}
    tries_of(config, "b").unlink()
    prepare(stage)
    assert tries_of(config, "b").read_text() == str(os.getpid())


def test_a_shard_that_fails_is_told_in_one_line_and_the_others_are_kept(place, rows, cluster) -> None:
    config = on(place.config(shard_size=2), address=cluster.scheduler_address)
    version = place.lay_down(config, rows, shard_size=4)
    stage = Rewrite(config, version)
    tar = f"{version.folder}/crawl/00001.tar"
    whole = stage.store.read(tar)
    stage.store.put(tar, b"no tar" * 1000)
    with pytest.raises(VecapError, match=r"rewrite: 2 of 4 shards failed; shard 00002: .*00001\.tar") as told:
        run_shards(stage, stage.plan())
    assert "\n" not in str(told.value)
    assert stage.plan() == ["00002", "00003"]
    stage.store.put(tar, whole)
    run_shards(stage, stage.plan())
    assert stage.commit().counters["rows"] == 8


def test_a_fault_that_is_no_shards_own_is_not_met_by_every_shard(place, rows, cluster, tmp_path) -> None:
    config = on(place.config(shard_size=1), address=cluster.scheduler_address)
    version = place.lay_down(config, rows)
    stage = Rewrite(config, version)
    shards = stage.plan()
    stage.store.put(f"{version.folder}/quality/verdicts.parquet", b"no parquet")
    with pytest.raises(
        VecapError, match=r"rewrite: (\d+) of 8 shards failed; shard 00000: .*verdicts\.parquet"
    ) as told:
        run_shards(stage, shards)
    assert int(str(told.value).split()[1]) < 8


def test_the_workers_use_the_places_that_the_caller_means(place, rows, cluster, monkeypatch, tmp_path) -> None:
    """A worker started under another environment writes where the configuration of the caller says."""
    monkeypatch.setenv("VECAP_TEST_ROOT", str(tmp_path / "mine"))
    config = place.config(shard_size=4)
    config = on(config, address=cluster.scheduler_address).model_copy(update={"root": "${VECAP_TEST_ROOT}/store"})
    stage = Rewrite(config, place.lay_down(config, rows))
    run_shards(stage, stage.plan())
    assert stage.commit().counters["rows"] == 8
    assert (tmp_path / "mine" / "store" / "tiny" / "2026-01-01" / "rewrite" / "manifest.json").is_file()


def test_no_scheduler_at_the_address_is_told(place, monkeypatch) -> None:
    monkeypatch.setattr("vecap_tasks.core.dask_cluster._PATIENCE_SECONDS", 1)
    config = on(place.config(), address="tcp://127.0.0.1:9")
    with (
        pytest.raises(VecapError, match=r"no Dask scheduler answers at tcp://127.0.0.1:9; start it"),
        connect(config),
    ):
        pass


def test_a_resource_that_no_worker_has_is_told_and_not_waited_for(place, rows, cluster, monkeypatch) -> None:
    monkeypatch.setattr("vecap_tasks.core.dask_cluster._PATIENCE_SECONDS", 1)
    config = on(place.config(), address=cluster.scheduler_address, resources={"GPU": 1})
    stage = Rewrite(config, place.lay_down(config, rows))
    with pytest.raises(VecapError, match=r"no worker with \{'GPU': 1\}"):
        run_shards(stage, stage.plan())


def test_a_scheduler_that_dies_is_told_and_leaves_what_is_done(place, rows, tmp_path) -> None:
    file = str(tmp_path / "scheduler.json")
    command = [sys.executable, "-m", "distributed.cli.dask_{}", "--scheduler-file", file, "--no-dashboard"]
    more = {"scheduler": ["--host", "127.0.0.1", "--port", "0"], "worker": ["--no-nanny", "--nthreads", "1"]}
    processes = {
        name: subprocess.Popen([word.format(name) for word in command] + options, stderr=subprocess.DEVNULL)
        for name, options in more.items()
    }
    try:
        with Client(scheduler_file=file, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=300)
            address = client.scheduler.address
        config = on(place.config(shard_size=1), address=address)
        stage = Rewrite(config, place.lay_down(config, rows))
        with pytest.raises(VecapError, match="the connection to the Dask scheduler was lost; start the scheduler"):
            run_shards(stage, stage.plan(), lambda done, total: processes["scheduler"].kill() if done == 2 else None)
        assert len(stage.plan()) <= 6
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
