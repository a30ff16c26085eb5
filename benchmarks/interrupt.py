"""Interrupts `vecap run` with Ctrl-C at random moments and checks how it ends.

    python -m benchmarks.interrupt [--moments 50] [--seed 0] [--json FILE]

A small miniature web is crawled through all stages. Like a terminal, each interruption sends SIGINT to the whole
process group, at a random time after the command handles it (about 0.1 s after its start, when Python has started). The
runs are interrupted five times in each store, which begins before crawl, quality, … in turn; the last run must end
with the digests of an uninterrupted one. A moment passes if the exit code is 130, standard error ends with the one line
and has no traceback, and no process or temporary file is left. Exits with 1 if one fails.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import psutil

from benchmarks.report import Measure, report
from tests.installation import INTERVAL, REPOSITORY, free_ports, small_config
from vecap_tasks.local.definitions import is_listening

LINE = "vecap: Interrupted; run the same command again to resume"
IMAGES = 40
EARLY, EARLY_SECONDS, LATE_SECONDS = 0.3, 2.0, 20.0  # share of moments during imports; longest times
PER_HOME = 5
_MARK = "VECAP_INTERRUPT_DRILL"
STAGES = ("crawl", "quality", "rewrite", "assemble", "train", "evaluate")
_BLOCKED = re.compile(r"^SigBlk:\s*([0-9a-f]+)$", re.MULTILINE)


@dataclass(slots=True)
class Outcome:
    """One run: when it was interrupted (seconds, None if it ended before), during what, and what was wrong."""

    moment: float | None
    where: str
    latency: float = 0.0
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Place:
    """A home for runs. *port* is that of the miniature web."""

    home: Path
    config: Path
    port: int

    @property
    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("VECAP_", "MLFLOW_"))}
        own = {"VECAP_HOME": str(self.home), "VECAP_WEB_PORT": str(self.port), "TMPDIR": str(self.home / "tmp")}
        return inherited | own | {"OMP_NUM_THREADS": "1", _MARK: self.home.name}

    def start(self, name: str = "run") -> subprocess.Popen[bytes]:
        """Start the command *name*: `run`, or a stage."""
        (self.home / "tmp").mkdir(exist_ok=True)
        command = [sys.executable, "-m", "vecap_tasks.cli", name, "--config", str(self.config), "--version", INTERVAL]
        with (self.home / "stderr").open("wb") as errors:
            return subprocess.Popen(
                command,
                env=self.environment,
                cwd=REPOSITORY,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )

    def digests(self) -> dict[str, str]:
        folder = self.home / "store" / "demo" / INTERVAL
        found = sorted([*folder.glob("*/manifest.json"), *folder.glob("*/*/manifest.json")])
        return {str(path.parent.relative_to(folder)): json.loads(path.read_bytes())["digest"] for path in found}

    def where(self) -> str:
        """Return the first stage without a manifest."""
        done = {name.partition("/")[0] for name in self.digests()}
        return next((stage for stage in STAGES if stage not in done), "record")

    def processes(self) -> list[int]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(_MARK) == self.home.name and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def temporary(self) -> list[str]:
        staging = self.home / "store" / ".staging"
        return [path.name for folder in (self.home / "tmp", staging) if folder.exists() for path in folder.iterdir()]


def interrupt(place: Place, moment: float) -> Outcome:
    """Run, and send Ctrl-C *moment* seconds after the command handles it."""
    process = place.start()
    while process.poll() is None and not handles_interrupts(process.pid):
        time.sleep(0.002)
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        pass
    else:
        errors = (place.home / "stderr").read_text(encoding="utf-8")
        return Outcome(None, "end", faults=_check(process.returncode == 0, f"exit code {process.returncode}: {errors}"))
    where = place.where()
    start = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    try:
        code = process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    latency = time.monotonic() - start
    if code == 0:  # all work was done before
        return Outcome(None, "end", latency)
    errors = (place.home / "stderr").read_text(encoding="utf-8")
    lines = errors.splitlines()
    left, temporary = place.processes(), place.temporary()
    faults = _check(code == 130, f"exit code {code}")
    faults += _check("Traceback" not in errors and "Exception ignored" not in errors, "traceback")
    faults += _check(lines[-1:] == [LINE] and errors.count("Interrupted") == 1, f"last line {lines[-1:]}")
    faults += _check(not left, f"processes left: {left}")
    faults += _check(not temporary, f"temporary files left: {temporary}")
    return Outcome(moment, where, latency, faults)


def handles_interrupts(pid: int) -> bool:
    """Return whether the process handles Ctrl-C: it then blocks the signal in its main thread."""
    try:
        found = _BLOCKED.search(Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    except OSError:
        return False
    return found is not None and bool(int(found[1], 16) >> (signal.SIGINT - 1) & 1)


def _check(passed: bool, fault: str) -> list[str]:
    return [] if passed else [fault]


@contextmanager
def miniature_web(folder: Path, images: int = IMAGES) -> Iterator[int]:
    """Generate a miniature web of *images* images in *folder* and serve it. Yields the port."""
    (port,) = free_ports(1)
    demo = [sys.executable, "-m", "vecap_tasks.cli", "demo"]
    subprocess.run([*demo, "web", "--out", str(folder), "--images", str(images)], cwd=REPOSITORY, check=True)
    server = subprocess.Popen([*demo, "serve", "--out", str(folder), "--port", str(port)], cwd=REPOSITORY)
    try:
        while not is_listening(port):
            time.sleep(0.1)
        yield port
    finally:
        server.terminate()
        server.wait(30)


def drill(count: int, seed: int, folder: Path) -> Iterator[Outcome]:
    """Yield the outcomes of *count* interruptions, and of the runs that ended."""
    chance = random.Random(seed)
    with miniature_web(folder / "web") as port:
        config = small_config(folder)

        def place() -> Place:
            home = folder / f"home-{uuid.uuid4().hex[:8]}"
            home.mkdir()
            (home / "web").symlink_to(folder / "web")
            return Place(home, config, port)

        reference = place()
        start = time.monotonic()
        ended = interrupt(reference, 3600)
        duration = time.monotonic() - start
        expected = reference.digests()
        print(f"uninterrupted: {duration:.0f} s, {len(expected)} manifests", flush=True)
        yield ended
        done = 0
        for stage in cycle(STAGES):
            current = place()
            copy_until(stage, reference, current)
            for _ in range(min(PER_HOME, count - done)):
                longest = EARLY_SECONDS if chance.random() < EARLY else LATE_SECONDS
                outcome = interrupt(current, chance.uniform(0, longest))
                if outcome.moment is None:
                    break
                done += 1
                yield outcome
            else:
                outcome = interrupt(current, 3600)
            outcome.faults += _check(current.digests() == expected, "the digests differ")
            outcome.faults += _check(not current.temporary(), f"temporary files left: {current.temporary()}")
            yield outcome
            shutil.rmtree(current.home)
            if done == count:
                return


def copy_until(stage: str, source: Place, target: Place) -> None:
    """Copy what *source* had before *stage*."""
    if stage == STAGES[0]:
        return
    shutil.copytree(source.home / "store", target.home / "store")
    for later in STAGES[STAGES.index(stage) :]:
        shutil.rmtree(target.home / "store" / "demo" / INTERVAL / later)
    if stage in ("train", "evaluate"):  # otherwise nothing was recorded
        shutil.copy(source.home / "mlflow.db", target.home)


def main(arguments: list[str] | None = None) -> int:
    """Print the outcomes; return 1 if one has a fault."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.interrupt", description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=50, metavar="N", help="interruptions")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measures to FILE")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it, and so would the runs
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="vecap-interrupt-") as folder:
        for outcome in drill(options.moments, options.seed, Path(folder)):
            outcomes.append(outcome)
            moment = "ended" if outcome.moment is None else f"{outcome.moment:.2f} s"
            faults = "; ".join(outcome.faults) or "ok"
            print(f"{moment:>8}  {outcome.where:<8}  {outcome.latency:5.2f} s  {faults}", flush=True)
    interrupted = [outcome for outcome in outcomes if outcome.moment is not None]
    print(dict(Counter(outcome.where for outcome in interrupted)))
    slowest = max(outcome.latency for outcome in interrupted)
    values = (
        ("interruptions", "count", len(interrupted), None),
        ("interruptions that left a trace", "count", sum(bool(outcome.faults) for outcome in interrupted), 0),
        ("runs that ended", "count", len(outcomes) - len(interrupted), None),
        ("runs that differ", "count", sum(bool(o.faults) for o in outcomes if o.moment is None), 0),
        ("slowest end", "s", round(slowest, 2), None),
    )
    conditions = f"seed {options.seed}, {IMAGES} images"
    report([Measure(name, unit, value, None, limit, conditions) for name, unit, value, limit in values], options.json)
    return int(any(outcome.faults for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
