"""Summaries, plans and failures of stages, which pages read instead of manifests and receipts."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from tests.core.conftest import Letters
from tests.core.factories import flip_bit
from vecap_tasks.config import Config
from vecap_tasks.core import stage_records
from vecap_tasks.core.manifest import FileEntry, Input, Manifest
from vecap_tasks.core.stage_records import (
    MAX_SOURCES,
    StageFailure,
    StageProgress,
    StageSummary,
    read_failure,
    read_plan,
    read_progress,
    read_summary,
    record_plan,
    recorded_failure,
)
from vecap_tasks.core.store import Store
from vecap_tasks.core.verify import verify_version
from vecap_tasks.core.version import Version, register
from vecap_tasks.errors import CorruptError, VecapError

FOLDER = "demo/2026-01-01/crawl"


@pytest.fixture
def stage(letters_config: Config) -> Letters:
    store = Store(letters_config.root)
    return Letters(letters_config, register(store, "demo", "2026-01-01", "a", {}))


def finish(stage: Letters) -> Manifest:
    for shard in stage.plan():
        stage.run(shard)
    return stage.commit()


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the names of files that are read from a store."""
    names: list[str] = []
    read = Store.read
    monkeypatch.setattr(Store, "read", lambda self, name: [names.append(name), read(self, name)][1])
    return names


def test_a_commit_writes_a_summary_that_is_read_instead_of_the_manifest(
    stage: Letters, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = time.time()
    manifest = finish(stage)
    names = reads(monkeypatch)
    summary = read_summary(stage.store, FOLDER)
    assert summary is not None
    assert names == [f"{FOLDER}/summary.json"]
    assert (summary.digest, summary.fingerprint, summary.location) == (manifest.digest, stage.fingerprint, FOLDER)
    assert (summary.files, summary.bytes) == (6, 4 * 10 + 1 + len("created at some time"))
    assert summary.counters == {"letters": 4, "files": 1}
    assert before - 1 <= datetime.fromisoformat(summary.started).timestamp() <= time.time()
    assert summary.started <= summary.created
    read_summary(stage.store, FOLDER)
    assert len(names) == 1, "the second time it is in memory"


def test_a_revision_that_reuses_a_stage_has_its_summary(stage: Letters, letters_config: Config) -> None:
    finish(stage)
    second = Letters(letters_config, register(stage.store, "demo", "2026-01-01", "b", {}))
    assert second.plan() == []
    second.commit()
    assert read_summary(second.store, second.folder) == read_summary(stage.store, FOLDER)
    assert verify_version(second.store, second.version).corruptions == ()


@pytest.mark.parametrize("damage", ["missing", "corrupt", "of another release", "of another manifest"])
def test_without_a_valid_summary_the_manifest_is_read(stage: Letters, damage: str) -> None:
    manifest = finish(stage)
    expected, name = read_summary(stage.store, FOLDER), f"{FOLDER}/summary.json"
    stage_records._read_summary.cache_clear()
    assert expected is not None
    if damage == "missing":
        stage.store.remove(name)
    elif damage == "corrupt":
        flip_bit(stage.store, name)
    elif damage == "of another release":
        stage.store.put(name, json.dumps({"format": 2, "stage": "crawl"}).encode())
    else:
        stage.store.put(name, replace(expected, manifest_bytes=7, digest="0" * 64).to_json())
    assert read_summary(stage.store, FOLDER) == expected
    problems = {item.path: item.problem for item in verify_version(stage.store, stage.version).corruptions}
    if damage in ("missing", "of another release"):
        assert name not in problems
    else:
        assert problems[name].endswith("; delete it")
    stage.commit()  # writes it again
    assert name not in {item.path for item in verify_version(stage.store, stage.version).corruptions}
    assert StageSummary.from_json(stage.store.read(name), name) == expected
    assert expected.digest == manifest.digest


def test_a_corrupt_manifest_is_an_error_although_it_has_a_summary(stage: Letters) -> None:
    finish(stage)
    stage.store.put(f"{FOLDER}/manifest.json", b"{")
    with pytest.raises(CorruptError, match=rf"^{FOLDER}/manifest\.json is not a manifest"):
        read_summary(stage.store, FOLDER)


def test_an_unfinished_stage_has_no_summary(stage: Letters) -> None:
    stage.plan()
    assert read_summary(stage.store, FOLDER) is None


def test_a_summary_does_not_grow_with_files_and_sources() -> None:
    files = tuple(FileEntry(f"{number:05d}.tar", 7, 1, "0" * 64) for number in range(3_000))
    inputs = (*(Input("source", f"{number}.warc", "1" * 64) for number in range(3_000)), Input("model", "m", "2" * 64))
    provenance = {"config": {"crawl": ["x"] * 3_000}}
    manifest = Manifest("demo", "2026-01-01", "crawl", "f", {}, inputs, files, {"rows": 9}, (), FOLDER, provenance)
    summary = StageSummary.from_manifest(manifest, 1)
    assert len(summary.to_json()) < 4_000
    assert (summary.files, summary.bytes, summary.sources) == (3_000, 21_000, 3_000)
    assert [item.kind for item in summary.inputs] == ["source"] * MAX_SOURCES + ["model"]


def test_progress_follows_from_one_listing_of_receipts(stage: Letters, monkeypatch: pytest.MonkeyPatch) -> None:
    store = stage.store
    assert read_progress(store, FOLDER, time.time()) is None
    stage.plan()
    stage.run("a")
    (receipt,) = store.written(f"{FOLDER}/_shards")
    now = time.time() + 30
    names = reads(monkeypatch)
    found = read_progress(store, FOLDER, now)
    assert found is not None
    assert not [name for name in names if "_shards" in name], "no receipt is read"
    assert (found.done, found.shards, found.failed) == (1, 4, False)
    assert found.last_written == receipt.written
    assert found.seconds_left == pytest.approx(3 * (now - found.started))

    stage.run("b")
    assert stage.plan() == ["c", "d"], "a second run, which has finished nothing yet"
    found = read_progress(store, FOLDER, now)
    assert found is not None
    assert (found.done, found.seconds_left) == (2, None)
    stage.run("c")
    found = read_progress(store, FOLDER, now)
    assert found is not None
    assert found.seconds_left == pytest.approx(now - found.started), "the first run's pace does not count"


def test_the_remaining_time_follows_from_recent_receipts(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    shards = [f"{number:05d}" for number in range(1_000)]
    record_plan(store, FOLDER, shards, shards)
    plan = read_plan(store, FOLDER)
    assert plan is not None
    folder = tmp_path / FOLDER / "_shards"
    folder.mkdir()
    for number, shard in enumerate(shards[:500]):  # one a second, the last hundred one in ten seconds
        file = folder / f"{shard}.json"
        file.touch()
        written = plan.started + (number + 1 if number < 400 else 400 + 10 * (number - 399))
        os.utime(file, (written, written))
    found = read_progress(store, FOLDER, plan.started + 1_400)
    assert found is not None
    assert (found.done, found.shards) == (500, 1_000)
    assert found.seconds_left == pytest.approx(500 * 10, rel=0.05)


def test_a_failure_is_recorded_with_its_log_until_work_goes_on(stage: Letters) -> None:
    store, url = stage.store, "https://airflow.example/log"
    with pytest.raises(VecapError, match="no GPU"), recorded_failure(store, FOLDER, url):
        raise VecapError("no GPU\nfound")
    found = read_progress(store, FOLDER, time.time())
    assert found is not None
    assert (found.failed, found.shards) == (True, 0)
    assert found.failure is not None
    assert (found.failure.error, found.failure.url) == ("no GPU found", url)
    stage.plan()
    found = read_progress(store, FOLDER, time.time() + 9)
    assert found is not None
    assert not found.failed
    assert found.failure is not None, "the failure of the run before is still shown"


def test_progress_after_a_failure_depends_on_what_came_last() -> None:
    failure = StageFailure("no GPU", 100.0, "")
    progress = StageProgress(4, 1, 50.0, 60.0, 9.0, failure, 110.0)
    assert progress.failed
    assert not replace(progress, last_written=101.0).failed
    assert not replace(progress, started=101.0).failed
    assert not replace(progress, failure=None).failed


def test_a_failure_that_cannot_be_recorded_is_raised_unchanged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Store, name: str, data: bytes) -> None:
        raise OSError("the store is gone")

    monkeypatch.setattr(Store, "put", fail)
    with pytest.raises(ZeroDivisionError), recorded_failure(Store(str(tmp_path)), FOLDER):
        raise ZeroDivisionError
    assert "cannot record the failure of demo/2026-01-01/crawl: OSError: the store is gone" in caplog.text


def test_damaged_records_of_a_run_are_ignored(stage: Letters) -> None:
    stage.plan()
    flip_bit(stage.store, f"{FOLDER}/_progress/plan.json")
    stage.store.put(f"{FOLDER}/_progress/failure.json", b"[")
    assert read_progress(stage.store, FOLDER, 0.0) is None
    assert read_failure(stage.store, FOLDER) is None
    assert finish(stage).provenance["seconds"] >= 0


def test_versions_of_release_0_1_0_have_no_start(tmp_path: Path) -> None:
    version = Version("demo", "2026-01-01", 1, "")
    manifest = Manifest("demo", "2026-01-01", "crawl", "f", {}, (), (), {}, (), f"{version.folder}/crawl", {})
    store = Store(str(tmp_path))
    store.put(f"{version.folder}/crawl/manifest.json", manifest.to_json())
    summary = read_summary(store, f"{version.folder}/crawl")
    assert summary is not None
    assert (summary.started, summary.created, summary.seconds, summary.notes) == ("", "", 0.0, {})
