"""Stages that kill their workers, where the engine alone is looked at; workers import them by name."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from benchmarks.fakes import StandIn
from vecap_tasks.core.manifest import ShardOutput


class Deadly(StandIn):
    """Its shard 00003 kills every worker."""

    def process(self, shard: str, work: Path) -> ShardOutput:
        if shard == "00003":
            os.kill(os.getpid(), signal.SIGKILL)
        return StandIn.process(self, shard, work)


class Laborious(StandIn):
    """Its shard 00003 kills every worker too, but not before it has finished a part; the sixth part is the last."""

    def process(self, shard: str, work: Path) -> ShardOutput:
        parts = [name for name in self.store.files(self.scratch_dir(shard)) if name.endswith(".part")]
        if shard == "00003" and len(parts) < 6:
            self.store.put(f"{self.scratch_dir(shard)}/{len(parts)}.part", b"done")
            os.kill(os.getpid(), signal.SIGKILL)
        return StandIn.process(self, shard, work)
