"""The share of each stage's CPU time that SHA-256 takes: checks of inputs, and hashes of outputs.

    python -m benchmarks.hashing [--images N] [--json FILE]

The stages run in sequence in this process, on a miniature web; `crawl`, which decodes in child processes, is
left out. The hashes of outputs and identities count too, so the shares are upper bounds of what the checks cost. The
limit is 2 %, except for `assemble`, which only copies.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.interrupt import miniature_web
from benchmarks.report import Measure, machine, report
from tests.installation import INTERVAL, small_config
from vecap_tasks.config import load_config
from vecap_tasks.core.executor import run_shards
from vecap_tasks.core.open_version import open_version
from vecap_tasks.core.stage import STAGES, load_stage
from vecap_tasks.core.store import Store

_LIMIT = 2.0  # percent
_SETTINGS = (
    "crawl.shard_size=500",
    "rewrite.shard_size=500",
    "assemble.shard_size=500",
    "train.batch_size=64",
    "train.checkpoint_steps=100",
)
_REAL_SHA256, _REAL_FILE_DIGEST = hashlib.sha256, hashlib.file_digest


class Clock:
    """CPU seconds of all threads in hash functions."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._lock = threading.Lock()

    def measure(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        start = time.thread_time()
        try:
            return function(*arguments, **named)
        finally:
            spent = time.thread_time() - start
            with self._lock:
                self.seconds += spent


CLOCK = Clock()


class TimedSha256:
    """A SHA-256 hash whose CPU time counts."""

    def __init__(self, data: bytes = b"", **named: Any) -> None:
        self._hash = CLOCK.measure(_REAL_SHA256, data, **named)

    def update(self, data: bytes) -> None:
        CLOCK.measure(self._hash.update, data)

    def digest(self) -> bytes:
        result: bytes = self._hash.digest()
        return result

    def hexdigest(self) -> str:
        result: str = self._hash.hexdigest()
        return result


def _file_digest(*arguments: Any) -> Any:
    return CLOCK.measure(_REAL_FILE_DIGEST, *arguments)


def shares(images: int, folder: Path) -> dict[str, tuple[float, float]]:
    """Return the CPU seconds, and those of SHA-256, of each stage but the crawl."""
    found: dict[str, tuple[float, float]] = {}
    with miniature_web(folder / "web", images) as port:
        os.environ |= {"VECAP_HOME": str(folder), "VECAP_WEB_PORT": str(port)}
        config = load_config(small_config(folder), list(_SETTINGS))
        version = open_version(config, Store(config.resolve(config.root)), INTERVAL)
        for name in STAGES:
            stage = load_stage(name, config, version)
            if name == "crawl":
                run_shards(stage, stage.plan())
                stage.commit()
                continue
            hashed, start = CLOCK.seconds, time.process_time()
            for shard in stage.plan():
                stage.run(shard)
            stage.commit()
            found[name] = time.process_time() - start, CLOCK.seconds - hashed
    return found


def main(arguments: list[str] | None = None) -> int:
    """Print the shares; return 1 if one is above the limit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hashing", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000, metavar="N", help="images of the miniature web")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measures to FILE")
    options = parser.parse_args(arguments)
    hashlib.sha256, hashlib.file_digest = TimedSha256, _file_digest  # type: ignore[assignment]
    with tempfile.TemporaryDirectory(prefix="vecap-hashing-") as folder:
        found = shares(options.images, Path(folder))
    measures = [
        Measure(
            f"SHA-256 in {name}",
            "% of CPU",
            100 * hashed / cpu,
            None,
            None if name == "assemble" else _LIMIT,
            f"{cpu:.1f} s of CPU, {options.images} images, {machine()}",
        )
        for name, (cpu, hashed) in found.items()
    ]
    report(measures, options.json)
    return int(any(measure.limit is not None and measure.ours > measure.limit for measure in measures))


if __name__ == "__main__":
    sys.exit(main())
