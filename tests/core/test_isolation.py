"""An item that crashes, hangs or fills the memory fails alone; the process and the other items continue."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vecap_tasks.core.isolation import child, pool
from vecap_tasks.core.isolation.child import Limits, Task
from vecap_tasks.core.isolation.messages import Item
from vecap_tasks.errors import Failure

MODULE = "tests.core.isolated_functions"
LIMITS = Limits(cpu_seconds=1, memory=100 << 20)
ACT = Task(f"{MODULE}:act", (), LIMITS)


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    pool.close()


def run(*bodies: bytes) -> list[object]:
    return pool.run(ACT, [Item(f"item {number}", body, (number,)) for number, body in enumerate(bodies)])


def messages(results: list[object]) -> list[str | None]:
    return [str(result) if isinstance(result, Failure) else None for result in results]


def test_results_are_in_order() -> None:
    assert run(*(b"%d" % number for number in range(100))) == [(number, str(number)) for number in range(100)]
    assert run() == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"crash", "crashed: SIGSEGV"),
        (b"abort", "crashed: SIGABRT"),
        (b"exit", "crashed: exit code 3"),
        (b"memory_error", "memory_limit"),
        (b"loop", "cpu_limit: 1 s"),
        (b"allocate", "memory_limit: 100 MiB"),
    ],
)
def test_only_the_culprit_fails(body: bytes, message: str, caplog: pytest.LogCaptureFixture) -> None:
    results = run(b"a", b"log", body, b"b", b"c")
    assert messages(results) == [None, None, message, None, None]
    assert [record.getMessage() for record in caplog.records] == [
        "warning 1",  # once, although item 1 ran twice
        f"item 2: {message} after 2 attempts; skipped",
    ]


def test_a_child_that_waits_forever_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_STALL_SECONDS", 1.0)
    assert messages(run(b"a", b"sleep", b"b")) == [None, "stalled: 1 s", None]


def test_several_culprits_in_a_batch() -> None:
    results = run(b"crash", b"a", b"abort", b"exit", b"b", b"memory_error")
    assert messages(results) == [
        "crashed: SIGSEGV", None, "crashed: SIGABRT", "crashed: exit code 3", None, "memory_limit",
    ]  # fmt: skip


def test_a_crash_is_retried_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    body = f"kill_once {tmp_path / 'mark'}".encode()
    assert run(b"a", body, b"b") == [(0, "a"), (1, body.decode()), (2, "b")]
    assert not caplog.records


def test_failures_and_unexpected_errors_need_no_new_child(caplog: pytest.LogCaptureFixture) -> None:
    (before,) = pool.run(Task(f"{MODULE}:pid", (), LIMITS), [Item("x", b"")])
    failure, error = run(b"fail", b"error")
    assert isinstance(failure, Failure)
    assert (failure.reason, failure.detail, failure.temporary, failure.retry_after) == ("bad", "detail", True, 3.0)
    assert str(error) == "unexpected: KeyError"
    assert "item 1: unexpected KeyError" in caplog.text
    assert pool.run(Task(f"{MODULE}:pid", (), LIMITS), [Item("x", b"")]) == [before]


def test_errors_that_no_item_caused_are_raised() -> None:
    with pytest.raises(OSError, match="No space left"):
        run(b"a", b"disk", b"b")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        pool.run(Task("no_such_module:f", (), LIMITS), [Item("x", b"")])
    assert run(b"a") == [(0, "a")]


def test_the_limit_is_per_item_and_not_per_batch() -> None:
    limits = Limits(cpu_seconds=0.5, memory=100 << 20)
    items = [Item("x", b"", (0.2,)) for _ in range(5)]
    assert pool.run(Task(f"{MODULE}:use_cpu", (), limits), items) == [0.2] * 5


def test_a_killed_server_is_replaced() -> None:
    assert messages(run(b"a", b"server")) == [None, "crashed: SIGKILL"]
    assert run(b"a") == [(0, "a")]


def test_a_child_killed_while_idle_is_replaced() -> None:
    (pid,) = pool.run(Task(f"{MODULE}:pid", (), LIMITS), [Item("x", b"")])
    os.kill(pid, signal.SIGKILL)
    assert run(b"a", b"b") == [(0, "a"), (1, "b")]


def test_threads_run_in_parallel_children() -> None:
    with ThreadPoolExecutor(3) as threads:
        results = list(threads.map(lambda number: run(b"crash" if number == 1 else b"a"), range(6)))
    assert [messages(result) for result in results] == [["crashed: SIGSEGV"] if n == 1 else [None] for n in range(6)]


def test_a_stream_keeps_the_order_and_reads_ahead() -> None:
    entries = ((number, None if number % 3 == 0 else Item("x", b"%d" % number, (number,))) for number in range(500))
    results = list(pool.imap(ACT, entries))
    assert results == [(n, None if n % 3 == 0 else (n, str(n))) for n in range(500)]


def test_errors_of_the_entries_end_a_stream() -> None:
    def entries() -> Iterator[tuple[int, Item | None]]:
        yield 1, Item("x", b"a", (1,))
        raise ValueError("truncated")

    with pytest.raises(ValueError, match="truncated"):
        list(pool.imap(ACT, entries()))


def test_large_bodies_pass() -> None:
    body = b"x" * (30 << 20)
    assert run(body, b"a")[0] == (0, body.decode())


def test_children_end_with_their_parent(tmp_path: Path) -> None:
    code = (
        "import sys, threading\n"
        "from vecap_tasks.core.isolation import pool\n"
        "from vecap_tasks.core.isolation.child import Limits, Task\n"
        "from vecap_tasks.core.isolation.messages import Item\n"
        f"limits = Limits(60, 1 << 30)\n"
        f"print(*pool.run(Task('{MODULE}:pid', (), limits), [Item('x', b'')]), flush=True)\n"
        f"pool.run(Task('{MODULE}:act', (), limits), [Item('x', b'loop', (1,))])\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_forked_process_starts_its_own_children() -> None:
    run(b"a")
    pid = os.fork()
    if pid == 0:
        os._exit(0 if run(b"b") == [(0, "b")] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert run(b"c") == [(0, "c")]


def test_an_idle_pool_uses_no_cpu_time() -> None:
    run(b"a")
    assert [thread.name for thread in threading.enumerate()].count("limits") == 1
    time.sleep(0.5)
    before = time.process_time()
    time.sleep(1)
    assert time.process_time() - before < 0.05


def test_debug_tracebacks_reach_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="vecap_tasks"):
        run(b"error")
    assert "Traceback" in caplog.text
