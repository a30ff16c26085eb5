"""Supervisor of the local services: start order, restarts, shutdown, and the Dask certificate."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from vecap_tasks.errors import VecapError, format_error
from vecap_tasks.local import airflow
from vecap_tasks.local.definitions import Service, service_definitions
from vecap_tasks.local.process_tree import Process, die_with_parent, terminate_sessions
from vecap_tasks.local.settings import Settings, write_private
from vecap_tasks.local.state import Phase, ServiceState, State, lock

_CERTIFICATE_LIFETIME = timedelta(days=5 * 365)
_RENEW_BEFORE = timedelta(days=365)  # services may run for a year without a restart
POLL_SECONDS = 0.25
HEALTH_CHECK_SECONDS = 1.0  # between two checks of a service that is starting
MAX_START_ATTEMPTS = 3  # of a service that was never ready
MAX_RESTART_DELAY = 30.0  # seconds
STOP_TIMEOUT = 7.0  # seconds for services to exit before SIGKILL
_MAX_LOG_BYTES = 20_000_000


def write_certificate(settings: Settings) -> None:
    """Create the certificate unless a valid one exists. Running services do not reload it."""
    file = settings.dask_certificate
    now = datetime.now(UTC)
    try:
        if x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc - now > _RENEW_BEFORE:
            return
    except (FileNotFoundError, ValueError):
        pass  # missing or corrupt
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "VeCap Dask")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # tolerates clock changes
        .not_valid_after(now + _CERTIFICATE_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.parent.chmod(0o700)
    write_private(file, (private + certificate.public_bytes(serialization.Encoding.PEM)).decode())


class ServiceProcess:
    """One service and its process."""

    def __init__(self, service: Service, log: Path) -> None:
        self.service = service
        self.state = ServiceState(Phase.WAITING, str(log), waited=service.waited)
        self.child: subprocess.Popen[bytes] | None = None
        self.was_ready = False
        self.failures = 0  # exits since it was last ready
        self.next_start = 0.0  # monotonic time
        self.next_check = 0.0  # monotonic time


class Supervisor:
    """Runs the services until `stop` is set."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.environment = settings.environment() | {"VECAP_SCHEDULE_FROM": airflow.installation_time(settings)}
        self.migrated_file = settings.airflow_home / "tables"
        self.airflow_version = version("apache-airflow")
        migrate = (
            not self.migrated_file.exists() or self.migrated_file.read_text(encoding="utf-8") != self.airflow_version
        )
        services = service_definitions(settings, migrate=migrate)
        self.processes = {s.name: ServiceProcess(s, settings.logs / f"{s.name}.log") for s in services}
        self.state = State(
            supervisor=Process.of(os.getpid()),
            boot=psutil.boot_time(),
            ports={port.variable: port.number for port in settings.ports},
            services={name: running.state for name, running in self.processes.items()},
        )
        self.stop = False

    def run(self) -> int:
        """Run the services until a signal arrives or a service fails to start. Returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: setattr(self, "stop", True))
        self.state.write(self.settings)
        while not self.stop and self.state.failure is None:
            changed = [self._step(running) for running in self.processes.values()]
            if any(changed):
                self.state.write(self.settings)
            time.sleep(POLL_SECONDS)
        self._shutdown()
        self.state.write(self.settings)
        return 0 if self.state.failure is None else 1

    def _step(self, running: ServiceProcess) -> bool:
        """Advance one service by one step. Returns whether its state changed."""
        now = time.monotonic()
        if running.state.phase in (Phase.WAITING, Phase.DOWN):
            dependencies = (self.processes[name].state.phase for name in running.service.needs)
            if now < running.next_start or any(phase not in (Phase.READY, Phase.DONE) for phase in dependencies):
                return False
            self._start(running)
            return True
        child = running.child
        if child is None or running.state.phase is Phase.DONE:
            return False
        code = child.poll()
        if code is not None:
            self._handle_exit(running, code)
            return True
        if running.state.phase is Phase.STARTING and not running.service.job and now >= running.next_check:
            running.next_check = now + HEALTH_CHECK_SECONDS
            if running.service.ready():
                running.state.phase = Phase.READY
                running.was_ready = True
                running.failures = 0
                return True
        return False

    def _start(self, running: ServiceProcess) -> None:
        log = Path(running.state.log)
        if log.exists() and log.stat().st_size > _MAX_LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        with log.open("ab") as output:
            running.child = subprocess.Popen(
                running.service.command,
                cwd=self.settings.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # Safe: this process is single-threaded.
                preexec_fn=_death_signal(os.getpid(), running.service.stop),
            )
        running.state.process = Process.of(running.child.pid)
        self.state.leaders.append(running.state.process)
        running.state.phase = Phase.STARTING
        running.state.starts += 1
        self._log(f"{running.service.name} started, pid {running.child.pid}")

    def _handle_exit(self, running: ServiceProcess, code: int) -> None:
        name = running.service.name
        if running.service.job and code == 0:
            running.state.phase = Phase.DONE
            if name == "airflow-tables":
                self.migrated_file.write_text(self.airflow_version, encoding="utf-8")
            return
        running.failures += 1
        self._log(f"{name} exited with code {code}")
        if running.state.process is not None:
            terminate_sessions([running.state.process], running.service.stop, 0)
            self.state.leaders.remove(running.state.process)
        running.state.phase = Phase.DOWN
        running.next_start = time.monotonic() + min(MAX_RESTART_DELAY, 2.0 ** (running.failures - 1))
        if not running.was_ready and running.failures >= MAX_START_ATTEMPTS:
            self.state.failure = f"{name} failed to start: {last_log_line(Path(running.state.log))}"

    def _shutdown(self) -> None:
        self._log("stopping services")
        start = time.monotonic()
        for last in (False, True):
            group = [running for running in self.processes.values() if running.service.last == last]
            leaders = [running.state.process for running in group if running.state.process is not None]
            stop = group[0].service.stop
            terminate_sessions(leaders, stop, STOP_TIMEOUT)
        self.state.leaders = []
        for running in self.processes.values():
            running.state.phase = Phase.DOWN
        self._log(f"stopped in {time.monotonic() - start:.1f} s")

    @staticmethod
    def _log(text: str) -> None:
        print(time.strftime("%Y-%m-%d %H:%M:%S"), text, flush=True)


def _death_signal(parent: int, number: signal.Signals) -> Callable[[], None]:
    return lambda: die_with_parent(parent, number)


def last_log_line(log: Path) -> str:
    """Return the last non-empty line of a service's log, and the path of the log."""
    try:
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        lines = []
    lines = [line for line in lines if line]
    return f"{lines[-1][:300]} (see {log})" if lines else f"no output (see {log})"


def main() -> int:
    settings = Settings.from_environment()
    with lock(settings, "supervisor", wait=False) as acquired:
        if not acquired:
            print("A supervisor is already running for this VECAP_HOME", file=sys.stderr)
            return 1
        settings.logs.mkdir(parents=True, exist_ok=True)
        try:
            airflow.write_settings(settings)
            write_certificate(settings)
            (settings.home / "web" / "sites").mkdir(parents=True, exist_ok=True)  # the server needs the folder
            return Supervisor(settings).run()
        except (OSError, VecapError) as error:
            print(format_error(error), file=sys.stderr)
            return 1


if __name__ == "__main__":
    sys.exit(main())
