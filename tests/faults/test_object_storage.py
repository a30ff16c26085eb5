"""Faults of object storage, against two servers: a run completes, or fails in one line and the next one completes."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.crawl.web import Web
from tests.faults.attempt import attempt, completed
from tests.faults.factories import INTERVAL, create_inputs
from tests.faults.proxy import Fault, FaultyProxy, faulty_proxy
from tests.faults.test_every_write import at
from tests.faults.writes import run_forked
from vecap_tasks import outages
from vecap_tasks.config import Config
from vecap_tasks.core import object_storage
from vecap_tasks.core.store import Store, open_filesystem
from vecap_tasks.errors import OutageError, format_error

pytestmark = pytest.mark.slow

FAULTS: tuple[Fault, ...] = ("500", "503", "truncated", "reset", "lost")
# For slow tests: `make test` runs two of them.
FASTER = [fault if fault in ("503", "lost") else pytest.param(fault, marks=pytest.mark.exhaustive) for fault in FAULTS]
LARGE = bytes(range(256)) * 80_000  # three parts


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    home = tmp_path_factory.mktemp("inputs")
    with pytest.MonkeyPatch.context() as patch, Web() as web:
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        patch.setenv("VECAP_CODE_VERSION", "unknown")
        yield create_inputs(home, web)


@pytest.fixture(scope="module")
def digests(config: Config, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digest of the crawl without a fault, on a file system."""
    root = tmp_path_factory.mktemp("store")
    return {"crawl": attempt("crawl", at(config, str(root))).digest}


@pytest.fixture(params=["moto", pytest.param("seaweedfs", marks=pytest.mark.exhaustive)])
def proxy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    server = request.getfixturevalue("s3_server" if request.param == "moto" else "seaweedfs_server")
    monkeypatch.setattr(outages, "_FIRST_PAUSE", 0.01)
    outages.set_timeout(2)
    monkeypatch.setattr(object_storage, "_QUICK_PAUSE", timedelta(milliseconds=2))
    with faulty_proxy(server) as proxy:
        yield proxy


@pytest.fixture
def root(proxy: FaultyProxy, create_bucket: Any) -> str:
    """The root of an empty store behind the proxy."""
    return f"s3://{create_bucket(proxy.url)}/store"


def unfinished_uploads(root: str) -> list[Any]:
    import boto3

    uploads = boto3.client("s3").list_multipart_uploads(Bucket=root.split("/")[2])
    return list(uploads.get("Uploads", []))


@pytest.mark.parametrize("fault", FASTER)
def test_a_stage_completes_while_a_third_of_all_requests_fail(
    fault: Fault, config: Config, digests: dict[str, str], proxy: FaultyProxy, root: str
) -> None:
    proxy.sometimes(fault, 0.3)
    assert attempt("crawl", at(config, root)).digest == digests["crawl"]
    assert proxy.faults > 10


def test_a_stage_waits_for_the_end_of_an_outage(
    config: Config,
    digests: dict[str, str],
    proxy: FaultyProxy,
    root: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    outages.set_timeout(60)
    begin, end = (time.monotonic() + seconds for seconds in (0.3, 1.5))
    proxy.fault, proxy.chosen = "503", lambda method, path: begin < time.monotonic() < end
    assert attempt("crawl", at(config, root)).digest == digests["crawl"]
    lines = [record.message for record in caplog.records if record.name == "vecap_tasks.outages"]
    pause = r"cannot \w+ s3://\S+: SlowDown: Reduce your rate\.; next attempt in \S+ s, waiting up to \S+ s"
    assert any(re.fullmatch(pause, line) for line in lines), lines
    assert re.fullmatch(r"s3://vecap-\w+ is available again after [\d.]+ s; resuming", lines[-1])


@pytest.mark.parametrize("fault", FASTER)
def test_a_stage_fails_in_one_line_while_no_write_succeeds_and_the_next_attempt_completes(
    fault: Fault, config: Config, digests: dict[str, str], proxy: FaultyProxy, root: str, tmp_path: Path
) -> None:
    """The outage begins later in each attempt, so that it hits another write."""
    for allowed in (1, 4):
        writes = iter(range(1000))
        proxy.fault = fault
        proxy.chosen = lambda method, path, writes=writes, allowed=allowed: (  # type: ignore[misc]
            method in ("PUT", "POST") and next(writes) >= allowed
        )
        with pytest.raises(OutageError, match=r"^cannot (write|copy) s3://") as error:
            attempt("crawl", at(config, root))
        assert "\n" not in str(error.value)
        assert len(format_error(error.value)) < 300
        proxy.heal()
        store = Store(root)
        completed(store, "crawl")  # verifies each shard with a receipt
        assert not store.exists(f"tiny/{INTERVAL}/crawl/manifest.json") or fault == "lost"
    assert attempt("crawl", at(config, root)).digest == digests["crawl"]
    assert unfinished_uploads(root) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failed_upload_in_parts_leaves_nothing(fault: Fault, proxy: FaultyProxy, root: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(LARGE)
    store = Store(root)
    proxy.fault = fault
    proxy.chosen = lambda method, path: method == "PUT" and "partNumber=2" in path
    with pytest.raises(OutageError, match=r"^cannot write s3://.*/store/d/x: "):
        store.upload("d/x", tmp_path / "x")
    assert not store.exists("d/x")
    assert store.tree() == []
    assert unfinished_uploads(root) == []
    proxy.heal()
    store.upload("d/x", tmp_path / "x")
    assert store.read("d/x") == LARGE


@pytest.mark.parametrize("fault", FASTER)
def test_a_large_object_is_written_and_read_while_requests_fail(
    fault: Fault, proxy: FaultyProxy, root: str, tmp_path: Path
) -> None:
    (tmp_path / "x").write_bytes(LARGE)
    store = Store(root)
    proxy.sometimes(fault, 0.3)
    for number in range(4):
        store.upload(f"d/{number}", tmp_path / "x")
        with store.local(f"d/{number}") as path:
            assert path.read_bytes() == LARGE
        filesystem, key = open_filesystem(f"{root}/d/{number}")
        with filesystem.open_input_file(key) as stream:
            assert stream.read_at(1000, 12_345_678) == LARGE[12_345_678:12_346_678]
    assert proxy.faults > 3


def test_a_file_is_created_once_though_responses_are_lost(proxy: FaultyProxy, root: str) -> None:
    """The second attempt finds the object of the first, and recognizes it."""
    store, lost = Store(root), iter([True])
    proxy.fault = "lost"
    proxy.chosen = lambda method, path: method == "PUT" and next(lost, False)
    assert store.create("d/version.json", b"mine")
    assert not store.create("d/version.json", b"mine")
    assert not store.create("d/version.json", b"theirs")
    assert store.read("d/version.json") == b"mine"


def test_a_refused_request_is_not_repeated(proxy: FaultyProxy, root: str) -> None:
    store = Store(f"{root.rpartition('/')[0]}-missing/store")
    started = time.monotonic()
    with pytest.raises(OSError, match=r"^cannot list s3://vecap-[0-9a-f]+-missing/store: NoSuchBucket: "):
        store.tree()
    assert time.monotonic() - started < 2


def test_an_object_that_is_replaced_while_it_is_read_is_an_error(proxy: FaultyProxy, root: str) -> None:
    store = Store(root)
    store.put("d/x", b"one" * 1_000_000)
    with store.open("d/x") as stream:
        assert stream.read(3) == b"one"
        store.put("d/x", b"two" * 1_000_000)
        stream.seek(2_500_000)
        with pytest.raises(OSError, match=r"^cannot read s3://.*/store/d/x: it changed while it was read$"):
            stream.read(3)


def test_folder_markers_are_no_files(proxy: FaultyProxy, root: str) -> None:
    """Other tools create an empty object `folder/` for a folder."""
    import boto3

    bucket = root.split("/")[2]
    for key in ("store/", "store/d/", "store/d/v/"):
        boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=b"")
    store = Store(root)
    store.put("d/v/a.txt", b"")
    assert [file.path for file in store.tree()] == ["d/v/a.txt"]
    assert (store.folders("d"), store.files("d"), store.files("d/v")) == (["v"], [], ["a.txt"])


def test_ctrl_c_interrupts_a_request_to_a_server_that_does_not_answer(
    proxy: FaultyProxy, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.chosen = lambda method, path: bool(time.sleep(20))
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    started = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            Store(root).read("x")
    finally:
        signal.signal(signal.SIGALRM, previous)
        proxy.heal()
    assert time.monotonic() - started < 5


def test_a_forked_process_reports_that_it_cannot_use_object_storage(root: str, tmp_path: Path) -> None:
    store = Store(root)
    store.put("x", b"one")

    def work(answer: int) -> None:
        try:
            store.read("x")
        except Exception as error:
            os.write(answer, str(error).encode())

    _, output = run_forked(work, tmp_path / "a.log")
    assert output == "this process was forked from one that had used object storage; start a new process"
