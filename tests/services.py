"""Servers as processes that tests can kill and start again with their data: MLflow, SeaweedFS, a model server."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.installation import free_ports
from vecap_tasks.local.airflow import http_probe

_ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclass
class Service:
    """A server at *url* that `command` starts. Its output is appended to `log`; *path* answers when it is ready."""

    command: Sequence[str]
    url: str
    log: Path
    path: str = ""
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        """Start the server without waiting for it."""
        with self.log.open("a") as stream:
            self.process = subprocess.Popen(
                self.command,
                env=os.environ | _ENVIRONMENT,
                cwd=self.log.parent,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_ready(self, seconds: float = 400) -> None:
        deadline = time.monotonic() + seconds
        while http_probe(f"{self.url}{self.path}") is None:
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill the server as in a power failure."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(60)
            self.process = None


@contextmanager
def running(service: Service) -> Iterator[Service]:
    """Start *service*, wait until it is ready, and kill it at the end of the block."""
    service.start()
    try:
        service.wait_until_ready()
        yield service
    finally:
        service.kill()


def mlflow(home: Path) -> Service:
    """Return an MLflow server with its data in *home*, as the services start it."""
    (port,) = free_ports(1)
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{home}/server.db", "--artifacts-destination", str(home / "artifacts")),
    ]
    return Service(command, f"http://127.0.0.1:{port}", home / "server.log", "/health")


def seaweedfs(folder: Path) -> Service:
    """Return the S3 server of the deployment, as `docker/s3.sh` starts it, without identities."""
    ports = _seaweedfs_ports()
    command = [
        *(str(Path(sys.executable).with_name("weed")), "server", f"-dir={folder}", "-ip=127.0.0.1", "-filer", "-s3"),
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        *("-master.volumeSizeLimitMB=64", "-volume.max=0", *(f"-{name}={port}" for name, port in ports.items())),
    ]
    return Service(command, f"http://127.0.0.1:{ports['s3.port']}", folder / "server.log")


def model_server(folder: Path) -> Service:
    """Return a chat-completions server that repeats its requests; its log has a line for each answer."""
    (port,) = free_ports(1)
    command = [sys.executable, str(Path(__file__).parent / "faults" / "model_server.py"), str(port)]
    return Service(command, f"http://127.0.0.1:{port}/v1", folder / "model.log", "/models")


def _seaweedfs_ports() -> dict[str, int]:
    """Return free ports by option. SeaweedFS uses port + 10000 for gRPC."""
    ports: dict[str, int] = {}
    for name in ("master.port", "volume.port", "filer.port", "s3.port"):
        while name not in ports:
            port = random.randrange(11_000, 22_000)
            with suppress(OSError), socket.socket() as one, socket.socket() as other:
                one.bind(("127.0.0.1", port))
                other.bind(("127.0.0.1", port + 10_000))
                if port not in ports.values():
                    ports[name] = port
    return ports
