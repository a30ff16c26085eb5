"""A service that is away, or a full disk, pauses work; the work resumes without loss when the outage ends."""

from __future__ import annotations

import errno
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from tests.crawl.web import Web
from tests.faults.attempt import attempt, list_files
from tests.faults.disk import fill, full_for, small_disk
from tests.faults.factories import INTERVAL, create_inputs
from tests.faults.test_every_write import at
from tests.installation import REPOSITORY, wait_until
from tests.rewrite.server import ReceivedRequest, Server, echo, error, fuse, settings
from tests.services import model_server
from vecap_tasks import outages
from vecap_tasks.cli import __main__ as cli
from vecap_tasks.config import Config
from vecap_tasks.core.store import Store
from vecap_tasks.core.tables import connect, write_sorted
from vecap_tasks.errors import OutageError, PermanentError, VecapError
from vecap_tasks.outages import Cause, full_disk, no_waiting, retry_when_full
from vecap_tasks.rewrite.backends import openai_client, openai_endpoint
from vecap_tasks.train.checkpoint import Checkpoints, DataStats, TrainingState

pytestmark = pytest.mark.slow

AGAIN = re.compile(r".* is available again after [\d.]+ s; resuming")


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "_FIRST_PAUSE", 0.1)
    monkeypatch.setattr(outages, "_LONGEST_PAUSE", 0.5)
    monkeypatch.setattr(openai_client, "_MIN_RETRY_SECONDS", 0.05)
    monkeypatch.setattr(openai_endpoint, "_BACKOFF_SECONDS", (0.1, 0.5))


@pytest.fixture
def crawl_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Config]:
    """The configuration of a crawl of eight images."""
    home = tmp_path / "inputs"
    home.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    with Web() as web:
        yield create_inputs(home, web)


def waits(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines that report pauses and the end of outages."""
    return [record.message for record in caplog.records if record.name == "vecap_tasks.outages"]


# Model servers.


def test_a_model_server_that_is_killed_loses_no_row_and_no_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server is away at the start, and is killed and started again while it answers."""
    outages.set_timeout(60)
    service = model_server(tmp_path)
    service.log.touch()

    def restart() -> None:
        time.sleep(1)
        service.start()
        wait_until(lambda: "available again" in caplog.text, 60, "answers", 0.01)
        service.kill()
        time.sleep(2)
        service.start()

    thread = threading.Thread(target=restart)
    thread.start()
    try:
        texts = fuse(settings(service.url, requests=16), 200)
    finally:
        thread.join()
        service.kill()
    assert [text.problem for text in texts] == [None] * 200
    assert [text.text.split("Description: ")[1] for text in texts] == [f"thing {number}" for number in range(200)]
    lines = waits(caplog)
    assert len([line for line in lines if AGAIN.fullmatch(line)]) == 2
    assert all(line.startswith(f"model tiny at {service.url}: ") or AGAIN.fullmatch(line) for line in lines)
    assert len(service.log.read_text().split()) < 200 + 16 + len(lines), "answered rows are not requested again"


@pytest.mark.parametrize("status", [429, 502, 503])
def test_no_row_fails_while_a_server_refuses_all_requests(status: int, caplog: pytest.LogCaptureFixture) -> None:
    outages.set_timeout(60)

    async def answer(request: ReceivedRequest) -> web.StreamResponse:
        return error(status, "busy") if 5 <= request.number < 25 else await echo(request)

    with Server(answer) as server:
        texts = fuse(settings(server.url, requests=4), 20)
    assert [text.problem for text in texts] == [None] * 20
    assert any(f": {status} busy; next attempt in " in line for line in waits(caplog))


def test_an_outage_that_is_too_long_is_a_temporary_error() -> None:
    outages.set_timeout(1)
    start = time.monotonic()
    with pytest.raises(OutageError, match=r"^model tiny at http://127\.0\.0\.1:9/v1: .*; check that the server is up"):
        fuse(settings("http://127.0.0.1:9/v1"), 3)
    assert 1 < time.monotonic() - start < 10


# Disks.


def test_a_stage_waits_for_space(crawl_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = attempt("crawl", at(crawl_config, tmp_path / "store"))
    with small_disk(tmp_path / "disk", 4 << 20) as disk:
        config = at(crawl_config, disk / "store")
        outages.set_timeout(60)
        with full_for(disk, 1):
            assert attempt("crawl", config).digest == expected.digest
        assert list_files(Store(config.root)) == list_files(Store(str(tmp_path / "store")))
    lines = waits(caplog)
    assert lines[0].startswith(f"No space left on device ({disk}/store"), lines
    assert AGAIN.fullmatch(lines[-1])


def test_a_disk_that_stays_full_is_one_line_and_the_next_run_completes(
    crawl_config: Config, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    expected = attempt("crawl", at(crawl_config, tmp_path / "store"))
    with small_disk(tmp_path / "disk", 4 << 20) as disk:
        config = at(crawl_config, disk / "store").model_copy(update={"outage_timeout": 1.0})
        file = tmp_path / "config.json"
        file.write_text(config.model_dump_json())  # JSON is YAML
        command = ["crawl", "--config", str(file), "--version", INTERVAL]
        ballast = fill(disk)
        assert cli.main(command) == 1
        last = capfd.readouterr().err.splitlines()[-1]
        assert re.fullmatch(
            rf"vecap: No space left on device \({disk}/store\S*\); free space and run the same command again", last
        )
        assert [path for path in Path(config.root).rglob("*") if path.is_file()] == []
        ballast.unlink()
        assert attempt("crawl", config).digest == expected.digest


def test_causes_of_a_full_disk() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/data/x")
    wrapped = VecapError("cannot write")
    wrapped.__cause__, full.__context__ = full, wrapped  # a cycle
    assert full_disk(wrapped, "/tmp") == Cause(
        "space in /tmp", "No space left on device (/data/x)", "free space and run the same command again"
    )
    permanent = PermanentError("the file is invalid")
    permanent.__context__ = full
    assert full_disk(permanent, "/tmp") is None
    other = VecapError("other")
    other.__context__, other.__suppress_context__ = full, True
    assert full_disk(other, "/tmp") is None


def test_no_waiting_applies_within_the_block() -> None:
    outages.set_timeout(60)
    attempts = []

    def attempt() -> None:
        attempts.append(1)
        raise OSError(errno.ENOSPC, "No space left on device", "/data/x")

    with no_waiting(), pytest.raises(OutageError):
        retry_when_full(attempt, "/tmp")
    assert len(attempts) == 1


def test_a_checkpoint_replaces_an_unreadable_one_of_its_step(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    checkpoints = Checkpoints(store, "run", "features", 2)
    checkpoints.save(TrainingState({}, {}, {}, [], [], DataStats(1, 0, 1, 0)))
    (name,) = store.files("run")
    store.remove(f"run/{name}")
    store.put("run/000000000-ffffffffffffffff.pt", b"corrupt")
    assert checkpoints.load() is None
    checkpoints.save(TrainingState({}, {}, {}, [], [], DataStats(1, 0, 1, 0)))
    assert store.files("run") == [name]


def test_a_checkpoint_waits_for_space(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import torch

    weights = {"weight": torch.arange(100_000.0)}
    state = TrainingState(weights, {}, {}, [], [], DataStats(1, 0, 1, 0))
    with small_disk(tmp_path / "disk", 2 << 20) as disk:
        checkpoints = Checkpoints(Store(str(disk / "store")), "run", "features", 1)
        outages.set_timeout(60)
        with full_for(disk, 0.5):
            checkpoints.save(state)
        found = checkpoints.load()
        assert found is not None
        assert torch.equal(found.model["weight"], weights["weight"])
        assert AGAIN.fullmatch(waits(caplog)[-1])
        outages.set_timeout(0)
        fill(disk)
        with pytest.raises(OutageError, match=rf"^No space left on device \({disk}/store/.*\); free space"):
            checkpoints.save(state)
        assert checkpoints.steps() == [0], "the earlier checkpoint is still there"


@pytest.mark.parametrize("spills", [True, False])
def test_duckdb_reports_a_full_disk(spills: bool, tmp_path: Path) -> None:
    query = "SELECT random() AS a, random()::VARCHAR AS b FROM range(2000000)"
    with small_disk(tmp_path / "disk", 2 << 20) as disk:
        work = disk if spills else tmp_path

        def write() -> None:
            with connect(Store(str(tmp_path)), "60MB" if spills else "1GB", 1, work) as connection:
                write_sorted(connection, query, "a", disk / "a.parquet")

        with pytest.raises(OutageError, match=r"^No space left on device \(/.*\); free space"):
            outages.retry_when_full(write, disk)


# Ctrl-C.


def test_ctrl_c_ends_a_wait_at_once(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "x"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    errors = tmp_path / "stderr"
    with errors.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "vecap_tasks.cli", "versions", "--config", str(small), "--set", "root=s3://b/x"],
            stderr=stream,
            cwd=REPOSITORY,
        )
    try:
        wait_until(lambda: "next attempt in" in errors.read_text(), 60, "a pause", 0.1)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        assert process.wait(20) == 130
        assert time.monotonic() - start < 3
    finally:
        process.kill()
        signal.signal(signal.SIGINT, previous)
    assert errors.read_text().splitlines()[-1] == "vecap: Interrupted; run the same command again to resume"
