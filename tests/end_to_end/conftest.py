"""A small miniature web served on localhost, and `vecap` run as a process."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import build_once
from tests.installation import IMAGES, INTERVAL, REPOSITORY, wait_until
from vecap_tasks.cli.__main__ import main
from vecap_tasks.local.definitions import is_listening


@dataclass(frozen=True, slots=True)
class Place:
    """One installation: its files, the port of the web it crawls, and its configuration."""

    home: Path
    port: int
    config: Path

    def command(self, name: str, *options: str) -> list[str]:
        return [sys.executable, "-m", "vecap_tasks.cli", name, "--config", str(self.config), *options]

    @property
    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("VECAP_", "MLFLOW_"))}
        settings = {"VECAP_HOME": str(self.home), "VECAP_WEB_PORT": str(self.port), "OMP_NUM_THREADS": "1"}
        return inherited | settings

    def vecap(self, name: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a separate process."""
        command = self.command(name, *options)
        return subprocess.run(
            command, env=self.environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=1000
        )

    def run_in_process(self, name: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Run a command in this process, which is faster."""
        out, err = io.StringIO(), io.StringIO()
        arguments = self.command(name, *options)[3:]
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            for variable in set(os.environ) - set(self.environment):
                patch.delenv(variable)
            for variable, value in self.environment.items():
                patch.setenv(variable, value)
            patch.chdir(REPOSITORY)
            code = main(arguments)
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    def vecap_until(self, name: str, moment: Path, *options: str) -> bool:
        """Run a command and kill it, with its workers, once *moment* exists; False if it ended before."""
        process = subprocess.Popen(
            self.command(name, *options),
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
def web(tmp_path_factory: pytest.TempPathFactory, shared_folder: Path, small: Path) -> Iterator[Place]:
    """A served miniature web; other installations link to it."""
    home = tmp_path_factory.mktemp("web")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = Place(home, port, small)
    demo = [sys.executable, "-m", "vecap_tasks.cli", "demo"]

    def generate(folder: Path) -> None:
        command = [*demo, "web", "--out", str(folder), "--images", str(IMAGES)]
        subprocess.run(command, env=place.environment, cwd=REPOSITORY, check=True)

    (home / "web").symlink_to(build_once(shared_folder / "miniature-web", generate))
    server = subprocess.Popen([*demo, "serve"], env=place.environment, cwd=REPOSITORY)
    wait_until(lambda: is_listening(port), 60, "the miniature web", 0.1)
    yield place
    server.terminate()
    server.wait(30)


@pytest.fixture
def place(web: Place, tmp_path: Path) -> Place:
    """An empty installation connected to the miniature web."""
    (tmp_path / "web").symlink_to(web.home / "web")
    return Place(tmp_path, web.port, web.config)


@pytest.fixture(scope="session")
def undisturbed(web: Place, shared_folder: Path) -> Place:
    """An installation in which one interval ran through all stages without interruption; tests only read it."""

    def run(home: Path) -> None:
        (home / "web").symlink_to(web.home / "web")
        result = Place(home, web.port, web.config).vecap("run", "--version", INTERVAL)
        assert result.returncode == 0, result.stderr

    return Place(build_once(shared_folder / "undisturbed", run), web.port, web.config)
