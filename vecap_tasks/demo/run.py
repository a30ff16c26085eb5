"""The demo: one day of the miniature web through both DAGs by Airflow, and what came of it.

    make demo        or        vecap demo run

It may be killed at any point and started again: a run that still goes is followed, one that failed is made anew,
what was published is found. The services stay up for a look; `make down` ends them.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

from vecap_tasks import __version__
from vecap_tasks.config import Config, load_config
from vecap_tasks.dataset.store import Store
from vecap_tasks.dataset.version import DATASET_STAGES, read_version
from vecap_tasks.demo.follow import DagRun, follow
from vecap_tasks.demo.result import print_result
from vecap_tasks.errors import ConfigError, VecapError, one_line
from vecap_tasks.services import airflow, control
from vecap_tasks.services.http import Api
from vecap_tasks.services.settings import Settings

_DAG_SECONDS = 120  # until Airflow has read the DAGs
_EVENT_SECONDS = 120  # until a published version has started vecap_clip
_RUNNING = ("queued", "running")


@dataclass(frozen=True, slots=True)
class Web:
    """What of the miniature web is made; the same values give the same files."""

    images: int
    release: str = __version__
    day: str = "2026-01-01"
    seed: int = 0
    evaluation_images: int = 600


def main() -> int:
    """Run the demo; return 0 only if every part of it succeeded."""
    try:
        settings = Settings.from_environment()
        settings.home.mkdir(parents=True, exist_ok=True)
        _demo(settings, Web(images=images()))
    except KeyboardInterrupt:
        print("\nvecap: stopped; the same command goes on from here, `make down` ends the services", file=sys.stderr)
        return 130
    except (VecapError, OSError) as error:
        print(f"vecap: {one_line(error)}", file=sys.stderr)
        return 1
    return 0


def _demo(settings: Settings, web: Web) -> None:
    begin = time.monotonic()
    config = load_config(settings.config)
    make_web(settings, web)
    addresses = control.up(settings, lambda line: print(line, flush=True))
    there = control.as_running(settings)
    # The configuration's ${…} are expanded here as they are in the tasks.
    os.environ.update({name: v for name, v in there.environment().items() if name.startswith("VECAP_")})
    api = airflow.api(there)
    version = _through_airflow(api, settings, config, web.day)
    store = Store(config.resolve(config.root))
    print_result(config, store, read_version(store, config.dataset, version))
    print("\nThe services are left running; `make down` ends them")
    for line in addresses.lines():
        print(f"  {line}")
    print(f"\nAll of it took {time.monotonic() - begin:.0f} s")


def images() -> int:
    """Return how many images the crawl names: `VECAP_DEMO_IMAGES`, else 2,400. Raises ConfigError."""
    text = os.environ.get("VECAP_DEMO_IMAGES") or "2400"
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"VECAP_DEMO_IMAGES is the number of images of the demo's crawl, not {text!r}")
    return int(text)


def make_web(settings: Settings, web: Web) -> None:
    """Write the miniature web's day and the evaluation set, unless the very same lie there whole."""
    from vecap_tasks.demo.evalset import write_evalset
    from vecap_tasks.demo.web import generate_day

    folder = settings.home / "web"
    stamp = folder / "demo.json"
    wanted = json.dumps(asdict(web), sort_keys=True)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        print(f"the miniature web's {web.day} is there already", flush=True)
        return
    begin = time.monotonic()
    print(f"drawing the miniature web's {web.day}: {web.images:,} images", flush=True)
    generate_day(folder, dt.date.fromisoformat(web.day), web.seed, web.images)
    write_evalset(folder / "evaluation", web.seed, web.evaluation_images)
    aside = stamp.with_suffix(".new")
    aside.write_text(wanted, encoding="utf-8")
    aside.replace(stamp)
    print(f"drawn in {time.monotonic() - begin:.0f} s", flush=True)


def _through_airflow(api: Api, settings: Settings, config: Config, day: str) -> str:
    """Take the partition *day* through both DAGs; return the version that came of it."""
    logs = settings.logs / "airflow"
    _await_dags(api)
    clip = _active(api, "vecap_clip", day)
    dataset = _active(api, "vecap_dataset", day)
    if clip is None or dataset is not None:
        if dataset is None:
            body: dict[str, Any] = {"logical_date": None, "conf": {}, "partition_key": day}
            dataset = DagRun("vecap_dataset", api.post("/api/v2/dags/vecap_dataset/dagRuns", body)["dag_run_id"])
            print(f"vecap_dataset: triggered for {day}", flush=True)
        else:
            print(f"vecap_dataset: following the run for {day} that goes already", flush=True)
        follow(api, dataset, DATASET_STAGES, config, logs)
        clip = _started_by(api, dataset)
    print(f"vecap_clip: following {clip.run}", flush=True)
    follow(api, clip, ("train", "evaluate"), config, logs)
    return _version_of(api, clip)


def _await_dags(api: Api) -> None:
    deadline = time.monotonic() + _DAG_SECONDS
    wanted = {"vecap_dataset", "vecap_clip"}
    while True:
        known = {dag["dag_id"] for dag in api.get("/api/v2/dags?limit=100")["dags"]}
        if wanted <= known:
            return
        errors = api.get("/api/v2/importErrors?limit=1")["import_errors"]
        if errors:
            last = errors[0]["stack_trace"].strip().splitlines()[-1]
            raise VecapError(f"Airflow cannot read {errors[0]['filename']}: {last}")
        if time.monotonic() > deadline:
            raise VecapError(f"Airflow has not read {', '.join(sorted(wanted - known))} after {_DAG_SECONDS} s")
        time.sleep(1)


def _active(api: Api, dag: str, key: str) -> DagRun | None:
    states = "&".join(f"state={state}" for state in _RUNNING)
    runs = api.get(f"/api/v2/dags/{dag}/dagRuns?{states}&order_by=-run_after&limit=100")["dag_runs"]
    return next((DagRun(dag, run["dag_run_id"]) for run in runs if run["partition_key"] == key), None)


def _started_by(api: Api, run: DagRun) -> DagRun:
    """Return the run of vecap_clip that the version published by *run* started."""
    deadline = time.monotonic() + _EVENT_SECONDS
    place = f"/api/v2/assets/events?source_dag_id={run.dag}&source_run_id={quote(run.run, safe='')}&limit=100"
    while time.monotonic() < deadline:
        for event in api.get(place)["asset_events"]:
            for created in event["created_dagruns"]:
                if created["dag_id"] == "vecap_clip":
                    return DagRun("vecap_clip", created["run_id"])
        time.sleep(1)
    raise VecapError(f"vecap_clip was not started within {_EVENT_SECONDS} s of the version; is it paused?")


def _version_of(api: Api, clip: DagRun) -> str:
    entry = api.get(f"{clip.path}/taskInstances/find_version/xcomEntries/return_value")
    body = entry["value"] if isinstance(entry["value"], dict) else json.loads(entry["value"])
    return str(body["versions"][0])


if __name__ == "__main__":
    sys.exit(main())
