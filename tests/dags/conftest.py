"""The DAGs as Airflow reads them, in a process of its own: what is imported there is what parsing imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

_READ = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
before = set(sys.modules)
bag = DagBag(sys.argv[1])
dags = {
    name: {
        "doc": dag.doc_md or "",
        "catchup": dag.catchup,
        "timetable": type(dag.timetable).__name__,
        "params": {key: dag.params.get_param(key).serialize() for key in dag.params},
        "tasks": {
            task.task_id: {
                "upstream": sorted(task.upstream_task_ids),
                "pool": task.pool,
                "retries": task.retries,
                "backoff": task.retry_exponential_backoff,
                "rule": task.trigger_rule.value,
                "mapped": task.is_mapped,
            }
            for task in dag.tasks
        },
    }
    for name, dag in bag.dags.items()
}
said = {"errors": bag.import_errors, "dags": dags, "modules": sorted(sys.modules)}
print("READ " + json.dumps(said, default=str))
"""


@dataclass(frozen=True)
class Read:
    """What one reading of the DAGs folder gave."""

    errors: dict
    dags: dict
    modules: list


@pytest.fixture(scope="session")
def read(tmp_path_factory) -> Read:
    home = tmp_path_factory.mktemp("airflow")
    environment = os.environ | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PYTHONPATH": str(REPOSITORY),
    }
    done = subprocess.run(
        [sys.executable, "-c", _READ, str(REPOSITORY / "dags")],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("READ "))
    return Read(**json.loads(line.removeprefix("READ ")))
