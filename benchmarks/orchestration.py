"""Orchestration through Airflow and Dask: a DAG with one stage, over 300, 3,000 and 30,000 shards."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg2

from benchmarks.fakes import CONFIG
from benchmarks.report import Measure, machine
from vecap_tasks.config import load_config
from vecap_tasks.local import airflow, control, postgres
from vecap_tasks.local.airflow import Api
from vecap_tasks.local.settings import REPOSITORY, Settings
from vecap_tasks.local.state import read_state

DAG = "vecap_scale"
_POLL_SECONDS = 0.5
_ROLES = {"Airflow's scheduler": "airflow scheduler", "Dask's scheduler": "dask scheduler", "a task": "airflow worker"}


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


def through_airflow(sizes: Iterable[int]) -> list[Measure]:
    """Run each number of shards through Airflow and Dask, smallest first."""
    with tempfile.TemporaryDirectory(prefix="vecap-bench-", dir="/var/tmp") as folder:
        home = Path(folder)
        config = home / "scale.yaml"
        config.write_text(load_config(CONFIG, [f"root={home}/store", "dask.workers=2"]).model_dump_json(), "utf-8")
        os.environ |= _environment(home)
        settings = Settings.from_environment()
        control.up(settings, lambda line: None)
        try:
            api = airflow.api(settings)
            return [measure for size in sorted(sizes) for measure in _run(api, settings, config, size)]
        finally:
            control.down(settings, lambda line: None)


def _run(api: Api, settings: Settings, config: Path, shards: int) -> list[Measure]:
    running = read_state(settings)
    assert running is not None
    peaks = Peaks(psutil.Process(running.supervisor.pid))
    before = _transactions(settings)
    with peaks.watching():
        start = time.monotonic()
        conf = {"shards": shards, "config": str(config)}
        run = api.post(f"/api/v2/dags/{DAG}/dagRuns", {"logical_date": None, "conf": conf})["dag_run_id"]
        while (state := api.get(f"/api/v2/dags/{DAG}/dagRuns/{run}")["state"]) not in ("success", "failed"):
            time.sleep(_POLL_SECONDS)
        seconds = time.monotonic() - start
    if state != "success":
        raise SystemExit(f"The run over {shards} shards failed; see {settings.logs}")
    manifest = settings.home / "store" / "demo" / f"of-{shards}" / "crawl" / "manifest.json"
    name = f"{shards:,} shards"
    return [
        Measure(f"{name}: from trigger to end", "s", seconds, conditions=f"{machine()}, 2 Dask workers"),
        Measure(f"{name}: per shard", "ms", seconds / shards * 1000, conditions="includes 3 ms of the fake stage"),
        *(Measure(f"{name}: {role}", "MiB", peak / 2**20) for role, peak in sorted(peaks.peaks.items())),
        Measure(f"{name}: transactions of Airflow's database", "", _transactions(settings) - before),
        Measure(f"{name}: manifest", "KiB", manifest.stat().st_size / 2**10),
    ]


def _transactions(settings: Settings) -> int:
    socket_of = postgres.socket_folder(settings)
    with psycopg2.connect(dbname="postgres", user="postgres", host=str(socket_of)) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT xact_commit FROM pg_stat_database WHERE datname = 'airflow'")
        row = cursor.fetchone()
    assert row is not None
    return int(row[0])


def _environment(home: Path) -> dict[str, str]:
    names = ("AIRFLOW", "MLFLOW", "DASK", "DASK_DASHBOARD", "WEB")
    ports = {f"VECAP_{name}_PORT": str(port) for name, port in zip(names, _free_ports(len(names)), strict=True)}
    return ports | {"VECAP_HOME": str(home), "VECAP_DAGS": str(REPOSITORY / "benchmarks" / "dags")}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for probe in sockets:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in sockets]
    for probe in sockets:
        probe.close()
    return ports
