"""A kill or an error at any write of any stage does not change the result: the next attempt completes.

Each attempt ends at the first point of a write (`writes.observe_writes`) where no attempt ended before, and the next
one starts from the resulting store. A chain of attempts therefore ends once at each write of a stage. A new chain from
the start covers points that resumed attempts skip, such as a cleanup after a receipt.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest
import torch

from tests.crawl.web import Web
from tests.faults import check
from tests.faults.attempt import attempt, collect_garbage, completed, list_files
from tests.faults.disk import full_disk, full_for, small_disk
from tests.faults.factories import BATCH, INTERVAL, create_inputs
from tests.faults.writes import observe_writes, run_forked
from tests.rewrite.chaos import count_texts
from vecap_tasks import outages
from vecap_tasks.cli import __main__ as cli
from vecap_tasks.config import Config
from vecap_tasks.core.stage import STAGES, Stage
from vecap_tasks.core.store import STAGING, Store
from vecap_tasks.errors import VecapError, format_error
from vecap_tasks.train.stage import Train

pytestmark = pytest.mark.slow

MIN_WRITES = {"crawl": 20, "quality": 18, "rewrite": 15, "assemble": 14, "train": 20, "evaluate": 10}  # per stage
KILLED = 137  # the exit code of a process after SIGKILL, as a shell reports it
STEP = "trained a step"


@dataclass(frozen=True)
class Undisturbed:
    """A stage run without a fault: the points of its writes, the stores before and after it, and its log."""

    name: str
    points: frozenset[str]
    digest: str
    before: Path
    after: Path
    log: Path


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    home = tmp_path_factory.mktemp("inputs")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a fork has only one
    with pytest.MonkeyPatch.context() as patch, Web() as web:
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        patch.setenv("VECAP_CODE_VERSION", "unknown")
        patch.setitem(sys.modules, "vecap_tasks.quality.expectations", check)
        patch.setattr(Train, "report", lambda *_: print(STEP))
        yield create_inputs(home, web)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def undisturbed(config: Config, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Undisturbed]:
    """Every stage by name, each started from the store of the previous one."""
    found = {}
    before = tmp_path_factory.mktemp("empty")
    for name in STAGES:
        folder = tmp_path_factory.mktemp(name)
        log, after = folder / "a.log", shutil.copytree(before, folder / "store")

        def work(answer: int, name: str = name, root: Path = after) -> None:
            points: list[str] = []
            with observe_writes(points.append):
                digest = attempt(name, at(config, root)).digest
            modules = [module for module in sys.modules if module.startswith(("vecap_tasks.", "matplotlib."))]
            os.write(answer, json.dumps([points, digest, modules]).encode())

        code, output = run_forked(work, log)
        assert code == 0, log.read_text()
        points, digest, modules = json.loads(output)
        found[name] = Undisturbed(name, frozenset(points), digest, before, after, log)
        before = after
        for module in modules:  # import once here instead of in each of about two hundred forks
            with suppress(ImportError):
                import_module(module)
    return found


def at(config: Config, root: Path | str) -> Config:
    """Return the same configuration with its store in *root*."""
    return config.model_copy(update={"root": str(root)}).with_base(config.base)


def repeat(
    stage: Undisturbed, points: set[str], start: Callable[[int], str], once: Callable[[str, set[str]], bool]
) -> list[str]:
    """Attempt *stage* by *once* until an attempt completes, in successive stores, until all *points* are covered.

    *start* returns the root of a store in its state before the stage. *once* takes the root and the covered points; it
    adds the point at which its attempt ended, or returns True if the attempt completed. Returns the roots.
    """
    met: set[str] = set()
    roots: list[str] = []
    while missing := points - met:
        roots.append(start(len(roots)))
        store = Store(roots[-1])
        earlier: set[str] = set()
        ended = False
        while not ended:
            ended = once(roots[-1], met)
            now = completed(store, stage.name)
            assert earlier <= now, "completed work was lost"
            earlier = now
        assert missing & met, f"no attempt reached {missing}"
        expected, found = list_files(Store(str(stage.after))), list_files(store)
        assert expected <= found
        for path in found - expected:  # `staging` and `leftover` in docs/operate.md
            assert path.startswith(STAGING) or "/_shards/attachments/*/" in path
    return roots


def copy_of(store: Path, to: Path) -> str:
    return str(shutil.copytree(store, to))


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_resumes_after_a_kill_at_any_write(
    name: str, config: Config, undisturbed: dict[str, Undisturbed], tmp_path: Path
) -> None:
    stage, log = undisturbed[name], tmp_path / "a.log"
    assert len(stage.points) >= 2 * MIN_WRITES[name]
    ends: list[str] = []

    def once(root: str, met: set[str]) -> bool:
        def work(answer: int) -> None:
            def die(point: str) -> None:
                if point not in met:
                    os.write(answer, point.encode())
                    sys.stdout.flush()
                    os._exit(KILLED)

            with observe_writes(die):
                manifest = attempt(name, at(config, root))
            os.write(answer, manifest.digest.encode())

        code, output = run_forked(work, log)
        if code == KILLED:
            met.add(output)
            ends.append(output)
            return False
        assert code == 0, log.read_text()
        assert output == stage.digest
        return True

    roots = repeat(stage, set(stage.points), lambda number: copy_of(stage.before, tmp_path / f"{number}"), once)
    # Models generate no text twice, except in a batch whose write did not complete.
    texts = count_texts(stage.log.parent) * len(roots)
    lost = sum(end.startswith("put ") and end.endswith(".jsonl: begun") for end in ends)
    assert texts <= count_texts(log.parent) <= texts + lost * BATCH
    assert (texts > 0) is (lost > 0) is (name == "rewrite")
    # Training repeats at most one step.
    steps = stage.log.read_text().count(STEP) * len(roots)
    assert steps <= log.read_text().count(STEP) <= steps + len(ends)
    assert (steps > 0) is (name == "train")
    if name in ("assemble", "train", "evaluate"):  # the version is published
        code, _ = run_forked(lambda answer: [collect_garbage(at(config, root)) for root in roots], log)
        assert code == 0, log.read_text()


def failing(name: str, config: Config, digest: str, moment: str) -> Callable[[str, set[str]], bool]:
    """Return the function that attempts the stage *name* once, for `repeat`; the first new write fails at *moment*.

    All attempts in one store have the same worker.
    """
    workers: dict[str, list[Stage]] = {}

    def once(root: str, met: set[str]) -> bool:
        failed: list[str] = []
        message: str | None = None

        def fail(point: str) -> None:
            if point.endswith(moment) and point not in met and not failed:
                met.add(point)
                failed.append(point)
                number = errno.ENOSPC if len(met) % 2 else errno.EIO
                raise OSError(number, os.strerror(number), point)

        try:
            with observe_writes(fail):
                manifest = attempt(name, at(config, root), workers.setdefault(root, []))
        except (VecapError, OSError) as error:
            message = format_error(error)
        assert (message is not None) is bool(failed), message
        if message is None:
            assert manifest.digest == digest
            return True
        assert "\n" not in message
        assert list(Path(root, STAGING).glob("*")) == [], "unpublished files are left"
        return False

    return once


@pytest.mark.parametrize("name", STAGES)
def test_a_write_that_fails_is_reported_and_the_next_attempt_completes(
    name: str, config: Config, undisturbed: dict[str, Undisturbed], tmp_path: Path
) -> None:
    """All attempts run in one process: what it caches from a failed attempt must not affect the next."""
    stage, log = undisturbed[name], tmp_path / "a.log"
    points = {point for point in stage.points if point.endswith("begun")}
    assert len(points) >= MIN_WRITES[name]

    def work(answer: int) -> None:
        once = failing(name, config, stage.digest, "begun")
        repeat(stage, points, lambda number: copy_of(stage.before, tmp_path / f"{number}"), once)

    code, _ = run_forked(work, log)
    assert code == 0, log.read_text()


@contextmanager
def muted_log() -> Iterator[None]:
    """Discard the log of a fork in the block: its file also counts as a write."""
    log = os.dup(sys.stdout.fileno())
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(log, sys.stdout.fileno())


@pytest.mark.parametrize("name", STAGES)
def test_a_disk_that_fills_up_is_reported_and_the_next_attempt_completes(
    name: str, config: Config, undisturbed: dict[str, Undisturbed], tmp_path: Path
) -> None:
    """Files that libraries write directly cannot grow either."""
    stage, log = undisturbed[name], tmp_path / "a.log"
    root = copy_of(stage.before, tmp_path / "store")

    def work(answer: int) -> None:
        messages = []
        for max_size in (1_000, 3_000, 6_000):
            with muted_log(), pytest.raises((VecapError, OSError)) as error, full_disk(max_size):
                attempt(name, at(config, root))
            messages.append(format_error(error.value))
        digest = attempt(name, at(config, root)).digest
        os.write(answer, json.dumps([messages, digest]).encode())

    code, output = run_forked(work, log)
    assert code == 0, log.read_text()
    messages, digest = json.loads(output)
    assert all("\n" not in message for message in messages)
    assert digest == stage.digest


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", STAGES)
def test_a_stage_waits_until_a_full_disk_has_space(
    name: str, config: Config, undisturbed: dict[str, Undisturbed], tmp_path: Path
) -> None:
    stage, log = undisturbed[name], tmp_path / "a.log"
    with small_disk(tmp_path / "disk", 64 << 20) as disk:
        root = copy_of(stage.before, disk / "store")

        def work(answer: int) -> None:
            outages.set_timeout(60)
            with full_for(disk, 2):
                os.write(answer, attempt(name, at(config, root)).digest.encode())

        code, output = run_forked(work, log)
        assert list(Path(root, STAGING).iterdir()) == []
    assert (code, output) == (0, stage.digest), log.read_text()
    assert re.search(r"^No space left on device \(\S+\); next attempt in ", log.read_text(), re.MULTILINE)


def test_a_write_to_s3_that_seems_to_fail_is_reported_and_the_next_attempt_completes(
    config: Config, undisturbed: dict[str, Undisturbed], s3_bucket: str
) -> None:
    """The response is lost: the object exists, but its writer reports an error."""
    stage = undisturbed["crawl"]
    points = {point for point in stage.points if point.endswith("done")}
    once = failing("crawl", config, stage.digest, "done")
    repeat(stage, points, lambda number: f"s3://{s3_bucket}/{number}", once)


def test_a_full_disk_is_a_one_line_error_on_the_command_line(
    config: Config, undisturbed: dict[str, Undisturbed], tmp_path: Path
) -> None:
    root = copy_of(undisturbed["evaluate"].before, tmp_path / "store")
    file, log = tmp_path / "config.json", tmp_path / "a.log"
    file.write_text(at(config, root).model_dump_json())  # JSON is YAML

    def work(answer: int) -> None:
        def fail(point: str) -> None:
            if point.endswith("manifest.json: begun"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with observe_writes(fail):
            code = cli.main(["evaluate", "--config", str(file), "--version", INTERVAL])
        os.write(answer, f"{code}".encode())

    assert run_forked(work, log) == (0, "1"), log.read_text()
    text = log.read_text()
    assert "Traceback" not in text
    assert text.splitlines()[-1] == (
        f"vecap: No space left on device ({root}); free space and run the same command again"
    )
