"""Fuzzing: feeds mutated inputs of every kind to the readers of the stages.

    python -m benchmarks.fuzz [--minutes N] [--inputs N] [--kinds a,b] [--seed N] [--json FILE] [--save FOLDER]
    python -m benchmarks.fuzz --replay FILE      read one saved input again
    python -m benchmarks.fuzz --coverage N       measure the readers' branch coverage by N inputs of each kind

Mutations follow the grammar: nested elements, PNG chunks and JPEG segments with correct checksums, tar headers with
recomputed checksums, records with wrong lengths, spliced gzip members, and long repetitions. An input depends only on
seed, kind and number. Children read them, so that a hang or a crash is recorded and the run continues.

Counts by kind: inputs; accepted rows; refusals with a reason; `unexpected` errors, which a stage counts for one row;
uncaught errors and crashes; hangs (more than 2 s of CPU); memory violations (more than 512 MiB). Exits with 1 if any of
the last three occurs. Each distinct finding is saved as `KIND-NUMBER.bin` in FOLDER.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from benchmarks import fuzz_child as child
from benchmarks.fuzz_child import Finding, Result
from benchmarks.fuzz_kinds import KINDS

_BATCH = 500  # inputs of a kind in one child
_KILL_SECONDS = 10.0  # CPU time after which a child is killed
_STALL_SECONDS = 90.0  # wall time without CPU time after which a child is killed
_MAX_MEMORY = 2 << 30  # bytes of growth after which a child is killed
_MEMORY = "/dev/shm"  # noqa: S108
_TICKS = os.sysconf("SC_CLK_TCK")
_FATAL = frozenset({"error", "crash", "hang", "memory"})


@dataclass(slots=True)
class Totals:
    """The counts of one kind."""

    inputs: int = 0
    rows: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0  # seconds of CPU
    growth: int = 0  # bytes
    seconds: float = 0.0  # of CPU

    def add(self, result: Result) -> None:
        self.inputs += 1
        self.rows += result.rows
        self.refused.update(result.refused)
        self.problems.update({finding.problem for finding in result.findings})
        self.slowest = max(self.slowest, result.seconds)
        self.growth = max(self.growth, result.growth)
        self.seconds += result.seconds


@dataclass(slots=True)
class Distinct:
    """A finding with the number of inputs that have it, and the smallest of these inputs."""

    kind: str
    finding: Finding
    count: int = 0
    data: bytes = b""


class Fuzzer:
    """Runs children and collects their results."""

    def __init__(
        self, kinds: Sequence[str], seed: str, kill_seconds: float = _KILL_SECONDS, method: str = "forkserver"
    ) -> None:
        self.totals = {kind: Totals() for kind in kinds}
        self.distinct: dict[tuple[str, ...], Distinct] = {}
        self._seed = seed
        self._kill_seconds = kill_seconds
        self._next = dict.fromkeys(kinds, 0)
        self._killed = False  # the last child, without a finding
        self._context = multiprocessing.get_context(method)
        if method == "forkserver":
            self._context.set_forkserver_preload(["benchmarks.fuzz_preload"])

    def run(self, minutes: float, inputs: int | None, on_round: Callable[[], None] = lambda: None) -> None:
        """Read *inputs* inputs of each kind, in turns, until the time is over. Call *on_round* after each turn."""
        until = time.monotonic() + 60 * minutes
        while time.monotonic() < until:
            pending = [kind for kind in self.totals if inputs is None or self._next[kind] < inputs]
            if not pending:
                break
            for kind in pending:
                if time.monotonic() < until:
                    count = _BATCH if inputs is None else min(_BATCH, inputs - self._next[kind])
                    self._batch(kind, self._next[kind] + count, until)
            on_round()

    def _batch(self, kind: str, stop: int, until: float) -> None:
        """Read the inputs of *kind* up to *stop*; after a hang or crash, continue with the next input."""
        while self._next[kind] < stop and time.monotonic() < until:
            with tempfile.TemporaryDirectory(
                prefix="vecap-fuzz-", dir=_MEMORY if Path(_MEMORY).is_dir() else None
            ) as folder:
                ours, theirs = self._context.Pipe(duplex=False)
                arguments = (theirs, kind, self._seed, self._next[kind], stop, folder)
                process = self._context.Process(target=child.run, args=arguments)
                process.start()
                theirs.close()
                problem = self._watch(kind, process, ours, Path(folder, child.STACKS), until)
                process.join()
                crashed = problem is None and process.exitcode not in (0, None) and not self._killed
                if crashed and self._next[kind] < stop:
                    what = (
                        signal.Signals(-process.exitcode).name if process.exitcode < 0 else f"exit {process.exitcode}"
                    )
                    problem = Finding("crash", what, child.where_in_stacks(Path(folder, child.STACKS).read_text()))
                if problem is not None:
                    data = Path(folder, child.INPUT).read_bytes()
                    self._record(kind, Result(findings=[problem], seconds=problem.number, data=data))

    def _watch(
        self, kind: str, process: ForkServerProcess, connection: Connection, stacks: Path, until: float
    ) -> Finding | None:
        """Collect results until the child ends. Kill it if an input takes too long or too much memory."""
        assert process.pid is not None
        self._killed = False
        reading, mark = False, _usage(process.pid)
        changed = time.monotonic()
        while True:
            try:
                if connection.poll(0.05):
                    result = connection.recv()
                    reading, changed = result is None, time.monotonic()
                    mark = None
                    if result is not None:
                        self._record(kind, result)
                        if any(finding.problem == "memory" for finding in result.findings) or changed > until:
                            process.kill()  # the peak of a process never decreases
                            self._killed = True
                            return None
                    continue
            except EOFError:
                return None
            usage = _usage(process.pid)
            if usage is None:
                continue
            mark = mark or usage
            seconds, growth = usage[0] - mark[0], usage[1] - mark[1]
            stalled = time.monotonic() - changed > _STALL_SECONDS
            if reading and (seconds > self._kill_seconds or growth > _MAX_MEMORY or stalled):
                os.kill(process.pid, signal.SIGUSR1)  # writes the Python stacks
                time.sleep(0.3)
                process.kill()
                where = child.where_in_stacks(stacks.read_text())
                if growth > _MAX_MEMORY:
                    return Finding("memory", "killed", where, growth / (1 << 20))
                return Finding("hang", "stalled" if stalled else "killed", where, seconds)

    def _record(self, kind: str, result: Result) -> None:
        self._next[kind] += 1
        self.totals[kind].add(result)
        for finding in result.findings:
            known = self.distinct.setdefault((kind, *finding.signature), Distinct(kind, finding))
            known.count += 1
            if known.count == 1 or len(result.data) < len(known.data):
                known.finding, known.data = finding, result.data

    def named(self) -> dict[str, Distinct]:
        """Return the distinct findings as `KIND-NUMBER`, numbered in the order in which they were found."""
        counts: Counter[str] = Counter()
        named = {}
        for found in self.distinct.values():
            counts[found.kind] += 1
            named[f"{found.kind}-{counts[found.kind]}"] = found
        return named

    def shrink(self, seconds: float) -> None:
        """Replace the inputs of errors by shorter ones, in children, *seconds* each, for at most a minute."""
        until = time.monotonic() + 60
        for found in self.distinct.values():
            if time.monotonic() > until:
                break
            if found.finding.problem not in ("error", "unexpected"):
                continue
            ours, theirs = self._context.Pipe(duplex=False)
            arguments = (theirs, found.kind, found.data, found.finding.signature, seconds)
            process = self._context.Process(target=_shrink, args=arguments)
            process.start()
            theirs.close()
            try:
                if ours.poll(4 * seconds + 20):
                    found.data = ours.recv()
            except EOFError:
                pass
            process.kill()
            process.join()


def _shrink(connection: Connection, kind: str, data: bytes, signature: tuple[str, str, str], seconds: float) -> None:
    connection.send(child.shrink(kind, data, signature, seconds))
    connection.close()


def _usage(process: int) -> tuple[float, int] | None:
    """Return CPU seconds and resident bytes of *process*, None if it has ended."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(stat[11]) + int(stat[12])) / _TICKS, int(stat[21]) * os.sysconf("SC_PAGESIZE")


_COLUMNS = ("inputs", "rows", "refused", "unexpected", "error", "crash", "hang", "memory", "ms", "slowest s", "MiB")


def summary(totals: dict[str, Totals]) -> list[dict[str, Any]]:
    """Return the counts by kind, as in the report."""
    lines = []
    for kind, total in totals.items():
        counts = {name: total.problems[name] for name in ("unexpected", "error", "crash", "hang", "memory")}
        milliseconds = 1000 * total.seconds / max(1, total.inputs)
        line = {"kind": kind, "inputs": total.inputs, "rows": total.rows, "refused": total.refused.total(), **counts}
        lines.append(
            line | {"ms": round(milliseconds, 2), "slowest s": round(total.slowest, 2), "MiB": total.growth >> 20}
        )
    return lines


def print_report(fuzzer: Fuzzer) -> None:
    """Print the counts by kind and the distinct findings."""
    print(f"{'':<11}" + "".join(f"{name:>11}" for name in _COLUMNS))
    for line in summary(fuzzer.totals):
        print(f"{line['kind']:<11}" + "".join(f"{line[name]:>11}" for name in _COLUMNS))
    for name, found in fuzzer.named().items():
        finding, number = found.finding, f"{found.finding.number:.1f}" if found.finding.number else ""
        print(f"{name}: {finding.problem} {number} {finding.what} at {finding.where} ({found.count} inputs)")
        print(f"    {found.data[:150]!r}{f'… {len(found.data)} bytes' if len(found.data) > 150 else ''}")


def save_inputs(fuzzer: Fuzzer, folder: Path) -> None:
    """Save the input of each distinct finding in *folder*, which is created if there are any."""
    for name, found in fuzzer.named().items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.bin").write_bytes(found.data)


def write_json(fuzzer: Fuzzer, seed: str, file: Path) -> None:
    """Write the counts by kind and the distinct findings."""
    findings = [
        {"name": name, "inputs": found.count, "bytes": len(found.data)} | asdict(found.finding)
        for name, found in fuzzer.named().items()
    ]
    body = {"seed": seed, "kinds": summary(fuzzer.totals), "findings": findings}
    file.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def replay(file: Path) -> int:
    """Read a saved input in this process, and print the result."""
    kind = file.name.partition("-")[0]
    with child.recorded_errors() as errors:
        result = child.read(kind, file.read_bytes(), errors)
    print(result)
    return bool(result.findings)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--inputs", type=int, help="inputs per kind; default: as many as fit into the time")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seed", default="0")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--save", type=Path, default=Path(tempfile.gettempdir()) / "vecap-fuzz")
    parser.add_argument("--replay", type=Path)
    parser.add_argument("--coverage", type=int, metavar="INPUTS", help="measure the branch coverage of INPUTS per kind")
    options = parser.parse_args(arguments)
    if options.replay:
        return replay(options.replay)
    kinds = options.kinds.split(",")
    if unknown := set(kinds) - KINDS.keys():
        parser.error(f"unknown kinds {', '.join(sorted(unknown))}; use some of {', '.join(KINDS)}")
    if options.coverage:
        from benchmarks.fuzz_coverage import report_coverage

        report_coverage(kinds, options.seed, options.coverage, options.json)
        return 0
    fuzzer = Fuzzer(kinds, options.seed)

    def save() -> None:
        if options.json:
            write_json(fuzzer, options.seed, options.json)
        save_inputs(fuzzer, options.save)

    fuzzer.run(options.minutes, options.inputs, save)
    fuzzer.shrink(5.0)
    save()
    print_report(fuzzer)
    return any(found.finding.problem in _FATAL for found in fuzzer.distinct.values())


if __name__ == "__main__":
    sys.exit(main())
