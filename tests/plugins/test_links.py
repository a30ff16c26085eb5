"""Links of tasks. One test runs a DAG in Airflow with its own database, with a crawl that fails the quality gate."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from vecap_airflow import links, tasks
from vecap_airflow.job import Job

from tests.conftest import REPOSITORY
from tests.quality.factories import Row, configure, give_crawl, run, use_given
from vecap_tasks.core import open_version
from vecap_tasks.core import stage as core_stage
from vecap_tasks.core.mlflow_tracking import open_tracking
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import Version
from vecap_tasks.errors import ConfigError

_DAG = """
import json, os
from airflow.sdk import DAG
from tests.quality.factories import GivenCrawl, GivenRewrite
from vecap_airflow.tasks import run_quality_gate
from vecap_tasks.core.stage import STAGES

for kind in (GivenCrawl, GivenRewrite):
    STAGES[kind.name] = f"{kind.__module__}:{kind.__name__}"
with DAG("links", schedule=None) as dag:
    run_quality_gate.override(task_id="commit")("quality", json.loads(os.environ["LINKS_JOB"]))
"""

_RUN = """
import json, sys
from airflow.utils.db import initdb
initdb()
from airflow.dag_processing.dagbag import DagBag
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
bag = DagBag(sys.argv[1])
assert not bag.import_errors, bag.import_errors
run = bag.dags["links"].test()
(task,) = run.get_task_instances()
with create_session() as session:
    xcoms = {x.key: XComModel.deserialize_value(x) for x in session.query(XComModel).filter_by(run_id=run.run_id)}
result = {"state": str(task.state), "attempts": task.try_number, "run": run.run_id, "xcoms": xcoms}
print("RESULT " + json.dumps(result))
"""


class Task:
    """A fake task instance with a log URL and pushed XComs."""

    log_url = "https://airflow.example/prefix/dags/vecap_dataset/runs/1/tasks/quality.commit?try_number=1"

    def __init__(self):
        self.pushed = {}

    def xcom_push(self, key, value):
        self.pushed[key] = value


@pytest.mark.parametrize("recorded", [None, "#/experiments/1/runs/2/artifacts/report/index.html"])
def test_without_an_mlflow_ui_the_report_link_opens_vecap_s_page(tmp_path, monkeypatch, recorded):
    monkeypatch.delenv("VECAP_MLFLOW_UI_URL", raising=False)
    task = Task()
    monkeypatch.setattr(links, "get_current_context", lambda: {"ti": task})
    mlflow = {"tracking_uri": f"sqlite:///{tmp_path}/mlflow.db", "ui_url": "${VECAP_MLFLOW_UI_URL:-}"}
    config = configure(tmp_path, mlflow=mlflow)
    stage = core_stage.load_stage("quality", config, Version("given", "2026-01-01", 2, ""))
    links.store_report_link(stage, recorded)
    links.store_version_link(["2026-01-01-r2"])
    url = "https://airflow.example/prefix/plugin/vecap/prefix/vecap/versions/2026-01-01-r2"
    assert task.pushed == {links._REPORT_KEY: f"{url}/report/index.html", links._VERSION_KEY: url}
    links.store_version_link(["2026-01-01", "2026-01-02"])
    assert task.pushed[links._VERSION_KEY] == "https://airflow.example/prefix/plugin/vecap/prefix/vecap/versions"


def test_an_empty_dask_address_variable_is_an_error(tmp_path, monkeypatch):
    monkeypatch.delenv("VECAP_DASK_ADDRESS", raising=False)
    config = configure(tmp_path, dask={"address": "${VECAP_DASK_ADDRESS:-}"})
    version = Version("given", "2026-01-01", 1, "")
    monkeypatch.setattr(tasks, "versions_of", lambda job, config: [version])
    job = Job("given.yaml", [], config.model_dump(mode="json"), [version.name])
    with pytest.raises(ConfigError, match=r"set dask\.address"):
        tasks._stages("crawl", job)


@pytest.mark.exhaustive
def test_a_task_that_fails_the_gate_links_to_its_report(tmp_path, monkeypatch):
    use_given(monkeypatch)
    mlflow = {"tracking_uri": f"sqlite:///{tmp_path}/mlflow.db", "ui_url": "https://mlflow.example/"}
    dask = {"address": "tcp://127.0.0.1:9"}  # the commit does not connect
    config = configure(tmp_path, mlflow=mlflow, quality={"gate": {"min_accepted_rows": 100}}, dask=dask)
    give_crawl(tmp_path, [Row(image=n) for n in range(3)])
    version = open_version.open_version(config, Store(config.resolve(config.root)), "2026-01-01")
    run("crawl", config)
    quality = core_stage.load_stage("quality", config, version)
    for shard in quality.plan():
        quality.run(shard)

    result = run_dag(tmp_path, config.model_dump(mode="json"), version.name)
    assert result["state"] == "failed"
    assert result["attempts"] == 1, "gate failures are not retried"
    url = result["xcoms"]["_link_ReportLink"]
    with open_tracking(config) as tracking:
        experiment = tracking.client.get_experiment_by_name("vecap/given/gate")
        (recorded,) = tracking.client.search_runs([experiment.experiment_id])
    run_url = f"https://mlflow.example/#/experiments/{experiment.experiment_id}/runs/{recorded.info.run_id}"
    assert url == f"{run_url}/artifacts/report/index.html?workflowType=machine_learning"
    tags = recorded.data.tags
    assert (tags["vecap.version"], tags["vecap.passed"]) == ("2026-01-01", "false")
    assert (tags["airflow.dag_id"], tags["airflow.task_id"], tags["airflow.try_number"]) == ("links", "commit", "1")
    assert tags["airflow.run_id"] == result["run"]
    assert "/dags/links/runs/" in tags["airflow.url"]
    assert tags["airflow.url"].endswith("/tasks/commit?try_number=1")
    note = tags["mlflow.note.content"]
    assert "accepted" in note
    assert f"]({tags['airflow.url']})" in note


def run_dag(folder, settings, version):
    """Run the DAG in a subprocess; return the state, attempts and XComs of its task."""
    home = folder / "airflow"
    (home / "dags").mkdir(parents=True)
    (home / "dags" / "links.py").write_text(_DAG)
    job = {"config": str(folder / "given.yaml"), "overrides": [], "settings": settings, "versions": [version]}
    process = subprocess.run(
        [sys.executable, "-c", _RUN, str(home / "dags")],
        cwd=home,
        env=os.environ
        | {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "plugins")]),
            "LINKS_JOB": json.dumps(job),
        },
        capture_output=True,
        text=True,
        timeout=540,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    line = next(line for line in process.stdout.splitlines() if line.startswith("RESULT "))
    return json.loads(line.removeprefix("RESULT "))
