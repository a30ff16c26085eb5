"""Keeps the services of one machine running: start order, restarts, shutdown; Dask certificate."""

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
from vecap_tasks.local.process_tree import Process, die_with_parent, end_sessions
from vecap_tasks.local.settings import Settings, write_private
from vecap_tasks.local.state import Phase, ServiceState, State, lock

_VALID = timedelta(days=5 * 365)
_RENEWED = timedelta(days=365)  # before its end: services that keep running for a year have a valid certificate
TICK_SECONDS = 0.25
HEALTH_SECONDS = 1.0  # between two looks at a service that is starting
FIRST_STARTS = 3  # attempts before a service that never got ready is given up
LONGEST_PAUSE = 30.0  # seconds between two starts of a service that keeps dying
END_SECONDS = 7.0  # that services have to end by themselves
_LOG_BYTES = 20_000_000


def write_certificate(settings: Settings) -> None:
    """Make the certificate, unless a valid one exists. Only for services that are not running: they read it once."""
    file = settings.dask_certificate
    now = datetime.now(UTC)
    try:
        if x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc - now > _RENEWED:
            return
    except (FileNotFoundError, ValueError):
        pass  # none yet, or a damaged one
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "VeCap Dask")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # a clock may be set back
        .not_valid_after(now + _VALID)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.parent.chmod(0o700)
    write_private(file, (private + certificate.public_bytes(serialization.Encoding.PEM)).decode())


class Running:
    """One service and its process."""

    def __init__(self, service: Service, log: Path) -> None:
        self.service = service
        self.state = ServiceState(Phase.WAITING, str(log), waited=service.waited)
        self.child: subprocess.Popen[bytes] | None = None
        self.was_ready = False
        self.failures = 0  # ends since it was last ready
        self.not_before = 0.0  # monotonic time of the next start
        self.next_look = 0.0


class Supervisor:
    """Runs the service_definitions until `stop` is set."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.environment = settings.environment() | {"VECAP_SCHEDULE_FROM": airflow.installed(settings)}
        self.stamp = settings.airflow_home / "tables"
        self.release = version("apache-airflow")
        migrate = not self.stamp.exists() or self.stamp.read_text(encoding="utf-8") != self.release
        services = service_definitions(settings, migrate=migrate)
        self.running = {s.name: Running(s, settings.logs / f"{s.name}.log") for s in services}
        self.state = State(
            supervisor=Process.of(os.getpid()),
            boot=psutil.boot_time(),
            ports={port.variable: port.number for port in settings.ports},
            services={name: running.state for name, running in self.running.items()},
        )
        self.stop = False

    def run(self) -> int:
        """Start everything and stay until a signal, or until a service cannot be started. Return the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: setattr(self, "stop", True))
        self.state.write(self.settings)
        while not self.stop and self.state.failure is None:
            changed = [self._step(running) for running in self.running.values()]
            if any(changed):
                self.state.write(self.settings)
            time.sleep(TICK_SECONDS)
        self._end()
        self.state.write(self.settings)
        return 0 if self.state.failure is None else 1

    def _step(self, running: Running) -> bool:
        """Take one service one step on; say whether something changed."""
        now = time.monotonic()
        if running.state.phase in (Phase.WAITING, Phase.DOWN):
            needed = (self.running[name].state.phase for name in running.service.needs)
            if now < running.not_before or any(phase not in (Phase.READY, Phase.DONE) for phase in needed):
                return False
            self._start(running)
            return True
        child = running.child
        if child is None or running.state.phase is Phase.DONE:
            return False
        code = child.poll()
        if code is not None:
            self._ended(running, code)
            return True
        if running.state.phase is Phase.STARTING and not running.service.job and now >= running.next_look:
            running.next_look = now + HEALTH_SECONDS
            if running.service.ready():
                running.state.phase = Phase.READY
                running.was_ready = True
                running.failures = 0
                return True
        return False

    def _start(self, running: Running) -> None:
        log = Path(running.state.log)
        if log.exists() and log.stat().st_size > _LOG_BYTES:
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
                # Safe: this process has one thread.
                preexec_fn=_dying_with(os.getpid(), running.service.stop),
            )
        running.state.process = Process.of(running.child.pid)
        self.state.leaders.append(running.state.process)
        running.state.phase = Phase.STARTING
        running.state.starts += 1
        self._say(f"{running.service.name} started as process {running.child.pid}")

    def _ended(self, running: Running, code: int) -> None:
        name = running.service.name
        if running.service.job and code == 0:
            running.state.phase = Phase.DONE
            if name == "airflow-tables":
                self.stamp.write_text(self.release, encoding="utf-8")
            return
        running.failures += 1
        self._say(f"{name} ended with exit code {code}")
        if running.state.process is not None:
            end_sessions([running.state.process], running.service.stop, 0)
            self.state.leaders.remove(running.state.process)
        running.state.phase = Phase.DOWN
        running.not_before = time.monotonic() + min(LONGEST_PAUSE, 2.0 ** (running.failures - 1))
        if not running.was_ready and running.failures >= FIRST_STARTS:
            self.state.failure = f"{name} cannot be started: {last_line(Path(running.state.log))}"

    def _end(self) -> None:
        self._say("ending")
        begin = time.monotonic()
        for last in (False, True):
            group = [running for running in self.running.values() if running.service.last == last]
            leaders = [running.state.process for running in group if running.state.process is not None]
            stop = group[0].service.stop
            end_sessions(leaders, stop, END_SECONDS)
        self.state.leaders = []
        for running in self.running.values():
            running.state.phase = Phase.DOWN
        self._say(f"ended in {time.monotonic() - begin:.1f} s")

    @staticmethod
    def _say(text: str) -> None:
        print(time.strftime("%Y-%m-%d %H:%M:%S"), text, flush=True)


def _dying_with(parent: int, number: signal.Signals) -> Callable[[], None]:
    return lambda: die_with_parent(parent, number)


def last_line(log: Path) -> str:
    """Return the last line of a service's log that says something, and where the log lies."""
    try:
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        lines = []
    said = [line for line in lines if line]
    return f"{said[-1][:300]} (see {log})" if said else f"it said nothing (see {log})"


def main() -> int:
    settings = Settings.from_environment()
    with lock(settings, "supervisor", wait=False) as held:
        if not held:
            print("the services of this VECAP_HOME have a supervisor already", file=sys.stderr)
            return 1
        settings.logs.mkdir(parents=True, exist_ok=True)
        try:
            airflow.write_settings(settings)
            write_certificate(settings)
            (settings.home / "web" / "sites").mkdir(parents=True, exist_ok=True)  # nothing to serve yet is no error
            return Supervisor(settings).run()
        except (OSError, VecapError) as error:
            print(format_error(error), file=sys.stderr)
            return 1


if __name__ == "__main__":
    sys.exit(main())
