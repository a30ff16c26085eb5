"""Plan, run, commit: after a kill, in a second run, and with a revision that reuses a stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.core.conftest import Letters
from vecap_tasks.config import Config
from vecap_tasks.core.manifest import ShardOutput, read_manifest
from vecap_tasks.core.version import Version, register
from vecap_tasks.errors import VecapError

VERSION = Version("demo", "2026-01-01", 1, "a")


class Killed(BaseException):
    """Simulates a kill: nothing catches it."""


@pytest.fixture
def stage(letters_config: Config) -> Letters:
    register(Letters(letters_config, VERSION).store, "demo", "2026-01-01", "a", {})
    return Letters(letters_config, VERSION)


def finish(stage: Letters) -> str:
    for shard in stage.plan():
        stage.run(shard)
    return stage.commit().digest


def test_a_stage_runs_from_plan_to_commit(stage: Letters) -> None:
    assert stage.plan() == ["a", "b", "c", "d"]
    finish(stage)
    manifest = stage.manifest()
    assert manifest is not None
    assert manifest.counters == {"letters": 4, "files": 1}
    assert [entry.path for entry in manifest.files] == ["a.txt", "b.txt", "c.txt", "count.txt", "d.txt"]
    assert [entry.path for entry in manifest.attachments] == ["page.html"]
    assert stage.store.read(manifest.file("c.txt")) == b"cccccccccc"
    assert stage.plan() == []


def test_only_missing_shards_are_planned_again(stage: Letters) -> None:
    stage.run("b")
    assert stage.plan() == ["a", "c", "d"]
    with pytest.raises(VecapError, match=r"3 shards of .* are not finished"):
        stage.commit()
    assert stage.manifest() is None


def test_finished_shards_are_listed_and_receipts_are_read_only_at_the_commit(
    stage: Letters, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shard in "abc":
        stage.run(shard)
    read: list[str] = []
    real = stage.store.read

    def count(name: str) -> bytes:
        read.append(name)
        return real(name)

    monkeypatch.setattr(stage.store, "read", count)
    assert stage.finished() == {"a", "b", "c"}
    assert stage.plan() == ["d"]
    assert not [name for name in read if "/_shards/" in name]
    assert [receipt.shard for receipt in stage.receipts()] == ["a", "b", "c"]
    assert len([name for name in read if "/_shards/" in name]) == 3


def test_a_kill_at_any_write_does_not_change_the_result(stage: Letters, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt is killed at its next write or upload, then another resumes; the digest is the same."""
    undisturbed = Letters(stage.config, VERSION)
    undisturbed.version = replace(VERSION, interval="2026-01-01", revision=9)
    expected = finish(undisturbed)
    undisturbed.store.put(f"{undisturbed.folder}/manifest.json", b"{}")  # prevents its reuse

    for survived in range(12):
        attempt = Letters(stage.config, VERSION)
        left = survived
        for name in ("put", "upload", "create"):
            real = getattr(attempt.store, name)

            def dying(*arguments, real=real):
                nonlocal left
                if left == 0:
                    raise Killed
                left -= 1
                return real(*arguments)

            monkeypatch.setattr(attempt.store, name, dying)
        try:
            assert finish(attempt) == expected
            break
        except Killed:
            assert read_manifest(stage.store, stage.folder) is None
    else:
        pytest.fail("the stage did not finish")
    assert survived > 2
    manifest = stage.manifest()
    assert manifest is not None
    assert manifest.digest == expected


def test_order_and_repetition_of_shards_do_not_matter(stage: Letters, letters_config: Config) -> None:
    for shard in ("d", "a", "c", "b", "a"):
        stage.run(shard)
    other = Letters(letters_config.model_copy(update={"dataset": "demo"}), replace(VERSION, revision=2))
    for shard in "abcd":
        other.run(shard)
    assert stage.commit().digest == other.commit().digest


def test_committing_twice_is_harmless(stage: Letters) -> None:
    digest = finish(stage)
    before = stage.store.read(f"{stage.folder}/manifest.json")
    assert stage.commit().digest == digest
    assert stage.store.read(f"{stage.folder}/manifest.json") == before


def test_a_revision_reuses_an_identical_stage(stage: Letters, letters_config: Config) -> None:
    digest = finish(stage)
    revision = register(stage.store, "demo", "2026-01-01", "b", {})
    second = Letters(letters_config, revision)
    assert second.plan() == []
    manifest = second.commit()
    assert manifest.digest == digest
    assert manifest.location == "demo/2026-01-01/crawl"
    assert second.store.files(second.folder) == ["manifest.json", "summary.json"]


def test_a_listed_file_that_was_not_written_is_an_error(stage: Letters, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Letters, "process", lambda self, shard, work: ShardOutput({"absent.txt": 1}))
    with pytest.raises(FileNotFoundError):
        stage.run("a")
    assert stage.receipts() == []


def test_work_folders_are_removed(stage: Letters, tmp_path: Path) -> None:
    finish(stage)
    assert not list(tmp_path.rglob("work-*"))
