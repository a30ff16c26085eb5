"""Thirty days of the miniature web through Airflow, with trouble, and then all of them with another prompt.

    python -m benchmarks.thirty_days [--days 30] [--images 200] [--home DIR] [--json FILE]

A fresh installation with its services; one day is a bad one that the quality gate has to refuse; the days are
backfilled three at a time while the scheduler is killed twice; every other day must end as a version that verifies.
Then `vecap_recaption` takes the whole range to another prompt: nothing may be fetched again. Training is no part of
it: `vecap_clip` is paused. It ends with exit code 1, and says why, where something is not as it should be.
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
AT_ONCE = 3
PROMPT = "fuse-plain"
_PORTS = (
    "VECAP_AIRFLOW_PORT", "VECAP_MLFLOW_PORT", "VECAP_DASK_PORT", "VECAP_DASK_DASHBOARD_PORT", "VECAP_WEB_PORT",
)  # fmt: skip
_KILLS = (1 / 4, 1 / 2)  # shares of the days that are through when the scheduler is killed
_LONGEST = 3600.0  # seconds for the backfill, and again for the captions
_MISSED = 30  # looks in a row that a busy server may fail to answer


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=30, metavar="N")
    parser.add_argument("--images", type=int, default=200, metavar="N", help="images a day (200)")
    parser.add_argument("--home", type=Path, default=None, metavar="DIR", help="an empty folder to keep it all in")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE")
    arguments = parser.parse_args(argv)
    if arguments.days < 4:
        parser.error("it takes at least 4 days to kill the scheduler twice among them")
    home = arguments.home or Path(tempfile.mkdtemp(prefix="vecap-thirty-"))
    home.mkdir(parents=True, exist_ok=True)
    try:
        with _installation(home) as (settings, config):
            run = _ThirtyDays(settings, config, arguments.days, arguments.images)
            measures = run.all()
    except (VecapError, OSError) as error:
        print(f"thirty_days: {error}; all of it is in {home}", file=sys.stderr)
        return 1
    if arguments.home is None:
        shutil.rmtree(home)
    report(measures, arguments.json)
    return 0


@contextmanager
def _installation(home: Path) -> Iterator[tuple[Settings, Config]]:
    """Give the settings of a new installation in *home* with ports of its own, and its configuration; end it after."""
    values = yaml.safe_load((REPOSITORY / "configs" / "demo.yaml").read_text(encoding="utf-8"))
    models = REPOSITORY / "vecap_tasks" / "demo" / "models"
    values["rewrite"] |= {"prompts": str(home / "prompts")}
    values["rewrite"]["vlm"]["model"] = str(models / "vlm")
    values["rewrite"]["llm"]["model"] = values["train"]["model"]["tokenizer"] = str(models / "llm")
    file = home / "thirty.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    (home / "prompts").mkdir(exist_ok=True)
    usual = (FOLDER / "fuse.md").read_text(encoding="utf-8")
    (home / "prompts" / f"{PROMPT}.md").write_text(usual.replace("one caption", "one plain caption"), encoding="utf-8")
    ports = dict(zip(_PORTS, map(str, _free_ports(len(_PORTS))), strict=True))
    os.environ.update(ports | {"VECAP_HOME": str(home), "VECAP_CONFIG": str(file)})
    settings = Settings.from_environment()
    try:
        yield settings, load_config(file)
    finally:
        control.down(settings, _say)


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    numbers = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return numbers


class _ThirtyDays:
    """One run of it all."""

    def __init__(self, settings: Settings, config: Config, days: int, images: int) -> None:
        self.settings = settings
        self.config = config
        self.days = [FIRST + dt.timedelta(days=number) for number in range(days)]
        self.bad = self.days[days // 2 + 1]
        self.images = images
        self.kills = 0

    def all(self) -> list[Measure]:
        self._make_web()
        control.up(self.settings, _say)
        api = airflow.api(self.settings)
        self._await_dags(api)
        api.patch("/api/v2/dags/vecap_clip", {"is_paused": True})

        begin = time.monotonic()
        self._backfill()
        states = self._follow(api, "vecap_dataset", len(self.days), self._kill_scheduler)
        backfilled = time.monotonic() - begin
        failed = sorted(key for key, state in states.items() if state == "failed")
        _expect(failed == [str(self.bad)], f"the gate was to refuse {self.bad} alone; failed: {', '.join(failed)}")
        _expect(self.kills == len(_KILLS), f"the scheduler was killed {self.kills} times")
        versions = self._verified()
        _expect(len(versions) == len(self.days) - 1, f"{len(versions)} versions are published and whole")
        _say(
            f"{len(versions)} versions of {len(self.days)} days verify after {backfilled:.0f} s; {self.bad} is refused"
        )

        before, store = self._requests(), Store(self.config.resolve(self.config.root))
        begin = time.monotonic()
        self._recaption(api)
        self._follow(api, "vecap_recaption", 1)
        recaptioned = time.monotonic() - begin
        fetched = self._requests() - before
        _expect(fetched == 0, f"recaptioning fetched {fetched} files")
        revisions = [version for version in self._verified() if version.revision == 2]
        _expect(len(revisions) == len(versions), f"{len(revisions)} revisions are published and whole")
        notes = _notes(store, revisions)
        shares = {side: _share(notes, side, model) for side, model in (("vec", "vlm"), ("vecap", "llm"))}
        first = _notes(store, versions)
        rows = sum(read_rows(store, version) for version in versions)
        _say(f"{len(revisions)} revisions verify after {recaptioned:.0f} s; {fetched} files were fetched for them")

        conditions = f"{len(self.days)} days of {self.images} images, {AT_ONCE} at once; {machine()}"
        return [
            Measure("backfill, scheduler killed twice", "s", backfilled, conditions=conditions),
            Measure("versions that verify", "of days", len(versions), limit=len(self.days) - 1, conditions=conditions),
            Measure("rows captioned", "rows", rows, conditions=conditions),
            Measure("VeC reused in the backfill", "share", _share(first, "vec", "vlm"), conditions=conditions),
            Measure("recaption with another prompt", "s", recaptioned, conditions=conditions),
            Measure("files fetched for it", "files", fetched, limit=0, conditions=conditions),
            Measure("VeC reused for it", "share", shares["vec"], limit=1, conditions=conditions),
            Measure("VeCap reused for it", "share", shares["vecap"], conditions="the prompt is another one"),
        ]

    def _make_web(self) -> None:
        begin = time.monotonic()
        for day in self.days:
            generate_day(self.settings.home / "web", day, 0, self.images, bad=day == self.bad)
        _say(f"{len(self.days)} days of {self.images} images drawn in {time.monotonic() - begin:.0f} s")

    def _await_dags(self, api: Api) -> None:
        deadline = time.monotonic() + 180
        wanted = {"vecap_dataset", "vecap_recaption", "vecap_clip"}
        while not wanted <= {dag["dag_id"] for dag in api.get("/api/v2/dags?limit=100")["dags"]}:
            _expect(time.monotonic() < deadline, "Airflow has not read the DAGs after 180 s")
            time.sleep(1)

    def _backfill(self) -> None:
        command = [
            *(sys.executable, "-m", "airflow", "backfill", "create", "--dag-id", "vecap_dataset"),
            *("--from-date", str(self.days[0]), "--to-date", str(self.days[-1])),
            *("--max-active-runs", str(AT_ONCE), "--dag-run-conf", json.dumps({"groups": 1})),
        ]
        environment = self.settings.environment() | {"AIRFLOW_HOME": str(self.settings.airflow_home)}
        asked = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        _expect(asked.returncode == 0, f"airflow backfill create: {asked.stderr.strip()[-300:]}")

    def _recaption(self, api: Api) -> None:
        wanted = {"from": str(self.days[0]), "to": str(self.days[-1]), "llm_prompt": PROMPT}
        api.post("/api/v2/dags/vecap_recaption/dagRuns", {"logical_date": None, "conf": wanted})

    def _follow(self, api: Api, dag: str, count: int, look: Any = None) -> dict[str, str]:
        """Wait until *count* runs of *dag* have ended; return their states by partition key."""
        deadline, said, missed = time.monotonic() + _LONGEST, -1, 0
        while True:
            try:
                runs = api.get(f"/api/v2/dags/{quote(dag)}/dagRuns?limit=100")["dag_runs"]
                missed = 0
            except VecapError:
                missed += 1
                if missed > _MISSED:
                    raise
                time.sleep(2)
                continue
            ended = {run["partition_key"]: run["state"] for run in runs if run["state"] in ("success", "failed")}
            if len(ended) != said:
                said = len(ended)
                _say(f"{dag}: {said} of {count} runs have ended")
            if said >= count:
                _expect(count > 1 or set(ended.values()) == {"success"}, f"{dag} failed; see {self.settings.logs}")
                return ended
            if look is not None:
                look(said)
            _expect(time.monotonic() < deadline, f"{dag}: {said} of {count} runs have ended after {_LONGEST:.0f} s")
            time.sleep(1)

    def _kill_scheduler(self, ended: int) -> None:
        if self.kills == len(_KILLS) or ended < len(self.days) * _KILLS[self.kills]:
            return
        state = read_state(self.settings)
        process = state.services["airflow-scheduler"].process if state is not None else None
        if process is not None and process.alive():
            os.kill(process.pid, signal.SIGKILL)
            self.kills += 1
            _say(f"killed the scheduler, process {process.pid}")

    def _verified(self) -> list[Version]:
        """Return the published versions. Raises VecapError where one is damaged."""
        store = Store(self.config.resolve(self.config.root))
        found = [v for v in list_versions(store, self.config.dataset) if published(store, v) is not None]
        for version in found:
            corruptions = verify_version(store, version).corruptions
            _expect(not corruptions, f"version {version.name} is damaged: {corruptions[:1]}")
        return found

    def _requests(self) -> int:
        body = http_probe(f"{self.settings.web.url}/_requests", 30)
        _expect(body is not None, "the miniature web does not answer")
        return int(json.loads(body or b"{}")["requests"])


def read_rows(store: Store, version: Version) -> int:
    """Return the rows that the stage `rewrite` of *version* captioned."""
    manifest = read_manifest(store, f"{version.folder}/rewrite")
    return manifest.counters["rows"] if manifest else 0


def _notes(store: Store, versions: Sequence[Version]) -> dict[str, int]:
    """Return what the captioning of *versions* noted of how it was done, added up."""
    total: dict[str, int] = {}
    for version in versions:
        manifest = read_manifest(store, f"{version.folder}/rewrite")
        for name, count in (manifest.provenance["notes"] if manifest else {}).items():
            total[name] = total.get(name, 0) + count
    return total


def _share(notes: dict[str, int], side: str, model: str) -> float:
    reused, made = notes.get(f"reused_{side}", 0), notes.get(f"{model}_captions", 0)
    return reused / (reused + made) if reused + made else 0.0


def _expect(condition: bool, problem: str) -> None:
    if not condition:
        raise VecapError(problem)


def _say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
