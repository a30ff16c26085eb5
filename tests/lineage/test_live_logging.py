"""Live logging of a training to a real MLflow server."""

import time

import pytest
from mlflow import MlflowClient

from tests.faults.proxy import faulty_proxy
from tests.installation import REPOSITORY, wait_until
from tests.train.factories import Texts, configure, publish_version, run, write_evaluation_set
from tests.train.test_train_stage import stop_after
from vecap_tasks import lineage, outages
from vecap_tasks.core.stage import load_stage
from vecap_tasks.errors import OutageError
from vecap_tasks.lineage.walk import walk

pytestmark = [pytest.mark.slow, pytest.mark.services]
SAMPLES = [Texts() for _ in range(16)]


def with_live_logging(home, url, dataset, **train):
    """Return a configuration with frequent live logging; each test has its own *dataset* on the shared server."""
    config = configure(home, arms="[vecap]", **train)
    mlflow = config.mlflow.model_copy(update={"tracking_uri": url, "live_interval": 0.2})
    return config.model_copy(update={"mlflow": mlflow, "dataset": dataset}).with_base(config.base)


def runs(url, dataset):
    client = MlflowClient(url)
    experiment = client.get_experiment_by_name(f"vecap/{dataset}/clip")
    return [] if experiment is None else client.search_runs([experiment.experiment_id])


def losses(url, run_id):
    return {metric.step: metric.value for metric in MlflowClient(url).get_metric_history(run_id, "loss")}


def test_a_live_run_is_replaced_by_the_run_of_the_model(home, mlflow_server, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CTX_DAG_ID", "vecap_clip")
    config = with_live_logging(home, mlflow_server, "watched")
    write_evaluation_set(config)
    version = publish_version(config, SAMPLES)
    stage = load_stage("train", config, version)
    live_runs = []

    def wait_for_live_run(progress):
        while progress.record.step == 3 and not live_runs:
            time.sleep(0.2)
            live_runs.extend(runs(mlflow_server, "watched"))

    stage.report = wait_for_live_run
    stage.run("vecap-0")
    (live_run,) = live_runs
    assert (live_run.info.run_name, live_run.info.status) == ("2026-01-01 vecap-0 training", "RUNNING")
    assert live_run.data.tags["airflow.dag_id"] == "vecap_clip"
    (finished,) = runs(mlflow_server, "watched")
    assert finished.info.status == "FINISHED"
    assert finished.data.params["train.batch_size"] == "8"
    assert sorted(losses(mlflow_server, finished.info.run_id)) == [1, 2, 3, 4]
    assert {"samples_per_second", "seconds_left", "system/process_memory_usage_megabytes"} <= set(finished.data.metrics)
    run("train", config, version)
    run("evaluate", config, version)
    lineage.record_clip(config, version)
    names = sorted(item.info.run_name for item in runs(mlflow_server, "watched"))
    assert names == ["2026-01-01 arms", "2026-01-01 vecap-0"]


def test_a_retry_resumes_the_same_live_run(home, mlflow_server):
    config = with_live_logging(home, mlflow_server, "retried", epochs=200)
    stage = load_stage("train", config, publish_version(config, SAMPLES))
    assert "received SIGTERM" in stop_after(stage, "vecap-0", 200)
    (stopped,) = runs(mlflow_server, "retried")
    assert stopped.info.status == "KILLED"
    assert max(losses(mlflow_server, stopped.info.run_id)) >= 200
    stage.run("vecap-0")
    (finished,) = runs(mlflow_server, "retried")
    assert (finished.info.run_id, finished.info.status) == (stopped.info.run_id, "FINISHED")
    assert sorted(losses(mlflow_server, finished.info.run_id)) == list(range(1, 401))


@pytest.mark.exhaustive
def test_only_the_first_of_two_processes_logs(home, mlflow_server, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    config = with_live_logging(home, mlflow_server, "two", epochs=10, launch="{processes: 2}")
    load_stage("train", config, publish_version(config, SAMPLES)).run("vecap-0")
    (finished,) = runs(mlflow_server, "two")
    assert finished.info.status == "FINISHED"
    assert sorted(losses(mlflow_server, finished.info.run_id)) == list(range(1, 21))


def test_an_unreachable_server_is_one_warning(home, caplog):
    config = with_live_logging(home, "http://127.0.0.1:9", "alone")
    stage = load_stage("train", config, publish_version(config, SAMPLES))
    warning = "cannot log to MLflow"
    stage.report = lambda progress: wait_until(lambda: warning in caplog.text, 60, warning, 0.05)
    assert stage.run("vecap-0").counters["steps"] == 4
    (line,) = [record.message for record in caplog.records if warning in record.message]
    assert line.startswith("vecap-0: cannot log to MLflow, retrying: ")
    assert "http://127.0.0.1:9" in line


def test_a_short_training_has_no_live_run(home, mlflow_server):
    config = with_live_logging(home, mlflow_server, "short", epochs=1)
    mlflow = config.mlflow.model_copy(update={"live_interval": 300})
    config = config.model_copy(update={"mlflow": mlflow}).with_base(config.base)
    run("train", config, publish_version(config, SAMPLES))
    assert runs(mlflow_server, "short") == []


def test_a_registered_version_leads_to_its_sources(home, mlflow_server):
    config = with_live_logging(home, mlflow_server, "registered", epochs=1)
    write_evaluation_set(config)
    version = publish_version(config, SAMPLES)
    run("train", config, version)
    run("evaluate", config, version)
    lineage.record_clip(config, version)
    lineage.move_champion(config, version)
    for name in ("models:/registered-clip@champion", "models:/registered-clip/1", "models:/registered-clip"):
        tree = walk(config, name)
        assert tree.verified
        assert (tree.name, tree.note) == ("2026-01-01/vecap-0", "in MLflow: models:/registered-clip/1")
    client = MlflowClient(mlflow_server)
    champion = client.get_model_version_by_alias("registered-clip", "champion")
    model = client.get_logged_model(champion.tags["vecap.model"])
    assert champion.source == model.model_uri
    assert client.get_model_version_download_uri(champion.name, champion.version) == model.artifact_location
    client.delete_model_version_tag(champion.name, champion.version, "vecap.model")
    assert walk(config, "models:/registered-clip").verified, "the source contains the model id too"


def test_recording_waits_for_mlflow(home, mlflow_server, caplog, monkeypatch):
    """MLflow is away while a version and its models are recorded, and while the champion is chosen."""
    monkeypatch.setattr(outages, "_FIRST_PAUSE", 0.1)
    with faulty_proxy(mlflow_server) as proxy:
        config = with_live_logging(home, proxy.url, "waiting", epochs=1)
        write_evaluation_set(config)
        version = publish_version(config, SAMPLES)
        run("train", config, version)
        run("evaluate", config, version)
        for record, fault in ((lineage.record_clip, "503"), (lineage.move_champion, "reset")):
            caplog.clear()
            requests = iter(range(1000))  # the outage begins in the middle
            proxy.fault = fault
            proxy.chosen = lambda method, path, requests=requests: 5 <= next(requests) < 12
            record(config, version)
            lines = [record.message for record in caplog.records if record.name == "vecap_tasks.outages"]
            assert "MLflow" in lines[0]
            assert "; next attempt in " in lines[0]
            assert lines[-1].startswith("MLflow is available again after ")
        names = sorted(item.info.run_name for item in runs(mlflow_server, "waiting"))
        assert names == ["2026-01-01 arms", "2026-01-01 vecap-0"]
        assert "already the champion" in lineage.move_champion(config, version).reason
        outages.set_timeout(0)
        proxy.always("503", "GET", "POST")
        with pytest.raises(OutageError, match="no MLflow server answers at"):
            lineage.move_champion(config, version)
