"""Processes to kill in tests: a Dask scheduler, workers, and the driver of a stage. Preloaded for a fast start."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import re
import sys
import time
from contextlib import suppress
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from vecap_tasks.config import parse_config
from vecap_tasks.core.executor import run_shards
from vecap_tasks.core.version import Version
from vecap_tasks.errors import VecapError
from vecap_tasks.rewrite.stage import Rewrite

# Preloaded modules, which a restarted process would otherwise import again.
_LIBRARIES = [
    *("distributed", "distributed.scheduler", "distributed.worker", "distributed.http", "duckdb", "pyarrow.parquet"),
    *("vecap_tasks.rewrite.vlm", "vecap_tasks.rewrite.llm"),
    *(f"transformers.models.{name}" for name in ("llama.modeling_llama", "clip.modeling_clip", "llava.modeling_llava")),
    *("transformers.models.clip.image_processing_pil_clip", "transformers.models.llava.processing_llava"),
]
_WRITING = re.compile(r": writing (\d+) texts")


def warm_context() -> ForkServerContext:
    """Return a forkserver context with preloaded libraries."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.rewrite.chaos", *_LIBRARIES])
    return context


def count_texts(folder: Path) -> int:
    """Return the number of texts whose generation started, from the logs in *folder*."""
    return sum(int(count) for file in folder.glob("*.log") for count in _WRITING.findall(file.read_text()))


def run_scheduler(port: int) -> None:
    from distributed import Scheduler

    async def serve() -> None:
        async with Scheduler(host="127.0.0.1", port=port, dashboard_address="127.0.0.1:0") as scheduler:
            await scheduler.finished()

    _silence_stderr()
    asyncio.run(serve())


def run_worker(address: str, log: Path) -> None:
    from distributed import Worker

    async def serve() -> None:
        async with Worker(address, nthreads=1, memory_limit=0, death_timeout=60) as worker:
            await worker.finished()

    _silence_stderr()
    logging.basicConfig(filename=log)
    logging.getLogger("vecap_tasks").setLevel(logging.DEBUG)
    with suppress(Exception):  # the scheduler can be killed while the worker connects
        asyncio.run(serve())
    os._exit(0)  # like `dask worker`: do not wait for the thread


def run_driver(config: str, base: Path, version: Version, log: Path) -> None:
    """Run the stage like `vecap rewrite`; exit with 1 on a VecapError."""
    import json

    _silence_stderr()
    try:
        stage = Rewrite(parse_config(json.loads(config), base), version)
        run_shards(stage, stage.plan())
        stage.commit()
    except VecapError as error:
        log.write_text(f"{error}\n")
        sys.exit(1)


def _silence_stderr() -> None:
    """Discard the output of Dask's loggers, which hold stderr since their import."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


class Cluster:
    """A scheduler on *port*, two workers and a driver; each restarts after it dies."""

    def __init__(self, port: int, logs: Path, driver_arguments: tuple[str, Path, Version]) -> None:
        self._context = warm_context()
        self._port = port
        self._logs = logs
        self._driver_arguments = driver_arguments
        self._started = 0
        self._alive: dict[str, ForkServerProcess] = {}
        self._old: list[ForkServerProcess] = []

    def kill(self, name: str) -> None:
        self._alive[name].kill()

    def restart_dead(self) -> bool:
        """Restart dead processes. Return whether the driver finished."""
        driver = self._alive.get("driver")
        if driver is not None and driver.exitcode == 0:
            return True
        for name in ("scheduler", "worker 0", "worker 1", "driver"):
            process = self._alive.get(name)
            if process is None or not process.is_alive():
                self._alive[name] = self._start(name)
        return False

    def wait(self, seconds: float, texts: int = 0) -> bool:
        """Wait for *texts* started texts (at most 10 s) and then *seconds*, restarting dead processes.

        Returns early if the driver finished, and whether it did.
        """
        for reached, limit in ((lambda: count_texts(self._logs) >= texts, 10.0), (lambda: False, seconds)):
            deadline = time.monotonic() + limit
            while time.monotonic() < deadline and not reached():
                if self.restart_dead():
                    return True
                time.sleep(0.05)
        return self.restart_dead()

    def kill_all(self) -> None:
        for process in (*self._alive.values(), *self._old):
            process.kill()
            process.join()

    def _start(self, name: str) -> ForkServerProcess:
        self._started += 1
        log = self._logs / f"{self._started:03d} {name}.log"
        address = f"tcp://127.0.0.1:{self._port}"
        arguments = {
            "scheduler": (run_scheduler, (self._port,)),
            "driver": (run_driver, (*self._driver_arguments, log)),
        }
        target, values = arguments.get(name, (run_worker, (address, log)))
        process = self._context.Process(target=target, args=values)
        process.start()
        if name in self._alive:
            self._old.append(self._alive[name])
        return process
