"""A model of a mixture leads to all that went into it: versions, here and elsewhere, and other people's tars."""

from pathlib import Path

import pytest

from tests.lineage.test_damage import flipped
from tests.train.factories import Texts, configure, give_evaluation, give_version, run
from tests.train.test_mixture import OURS, mixed, theirs
from vecap_tasks import lineage
from vecap_tasks.core.mlflow_tracking import open_tracking
from vecap_tasks.lineage.walk import walk

SAMPLES = [Texts() for _ in range(10)]


@pytest.fixture
def made(home):
    """A model trained on two versions and two tars of others; its configuration and its name."""
    elsewhere = configure(home).model_copy(update={"root": str(home / "elsewhere")}).with_base(Path.cwd())
    other = {"kind": "version", "version": "2026-01-02", "root": str(home / "elsewhere")}
    give_version(elsewhere, SAMPLES, "2026-01-02")
    config = mixed(home, OURS, other, theirs(home), arms="[vecap]", epochs=1)
    version = give_version(config, SAMPLES)
    run("train", config, version)
    return config, version


def test_a_model_of_a_mixture_leads_to_every_source(made, home):
    config, _ = made
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
def test_one_changed_byte_of_a_source_is_found_and_named(made, home, file, kind):
    config, _ = made
    (home / file).write_bytes(flipped((home / file).read_bytes()))
    (node,) = [node for node in walk(config, "vecap-0").walk() if node.problems]
    assert node.kind == kind
    assert Path(file).name in f"{node.name} {node.problems[0]}"


def test_a_tar_that_is_gone_is_no_damage(made, home):
    config, _ = made
    (home / "theirs/00001.tar").unlink()
    tree = walk(config, "vecap-0")
    assert tree.verified
    (gone,) = [node for node in tree.walk() if node.unchecked]
    assert gone.name.endswith("theirs/00001.tar")


def test_mlflow_names_every_source_of_a_mixture(made):
    config, version = made
    give_evaluation(config)
    run("evaluate", config, version)
    arms = lineage.record_clip(config, version)
    with open_tracking(config) as tracking:
        recorded = tracking.client.get_run(arms)
    named = [found.dataset.name for found in recorded.inputs.dataset_inputs]
    assert {"demo/mixtures/both", "demo/2026-01-01", "demo/2026-01-02", "demo/evaluation/retrieval"} <= set(named)
    note = recorded.data.tags["mlflow.note.content"]
    assert "[demo/2026-01-01](#/experiments/" in note
    assert "`demo/2026-01-02`" in note, "no run of it stands in this MLflow"
