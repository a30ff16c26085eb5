"""What goes by the policy, what never does, and that a deletion may be killed anywhere and repeated."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

import pytest

from tests.core.conftest import Letters
from tests.core.factories import give
from vecap_tasks.config import Config, RetentionConfig
from vecap_tasks.core.manifest import Input
from vecap_tasks.core.retention import Plan, plan_removals, remove
from vecap_tasks.core.store import STAGING, Store
from vecap_tasks.core.verify import verify_version
from vecap_tasks.core.version import Deletion, list_versions, read_version, register, tombstone
from vecap_tasks.errors import CorruptError, VecapError

POLICY = RetentionConfig(keep_last=1, keep_days=30)
DAY = 86_400


def nobody(versions: Mapping[str, str]) -> dict[str, str]:
    return {}


def plan(store: Store, days: float = 40, policy: RetentionConfig = POLICY, elsewhere=nobody) -> Plan:
    """Return what may go *days* from now."""
    return plan_removals(store, "demo", policy, elsewhere, time.time() + days * DAY)


def collect(store: Store, days: float = 40, elsewhere=nobody) -> Plan:
    return remove(store, "demo", plan(store, days, elsewhere=elsewhere), elsewhere, time.time() + days * DAY)


def versions(found: Plan) -> list[str]:
    return [removal.path.removeprefix("demo/") for removal in found.removals if removal.version is not None]


def names(store: Store) -> list[str]:
    return [version.name for version in list_versions(store, "demo")]


def test_superseded_revisions_go_after_their_days_and_the_newest_stay(store: Store) -> None:
    for settings in "abc":
        give(store, "2026-01-01", settings)
    give(store, "2026-01-02", "a")
    assert versions(plan(store, days=29)) == []
    assert versions(plan(store, policy=RetentionConfig(keep_last=3, keep_days=30))) == []
    assert versions(plan(store, policy=RetentionConfig(keep_last=2, keep_days=30))) == ["2026-01-01"]
    found = plan(store)
    assert versions(found) == ["2026-01-01", "2026-01-01-r2"]
    assert found.removals[0].why == "2026-01-01-r2 superseded it 40 days ago"
    assert names(store) == ["2026-01-01", "2026-01-01-r2", "2026-01-01-r3", "2026-01-02"], "a plan changes nothing"
    gone = remove(store, "demo", found, nobody, time.time() + 40 * DAY)
    assert gone.bytes == found.bytes > 0
    assert names(store) == ["2026-01-01-r3", "2026-01-02"]
    assert [file.path for file in store.tree("demo/2026-01-01")] == ["demo/2026-01-01/version.json"]
    assert plan(store).removals == ()
    for version in list_versions(store, "demo"):
        assert verify_version(store, version).corruptions == ()


def test_a_name_that_was_published_is_not_given_again(store: Store) -> None:
    give(store, "2026-01-01", "a")
    give(store, "2026-01-01", "b")
    collect(store)
    with pytest.raises(VecapError, match=r"2026-01-01 was deleted on 20.*superseded it"):
        read_version(store, "demo", "2026-01-01")
    assert register(store, "demo", "2026-01-01", "a", {}).name == "2026-01-01-r3"


def test_what_another_version_took_over_stays_with_all_that_it_needs(store: Store) -> None:
    first = give(store, "2026-01-01", "a")
    second = give(store, "2026-01-01", "b", taken_over={"crawl": first, "quality": first})
    give(store, "2026-01-01", "c", taken_over={"rewrite": second})
    found = plan(store)
    assert versions(found) == []
    assert {kept.version: kept.why for kept in found.kept} == {
        "2026-01-01": "it has the crawl of 2026-01-01-r2",
        "2026-01-01-r2": "it has the rewrite of 2026-01-01-r3",
    }


def test_a_crawl_that_others_were_made_from_stays(store: Store) -> None:
    give(store, "2026-01-01", "a")
    give(store, "2026-01-01", "b", inputs=(Input("dataset", "2026-01-01/crawl", "0" * 64),))
    assert versions(plan(store)) == []
    give(store, "2026-01-02", "a")
    give(store, "2026-01-02", "b")
    give(store, "2026-01-03", "a", inputs=(Input("version", "2026-01-02", "0" * 64),))
    assert versions(plan(store)) == []


def test_what_a_mixture_names_stays(store: Store) -> None:
    for settings in "abc":
        give(store, "2026-01-01", settings)
    source = {"kind": "vecap", "root": None, "dataset": "demo", "version": "2026-01-01"}
    tars = {"kind": "webdataset", "paths": ["dfn/*.tar"]}
    store.put("demo/mixtures/both.json", json.dumps({"sources": [source, tars]}).encode())
    other = {"sources": [{"version": "2026-01-01-r2", "dataset": "demo"}, {"version": "2026-01-01-r3"}]}
    store.put("other/mixtures/theirs.json", json.dumps(other).encode())
    found = plan(store)
    assert versions(found) == []
    assert [kept.why for kept in found.kept] == [
        "the mixture demo/mixtures/both names it",
        "the mixture other/mixtures/theirs names it",
    ]
    store.put("demo/mixtures/broken.json", b"{")
    with pytest.raises(CorruptError, match=r"demo/mixtures/broken\.json is not a mixture"):
        plan(store)


def test_what_is_needed_elsewhere_stays_and_is_asked_again_before_the_end(store: Store) -> None:
    for settings in "abc":
        give(store, "2026-01-01", settings)
    found = plan(store, elsewhere=lambda asked: {"2026-01-01": "a model"})
    assert versions(found) == ["2026-01-01-r2"]
    assert [(kept.version, kept.why) for kept in found.kept] == [("2026-01-01", "a model")]
    gone = remove(store, "demo", found, lambda asked: dict.fromkeys(asked, "trained meanwhile"), time.time() + 40 * DAY)
    assert versions(gone) == []
    assert [kept.why for kept in gone.kept] == ["a model", "trained meanwhile"]
    assert names(store) == ["2026-01-01", "2026-01-01-r2", "2026-01-01-r3"]
    for version in list_versions(store, "demo"):
        assert verify_version(store, version).corruptions == ()


def test_unfinished_work_goes_when_nobody_wrote_to_it_and_leaves_no_trace(store: Store) -> None:
    give(store, "2026-01-01", "a", stages=("crawl",))
    give(store, "2026-01-02", "a")
    assert versions(plan(store, days=29)) == []
    assert versions(collect(store)) == ["2026-01-01"]
    assert store.tree("demo/2026-01-01") == []
    assert register(store, "demo", "2026-01-01", "b", {}).name == "2026-01-01"


def test_a_version_without_a_file_goes_at_once_and_other_recent_work_says_why_it_stays(store: Store) -> None:
    register(store, "demo", "2026-02-30", "a", {})
    give(store, "2026-01-02", "a", stages=("crawl",))
    now = time.time() + 60
    found = plan_removals(store, "demo", RetentionConfig(keep_days=0), nobody, now)
    assert versions(found) == ["2026-02-30"]
    (kept,) = found.kept
    assert kept.version == "2026-01-02"
    assert kept.why.endswith("minutes ago and may be in progress; it stays for an hour")
    assert plan_removals(store, "demo", RetentionConfig(keep_days=1), nobody, now).kept == ()
    with pytest.raises(VecapError, match="2026-01-02 is being made"):
        remove(store, "demo", found, nobody, now)
    store.remove_folder("demo/2026-01-02")
    assert versions(remove(store, "demo", found, nobody, now)) == ["2026-02-30"]
    assert names(store) == []


def test_nothing_of_versions_is_deleted_while_one_is_being_made(store: Store) -> None:
    for settings in "ab":
        give(store, "2026-01-01", settings)
    found = plan(store)
    give(store, "2026-01-02", "a", stages=("crawl",))
    with pytest.raises(VecapError, match="2026-01-02 is being made"):
        remove(store, "demo", found, nobody, time.time())
    assert names(store) == ["2026-01-01", "2026-01-01-r2", "2026-01-02"]


def test_leftovers_of_published_versions_go_and_those_of_work_in_progress_stay(store: Store) -> None:
    version = give(store, "2026-01-01", "a")
    store.put("demo/2026-01-01/crawl/_links/0.parquet", b"links")
    store.put("demo/2026-01-01/train/0123/_checkpoints/mixed-0.pt", b"weights")
    give(store, "2026-01-02", "a", stages=("crawl", "quality"))
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


def test_folders_of_no_version_and_what_killed_processes_had_in_hand(store: Store) -> None:
    give(store, "2026-01-01", "a")
    store.put("demo/2026-01-01-r7/rewrite/00000.parquet", b"captions")
    store.put("demo/releases/2026.json", b"{}")
    store.put(f"{STAGING}/work-1/00000.tar", b"images")
    store.put(f"{STAGING}/abc", b"half a manifest")
    gone = [removal.path for removal in collect(store).removals if removal.what != "leftover"]
    assert gone == ["demo/2026-01-01-r7", f"{STAGING}/abc", f"{STAGING}/work-1"]
    assert store.tree("demo/2026-01-01-r7") == store.tree(STAGING) == []
    assert store.exists("demo/releases/2026.json")


class Killed(BaseException):
    """Stands for the moment of a kill: nothing catches it."""


def test_a_deletion_killed_at_any_moment_is_gone_on_with(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for settings in "ab":
        give(store, "2026-01-01", settings)
    kept = list_versions(store, "demo")[-1]
    attempts = 0
    while attempts < 40:
        attempts += 1
        left = 1  # each attempt gets one step further and dies
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
                    assert verify_version(store, version).corruptions == (), "a reader finds all of a version or none"
    else:
        pytest.fail("the deletion never came to its end")
    assert attempts > 5
    assert names(store) == [kept.name]
    assert plan(store).removals == ()
    assert {file.path for file in store.tree("demo")} == {
        "demo/2026-01-01/version.json",
        "demo/2026-01-01-r2/version.json",
        *(f"demo/2026-01-01-r2/{stage}/{file}"
          for stage in ("crawl", "quality", "rewrite", "assemble") for file in ("00000.parquet", "manifest.json")),
    }  # fmt: skip


def test_a_version_that_is_taken_over_from_meanwhile_is_kept_after_all(store: Store) -> None:
    first = give(store, "2026-01-01", "a")
    give(store, "2026-01-01", "b")
    found = plan(store)
    assert versions(found) == ["2026-01-01"]
    give(store, "2026-01-01", "c", taken_over={"crawl": first})
    gone = remove(store, "demo", found, nobody, time.time() + 40 * DAY)
    assert versions(gone) == []
    assert gone.kept[-1].why == "it has the crawl of 2026-01-01-r3"
    assert read_version(store, "demo", "2026-01-01") == first
    for version in list_versions(store, "demo"):
        assert verify_version(store, version).corruptions == ()


def test_a_version_that_is_published_meanwhile_is_kept_after_all(store: Store) -> None:
    version = give(store, "2026-01-01", "a", stages=("crawl",))
    found = plan(store)
    assert versions(found) == ["2026-01-01"]
    give(store, "2026-01-01", "a", stages=("quality", "rewrite", "assemble"))
    assert remove(store, "demo", found, nobody, time.time() + 40 * DAY).kept[-1].why == "it was published meanwhile"
    assert read_version(store, "demo", "2026-01-01") == version
    assert verify_version(store, version).corruptions == ()


def test_a_version_that_is_deleted_while_it_is_committed_is_not_published(
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
    with pytest.raises(VecapError, match="2026-01-01 was deleted while it was being made"):
        stage.commit()
    assert stage.manifest() is None


def test_a_stage_is_not_taken_over_from_a_version_that_is_being_deleted(
    letters_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tombstone is set between the moment at which the other is found and that at which it is referred to."""
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
