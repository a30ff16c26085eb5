"""A training is watched in a real MLflow server while it goes on, and never suffers from it."""

import time

import pytest
from mlflow import MlflowClient

from tests.installation import REPOSITORY, wait_until
from tests.train.factories import Texts, configure, give_evaluation, give_version, run
from tests.train.test_train_stage import stopped_after
from vecap_tasks import lineage
from vecap_tasks.core.stage import load_stage
from vecap_tasks.lineage.walk import walk

pytestmark = [pytest.mark.slow, pytest.mark.services]
SAMPLES = [Texts() for _ in range(16)]


def watched(home, url, dataset, **train):
    """A configuration that is watched all the time; each test has experiments of its own in the one server."""
    config = configure(home, arms="[vecap]", **train)
    mlflow = config.mlflow.model_copy(update={"tracking_uri": url, "live_interval": 0.2})
    return config.model_copy(update={"mlflow": mlflow, "dataset": dataset}).with_base(config.base)


def runs(url, dataset):
    client = MlflowClient(url)
    found = client.get_experiment_by_name(f"vecap/{dataset}/clip")
    return [] if found is None else client.search_runs([found.experiment_id])


def losses(url, run_id):
    return {metric.step: metric.value for metric in MlflowClient(url).get_metric_history(run_id, "loss")}


def test_it_stands_there_while_it_goes_on_and_gives_way_to_the_model(home, mlflow_server, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CTX_DAG_ID", "vecap_clip")
    config = watched(home, mlflow_server, "watched")
    give_evaluation(config)
    version = give_version(config, SAMPLES)
    stage = load_stage("train", config, version)
    seen = []

    def look(progress):
        """Wait at the third step until it is there."""
        while progress.record.step == 3 and not seen:
            time.sleep(0.2)
            seen.extend(runs(mlflow_server, "watched"))

    stage.report = look
    stage.run("vecap-0")
    (first,) = seen
    assert (first.info.run_name, first.info.status) == ("2026-01-01 vecap-0 training", "RUNNING")
    assert first.data.tags["airflow.dag_id"] == "vecap_clip"
    (ended,) = runs(mlflow_server, "watched")
    assert ended.info.status == "FINISHED"
    assert ended.data.params["train.batch_size"] == "8"
    assert sorted(losses(mlflow_server, ended.info.run_id)) == [1, 2, 3, 4]
    assert {"samples_per_second", "seconds_left", "system/process_memory_usage_megabytes"} <= set(ended.data.metrics)
    run("train", config, version)
    run("evaluate", config, version)
    lineage.record_clip(config, version)
    names = sorted(one.info.run_name for one in runs(mlflow_server, "watched"))
    assert names == ["2026-01-01 arms", "2026-01-01 vecap-0"]


def test_a_retry_goes_on_in_the_same_run(home, mlflow_server):
    config = watched(home, mlflow_server, "retried", epochs=200)
    stage = load_stage("train", config, give_version(config, SAMPLES))
    assert "told to end" in stopped_after(stage, "vecap-0", 200)
    (left,) = runs(mlflow_server, "retried")
    assert left.info.status == "KILLED"
    assert max(losses(mlflow_server, left.info.run_id)) >= 200
    stage.run("vecap-0")
    (ended,) = runs(mlflow_server, "retried")
    assert (ended.info.run_id, ended.info.status) == (left.info.run_id, "FINISHED")
    assert sorted(losses(mlflow_server, ended.info.run_id)) == list(range(1, 401))


@pytest.mark.exhaustive
def test_two_processes_are_watched_by_the_first(home, mlflow_server, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    config = watched(home, mlflow_server, "two", epochs=10, launch="{processes: 2}")
    load_stage("train", config, give_version(config, SAMPLES)).run("vecap-0")
    (ended,) = runs(mlflow_server, "two")
    assert ended.info.status == "FINISHED"
    assert sorted(losses(mlflow_server, ended.info.run_id)) == list(range(1, 21))


def test_a_server_that_is_not_there_costs_a_line(home, caplog):
    config = watched(home, "http://127.0.0.1:9", "alone")
    stage = load_stage("train", config, give_version(config, SAMPLES))
    said = "not to be watched"
    stage.report = lambda progress: wait_until(lambda: said in caplog.text, 60, said, 0.05)
    assert stage.run("vecap-0").counters["steps"] == 4
    (line,) = [record.message for record in caplog.records if "not to be watched" in record.message]
    assert "vecap-0: not to be watched in MLflow for now: no MLflow server answers at http://127.0.0.1:9" in line


def test_a_short_training_is_not_there(home, mlflow_server):
    config = watched(home, mlflow_server, "short", epochs=1)
    mlflow = config.mlflow.model_copy(update={"live_interval": 300})
    config = config.model_copy(update={"mlflow": mlflow}).with_base(config.base)
    run("train", config, give_version(config, SAMPLES))
    assert runs(mlflow_server, "short") == []


def test_a_registered_version_leads_to_its_sources(home, mlflow_server):
    config = watched(home, mlflow_server, "registered", epochs=1)
    give_evaluation(config)
    version = give_version(config, SAMPLES)
    run("train", config, version)
    run("evaluate", config, version)
    lineage.record_clip(config, version)
    lineage.move_champion(config, version)
    for name in ("models:/registered-clip@champion", "models:/registered-clip/1", "models:/registered-clip"):
        tree = walk(config, name)
        assert tree.verified
        assert (tree.name, tree.note) == ("2026-01-01/vecap-0", "as MLflow has it, models:/registered-clip/1")
    client = MlflowClient(mlflow_server)
    champion = client.get_model_version_by_alias("registered-clip", "champion")
    model = client.get_logged_model(champion.tags["vecap.model"])
    assert champion.source == model.model_uri
    assert client.get_model_version_download_uri(champion.name, champion.version) == model.artifact_location
    client.delete_model_version_tag(champion.name, champion.version, "vecap.model")
    assert walk(config, "models:/registered-clip").verified, "the source names the model too"
