"""Thirty days of the miniature web through Airflow with failures, then all of them with another prompt.

    python -m benchmarks.thirty_days [--days 30] [--images 200] [--home DIR] [--json FILE]

Uses a new installation with its services. The quality gate must reject one bad day. The days are backfilled three at a
time while the scheduler is killed twice; every other day must become a verified version. Then `vecap_recaption`
processes the whole range with another prompt, without any download. `vecap_clip` is paused. Exits with 1 and a message
if a check fails.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from benchmarks.report import Measure, machine, report
from vecap_tasks.config import Config, load_config
from vecap_tasks.core.manifest import read_manifest
from vecap_tasks.core.store import Store
from vecap_tasks.core.verify import verify_version
from vecap_tasks.core.version import Version, list_versions, published
from vecap_tasks.demo.web import generate_day
from vecap_tasks.errors import VecapError
from vecap_tasks.local import airflow, control
from vecap_tasks.local.airflow import Api, http_probe
from vecap_tasks.local.settings import REPOSITORY, Settings
from vecap_tasks.local.state import read_state
from vecap_tasks.rewrite.prompt import FOLDER

FIRST = dt.date(2026, 1, 1)
CONCURRENCY = 3
PROMPT = "fuse-plain"
_PORTS = (
    "VECAP_AIRFLOW_PORT", "VECAP_MLFLOW_PORT", "VECAP_DASK_PORT", "VECAP_DASK_DASHBOARD_PORT", "VECAP_WEB_PORT",
)  # fmt: skip
_KILLS = (1 / 4, 1 / 2)  # shares of finished days at which the scheduler is killed
_TIMEOUT = 3600.0  # seconds for the backfill, and for the recaption
_MAX_FAILED_POLLS = 30  # in a row


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=30, metavar="N")
    parser.add_argument("--images", type=int, default=200, metavar="N", help="images per day (200)")
    parser.add_argument(
        "--home", type=Path, default=None, metavar="DIR", help="empty folder for all files, which are kept"
    )
    parser.add_argument("--json", type=Path, default=None, metavar="FILE")
    arguments = parser.parse_args(argv)
    if arguments.days < 4:
        parser.error("at least 4 days are needed to kill the scheduler twice")
    home = arguments.home or Path(tempfile.mkdtemp(prefix="vecap-thirty-"))
    home.mkdir(parents=True, exist_ok=True)
    try:
        with _installation(home) as (settings, config):
            run = _ThirtyDays(settings, config, arguments.days, arguments.images)
            measures = run.all()
    except (VecapError, OSError) as error:
        print(f"thirty_days: {error}; files are in {home}", file=sys.stderr)
        return 1
    if arguments.home is None:
        shutil.rmtree(home)
    report(measures, arguments.json)
    return 0


@contextmanager
def _installation(home: Path) -> Iterator[tuple[Settings, Config]]:
    """Yield the settings and configuration of a new installation in *home* with its own ports; stop it afterwards."""
    values = yaml.safe_load((REPOSITORY / "configs" / "demo.yaml").read_text(encoding="utf-8"))
    models = REPOSITORY / "vecap_tasks" / "demo" / "models"
    values["rewrite"] |= {"prompts": str(home / "prompts")}
    values["rewrite"]["vlm"]["model"] = str(models / "vlm")
    values["rewrite"]["llm"]["model"] = values["train"]["model"]["tokenizer"] = str(models / "llm")
    file = home / "thirty.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    (home / "prompts").mkdir(exist_ok=True)
    default_prompt = (FOLDER / "fuse.md").read_text(encoding="utf-8")
    (home / "prompts" / f"{PROMPT}.md").write_text(
        default_prompt.replace("one caption", "one plain caption"), encoding="utf-8"
    )
    ports = dict(zip(_PORTS, map(str, _free_ports(len(_PORTS))), strict=True))
    os.environ.update(ports | {"VECAP_HOME": str(home), "VECAP_CONFIG": str(file)})
    settings = Settings.from_environment()
    try:
        yield settings, load_config(file)
    finally:
        control.down(settings, _log)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    numbers = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return numbers


class _ThirtyDays:
    """One run of the benchmark."""

    def __init__(self, settings: Settings, config: Config, days: int, images: int) -> None:
        self.settings = settings
        self.config = config
        self.days = [FIRST + dt.timedelta(days=number) for number in range(days)]
        self.bad = self.days[days // 2 + 1]
        self.images = images
        self.kills = 0

    def all(self) -> list[Measure]:
        self._generate_web()
        control.up(self.settings, _log)
        api = airflow.api(self.settings)
        self._await_dags(api)
        api.patch("/api/v2/dags/vecap_clip", {"is_paused": True})

        start = time.monotonic()
        self._backfill()
        states = self._follow(api, "vecap_dataset", len(self.days), self._kill_scheduler)
        backfilled = time.monotonic() - start
        failed = sorted(key for key, state in states.items() if state == "failed")
        _expect(failed == [str(self.bad)], f"the quality gate must reject only {self.bad}; failed: {', '.join(failed)}")
        _expect(self.kills == len(_KILLS), f"the scheduler was killed {self.kills} times, expected {len(_KILLS)}")
        versions = self._verified()
        _expect(len(versions) == len(self.days) - 1, f"{len(versions)} versions are verified")
        _log(f"{len(versions)} versions of {len(self.days)} days verified in {backfilled:.0f} s; {self.bad} rejected")

        before, store = self._requests(), Store(self.config.resolve(self.config.root))
        start = time.monotonic()
        self._recaption(api)
        self._follow(api, "vecap_recaption", 1)
        recaptioned = time.monotonic() - start
        fetched = self._requests() - before
        _expect(fetched == 0, f"recaptioning fetched {fetched} files")
        revisions = [version for version in self._verified() if version.revision == 2]
        _expect(len(revisions) == len(versions), f"{len(revisions)} revisions are verified")
        notes = _notes(store, revisions)
        shares = {side: _share(notes, side, model) for side, model in (("vec", "vlm"), ("vecap", "llm"))}
        first = _notes(store, versions)
        rows = sum(read_rows(store, version) for version in versions)
        _log(f"{len(revisions)} revisions verified in {recaptioned:.0f} s; {fetched} files fetched")

        conditions = f"{len(self.days)} days of {self.images} images, {CONCURRENCY} concurrent; {machine()}"
        return [
            Measure("backfill, scheduler killed twice", "s", backfilled, conditions=conditions),
            Measure("verified versions", "of days", len(versions), limit=len(self.days) - 1, conditions=conditions),
            Measure("rows captioned", "rows", rows, conditions=conditions),
            Measure("VeC reused in the backfill", "share", _share(first, "vec", "vlm"), conditions=conditions),
            Measure("recaption with another prompt", "s", recaptioned, conditions=conditions),
            Measure("files fetched by the recaption", "files", fetched, limit=0, conditions=conditions),
            Measure("VeC reused by the recaption", "share", shares["vec"], limit=1, conditions=conditions),
            Measure("VeCap reused by the recaption", "share", shares["vecap"], conditions="the prompt differs"),
        ]

    def _generate_web(self) -> None:
        start = time.monotonic()
        for day in self.days:
            generate_day(self.settings.home / "web", day, 0, self.images, bad=day == self.bad)
        _log(f"{len(self.days)} days of {self.images} images generated in {time.monotonic() - start:.0f} s")

    def _await_dags(self, api: Api) -> None:
        deadline = time.monotonic() + 180
        expected = {"vecap_dataset", "vecap_recaption", "vecap_clip"}
        while not expected <= {dag["dag_id"] for dag in api.get("/api/v2/dags?limit=100")["dags"]}:
            _expect(time.monotonic() < deadline, "Airflow did not parse the DAGs within 180 s")
            time.sleep(1)

    def _backfill(self) -> None:
        command = [
            *(sys.executable, "-m", "airflow", "backfill", "create", "--dag-id", "vecap_dataset"),
            *("--from-date", str(self.days[0]), "--to-date", str(self.days[-1])),
            *("--max-active-runs", str(CONCURRENCY), "--dag-run-conf", json.dumps({"groups": 1})),
        ]
        environment = self.settings.environment() | {"AIRFLOW_HOME": str(self.settings.airflow_home)}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        _expect(result.returncode == 0, f"airflow backfill create: {result.stderr.strip()[-300:]}")

    def _recaption(self, api: Api) -> None:
        conf = {"from": str(self.days[0]), "to": str(self.days[-1]), "llm_prompt": PROMPT}
        api.post("/api/v2/dags/vecap_recaption/dagRuns", {"logical_date": None, "conf": conf})

    def _follow(self, api: Api, dag: str, count: int, on_poll: Any = None) -> dict[str, str]:
        """Wait until *count* runs of *dag* have finished; return their states by partition key."""
        deadline, finished_count, failed_polls = time.monotonic() + _TIMEOUT, -1, 0
        while True:
            try:
                runs = api.get(f"/api/v2/dags/{quote(dag)}/dagRuns?limit=100")["dag_runs"]
                failed_polls = 0
            except VecapError:
                failed_polls += 1
                if failed_polls > _MAX_FAILED_POLLS:
                    raise
                time.sleep(2)
                continue
            finished = {run["partition_key"]: run["state"] for run in runs if run["state"] in ("success", "failed")}
            if len(finished) != finished_count:
                finished_count = len(finished)
                _log(f"{dag}: {finished_count} of {count} runs finished")
            if finished_count >= count:
                _expect(count > 1 or set(finished.values()) == {"success"}, f"{dag} failed; see {self.settings.logs}")
                return finished
            if on_poll is not None:
                on_poll(finished_count)
            _expect(time.monotonic() < deadline, f"{dag}: {finished_count} of {count} runs after {_TIMEOUT:.0f} s")
            time.sleep(1)

    def _kill_scheduler(self, finished: int) -> None:
        if self.kills == len(_KILLS) or finished < len(self.days) * _KILLS[self.kills]:
            return
        state = read_state(self.settings)
        process = state.services["airflow-scheduler"].process if state is not None else None
        if process is not None and process.alive():
            os.kill(process.pid, signal.SIGKILL)
            self.kills += 1
            _log(f"killed the scheduler, pid {process.pid}")

    def _verified(self) -> list[Version]:
        """Return the published versions. Raises VecapError if one is corrupt."""
        store = Store(self.config.resolve(self.config.root))
        versions = [v for v in list_versions(store, self.config.dataset) if published(store, v) is not None]
        for version in versions:
            corruptions = verify_version(store, version).corruptions
            _expect(not corruptions, f"version {version.name} is corrupt: {corruptions[:1]}")
        return versions

    def _requests(self) -> int:
        body = http_probe(f"{self.settings.web.url}/_requests", 30)
        _expect(body is not None, "the miniature web does not respond")
        return int(json.loads(body or b"{}")["requests"])


def read_rows(store: Store, version: Version) -> int:
    """Return the number of rows that the stage `rewrite` of *version* captioned."""
    manifest = read_manifest(store, f"{version.folder}/rewrite")
    return manifest.counters["rows"] if manifest else 0


def _notes(store: Store, versions: Sequence[Version]) -> dict[str, int]:
    """Return the sums of the notes that the rewrite stages of *versions* recorded."""
    total: dict[str, int] = {}
    for version in versions:
        manifest = read_manifest(store, f"{version.folder}/rewrite")
        for name, count in (manifest.provenance["notes"] if manifest else {}).items():
            total[name] = total.get(name, 0) + count
    return total


def _share(notes: dict[str, int], side: str, model: str) -> float:
    reused, generated = notes.get(f"reused_{side}", 0), notes.get(f"{model}_captions", 0)
    return reused / (reused + generated) if reused + generated else 0.0


def _expect(condition: bool, problem: str) -> None:
    if not condition:
        raise VecapError(problem)


def _log(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
