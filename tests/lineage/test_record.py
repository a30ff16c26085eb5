"""What is written to MLflow: a real SQLite store, and a real server for the one question that needs it."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.train.factories import Texts, configure, give_evaluation, give_version, run
from vecap_tasks import lineage
from vecap_tasks.core.manifest import Input
from vecap_tasks.core.mlflow_tracking import open_tracking, tracking_uri
from vecap_tasks.core.stage import load_stage
from vecap_tasks.errors import VecapError
from vecap_tasks.lineage.mlflow_notes import Place, TrainedOn, gate_note, model_note

SAMPLES = [Texts() for _ in range(16)]


@pytest.fixture
def config(home):
    config = configure(home, arms="[alttext, vecap]", epochs=1)
    give_evaluation(config)
    return config


@pytest.fixture
def version(config):
    return give_version(config, SAMPLES)


def client(config):
    return MlflowClient(tracking_uri=tracking_uri(config))


def runs(config, name):
    one = client(config)
    return one.search_runs([one.get_experiment_by_name(f"vecap/demo/{name}").experiment_id])


def artifacts(config, run_id, path=None):
    found = client(config).list_artifacts(run_id, path)
    below = [name for one in found if one.is_dir for name in artifacts(config, run_id, one.path)]
    return [one.path for one in found if not one.is_dir] + below


def test_a_version_is_recorded_once_with_all_that_made_it(config, version, home, monkeypatch):
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
    (source,) = [one.dataset for one in recorded.inputs.dataset_inputs]
    sha256 = load_stage("crawl", config, version).manifest().inputs[0].digest
    assert json.loads(source.source)["sha256"] == sha256
    assert source.digest == sha256[:32]
    assert {"assemble/README.md", "assemble/manifest.json", "crawl/manifest.json", "quality/findings.json"} <= set(
        artifacts(config, run_id)
    )
    assert not any(name.endswith((".tar", ".parquet")) for name in artifacts(config, run_id))
    assert recorded.info.artifact_uri.startswith(f"{home.as_uri()}/mlflow-artifacts/vecap/demo/versions/")


def test_models_are_recorded_once_with_curve_figures_and_files(config, version):
    run("train", config, version)
    manifest = run("evaluate", config, version)
    arms = lineage.record_clip(config, version, {"airflow.run_id": "r"})
    assert lineage.record_clip(config, version) == arms
    by_name = {one.info.run_name: one for one in runs(config, "clip")}
    assert set(by_name) == {"2026-01-01 arms", "2026-01-01 alttext-0", "2026-01-01 vecap-0"}
    one = by_name["2026-01-01 vecap-0"]
    assert one.data.tags["mlflow.parentRunId"] == arms
    assert one.data.params["run.arm"] == "vecap"
    mlflow = client(config)
    stage = load_stage("train", config, version)
    log = [json.loads(line) for line in stage.store.read(f"{stage.folder}/vecap-0/log.jsonl").splitlines()]
    curve = mlflow.get_metric_history(one.info.run_id, "loss")
    assert [(point.step, point.value) for point in curve] == [(line["step"], line["loss"]) for line in log]
    results = json.loads(load_stage("evaluate", config, version).store.read(manifest.file("results.json")))
    figures = next(found["figures"] for found in results["runs"] if found["arm"] == "vecap")
    assert {name: one.data.metrics[name] for name in figures} == figures
    datasets = {found.dataset.name: found.dataset for found in one.inputs.dataset_inputs}
    assembled = load_stage("assemble", config, version).manifest().digest
    assert datasets["demo/2026-01-01"].digest == assembled[:32]
    sets = {"demo/evaluation/retrieval", "demo/evaluation/zero_shot"}
    assert set(datasets) == {"demo/2026-01-01", *sets}
    (output,) = one.outputs.model_outputs
    model = mlflow.get_logged_model(output.model_id)
    assert str(model.status) == "READY"
    assert model.source_run_id == one.info.run_id
    linked = {(m.key, m.dataset_name) for m in model.metrics}
    assert {name for _, name in linked} == {"demo/2026-01-01", *sets}
    assert {("text_to_image_1", "demo/evaluation/retrieval"), ("text_to_image_1.low", "demo/evaluation/retrieval"),
            ("zero_shot_top5", "demo/evaluation/zero_shot")} <= linked  # fmt: skip
    assert {"evaluation/answers.parquet", "evaluation/retrieved.png"} <= set(artifacts(config, one.info.run_id))
    place = Path(model.artifact_location.removeprefix("file://"))
    saved = place / "model.safetensors"
    assert saved.read_bytes() == stage.store.read(f"{stage.folder}/vecap-0/model.safetensors")
    summary = by_name["2026-01-01 arms"]
    assert summary.data.metrics["vecap.image_to_text_5"] == results["arms"][1]["mean"]["image_to_text_5"]
    assert {"arms.png", "results.md", "train/manifest.json"} <= set(artifacts(config, arms))
    named = mlflow.search_runs([one.info.experiment_id], "dataset.name = 'demo/2026-01-01'")
    assert len(named) == 3, "MLflow itself finds what was trained on a version"


def test_what_a_killed_process_left_is_made_anew(config, version):
    run_id = lineage.record_version(config, version)
    client(config).update_run(run_id, status="RUNNING")
    again = lineage.record_version(config, version)
    assert again != run_id
    assert [one.info.run_id for one in runs(config, "versions")] == [again]


def test_recording_models_that_are_not_evaluated_is_one_clear_line(config, version):
    with pytest.raises(VecapError, match="stage evaluate of version 2026-01-01 is not finished"):
        lineage.record_clip(config, version)


@pytest.mark.timeout(100)  # MLflow alone would try for minutes
def test_a_server_that_does_not_answer_is_told_soon(config, version, monkeypatch):
    monkeypatch.setenv("VECAP_MLFLOW_URI", "http://127.0.0.1:9")
    with pytest.raises(VecapError, match=r"no MLflow server answers at http://127\.0\.0\.1:9 .*start it"):
        lineage.record_version(config, version)


def test_a_deleted_experiment_is_one_clear_line(config, version):
    lineage.record_version(config, version)
    mlflow = client(config)
    mlflow.delete_experiment(mlflow.get_experiment_by_name("vecap/demo/versions").experiment_id)
    with pytest.raises(VecapError, match="vecap/demo/versions is deleted in MLflow"):
        lineage.record_version(config, version)


def test_a_relative_sqlite_file_lies_beside_the_configuration(config, tmp_path, monkeypatch):
    monkeypatch.setenv("VECAP_MLFLOW_URI", "sqlite:///deep/in/there.db")
    moved = config.with_base(tmp_path)
    with open_tracking(moved) as tracking:
        tracking.experiment("x", "versions")
    assert (tmp_path / "deep/in/there.db").is_file()


def test_a_description_fits_into_mlflow_whatever_it_names():
    sources = [TrainedOn(f"demo/{'long' * 200}-{n}", "0" * 64, Place("1", "2" * 32)) for n in range(1000)]
    sets = [Input("dataset", "far/" * 500, "1" * 64)]
    for note in (
        model_note("vecap-0", "#/x", sources, sets, Place("1", "3" * 32), {}),
        gate_note("x", sources[0].place, "bad " * 9000, {}),
    ):
        assert len(note) < 8000
    assert "and 995 more" in model_note("vecap-0", "#/x", sources, sets, Place("1", "3" * 32), {})
