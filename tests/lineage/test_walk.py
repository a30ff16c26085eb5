"""The lineage of versions and models, and `verify`."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.train.factories import Texts, configure, publish_version, run, write_evaluation_set
from vecap_tasks import lineage
from vecap_tasks.core.mlflow_tracking import open_tracking, tracking_uri
from vecap_tasks.core.stage import load_stage
from vecap_tasks.core.verify import verify_version
from vecap_tasks.errors import VecapError
from vecap_tasks.lineage.tree import InputChecker, named_inputs
from vecap_tasks.lineage.walk import format_tree, walk

SAMPLES = [Texts() for _ in range(16)]


@pytest.fixture
def config(home):
    config = configure(home, arms="[vecap]", epochs=1)
    write_evaluation_set(config)
    return config


@pytest.fixture
def version(config):
    return publish_version(config, SAMPLES)


@pytest.fixture
def trained(config, version):
    run("train", config, version)
    return version


def store(config):
    return load_stage("assemble", config, None).store


def test_a_version_is_traced_to_its_sources(config, version):
    tree = walk(config, "2026-01-01")
    assert tree.verified
    chain = [(node.kind, node.name.rpartition("/")[2]) for node in tree.walk()]
    assert chain[:5] == [
        ("version", "2026-01-01"),
        ("assemble", "assemble"),
        ("rewrite", "rewrite"),
        ("quality", "quality"),
        ("crawl", "crawl"),
    ]
    assert ("source", "2026-01-01.warc.gz") in chain
    notes = {node.kind: node.note for node in tree.walk()}
    assert notes["source"] == notes["model"] == notes["prompt"] == "unchanged"
    text = format_tree(tree)
    assert "rewrite demo/2026-01-01/rewrite" in text
    assert "✗" not in text
    assert tree.as_json()["verified"] is True
    json.dumps(tree.as_json())


def test_all_names_of_a_model_give_the_same_lineage(config, trained):
    run("evaluate", config, trained)
    arms = lineage.record_clip(config, trained)
    with open_tracking(config) as tracking:
        (child,) = tracking.client.search_runs(
            [tracking.client.get_run(arms).info.experiment_id], "tags.`vecap.kind` = 'model'"
        )
        model = child.outputs.model_outputs[0].model_id
    trees = [
        walk(config, name) for name in ("vecap-0", "2026-01-01/vecap-0", model, f"models:/{model}", child.info.run_id)
    ]
    assert all(tree.verified for tree in trees)
    assert len({tree.digest for tree in trees}) == 1
    assert all([node.kind for node in tree.walk()][:4] == ["model", "train", "version", "assemble"] for tree in trees)
    assert walk(config, arms).kind == "version"


def test_a_registered_model_is_found_by_alias_version_or_name(config, trained, monkeypatch):
    run("evaluate", config, trained)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(config))  # where MLflow looks up registered models
    lineage.record_clip(config, trained)
    with open_tracking(config) as tracking:
        client = tracking.client
        experiment = client.get_experiment_by_name("vecap/demo/clip").experiment_id
        (model,) = client.search_logged_models([experiment])
        client.create_registered_model("demo-clip")
        client.create_model_version("demo-clip", f"models:/{model.model_id}", model_id=model.model_id)
        client.set_registered_model_alias("demo-clip", "champion", "1")
    trees = [walk(config, f"models:/demo-clip{suffix}") for suffix in ("@champion", "/1", "")]
    assert all(tree.verified and tree.name == "2026-01-01/vecap-0" for tree in trees)
    assert all("models:/demo-clip/1" in tree.note for tree in trees)
    for unknown in ("models:/demo-clip@gone", "models:/demo-clip/7", "models:/other"):
        with pytest.raises(VecapError, match="has no "):
            walk(config, unknown)


def test_a_tokenizer_and_a_pretrained_model_in_one_folder_are_compared_separately(config, version, home):
    folder = home / "start"
    folder.mkdir()
    for name in ("tokenizer.json", "config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    model = config.train.model.model_copy(update={"tokenizer": str(folder), "init_from": str(folder)})
    train = config.train.model_copy(update={"model": model})
    config = config.model_copy(update={"train": train}).with_base(config.base)
    recorded = load_stage("train", config, version).inputs()
    assert [item.kind for item in recorded] == ["model", "model"], "the kinds are part of the manifest's digest"
    manifest = replace(
        load_stage("assemble", config, version).manifest(),
        stage="train",
        inputs=tuple(recorded),
        provenance={"config": config.model_dump(mode="json")},
    )

    def nodes():
        inputs = InputChecker(config, version, manifest)
        return [inputs.node(item) for item in named_inputs("train", manifest.inputs)]

    assert [(node.kind, node.note) for node in nodes()] == [
        ("tokenizer", "unchanged"),
        ("model", "unchanged"),
    ]
    (folder / "tokenizer.json").write_text("{ }")
    assert [(node.kind, bool(node.problems)) for node in nodes()] == [("tokenizer", True), ("model", False)]


def test_the_lineage_of_a_model_has_its_evaluation(config, trained):
    assert "evaluate" not in {node.kind for node in walk(config, "vecap-0").walk()}
    run("evaluate", config, trained)
    tree = walk(config, "vecap-0")
    (evaluate,) = [node for node in tree.children if node.kind == "evaluate"]
    assert [(node.name, node.note) for node in evaluate.children] == [
        ("retrieval", "unchanged"),
        ("zero_shot", "unchanged"),
    ]
    store(config).put(f"{trained.folder}/evaluate/unfinished/vecap-0/metrics.json", b"{}")
    assert walk(config, "vecap-0").verified, "an unfinished evaluation is not corruption"


def test_a_missing_source_is_unchecked_and_not_a_problem(config, version):
    Path(config.resolve(config.crawl.source.paths[0], interval="2026-01-01")).unlink()
    tree = walk(config, "2026-01-01")
    assert tree.verified
    assert not tree.complete
    (source,) = [node for node in tree.walk() if node.unchecked]
    assert source.kind == "source"
    assert source.unchecked.endswith("2026-01-01.warc.gz does not exist")
    assert f"? not checked: {source.unchecked}" in format_tree(tree)
    assert "version 2026-01-01: verified, 13 files" in format_tree(tree)
    assert tree.as_json()["complete"] is False


def test_a_replaced_upstream_stage_is_found(config, trained):
    """Both manifests have valid seals, but they do not belong together."""
    assemble = load_stage("assemble", config, trained)
    other = replace(assemble.manifest(), counters={"samples": 999})
    store(config).put(f"{assemble.folder}/manifest.json", other.to_json())
    tree = walk(config, "vecap-0")
    (node,) = [node for node in tree.walk() if node.problems]
    assert node.kind == "train"
    assert node.problems[0].startswith("used another assemble")
    corruptions = verify_version(store(config), trained).corruptions
    assert any("assemble" in item.problem and "/train/" in item.path for item in corruptions)


def test_an_unchanged_version_is_verified(config, trained):
    run("evaluate", config, trained)
    report = verify_version(store(config), trained)
    assert report.corruptions == ()
    assert report.files == 23
    assert report.bytes > 100_000


def test_missing_unexpected_and_changed_files_are_reported(config, trained):
    folder = Path(store(config).path("demo/2026-01-01"))
    (folder / "rewrite/00000.parquet").unlink()
    (folder / "quality/report").mkdir()
    (folder / "quality/report/note.txt").write_text("who put this here?")
    with (folder / "assemble/README.md").open("a") as stream:
        stream.write("more")
    problems = {
        item.path.removeprefix("demo/2026-01-01/"): item.problem
        for item in verify_version(store(config), trained).corruptions
    }
    assert problems == {
        "rewrite/00000.parquet": "is missing",
        "quality/report/note.txt": "is not listed in any manifest",
        "assemble/README.md": "has 11 bytes, but the manifest records 7",
    }


def test_a_published_version_without_a_manifest_is_corrupt(config, version):
    Path(store(config).path("demo/2026-01-01/quality/manifest.json")).unlink()
    paths = {item.path for item in verify_version(store(config), version).corruptions}
    assert "demo/2026-01-01/quality/manifest.json" in paths


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("2025-12-31", "has no version 2025-12-31"),
        ("mixed-7", "has no model mixed-7"),
        ("2026-01-01/mixed-7", "version 2026-01-01 has no model mixed-7"),
        ("m-" + "0" * 32, "has no m-000"),
        ("0" * 32, "has no 000"),
    ],
)
def test_an_unknown_name_is_one_clear_line(config, version, name, message):
    with pytest.raises(VecapError) as raised:
        walk(config, name)
    assert message in str(raised.value)


def test_an_ambiguous_model_name_is_one_clear_line(config, trained):
    other = publish_version(config, SAMPLES, "2026-01-02")
    run("train", config, other)
    names = r"2026-01-01/[0-9a-f]{12}/vecap-0, 2026-01-02/[0-9a-f]{12}/vecap-0"
    with pytest.raises(VecapError, match=f"several models vecap-0; give one of {names}"):
        walk(config, "vecap-0")
    assert walk(config, "2026-01-02/vecap-0").verified
