"""The lineage of a model trained on a mixture: versions, in this store and another, and external tars."""

from pathlib import Path

import pytest

from tests.lineage.test_damage import flip_bit
from tests.train.factories import Texts, configure, publish_version, run, write_evaluation_set
from tests.train.test_mixture import OWN_VERSION, external_source, with_mixture
from vecap_tasks import lineage
from vecap_tasks.core.mlflow_tracking import open_tracking
from vecap_tasks.lineage.walk import walk

SAMPLES = [Texts() for _ in range(10)]


@pytest.fixture
def trained(home):
    """The configuration and version of a model trained on two versions and two external tars."""
    elsewhere = configure(home).model_copy(update={"root": str(home / "elsewhere")}).with_base(Path.cwd())
    other = {"kind": "version", "version": "2026-01-02", "root": str(home / "elsewhere")}
    publish_version(elsewhere, SAMPLES, "2026-01-02")
    config = with_mixture(home, OWN_VERSION, other, external_source(home), arms="[vecap]", epochs=1)
    version = publish_version(config, SAMPLES)
    run("train", config, version)
    return config, version


def test_the_lineage_of_a_mixture_has_all_sources(trained, home):
    config, _ = trained
    tree = walk(config, "vecap-0")
    assert [node for node in tree.walk() if node.problems or node.unchecked] == []
    (train,) = tree.children
    mixture = train.children[0]
    assert (mixture.kind, mixture.name) == ("mixture", "demo/mixtures/both.json")
    assert [node.kind for node in mixture.children] == ["version", "version", "tars"]
    assert [node.kind for node in mixture.children[2].children] == ["source", "source"]
    crawls = [node.name for node in tree.walk() if node.kind == "source" and node.name.endswith(".warc.gz")]
    assert sorted(name.rpartition("/")[2] for name in crawls) == ["2026-01-01.warc.gz", "2026-01-02.warc.gz"]
    assert [node.kind for node in tree.walk()].count("version") == 2, "each version once"


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("store/demo/mixtures/both.json", "mixture"),
        ("elsewhere/demo/2026-01-02/rewrite/00000.parquet", "rewrite"),
        ("elsewhere/demo/2026-01-02/assemble/manifest.json", "assemble"),
        ("theirs/00001.tar", "source"),
    ],
)
def test_a_changed_byte_of_a_source_is_found_and_reported(trained, home, file, kind):
    config, _ = trained
    (home / file).write_bytes(flip_bit((home / file).read_bytes()))
    (node,) = [node for node in walk(config, "vecap-0").walk() if node.problems]
    assert node.kind == kind
    assert Path(file).name in f"{node.name} {node.problems[0]}"


def test_a_missing_tar_is_not_corruption(trained, home):
    config, _ = trained
    (home / "theirs/00001.tar").unlink()
    tree = walk(config, "vecap-0")
    assert tree.verified
    (gone,) = [node for node in tree.walk() if node.unchecked]
    assert gone.name.endswith("theirs/00001.tar")


def test_mlflow_lists_all_sources_of_a_mixture(trained):
    config, version = trained
    write_evaluation_set(config)
    run("evaluate", config, version)
    arms = lineage.record_clip(config, version)
    with open_tracking(config) as tracking:
        recorded = tracking.client.get_run(arms)
    names = {item.dataset.name for item in recorded.inputs.dataset_inputs}
    assert {"demo/mixtures/both", "demo/2026-01-01", "demo/2026-01-02", "demo/evaluation/retrieval"} <= names
    note = recorded.data.tags["mlflow.note.content"]
    assert "[demo/2026-01-01](#/experiments/" in note
    assert "`demo/2026-01-02`" in note, "this MLflow has no run of it"
