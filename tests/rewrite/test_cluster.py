"""The way to a Dask cluster: TLS with certificates that are checked on both sides, and the engine over many shards."""

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
from tests.rewrite.fakes import Deadly, Laborious
from vecap_tasks.config import Config
from vecap_tasks.core import executor
from vecap_tasks.core.dask_cluster import connect, slots
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


def at(place, cluster: LocalCluster, shards: int = 4, **dask) -> Config:
    config = place.config()
    return config.model_copy(
        update={
            "dask": config.dask.model_validate({"address": cluster.scheduler_address} | dask),
            "crawl": config.crawl.model_copy(update={"shard_size": shards}),
        }
    ).with_base(config.base)


def stage(kind: type[StandIn], config: Config) -> StandIn:
    return kind(config, Version(config.dataset, "2026-01-01", 1, ""))


def test_shards_are_done_on_a_scheduler_that_asks_for_certificates(place, encrypted, authority) -> None:
    assert encrypted.scheduler_address.startswith("tls://")
    quick = stage(StandIn, at(place, encrypted, tls=authority.sign("us")))
    assert [result.shard for result in run_shards(quick, quick.plan())] == quick.shards()


def test_nobody_without_a_certificate_is_let_in(place, encrypted, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("vecap_tasks.core.dask_cluster._CONNECT_TIMEOUT", 2)
    with pytest.raises(VecapError, match=r"at tls://.* requires certificates; set dask\.tls"):
        run_shards(stage(StandIn, at(place, encrypted)), ["00000"])
    strangers = Authority(tmp_path / "strangers").sign("stranger")
    with pytest.raises(VecapError, match=r"TLS handshake with .* at tls://.* failed: .*come from the same CA"):
        run_shards(stage(StandIn, at(place, encrypted, tls=strangers)), ["00000"])
    with pytest.raises(OSError), Client(encrypted.scheduler_address.replace("tls", "tcp"), timeout=2):
        pass  # pragma: no cover - the scheduler does not let it come here


@pytest.mark.parametrize("wrong", ["address", "missing", "no key"])
def test_a_wrong_tls_setting_is_told_by_its_name(place, encrypted, authority, tmp_path, wrong: str) -> None:
    files = authority.sign("us")
    config = at(place, encrypted, tls=files)
    expected = r"dask\.tls is set, but tcp://127.0.0.1:1 is not encrypted"
    if wrong == "address":
        config = at(place, encrypted, tls=files, address="tcp://127.0.0.1:1")
    elif wrong == "missing":
        config, expected = at(place, encrypted, tls=files | {"cert": "gone.pem"}), r"dask\.tls\.cert: .*gone\.pem"
    else:
        (tmp_path / "ours" / "us.key").write_text("no key")
        expected = r"dask\.tls: cannot load .*us\.key"
    with pytest.raises(VecapError, match=expected), connect(config):
        pass


def test_a_cluster_of_its_own_takes_nobody_else(place) -> None:
    with connect(place.config()) as client:
        assert client.scheduler.address.startswith("tls://127.0.0.1:")
        with (
            pytest.raises(OSError),
            Client(client.scheduler.address, timeout=2, security=Security.temporary(), set_as_default=False),
        ):
            pass


def test_the_scheduler_knows_of_no_more_shards_than_run(place, processes, caplog) -> None:
    caplog.set_level(logging.INFO, "vecap_tasks.core.executor")
    quick = stage(StandIn, at(place, processes, shards=300))
    held = []
    with Client(processes, set_as_default=False) as client:

        def look(done: int, total: int) -> None:
            held.append(client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)))

        assert len(run_shards(quick, quick.plan(), look)) == 300
    assert len(held) == 301
    assert 1 <= max(held) <= 2 + 1  # two workers of one thread, and the one that was just done
    line = caplog.messages[-1]
    assert line.startswith("crawl: 300 of 300 shards, ")
    assert line.endswith(" rows/s, cost 75.0000 so far, 75.0000 in all")


def test_a_scheduler_that_is_lost_has_no_slots(place) -> None:
    with connect(place.config()) as client:
        assert slots(client, {}) == 1
        client.close()
        assert slots(client, {}) == 0


def test_shards_wait_while_no_worker_is_to_be_seen(place, processes, monkeypatch) -> None:
    quick = stage(StandIn, at(place, processes, shards=6))
    unseen = time.monotonic() + 3  # longer than any shard takes

    def look(client: Client, resources: dict[str, float]) -> int:
        return slots(client, resources) if time.monotonic() > unseen else 0

    monkeypatch.setattr(executor, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(executor, "slots", look)
    assert [result.shard for result in run_shards(quick, quick.plan())] == quick.shards()


def test_a_shard_that_kills_three_workers_is_set_aside_and_the_rest_is_done(place, processes) -> None:
    deadly = stage(Deadly, at(place, processes, shards=12))
    with pytest.raises(VecapError, match="crawl: shard 00003: Skipped: 3 workers were killed on this shard") as told:
        run_shards(deadly, deadly.plan())
    assert "\n" not in str(told.value)
    assert deadly.plan() == ["00003"]
    marks = deadly.store.files(deadly.scratch_dir("00003"))
    assert len(marks) == 3  # the fourth worker was spared
    healed = stage(StandIn, deadly.config)  # as with more memory: the same command tries it again
    run_shards(healed, healed.plan())
    assert healed.commit().counters["rows"] == 12
    assert healed.store.folders("tiny/2026-01-01/crawl/_shards") == []


@pytest.mark.exhaustive
def test_a_worker_of_its_own_comes_back_however_long_it_takes(place, monkeypatch) -> None:
    monkeypatch.setattr(executor, "_ALONE_SECONDS", 200.0)  # else it would be 300, and half of the test's time
    config = place.config()
    crawl = config.crawl.model_copy(update={"shard_size": 5})
    config = config.model_copy(update={"crawl": crawl}).with_base(config.base)
    laborious = stage(Laborious, config)
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "100ms"}):  # Dask's own would do on a slow machine
        assert len(run_shards(laborious, laborious.plan())) == 5


@pytest.mark.exhaustive
def test_a_shard_that_gets_on_may_lose_more_than_three_workers(place, processes) -> None:
    laborious = stage(Laborious, at(place, processes, shards=8))
    assert len(run_shards(laborious, laborious.plan())) == 8  # six died
