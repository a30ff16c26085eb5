"""The miniature web, small, served on localhost, and `vecap` run as a person runs it: as a process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.installation import IMAGES, INTERVAL, REPOSITORY


@dataclass(frozen=True, slots=True)
class Place:
    """One installation: its files, the address of the web it crawls, and its configuration."""

    home: Path
    port: int
    config: Path

    def command(self, name: str, *more: str) -> list[str]:
        return [sys.executable, "-m", "vecap_tasks.cli", name, "--config", str(self.config), *more]

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("VECAP_", "MLFLOW_"))}
        ours = {"VECAP_HOME": str(self.home), "VECAP_WEB_PORT": str(self.port), "OMP_NUM_THREADS": "1"}
        return kept | ours

    def vecap(self, name: str, *more: str) -> subprocess.CompletedProcess[str]:
        """Run one command to its end."""
        command = self.command(name, *more)
        return subprocess.run(
            command, env=self.environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=1000
        )

    def vecap_until(self, name: str, moment: Path, *more: str) -> bool:
        """Run a command and kill it, with its workers, once *moment* exists; False where it ended before."""
        process = subprocess.Popen(
            self.command(name, *more),
            env=self.environment,
            cwd=REPOSITORY,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                if moment.exists():
                    return True
                time.sleep(0.005)
            return False
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="session")
def web(tmp_path_factory: pytest.TempPathFactory, small: Path) -> Iterator[Place]:
    """A miniature web that is served; other installations link to it."""
    home = tmp_path_factory.mktemp("web")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = Place(home, port, small)
    made = [sys.executable, "-m", "vecap_tasks.cli", "demo"]
    subprocess.run([*made, "web", "--images", str(IMAGES)], env=place.environment, cwd=REPOSITORY, check=True)
    server = subprocess.Popen([*made, "serve"], env=place.environment, cwd=REPOSITORY)
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield place
    server.terminate()
    server.wait(30)


@pytest.fixture
def place(web: Place, tmp_path: Path) -> Place:
    """An empty installation that crawls the miniature web."""
    (tmp_path / "web").symlink_to(web.home / "web")
    return Place(tmp_path, web.port, web.config)


@pytest.fixture(scope="session")
def undisturbed(web: Place, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """An installation in which one interval went all the way without disturbance."""
    home = tmp_path_factory.mktemp("undisturbed")
    (home / "web").symlink_to(web.home / "web")
    place = Place(home, web.port, web.config)
    done = place.vecap("run", "--version", INTERVAL)
    assert done.returncode == 0, done.stderr
    return place
