"""The demo: one day of the miniature web through both DAGs in Airflow, and a summary of the results."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import shutil
import sys
import textwrap
import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

import pyarrow.parquet as pq

from vecap_tasks import __version__
from vecap_tasks.config import Config, load_config
from vecap_tasks.core.diff import summarize
from vecap_tasks.core.manifest import Manifest
from vecap_tasks.core.stage import load_stage
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import DATASET_STAGES, Version, read_version
from vecap_tasks.errors import ConfigError, VecapError, format_error
from vecap_tasks.local import airflow, control
from vecap_tasks.local.airflow import Api
from vecap_tasks.local.dag_progress import DagRun, follow
from vecap_tasks.local.settings import Settings
from vecap_tasks.progress import meter

SAMPLES = 3
_COLUMNS = ["uid", "alttext", "vec", "vecap", "vecap_from"]
_DAG_TIMEOUT = 120  # seconds for Airflow to parse the DAGs
_EVENT_TIMEOUT = 120  # seconds for a published version to trigger vecap_clip
_ACTIVE_STATES = ("queued", "running")


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of the assembled version."""

    uid: str
    alttext: str
    vec: str
    vecap: str
    vecap_from: str

    @property
    def overlap(self) -> int:
        """Words of the VeCap found only in the AltText, or only in the VeC, whichever are fewer."""
        alttext, vec, vecap = (set(re.findall(r"\w+", text.lower())) for text in (self.alttext, self.vec, self.vecap))
        return min(len(vecap & alttext - vec), len(vecap & vec - alttext))


def print_result(config: Config, store: Store, version: Version) -> None:
    """Print the report of a published and evaluated *version*. Raises VecapError if a stage is missing."""
    manifests = {name: _manifest(config, version, name) for name in (*DATASET_STAGES, "train", "evaluate")}
    _print_funnel(store, version)
    _print_samples(read_samples(store, manifests["assemble"]))
    _print_arms(store, manifests["evaluate"])
    print("\nManifest digests")
    for name, manifest in manifests.items():
        print(f"  {name:<9} {manifest.digest}")


def read_samples(store: Store, assembled: Manifest) -> list[Sample]:
    """Return the rows, ordered by caption source (LLM first) and by how much the VeCap takes from both inputs."""
    samples: list[Sample] = []
    for name in assembled.files_ending(".parquet"):
        with store.open(name) as stream:
            table = pq.read_table(stream, columns=_COLUMNS)
        samples += [Sample(**row) for row in table.to_pylist()]
    return sorted(samples, key=lambda sample: (sample.vecap_from != "llm", -min(sample.overlap, 3), sample.uid))


def _manifest(config: Config, version: Version, name: str) -> Manifest:
    manifest = load_stage(name, config, version).manifest()
    if manifest is None:
        raise VecapError(f"Version {version.name} has no {name}; run the demo again to complete it")
    return manifest


def _print_funnel(store: Store, version: Version) -> None:
    rows = summarize(store, version)
    print(f"\nVersion {version.dataset}/{version.name}: rows at each stage")
    for name in ("crawled", "downloaded", "accepted", "captioned", "assembled"):
        count = getattr(rows, name)
        print(f"  {name:<11}{count:>7,}" + (f"{count / rows.crawled:>8.1%}" if rows.crawled else ""))


def _print_samples(samples: list[Sample]) -> None:
    print("\nThree samples")
    width = max(20, (min(shutil.get_terminal_size((120, 24)).columns, 150) - 8) // 3)
    titles = ("AltText", "VeC", "VeCap")
    print("  " + "  ".join(name.ljust(width) for name in titles).rstrip())
    for sample in samples[:SAMPLES]:
        cells = [textwrap.wrap(text, width) or ["-"] for text in (sample.alttext, sample.vec, sample.vecap)]
        print("  " + "  ".join(["─" * width] * 3))
        for line in range(max(len(cell) for cell in cells)):
            words = [cell[line] if line < len(cell) else "" for cell in cells]
            print("  " + "  ".join(word.ljust(width) for word in words).rstrip())


def _print_arms(store: Store, evaluated: Manifest) -> None:
    from vecap_tasks.evaluate.report import format_main, read_results

    print()
    print(format_main(read_results(store, evaluated)))


@dataclass(frozen=True, slots=True)
class Web:
    """Parameters of the generated miniature web. The same values generate the same files."""

    images: int
    release: str = __version__
    day: str = "2026-01-01"
    seed: int = 0
    evaluation_images: int = 600


def main() -> int:
    """Run the demo. Returns 0 if all of it succeeded."""
    try:
        settings = Settings.from_environment()
        settings.home.mkdir(parents=True, exist_ok=True)
        _demo(settings, Web(images=images()))
    except KeyboardInterrupt:
        print("\nvecap: Interrupted; run the same command again to resume, or `make down` to stop", file=sys.stderr)
        return 130
    except (VecapError, OSError) as error:
        print(f"vecap: {format_error(error)}", file=sys.stderr)
        return 1
    return 0


def _demo(settings: Settings, web: Web) -> None:
    begin = time.monotonic()
    config = load_config(settings.config)
    make_web(settings, web)
    control.up(settings, lambda line: print(line, flush=True))
    running = control.with_running_ports(settings)
    # The configuration's ${…} expand here as they do in the tasks.
    os.environ.update({name: v for name, v in running.environment().items() if name.startswith("VECAP_")})
    api = airflow.api(running)
    version = _run_dags(api, settings, config, web.day)
    store = Store(config.resolve(config.root))
    print_result(config, store, read_version(store, config.dataset, version))
    print("\nServices are still running; stop them with `make down`")
    for line in control.endpoints(settings).lines():
        print(f"  {line}")
    print(f"\nTotal time: {time.monotonic() - begin:.0f} s")


def images() -> int:
    """Return the number of images in the crawl: `VECAP_DEMO_IMAGES`, default 2,400. Raises ConfigError."""
    text = os.environ.get("VECAP_DEMO_IMAGES") or "2400"
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"VECAP_DEMO_IMAGES must be a positive number of images, not {text!r}")
    return int(text)


def make_web(settings: Settings, web: Web) -> None:
    """Generate the miniature web's day and the evaluation set, unless they exist with the same parameters."""
    from vecap_tasks.demo.evalset import write_evalset
    from vecap_tasks.demo.web import generate_day

    folder = settings.home / "web"
    stamp = folder / "demo.json"
    parameters = json.dumps(asdict(web), sort_keys=True)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == parameters:
        print(f"Miniature web {web.day}: already generated", flush=True)
        return
    begin = time.monotonic()
    print(f"Miniature web {web.day}: generating {web.images:,} images", flush=True)
    with meter("web") as shown:
        report = partial(shown.update, unit="images")
        generate_day(folder, dt.date.fromisoformat(web.day), web.seed, web.images, report=report)
    with meter("evaluation") as shown:
        report = partial(shown.update, unit="images")
        write_evalset(folder / "evaluation", web.seed, web.evaluation_images, report)
    temporary = stamp.with_suffix(".new")
    temporary.write_text(parameters, encoding="utf-8")
    temporary.replace(stamp)
    print(f"Miniature web {web.day}: generated in {time.monotonic() - begin:.0f} s", flush=True)


def _run_dags(api: Api, settings: Settings, config: Config, day: str) -> str:
    """Run both DAGs for *day* and return the published version."""
    logs = settings.logs / "airflow"
    _await_dags(api)
    clip = _active_run(api, "vecap_clip", day)
    dataset = _active_run(api, "vecap_dataset", day)
    if clip is None or dataset is not None:
        if dataset is None:
            body: dict[str, Any] = {"logical_date": None, "conf": {}, "partition_key": day}
            dataset = DagRun("vecap_dataset", api.post("/api/v2/dags/vecap_dataset/dagRuns", body)["dag_run_id"])
            print(f"vecap_dataset: triggered for {day}", flush=True)
        else:
            print(f"vecap_dataset: following the active run for {day}", flush=True)
        follow(api, dataset, DATASET_STAGES, config, logs)
        clip = _triggered_by(api, dataset)
    print(f"vecap_clip: following {clip.run}", flush=True)
    follow(api, clip, ("train", "evaluate"), config, logs)
    return _version_of(api, clip)


def _await_dags(api: Api) -> None:
    deadline = time.monotonic() + _DAG_TIMEOUT
    expected = {"vecap_dataset", "vecap_clip"}
    while True:
        known = {dag["dag_id"] for dag in api.get("/api/v2/dags?limit=100")["dags"]}
        if expected <= known:
            return
        errors = api.get("/api/v2/importErrors?limit=1")["import_errors"]
        if errors:
            last = errors[0]["stack_trace"].strip().splitlines()[-1]
            raise VecapError(f"Airflow cannot import {errors[0]['filename']}: {last}")
        if time.monotonic() > deadline:
            raise VecapError(f"Airflow did not parse {', '.join(sorted(expected - known))} within {_DAG_TIMEOUT} s")
        time.sleep(1)


def _active_run(api: Api, dag: str, key: str) -> DagRun | None:
    states = "&".join(f"state={state}" for state in _ACTIVE_STATES)
    runs = api.get(f"/api/v2/dags/{dag}/dagRuns?{states}&order_by=-run_after&limit=100")["dag_runs"]
    return next((DagRun(dag, run["dag_run_id"]) for run in runs if run["partition_key"] == key), None)


def _triggered_by(api: Api, run: DagRun) -> DagRun:
    """Return the vecap_clip run triggered by the version that *run* published."""
    deadline = time.monotonic() + _EVENT_TIMEOUT
    path = f"/api/v2/assets/events?source_dag_id={run.dag}&source_run_id={quote(run.run, safe='')}&limit=100"
    while time.monotonic() < deadline:
        for event in api.get(path)["asset_events"]:
            for created in event["created_dagruns"]:
                if created["dag_id"] == "vecap_clip":
                    return DagRun("vecap_clip", created["run_id"])
        time.sleep(1)
    raise VecapError(f"vecap_clip did not start within {_EVENT_TIMEOUT} s of the version; check that it is not paused")


def _version_of(api: Api, clip: DagRun) -> str:
    entry = api.get(f"{clip.path}/taskInstances/find_version/xcomEntries/return_value")
    body = entry["value"] if isinstance(entry["value"], dict) else json.loads(entry["value"])
    return str(body["versions"][0])


if __name__ == "__main__":
    sys.exit(main())
