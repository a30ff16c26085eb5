"""The alias `champion` in a real registry: it moves for a model that is better beyond its interval, else it stays."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from tests.train.factories import Texts, configure, give_evaluation, give_version, run
from vecap_tasks import lineage
from vecap_tasks.core.mlflow_tracking import tracking_uri
from vecap_tasks.core.stage import load_stage
from vecap_tasks.errors import ConfigError, VecapError
from vecap_tasks.evaluate.metrics import read_answers, write_answers
from vecap_tasks.evaluate.results import read_results
from vecap_tasks.lineage import champion

SAMPLES = [Texts() for _ in range(16)]
NAME = "demo-clip"


@pytest.fixture
def config(home):
    config = configure(home, arms="[alttext, vecap]", epochs=1)
    give_evaluation(config)
    return config


def evaluated(config, interval="2026-01-01"):
    version = give_version(config, SAMPLES, interval)
    run("train", config, version)
    run("evaluate", config, version)
    lineage.record_clip(config, version)
    return version


def with_champion(config, **settings):
    chosen = config.evaluate.champion.model_copy(update=settings)
    evaluate = config.evaluate.model_copy(update={"champion": chosen})
    return config.model_copy(update={"evaluate": evaluate}).with_base(config.base)


def client(config):
    return MlflowClient(tracking_uri=tracking_uri(config))


def answer(config, version, hits, tmp_path):
    """Let the run of the registered *version* have answered text_to_image with *hits*."""
    registered = client(config).get_model_version(NAME, version)
    place = client(config).download_artifacts(registered.run_id, "evaluation/answers.parquet", str(tmp_path))
    found = read_answers(Path(place).read_bytes(), place)
    for one in found:
        if one.task == "text_to_image":
            one.hits[:] = hits
    write_answers(found, tmp_path / "answers.parquet")
    client(config).log_artifact(registered.run_id, str(tmp_path / "answers.parquet"), "evaluation")


def test_the_first_is_registered_and_becomes_the_champion_once(config):
    version = give_version(config, SAMPLES)
    with pytest.raises(VecapError, match=r"stage evaluate of version .* is not finished"):
        lineage.decide_champion(config, version)
    run("train", config, version)
    run("evaluate", config, version)
    with pytest.raises(VecapError, match="are not in MLflow yet"):
        lineage.decide_champion(config, version)
    lineage.record_clip(config, version)
    decision = lineage.decide_champion(config, version)
    assert decision.moves
    assert decision.reason.startswith("it is the first, with image_to_text_1 ")
    (registered,) = client(config).search_model_versions(f"name='{NAME}'")
    assert client(config).get_model_version(NAME, registered.version).aliases == [], "deciding moves nothing"
    assert lineage.move_champion(config, version, "anna").moves
    found = client(config).get_model_version_by_alias(NAME, "champion")
    assert found.tags["vecap.approved_by"] == "anna"
    assert found.tags["vecap.champion"] == decision.reason
    stage = load_stage("evaluate", config, version)
    best = max(read_results(stage.store, stage.manifest()).runs, key=lambda one: one.figures["image_to_text_1"])
    assert found.tags["vecap.run"] == f"{best.arm}-{best.seed}"
    model = client(config).get_logged_model(found.tags["vecap.model"])
    assert (model.source_run_id, model.artifact_location) == (found.run_id, found.source)
    again = lineage.move_champion(config, version)
    assert not again.moves
    assert str(again) == f"{NAME} version 1 does not become the champion: it is the champion already"
    assert len(client(config).search_model_versions(f"name='{NAME}'")) == 1
    with pytest.raises(ConfigError, match=r"coco\.text_to_image_1 was not measured; give one of image_to_text_1, "):
        lineage.decide_champion(with_champion(config, metric="coco.text_to_image_1"), version)


def test_it_moves_only_beyond_the_interval_on_the_same_set(config, tmp_path, monkeypatch):
    config = with_champion(config, metric="text_to_image_1")
    first = evaluated(config)
    lineage.move_champion(config, first)
    second = evaluated(config, "2026-01-02")
    answer(config, "1", True, tmp_path)  # all right: nothing is better
    decision = lineage.decide_champion(config, second)
    assert not decision.moves
    assert decision.reason.endswith("not beyond the interval")
    answer(config, "1", False, tmp_path)
    own = np.tile(np.arange(24)[:, None] % 3 > 0, (1, 3))  # two of three found, against none
    place = "vecap_tasks.lineage.champion._stored_answers"
    stored = champion._stored_answers

    def better(store, name):
        found = stored(store, name)
        for one in found:
            if one.task == "text_to_image":
                one.hits[:] = own
        return found

    monkeypatch.setattr(place, better)
    decision = lineage.move_champion(config, second)
    assert decision.moves
    assert "by +66.7 points (+" in decision.reason
    assert client(config).get_model_version_by_alias(NAME, "champion").tags["vecap.version"] == "2026-01-02"


def test_what_cannot_be_compared_does_not_move_it(config, tmp_path):
    first = evaluated(config)
    lineage.move_champion(config, first)
    second = evaluated(config, "2026-01-02")
    registered = client(config).get_model_version_by_alias(NAME, "champion")
    folder = client(config).get_run(registered.run_id).info.artifact_uri.removeprefix("file://")
    answers = Path(folder) / "evaluation/answers.parquet"
    written = read_answers(answers.read_bytes(), "here")
    answers.unlink()
    decision = lineage.move_champion(config, second)
    assert not decision.moves
    assert "has no answers in MLflow to compare with" in decision.reason
    write_answers(tuple(replace(one, digest="0" * 64) for one in written), answers)
    decision = lineage.move_champion(config, second)
    assert not decision.moves
    assert "was measured on another set for image_to_text_1" in decision.reason
    assert client(config).get_model_version_by_alias(NAME, "champion").tags["vecap.version"] == "2026-01-01"
