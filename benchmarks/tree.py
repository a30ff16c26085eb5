"""What a command and all processes under it take: time, processor and memory."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_INTERVAL = 0.05  # seconds between two looks


@dataclass(frozen=True, slots=True)
class Usage:
    """`start` and `end` are on the monotonic clock, `looks` pairs of a moment and the seconds of CPU up to it;
    `peak` is the largest sum of the processes' resident memory, bytes."""

    start: float
    end: float
    cpu: float
    peak: int
    looks: tuple[tuple[float, float], ...]

    def cpu_since(self, moment: float) -> float:
        """Return the seconds of CPU that were used after *moment*."""
        return self.cpu - max((cpu for at, cpu in self.looks if at <= moment), default=0.0)


def watch(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Usage:
    """Run *command* in *folder* to its end. Raises RuntimeError with the end of what it said where it fails."""
    looks: list[tuple[float, float]] = []
    peak = 0
    log = folder / "command.log"
    with log.open("wb") as said:
        start = time.monotonic()
        child = subprocess.Popen(command, env=dict(environment), cwd=folder, stdout=said, stderr=said)
        while True:
            pid, status, used = os.wait4(child.pid, os.WNOHANG)
            if pid:
                break
            cpu, memory = _tree(child.pid)
            looks.append((time.monotonic(), cpu))
            peak = max(peak, memory)
            time.sleep(_INTERVAL)
        end = time.monotonic()
    child.returncode = os.waitstatus_to_exitcode(status)  # it was waited for here, for its children's CPU
    if child.returncode:
        raise RuntimeError(f"{command[0]} ended with {child.returncode}: {log.read_text(errors='replace')[-2000:]}")
    return Usage(start, end, used.ru_utime + used.ru_stime, peak, tuple(looks))


def _tree(pid: int) -> tuple[float, int]:
    """Return CPU seconds and resident bytes of a process and those under it."""
    cpu, memory = 0.0, 0
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return cpu, memory
    for process in processes:
        try:
            with process.oneshot():
                cpu += sum(process.cpu_times()[:4])  # its own and that of children it has waited for
                memory += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return cpu, memory
