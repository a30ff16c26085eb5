"""Definitions of the local services: command, dependencies and readiness check of each."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass

from vecap_tasks.local import postgres
from vecap_tasks.local.airflow import http_probe
from vecap_tasks.local.settings import HOST, Settings

DASK_WORKERS = 2


@dataclass(frozen=True, slots=True)
class Service:
    """A service or job to run. A service is ready when `ready()` returns True; a job is done when it exits with 0."""

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    ready: Callable[[], bool] = lambda: True
    job: bool = False
    stop: signal.Signals = signal.SIGTERM
    last: bool = False  # stopped after all others, which still write to it
    waited: bool = True  # `up` waits for it


def service_definitions(settings: Settings, *, migrate: bool) -> tuple[Service, ...]:
    """Return the services in start order. *migrate*: Airflow's tables must be created or upgraded."""
    python = sys.executable
    airflow = (python, "-m", "airflow")
    # Set only for Dask: the configuration of a task may name another scheduler, without TLS.
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
            ready=lambda: http_probe(f"{settings.airflow.url}/api/v2/version") is not None,
        ),
        Service(
            "mlflow",
            (
                *(python, "-m", "mlflow", "server", "--host", HOST, "--port", str(settings.mlflow.number)),
                *("--workers", "1", "--backend-store-uri", postgres.url(settings, "mlflow")),
                *("--artifacts-destination", str(settings.home / "mlflow")),
            ),
            needs=("databases",),
            ready=lambda: http_probe(f"{settings.mlflow.url}/health") is not None,
        ),
        Service(
            "airflow-dag-processor",
            (*airflow, "dag-processor"),
            needs=tables,
            ready=lambda: _airflow_component_healthy(settings, "dag_processor"),
        ),
        Service(
            "airflow-scheduler",
            (*airflow, "scheduler", "--skip-serve-logs"),
            needs=tables,
            ready=lambda: _airflow_component_healthy(settings, "scheduler"),
        ),
        Service(
            "web",
            (python, "-m", "vecap_tasks.demo.serve"),
            ready=lambda: is_listening(settings.web.number),
        ),
        Service(
            "dask-scheduler",
            (
                *(*dask, "scheduler", "--protocol", "tls", "--host", HOST, "--port", str(settings.dask.number)),
                *("--dashboard-address", f"{HOST}:{settings.dashboard.number}"),
            ),
            ready=lambda: http_probe(f"{settings.dashboard.url}/health") is not None,
        ),
        Service(
            "dask-workers",
            (
                *(*dask, "worker", settings.dask_address, "--host", HOST, "--name", "worker"),
                *("--nworkers", str(DASK_WORKERS), "--nthreads", "1", "--nanny"),
                # A shard bounds its own memory. With a limit, Dask pauses a worker at 80 % of it, possibly forever.
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
            ready=lambda: _airflow_component_healthy(settings, "triggerer"),
            waited=False,  # only deferred tasks need it, and our DAGs do not defer
        ),
    )
    return tuple(service for service in services if migrate or service.name != "airflow-tables")


def is_listening(port: int) -> bool:
    """Return whether *port* of this machine accepts connections."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


def is_port_free(port: int) -> bool:
    """Return whether a server can listen on *port*."""
    with socket.socket() as probe:
        if os.name == "posix":  # servers set it too, so that closing connections do not count
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _airflow_component_healthy(settings: Settings, component: str) -> bool:
    body = http_probe(f"{settings.airflow.url}/api/v2/monitor/health")
    return body is not None and json.loads(body)[component]["status"] == "healthy"


def _dask_workers(settings: Settings) -> int:
    body = http_probe(f"{settings.dashboard.url}/json/counts.json")
    return 0 if body is None else int(json.loads(body)["workers"])
