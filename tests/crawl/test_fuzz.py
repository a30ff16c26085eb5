"""No mutated input of any kind stops its reader, hangs or takes too much memory."""

import os
import signal

import pytest

from benchmarks import fuzz, fuzz_coverage
from benchmarks import fuzz_text as text
from benchmarks.fuzz_bytes import MAX_BYTES
from benchmarks.fuzz_kinds import KINDS, Kind
from benchmarks.fuzz_outcome import Outcome
from tests.installation import REPOSITORY

FATAL = ("error", "crash", "hang", "memory")


def fatal(fuzzer):
    findings = [found for found in fuzzer.distinct.values() if found.finding.problem in FATAL]
    return [(found.kind, found.finding, found.data[:300]) for found in findings]


def test_no_input_of_any_kind_stops_its_reader():
    fuzzer = fuzz.Fuzzer(list(KINDS), "test")
    fuzzer.run(minutes=15, inputs=60)
    assert not fatal(fuzzer)
    assert all(total.inputs == 60 for total in fuzzer.totals.values())
    # Most inputs of a reader must not fail at the first byte.
    assert all(total.rows + total.refused.total() >= total.inputs / 2 for total in fuzzer.totals.values())


def test_the_readers_of_the_coverage_report_exist():
    assert all((REPOSITORY / "vecap_tasks" / name).is_file() for name in fuzz_coverage.READERS)


@pytest.mark.exhaustive
def test_a_minute_of_fuzzing_finds_nothing(tmp_path):
    file = tmp_path / "report.json"
    assert (
        fuzz.main(["--minutes", "1", "--seed", "minute", "--json", str(file), "--save", str(tmp_path / "inputs")]) == 0
    )
    assert file.stat().st_size


def test_inputs_depend_only_on_their_seed_and_are_bounded():
    for name, kind in KINDS.items():
        inputs = [kind.input(f"{name}/{number}") for number in range(20)]
        assert inputs == [kind.input(f"{name}/{number}") for number in range(20)]
        assert len(set(inputs)) > 10
        assert max(map(len, inputs)) <= MAX_BYTES


def fail(data):
    raise ValueError("x")


def crash(data):
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(data):
    while True:
        pass


def grow(data):
    assert bytearray(560 << 20)
    return Outcome()


@pytest.mark.parametrize(
    ("read", "problem", "what"),
    [(fail, "error", "ValueError"), (crash, "crash", "SIGSEGV"), (hang, "hang", "killed"), (grow, "memory", "peak")],
)
def test_every_problem_is_recorded_and_fuzzing_continues(monkeypatch, read, problem, what):
    monkeypatch.setitem(KINDS, "url", Kind(text.urls, (), lambda data: read(data) if sum(data) % 2 else Outcome(), 0.0))
    fuzzer = fuzz.Fuzzer(["url"], "test", kill_seconds=1.5, method="fork")
    fuzzer.run(minutes=2, inputs=8)
    assert fuzzer.totals["url"].inputs == 8
    assert fuzzer.totals["url"].problems[problem] > 1
    found = next(found.finding for found in fuzzer.distinct.values() if found.finding.problem == problem)
    assert found.what.partition(":")[0] == what
