"""Versions of an earlier release stay readable: verify, lineage and diff."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.old_versions import MODELS, VERSIONS, unpack
from vecap_tasks.config import Config, load_config
from vecap_tasks.core.diff import diff, summarize
from vecap_tasks.core.manifest import read_manifest
from vecap_tasks.core.mlflow_tracking import open_tracking
from vecap_tasks.core.store import Store
from vecap_tasks.core.verify import verify_version
from vecap_tasks.core.version import read_version
from vecap_tasks.crawl.previous_crawl import PreviousCrawl
from vecap_tasks.lineage.walk import walk
from vecap_tasks.quality.quarantine import has_verdicts, index_rejected, list_rows


@pytest.fixture
def old(home: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("VECAP_MODELS", str(MODELS))
    return load_config(unpack(home))


def test_every_version_is_verified(old: Config) -> None:
    store = Store(old.resolve(old.root))
    for name in VERSIONS:
        report = verify_version(store, read_version(store, old.dataset, name))
        assert report.corruptions == ()
        assert report.files > 40


def test_versions_and_the_model_are_traced_to_their_sources(old: Config) -> None:
    for name in (*VERSIONS, "2026-01-01/vecap-0"):
        tree = walk(old, name)
        assert tree.verified
        assert tree.complete
        assert "source" in {node.kind for node in tree.walk()}


def test_a_tokenizer_is_not_shown_as_the_model_in_its_folder(old: Config) -> None:
    digests = {(node.kind, node.digest) for node in walk(old, "vecap-0").walk() if node.name == "${VECAP_MODELS}/llm"}
    assert sorted(kind for kind, _ in digests) == ["model", "tokenizer"]


@pytest.mark.parametrize("name", ["models:/demo-clip@champion", "models:/demo-clip/1", "models:/demo-clip"])
def test_a_registered_model_is_traced_to_its_sources(old: Config, name: str) -> None:
    tree = walk(old, name, check=False)
    assert (tree.name, tree.note) == ("2026-01-01/vecap-0", "in MLflow: models:/demo-clip/1")
    assert "source" in {node.kind for node in tree.walk()}


def test_intervals_and_revisions_are_compared(old: Config) -> None:
    store = Store(old.resolve(old.root))
    first, second, revision = (read_version(store, old.dataset, name) for name in VERSIONS)
    intervals = diff(store, first, second)
    assert (summarize(store, first).assembled, intervals.kept + intervals.added) == (31, 29)
    revisions = diff(store, second, revision)
    assert [setting.key for setting in revisions.settings] == ["rewrite.llm.max_new_tokens"]
    assert (revisions.added, revisions.gone, revisions.kept) == (0, 0, 29)


def test_the_quarantine_of_every_version_is_listed(old: Config) -> None:
    store = Store(old.resolve(old.root))
    for name in VERSIONS:
        version = read_version(store, old.dataset, name)
        found = summarize(store, version)
        assert has_verdicts(store, version)
        assert list_rows(store, version).total == found.crawled - found.accepted > 0
        assert max(reason.rows for reason in index_rejected(store, version).reasons) > 0


def test_the_candidates_of_every_crawl_are_read(old: Config) -> None:
    """`--retry-failed` reads them."""
    store = Store(old.resolve(old.root))
    for name in VERSIONS:
        manifest = read_manifest(store, f"{read_version(store, old.dataset, name).folder}/crawl")
        assert manifest is not None
        previous = PreviousCrawl(store, name, manifest, frozenset())
        tables = [previous.candidates(shard) for shard in previous.shards]
        assert sum(len(table) for table in tables) == previous.stats.counters["candidates"] > 0
        assert [item for item in manifest.inputs if item.kind == "source"] == previous.stats.inputs


def test_mlflow_has_the_runs_and_the_champion(old: Config) -> None:
    with open_tracking(old) as tracking:
        champion = tracking.client.get_model_version_by_alias("demo-clip", "champion")
        assert str(champion.version) == "1"
        for kind, count in (("versions", 3), ("clip", 2)):
            experiment = tracking.client.get_experiment_by_name(f"vecap/demo/{kind}")
            assert len(tracking.client.search_runs([experiment.experiment_id])) == count
