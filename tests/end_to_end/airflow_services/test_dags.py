"""`make demo` by a real Airflow, killed with all services on the way (`installation`), and a recaption.

`make test-all` then clears every task, kills the services while a model is trained, and runs backfills.
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
ENDED = ("success", "failed")


def runs(api: Api, dag: str, key: str | None = None) -> list[dict[str, Any]]:
    """Return the runs of *dag*, of the partition *key* where one is given, oldest first."""
    found = get_with_retries(api, f"/api/v2/dags/{dag}/dagRuns?limit=100&order_by=run_after")["dag_runs"]
    return [run for run in found if key is None or run["partition_key"] == key]


def await_runs(api: Api, dag: str, count: int, *keys: str) -> dict[str, str]:
    """Wait until *dag* has *count* runs of each partition and all have ended; return the states of the last ones."""
    latest: dict[str, str] = {}

    def ended() -> bool:
        for key in keys:
            states = [run["state"] for run in runs(api, dag, key)]
            if len(states) < count or any(state not in ENDED for state in states):
                return False
            latest[key] = states[-1]
        return True

    wait_until(ended, 1200, f"{dag} of {keys}", 1)
    return latest


def backfill(place: Installation, first: str, last: str, *more: str, **conf: Any) -> None:
    asked_for = place.airflow(
        *("backfill", "create", "--dag-id", "vecap_dataset", "--from-date", first, "--to-date", last),
        *("--max-active-runs", "2", "--dag-run-conf", json.dumps({"groups": 1, **conf}), *more),
    )
    assert asked_for.returncode == 0, asked_for.stderr


def listed(place: Installation) -> list[str]:
    return [row["version"] for row in json.loads(place.configured("versions", "--json").stdout) if row["digest"]]


def test_killed_on_the_way_it_ends_with_the_bytes_of_an_undisturbed_run(
    installation: tuple[Installation, str], undisturbed: Place
) -> None:
    place, _ = installation
    alone = Installation(undisturbed.home, place.env)
    assert place.digests(INTERVAL) == alone.digests(INTERVAL)
    assert len(place.digests(INTERVAL)) == 6


def test_the_demo_ends_with_rows_samples_arms_digests_and_addresses(installation: tuple[Installation, str]) -> None:
    place, said = installation
    for part in ("rows at each stage", "Three samples", "I2T R@1", "zero-shot", "Manifest digests", "Airflow  http"):
        assert part in said
    for digest in place.digests(INTERVAL).values():
        assert digest in said
    assert airflow.password(place.settings) in said


def test_a_recaption_publishes_a_revision_and_downloads_nothing(installation: tuple[Installation, str]) -> None:
    place, _ = installation
    api = airflow.api(place.settings)
    await_runs(api, "vecap_clip", 1, INTERVAL)
    api.patch("/api/v2/dags/vecap_clip", {"is_paused": True})  # the demo's run showed that it follows
    conf = {"overrides": ["rewrite.llm.max_new_tokens=48"], "groups": 1}
    started = api.post("/api/v2/dags/vecap_recaption/dagRuns", {"logical_date": None, "conf": conf})["dag_run_id"]
    wait_until(lambda: runs(api, "vecap_recaption")[-1]["state"] in ENDED, 1200, f"the end of {started}", 1)
    states = {task["task_id"]: task["state"] for task in _tasks(api, "vecap_recaption", started)}
    assert set(states.values()) == {"success"}
    assert listed(place) == [INTERVAL, f"{INTERVAL}-r2"]
    assert not (place.store / f"{INTERVAL}-r2" / "crawl" / "00000.tar").exists(), "the crawl is taken over as it is"
    assert place.configured("verify", "--all").returncode == 0


@pytest.mark.exhaustive
def test_every_task_can_be_cleared_and_run_again_and_the_bytes_stay(installation: tuple[Installation, str]) -> None:
    place, _ = installation
    api = airflow.api(place.settings)
    before = place.digests(INTERVAL)
    files = {path: path.stat().st_mtime_ns for path in place.store.rglob("*.*") if path.is_file()}
    todo: dict[str, set[str]] = {}
    found: dict[str, str] = {}
    for dag in ("vecap_dataset", "vecap_clip"):
        await_runs(api, dag, 1, INTERVAL)
        found[dag] = runs(api, dag, INTERVAL)[-1]["dag_run_id"]
        todo[dag] = {task["task_id"] for task in _tasks(api, dag, found[dag])}
    # Each while those before and after it stay finished: what a stage's tasks hand over is taken as it was.
    last = ("commit", "publish", "record", "compare_champion", "promote", "approve")
    for kinds in (("run",), last, ("plan", "open_version", "find_version")):
        for dag, run in found.items():
            chosen = sorted(name for name in todo[dag] if name.rpartition(".")[2] in kinds)
            todo[dag] -= set(chosen)
            api.post(
                f"/api/v2/dags/{dag}/clearTaskInstances",
                {"dry_run": False, "dag_run_id": run, "task_ids": chosen, "only_failed": False},
            )
        for dag in found:
            assert await_runs(api, dag, 1, INTERVAL)[INTERVAL] == "success"
    assert todo == {"vecap_dataset": set(), "vecap_clip": set()}
    for dag, run in found.items():
        states = {task["task_id"]: task["state"] for task in _tasks(api, dag, run)}
        assert set(states.values()) <= {"success", "skipped"}
    assert place.digests(INTERVAL) == before
    assert place.configured("verify", "--all").returncode == 0
    data = [path for path in files if "_shards" not in path.parts and "services" not in path.parts]
    assert {path: path.stat().st_mtime_ns for path in data} == {path: files[path] for path in data}


def _tasks(api: Api, dag: str, run: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = get_with_retries(
        api, f"/api/v2/dags/{dag}/dagRuns/{quote(run, safe='')}/taskInstances?limit=200"
    )["task_instances"]
    return found


@pytest.mark.exhaustive
def test_a_backfill_newest_first_is_not_held_up_by_a_bad_day(installation: tuple[Installation, str]) -> None:
    place, _ = installation
    api = airflow.api(place.settings)
    api.patch("/api/v2/dags/vecap_clip", {"is_paused": True})
    made = place.vecap(
        *("demo", "web", "--out", str(place.home / "web"), "--day", GOOD, "--days", "2", "--images", "24"),
        *("--bad-day", BAD),
    )
    assert made.returncode == 0, made.stderr
    backfill(place, GOOD, BAD, "--run-backwards")
    assert await_runs(api, "vecap_dataset", 1, GOOD, BAD) == {GOOD: "success", BAD: "failed"}
    (good,), (bad,) = (runs(api, "vecap_dataset", day) for day in (GOOD, BAD))
    assert bad["queued_at"] <= good["queued_at"]
    assert bad["start_date"] <= good["start_date"]
    states = {task["task_id"]: task["state"] for task in _tasks(api, "vecap_dataset", bad["dag_run_id"])}
    assert states["quality.commit"] == "failed"
    assert states["assemble.commit"] == "upstream_failed"
    assert GOOD in listed(place)
    assert BAD not in listed(place)
    assert place.configured("verify", "--version", GOOD).returncode == 0
    events = get_with_retries(api, "/api/v2/assets/events?limit=100")["asset_events"]
    assert {event["partition_key"] for event in events} >= {INTERVAL, GOOD}, "the asset's page shows the versions"


@pytest.mark.exhaustive
def test_services_killed_while_a_model_is_trained_end_with_the_same_bytes(
    installation: tuple[Installation, str], tmp_path: Path
) -> None:
    """The supervisor alone is killed: its services die with it."""
    place, _ = installation
    alone = Installation(tmp_path, place.env | {"VECAP_HOME": str(tmp_path)})
    shutil.copytree(place.store / GOOD, alone.store / GOOD)
    (tmp_path / "web").symlink_to(place.home / "web")
    longer = "train.epochs=40"
    api = airflow.api(place.settings)
    api.patch("/api/v2/dags/vecap_clip", {"is_paused": False})
    conf = {"version": GOOD, "overrides": [longer], "groups": 1}
    api.post("/api/v2/dags/vecap_clip/dagRuns", {"logical_date": None, "partition_key": GOOD, "conf": conf})
    checkpoints = place.store / GOOD / "train"
    wait_until(lambda: any(checkpoints.glob("*/_checkpoints/*/*")), 600, "a checkpoint", 0.02)
    os.kill(place.state().supervisor.pid, signal.SIGKILL)
    assert services("up", place.env).returncode == 0
    assert await_runs(airflow.api(place.settings), "vecap_clip", 1, GOOD)[GOOD] == "success"
    for stage in ("train", "evaluate"):
        done = alone.configured(stage, "--version", GOOD, "--set", longer)
        assert done.returncode == 0, done.stderr
    assert alone.digests(GOOD).items() <= place.digests(GOOD).items()
    assert len(alone.digests(GOOD)) == 6


@pytest.mark.exhaustive
def test_reprocessing_makes_a_revision_only_where_the_configuration_changed(
    installation: tuple[Installation, str],
) -> None:
    place, _ = installation
    api = airflow.api(place.settings)
    changed = {"groups": 1, "overrides": ["assemble.license=CC-BY-4.0"]}
    api.patch("/api/v2/dags/vecap_clip", {"is_paused": True})
    wait_until(lambda: _backfills_are_over(api), 400, "the end of the backfill")
    backfill(place, GOOD, GOOD, "--reprocess-behavior", "completed", overrides=changed["overrides"])
    assert await_runs(api, "vecap_dataset", 2, GOOD) == {GOOD: "success"}
    assert [name for name in listed(place) if name.startswith(GOOD)] == [GOOD, f"{GOOD}-r2"]
    said = _log(place, runs(api, "vecap_dataset", GOOD)[-1])
    assert f"revision of {GOOD}: assemble.license" in said
    compared = json.loads(place.configured("diff", GOOD, f"{GOOD}-r2", "--json").stdout)
    assert [setting["key"] for setting in compared["settings"]] == ["assemble.license"]
    assert not (place.store / f"{GOOD}-r2" / "crawl" / "00000.tar").exists(), "the crawl is taken over as it is"
    api.post("/api/v2/dags/vecap_dataset/dagRuns", {"logical_date": None, "partition_key": GOOD, "conf": changed})
    assert await_runs(api, "vecap_dataset", 3, GOOD) == {GOOD: "success"}
    assert [name for name in listed(place) if name.startswith(GOOD)] == [GOOD, f"{GOOD}-r2"]
    said = _log(place, runs(api, "vecap_dataset", GOOD)[-1])
    assert f"version {GOOD}-r2 is published under this configuration" in said
    assert "is already complete; nothing to do" in said


def _backfills_are_over(api: Api) -> bool:
    """Say whether Airflow has noticed, which it does now and then, that no backfill has runs left."""
    found = get_with_retries(api, "/api/v2/backfills?dag_id=vecap_dataset&limit=100")["backfills"]
    return all(backfill["completed_at"] is not None for backfill in found)


def _log(place: Installation, run: dict[str, Any]) -> str:
    """Return what the task that opens the version wrote in *run*."""
    folder = place.settings.logs / "airflow" / f"dag_id={run['dag_id']}" / f"run_id={run['dag_run_id']}"
    return "".join(file.read_text(encoding="utf-8") for file in folder.glob("task_id=open_version/*.log"))
