"""Stages that kill their workers, for tests of the executor. Workers import them by name."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from benchmarks.fakes import StandIn
from vecap_tasks.core.manifest import ShardOutput


class KillsWorkers(StandIn):
    """Its shard 00003 kills every worker."""

    def process(self, shard: str, work: Path) -> ShardOutput:
        if shard == "00003":
            os.kill(os.getpid(), signal.SIGKILL)
        return StandIn.process(self, shard, work)


class KillsWorkersWithProgress(StandIn):
    """Its shard 00003 stores one of six parts and then kills the worker, in each attempt."""

    def process(self, shard: str, work: Path) -> ShardOutput:
        parts = [name for name in self.store.files(self.scratch_dir(shard)) if name.endswith(".part")]
        if shard == "00003" and len(parts) < 6:
            self.store.put(f"{self.scratch_dir(shard)}/{len(parts)}.part", b"done")
            os.kill(os.getpid(), signal.SIGKILL)
        return StandIn.process(self, shard, work)
