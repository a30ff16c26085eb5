"""An installation of the services with a small configuration, in its own folder and on its own ports."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from vecap_tasks.config import load_config
from vecap_tasks.errors import VecapError
from vecap_tasks.local.airflow import Api
from vecap_tasks.local.process_tree import terminate_sessions
from vecap_tasks.local.settings import Settings
from vecap_tasks.local.state import State, read_state

REPOSITORY = Path(__file__).resolve().parent.parent
DEMO = REPOSITORY / "configs" / "demo.yaml"
INTERVAL = "2026-01-01"
IMAGES = 60
SMALL = (
    "crawl.shard_size=32",
    "rewrite.shard_size=30",
    "assemble.shard_size=32",
    "train.arms=[alttext,vecap]",
    "train.seeds=[0]",
    "train.epochs=2",
    "train.batch_size=16",
    "train.checkpoint_steps=1",
    "dask.workers=2",
)
VARIABLES = (
    "VECAP_AIRFLOW_PORT",
    "VECAP_MLFLOW_PORT",
    "VECAP_DASK_PORT",
    "VECAP_DASK_DASHBOARD_PORT",
    "VECAP_WEB_PORT",
)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for item in sockets:
        item.bind(("127.0.0.1", 0))
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports


def environment(home: Path) -> dict[str, str]:
    """Return the environment of an installation in *home*, on free ports."""
    ports = map(str, free_ports(len(VARIABLES)))
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("VECAP_", "AIRFLOW", "MLFLOW_"))}
    return inherited | {"VECAP_HOME": str(home)} | dict(zip(VARIABLES, ports, strict=True))


def services(command: str, env: dict[str, str], timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vecap_tasks.local", command],
        env=env,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def started_under(home: Path) -> list[psutil.Process]:
    """Return processes with *home* in their command line, or with a working directory in it."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(home) in " ".join(process.cmdline()) or process.cwd().startswith(str(home)):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def small_config(folder: Path) -> Path:
    """Write the demo configuration with a small training to *folder*. Its outputs have the same bytes anywhere."""
    values = yaml.safe_load(DEMO.read_text(encoding="utf-8"))
    models = REPOSITORY / "vecap_tasks" / "demo" / "models"
    values["rewrite"]["vlm"]["model"] = str(models / "vlm")
    values["rewrite"]["llm"]["model"] = values["train"]["model"]["tokenizer"] = str(models / "llm")
    config = folder / "small.yaml"
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    config.write_text(load_config(config, list(SMALL)).model_dump_json(), encoding="utf-8")  # JSON is YAML
    return config


@dataclass(frozen=True, slots=True)
class Installation:
    """A home folder, and the environment with its configuration and ports."""

    home: Path
    env: dict[str, str]

    @property
    def settings(self) -> Settings:
        return Settings.from_environment(self.env)

    @property
    def store(self) -> Path:
        return self.home / "store" / "demo"

    def vecap(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "vecap_tasks.cli", *words]
        return subprocess.run(command, env=self.env, cwd=REPOSITORY, capture_output=True, text=True, timeout=1000)

    def configured(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command with the configuration."""
        return self.vecap(name, "--config", self.env["VECAP_CONFIG"], *words)

    def airflow(self, *words: str) -> subprocess.CompletedProcess[str]:
        env = self.env | {"AIRFLOW_HOME": str(self.settings.airflow_home)}
        command = [sys.executable, "-m", "airflow", *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=400)

    def demo(self) -> subprocess.Popen[str]:
        """Start the process of `make demo`."""
        return subprocess.Popen(
            [sys.executable, "-m", "vecap_tasks.local.demo"],
            env=self.env,
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def demo_killed_at(self, folder: Path, pattern: str) -> None:
        """Run the demo until *pattern* exists in *folder*, then kill it and all services, as in a power failure."""
        process = self.demo()
        wait_until(lambda: any(folder.glob(pattern)) or process.poll() is not None, 600, f"{folder}/{pattern}", 0.02)
        assert process.poll() is None, process.communicate()[0]
        process.kill()
        state = self.state()
        os.kill(state.supervisor.pid, signal.SIGKILL)
        terminate_sessions(state.leaders, signal.SIGKILL, 0)
        process.communicate()

    def state(self) -> State:
        found = read_state(self.settings)
        assert found is not None
        return found

    def digests(self, version: str) -> dict[str, str]:
        """Return the digest of every stage of *version*, by folder."""
        folder = self.store / version
        found = sorted([*folder.glob("*/manifest.json"), *folder.glob("*/*/manifest.json")])
        return {str(path.parent.relative_to(folder)): json.loads(path.read_bytes())["digest"] for path in found}


def wait_until(condition: Callable[[], bool], seconds: float, what: str, pause: float = 0.5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"timeout waiting for {what}"
        time.sleep(pause)


def get_with_retries(api: Api, path: str) -> Any:
    """Return the JSON at *path*; retry if a busy server fails, as the demo does."""

    for wait in (1, 2, 4):
        try:
            return api.get(path)
        except VecapError:
            time.sleep(wait)
    return api.get(path)
