"""Where the links of the pages lead: MLflow, source files, models."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from vecap_airflow.pages.link_targets import LinkTargets
from vecap_airflow.pages.repository import Repository

from tests.old_versions import MODELS, VERSIONS, unpack
from vecap_tasks.config import load_config
from vecap_tasks.core.manifest import Input, read_manifest
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import read_version
from vecap_tasks.errors import VecapError
from vecap_tasks.lineage.tree import Node
from vecap_tasks.lineage.walk import walk

FIRST, SECOND, REVISION = VERSIONS
MODELS_OF_FIRST = [f"{FIRST}/vecap-0"]


@pytest.fixture
def repository(home: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.setenv("VECAP_MODELS", str(MODELS))
    return Repository(load_config(unpack(home), ["mlflow.ui_url=https://mlflow.example"]))


@pytest.fixture
def targets(repository: Repository) -> LinkTargets:
    return repository.targets


def nodes(tree: Node, kind: str) -> list[Node]:
    return [node for node in tree.walk() if node.kind == kind]


def test_source_files_lead_to_all_versions_and_models_made_from_them(targets: LinkTargets, home: Path) -> None:
    found = targets.sources(FIRST, 0, 10)
    (file,) = found.files
    assert (found.total, found.bytes) == (1, file.bytes)
    assert file.location == str(home / "web" / "warc" / f"{FIRST}.warc.gz")
    assert found.versions == ((FIRST, MODELS_OF_FIRST),)
    assert targets.sources(SECOND, 0, 10).versions == ((SECOND, []), (REVISION, []))
    assert targets.sources(REVISION, 0, 10).files == targets.sources(SECOND, 0, 10).files
    assert targets.sources(FIRST, 1, 10).files == (), "the second page"


def test_a_location_has_no_secrets(targets: LinkTargets, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRAWL_TOKEN", "s3cr3t-value")
    name = "https://bot:${CRAWL_TOKEN}@a.example/${HOME_NAME:-here}.warc"
    folder = f"demo/{FIRST}/crawl"
    store = Store(str(home / "store"))
    manifest = read_manifest(store, folder)
    changed = replace(manifest, inputs=(Input("source", name, "0" * 64, 1),))
    store.put(f"{folder}/manifest.json", changed.to_json())
    (item,) = targets.sources(FIRST, 0, 1).files
    assert (item.name, item.location) == (name, "https://***@a.example/here.warc")


def test_lineage_links_to_versions_stages_and_source_files(targets: LinkTargets, repository: Repository) -> None:
    tree = repository.lineage(f"{FIRST}/vecap-0")
    link = targets.node_links(tree)
    (source,) = nodes(tree, "source")
    assert link(source) == f"versions/{FIRST}/sources#{source.digest}"
    for kind, page in (
        ("version", ""),
        ("assemble", ""),
        ("rewrite", "/samples"),
        ("quality", "/quarantine"),
        ("crawl", "/sources"),
    ):
        (node,) = nodes(tree, kind)
        assert link(node) == f"versions/{FIRST}{page}"
    for kind in ("model", "train", "evaluate", "prompt"):
        assert {link(node) for node in nodes(tree, kind)} == {""}


def test_only_existing_versions_of_the_dataset_get_links(targets: LinkTargets) -> None:
    nodes = [
        Node("version", "2030-01-01", "d"),
        Node("crawl", "other/2026-01-01/crawl", "d"),
        Node("crawl", f"demo/{FIRST}/crawl", None),  # corrupt
    ]
    link = targets.node_links(Node("mixture", "x", "d", children=tuple(nodes)))
    assert [link(node) for node in nodes] == ["", "", ""]


def test_models_of_several_trainings_have_distinct_names(targets: LinkTargets, home: Path) -> None:
    assert targets.trained_models(FIRST) == MODELS_OF_FIRST
    trainings = home / "store" / "demo" / FIRST / "train"
    (training,) = [folder for folder in trainings.iterdir() if (folder / "manifest.json").exists()]
    unfinished = shutil.copytree(training, trainings / "fedcba987654")
    (unfinished / "manifest.json").unlink()
    names = targets.trained_models(FIRST)
    assert names == [f"{FIRST}/{training.name}/vecap-0"]
    assert [walk(targets.config, name, check=False).name for name in names] == MODELS_OF_FIRST
    with pytest.raises(VecapError, match=f"give one of .*{FIRST}/fedcba987654/vecap-0.*, or an MLflow id"):
        walk(load_config(home / "config.yaml", ["train.epochs=77"]), f"{FIRST}/vecap-0", check=False)


def test_a_model_leads_to_mlflow(targets: LinkTargets, repository: Repository) -> None:
    (train,) = nodes(repository.lineage(f"{FIRST}/vecap-0"), "train")
    found = targets.model_url(FIRST, "vecap-0", train.digest)
    assert found.url.startswith("https://mlflow.example/#/experiments/")
    assert "/models/m-" in found.url
    missing = targets.model_url(FIRST, "vecap-1", train.digest)
    assert missing.url is None
    assert "has no model vecap-1" in missing.reason
    for model, digest in (("vecap-0' OR '1'='1", train.digest), ("vecap-0", "x' OR '1'='1")):
        with pytest.raises(VecapError, match="is not"):
            targets.model_url(FIRST, model, digest)


def test_a_version_leads_to_its_run_and_models(targets: LinkTargets) -> None:
    assert "/runs/" in targets.run_url(FIRST, "mlflow").url
    models = targets.run_url(FIRST, "models").url
    assert models.startswith("https://mlflow.example/#/experiments/")
    assert "searchFilter=dataset.name%20%3D%20%27demo%2F2026-01-01%27" in models


def test_without_an_mlflow_database_there_is_a_reason_and_no_champion(targets: LinkTargets, home: Path) -> None:
    assert targets.champion == "models:/demo-clip@champion"
    assert targets.has_champion()
    (home / "mlflow.db").unlink()
    assert not targets.has_champion()
    for system in ("mlflow", "models", "airflow"):
        found = targets.run_url(FIRST, system)
        assert found.url is None
        assert "there is no MLflow database" in found.reason


def test_a_version_without_a_crawl_has_no_source_files(
    targets: LinkTargets, repository: Repository, home: Path
) -> None:
    folder = home / "store" / "demo" / "2026-01-03"
    folder.mkdir()
    body = json.loads((folder.parent / FIRST / "version.json").read_text())
    (folder / "version.json").write_text(json.dumps(body | {"interval": "2026-01-03"}))
    assert read_version(repository._store, "demo", "2026-01-03").name == "2026-01-03"
    with pytest.raises(VecapError, match="no finished crawl yet"):
        targets.sources("2026-01-03", 0, 10)
