"""Connections to a Dask cluster with mutual TLS, and the executor with many shards."""

import logging
import time
from collections.abc import Iterator

import dask
import pytest
from distributed import Client, LocalCluster
from distributed.security import Security

from benchmarks.fakes import StandIn
from tests.rewrite.certificates import Authority
from tests.rewrite.conftest import two_workers
from tests.rewrite.fakes import KillsWorkers, KillsWorkersWithProgress
from vecap_tasks.config import Config
from vecap_tasks.core import executor
from vecap_tasks.core.dask_cluster import connect, count_slots
from vecap_tasks.core.executor import run_shards
from vecap_tasks.core.version import Version
from vecap_tasks.errors import VecapError


@pytest.fixture
def authority(tmp_path) -> Authority:
    return Authority(tmp_path / "ours")


@pytest.fixture
def encrypted(authority) -> Iterator[LocalCluster]:
    files = authority.sign("scheduler")
    security = Security(
        tls_ca_file=files["ca"],
        **{f"tls_{role}_{kind}": files[kind] for role in ("scheduler", "worker", "client") for kind in ("cert", "key")},
        require_encryption=True,
    )
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with LocalCluster(host="127.0.0.1", security=security, **options) as cluster:
        yield cluster


@pytest.fixture
def processes() -> Iterator[LocalCluster]:
    with two_workers() as cluster:
        yield cluster


def with_cluster(sandbox, cluster: LocalCluster, shards: int = 4, **dask) -> Config:
    config = sandbox.config()
    return config.model_copy(
        update={
            "dask": config.dask.model_validate({"address": cluster.scheduler_address} | dask),
            "crawl": config.crawl.model_copy(update={"shard_size": shards}),
        }
    ).with_base(config.base)


def stage(kind: type[StandIn], config: Config) -> StandIn:
    return kind(config, Version(config.dataset, "2026-01-01", 1, ""))


def test_shards_run_on_a_scheduler_that_requires_certificates(sandbox, encrypted, authority) -> None:
    assert encrypted.scheduler_address.startswith("tls://")
    stand_in = stage(StandIn, with_cluster(sandbox, encrypted, tls=authority.sign("us")))
    assert [result.shard for result in run_shards(stand_in, stand_in.plan())] == stand_in.shards()


def test_a_connection_without_a_valid_certificate_is_rejected(sandbox, encrypted, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("vecap_tasks.core.dask_cluster._CONNECT_TIMEOUT", 2)
    with pytest.raises(VecapError, match=r"at tls://.* requires certificates; set dask\.tls"):
        run_shards(stage(StandIn, with_cluster(sandbox, encrypted)), ["00000"])
    strangers = Authority(tmp_path / "strangers").sign("stranger")
    with pytest.raises(VecapError, match=r"TLS handshake with .* at tls://.* failed: .*come from the same CA"):
        run_shards(stage(StandIn, with_cluster(sandbox, encrypted, tls=strangers)), ["00000"])
    with pytest.raises(OSError), Client(encrypted.scheduler_address.replace("tls", "tcp"), timeout=2):
        pass  # pragma: no cover - the scheduler rejects the connection


@pytest.mark.parametrize("wrong", ["address", "missing", "no key"])
def test_the_error_for_a_wrong_tls_setting_names_it(sandbox, encrypted, authority, tmp_path, wrong: str) -> None:
    files = authority.sign("us")
    config = with_cluster(sandbox, encrypted, tls=files)
    expected = r"dask\.tls is set, but tcp://127.0.0.1:1 does not use TLS"
    if wrong == "address":
        config = with_cluster(sandbox, encrypted, tls=files, address="tcp://127.0.0.1:1")
    elif wrong == "missing":
        config, expected = (
            with_cluster(sandbox, encrypted, tls=files | {"cert": "gone.pem"}),
            r"dask\.tls\.cert: .*gone\.pem",
        )
    else:
        (tmp_path / "ours" / "us.key").write_text("no key")
        expected = r"dask\.tls: cannot load .*us\.key"
    with pytest.raises(VecapError, match=expected), connect(config):
        pass


def test_a_local_cluster_rejects_other_clients(sandbox) -> None:
    with connect(sandbox.config()) as client:
        assert client.scheduler.address.startswith("tls://127.0.0.1:")
        with (
            pytest.raises(OSError),
            Client(client.scheduler.address, timeout=2, security=Security.temporary(), set_as_default=False),
        ):
            pass


def test_the_scheduler_holds_only_running_shards(sandbox, processes, caplog) -> None:
    caplog.set_level(logging.INFO, "vecap_tasks.core.executor")
    stand_in = stage(StandIn, with_cluster(sandbox, processes, shards=300))
    task_counts, shown = [], []
    with Client(processes, set_as_default=False) as client:

        def slots_or_none(done: int, total: int) -> None:
            task_counts.append(client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)))

        assert len(run_shards(stand_in, stand_in.plan(), slots_or_none, shown.append)) == 300
    assert len(task_counts) == 301
    assert 1 <= max(task_counts) <= 2 + 1  # two workers with one thread each, and the last finished shard
    lines = [message for message in caplog.messages if " of 300 shards" in message]
    assert lines == [f"crawl {stand_in.version.name}: {line}" for line in shown]
    assert shown[0] == "0 of 300 shards"
    line = shown[-1]
    assert line.startswith("300 of 300 shards, ")
    assert line.endswith(" rows/s, cost 75.0000, estimated total 75.0000")


def test_a_lost_scheduler_has_no_slots(sandbox) -> None:
    with connect(sandbox.config()) as client:
        assert count_slots(client, {}) == 1
        client.close()
        assert count_slots(client, {}) == 0


def test_shards_wait_while_there_are_no_workers(sandbox, processes, monkeypatch) -> None:
    stand_in = stage(StandIn, with_cluster(sandbox, processes, shards=6))
    visible_from = time.monotonic() + 3  # longer than a shard takes

    def slots_or_none(client: Client, resources: dict[str, float]) -> int:
        return count_slots(client, resources) if time.monotonic() > visible_from else 0

    monkeypatch.setattr(executor, "_POLL_SECONDS", 0.0)
    monkeypatch.setattr(executor, "count_slots", slots_or_none)
    assert [result.shard for result in run_shards(stand_in, stand_in.plan())] == stand_in.shards()


def test_a_shard_that_kills_three_workers_is_skipped_and_the_others_finish(sandbox, processes) -> None:
    killing = stage(KillsWorkers, with_cluster(sandbox, processes, shards=12))
    with pytest.raises(
        VecapError, match="crawl: shard 00003: Skipped: 3 workers were killed on this shard"
    ) as exc_info:
        run_shards(killing, killing.plan())
    assert "\n" not in str(exc_info.value)
    assert killing.plan() == ["00003"]
    marks = killing.store.files(killing.scratch_dir("00003"))
    assert len(marks) == 3  # not sent to a fourth worker
    repaired = stage(StandIn, killing.config)  # like a rerun with more memory
    run_shards(repaired, repaired.plan())
    assert repaired.commit().counters["rows"] == 12
    assert repaired.store.folders("tiny/2026-01-01/crawl/_shards") == []


@pytest.mark.exhaustive
def test_a_local_worker_restarts_even_after_a_long_time(sandbox, monkeypatch) -> None:
    monkeypatch.setattr(executor, "_NO_WORKER_TIMEOUT", 200.0)  # default: 300
    config = sandbox.config()
    crawl = config.crawl.model_copy(update={"shard_size": 5})
    config = config.model_copy(update={"crawl": crawl}).with_base(config.base)
    killing = stage(KillsWorkersWithProgress, config)
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "100ms"}):  # Dask's default is too long
        assert len(run_shards(killing, killing.plan())) == 5


@pytest.mark.exhaustive
def test_a_shard_that_makes_progress_can_lose_more_than_three_workers(sandbox, processes) -> None:
    killing = stage(KillsWorkersWithProgress, with_cluster(sandbox, processes, shards=8))
    assert len(run_shards(killing, killing.plan())) == 8  # six workers died
