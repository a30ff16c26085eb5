"""State of the supervisor: a JSON file, replaced atomically whenever a service changes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

import psutil

from vecap_tasks.local.process_tree import Process
from vecap_tasks.local.settings import Settings


class Phase(StrEnum):
    WAITING = "waiting"  # for its dependencies
    STARTING = "starting"
    READY = "ready"
    DOWN = "down"  # exited; will be restarted
    DONE = "done"  # a job that succeeded


@dataclass(slots=True)
class ServiceState:
    """Current state of one service. `log` is the path of its output."""

    phase: Phase
    log: str
    process: Process | None = None
    starts: int = 0
    waited: bool = True  # required for `State.ready`


@dataclass(slots=True)
class State:
    """One run of the supervisor. `ports` are by variable name; `failure` is the reason why it gave up."""

    supervisor: Process
    boot: float
    ports: dict[str, int]
    services: dict[str, ServiceState]
    failure: str | None = None
    leaders: list[Process] = field(default_factory=list)  # of all sessions that may still have processes

    @property
    def ready(self) -> bool:
        waited = (service for service in self.services.values() if service.waited)
        return all(service.phase in (Phase.READY, Phase.DONE) for service in waited)

    def same_boot(self) -> bool:
        """Return whether the machine has not rebooted since: after a reboot the recorded processes are gone."""
        return bool(abs(psutil.boot_time() - self.boot) < 60)

    def write(self, settings: Settings) -> None:
        file = _file(settings)
        temporary = file.with_name(f"{file.name}.{os.getpid()}")
        temporary.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        temporary.replace(file)


def read_state(settings: Settings) -> State | None:
    """Return the last written state, or None if it is missing or unreadable."""
    try:
        body = json.loads(_file(settings).read_text(encoding="utf-8"))
        services = {}
        for name, item in body["services"].items():
            process = Process(**item["process"]) if item["process"] else None
            phase, waited = Phase(item["phase"]), item.get("waited", True)
            services[name] = ServiceState(phase, item["log"], process, item["starts"], waited)
        return State(
            supervisor=Process(**body["supervisor"]),
            boot=body["boot"],
            ports=body["ports"],
            services=services,
            failure=body["failure"],
            leaders=[Process(**item) for item in body["leaders"]],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remove_state(settings: Settings) -> None:
    _file(settings).unlink(missing_ok=True)


def _file(settings: Settings) -> Path:
    return settings.folder / "state.json"


@contextmanager
def lock(settings: Settings, name: str, *, wait: bool) -> Iterator[bool]:
    """Acquire the lock *name* of this installation; yields whether it succeeded. The kernel releases it on exit."""
    settings.folder.mkdir(parents=True, exist_ok=True)
    with (settings.folder / f"{name}.lock").open("a") as stream:
        try:
            flock(stream, LOCK_EX if wait else LOCK_EX | LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
