"""Sixteen runs publish the same stage at once: one wins, fifteen log it, and the result is consistent."""

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
    """A concurrent run whose report has unique bytes, like pages with a timestamp."""

    number = 0
    gate = threading.Barrier(RACERS)

    def finish(self, results: list[ShardResult], work: Path) -> ShardOutput:
        output = super().finish(results, work)
        (work / "page.html").write_text(f"racer {self.number}" + "." * self.number)
        self.gate.wait(30)
        return output


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


def test_one_of_sixteen_concurrent_commits_wins_and_the_others_log_it(
    letters_config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "vecap_tasks")
    manifests = race(letters_config)
    assert len({manifest.digest for manifest in manifests}) == 1
    lines = [record.getMessage() for record in caplog.records if "another run committed" in record.getMessage()]
    assert lines == [
        f"another run committed demo/2026-01-01/crawl first, with the same content: {manifests[0].digest}"
    ] * (RACERS - 1)
    store = Store(letters_config.root)
    committed = Letters(letters_config, Version("demo", "2026-01-01", 1, "a")).manifest()
    assert committed is not None
    assert check_files(store, committed) == [], "the published report is the one in the manifest"
    assert [version.name for version in _versions(store)] == ["2026-01-01"]


def _versions(store: Store) -> list[Version]:
    from vecap_tasks.core.version import list_versions

    return list_versions(store, "demo")


def test_a_published_shard_is_never_rewritten(letters_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(letters_config.root)
    stage = Letters(letters_config, register(store, "demo", "2026-01-01", "a", {}))
    slow = Letters(letters_config, stage.version)
    for shard in stage.plan():
        stage.run(shard)
    committed = stage.commit()
    written = {file.path: file.written for file in store.tree("demo")}

    def forbidden(*arguments: object) -> None:
        raise AssertionError(f"{arguments[0]} was rewritten")

    for name in ("put", "upload", "copy", "create"):
        monkeypatch.setattr(slow.store, name, forbidden)
    assert slow.run("a") == stage.receipt("a")
    assert slow.commit().digest == committed.digest
    store.remove_folder(f"{stage.folder}/_shards")  # as `vecap gc` does
    with pytest.raises(VecapError, match="is committed and its shards are immutable"):
        slow.run("a")
    assert {file.path: file.written for file in store.tree("demo")}.items() <= written.items()


def test_a_complete_shard_of_a_killed_run_is_not_uploaded_again(
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
