"""Commands of the local services: `up`, `down`, `status`.

`up` starts the supervisor if needed, waits until every service is ready and returns the endpoints. `down` stops the
supervisor and everything it started, including leftovers of a supervisor that was killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from vecap_tasks.config import load_config
from vecap_tasks.errors import VecapError
from vecap_tasks.lineage.mlflow_notes import EXPERIMENTS_PAGE, runs_page
from vecap_tasks.local import airflow
from vecap_tasks.local.definitions import is_port_free
from vecap_tasks.local.process_tree import terminate_sessions
from vecap_tasks.local.settings import Port, Settings
from vecap_tasks.local.state import Phase, State, lock, read_state, remove_state
from vecap_tasks.local.supervisor import STOP_TIMEOUT, last_log_line
from vecap_tasks.progress import Meter, meter

START_TIMEOUT = 600.0  # of the first start on a slow machine; a service that fails ends the wait
_POLL_SECONDS = 0.25
_STOP_SECONDS = 2 * STOP_TIMEOUT + 2
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Endpoints:
    """URLs of the services, the Airflow login and the certificate of the Dask scheduler. MLflow has no login.

    `mlflow` opens the runs of the models, or the list of experiments if there are none yet.
    """

    airflow: str
    airflow_user: str
    airflow_password: str
    mlflow: str
    dask: str
    scheduler: str
    certificate: Path
    web: str

    def lines(self) -> list[str]:
        return [
            f"Airflow  {self.airflow}  user {self.airflow_user}, password {self.airflow_password}",
            f"MLflow   {self.mlflow}  no login",
            f"Dask     {self.dask}/status  no login; scheduler {self.scheduler}, certificate {self.certificate}",
        ]


def up(settings: Settings, report: Report) -> Endpoints:
    """Start the services that are not running and wait until all are ready. *report* receives a line for each step.

    Raises VecapError if a port is in use or a service fails to start; newly started services are stopped first.
    """
    with lock(settings, "control", wait=True):
        running = _running(settings)
        if running is not None and running.ready:
            report("Services are already running")
            return _endpoints(settings, running)
        if running is None:
            _stop_leftovers(settings, report)
            _check_ports(settings)
            _launch(settings, report)
    with meter("services") as shown:
        return _endpoints(settings, _wait(settings, report, shown))


def down(settings: Settings, report: Report) -> None:
    """Stop the services of this installation. Does nothing if none are running."""
    with lock(settings, "control", wait=True):
        state = _running(settings)
        if state is not None:
            report("Stopping services")
            stop_supervisor(settings, state)
        had_leftovers = _stop_leftovers(settings, report)
        report("Services stopped" if state is not None or had_leftovers else "No services are running")


def status(settings: Settings) -> State | None:
    """Return the state of the running supervisor, or None if it is not running."""
    return _running(settings)


def endpoints(settings: Settings) -> Endpoints:
    """Return the endpoints of the running services. Raises VecapError if none are running."""
    state = _running(settings)
    if state is None:
        raise VecapError("No services are running; start them with `make up`")
    return _endpoints(settings, state)


def with_running_ports(settings: Settings) -> Settings:
    """Return *settings* with the ports of the running services."""
    state = _running(settings)
    return settings if state is None else _with_ports(settings, state)


def stop_supervisor(settings: Settings, state: State) -> None:
    """Send SIGTERM to the supervisor, wait, and kill it if it does not exit."""
    if state.supervisor.alive():
        os.kill(state.supervisor.pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    while state.supervisor.alive() and time.monotonic() < deadline:
        time.sleep(0.1)
    terminate_sessions([state.supervisor], signal.SIGKILL, 0)


def _running(settings: Settings) -> State | None:
    with lock(settings, "supervisor", wait=False) as acquired:
        if acquired:
            return None
    # The supervisor acquires the lock shortly before it writes its first state.
    for _ in range(100):
        state = read_state(settings)
        if state is not None and state.supervisor.alive():
            return state
        time.sleep(0.1)
    raise VecapError(f"A supervisor holds {settings.folder} but does not respond; stop it, then run `make up` again")


def _stop_leftovers(settings: Settings, report: Report) -> bool:
    """Stop processes of a supervisor that was killed. Returns whether there were any."""
    state = read_state(settings)
    if state is None:
        return False
    leftovers = state.leaders if state.same_boot() else []
    if leftovers:
        report("Stopping processes of an earlier supervisor")
        postgres = {
            service.process.pid for name, service in state.services.items() if service.process and name == "postgres"
        }
        terminate_sessions([leader for leader in leftovers if leader.pid not in postgres], signal.SIGTERM, STOP_TIMEOUT)
        terminate_sessions([leader for leader in leftovers if leader.pid in postgres], signal.SIGINT, STOP_TIMEOUT)
    remove_state(settings)
    return bool(leftovers)


def _check_ports(settings: Settings) -> None:
    for port in settings.ports:
        if not is_port_free(port.number):
            raise VecapError(
                f"Port {port.number} for {port.purpose} is in use; "
                f"stop the process that uses it, or set {port.variable} to another port"
            )


def _launch(settings: Settings, report: Report) -> None:
    settings.logs.mkdir(parents=True, exist_ok=True)
    log = settings.logs / "supervisor.log"
    report(f"Starting services (logs in {settings.logs})")
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "vecap_tasks.local.supervisor"],
            cwd=settings.folder,
            env=settings.environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + 30
    while read_state(settings) is None:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise VecapError(f"The supervisor did not start: {last_log_line(log)}")
        time.sleep(0.05)


def _wait(settings: Settings, report: Report, shown: Meter) -> State:
    start = time.monotonic()
    reported: set[str] = set()
    while True:
        state = read_state(settings)
        if state is None or not state.supervisor.alive():
            reason = state.failure if state is not None else None
            _stop_leftovers(settings, report)
            raise VecapError(reason or f"The supervisor exited: {last_log_line(settings.logs / 'supervisor.log')}")
        if state.failure is not None:  # the supervisor is stopping the services
            time.sleep(_POLL_SECONDS)
            continue
        for name, service in state.services.items():
            if service.phase in (Phase.READY, Phase.DONE) and name not in reported:
                reported.add(name)
                report(f"{time.monotonic() - start:5.1f} s  {name} {service.phase}")
        if shown.is_bar:  # otherwise the lines show it
            shown.update(len(reported), len(state.services), "ready")
        if state.ready:
            return state
        if time.monotonic() - start > START_TIMEOUT:
            name, service = next((n, s) for n, s in state.services.items() if s.phase not in (Phase.READY, Phase.DONE))
            stop_supervisor(settings, state)
            _stop_leftovers(settings, report)
            raise VecapError(f"{name} was not ready after {START_TIMEOUT:.0f} s: {last_log_line(Path(service.log))}")
        time.sleep(_POLL_SECONDS)


def _with_ports(settings: Settings, state: State) -> Settings:
    def with_actual_number(port: Port) -> Port:
        return replace(port, number=state.ports[port.variable])

    return replace(
        settings,
        airflow=with_actual_number(settings.airflow),
        mlflow=with_actual_number(settings.mlflow),
        dask=with_actual_number(settings.dask),
        dashboard=with_actual_number(settings.dashboard),
        web=with_actual_number(settings.web),
    )


def _endpoints(settings: Settings, state: State) -> Endpoints:
    actual = _with_ports(settings, state)
    return Endpoints(
        airflow=actual.airflow.url,
        airflow_user=airflow.USER,
        airflow_password=airflow.password(actual),
        mlflow=f"{actual.mlflow.url}/{_mlflow_page(actual)}",
        dask=actual.dashboard.url,
        scheduler=actual.dask_address,
        certificate=actual.dask_certificate,
        web=actual.web.url,
    )


def _mlflow_page(settings: Settings) -> str:
    """Return the link to the models' runs in MLflow, or to the list of experiments if there is no model yet."""
    try:
        experiment = quote(f"vecap/{load_config(settings.config).dataset}/clip", safe="")
    except VecapError:  # the configuration file is needed only for its dataset
        return EXPERIMENTS_PAGE
    url = f"{settings.mlflow.url}/api/2.0/mlflow/experiments/get-by-name?experiment_name={experiment}"
    body = airflow.http_probe(url)
    return EXPERIMENTS_PAGE if body is None else runs_page(json.loads(body)["experiment"]["experiment_id"])
