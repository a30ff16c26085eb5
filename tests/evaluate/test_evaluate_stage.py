"""The stage evaluate: results of trained models, and errors in evaluation sets."""

import json
from pathlib import Path

import pytest

from tests.train.factories import Texts, configure, publish_version, run, write_evaluation_set
from vecap_tasks.core.stage import load_stage
from vecap_tasks.errors import CorruptError, VecapError
from vecap_tasks.evaluate.metrics import figures_of, read_answers
from vecap_tasks.evaluate.results import read_results

SAMPLES = [Texts() for _ in range(16)]


@pytest.fixture
def config(home):
    config = configure(home, arms="[alttext, vecap]", seeds="[0, 1]", epochs=1)
    write_evaluation_set(config)
    return config


def test_results_hold_every_run_and_the_arms_over_seeds(config):
    version = publish_version(config, SAMPLES)
    run("train", config, version)
    manifest = run("evaluate", config, version)
    stage = load_stage("evaluate", config, version)
    results = read_results(stage.store, manifest)
    assert [(run.arm, run.seed) for run in results.runs] == [("alttext", 0), ("alttext", 1), ("vecap", 0), ("vecap", 1)]
    assert [arm.arm for arm in results.arms] == ["alttext", "vecap"]
    sizes = [(size.name, size.task, size.images, size.captions, size.classes) for size in results.sets]
    assert sizes == [("", "retrieval", 12, 24, 0), ("", "zero_shot", 12, 0, 40)]
    assert list(results.titles) == list(results.chance)
    for arm in results.arms:
        values = [model.figures for model in results.runs if model.arm == arm.arm]
        for name in results.titles:
            assert arm.mean[name] == pytest.approx((values[0][name] + values[1][name]) / 2)
            assert arm.deviation[name] == pytest.approx(abs(values[0][name] - values[1][name]) / 2**0.5)
            assert 0 <= arm.mean[name] <= 1
            low, high = arm.intervals[name]
            assert 0 <= low <= high <= 1
    assert {(found.arm, found.other) for found in results.comparisons} == {("alttext", "vecap")}
    assert results.chance["text_to_image_5"] == pytest.approx(5 / 12)
    metrics = json.loads(stage.store.read(manifest.file("vecap-1/metrics.json")))
    assert metrics["figures"] == results.runs[3].figures
    path = manifest.file("vecap-1/answers.parquet")
    answers = read_answers(stage.store.read(path), path)
    assert figures_of(answers) == results.runs[3].figures
    assert {task.digest for task in answers} == {size.digest for size in results.sets}
    for name in ("arms.png", "vecap-1/retrieved.png"):
        assert stage.store.read(manifest.file(name)).startswith(b"\x89PNG")
    assert "| vecap |" in stage.store.read(manifest.file("results.md")).decode()
    assert [(item.kind, item.name) for item in manifest.inputs[1:]] == [
        ("dataset", "retrieval"),
        ("dataset", "zero_shot"),
    ]
    with stage.store.workspace() as work:
        again = stage.finish(stage.receipts(), work)
        for name in again.files:
            assert (work / name).read_bytes() == stage.store.read(manifest.file(name)), name


def test_batch_size_changes_the_fingerprint_but_not_the_metrics(config, home):
    version = publish_version(config, SAMPLES)
    run("train", config, version)
    stage = load_stage("evaluate", config, version)
    batches_of_5 = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"batch_size": 5})})
    other = load_stage("evaluate", batches_of_5.with_base(config.base), version)
    assert other.fingerprint != stage.fingerprint
    with stage.store.workspace() as first, stage.store.workspace() as second:
        stage.process("vecap-0", first)
        other.process("vecap-0", second)
        assert (first / "vecap-0/metrics.json").read_bytes() == (second / "vecap-0/metrics.json").read_bytes()


def test_a_corrupt_model_is_an_error(config):
    version = publish_version(config, SAMPLES)
    manifest = run("train", config, version)
    store = load_stage("train", config, version).store
    name = manifest.file("alttext-0/model.safetensors")
    data = bytearray(store.read(name))
    data[-1] ^= 1
    store.put(name, bytes(data))
    with pytest.raises(CorruptError, match=r"alttext-0/model\.safetensors is corrupt"):
        run("evaluate", config, version)


def _remove(name):
    return lambda folder: (folder / name).unlink()


def _write(name, text):
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: folder.rename(folder.parent / "away"), "does not exist"),
        (_remove("classes.txt"), "has no classes.txt"),
        (_remove("images/003.png"), "1 of 12 images are missing"),
        (_write("labels.csv", "image,label\nimages/000.png,unicorn\n"), "has the label 'unicorn'"),
        (_write("captions.csv", "picture,text\na,b\n"), "lacks the columns image and caption"),
        (_write("captions.csv", "image,caption\nimages/000.png,\n"), "row 2 has no image or no caption"),
        (_write("captions.csv", "image,caption\n"), "has no rows"),
        (_write("templates.txt", "a picture\n"), "must have exactly one {}"),
        (_write("templates.txt", "\n"), "is empty"),
        (
            _write("captions.csv", "image,caption\nimages/000.png,a dog, two cats\n"),
            "row 2 has 3 fields, but the header has 2",
        ),
    ],
)
def test_an_unusable_evaluation_set_is_a_one_line_error(config, damage, message):
    version = publish_version(config, SAMPLES)
    damage(Path(config.resolve(config.evaluate.dataset)))
    with pytest.raises(VecapError) as caught:
        load_stage("evaluate", config, version).plan()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_changed_evaluation_set_changes_the_fingerprint(config):
    version = publish_version(config, SAMPLES)
    before = load_stage("evaluate", config, version).fingerprint
    folder = Path(config.resolve(config.evaluate.dataset))
    (folder / "images/001.png").write_bytes((folder / "images/002.png").read_bytes())
    assert load_stage("evaluate", config, version).fingerprint != before
