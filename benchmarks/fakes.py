"""A fake stage that takes milliseconds per shard, to measure the memory of scheduler and driver.

    python -m benchmarks.fakes SHARDS

Prints the peak resident memory, in bytes, of the process with both.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from vecap_tasks.config import load_config
from vecap_tasks.core.executor import run_shards
from vecap_tasks.core.manifest import ShardOutput
from vecap_tasks.core.stage import Stage
from vecap_tasks.core.version import Version

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "demo.yaml"


class StandIn(Stage):
    """Fake stage with `crawl.shard_size` shards; each takes a few milliseconds and reports a cost."""

    name = "crawl"
    rates = ("rows",)

    def identity(self) -> dict[str, Any]:
        return {}

    def shards(self) -> list[str]:
        return [f"{number:05d}" for number in range(self.config.crawl.shard_size)]

    def process(self, shard: str, work: Path) -> ShardOutput:
        time.sleep(0.003)
        (work / f"{shard}.txt").write_text(shard)
        return ShardOutput({f"{shard}.txt": 1}, {"rows": 1}, notes={"vlm_cost_millionths": 250_000})


def main() -> None:
    """Run the number of shards given as the first argument, on its own workers."""
    with tempfile.TemporaryDirectory(prefix="vecap-bench-") as folder:
        overrides = [f"root={folder}", f"crawl.shard_size={sys.argv[1]}", "dask.address=null", "dask.workers=1"]
        stage = StandIn(load_config(CONFIG, overrides), Version("demo", "2026-01-01", 1, ""))
        run_shards(stage, stage.plan())
    # Not getrusage, which includes the memory of the parent before exec.
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(int(peak) * 1024)


if __name__ == "__main__":
    from benchmarks.fakes import main as run  # workers import the stage by this module name

    run()
