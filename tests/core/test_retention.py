"""What the policy deletes, what is always kept, and deletions that can be killed anywhere and repeated."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

import pytest

from tests.core.conftest import Letters
from tests.core.factories import create_version
from vecap_tasks.config import Config, RetentionConfig
from vecap_tasks.core.manifest import Input
from vecap_tasks.core.retention import Plan, plan_removals, remove
from vecap_tasks.core.store import STAGING, Store
from vecap_tasks.core.verify import verify_version
from vecap_tasks.core.version import Deletion, list_versions, read_version, register, tombstone, version_status
from vecap_tasks.errors import CorruptError, VecapError

POLICY = RetentionConfig(keep_last=1, keep_days=30)
DAY = 86_400


def no_uses(versions: Mapping[str, str]) -> dict[str, str]:
    return {}


def plan(store: Store, days: float = 40, policy: RetentionConfig = POLICY, external_uses=no_uses) -> Plan:
    """Return what can be deleted *days* from now."""
    return plan_removals(store, "demo", policy, external_uses, time.time() + days * DAY)


def collect(store: Store, days: float = 40, external_uses=no_uses) -> Plan:
    planned = plan(store, days, external_uses=external_uses)
    return remove(store, "demo", planned, external_uses, time.time() + days * DAY)


def versions(found: Plan) -> list[str]:
    return [removal.path.removeprefix("demo/") for removal in found.removals if removal.version is not None]


def names(store: Store) -> list[str]:
    return [version.name for version in list_versions(store, "demo")]


def test_superseded_revisions_are_deleted_after_keep_days_and_the_newest_kept(store: Store) -> None:
    for settings in "abc":
        create_version(store, "2026-01-01", settings)
    create_version(store, "2026-01-02", "a")
    assert versions(plan(store, days=29)) == []
    assert versions(plan(store, policy=RetentionConfig(keep_last=3, keep_days=30))) == []
    assert versions(plan(store, policy=RetentionConfig(keep_last=2, keep_days=30))) == ["2026-01-01"]
    found = plan(store)
    assert versions(found) == ["2026-01-01", "2026-01-01-r2"]
    assert found.removals[0].why == "superseded by 2026-01-01-r2 40 days ago"
    assert names(store) == ["2026-01-01", "2026-01-01-r2", "2026-01-01-r3", "2026-01-02"], "a plan changes nothing"
    gone = remove(store, "demo", found, no_uses, time.time() + 40 * DAY)
    assert gone.bytes == found.bytes > 0
    assert names(store) == ["2026-01-01-r3", "2026-01-02"]
    assert [file.path for file in store.tree("demo/2026-01-01")] == ["demo/2026-01-01/version.json"]
    assert plan(store).removals == ()
    for version in list_versions(store, "demo"):
        assert verify_version(store, version).corruptions == ()


def test_the_name_of_a_published_version_is_not_reused(store: Store) -> None:
    create_version(store, "2026-01-01", "a")
    create_version(store, "2026-01-01", "b")
    collect(store)
    with pytest.raises(VecapError, match=r"2026-01-01 was deleted on 20.*superseded by"):
        read_version(store, "demo", "2026-01-01")
    assert register(store, "demo", "2026-01-01", "a", {}).name == "2026-01-01-r3"


def test_a_version_whose_stages_are_reused_is_kept_with_everything_it_needs(store: Store) -> None:
    first = create_version(store, "2026-01-01", "a")
    second = create_version(store, "2026-01-01", "b", reused={"crawl": first, "quality": first})
    create_version(store, "2026-01-01", "c", reused={"rewrite": second})
    found = plan(store)
    assert versions(found) == []
    assert {kept.version: kept.why for kept in found.kept} == {
        "2026-01-01": "it contains the crawl files of 2026-01-01-r2",
        "2026-01-01-r2": "it contains the rewrite files of 2026-01-01-r3",
    }


def test_a_crawl_that_is_an_input_of_other_versions_is_kept(store: Store) -> None:
    create_version(store, "2026-01-01", "a")
    create_version(store, "2026-01-01", "b", inputs=(Input("dataset", "2026-01-01/crawl", "0" * 64),))
    assert versions(plan(store)) == []
    create_version(store, "2026-01-02", "a")
    create_version(store, "2026-01-02", "b")
    create_version(store, "2026-01-03", "a", inputs=(Input("version", "2026-01-02", "0" * 64),))
    assert versions(plan(store)) == []


def test_versions_in_a_mixture_are_kept(store: Store) -> None:
    for settings in "abc":
        create_version(store, "2026-01-01", settings)
    source = {"kind": "vecap", "root": None, "dataset": "demo", "version": "2026-01-01"}
    tars = {"kind": "webdataset", "paths": ["dfn/*.tar"]}
    store.put("demo/mixtures/both.json", json.dumps({"sources": [source, tars]}).encode())
    other = {"sources": [{"version": "2026-01-01-r2", "dataset": "demo"}, {"version": "2026-01-01-r3"}]}
    store.put("other/mixtures/theirs.json", json.dumps(other).encode())
    found = plan(store)
    assert versions(found) == []
    assert [kept.why for kept in found.kept] == [
        "the mixture demo/mixtures/both uses it",
        "the mixture other/mixtures/theirs uses it",
    ]
    store.put("demo/mixtures/broken.json", b"{")
    with pytest.raises(CorruptError, match=r"demo/mixtures/broken\.json is not a mixture"):
        plan(store)


def test_external_uses_are_checked_again_before_the_deletion(store: Store) -> None:
    for settings in "abc":
        create_version(store, "2026-01-01", settings)
    found = plan(store, external_uses=lambda names: {"2026-01-01": "a model"})
    assert versions(found) == ["2026-01-01-r2"]
    assert [(kept.version, kept.why) for kept in found.kept] == [("2026-01-01", "a model")]
    gone = remove(store, "demo", found, lambda names: dict.fromkeys(names, "trained later"), time.time() + 40 * DAY)
    assert versions(gone) == []
    assert [kept.why for kept in gone.kept] == ["a model", "trained later"]
    assert names(store) == ["2026-01-01", "2026-01-01-r2", "2026-01-01-r3"]
    for version in list_versions(store, "demo"):
        assert verify_version(store, version).corruptions == ()


def test_idle_unfinished_work_is_deleted_without_a_trace(store: Store) -> None:
    create_version(store, "2026-01-01", "a", stages=("crawl",))
    create_version(store, "2026-01-02", "a")
    assert versions(plan(store, days=29)) == []
    assert versions(collect(store)) == ["2026-01-01"]
    assert store.tree("demo/2026-01-01") == []
    assert register(store, "demo", "2026-01-01", "b", {}).name == "2026-01-01"


def test_a_version_without_captions_is_finished_after_quality(store: Store) -> None:
    filtered = create_version(store, "2026-01-01", "a", stages=("crawl", "quality"), captions=False)
    create_version(store, "2026-01-02", "a", stages=("crawl",), captions=False)
    create_version(store, "2026-01-03", "a", stages=("crawl", "quality"))
    assert versions(plan(store)) == ["2026-01-02", "2026-01-03"]
    assert str(version_status(store, filtered)).endswith("is already complete; nothing to do")


def test_a_version_without_files_is_deleted_at_once_and_recent_work_is_kept_with_a_reason(store: Store) -> None:
    register(store, "demo", "2026-02-30", "a", {})
    create_version(store, "2026-01-02", "a", stages=("crawl",))
    now = time.time() + 60
    found = plan_removals(store, "demo", RetentionConfig(keep_days=0), no_uses, now)
    assert versions(found) == ["2026-02-30"]
    (kept,) = found.kept
    assert kept.version == "2026-01-02"
    assert kept.why.endswith("minutes ago and may be in progress; it is kept for an hour")
    assert plan_removals(store, "demo", RetentionConfig(keep_days=1), no_uses, now).kept == ()
    with pytest.raises(VecapError, match="2026-01-02 is in progress"):
        remove(store, "demo", found, no_uses, now)
    store.remove_folder("demo/2026-01-02")
    assert versions(remove(store, "demo", found, no_uses, now)) == ["2026-02-30"]
    assert names(store) == []


def test_no_version_is_deleted_while_another_is_in_progress(store: Store) -> None:
    for settings in "ab":
        create_version(store, "2026-01-01", settings)
    found = plan(store)
    create_version(store, "2026-01-02", "a", stages=("crawl",))
    with pytest.raises(VecapError, match="2026-01-02 is in progress"):
        remove(store, "demo", found, no_uses, time.time())
    assert names(store) == ["2026-01-01", "2026-01-01-r2", "2026-01-02"]


def test_leftovers_of_published_versions_are_deleted_and_work_in_progress_kept(store: Store) -> None:
    version = create_version(store, "2026-01-01", "a")
    store.put("demo/2026-01-01/crawl/_links/0.parquet", b"links")
    store.put("demo/2026-01-01/train/0123/_checkpoints/mixed-0.pt", b"weights")
    create_version(store, "2026-01-02", "a", stages=("crawl", "quality"))
    assert plan(store, days=0.01).removals == ()
    gone = collect(store, days=1)
    assert {removal.what for removal in gone.removals} == {"leftover"}
    assert [removal.path for removal in gone.removals] == [
        "demo/2026-01-01/crawl/_links",
        *(f"demo/2026-01-01/{stage}/_shards" for stage in ("crawl", "quality", "rewrite", "assemble")),
    ]
    assert verify_version(store, version).corruptions == ()
    assert store.exists("demo/2026-01-01/train/0123/_checkpoints/mixed-0.pt")
    assert store.exists("demo/2026-01-02/crawl/_shards/00000.json")


def test_folders_without_a_version_and_files_of_killed_processes_are_deleted(store: Store) -> None:
    create_version(store, "2026-01-01", "a")
    store.put("demo/2026-01-01-r7/rewrite/00000.parquet", b"captions")
    store.put("demo/releases/2026.json", b"{}")
    store.put(f"{STAGING}/work-1/00000.tar", b"images")
    store.put(f"{STAGING}/abc", b"half a manifest")
    gone = [removal.path for removal in collect(store).removals if removal.what != "leftover"]
    assert gone == ["demo/2026-01-01-r7", f"{STAGING}/abc", f"{STAGING}/work-1"]
    assert store.tree("demo/2026-01-01-r7") == store.tree(STAGING) == []
    assert store.exists("demo/releases/2026.json")


class Killed(BaseException):
    """Simulates a kill: nothing catches it."""


def test_a_deletion_killed_at_any_moment_can_be_resumed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for settings in "ab":
        create_version(store, "2026-01-01", settings)
    kept = list_versions(store, "demo")[-1]
    attempts = 0
    while attempts < 40:
        attempts += 1
        left = 1  # each attempt does one step and is killed
        with monkeypatch.context() as patched:
            for name in ("put", "remove", "remove_folder"):
                real = getattr(store, name)

                def dying(*arguments, real=real):
                    nonlocal left
                    if left == 0:
                        raise Killed
                    left -= 1
                    return real(*arguments)

                patched.setattr(store, name, dying)
            try:
                collect(store)
                break
            except Killed:
                for version in list_versions(store, "demo"):
                    assert verify_version(store, version).corruptions == (), "a reader finds a complete version or none"
    else:
        pytest.fail("the deletion did not finish")
    assert attempts > 5
    assert names(store) == [kept.name]
    assert plan(store).removals == ()
    assert {file.path for file in store.tree("demo")} == {
        "demo/2026-01-01/version.json",
        "demo/2026-01-01-r2/version.json",
        *(f"demo/2026-01-01-r2/{stage}/{file}"
          for stage in ("crawl", "quality", "rewrite", "assemble") for file in ("00000.parquet", "manifest.json")),
    }  # fmt: skip


def test_a_version_that_is_reused_after_the_plan_is_kept(store: Store) -> None:
    first = create_version(store, "2026-01-01", "a")
    create_version(store, "2026-01-01", "b")
    found = plan(store)
    assert versions(found) == ["2026-01-01"]
    create_version(store, "2026-01-01", "c", reused={"crawl": first})
    gone = remove(store, "demo", found, no_uses, time.time() + 40 * DAY)
    assert versions(gone) == []
    assert gone.kept[-1].why == "it contains the crawl files of 2026-01-01-r3"
    assert read_version(store, "demo", "2026-01-01") == first
    for version in list_versions(store, "demo"):
        assert verify_version(store, version).corruptions == ()


def test_a_version_that_is_published_after_the_plan_is_kept(store: Store) -> None:
    version = create_version(store, "2026-01-01", "a", stages=("crawl",))
    found = plan(store)
    assert versions(found) == ["2026-01-01"]
    create_version(store, "2026-01-01", "a", stages=("quality", "rewrite", "assemble"))
    kept = remove(store, "demo", found, no_uses, time.time() + 40 * DAY).kept
    assert kept[-1].why == "it was published after the plan was made"
    assert read_version(store, "demo", "2026-01-01") == version
    assert verify_version(store, version).corruptions == ()


def test_a_version_that_is_deleted_during_its_commit_is_not_published(
    letters_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Letters(letters_config, register(Store(letters_config.root), "demo", "2026-01-01", "a", {}))
    for shard in stage.plan():
        stage.run(shard)
    finish = stage.finish

    def slow(*arguments):
        tombstone(stage.store, stage.version, Deletion("2026-02-01T00:00:00+00:00", "old", None))
        return finish(*arguments)

    monkeypatch.setattr(stage, "finish", slow)
    with pytest.raises(VecapError, match="2026-01-01 was deleted during the run"):
        stage.commit()
    assert stage.manifest() is None


def test_a_stage_is_not_reused_from_a_version_that_is_being_deleted(
    letters_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tombstone is set after the other version is found and before it is referenced."""
    store = Store(letters_config.root)
    first = Letters(letters_config, register(store, "demo", "2026-01-01", "a", {}))
    for shard in first.plan():
        first.run(shard)
    first.commit()
    second = Letters(letters_config, register(store, "demo", "2026-01-01", "b", {}))
    create = second.store.create

    def slow(name: str, data: bytes) -> bool:
        tombstone(store, first.version, Deletion("2026-02-01T00:00:00+00:00", "old", "0" * 64))
        return create(name, data)

    monkeypatch.setattr(second.store, "create", slow)
    assert second.reuse_revision() is None
    assert second.manifest() is None
    assert second.plan() == list("abcd")
