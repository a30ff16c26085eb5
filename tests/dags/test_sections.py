"""The DAGs register and train nothing if the configuration lacks a section."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import yaml

from tests.core.factories import create_version
from tests.dags.conftest import REPOSITORY
from vecap_tasks.core.store import Store

# Calls the function of a task outside of a run, with the context that Airflow would give it.
_CALL = """
import importlib, json, logging, sys
from types import SimpleNamespace
logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
dag, name, context = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
events = [[SimpleNamespace(extra=extra) for extra in context.pop("events")]]
module = importlib.import_module(dag)
context |= {"triggering_asset_events": dict(enumerate(events)), "dag_run": SimpleNamespace(partition_key=None)}
module.get_current_context = lambda: context
try:
    print("RESULT", getattr(module, name).function())
except Exception as error:
    print("ERROR", type(error).__name__, error)
"""


@pytest.fixture
def call(home):
    """Return a function that calls a task of a DAG with a configuration that has only a source."""
    source = {"kind": "urls", "paths": ["list.csv"]}
    (home / "demo.yaml").write_text(yaml.safe_dump({"dataset": "demo", "root": "store", "crawl": {"source": source}}))
    (home / "list.csv").write_text("url\nhttp://a.example/1.jpg\n")

    def call(dag, name, events=(), **params):
        path = os.pathsep.join(str(REPOSITORY / folder) for folder in (".", "dags", "plugins"))
        environment = os.environ | {"AIRFLOW_HOME": str(home), "PYTHONPATH": path}
        context = {"events": list(events), "params": {"config": str(home / "demo.yaml"), "overrides": [], **params}}
        command = [sys.executable, "-c", _CALL, dag, name, json.dumps(context)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=100).stdout

    return call


def test_no_version_is_recaptioned_without_models(call, home):
    store = Store(str(home / "store"))
    create_version(store, "2026-01-01", "a")
    empty = dict.fromkeys(("from", "to", "vlm_model", "vlm_prompt", "llm_model", "llm_prompt"))
    shown = call("vecap_recaption", "open_revisions", **empty)
    assert "needs the section `rewrite`" in shown
    assert store.folders("demo") == ["2026-01-01"], "no revision is registered"


def test_a_published_version_without_training_is_skipped(call, home):
    event = {"config": str(home / "demo.yaml"), "overrides": [], "version": "2026-01-01"}
    shown = call("vecap_clip", "find_version", events=[event], version=None)
    assert "has no section `train`; skipping" in shown
    assert "RESULT None" in shown
    shown = call("vecap_clip", "find_version", version="2026-01-01")
    assert "needs the section `train`" in shown, "who asks for a training gets an error"


def test_the_skipped_run_ends_without_a_task(parsed):
    assert parsed.dags["vecap_clip"]["tasks"]["find_version"]["operator"] == "_ShortCircuitDecoratedOperator"
