"""What the supervisor tells others: a small file, replaced whole whenever a service changes."""

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
    WAITING = "waiting"  # for what it needs
    STARTING = "starting"
    READY = "ready"
    DOWN = "down"  # ended by itself; started again in a moment
    DONE = "done"  # a job, not a service: it did its work


@dataclass(slots=True)
class ServiceState:
    """One service as it is now. `log` is where its output goes."""

    phase: Phase
    log: str
    process: Process | None = None
    starts: int = 0
    waited: bool = True  # counts for the whole to be ready


@dataclass(slots=True)
class State:
    """One run of the supervisor. `ports` are by variable name; `failure` says why it gave up, if it did."""

    supervisor: Process
    boot: float
    ports: dict[str, int]
    services: dict[str, ServiceState]
    failure: str | None = None
    leaders: list[Process] = field(default_factory=list)  # every session ever opened and not yet seen empty

    @property
    def ready(self) -> bool:
        waited = (service for service in self.services.values() if service.waited)
        return all(service.phase in (Phase.READY, Phase.DONE) for service in waited)

    def same_boot(self) -> bool:
        """Say whether the machine still runs as it did then: after a restart no recorded process can be meant."""
        return bool(abs(psutil.boot_time() - self.boot) < 60)

    def write(self, settings: Settings) -> None:
        file = _file(settings)
        aside = file.with_name(f"{file.name}.{os.getpid()}")
        aside.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        aside.replace(file)


def read_state(settings: Settings) -> State | None:
    """Return what was last written, or None where nothing readable was."""
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
    """Hold the lock *name* of this installation, if it can be had. The kernel releases it however a holder ends."""
    settings.folder.mkdir(parents=True, exist_ok=True)
    with (settings.folder / f"{name}.lock").open("a") as stream:
        try:
            flock(stream, LOCK_EX if wait else LOCK_EX | LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
