"""`make demo` with a real Airflow, killed together with all services (`installation`), and a recaption.

`make test-all` also clears every task, kills the services during training, and runs backfills.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.end_to_end.conftest import Place
from tests.installation import INTERVAL, Installation, get_with_retries, services, wait_until
from vecap_tasks.local import airflow
from vecap_tasks.local.airflow import Api

pytestmark = [pytest.mark.slow, pytest.mark.services, pytest.mark.timeout(3000)]

GOOD, BAD = "2026-01-02", "2026-01-03"
FINAL_STATES = ("success", "failed")


def runs(api: Api, dag: str, key: str | None = None) -> list[dict[str, Any]]:
    """Return the runs of *dag*, only those of the partition *key* if given, oldest first."""
    dag_runs = get_with_retries(api, f"/api/v2/dags/{dag}/dagRuns?limit=100&order_by=run_after")["dag_runs"]
    return [run for run in dag_runs if key is None or run["partition_key"] == key]


def await_runs(api: Api, dag: str, count: int, *keys: str) -> dict[str, str]:
    """Wait until *dag* has *count* finished runs for each key; return the final states of the latest ones."""
    latest: dict[str, str] = {}

    def finished() -> bool:
        for key in keys:
            states = [run["state"] for run in runs(api, dag, key)]
            if len(states) < count or any(state not in FINAL_STATES for state in states):
                return False
            latest[key] = states[-1]
        return True

    wait_until(finished, 1200, f"{dag} of {keys}", 1)
    return latest


def backfill(place: Installation, first: str, last: str, *options: str, **conf: Any) -> None:
    result = place.airflow(
        *("backfill", "create", "--dag-id", "vecap_dataset", "--from-date", first, "--to-date", last),
        *("--max-active-runs", "2", "--dag-run-conf", json.dumps({"groups": 1, **conf}), *options),
    )
    assert result.returncode == 0, result.stderr


def published(place: Installation) -> list[str]:
    return [row["version"] for row in json.loads(place.configured("versions", "--json").stdout) if row["digest"]]


def test_a_killed_demo_ends_with_the_bytes_of_an_undisturbed_run(
    installation: tuple[Installation, str], undisturbed: Place
) -> None:
    place, _ = installation
    expected = Installation(undisturbed.home, place.env)
    assert place.digests(INTERVAL) == expected.digests(INTERVAL)
    assert len(place.digests(INTERVAL)) == 6


def test_the_demo_prints_rows_samples_arms_digests_and_urls(installation: tuple[Installation, str]) -> None:
    place, output = installation
    for part in ("rows at each stage", "Three samples", "I2T R@1", "zero-shot", "Manifest digests", "Airflow  http"):
        assert part in output
    for digest in place.digests(INTERVAL).values():
        assert digest in output
    assert airflow.password(place.settings) in output


def test_a_recaption_publishes_a_revision_and_downloads_nothing(installation: tuple[Installation, str]) -> None:
    place, _ = installation
    api = airflow.api(place.settings)
    await_runs(api, "vecap_clip", 1, INTERVAL)
    api.patch("/api/v2/dags/vecap_clip", {"is_paused": True})  # already tested with the demo's run
    conf = {"overrides": ["rewrite.llm.max_new_tokens=48"], "groups": 1}
    started = api.post("/api/v2/dags/vecap_recaption/dagRuns", {"logical_date": None, "conf": conf})["dag_run_id"]
    wait_until(lambda: runs(api, "vecap_recaption")[-1]["state"] in FINAL_STATES, 1200, f"the end of {started}", 1)
    states = {task["task_id"]: task["state"] for task in _tasks(api, "vecap_recaption", started)}
    assert set(states.values()) == {"success"}
    assert published(place) == [INTERVAL, f"{INTERVAL}-r2"]
    assert not (place.store / f"{INTERVAL}-r2" / "crawl" / "00000.tar").exists(), "the crawl is inherited, not copied"
    assert place.configured("verify", "--all").returncode == 0


@pytest.mark.exhaustive
def test_rerunning_every_task_keeps_the_bytes(installation: tuple[Installation, str]) -> None:
    place, _ = installation
    api = airflow.api(place.settings)
    before = place.digests(INTERVAL)
    files = {path: path.stat().st_mtime_ns for path in place.store.rglob("*.*") if path.is_file()}
    todo: dict[str, set[str]] = {}
    run_ids: dict[str, str] = {}
    for dag in ("vecap_dataset", "vecap_clip"):
        await_runs(api, dag, 1, INTERVAL)
        run_ids[dag] = runs(api, dag, INTERVAL)[-1]["dag_run_id"]
        todo[dag] = {task["task_id"] for task in _tasks(api, dag, run_ids[dag])}
    # One kind at a time: the others stay finished, and their results are reused.
    last = ("commit", "publish", "record", "compare_champion", "promote", "approve")
    for kinds in (("run",), last, ("plan", "open_version", "find_version")):
        for dag, run in run_ids.items():
            selected = sorted(name for name in todo[dag] if name.rpartition(".")[2] in kinds)
            todo[dag] -= set(selected)
            api.post(
                f"/api/v2/dags/{dag}/clearTaskInstances",
                {"dry_run": False, "dag_run_id": run, "task_ids": selected, "only_failed": False},
            )
        for dag in run_ids:
            assert await_runs(api, dag, 1, INTERVAL)[INTERVAL] == "success"
    assert todo == {"vecap_dataset": set(), "vecap_clip": set()}
    for dag, run in run_ids.items():
        states = {task["task_id"]: task["state"] for task in _tasks(api, dag, run)}
        assert set(states.values()) <= {"success", "skipped"}
    assert place.digests(INTERVAL) == before
    assert place.configured("verify", "--all").returncode == 0
    data = [path for path in files if "_shards" not in path.parts and "services" not in path.parts]
    assert {path: path.stat().st_mtime_ns for path in data} == {path: files[path] for path in data}


def _tasks(api: Api, dag: str, run: str) -> list[dict[str, Any]]:
    instances: list[dict[str, Any]] = get_with_retries(
        api, f"/api/v2/dags/{dag}/dagRuns/{quote(run, safe='')}/taskInstances?limit=200"
    )["task_instances"]
    return instances


@pytest.mark.exhaustive
def test_a_bad_day_does_not_block_a_backfill_newest_first(installation: tuple[Installation, str]) -> None:
    place, _ = installation
    api = airflow.api(place.settings)
    api.patch("/api/v2/dags/vecap_clip", {"is_paused": True})
    result = place.vecap(
        *("demo", "web", "--out", str(place.home / "web"), "--day", GOOD, "--days", "2", "--images", "24"),
        *("--bad-day", BAD),
    )
    assert result.returncode == 0, result.stderr
    backfill(place, GOOD, BAD, "--run-backwards")
    assert await_runs(api, "vecap_dataset", 1, GOOD, BAD) == {GOOD: "success", BAD: "failed"}
    (good,), (bad,) = (runs(api, "vecap_dataset", day) for day in (GOOD, BAD))
    assert bad["queued_at"] <= good["queued_at"]
    assert bad["start_date"] <= good["start_date"]
    states = {task["task_id"]: task["state"] for task in _tasks(api, "vecap_dataset", bad["dag_run_id"])}
    assert states["quality.commit"] == "failed"
    assert states["assemble.commit"] == "upstream_failed"
    assert GOOD in published(place)
    assert BAD not in published(place)
    assert place.configured("verify", "--version", GOOD).returncode == 0
    events = get_with_retries(api, "/api/v2/assets/events?limit=100")["asset_events"]
    assert {event["partition_key"] for event in events} >= {INTERVAL, GOOD}, "the asset's page lists the versions"


@pytest.mark.exhaustive
def test_services_killed_during_training_end_with_the_same_bytes(
    installation: tuple[Installation, str], tmp_path: Path
) -> None:
    """Only the supervisor is killed: its services die with it."""
    place, _ = installation
    expected = Installation(tmp_path, place.env | {"VECAP_HOME": str(tmp_path)})
    shutil.copytree(place.store / GOOD, expected.store / GOOD)
    (tmp_path / "web").symlink_to(place.home / "web")
    override = "train.epochs=40"
    api = airflow.api(place.settings)
    api.patch("/api/v2/dags/vecap_clip", {"is_paused": False})
    conf = {"version": GOOD, "overrides": [override], "groups": 1}
    api.post("/api/v2/dags/vecap_clip/dagRuns", {"logical_date": None, "partition_key": GOOD, "conf": conf})
    checkpoints = place.store / GOOD / "train"
    wait_until(lambda: any(checkpoints.glob("*/_checkpoints/*/*")), 600, "a checkpoint", 0.02)
    os.kill(place.state().supervisor.pid, signal.SIGKILL)
    assert services("up", place.env).returncode == 0
    assert await_runs(airflow.api(place.settings), "vecap_clip", 1, GOOD)[GOOD] == "success"
    for stage in ("train", "evaluate"):
        result = expected.configured(stage, "--version", GOOD, "--set", override)
        assert result.returncode == 0, result.stderr
    assert expected.digests(GOOD).items() <= place.digests(GOOD).items()
    assert len(expected.digests(GOOD)) == 6


@pytest.mark.exhaustive
def test_reprocessing_creates_a_revision_only_if_the_configuration_changed(
    installation: tuple[Installation, str],
) -> None:
    place, _ = installation
    api = airflow.api(place.settings)
    conf = {"groups": 1, "overrides": ["assemble.license=CC-BY-4.0"]}
    api.patch("/api/v2/dags/vecap_clip", {"is_paused": True})
    wait_until(lambda: _backfills_completed(api), 400, "the end of the backfill")
    backfill(place, GOOD, GOOD, "--reprocess-behavior", "completed", overrides=conf["overrides"])
    assert await_runs(api, "vecap_dataset", 2, GOOD) == {GOOD: "success"}
    assert [name for name in published(place) if name.startswith(GOOD)] == [GOOD, f"{GOOD}-r2"]
    log = _log(place, runs(api, "vecap_dataset", GOOD)[-1])
    assert f"revision of {GOOD}: assemble.license" in log
    compared = json.loads(place.configured("diff", GOOD, f"{GOOD}-r2", "--json").stdout)
    assert [setting["key"] for setting in compared["settings"]] == ["assemble.license"]
    assert not (place.store / f"{GOOD}-r2" / "crawl" / "00000.tar").exists(), "the crawl is inherited, not copied"
    api.post("/api/v2/dags/vecap_dataset/dagRuns", {"logical_date": None, "partition_key": GOOD, "conf": conf})
    assert await_runs(api, "vecap_dataset", 3, GOOD) == {GOOD: "success"}
    assert [name for name in published(place) if name.startswith(GOOD)] == [GOOD, f"{GOOD}-r2"]
    log = _log(place, runs(api, "vecap_dataset", GOOD)[-1])
    assert f"version {GOOD}-r2 (" in log
    assert "is already complete; nothing to do" in log


def _backfills_completed(api: Api) -> bool:
    """Return whether all backfills are marked as completed; Airflow checks this only periodically."""
    backfills = get_with_retries(api, "/api/v2/backfills?dag_id=vecap_dataset&limit=100")["backfills"]
    return all(backfill["completed_at"] is not None for backfill in backfills)


def _log(place: Installation, run: dict[str, Any]) -> str:
    """Return the log of the task `open_version` of *run*."""
    folder = place.settings.logs / "airflow" / f"dag_id={run['dag_id']}" / f"run_id={run['dag_run_id']}"
    return "".join(file.read_text(encoding="utf-8") for file in folder.glob("task_id=open_version/*.log"))
