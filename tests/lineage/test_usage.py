"""Versions that MLflow needs, which `vecap gc` does not delete, with a real SQLite store."""

import time
from functools import partial

import pytest

from tests.train.factories import Texts, configure, publish_version, run, write_evaluation_set
from vecap_tasks import lineage
from vecap_tasks.config import RetentionConfig
from vecap_tasks.core.mlflow_tracking import open_tracking
from vecap_tasks.core.retention import plan_removals, remove
from vecap_tasks.core.stage import load_stage
from vecap_tasks.core.verify import verify_version
from vecap_tasks.core.version import list_versions, published
from vecap_tasks.errors import VecapError
from vecap_tasks.lineage.mlflow_lookup import needed_by_mlflow

SAMPLES = [Texts() for _ in range(16)]


@pytest.fixture
def config(home):
    config = configure(home, arms="[vecap]", epochs=1)
    write_evaluation_set(config)
    return config


def digests(config, *versions):
    store = load_stage("assemble", config, versions[0]).store
    return {version.name: published(store, version).digest for version in versions}


def test_a_version_with_a_trained_model_is_needed_even_if_its_runs_are_deleted(config):
    trained, idle = (publish_version(config, SAMPLES, day) for day in ("2026-01-01", "2026-01-02"))
    for version in (trained, idle):
        lineage.record_version(config, version)
    assert needed_by_mlflow(config, digests(config, trained, idle)) == {}, "the version's own run does not count"
    run("train", config, trained)
    run("evaluate", config, trained)
    arms = lineage.record_clip(config, trained)
    needed = needed_by_mlflow(config, digests(config, trained, idle))
    assert set(needed) == {"2026-01-01"}
    assert needed["2026-01-01"].startswith("used by MLflow run ")
    with open_tracking(config) as tracking:
        experiment = tracking.client.get_run(arms).info.experiment_id
        for item in tracking.client.search_runs([experiment]):
            tracking.client.delete_run(item.info.run_id)
        tracking.client.delete_experiment(experiment)
    assert set(needed_by_mlflow(config, digests(config, trained, idle))) == {"2026-01-01"}, "MLflow can restore them"


def test_gc_deletes_superseded_revisions_but_not_those_with_a_trained_model(home, config):
    other = configure(home, arms="[vecap]", epochs=1).model_copy(
        update={"assemble": config.assemble.model_copy(update={"license": "another"})}
    )
    store = load_stage("assemble", config, None).store
    policy, later = RetentionConfig(keep_last=1, keep_days=30), time.time() + 40 * 86_400
    trained, idle = (publish_version(config, SAMPLES, day) for day in ("2026-01-01", "2026-01-02"))
    run("train", config, trained)
    run("evaluate", config, trained)
    lineage.record_clip(config, trained)
    for version in (trained, idle):
        lineage.record_version(config, version)
        lineage.record_version(other, publish_version(other, SAMPLES, version.interval))
    is_needed = partial(needed_by_mlflow, config)
    removed = remove(store, "demo", plan_removals(store, "demo", policy, is_needed, later), is_needed, later)
    assert [removal.path for removal in removed.removals if removal.what == "revision"] == ["demo/2026-01-02"]
    assert [kept.version for kept in removed.kept] == ["2026-01-01"]
    assert [version.name for version in list_versions(store, "demo")] == [
        "2026-01-01",
        "2026-01-01-r2",
        "2026-01-02-r2",
    ]
    assert verify_version(store, trained).corruptions == ()


def test_a_version_that_is_not_recorded_in_this_mlflow_is_needed(config, monkeypatch, tmp_path):
    version = publish_version(config, SAMPLES)
    lineage.record_version(config, version)
    monkeypatch.setenv("VECAP_MLFLOW_URI", f"sqlite:///{tmp_path}/another.db")
    needed = needed_by_mlflow(config, digests(config, version))
    assert "not recorded in MLflow" in needed["2026-01-01"]


@pytest.mark.timeout(100)  # MLflow itself would retry for minutes
def test_an_unreachable_mlflow_is_an_error(config, monkeypatch):
    monkeypatch.setenv("VECAP_MLFLOW_URI", "http://127.0.0.1:9")
    with pytest.raises(VecapError, match="no MLflow server answers"):
        needed_by_mlflow(config, {"2026-01-01": "0" * 64})
    assert needed_by_mlflow(config, {}) == {}
