"""The process that reads inputs, which may hang or crash, and the description of what it finds."""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import re
import resource
import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

MAX_SECONDS = 2.0  # CPU time of an input
MAX_GROWTH = 512 << 20  # bytes of memory of an input
STACKS, INPUT = "stacks", "input"  # file names
_ADDRESS_SPACE = 12 << 30  # bytes; protects the machine from a leak between two checks
_MIB = 1 << 20
_FRAME = re.compile(r'File "([^"]+)", line (\d+) in (\w+)')


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with one input. `where` is the innermost line of the package."""

    problem: str  # error, unexpected, hang, crash or memory
    what: str  # type and text of the exception, or the signal
    where: str
    number: float = 0.0  # seconds, or MiB

    @property
    def signature(self) -> tuple[str, str, str]:
        """Equal for findings with the same cause."""
        return self.problem, self.what.partition(":")[0], self.where


@dataclass(slots=True)
class Result:
    """The result of one input."""

    rows: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0
    growth: int = 0
    data: bytes = b""  # the input, if there are findings


def run(connection: Connection, kind_name: str, seed: str, start: int, stop: int, folder: str) -> None:
    """Read the inputs *start* to *stop*. Send None before each one and its Result afterwards.

    The file INPUT in *folder* has the input. Python stacks go to the file STACKS after SIGUSR1 or a crash.
    """
    from benchmarks.fuzz_kinds import KINDS
    from benchmarks.fuzz_outcome import use_folder

    use_folder(Path(folder))
    with Path(folder, STACKS).open("w") as file:
        faulthandler.enable(file)
        faulthandler.register(signal.SIGUSR1, file, all_threads=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # C libraries print warnings
        resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
        kind = KINDS[kind_name]
        with recorded_errors() as errors:
            for index in range(start, stop):
                data = kind.input(f"{seed}/{kind_name}/{index}")
                Path(folder, INPUT).write_bytes(data)
                connection.send(None)
                result = read(kind_name, data, errors)
                if result.findings:
                    result.data = data
                connection.send(result)
    connection.close()
    os._exit(0)  # the readers' threads have nothing to finish


def read(kind_name: str, data: bytes, errors: list[Finding]) -> Result:
    """Read *data* and return the result. *errors* collects errors that a reader counts as `unexpected`."""
    from benchmarks.fuzz_kinds import KINDS
    from benchmarks.fuzz_readers import inline_pool

    result = Result()
    memory, peak, started = _memory(), _peak(), time.process_time()
    try:
        with inline_pool():
            outcome = KINDS[kind_name].read(data)
        result.rows, result.refused = outcome.rows, outcome.refused
    except MemoryError as error:
        result.findings.append(Finding("memory", "MemoryError", _where(error.__traceback__)))
    except Exception as error:
        result.findings.append(Finding("error", describe(error), _where(error.__traceback__)))
    result.seconds = time.process_time() - started
    result.findings += errors
    errors.clear()
    if result.seconds > MAX_SECONDS:
        result.findings.append(Finding("hang", "finished", "", result.seconds))
    if _peak() > peak and (growth := _peak() - memory) > 0:
        result.growth = growth
        if growth > MAX_GROWTH:
            result.findings.append(Finding("memory", "peak", "", growth / _MIB))
    return result


def describe(error: BaseException) -> str:
    """Return type and text of *error* on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _where(trace: TracebackType | None) -> str:
    """Return the innermost line in the package, or else the innermost line of all."""
    frames = traceback.extract_tb(trace)
    own = [frame for frame in frames if "vecap_tasks" in frame.filename]
    for frame in reversed(own or frames):
        return f"{_short(frame.filename)}:{frame.lineno} {frame.name}"
    return ""


def where_in_stacks(stacks: str) -> str:
    """Return the innermost line of the package in the output of faulthandler."""
    frames = _FRAME.findall(stacks)
    own = [frame for frame in frames if "vecap_tasks" in frame[0]]
    for name, line, function in own or frames:
        return f"{_short(name)}:{line} {function}"
    return ""


def _short(name: str) -> str:
    return name[name.rfind("vecap_tasks") :] if "vecap_tasks" in name else "/".join(name.split("/")[-2:])


@contextmanager
def recorded_errors() -> Iterator[list[Finding]]:
    """Collect the errors that `failure_of` logs, and silence everything else."""
    findings: list[Finding] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and record.exc_info[1] is not None:
                error = record.exc_info[1]
                findings.append(Finding("unexpected", describe(error), _where(error.__traceback__)))

    log, root, handler = logging.getLogger("vecap_tasks.errors"), logging.getLogger(), Handler()
    levels = log.level, root.level
    log.setLevel(logging.DEBUG)
    root.setLevel(logging.CRITICAL)
    log.addHandler(handler)
    log.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield findings
    finally:
        log.removeHandler(handler)
        log.propagate = True
        log.setLevel(levels[0])
        root.setLevel(levels[1])


def _memory() -> int:
    """Return the resident memory in bytes."""
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def shrink(kind_name: str, data: bytes, signature: tuple[str, str, str], seconds: float) -> bytes:
    """Return a short input with the same error, by removing ranges for at most *seconds*. Runs in this process."""
    until = time.monotonic() + seconds

    def fails(candidate: bytes) -> bool:
        found = read(kind_name, candidate, errors).findings
        return any(finding.signature == signature for finding in found)

    with recorded_errors() as errors:
        size = max(1, len(data) // 2)
        while size and time.monotonic() < until:
            start, changed = 0, False
            while start < len(data) and time.monotonic() < until:
                candidate = data[:start] + data[start + size :]
                if fails(candidate):
                    data, changed = candidate, True
                else:
                    start += size
            size = size if changed and size > 1 else size // 2
    gc.collect()
    return data
