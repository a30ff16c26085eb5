"""Shards on Dask: the same bytes for any number of workers, and one-line errors."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

from tests.rewrite.conftest import two_workers
from vecap_tasks.config import Config
from vecap_tasks.core.dask_cluster import connect
from vecap_tasks.core.executor import prepare, run_shards
from vecap_tasks.core.manifest import ShardOutput
from vecap_tasks.errors import OutageError, PermanentError, VecapError
from vecap_tasks.rewrite.stage import Rewrite


def with_dask(config: Config, **dask) -> Config:
    """Return *config* with other Dask settings."""
    return config.model_copy(update={"dask": config.dask.model_copy(update=dask)}).with_base(config.base)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with two_workers() as cluster:
        yield cluster


@pytest.fixture
def rows(crawl_row):
    return [crawl_row(f"A Belvo {number} tulip", image=number) for number in range(8)]


def local_digest(sandbox, config: Config, rows) -> str:
    """Return the digest of the stage run without workers."""
    stage = Rewrite(config, sandbox.write_crawl(config, rows))
    for shard in stage.plan():
        stage.run(shard)
    return stage.commit().digest


def test_two_local_workers_give_the_same_bytes_as_none(sandbox, rows, tmp_path) -> None:
    expected = local_digest(sandbox, sandbox.config(shard_size=1), rows)
    sandbox.folder = tmp_path / "again"
    sandbox.folder.mkdir()
    config = with_dask(sandbox.config(shard_size=1), workers=2)
    stage = Rewrite(config, sandbox.write_crawl(config, rows))
    progress = []
    results = run_shards(stage, stage.plan(), lambda done, total: progress.append((done, total)))
    assert [result.shard for result in results] == stage.shards()
    assert progress == [(done, 8) for done in range(9)]
    assert stage.commit().digest == expected


def test_a_killed_worker_does_not_change_the_bytes(sandbox, rows, tmp_path, cluster) -> None:
    expected = local_digest(sandbox, sandbox.config(shard_size=1), rows)
    sandbox.folder = tmp_path / "again"
    sandbox.folder.mkdir()
    config = with_dask(sandbox.config(shard_size=1), address=cluster.scheduler_address)
    stage = Rewrite(config, sandbox.write_crawl(config, rows))
    with Client(cluster, set_as_default=False) as client:
        pids = sorted(client.run(os.getpid).values())
    killed = []

    def kill(done: int, total: int) -> None:
        if done == 3 and not killed:
            os.kill(pids[0], signal.SIGKILL)
            killed.append(pids[0])

    run_shards(stage, stage.plan(), kill)
    assert killed
    assert stage.commit().digest == expected


class FailsOnce(Rewrite):
    """Fails in the first attempt of each shard."""

    error: type[VecapError] = VecapError

    def process(self, shard: str, work: Path) -> ShardOutput:
        attempts = attempts_file(self.config, shard)
        if not attempts.exists():
            attempts.write_text("1")
            raise self.error("not this time")
        attempts.write_text("2")
        return super().process(shard, work)


class FailsPermanently(FailsOnce):
    """Fails permanently."""

    error = PermanentError


class MeetsOutages(FailsOnce):
    """Fails because an outage was too long."""

    error = OutageError


def attempts_file(config: Config, shard: str) -> Path:
    """Return the file with the number of attempts of *shard*."""
    return Path(config.resolve(config.root)).parent / f"{shard}.tries"


def test_a_shard_that_fails_once_is_retried(sandbox, rows, cluster) -> None:
    config = with_dask(sandbox.config(shard_size=4), address=cluster.scheduler_address)
    stage = FailsOnce(config, sandbox.write_crawl(config, rows))
    assert [result.shard for result in run_shards(stage, stage.plan())] == ["00000", "00001"]
    assert [attempts_file(config, shard).read_text() for shard in stage.shards()] == ["2", "2"]


def test_a_permanent_error_is_not_retried(sandbox, rows, cluster) -> None:
    config = with_dask(sandbox.config(shard_size=4), address=cluster.scheduler_address)
    stage = FailsPermanently(config, sandbox.write_crawl(config, rows))
    with pytest.raises(PermanentError, match="2 of 2 shards failed; shard 00000: not this time"):
        run_shards(stage, stage.plan())
    assert [attempts_file(config, shard).read_text() for shard in stage.shards()] == ["1", "1"]


def test_the_outage_of_a_service_is_waited_for_once_and_stops_the_stage(sandbox, rows, cluster) -> None:
    """Each task has waited for the end of the outage, and the others would wait as long."""
    config = with_dask(sandbox.config(shard_size=1), address=cluster.scheduler_address)
    stage = MeetsOutages(config, sandbox.write_crawl(config, rows))
    with pytest.raises(OutageError, match=r"rewrite: \d of 8 shards failed; shard 0000\d: not this time"):
        run_shards(stage, stage.plan())
    tried = [attempts_file(config, f"{number:05d}") for number in range(8)]
    assert 2 <= sum(file.exists() for file in tried) <= 4
    assert {file.read_text() for file in tried if file.exists()} == {"1"}
    while shards := stage.plan():
        with suppress(OutageError):
            run_shards(stage, shards)
    assert stage.commit().counters["rows"] == 8


class FailsBothWays(Rewrite):
    """Fails permanently in the first shard and temporarily in the others."""

    def process(self, shard: str, work: Path) -> ShardOutput:
        raise PermanentError("for good") if shard == "00000" else VecapError("for now")


def test_a_stage_with_a_temporary_failure_can_be_retried(sandbox, rows, cluster) -> None:
    config = with_dask(sandbox.config(shard_size=4), address=cluster.scheduler_address)
    stage = FailsBothWays(config, sandbox.write_crawl(config, rows))
    with pytest.raises(VecapError, match="2 of 2 shards failed") as exc_info:
        run_shards(stage, stage.plan())
    assert not isinstance(exc_info.value, PermanentError)


class HasPreparations(Rewrite):
    """Has two parts to prepare; each records its process."""

    def preparations(self) -> list[str]:
        return [part for part in ("a", "b") if not attempts_file(self.config, part).exists()]

    def prepare(self, part: str) -> None:
        attempts_file(self.config, part).write_text(str(os.getpid()))


def test_several_parts_are_prepared_by_workers_and_a_single_one_locally(sandbox, rows, cluster) -> None:
    config = with_dask(sandbox.config(), address=cluster.scheduler_address)
    stage = HasPreparations(config, sandbox.write_crawl(config, rows))
    prepare(stage)
    assert str(os.getpid()) not in {attempts_file(config, part).read_text() for part in "ab"}
    attempts_file(config, "b").unlink()
    prepare(stage)
    assert attempts_file(config, "b").read_text() == str(os.getpid())


def test_a_failed_shard_is_a_one_line_error_and_the_others_are_kept(sandbox, rows, cluster) -> None:
    config = with_dask(sandbox.config(shard_size=2), address=cluster.scheduler_address)
    version = sandbox.write_crawl(config, rows, shard_size=4)
    stage = Rewrite(config, version)
    tar = f"{version.folder}/crawl/00001.tar"
    whole = stage.store.read(tar)
    stage.store.put(tar, b"no tar" * 1000)
    with pytest.raises(VecapError, match=r"rewrite: 2 of 4 shards failed; shard 00002: .*00001\.tar") as exc_info:
        run_shards(stage, stage.plan())
    assert "\n" not in str(exc_info.value)
    assert stage.plan() == ["00002", "00003"]
    stage.store.put(tar, whole)
    run_shards(stage, stage.plan())
    assert stage.commit().counters["rows"] == 8


def test_a_common_fault_stops_the_stage_early(sandbox, rows, cluster, tmp_path) -> None:
    config = with_dask(sandbox.config(shard_size=1), address=cluster.scheduler_address)
    version = sandbox.write_crawl(config, rows)
    stage = Rewrite(config, version)
    shards = stage.plan()
    stage.store.put(f"{version.folder}/quality/verdicts/00000.parquet", b"no parquet")
    with pytest.raises(
        VecapError, match=r"rewrite: (\d+) of 8 shards failed; shard 00000: .*verdicts/00000\.parquet"
    ) as exc_info:
        run_shards(stage, shards)
    assert int(str(exc_info.value).split()[1]) < 8


def test_workers_resolve_paths_in_the_environment_of_the_caller(sandbox, rows, cluster, monkeypatch, tmp_path) -> None:
    """Workers with another environment write to the path that the caller configured."""
    monkeypatch.setenv("VECAP_TEST_ROOT", str(tmp_path / "mine"))
    config = sandbox.config(shard_size=4)
    config = with_dask(config, address=cluster.scheduler_address).model_copy(
        update={"root": "${VECAP_TEST_ROOT}/store"}
    )
    stage = Rewrite(config, sandbox.write_crawl(config, rows))
    run_shards(stage, stage.plan())
    assert stage.commit().counters["rows"] == 8
    assert (tmp_path / "mine" / "store" / "tiny" / "2026-01-01" / "rewrite" / "manifest.json").is_file()


def test_a_missing_scheduler_is_an_error(sandbox, monkeypatch) -> None:
    monkeypatch.setattr("vecap_tasks.core.dask_cluster._CONNECT_TIMEOUT", 1)
    config = with_dask(sandbox.config(), address="tcp://127.0.0.1:9")
    with (
        pytest.raises(VecapError, match=r"no Dask scheduler answers at tcp://127.0.0.1:9; start it"),
        connect(config),
    ):
        pass


def test_a_resource_that_no_worker_has_is_an_error(sandbox, rows, cluster, monkeypatch) -> None:
    monkeypatch.setattr("vecap_tasks.core.dask_cluster._CONNECT_TIMEOUT", 1)
    config = with_dask(sandbox.config(), address=cluster.scheduler_address, resources={"GPU": 1})
    stage = Rewrite(config, sandbox.write_crawl(config, rows))
    with pytest.raises(VecapError, match=r"no worker with \{'GPU': 1\}"):
        run_shards(stage, stage.plan())


def test_a_lost_scheduler_is_an_error_and_finished_shards_remain(sandbox, rows, tmp_path) -> None:
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
        config = with_dask(sandbox.config(shard_size=1), address=address)
        stage = Rewrite(config, sandbox.write_crawl(config, rows))
        with pytest.raises(VecapError, match="the connection to the Dask scheduler was lost; start the scheduler"):
            run_shards(stage, stage.plan(), lambda done, total: processes["scheduler"].kill() if done == 2 else None)
        assert len(stage.plan()) <= 6
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
