"""From trained models to the table of arms, and what an evaluation set must hold."""

import json
from pathlib import Path

import pytest

from tests.train.given import Texts, configure, give_evaluation, give_version, run
from vecap_tasks.errors import DamagedError, VecapError
from vecap_tasks.evaluate.report import METRICS, Results, RunFigures, format_table, read_results, summarise
from vecap_tasks.stages import load_stage

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
    assert (results.images, results.captions, results.labels, results.classes) == (12, 24, 12, 40)
    for arm in results.arms:
        values = [one.figures for one in results.runs if one.arm == arm.arm]
        for name in METRICS:
            assert arm.mean[name] == pytest.approx((values[0][name] + values[1][name]) / 2)
            assert arm.deviation[name] == pytest.approx(abs(values[0][name] - values[1][name]) / 2**0.5)
            assert 0 <= arm.mean[name] <= 1
    assert results.chance["text_to_image_5"] == pytest.approx(5 / 12)
    metrics = json.loads(stage.store.read(manifest.file("vecap-1/metrics.json")))
    assert metrics["figures"] == results.runs[3].figures
    assert stage.store.read(manifest.file("arms.png")).startswith(b"\x89PNG")
    assert "| vecap |" in stage.store.read(manifest.file("results.md")).decode()
    assert [item.kind for item in manifest.inputs] == ["stage", "dataset"]
    with stage.store.workspace() as work:
        again = stage.finish(stage.receipts(), work)
        for name in again.files:
            assert (work / name).read_bytes() == stage.store.read(manifest.file(name)), name


def test_batch_size_changes_no_figure(config, home):
    version = give_version(config, SAMPLES)
    run("train", config, version)
    stage = load_stage("evaluate", config, version)
    in_fives = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"batch_size": 5})})
    other = load_stage("evaluate", in_fives.with_base(config.base), version)
    assert other.fingerprint == stage.fingerprint
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
    with pytest.raises(DamagedError, match=r"alttext-0/model\.safetensors was changed"):
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
        (_remove("images/003.png"), "there is no image images/003.png"),
        (_write("labels.csv", "image,label\nimages/000.png,unicorn\n"), "has the label 'unicorn'"),
        (_write("captions.csv", "picture,text\na,b\n"), "has no columns image and caption"),
        (_write("captions.csv", "image,caption\nimages/000.png,\n"), "row 2 has no image or no caption"),
        (_write("captions.csv", "image,caption\n"), "has no rows"),
        (_write("templates.txt", "a picture\n"), "has not one {}"),
        (_write("templates.txt", "\n"), "is empty"),
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


def test_table_lines_up_and_tells_chance():
    figures = dict.fromkeys(METRICS, 0.5)
    runs = (RunFigures("vecap", 0, figures), RunFigures("vecap", 1, figures | {"image_to_text_1": 1.0}))
    results = Results(3, 6, 3, 2, summarise(runs), runs, dict.fromkeys(METRICS, 0.01))
    head, rule, arm, chance, _, caption = format_table(results).splitlines()
    assert head.split()[:3] == ["arm", "I2T", "R@1"]
    assert set(rule) == {"-"}
    assert arm.startswith("vecap   75.0 ± 35.4")
    assert chance.split() == ["chance", *["1.0"] * 7]
    assert len(arm) == len(head)
    assert "over 2 seeds" in caption
    one_seed = Results(3, 6, 3, 2, summarise(runs[:1]), runs[:1], dict.fromkeys(METRICS, 0.01))
    assert "±" not in format_table(one_seed)
    assert Results.from_json(results.to_json().encode(), "here") == results
