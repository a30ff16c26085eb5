"""The stage rewrite over shards of four rows through Airflow and Dask: time, memory, and latency of the pages.

    python -m benchmarks.orchestration [--shards N …] [--rounds N] [--json FILE]

Its models are a server on this machine that answers immediately (`benchmarks/instant_model.py`). Crawl and quality are
generated. After the run, `vecap assemble` publishes the version, so that all its pages exist.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import psycopg2

from benchmarks.fakes import CONFIG
from benchmarks.instant_model import NAME
from benchmarks.latency import Latencies
from benchmarks.report import Measure, machine, report
from benchmarks.small_shards import ROWS, write_version
from vecap_tasks.config import load_config
from vecap_tasks.local import airflow, control, postgres
from vecap_tasks.local.airflow import Api
from vecap_tasks.local.dag_progress import DagRun
from vecap_tasks.local.settings import REPOSITORY, Settings
from vecap_tasks.local.state import read_state

DAG = "vecap_scale"
_TASK = "rewrite.run"
_POLL_SECONDS = 0.5
_LABEL_SECONDS = 5.0
# Words of the command lines of each role.
_ROLES = {
    "Airflow scheduler": "airflow scheduler",
    "Airflow API server": "airflow api_server",
    "Airflow DAG processor": "airflow dag-processor",
    "Airflow task (driver)": "airflow worker",
    "Dask scheduler": "dask scheduler",
    "Dask worker": "dask worker",
}


@dataclass
class Peaks:
    """Peak memory per role in bytes, over all processes of the role, sampled inside `watching`."""

    supervisor: psutil.Process
    peaks: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def watching(self) -> Iterator[None]:
        stopped = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(stopped,))
        watcher.start()
        try:
            yield
        finally:
            stopped.set()
            watcher.join()

    def _watch(self, stopped: threading.Event) -> None:
        while not stopped.wait(_POLL_SECONDS):
            for process in self.supervisor.children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    words, used = " ".join(process.cmdline()), process.memory_info().rss
                    for role in (role for role, pattern in _ROLES.items() if pattern in words.replace("-m ", "")):
                        self.peaks[role] = max(self.peaks.get(role, 0), used)


@dataclass(frozen=True, slots=True)
class Installation:
    """The running services, and the configuration of the stage."""

    settings: Settings
    config: Path
    api: Api


@contextmanager
def installation() -> Iterator[Installation]:
    """Run the local services and the model server in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="vecap-bench-", dir="/var/tmp") as folder:
        home = Path(folder)
        config = home / "scale.yaml"
        *ports, model = _free_ports(6)
        os.environ |= _environment(home, ports) | {"VECAP_CONFIG": str(config)}
        config.write_text(load_config(CONFIG, overrides(home, model)).model_dump_json(), "utf-8")
        settings = Settings.from_environment()
        with _model_server(model):
            control.up(settings, lambda line: None)
            try:
                yield Installation(settings, config, airflow.api(settings))
            finally:
                control.down(settings, lambda line: None)


def through_airflow(sizes: Iterable[int], rounds: int = 100) -> list[Measure]:
    """Run each number of shards through Airflow and Dask, smallest first; then load the pages *rounds* times."""
    measures: list[Measure] = []
    with installation() as installed:
        for day, size in enumerate(sorted(sizes), start=1):
            measures += _run(installed, day, size, rounds)
    return measures


def _run(installed: Installation, day: int, shards: int, rounds: int) -> list[Measure]:
    settings, api = installed.settings, installed.api
    running = read_state(settings)
    assert running is not None
    version = write_version(load_config(installed.config), f"2026-01-{day:02d}", shards)
    peaks = Peaks(psutil.Process(running.supervisor.pid))
    before = _transactions(settings)
    conf = {"interval": version.name, "config": str(installed.config)}
    start = time.monotonic()
    run = DagRun(DAG, api.post(f"/api/v2/dags/{DAG}/dagRuns", {"logical_date": None, "conf": conf})["dag_run_id"])
    during = Latencies(pages(api, run, version.name), api.token)
    with peaks.watching(), during.watching():
        state, labels = _follow(api, run)
        seconds = time.monotonic() - start
    if state != "success":
        raise SystemExit(f"The run over {shards} shards failed; see {settings.logs}")
    transactions = _transactions(settings) - before
    _vecap(settings, "assemble", "--config", str(installed.config), "--version", version.name)
    after = Latencies(pages(api, run, version.name) | published_pages(api, version.name), api.token)
    for _ in range(rounds):
        after.round()
    manifest = settings.home / "store" / version.folder / "rewrite" / "manifest.json"
    name = f"{shards:,} shards: "
    conditions = f"{machine()}, 2 Dask workers, {ROWS} rows per shard, a model server that answers immediately"
    return [
        Measure(f"{name}from trigger to end", "s", seconds, conditions=conditions),
        Measure(f"{name}per shard", "ms", seconds / shards * 1000, conditions="the stage rewrite"),
        *(
            Measure(f"{name}{task}", "s", taken, conditions="start to end of the tasks")
            for task, taken in _task_seconds(api, run).items()
        ),
        *(Measure(f"{name}{role}, peak memory", "MiB", peak / 2**20) for role, peak in sorted(peaks.peaks.items())),
        Measure(f"{name}transactions of Airflow's database", "", transactions),
        Measure(f"{name}manifest", "KiB", manifest.stat().st_size / 2**10),
        Measure(f"{name}mapped tasks", "", len(labels), conditions="8 requested"),
        Measure(f"{name}mapped tasks that showed the remaining time", "", sum(labels.values()), None, len(labels)),
        *during.measures(f"{name}during the run: "),
        *after.measures(f"{name}after the run: "),
    ]


def _follow(api: Api, run: DagRun) -> tuple[str, dict[int, bool]]:
    """Wait for *run*; return its state and, for each mapped task, whether its name in the grid had a remaining time."""
    labels: dict[int, bool] = {}
    looked = -_LABEL_SECONDS
    while (state := str(api.get(run.path)["state"])) not in ("success", "failed"):
        if time.monotonic() - looked >= _LABEL_SECONDS:
            looked = time.monotonic()
            for task in api.get(f"{run.path}/taskInstances?task_id={_TASK}&limit=100")["task_instances"]:
                if task["map_index"] >= 0:
                    shown = (task["rendered_map_index"] or "").endswith(" left")
                    labels[task["map_index"]] = labels.get(task["map_index"], False) or shown
        time.sleep(_POLL_SECONDS)
    return state, labels


def pages(api: Api, run: DagRun, version: str) -> dict[str, list[str]]:
    """Return the URLs of the pages that exist during *run*, by page.

    Airflow 3.3's pages are those of the DAG's grid, of a mapped task, and its log; URLs are the requests that the
    open page repeats every few seconds.
    """
    query = "order_by=-run_after"
    dag, grid, path = f"{api.url}/api/v2/dags/{DAG}", f"{api.url}/ui/grid", f"{api.url}{run.path}"
    summaries = f"{grid}/ti_summaries/{DAG}?run_ids={quote(run.run, safe='')}"
    runs = [f"{grid}/runs/{DAG}?limit={count}&{query}" for count in (1, 10)]
    structure = f"{grid}/structure/{DAG}?include_upstream=false&include_downstream=false&limit=10&{query}"
    always = [*runs, f"{grid}/runs/{DAG}?offset=0&limit=11&{query}", structure, summaries]
    tasks = f"{path}/taskInstances"
    return {
        "Airflow's grid": [*always, dag, f"{dag}/details", f"{api.url}/ui/dags/{DAG}/latest_run", path],
        "Airflow's mapped tasks": [*always, path, f"{tasks}?cursor=&task_id={_TASK}&limit=50&order_by=-id"],
        "Airflow's log of a mapped task": [f"{tasks}/{_TASK}/logs/1?map_index=0"],
        "page of the version": [f"{api.url}/vecap/versions/{quote(version)}"],
        "list of versions": [f"{api.url}/vecap/versions"],
        "lineage of the version": [f"{api.url}/vecap/lineage?name={quote(version)}"],
    }


def published_pages(api: Api, version: str) -> dict[str, list[str]]:
    """Return the URLs of the pages that only a version with captions has, by page."""
    page = f"{api.url}/vecap/versions/{quote(version)}"
    return {"samples": [f"{page}/samples"], "quarantine": [f"{page}/quarantine"], "sources": [f"{page}/sources"]}


def _task_seconds(api: Api, run: DagRun) -> dict[str, float]:
    """Return the seconds from the first start to the last end of each task of *run*."""
    times: dict[str, list[tuple[str, str]]] = {}
    for task in api.get(f"{run.path}/taskInstances?limit=100")["task_instances"]:
        times.setdefault(task["task_id"], []).append((task["start_date"], task["end_date"]))
    return {
        task: (_time(max(end for _, end in each)) - _time(min(start for start, _ in each))).total_seconds()
        for task, each in times.items()
    }


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _vecap(settings: Settings, *words: str) -> None:
    command = [sys.executable, "-m", "vecap_tasks.cli", *words]
    subprocess.run(command, env=settings.environment(), check=True, stdout=subprocess.DEVNULL)


def _transactions(settings: Settings) -> int:
    socket_of = postgres.socket_folder(settings)
    with psycopg2.connect(dbname="postgres", user="postgres", host=str(socket_of)) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT xact_commit FROM pg_stat_database WHERE datname = 'airflow'")
        row = cursor.fetchone()
    assert row is not None
    return int(row[0])


def _environment(home: Path, ports: Iterable[int]) -> dict[str, str]:
    names = ("AIRFLOW", "MLFLOW", "DASK", "DASK_DASHBOARD", "WEB")
    variables = {f"VECAP_{name}_PORT": str(port) for name, port in zip(names, ports, strict=True)}
    return variables | {"VECAP_HOME": str(home), "VECAP_DAGS": str(REPOSITORY / "benchmarks" / "dags")}


def overrides(home: Path, port: int) -> list[str]:
    """Return the settings of the stage: shards of `ROWS` rows, and both models on the server at *port*."""
    server = {"urls": [f"http://127.0.0.1:{port}/v1"]}
    models: Mapping[str, dict[str, Any]] = {
        role: {"backend": "openai", "model": NAME, "prompt": prompt, "server": server}
        for role, prompt in (("vlm", "describe"), ("llm", "fuse"))
    }
    return [
        f"root={home}/store",
        f"crawl.shard_size={ROWS}",
        f"rewrite.shard_size={ROWS}",
        *(f"rewrite.{role}={settings}" for role, settings in models.items()),
    ]


@contextmanager
def _model_server(port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "benchmarks.instant_model", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY) as server:
        try:
            assert server.stdout is not None
            server.stdout.readline()
            yield
        finally:
            server.terminate()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for probe in sockets:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in sockets]
    for probe in sockets:
        probe.close()
    return ports


def main() -> None:
    """Run, print, and write the JSON file if requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[300, 3_000, 30_000], metavar="N")
    parser.add_argument("--rounds", type=int, default=100, metavar="N", help="loads of each page after a run (100)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measures to this file")
    arguments = parser.parse_args()
    report(through_airflow(arguments.shards, arguments.rounds), arguments.json)


if __name__ == "__main__":
    main()
