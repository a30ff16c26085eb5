"""Stages that stand in for captioning where the engine alone is looked at; workers import them by name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from vecap_tasks.dataset.stage import Made, Stage


class Quick(Stage):
    """As many shards as `crawl.shard_size` says, each done in some milliseconds."""

    name = "crawl"
    rates = ("rows",)

    def identity(self) -> dict[str, Any]:
        return {}

    def shards(self) -> list[str]:
        return [f"{number:05d}" for number in range(self.config.crawl.shard_size)]

    def process(self, shard: str, work: Path) -> Made:
        time.sleep(0.002)
        (work / f"{shard}.txt").write_text(shard)
        return Made({f"{shard}.txt": 1}, {"rows": 1}, notes={"vlm_cost_millionths": 250_000})


class Deadly(Quick):
    """Its shard 00003 kills every worker."""

    def process(self, shard: str, work: Path) -> Made:
        if shard == "00003":
            os.kill(os.getpid(), signal.SIGKILL)
        return Quick.process(self, shard, work)


class Laborious(Quick):
    """Its shard 00003 kills every worker too, but not before it has finished a part; the sixth part is the last."""

    def process(self, shard: str, work: Path) -> Made:
        parts = [name for name in self.store.files(self.aside(shard)) if name.endswith(".part")]
        if shard == "00003" and len(parts) < 6:
            self.store.put(f"{self.aside(shard)}/{len(parts)}.part", b"done")
            os.kill(os.getpid(), signal.SIGKILL)
        return Quick.process(self, shard, work)
