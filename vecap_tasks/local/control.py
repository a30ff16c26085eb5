"""What a person does with the services: `up`, `down`, `status`.

`up` starts the supervisor unless it runs, waits until every service is ready and returns the addresses. `down` ends
the supervisor with all it started, and whatever an earlier one that was killed left behind.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from vecap_tasks.errors import VecapError
from vecap_tasks.local import airflow
from vecap_tasks.local.definitions import free
from vecap_tasks.local.process_tree import end_sessions
from vecap_tasks.local.settings import Port, Settings
from vecap_tasks.local.state import Phase, State, lock, read_state, remove_state
from vecap_tasks.local.supervisor import END_SECONDS, last_line

START_SECONDS = 240.0
_LOOK_SECONDS = 0.25
_STOP_SECONDS = 2 * END_SECONDS + 2
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the services are, Airflow's login and the certificate of Dask's scheduler. MLflow asks for no login."""

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


def up(settings: Settings, report: Report) -> Addresses:
    """Start what does not run yet and wait until all is ready; *report* gets a line for each step.

    Raises VecapError when a port is taken or a service cannot be started; nothing is left running then, unless the
    services ran before.
    """
    with lock(settings, "control", wait=True):
        running = _running(settings)
        if running is not None and running.ready:
            report("the services are running")
            return _addresses(settings, running)
        if running is None:
            _clean(settings, report)
            _check_ports(settings)
            _launch(settings, report)
    return _addresses(settings, _wait(settings, report))


def down(settings: Settings, report: Report) -> None:
    """End the services and only them. Does nothing where none run."""
    with lock(settings, "control", wait=True):
        state = _running(settings)
        if state is not None:
            report("ending the services")
            end_supervisor(settings, state)
        cleaned = _clean(settings, report)
        report("the services are down" if state is not None or cleaned else "no services are running")


def status(settings: Settings) -> State | None:
    """Return the state of the running supervisor, or None where none runs."""
    return _running(settings)


def addresses(settings: Settings) -> Addresses:
    """Return where the running services are. Raises VecapError where none run."""
    state = _running(settings)
    if state is None:
        raise VecapError("no services are running; start them with `make up`")
    return _addresses(settings, state)


def as_running(settings: Settings) -> Settings:
    """Return *settings* with the ports that the running services were started with."""
    state = _running(settings)
    return settings if state is None else _with_ports(settings, state)


def end_supervisor(settings: Settings, state: State) -> None:
    """Ask the supervisor to end, and see to it that it has."""
    if state.supervisor.alive():
        os.kill(state.supervisor.pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    while state.supervisor.alive() and time.monotonic() < deadline:
        time.sleep(0.1)
    end_sessions([state.supervisor], signal.SIGKILL, 0)


def _running(settings: Settings) -> State | None:
    with lock(settings, "supervisor", wait=False) as held:
        if held:
            return None
    # It holds the lock a moment before it writes its first state.
    for _ in range(100):
        state = read_state(settings)
        if state is not None and state.supervisor.alive():
            return state
        time.sleep(0.1)
    raise VecapError(f"a supervisor holds {settings.folder} but says nothing; end it, then run `make up` again")


def _clean(settings: Settings, report: Report) -> bool:
    """End what a supervisor that was killed left behind; say whether there was anything."""
    state = read_state(settings)
    if state is None:
        return False
    left = state.leaders if state.same_boot() else []
    if left:
        report("ending what an earlier supervisor left behind")
        own = {
            service.process.pid for name, service in state.services.items() if service.process and name == "postgres"
        }
        end_sessions([leader for leader in left if leader.pid not in own], signal.SIGTERM, END_SECONDS)
        end_sessions([leader for leader in left if leader.pid in own], signal.SIGINT, END_SECONDS)
    remove_state(settings)
    return bool(left)


def _check_ports(settings: Settings) -> None:
    for port in settings.ports:
        if not free(port.number):
            raise VecapError(
                f"port {port.number}, meant for {port.purpose}, is taken; "
                f"end what listens there, or set {port.variable} to another port"
            )


def _launch(settings: Settings, report: Report) -> None:
    settings.logs.mkdir(parents=True, exist_ok=True)
    log = settings.logs / "supervisor.log"
    report(f"starting the services (logs in {settings.logs})")
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
            raise VecapError(f"the supervisor did not start: {last_line(log)}")
        time.sleep(0.05)


def _wait(settings: Settings, report: Report) -> State:
    begin = time.monotonic()
    told: set[str] = set()
    while True:
        state = read_state(settings)
        if state is None or not state.supervisor.alive():
            reason = state.failure if state is not None else None
            _clean(settings, report)
            raise VecapError(reason or f"the supervisor ended: {last_line(settings.logs / 'supervisor.log')}")
        if state.failure is not None:  # it is ending what it started
            time.sleep(_LOOK_SECONDS)
            continue
        for name, service in state.services.items():
            if service.phase in (Phase.READY, Phase.DONE) and name not in told:
                told.add(name)
                report(f"{time.monotonic() - begin:5.1f} s  {name} {service.phase}")
        if state.ready:
            return state
        if time.monotonic() - begin > START_SECONDS:
            name, service = next((n, s) for n, s in state.services.items() if s.phase not in (Phase.READY, Phase.DONE))
            end_supervisor(settings, state)
            _clean(settings, report)
            raise VecapError(
                f"{name} was not ready after {START_SECONDS:.0f} s: {last_line(Path(service.log))}; all was ended again"
            )
        time.sleep(_LOOK_SECONDS)


def _with_ports(settings: Settings, state: State) -> Settings:
    def moved(port: Port) -> Port:
        return replace(port, number=state.ports[port.variable])

    return replace(
        settings,
        airflow=moved(settings.airflow),
        mlflow=moved(settings.mlflow),
        dask=moved(settings.dask),
        dashboard=moved(settings.dashboard),
        web=moved(settings.web),
    )


def _addresses(settings: Settings, state: State) -> Addresses:
    there = _with_ports(settings, state)
    return Addresses(
        airflow=there.airflow.url,
        airflow_user=airflow.USER,
        airflow_password=airflow.password(there),
        mlflow=there.mlflow.url,
        dask=there.dashboard.url,
        scheduler=there.dask_address,
        certificate=there.dask_certificate,
        web=there.web.url,
    )
