"""How the orchestration grows: Airflow, Dask and manifests over 300, 3,000 and 30,000 shards of a stand-in.

    python -m benchmarks.scale [--shards N …] [--json FILE]

The services of one machine are started in a folder of their own, and a DAG of one stage runs through them: plan, eight
mapped groups, commit, as in the product. What a shard does is a stand-in of 3 ms that writes one small file. Beside
the time stand the peaks of memory of Airflow's scheduler, Dask's scheduler and the greatest of Airflow's tasks, which
is the driver; PostgreSQL's transactions; and the requests that a shard costs on S3, counted by a server in between.
There is no other tool to compare with.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg2

from benchmarks.fakes import CONFIG, StandIn
from benchmarks.report import Measure, machine, report
from vecap_tasks.config import load_config
from vecap_tasks.core.version import Version
from vecap_tasks.local import airflow, control, postgres
from vecap_tasks.local.airflow import Api
from vecap_tasks.local.settings import REPOSITORY, Settings
from vecap_tasks.local.state import read_state

DAG = "vecap_scale"
_LOOK_SECONDS = 0.5
_ROLES = {"Airflow's scheduler": "airflow scheduler", "Dask's scheduler": "dask scheduler", "a task": "airflow worker"}


@dataclass
class Peaks:
    """The most memory that a process of each role had, bytes, sampled while the block runs."""

    supervisor: psutil.Process
    seen: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def watching(self) -> Iterator[None]:
        ended = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(ended,))
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(_LOOK_SECONDS):
            for process in self.supervisor.children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    words, used = " ".join(process.cmdline()), process.memory_info().rss
                    for role in (role for role, mark in _ROLES.items() if mark in words.replace("-m ", "")):
                        self.seen[role] = max(self.seen.get(role, 0), used)


def through_airflow(sizes: Iterable[int]) -> list[Measure]:
    """Take each number of shards through Airflow and Dask, the smallest first."""
    with tempfile.TemporaryDirectory(prefix="vecap-bench-", dir="/var/tmp") as folder:
        home = Path(folder)
        config = home / "scale.yaml"
        config.write_text(load_config(CONFIG, [f"root={home}/store", "dask.workers=2"]).model_dump_json(), "utf-8")
        os.environ |= _environment(home)
        settings = Settings.from_environment()
        control.up(settings, lambda line: None)
        try:
            api = airflow.api(settings)
            return [one for size in sorted(sizes) for one in _run(api, settings, config, size)]
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
            time.sleep(_LOOK_SECONDS)
        seconds = time.monotonic() - start
    if state != "success":
        raise SystemExit(f"the run over {shards} shards failed; see {settings.logs}")
    manifest = settings.home / "store" / "demo" / f"of-{shards}" / "crawl" / "manifest.json"
    name = f"{shards:,} shards"
    return [
        Measure(f"{name}: from trigger to end", "s", seconds, conditions=f"{machine()}, 2 Dask workers"),
        Measure(f"{name}: a shard", "ms", seconds / shards * 1000, conditions="3 ms of it are the stand-in"),
        *(Measure(f"{name}: {role}", "MiB", peak / 2**20) for role, peak in sorted(peaks.seen.items())),
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
    ports = {f"VECAP_{name}_PORT": str(port) for name, port in zip(names, _free(len(names)), strict=True)}
    return ports | {"VECAP_HOME": str(home), "VECAP_DAGS": str(REPOSITORY / "benchmarks" / "dags")}


def _free(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def on_s3(shards: int = 20) -> list[Measure]:
    """Count the requests that a stage of so many shards costs on S3: for a shard, and for the whole."""
    import boto3
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    asked: Counter[str] = Counter()
    answer = DomainDispatcherApplication(create_backend_app)

    def counting(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        listing = environ["REQUEST_METHOD"] == "GET" and "list-type" in environ.get("QUERY_STRING", "")
        asked["LIST" if listing else environ["REQUEST_METHOD"]] += 1
        return answer(environ, start)

    server = make_server("127.0.0.1", 0, counting, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    boto3.client("s3").create_bucket(Bucket="scale")
    measures = []
    counts = []
    for size in (shards, 2 * shards):
        asked.clear()
        overrides = ["root=s3://scale/store", f"crawl.shard_size={size}"]
        stage = StandIn(load_config(CONFIG, overrides), Version("demo", f"of-{size}", 1, ""))
        for shard in stage.plan():
            stage.run(shard)
        stage.commit()
        counts.append(Counter(asked))
    server.shutdown()
    for kind in sorted(counts[1]):
        each = (counts[1][kind] - counts[0][kind]) / shards
        measures.append(Measure(f"S3: {kind} a shard", "requests", each, conditions="one file a shard"))
        measures.append(Measure(f"S3: {kind} beside that", "requests", counts[0][kind] - each * shards))
    return measures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.partition("\n")[0])
    parser.add_argument("--shards", type=int, nargs="+", default=[300, 3_000, 30_000], metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    report([*on_s3(), *through_airflow(arguments.shards)], arguments.json)


if __name__ == "__main__":
    main()
