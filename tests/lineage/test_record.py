"""Versions and models recorded in MLflow, with a real SQLite store."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from tests.train.factories import Texts, configure, publish_version, run, write_evaluation_set
from vecap_tasks import lineage, outages
from vecap_tasks.core.manifest import Input
from vecap_tasks.core.mlflow_tracking import Overtaken, Tracking, open_tracking, source_inputs, tracking_uri
from vecap_tasks.core.stage import load_stage
from vecap_tasks.errors import VecapError
from vecap_tasks.lineage import models
from vecap_tasks.lineage.mlflow_notes import RunLink, TrainingDataset, gate_note, model_note

SAMPLES = [Texts() for _ in range(16)]


@pytest.fixture
def config(home):
    config = configure(home, arms="[alttext, vecap]", epochs=1)
    write_evaluation_set(config)
    return config


@pytest.fixture
def version(config):
    return publish_version(config, SAMPLES)


def client(config):
    return MlflowClient(tracking_uri=tracking_uri(config))


def runs(config, name):
    mlflow = client(config)
    return mlflow.search_runs([mlflow.get_experiment_by_name(f"vecap/demo/{name}").experiment_id])


def artifacts(config, run_id, path=None):
    items = client(config).list_artifacts(run_id, path)
    nested = [name for item in items if item.is_dir for name in artifacts(config, run_id, item.path)]
    return [item.path for item in items if not item.is_dir] + nested


def test_a_version_is_recorded_once_with_its_provenance(config, version, home, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CTX_TRY_NUMBER", "2")
    run_id = lineage.record_version(config, version, {"airflow.dag_id": "vecap_dataset"})
    assert lineage.record_version(config, version) == run_id
    (recorded,) = runs(config, "versions")
    manifest = load_stage("assemble", config, version).manifest()
    tags = recorded.data.tags
    assert recorded.info.run_name == "2026-01-01"
    assert tags["vecap.digest"] == manifest.digest
    assert (tags["vecap.version"], tags["vecap.code"]) == ("2026-01-01", "abc")
    assert (tags["airflow.dag_id"], tags["airflow.try_number"]) == ("vecap_dataset", "2")
    params = recorded.data.params
    assert params["crawl.shard_size"] == str(config.crawl.shard_size)
    assert params["rewrite.vlm.digest"] == load_stage("rewrite", config, version).identity()["vlm"]["digest"]
    assert recorded.data.metrics["crawl.candidates"] == len(SAMPLES)
    (source,) = [item.dataset for item in recorded.inputs.dataset_inputs]
    sha256 = load_stage("crawl", config, version).manifest().inputs[0].digest
    assert json.loads(source.source)["sha256"] == sha256
    assert source.digest == sha256[:32]
    assert {"assemble/README.md", "assemble/manifest.json", "crawl/manifest.json", "quality/findings.json"} <= set(
        artifacts(config, run_id)
    )
    assert not any(name.endswith((".tar", ".parquet")) for name in artifacts(config, run_id))
    assert recorded.info.artifact_uri.startswith(f"{home.as_uri()}/mlflow-artifacts/vecap/demo/versions/")


def test_of_two_concurrent_recordings_the_first_to_finish_counts(config, version, monkeypatch):
    run("train", config, version)
    run("evaluate", config, version)
    write_page, first = models.arms_note, []

    def be_overtaken(*arguments):
        monkeypatch.setattr(models, "arms_note", write_page)
        first.append(lineage.record_clip(config, version))
        return write_page(*arguments)

    monkeypatch.setattr(models, "arms_note", be_overtaken)
    assert lineage.record_clip(config, version) == first[0]
    assert {item.info.run_name for item in runs(config, "clip")} == {
        "2026-01-01 arms",
        "2026-01-01 alttext-0",
        "2026-01-01 vecap-0",
    }
    assert len(runs(config, "clip")) == 3
    decision = lineage.decide_champion(config, version)
    model = client(config).get_model_version(decision.name, decision.version)
    assert client(config).get_run(model.run_id).info.lifecycle_stage == "active"


def test_a_recorder_whose_child_runs_another_one_deletes_is_overtaken(config, monkeypatch):
    tags = {"vecap.digest": "d", "vecap.version": "2026-01-01"}
    with open_tracking(config) as tracking:
        experiment, client = tracking.experiment("demo", "clip"), tracking.client

        def delete_only_children(self, run):  # the other recorder has just begun
            for child in client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"):
                client.delete_run(child.info.run_id)

        def record_slowly():
            with tracking.new_run(experiment, tags, "slow") as slow:
                child = client.create_run(experiment, tags={"mlflow.parentRunId": slow}).info.run_id
                with tracking.new_run(experiment, tags, "fast") as fast, monkeypatch.context() as patch:
                    patch.setattr(Tracking, "delete", delete_only_children)
                    tracking.finish(fast)
                client.log_metric(child, "loss", 1.0)

        with pytest.raises(Overtaken):
            record_slowly()
        [left] = client.search_runs([experiment])
        assert left.info.run_name == "fast"
        deleted = client.search_runs([experiment], run_view_type=ViewType.DELETED_ONLY)
        for run in deleted:
            tracking.delete(run)  # the other recorder goes on


def test_concurrent_recorders_name_the_same_datasets(config):
    """MLflow looks for a dataset and then inserts it, so that of two recorders one may fail."""
    inputs = [Input("source", f"file-{number}", f"{number:064x}", 1) for number in range(60)]
    start = threading.Barrier(4)

    def record(name):
        with open_tracking(config) as tracking:
            run = tracking.client.create_run(tracking.experiment("demo", "versions"), run_name=name)
            start.wait()
            for item in inputs:
                tracking.inputs(run.info.run_id, source_inputs([item], ""))
            return len(tracking.client.get_run(run.info.run_id).inputs.dataset_inputs)

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(record, "abcd")) == [len(inputs)] * 4


def test_models_are_recorded_once_with_losses_metrics_and_files(config, version):
    run("train", config, version)
    manifest = run("evaluate", config, version)
    arms = lineage.record_clip(config, version, {"airflow.run_id": "r"})
    assert lineage.record_clip(config, version) == arms
    by_name = {item.info.run_name: item for item in runs(config, "clip")}
    assert set(by_name) == {"2026-01-01 arms", "2026-01-01 alttext-0", "2026-01-01 vecap-0"}
    model_run = by_name["2026-01-01 vecap-0"]
    assert model_run.data.tags["mlflow.parentRunId"] == arms
    assert model_run.data.params["run.arm"] == "vecap"
    mlflow = client(config)
    stage = load_stage("train", config, version)
    log = [json.loads(line) for line in stage.store.read(f"{stage.folder}/vecap-0/log.jsonl").splitlines()]
    losses = mlflow.get_metric_history(model_run.info.run_id, "loss")
    assert [(point.step, point.value) for point in losses] == [(line["step"], line["loss"]) for line in log]
    results = json.loads(load_stage("evaluate", config, version).store.read(manifest.file("results.json")))
    figures = next(item["figures"] for item in results["runs"] if item["arm"] == "vecap")
    assert {name: model_run.data.metrics[name] for name in figures} == figures
    datasets = {item.dataset.name: item.dataset for item in model_run.inputs.dataset_inputs}
    assembled = load_stage("assemble", config, version).manifest().digest
    assert datasets["demo/2026-01-01"].digest == assembled[:32]
    sets = {"demo/evaluation/retrieval", "demo/evaluation/zero_shot"}
    assert set(datasets) == {"demo/2026-01-01", *sets}
    (output,) = model_run.outputs.model_outputs
    model = mlflow.get_logged_model(output.model_id)
    assert str(model.status) == "READY"
    assert model.source_run_id == model_run.info.run_id
    linked = {(m.key, m.dataset_name) for m in model.metrics}
    assert {name for _, name in linked} == {"demo/2026-01-01", *sets}
    assert {("text_to_image_1", "demo/evaluation/retrieval"), ("text_to_image_1.low", "demo/evaluation/retrieval"),
            ("zero_shot_top5", "demo/evaluation/zero_shot")} <= linked  # fmt: skip
    assert {"evaluation/answers.parquet", "evaluation/retrieved.png"} <= set(artifacts(config, model_run.info.run_id))
    weights = Path(model.artifact_location.removeprefix("file://")) / "model.safetensors"
    assert weights.read_bytes() == stage.store.read(f"{stage.folder}/vecap-0/model.safetensors")
    summary = by_name["2026-01-01 arms"]
    assert summary.data.metrics["vecap.image_to_text_5"] == results["arms"][1]["mean"]["image_to_text_5"]
    assert {"arms.png", "results.md", "train/manifest.json"} <= set(artifacts(config, arms))
    matches = mlflow.search_runs([model_run.info.experiment_id], "dataset.name = 'demo/2026-01-01'")
    assert len(matches) == 3, "MLflow finds the runs that used a version"


def test_runs_have_the_times_of_the_work_and_not_of_the_recording(config, version):
    before = time.time()
    run("train", config, version)
    trained = time.time()
    run("evaluate", config, version)
    evaluated = time.time()
    time.sleep(1)
    lineage.record_clip(config, version)
    stage = load_stage("train", config, version)
    models = {item.info.run_name.split()[1]: item for item in runs(config, "clip")}
    for name in ("alttext-0", "vecap-0"):
        first, *_, last = map(json.loads, stage.store.read(f"{stage.folder}/{name}/throughput.jsonl").splitlines())
        info = models[name].info
        assert info.end_time == int(1000 * last["time"])
        assert info.start_time == int(1000 * (first["time"] - config.train.batch_size / first["samples_per_second"]))
        assert 1000 * before < info.start_time < info.end_time < 1000 * trained
        losses = client(config).get_metric_history(info.run_id, "loss")
        times = [point.timestamp for point in losses]
        assert times == sorted(times)
        assert info.start_time < times[0] < times[-1] == info.end_time
    arms = models["arms"].info
    assert arms.start_time == min(models[name].info.start_time for name in ("alttext-0", "vecap-0"))
    assert 1000 * trained - 2000 < arms.end_time <= 1000 * evaluated, "the evaluation's time has seconds"
    (recorded,) = runs(config, "versions")
    created = int(1000 * datetime.fromisoformat("2026-01-01T00:00:00+00:00").timestamp())
    assert (recorded.info.start_time, recorded.info.end_time) == (created, created)


def test_a_version_run_starts_with_the_first_stage(config, version):
    folder = Path(config.resolve(config.root)) / "demo" / "2026-01-01" / "crawl"
    manifest = load_stage("crawl", config, version).manifest()
    begun = replace(manifest, provenance=manifest.provenance | {"started": "2025-12-31T23:00:00+00:00"})
    (folder / "manifest.json").write_bytes(begun.to_json())
    lineage.record_version(config, version)
    (recorded,) = runs(config, "versions")
    assert recorded.info.end_time - recorded.info.start_time == 3_600_000


def test_the_gate_of_a_revision_that_reuses_quality_is_recorded_with_its_report(config, version):
    quality = load_stage("quality", config, version)
    quality.store.put(f"{quality.folder}/report/index.html", b"the report")
    revision = replace(version, revision=2)
    reused = load_stage("quality", config, revision).reuse_revision()
    assert reused.location == quality.folder
    assert lineage.record_gate(config, revision)
    (gate,) = runs(config, "gate")
    assert gate.data.tags["vecap.version"] == f"{version.name}-r2"
    path = client(config).download_artifacts(gate.info.run_id, "report/index.html")
    assert Path(path).read_bytes() == b"the report"


def test_descriptions_and_tags_link_to_the_pages_of_the_airflow_that_recorded_them(config, version):
    run("train", config, version)
    run("evaluate", config, version)
    pages = "https://airflow.example/plugin/vecap/vecap"
    lineage.record_clip(config, version, {"vecap.pages": pages})
    quality = load_stage("quality", config, version)
    quality.store.put(f"{quality.folder}/report/index.html", b"x")
    lineage.record_gate(config, version, None, {"vecap.pages": pages})
    decision = lineage.move_champion(config, version)
    mlflow = client(config)
    (versions,), (gate,) = runs(config, "versions"), runs(config, "gate")
    models = {item.info.run_name.split()[1]: item for item in runs(config, "clip")}
    page = f"{pages}/versions/2026-01-01"
    for recorded in (versions, gate, models["arms"]):
        assert recorded.data.tags["vecap.page"] == page
        assert f"VeCap: [version]({page})" in recorded.data.tags["mlflow.note.content"]
    assert f"[source files]({page}/sources)" in versions.data.tags["mlflow.note.content"]
    registered = mlflow.get_model_version(decision.name, decision.version)
    best = models[registered.tags["vecap.run"]]
    model = mlflow.get_logged_model(best.outputs.model_outputs[0].model_id)
    page = f"{pages}/lineage?name={model.model_id}"
    assert model.tags["vecap.page"] == best.data.tags["vecap.page"] == registered.tags["vecap.page"] == page
    for note in (model.tags["mlflow.note.content"], best.data.tags["mlflow.note.content"]):
        assert f"VeCap: [lineage]({page})" in note
    assert f"[Lineage in VeCap]({page})" in registered.description


def test_without_airflow_descriptions_have_no_links_to_pages(config, version):
    lineage.record_version(config, version)
    (recorded,) = runs(config, "versions")
    assert "vecap.page" not in recorded.data.tags
    assert "VeCap:" not in recorded.data.tags["mlflow.note.content"]


def test_the_run_of_a_killed_process_is_replaced(config, version):
    run_id = lineage.record_version(config, version)
    client(config).update_run(run_id, status="RUNNING")
    new_run_id = lineage.record_version(config, version)
    assert new_run_id != run_id
    assert [item.info.run_id for item in runs(config, "versions")] == [new_run_id]


def test_recording_models_before_evaluation_is_one_clear_line(config, version):
    with pytest.raises(VecapError, match="2026-01-01 has not been evaluated"):
        lineage.record_clip(config, version)


@pytest.mark.timeout(100)  # MLflow itself would retry for minutes
def test_an_unreachable_server_is_reported_quickly(config, version, monkeypatch):
    monkeypatch.setenv("VECAP_MLFLOW_URI", "http://127.0.0.1:9")
    outages.set_timeout(0)
    with pytest.raises(VecapError, match=r"no MLflow server answers at http://127\.0\.0\.1:9 .*start it"):
        lineage.record_version(config, version)


def test_a_deleted_experiment_is_one_clear_line(config, version):
    lineage.record_version(config, version)
    mlflow = client(config)
    mlflow.delete_experiment(mlflow.get_experiment_by_name("vecap/demo/versions").experiment_id)
    with pytest.raises(VecapError, match="vecap/demo/versions is deleted in MLflow"):
        lineage.record_version(config, version)


def test_a_relative_sqlite_path_starts_at_the_configuration(config, tmp_path, monkeypatch):
    monkeypatch.setenv("VECAP_MLFLOW_URI", "sqlite:///deep/in/there.db")
    moved = config.with_base(tmp_path)
    with open_tracking(moved) as tracking:
        tracking.experiment("x", "versions")
    assert (tmp_path / "deep/in/there.db").is_file()


def test_descriptions_stay_within_the_limit_of_mlflow():
    sources = [TrainingDataset(f"demo/{'long' * 200}-{n}", "0" * 64, RunLink("1", "2" * 32)) for n in range(1000)]
    sets = [Input("dataset", "far/" * 500, "1" * 64)]
    for note in (
        model_note("vecap-0", "#/x", sources, sets, RunLink("1", "3" * 32), {}),
        gate_note("x", sources[0].run, "bad " * 9000, {}),
    ):
        assert len(note) < 8000
    assert "and 995 more" in model_note("vecap-0", "#/x", sources, sets, RunLink("1", "3" * 32), {})
