"""Time, CPU and memory of a command with all its child processes, or of a block of this process."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_INTERVAL = 0.05  # seconds between samples


@dataclass(frozen=True, slots=True)
class Usage:
    """`start` and `end` are monotonic times, `samples` are pairs of a time and the CPU seconds until then; `peak` is
    the largest total resident memory of the processes, in bytes."""

    start: float
    end: float
    cpu: float
    peak: int
    samples: tuple[tuple[float, float], ...]

    def cpu_since(self, moment: float) -> float:
        """Return the CPU seconds used after *moment*."""
        return self.cpu - max((cpu for at, cpu in self.samples if at <= moment), default=0.0)


def watch(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Usage:
    """Run *command* in *folder* to completion. Raises RuntimeError with the end of its output if it fails."""
    samples: list[tuple[float, float]] = []
    peak = 0
    log = folder / "command.log"
    with log.open("wb") as output:
        start = time.monotonic()
        child = subprocess.Popen(command, env=dict(environment), cwd=folder, stdout=output, stderr=output)
        while True:
            pid, status, used = os.wait4(child.pid, os.WNOHANG)
            if pid:
                break
            cpu, memory = used_by(child.pid)
            samples.append((time.monotonic(), cpu))
            peak = max(peak, memory)
            time.sleep(_INTERVAL)
        end = time.monotonic()
    child.returncode = os.waitstatus_to_exitcode(status)  # wait4 reaped it, for its children's CPU time
    if child.returncode:
        raise RuntimeError(f"{command[0]} exited with {child.returncode}: {log.read_text(errors='replace')[-2000:]}")
    return Usage(start, end, used.ru_utime + used.ru_stime, peak, tuple(samples))


def used_by(pid: int) -> tuple[float, int]:
    """Return CPU seconds and resident bytes of a process and its descendants."""
    cpu, memory = 0.0, 0
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return cpu, memory
    for process in processes:
        try:
            with process.oneshot():
                cpu += sum(process.cpu_times()[:4])  # including reaped children
                memory += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return cpu, memory


@dataclass
class Cost:
    """What a block cost: wall clock and CPU seconds, peak memory of the process and peak size of a folder, in bytes."""

    seconds: float = 0.0
    cpu: float = 0.0
    memory: int = 0
    disk: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def _watch(self, folder: Path, before: int) -> None:
        process = psutil.Process()
        while not self._stop.wait(_INTERVAL):
            self.memory = max(self.memory, process.memory_info().rss)
            self.disk = max(self.disk, size(folder) - before)


@contextmanager
def watching(folder: Path) -> Iterator[Cost]:
    """Yield the Cost of the block, which grows *folder*."""
    cost = Cost()
    watcher = threading.Thread(target=cost._watch, args=(folder, size(folder)))
    watcher.start()
    start, cpu = time.monotonic(), time.process_time()
    try:
        yield cost
    finally:
        cost.seconds, cost.cpu = time.monotonic() - start, time.process_time() - cpu
        cost._stop.set()
        watcher.join()
        cost.memory = max(cost.memory, psutil.Process().memory_info().rss)


def size(folder: Path) -> int:
    """Return the bytes on disk of the files under *folder*, which may come and go."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(where, name).stat().st_blocks * 512
    return total
