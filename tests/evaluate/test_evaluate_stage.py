"""From trained models to the table of arms, and what an evaluation set must hold."""

import json
from pathlib import Path

import pytest

from tests.train.factories import Texts, configure, give_evaluation, give_version, run
from vecap_tasks.core.stage import load_stage
from vecap_tasks.errors import CorruptError, VecapError
from vecap_tasks.evaluate.metrics import figures_of, read_answers
from vecap_tasks.evaluate.results import read_results

SAMPLES = [Texts() for _ in range(16)]


@pytest.fixture
def config(home):
    config = configure(home, arms="[alttext, vecap]", seeds="[0, 1]", epochs=1)
    give_evaluation(config)
    return config


def test_results_hold_every_run_and_the_arms_over_seeds(config):
    version = give_version(config, SAMPLES)
    run("train", config, version)
    manifest = run("evaluate", config, version)
    stage = load_stage("evaluate", config, version)
    results = read_results(stage.store, manifest)
    assert [(one.arm, one.seed) for one in results.runs] == [("alttext", 0), ("alttext", 1), ("vecap", 0), ("vecap", 1)]
    assert [arm.arm for arm in results.arms] == ["alttext", "vecap"]
    sizes = [(one.name, one.task, one.images, one.captions, one.classes) for one in results.sets]
    assert sizes == [("", "retrieval", 12, 24, 0), ("", "zero_shot", 12, 0, 40)]
    assert list(results.titles) == list(results.chance)
    for arm in results.arms:
        values = [one.figures for one in results.runs if one.arm == arm.arm]
        for name in results.titles:
            assert arm.mean[name] == pytest.approx((values[0][name] + values[1][name]) / 2)
            assert arm.deviation[name] == pytest.approx(abs(values[0][name] - values[1][name]) / 2**0.5)
            assert 0 <= arm.mean[name] <= 1
            low, high = arm.intervals[name]
            assert 0 <= low <= high <= 1
    assert {(one.arm, one.other) for one in results.comparisons} == {("alttext", "vecap")}
    assert results.chance["text_to_image_5"] == pytest.approx(5 / 12)
    metrics = json.loads(stage.store.read(manifest.file("vecap-1/metrics.json")))
    assert metrics["figures"] == results.runs[3].figures
    place = manifest.file("vecap-1/answers.parquet")
    answers = read_answers(stage.store.read(place), place)
    assert figures_of(answers) == results.runs[3].figures
    assert {one.digest for one in answers} == {one.digest for one in results.sets}
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


def test_batch_size_changes_no_figure_here_but_low_bits_and_so_the_fingerprint(config, home):
    version = give_version(config, SAMPLES)
    run("train", config, version)
    stage = load_stage("evaluate", config, version)
    in_fives = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"batch_size": 5})})
    other = load_stage("evaluate", in_fives.with_base(config.base), version)
    assert other.fingerprint != stage.fingerprint
    with stage.store.workspace() as one, stage.store.workspace() as two:
        stage.process("vecap-0", one)
        other.process("vecap-0", two)
        assert (one / "vecap-0/metrics.json").read_bytes() == (two / "vecap-0/metrics.json").read_bytes()


def test_a_changed_model_is_not_measured(config):
    version = give_version(config, SAMPLES)
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
    ("harm", "says"),
    [
        (lambda folder: folder.rename(folder.parent / "away"), "there is no evaluation set at"),
        (_remove("classes.txt"), "has no classes.txt"),
        (_remove("images/003.png"), "1 of 12 images are missing"),
        (_write("labels.csv", "image,label\nimages/000.png,unicorn\n"), "has the label 'unicorn'"),
        (_write("captions.csv", "picture,text\na,b\n"), "has no columns image and caption"),
        (_write("captions.csv", "image,caption\nimages/000.png,\n"), "row 2 has no image or no caption"),
        (_write("captions.csv", "image,caption\n"), "has no rows"),
        (_write("templates.txt", "a picture\n"), "has not one {}"),
        (_write("templates.txt", "\n"), "is empty"),
        (_write("captions.csv", "image,caption\nimages/000.png,a dog, two cats\n"), "row 2 has 3 fields, the header 2"),
    ],
)
def test_an_unusable_evaluation_set_is_one_clear_line(config, harm, says):
    version = give_version(config, SAMPLES)
    harm(Path(config.resolve(config.evaluate.dataset)))
    with pytest.raises(VecapError) as caught:
        load_stage("evaluate", config, version).plan()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_evaluation_set_is_another_stage(config):
    version = give_version(config, SAMPLES)
    before = load_stage("evaluate", config, version).fingerprint
    folder = Path(config.resolve(config.evaluate.dataset))
    (folder / "images/001.png").write_bytes((folder / "images/002.png").read_bytes())
    assert load_stage("evaluate", config, version).fingerprint != before
