"""The alias `champion` in a real registry: it moves only to a significantly better model."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModelAlias
from sqlalchemy import event
from sqlalchemy.orm import Session

from tests.train.factories import Texts, configure, publish_version, run, write_evaluation_set
from vecap_tasks import lineage
from vecap_tasks.config import BootstrapConfig
from vecap_tasks.core.mlflow_tracking import tracking_uri
from vecap_tasks.core.stage import load_stage
from vecap_tasks.errors import ConfigError, VecapError
from vecap_tasks.evaluate.metrics import Answers, read_answers, write_answers
from vecap_tasks.evaluate.results import SetSize, read_results, summarize
from vecap_tasks.lineage import champion

SAMPLES = [Texts() for _ in range(16)]
NAME = "demo-clip"


@pytest.fixture
def config(home):
    config = configure(home, arms="[alttext, vecap]", epochs=1)
    write_evaluation_set(config)
    return config


def evaluate(config, interval="2026-01-01"):
    version = publish_version(config, SAMPLES, interval)
    run("train", config, version)
    run("evaluate", config, version)
    lineage.record_clip(config, version)
    return version


def champion_config(config, **settings):
    section = config.evaluate.champion.model_copy(update=settings)
    evaluate = config.evaluate.model_copy(update={"champion": section})
    return config.model_copy(update={"evaluate": evaluate}).with_base(config.base)


def client(config):
    return MlflowClient(tracking_uri=tracking_uri(config))


def set_answers(config, version, hits, tmp_path):
    """Set the text_to_image hits in the recorded answers of the registered *version*."""
    registered = client(config).get_model_version(NAME, version)
    path = client(config).download_artifacts(registered.run_id, "evaluation/answers.parquet", str(tmp_path))
    all_answers = read_answers(Path(path).read_bytes(), path)
    for answers in all_answers:
        if answers.task == "text_to_image":
            answers.hits[:] = hits
    write_answers(all_answers, tmp_path / "answers.parquet")
    client(config).log_artifact(registered.run_id, str(tmp_path / "answers.parquet"), "evaluation")


def test_the_first_model_is_registered_and_becomes_champion_once(config):
    version = publish_version(config, SAMPLES)
    with pytest.raises(VecapError, match="has not been evaluated"):
        lineage.decide_champion(config, version)
    run("train", config, version)
    run("evaluate", config, version)
    with pytest.raises(VecapError, match="are not in MLflow"):
        lineage.decide_champion(config, version)
    lineage.record_clip(config, version)
    decision = lineage.decide_champion(config, version)
    assert decision.moves
    assert decision.reason.startswith("first champion (mean of image_to_text_1 and text_to_image_1 = ")
    (registered,) = client(config).search_model_versions(f"name='{NAME}'")
    assert client(config).get_model_version(NAME, registered.version).aliases == [], "deciding does not move the alias"
    assert lineage.move_champion(config, version, "anna").moves
    registered = client(config).get_model_version_by_alias(NAME, "champion")
    assert registered.tags["vecap.approved_by"] == "anna"
    assert registered.tags["vecap.champion"] == decision.reason
    stage = load_stage("evaluate", config, version)
    runs = read_results(stage.store, stage.manifest()).runs
    best = max(runs, key=lambda run: run.figures["image_to_text_1"] + run.figures["text_to_image_1"])
    assert registered.tags["vecap.run"] == f"{best.arm}-{best.seed}"
    model = client(config).get_logged_model(registered.tags["vecap.model"])
    assert (model.source_run_id, model.artifact_location) == (registered.run_id, registered.source)
    repeated = lineage.move_champion(config, version)
    assert not repeated.moves
    assert str(repeated) == f"{NAME} version 1: champion unchanged: already the champion"
    assert len(client(config).search_model_versions(f"name='{NAME}'")) == 1
    with pytest.raises(ConfigError, match=r"coco\.text_to_image_1 was not measured; give one of image_to_text_1, "):
        lineage.decide_champion(champion_config(config, metric="coco.text_to_image_1"), version)


def test_another_process_moves_the_alias_at_the_same_time(config):
    version = evaluate(config)
    decision = lineage.decide_champion(config, version)
    database = tracking_uri(config).removeprefix("sqlite:///")
    other = []

    def write_first(session, *_):
        """Write the alias after MLflow read that there is none, and before it writes it."""
        for alias in (new for new in session.new if isinstance(new, SqlRegisteredModelAlias)):
            with sqlite3.connect(database) as connection:
                values = (alias.workspace, alias.name, alias.alias, alias.version)
                connection.execute(
                    "INSERT INTO registered_model_aliases (workspace, name, alias, version) VALUES (?, ?, ?, ?)", values
                )
            other.append(values)

    event.listen(Session, "before_flush", write_first)
    try:
        moved = lineage.move_champion(config, version)
    finally:
        event.remove(Session, "before_flush", write_first)
    assert len(other) == 1
    assert (moved.moves, moved.reason) == (False, "already the champion")
    assert client(config).get_model_version_by_alias(NAME, "champion").version == int(decision.version)


def test_another_process_deletes_its_duplicate_while_the_versions_are_read(config, monkeypatch):
    version = evaluate(config)
    decision = lineage.move_champion(config, version)
    search = MlflowClient.search_model_versions
    deleted = []

    def delete_after_search(self, *arguments, **named):
        first = self.get_model_version(NAME, decision.version)
        duplicate = self.create_model_version(NAME, first.source, first.run_id)
        found = search(self, *arguments, **named)
        self.delete_model_version(NAME, duplicate.version)
        deleted.append(duplicate.version)
        return found

    monkeypatch.setattr(MlflowClient, "search_model_versions", delete_after_search)
    again = lineage.move_champion(config, version)
    assert deleted
    assert (again.moves, again.reason, again.version) == (False, "already the champion", decision.version)


def test_the_champion_changes_only_for_a_significant_difference_on_the_same_set(config, tmp_path, monkeypatch):
    config = champion_config(config, metric="text_to_image_1")
    first = evaluate(config)
    lineage.move_champion(config, first)
    second = evaluate(config, "2026-01-02")
    set_answers(config, "1", True, tmp_path)  # all correct
    decision = lineage.decide_champion(config, second)
    assert not decision.moves
    assert decision.reason.endswith("not significant")
    set_answers(config, "1", False, tmp_path)
    hits = np.tile(np.arange(24)[:, None] % 3 > 0, (1, 3))  # two thirds correct, champion none
    stored_answers = champion._stored_answers

    def better_answers(*arguments):
        all_answers = stored_answers(*arguments)
        for answers in all_answers:
            if answers.task == "text_to_image":
                answers.hits[:] = hits
        return all_answers

    monkeypatch.setattr(champion, "_stored_answers", better_answers)
    decision = lineage.move_champion(config, second)
    assert decision.moves
    assert decision.reason.startswith("text_to_image_1 +66.7 points (+")
    assert client(config).get_model_version_by_alias(NAME, "champion").tags["vecap.version"] == "2026-01-02"


def test_the_champion_stays_if_models_cannot_be_compared(config, tmp_path):
    first = evaluate(config)
    lineage.move_champion(config, first)
    second = evaluate(config, "2026-01-02")
    registered = client(config).get_model_version_by_alias(NAME, "champion")
    folder = client(config).get_run(registered.run_id).info.artifact_uri.removeprefix("file://")
    answers = Path(folder) / "evaluation/answers.parquet"
    recorded = read_answers(answers.read_bytes(), "here")
    answers.unlink()
    decision = lineage.move_champion(config, second)
    assert not decision.moves
    assert "has no answers in MLflow" in decision.reason
    write_answers(tuple(replace(item, digest="0" * 64) for item in recorded), answers)
    decision = lineage.move_champion(config, second)
    assert not decision.moves
    assert "was evaluated on another set for mean of image_to_text_1 and text_to_image_1" in decision.reason
    assert client(config).get_model_version_by_alias(NAME, "champion").tags["vecap.version"] == "2026-01-01"


def results_of(sets, **hits):
    """Return the results of models that answer each task, `set.task`, with these shares of hits, by arm."""
    runs = {}
    for arm, shares in hits.items():
        runs[arm, 0] = [
            Answers(*key.split("."), np.arange(20, dtype=np.int32), np.zeros(20, np.int32), answered(share))
            for key, share in shares.items()
        ]
    return summarize(runs, sets, {}, {}, BootstrapConfig(rounds=100))


def answered(share):
    return np.tile(np.arange(20)[:, None] < 20 * share, (1, 3))


def test_by_default_both_retrieval_directions_count():
    sets = [SetSize(name, "retrieval", 20, 20, 0, "d") for name in ("coco", "flickr")]
    results = results_of(
        sets,
        vec={"coco.d.image_to_text": 0.6, "coco.d.text_to_image": 0.1, "flickr.d.image_to_text": 0.9},
        vecap={"coco.d.image_to_text": 0.5, "coco.d.text_to_image": 0.4, "flickr.d.image_to_text": 0.1},
    )
    criterion = champion.champion_criterion(None, results)
    assert criterion.keys == ("coco.image_to_text_1", "coco.text_to_image_1"), "only the first set"
    assert {run.arm: round(criterion.value(run.figures), 3) for run in results.runs} == {"vec": 0.35, "vecap": 0.45}
    assert champion.champion_criterion("coco.image_to_text_1", results).keys == ("coco.image_to_text_1",)


def test_without_retrieval_the_first_metric_counts():
    results = results_of([SetSize("", "zero_shot", 20, 0, 1, "d")], vec={".d.zero_shot": 0.6})
    assert champion.champion_criterion(None, results).keys == ("zero_shot_top1",)
