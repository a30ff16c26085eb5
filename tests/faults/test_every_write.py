"""A process is killed at every write of every stage, and every write fails: the next attempt ends as if undisturbed.

Each attempt ends at the first point of a write (`writes.observe_writes`) at which no attempt ended before, and the next
one starts from what is in the store. So a chain of attempts goes through a stage once and ends at each of its writes.
A point that resumed attempts do not come to, such as a cleanup after a receipt, is met by a new chain from the start.
"""

from __future__ import annotations

import errno
import json
import os
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
from tests.faults.disk import full_disk
from tests.faults.factories import BATCH, INTERVAL, give
from tests.faults.writes import observe_writes, run_forked
from tests.rewrite.chaos import count_texts
from vecap_tasks.cli import __main__ as cli
from vecap_tasks.config import Config
from vecap_tasks.core.stage import STAGES, Stage
from vecap_tasks.core.store import STAGING, Store
from vecap_tasks.errors import VecapError, format_error
from vecap_tasks.train.stage import Train

pytestmark = pytest.mark.slow

FEWEST = {"crawl": 20, "quality": 18, "rewrite": 15, "assemble": 14, "train": 20, "evaluate": 10}  # writes of a stage
KILLED = 137  # the exit code of a process after SIGKILL, as a shell reports it
STEP = "trained a step"


@dataclass(frozen=True)
class Undisturbed:
    """A stage done without a fault: the points of its writes, the stores before and after it, and its log."""

    name: str
    points: frozenset[str]
    digest: str
    before: Path
    after: Path
    log: Path


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    home = tmp_path_factory.mktemp("given")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a fork does not have the others
    with pytest.MonkeyPatch.context() as patch, Web() as web:
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        patch.setenv("VECAP_CODE_VERSION", "unknown")
        patch.setitem(sys.modules, "vecap_tasks.quality.expectations", check)
        patch.setattr(Train, "report", lambda *_: print(STEP))
        yield give(home, web)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def undisturbed(config: Config, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Undisturbed]:
    """Every stage by name, each started from the store that the one before it left."""
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

        code, said = run_forked(work, log)
        assert code == 0, log.read_text()
        points, digest, modules = json.loads(said)
        found[name] = Undisturbed(name, frozenset(points), digest, before, after, log)
        before = after
        for module in modules:  # once here, instead of in each of some two hundred forks
            with suppress(ImportError):
                import_module(module)
    return found


def at(config: Config, root: Path | str) -> Config:
    """Return the same configuration with its store in *root*."""
    return config.model_copy(update={"root": str(root)}).with_base(config.base)


def repeat(
    stage: Undisturbed, points: set[str], start: Callable[[int], str], once: Callable[[str, set[str]], bool]
) -> list[str]:
    """Attempt *stage* by *once* until an attempt completes, in one store after another until all *points* are met.

    *start* returns the root of a store as it is before the stage. *once* takes the root and the points that were met;
    it adds the point at which its attempt ended, or returns True where that completed. Returns the roots.
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
        assert missing & met, f"no attempt came to {missing}"
        expected, found = list_files(Store(str(stage.after))), list_files(store)
        assert expected <= found
        for path in found - expected:  # what docs/operate.md calls `staging` and `leftover`
            assert path.startswith(STAGING) or "/_shards/attachments/*/" in path
    return roots


def copy_of(store: Path, to: Path) -> str:
    return str(shutil.copytree(store, to))


@pytest.mark.parametrize("name", STAGES)
def test_a_process_killed_at_any_write_is_resumed(
    name: str, config: Config, undisturbed: dict[str, Undisturbed], tmp_path: Path
) -> None:
    stage, log = undisturbed[name], tmp_path / "a.log"
    assert len(stage.points) >= 2 * FEWEST[name]
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

        code, said = run_forked(work, log)
        if code == KILLED:
            met.add(said)
            ends.append(said)
            return False
        assert code == 0, log.read_text()
        assert said == stage.digest
        return True

    roots = repeat(stage, set(stage.points), lambda number: copy_of(stage.before, tmp_path / f"{number}"), once)
    # Models write no text twice, but for a batch whose write was not completed.
    texts = count_texts(stage.log.parent) * len(roots)
    lost = sum(end.startswith("put ") and end.endswith(".jsonl: begun") for end in ends)
    assert texts <= count_texts(log.parent) <= texts + lost * BATCH
    assert (texts > 0) is (lost > 0) is (name == "rewrite")
    # Training repeats one step at most.
    steps = stage.log.read_text().count(STEP) * len(roots)
    assert steps <= log.read_text().count(STEP) <= steps + len(ends)
    assert (steps > 0) is (name == "train")
    if name in ("assemble", "train", "evaluate"):  # the version is published
        code, _ = run_forked(lambda answer: [collect_garbage(at(config, root)) for root in roots], log)
        assert code == 0, log.read_text()


def failing(name: str, config: Config, digest: str, moment: str) -> Callable[[str, set[str]], bool]:
    """Return what attempts the stage *name* once, for `repeat`: at *moment*, the first write that never failed fails.

    All attempts in one store have the same worker.
    """
    workers: dict[str, list[Stage]] = {}

    def once(root: str, met: set[str]) -> bool:
        failed: list[str] = []
        told: str | None = None

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
            told = format_error(error)
        assert (told is not None) is bool(failed), told
        if told is None:
            assert manifest.digest == digest
            return True
        assert "\n" not in told
        assert list(Path(root, STAGING).glob("*")) == [], "what was not published is left"
        return False

    return once


@pytest.mark.parametrize("name", STAGES)
def test_a_write_that_fails_is_reported_and_the_next_attempt_completes(
    name: str, config: Config, undisturbed: dict[str, Undisturbed], tmp_path: Path
) -> None:
    """All in one process: what it remembers of an attempt that failed must do no harm to the next."""
    stage, log = undisturbed[name], tmp_path / "a.log"
    points = {point for point in stage.points if point.endswith("begun")}
    assert len(points) >= FEWEST[name]

    def work(answer: int) -> None:
        once = failing(name, config, stage.digest, "begun")
        repeat(stage, points, lambda number: copy_of(stage.before, tmp_path / f"{number}"), once)

    code, _ = run_forked(work, log)
    assert code == 0, log.read_text()


@contextmanager
def unlogged() -> Iterator[None]:
    """Write nothing to the log of a fork within the block: it is a file too."""
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
    """Files that libraries write by themselves cannot grow either."""
    stage, log = undisturbed[name], tmp_path / "a.log"
    root = copy_of(stage.before, tmp_path / "store")

    def work(answer: int) -> None:
        told = []
        for largest in (1_000, 3_000, 6_000):
            with unlogged(), pytest.raises((VecapError, OSError)) as error, full_disk(largest):
                attempt(name, at(config, root))
            told.append(format_error(error.value))
        digest = attempt(name, at(config, root)).digest
        os.write(answer, json.dumps([told, digest]).encode())

    code, said = run_forked(work, log)
    assert code == 0, log.read_text()
    told, digest = json.loads(said)
    assert all("\n" not in line for line in told)
    assert digest == stage.digest


def test_a_write_to_s3_that_seems_to_fail_is_reported_and_the_next_attempt_completes(
    config: Config, undisturbed: dict[str, Undisturbed], s3_bucket: str
) -> None:
    """The response is lost: the object is there, and its writer takes it to be missing."""
    stage = undisturbed["crawl"]
    points = {point for point in stage.points if point.endswith("done")}
    once = failing("crawl", config, stage.digest, "done")
    repeat(stage, points, lambda number: f"s3://{s3_bucket}/{number}", once)


def test_a_full_disk_is_one_line_on_the_command_line(
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
    said = log.read_text()
    assert "Traceback" not in said
    assert said.splitlines()[-1] == (
        "vecap: no space left on the disk; free some or move `root` elsewhere, then run the same command again"
    )
