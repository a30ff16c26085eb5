"""The DAGs as parsed by Airflow in a separate process, with the modules that parsing imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

_PARSE = """
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
                "operator": task.task_type,
                "mapped": task.is_mapped,
            }
            for task in dag.tasks
        },
    }
    for name, dag in bag.dags.items()
}
result = {"errors": bag.import_errors, "dags": dags, "modules": sorted(sys.modules)}
print("RESULT " + json.dumps(result, default=str))
"""


@dataclass(frozen=True)
class ParsedDags:
    """The result of parsing the DAGs folder."""

    errors: dict
    dags: dict
    modules: list


@pytest.fixture(scope="session")
def parsed(tmp_path_factory) -> ParsedDags:
    home = tmp_path_factory.mktemp("airflow")
    environment = os.environ | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PYTHONPATH": str(REPOSITORY),
    }
    process = subprocess.run(
        [sys.executable, "-c", _PARSE, str(REPOSITORY / "dags")],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert process.returncode == 0, process.stderr
    line = next(line for line in process.stdout.splitlines() if line.startswith("RESULT "))
    return ParsedDags(**json.loads(line.removeprefix("RESULT ")))
