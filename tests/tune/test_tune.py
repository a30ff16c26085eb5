"""`vecap tune`: trainings within a budget, the curve with intervals, and the recommended mix."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.train.factories import SMALL, Texts, configure, publish_version, write_evaluation_set
from vecap_tasks.cli.__main__ import main
from vecap_tasks.config import Config, TuneConfig
from vecap_tasks.core.mlflow_tracking import open_tracking
from vecap_tasks.core.store import Store
from vecap_tasks.core.verify import verify_version
from vecap_tasks.core.version import list_versions
from vecap_tasks.errors import ConfigError
from vecap_tasks.tune import plan
from vecap_tasks.tune.plan import Mix, mixes, overrides, planned_epochs
from vecap_tasks.tune.report import Point, Tuning, format_markdown, recommendation

TUNE = {"alttext_shares": [0, 0.5, 1], "captions": ["vecap", "vec"], "seeds": [0, 1], "budget": 0.01}


@pytest.fixture
def config(home: Path) -> Config:
    config = configure(home)
    write_evaluation_set(config)
    return config


def configuration_file(config: Config, home: Path, **tune: object) -> list[str]:
    """Return the options of a file with *config* and the section `tune`."""
    body = json.loads(config.model_dump_json().replace('"../', f'"{config.base.parent}/'))
    body["tune"] = TUNE | tune
    (home / "config.yaml").write_text(yaml.safe_dump(body))
    return ["--config", str(home / "config.yaml")]


def test_mixes_are_arms_with_both_texts_and_alttext_alone_is_one_of_them() -> None:
    settings = TuneConfig(**TUNE)
    assert [(mix.caption, mix.share) for mix in mixes(settings)] == [
        ("vecap", 0), ("vecap", 0.5), ("vecap", 1), ("vec", 0), ("vec", 0.5),
    ]  # fmt: skip
    assert Mix("vec", 0.25).texts == {"alttext": 0.25, "vec": 0.75}
    assert len({mix.arm for mix in mixes(TuneConfig(alttext_shares=[n / 100 for n in range(101)]))}) == 101


def test_settings_of_the_trainings_become_overrides() -> None:
    settings = TuneConfig(**TUNE, train={"model": {"size": "B/32"}, "sub_captions": {"kind": "sentence"}})
    found = overrides(settings, 3)
    assert 'train.model.size="B/32"' in found
    assert 'train.sub_captions={"kind": "sentence"}' in found
    assert "train.seeds=[0, 1]" in found
    assert found[-1] == "train.epochs=3"
    with pytest.raises(ValueError, match="tune sets arms of its trainings"):
        TuneConfig(train={"arms": ["vec"]})


def test_the_command_trains_all_mixes_and_recommends_one(
    config: Config, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = publish_version(config, [Texts() for _ in range(24)])
    monkeypatch.setattr(plan, "_PROBE_SECONDS", 0.0)
    options = configuration_file(config, home)
    command = ["tune", *options, "--version", version.name, "--set", f"train.epochs={SMALL['epochs']}"]
    assert main([*command, "--json"]) == 0
    output = capsys.readouterr().out
    tuning = json.loads(output)
    assert [point["alttext_share"] for point in tuning["points"]] == [0, 0.5, 1, 0, 0.5]
    assert (tuning["seeds"], tuning["epochs"]) == (2, SMALL["epochs"])
    keys = ["image_to_text_1", "text_to_image_1", "zero_shot_top1"]
    assert list(tuning["titles"]) == keys
    for point in tuning["points"]:
        assert point["score"] == pytest.approx(sum(point["figures"][key] for key in keys) / 3)
        low, high = point["score_interval"]
        assert 0 <= low <= high <= 1
        assert point["behind"][0] >= 0
    assert tuning["best"] == max(tuning["points"], key=lambda point: point["score"])["arm"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "Recommended: " in shown
    assert "texts: {mixed: {alttext: " in shown
    with open_tracking(config) as tracking:
        [run] = tracking.client.search_runs([tracking.experiment("demo", "tune")])
        curve = tracking.client.get_metric_history(run.info.run_id, "vecap.score")
        assert [(metric.step, metric.value) for metric in curve] == [
            (1000 * point["alttext_share"], pytest.approx(point["score"])) for point in tuning["points"][:3]
        ]
        files = {file.path for file in tracking.client.list_artifacts(run.info.run_id)}
        assert files == {"tune.json", "tune.md", "tune.png"}
    store = Store(config.resolve(config.root))
    assert verify_version(store, version).corruptions == ()


def test_a_version_that_does_not_exist_is_an_error_and_is_not_created(
    config: Config, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_version(config, [Texts() for _ in range(4)])
    options = configuration_file(config, home)
    assert main(["tune", *options, "--version", "2026-01-07"]) == 1
    assert "2026-01-07" in capsys.readouterr().err
    store = Store(config.resolve(config.root))
    assert [version.name for version in list_versions(store, config.dataset)] == ["2026-01-01"]


def test_the_budget_limits_the_epochs_and_the_first_plan_counts(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six runs of 20 samples at 10 samples/s: 12 s per epoch."""
    version = publish_version(config, [Texts() for _ in range(20)])
    monkeypatch.setattr(plan, "measure_speed", lambda stage: 10.0)
    settings = TuneConfig(alttext_shares=[0, 0.5, 1], seeds=[0, 1], budget=30 / 3600)
    train = config.training.model_copy(update={"epochs": 50, "arms": ["alttext", "vec", "vecap"], "seeds": [0, 1]})
    many = config.model_copy(update={"train": train}).with_base(config.base)
    assert planned_epochs(many, settings, version) == 2
    monkeypatch.setattr(plan, "measure_speed", lambda stage: 1000.0)
    assert planned_epochs(many, settings, version) == 2, "as recorded"
    assert planned_epochs(many, settings.model_copy(update={"budget": 1.0}), version) == 50, "at most as configured"
    with pytest.raises(ConfigError, match=r"tune\.budget: .* hours are too few: one epoch of the 6 trainings takes"):
        planned_epochs(many, settings.model_copy(update={"budget": 1e-6}), version)


def point(share: float, score: float, behind: list[float]) -> Point:
    arm = Mix("vecap", share).arm
    return Point(arm, "vecap", share, {"m": score}, {"m": [0, 1]}, score, [0.1, 0.9], behind)


def test_the_recommendation_names_mixes_that_are_not_significantly_worse() -> None:
    points = (point(0, 0.4, [0.1, 0.05, 0.15]), point(0.5, 0.5, [0, 0, 0]), point(0.75, 0.49, [0.01, -0.02, 0.04]))
    tuning = Tuning("2026-01-01", 3, 2, {"m": "I2T R@1"}, points, "vecap_0500", 0.95, 1000)
    text = recommendation(tuning)
    assert "Recommended: 50 % AltText, the rest vecap. Its score, the mean of I2T R@1, is 50.0 (10.0 to 90.0)." in text
    assert "Not significantly worse: 75 % AltText with vecap." in text
    assert text.endswith("train:\n  texts: {mixed: {alttext: 0.5, vecap: 0.5}}")
    assert "| vecap | 0 % | 40.0 (0.0 to 100.0) | 40.0 (10.0 to 90.0) | 10.0 (5.0 to 15.0) |" in format_markdown(tuning)
