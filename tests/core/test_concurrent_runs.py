"""Sixteen runs that publish the same at once: one wins, fifteen say so, and what lies there is of one piece."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.core.conftest import Letters
from vecap_tasks.config import Config
from vecap_tasks.core.manifest import Manifest, ShardOutput, ShardResult
from vecap_tasks.core.store import Store
from vecap_tasks.core.verify import check_files
from vecap_tasks.core.version import Version, register
from vecap_tasks.errors import VecapError

RACERS = 16


class Racer(Letters):
    """A run of its own: its report, as pages with the time do, has bytes that no other's has."""

    number = 0
    gate = threading.Barrier(RACERS)

    def finish(self, results: list[ShardResult], work: Path) -> ShardOutput:
        made = super().finish(results, work)
        (work / "page.html").write_text(f"made by racer {self.number}" + "." * self.number)
        self.gate.wait(30)
        return made


def race(config: Config) -> list[Manifest]:
    Racer.gate = threading.Barrier(RACERS)

    def run(number: int) -> Manifest:
        store = Store(config.root)
        racer = Racer(config, register(store, "demo", "2026-01-01", "a", {}))
        racer.number = number
        for shard in racer.plan():
            racer.run(shard)
        return racer.commit()

    with ThreadPoolExecutor(RACERS) as pool:
        return list(pool.map(run, range(RACERS)))


def test_of_sixteen_that_commit_one_wins_and_fifteen_say_so(
    letters_config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "vecap_tasks")
    manifests = race(letters_config)
    assert len({manifest.digest for manifest in manifests}) == 1
    said = [record.getMessage() for record in caplog.records if "another run committed" in record.getMessage()]
    assert said == [
        f"another run committed demo/2026-01-01/crawl first, with the same content: {manifests[0].digest}"
    ] * (RACERS - 1)
    store = Store(letters_config.root)
    committed = Letters(letters_config, Version("demo", "2026-01-01", 1, "a")).manifest()
    assert committed is not None
    assert check_files(store, committed) == [], "the report that lies there is the one that the manifest means"
    assert [version.name for version in _versions(store)] == ["2026-01-01"]


def _versions(store: Store) -> list[Version]:
    from vecap_tasks.core.version import list_versions

    return list_versions(store, "demo")


def test_a_published_shard_is_never_written_again(letters_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(letters_config.root)
    stage = Letters(letters_config, register(store, "demo", "2026-01-01", "a", {}))
    slow = Letters(letters_config, stage.version)
    for shard in stage.plan():
        stage.run(shard)
    committed = stage.commit()
    written = {file.path: file.written for file in store.tree("demo")}

    def forbidden(*arguments: object) -> None:
        raise AssertionError(f"{arguments[0]} is written again")

    for name in ("put", "upload", "copy", "create"):
        monkeypatch.setattr(slow.store, name, forbidden)
    assert slow.run("a") == stage.receipt("a")
    assert slow.commit().digest == committed.digest
    store.remove_folder(f"{stage.folder}/_shards")  # as `vecap gc` does
    with pytest.raises(VecapError, match="is committed, its shards are not written again"):
        slow.run("a")
    assert {file.path: file.written for file in store.tree("demo")}.items() <= written.items()


def test_a_shard_that_a_killed_run_left_whole_is_not_uploaded_again(
    letters_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Letters(letters_config, register(Store(letters_config.root), "demo", "2026-01-01", "a", {}))
    first = stage.run("a")
    stage.store.remove(f"{stage.folder}/_shards/a.json")
    uploads: list[str] = []
    monkeypatch.setattr(stage.store, "upload", lambda name, source: uploads.append(name))
    again = stage.run("a")
    assert again.files == first.files
    assert uploads == []
