"""The services of one machine: how each is started, what it needs first, and how one knows that it is ready."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass

from vecap_tasks.local import postgres
from vecap_tasks.local.airflow import is_answering
from vecap_tasks.local.settings import HOST, Settings

DASK_WORKERS = 2


@dataclass(frozen=True, slots=True)
class Service:
    """Something to run. A job ends by itself with exit code 0; a service is ready when `ready()` says so."""

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    ready: Callable[[], bool] = lambda: True
    job: bool = False
    stop: signal.Signals = signal.SIGTERM
    last: bool = False  # ended after all others, which still write to it
    waited: bool = True  # `up` waits for it


def service_definitions(settings: Settings, *, migrate: bool) -> tuple[Service, ...]:
    """Return the services in the order in which they are started. *migrate*: Airflow's tables are not there yet."""
    python = sys.executable
    airflow = (python, "-m", "airflow")
    # Not for tasks, whose configuration may name another scheduler, without TLS.
    dask = ("env", "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION=true", python, "-m", "dask")
    tables = ("airflow-tables",) if migrate else ("databases",)
    services = (
        Service(
            "postgres",
            (python, "-m", "vecap_tasks.local.postgres", "serve"),
            stop=signal.SIGINT,  # "fast": open transactions are rolled back rather than waited for
            last=True,
        ),
        Service("databases", (python, "-m", "vecap_tasks.local.postgres", "databases"), job=True),
        Service("airflow-tables", (*airflow, "db", "migrate"), needs=("databases",), job=True),
        Service(
            "airflow-api",
            (*airflow, "api-server"),
            needs=tables,
            ready=lambda: is_answering(f"{settings.airflow.url}/api/v2/version") is not None,
        ),
        Service(
            "mlflow",
            (
                *(python, "-m", "mlflow", "server", "--host", HOST, "--port", str(settings.mlflow.number)),
                *("--workers", "1", "--backend-store-uri", postgres.url(settings, "mlflow")),
                *("--artifacts-destination", str(settings.home / "mlflow")),
            ),
            needs=("databases",),
            ready=lambda: is_answering(f"{settings.mlflow.url}/health") is not None,
        ),
        Service(
            "airflow-dag-processor",
            (*airflow, "dag-processor"),
            needs=tables,
            ready=lambda: _airflow_part(settings, "dag_processor"),
        ),
        Service(
            "airflow-scheduler",
            (*airflow, "scheduler", "--skip-serve-logs"),
            needs=tables,
            ready=lambda: _airflow_part(settings, "scheduler"),
        ),
        Service(
            "web",
            (python, "-m", "vecap_tasks.demo.serve"),
            ready=lambda: listens(settings.web.number),
        ),
        Service(
            "dask-scheduler",
            (
                *(*dask, "scheduler", "--protocol", "tls", "--host", HOST, "--port", str(settings.dask.number)),
                *("--dashboard-address", f"{HOST}:{settings.dashboard.number}"),
            ),
            ready=lambda: is_answering(f"{settings.dashboard.url}/health") is not None,
        ),
        Service(
            "dask-workers",
            (
                *(*dask, "worker", settings.dask_address, "--host", HOST, "--name", "worker"),
                *("--nworkers", str(DASK_WORKERS), "--nthreads", "1", "--nanny"),
                # A shard bounds its own memory; Dask would pause a worker at 80 % of its share, and wait for ever.
                *("--memory-limit", "0"),
                *("--no-dashboard", "--dashboard-address", f"{HOST}:0"),
                *("--local-directory", str(settings.folder / "dask")),
            ),
            needs=("dask-scheduler",),
            ready=lambda: _dask_workers(settings) >= DASK_WORKERS,
        ),
        Service("airflow-pools", (python, "-m", "vecap_tasks.local.airflow"), needs=("airflow-api",), job=True),
        Service(
            "airflow-triggerer",
            (*airflow, "triggerer", "--skip-serve-logs"),
            needs=("airflow-api", "airflow-scheduler", "airflow-dag-processor", "mlflow"),
            ready=lambda: _airflow_part(settings, "triggerer"),
            waited=False,  # only deferred tasks need it, and no DAG of ours defers
        ),
    )
    return tuple(service for service in services if migrate or service.name != "airflow-tables")


def listens(port: int) -> bool:
    """Say whether something accepts connections at *port* of this machine."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


def free(port: int) -> bool:
    """Say whether *port* can be listened on."""
    with socket.socket() as probe:
        if os.name == "posix":  # as the servers do: a connection that is closing does not count
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _airflow_part(settings: Settings, part: str) -> bool:
    body = is_answering(f"{settings.airflow.url}/api/v2/monitor/health")
    return body is not None and json.loads(body)[part]["status"] == "healthy"


def _dask_workers(settings: Settings) -> int:
    body = is_answering(f"{settings.dashboard.url}/json/counts.json")
    return 0 if body is None else int(json.loads(body)["workers"])
