"""`make demo` for real: Airflow, Dask, MLflow and PostgreSQL, all of them killed on the way; then a backfill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import DEMO, REPOSITORY
from tests.end_to_end.conftest import IMAGES, INTERVAL, SMALL
from tests.services.test_services import environment, services
from vecap_tasks.config import load_config
from vecap_tasks.errors import VecapError
from vecap_tasks.services import airflow
from vecap_tasks.services.http import Api
from vecap_tasks.services.orphans import end_sessions
from vecap_tasks.services.settings import Settings
from vecap_tasks.services.state import read_state

pytestmark = [pytest.mark.slow, pytest.mark.services, pytest.mark.timeout(1500)]

DAYS = ("2026-01-02", "2026-01-03")


@dataclass(frozen=True, slots=True)
class Installation:
    """A home, the configuration in it, and the environment that names both and ports of its own."""

    home: Path
    env: dict[str, str]

    @property
    def settings(self) -> Settings:
        return Settings.from_environment(self.env)

    @property
    def store(self) -> Path:
        return self.home / "store" / "demo"

    def vecap(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "vecap_tasks.cli", *words]
        return subprocess.run(command, env=self.env, cwd=REPOSITORY, capture_output=True, text=True, timeout=600)

    def demo(self) -> subprocess.Popen[str]:
        """Start what `make demo` starts."""
        return subprocess.Popen(
            [sys.executable, "-m", "vecap_tasks.demo.run"],
            env=self.env,
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def demo_killed_at(self, folder: Path, pattern: str) -> None:
        """Run the demo until *pattern* is in *folder*, then kill it with every service, as when the power goes."""
        process = self.demo()
        deadline = time.monotonic() + 600
        while not any(folder.glob(pattern)):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, f"{folder}/{pattern} did not come"
            time.sleep(0.02)
        process.kill()
        state = read_state(self.settings)
        assert state is not None
        os.kill(state.supervisor.pid, signal.SIGKILL)
        end_sessions(state.leaders, signal.SIGKILL, 0)
        process.communicate()

    def digests(self, version: str) -> dict[str, str]:
        folder = self.store / version
        found = sorted([*folder.glob("*/manifest.json"), *folder.glob("*/*/manifest.json")])
        return {str(path.parent.relative_to(folder)): json.loads(path.read_bytes())["digest"] for path in found}


def installation(home: Path) -> Installation:
    """Make an installation whose configuration is the demo's with little to train."""
    values = yaml.safe_load(DEMO.read_text(encoding="utf-8"))
    values["rewrite"]["vlm"]["model"] = str(REPOSITORY / "vecap_tasks/demo/models/vlm")
    values["rewrite"]["llm"]["model"] = values["train"]["model"]["tokenizer"] = str(
        REPOSITORY / "vecap_tasks/demo/models/llm"
    )
    home.mkdir()
    config = home / "small.yaml"
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    config.write_text(load_config(config, list(SMALL)).model_dump_json(), encoding="utf-8")  # JSON is YAML
    given = {"VECAP_CONFIG": str(config), "VECAP_DEMO_IMAGES": str(IMAGES), "OMP_NUM_THREADS": "1"}
    return Installation(home, environment(home) | given)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Installation, str]]:
    """An installation in which the demo was killed twice and then went to its end, with what it printed."""
    place = installation(tmp_path_factory.mktemp("airflow") / "home")
    try:
        place.demo_killed_at(place.store / INTERVAL / "rewrite", "_shards/*")
        place.demo_killed_at(place.store / INTERVAL / "train", "*/_checkpoints/*/*")
        process = place.demo()
        said, _ = process.communicate(timeout=900)
        assert process.returncode == 0, said
        yield place, said
    finally:
        ended = services("down", place.env)
    assert ended.returncode == 0, ended.stderr


def test_killed_with_all_services_it_ends_with_the_bytes_of_an_undisturbed_run(done, tmp_path):
    place, _ = done
    (tmp_path / "web").symlink_to(place.home / "web")
    alone = Installation(tmp_path, place.env | {"VECAP_HOME": str(tmp_path)})
    ran = alone.vecap("run", "--config", place.env["VECAP_CONFIG"], "--version", INTERVAL)
    assert ran.returncode == 0, ran.stderr
    assert place.digests(INTERVAL) == alone.digests(INTERVAL)
    assert len(place.digests(INTERVAL)) == 6


def test_the_demo_ends_with_rows_samples_arms_digests_and_addresses(done):
    place, said = done
    for part in ("rows at each stage", "Three samples", "I2T R@1", "zero-shot", "Manifest digests", "Airflow  http"):
        assert part in said
    for digest in place.digests(INTERVAL).values():
        assert digest in said
    assert airflow.password(place.settings) in said


def test_a_second_demo_finds_everything_done(done):
    place, _ = done
    before = place.digests(INTERVAL)
    process = place.demo()
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert place.digests(INTERVAL) == before


def test_a_backfill_makes_a_version_a_day_and_each_is_trained_on(done):
    place, _ = done
    made = place.vecap(
        *("demo", "web", "--out", str(place.home / "web"), "--day", DAYS[0], "--days", str(len(DAYS))),
        *("--images", str(IMAGES)),
    )
    assert made.returncode == 0, made.stderr
    asked = subprocess.run(
        [
            *(sys.executable, "-m", "airflow", "backfill", "create", "--dag-id", "vecap_dataset"),
            *("--from-date", DAYS[0], "--to-date", DAYS[-1], "--max-active-runs", "2"),
        ],
        env=place.env | {"AIRFLOW_HOME": str(place.settings.airflow_home)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert asked.returncode == 0, asked.stderr
    api = airflow.api(place.settings)
    deadline = time.monotonic() + 900
    wanted = {("vecap_dataset", day) for day in DAYS} | {("vecap_clip", day) for day in (INTERVAL, *DAYS)}
    while True:
        runs = [run for dag in ("vecap_dataset", "vecap_clip") for run in _runs(api, dag)]
        failed = [run for run in runs if run["state"] == "failed" and run["partition_key"] in DAYS]
        assert not failed
        if wanted <= {(run["dag_id"], run["partition_key"]) for run in runs if run["state"] == "success"}:
            break
        assert time.monotonic() < deadline, runs
        time.sleep(1)
    listed = json.loads(place.vecap("versions", "--config", place.env["VECAP_CONFIG"], "--json").stdout)
    assert [row["version"] for row in listed if row["digest"]] == [INTERVAL, *DAYS]
    for day in DAYS:
        assert len(place.digests(day)) == 6
        assert place.vecap("verify", "--config", place.env["VECAP_CONFIG"], "--version", day).returncode == 0


def _runs(api: Api, dag: str) -> list[dict[str, Any]]:
    """Return the DAG's runs; a busy server that fails to answer is asked again, as the demo does."""
    for wait in (1, 2, 4):
        try:
            found: list[dict[str, Any]] = api.get(f"/api/v2/dags/{dag}/dagRuns?limit=100")["dag_runs"]
            return found
        except VecapError:
            time.sleep(wait)
    raise AssertionError("Airflow stopped answering")
