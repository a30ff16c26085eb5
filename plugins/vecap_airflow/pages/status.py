"""The state of a version: published, running, failed or waiting; from small records, without reading receipts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from vecap_tasks.core.stage_records import StageProgress, StageSummary, read_progress
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import DATASET_STAGES, UNCAPTIONED_STAGES, Version, read_config

_MIN_IDLE = 900.0  # seconds without a finished shard after which a run may have stopped
_IDLE_FACTOR = 3.0  # times the mean time between shards


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a version or of one of its trainings.

    `kind` is published, complete (it has no captions), running, idle (a run may have stopped), failed or waiting.
    `stage` is the unfinished stage, "" if there is none.
    """

    kind: str
    stage: str = ""
    progress: StageProgress | None = None

    @property
    def unfinished(self) -> bool:
        return self.kind not in ("published", "complete")

    @property
    def share(self) -> float:
        """The share of finished shards of the stage, from 0 to 1."""
        return self.progress.done / self.progress.shards if self.progress and self.progress.shards else 0.0

    @property
    def idle_seconds(self) -> float:
        """The seconds since the last sign of work: the start of the run or its last receipt."""
        if self.progress is None:
            return 0.0
        return self.progress.now - max(self.progress.started, self.progress.last_written or 0.0)

    @property
    def log_url(self) -> str:
        """The URL of the log of the last failure, "" if it has none."""
        url = self.progress.failure.url if self.progress and self.progress.failure else ""
        return url if urlsplit(url).scheme in ("http", "https") else ""


def version_status(store: Store, version: Version, stages: Mapping[str, StageSummary | None], now: float) -> Status:
    """Return the status of *version* at the time *now*. *stages* has the summaries of its committed stages."""
    if stages.get("assemble") is not None:
        return Status("published")
    names = DATASET_STAGES if "rewrite" in read_config(store, version) else UNCAPTIONED_STAGES
    unfinished = next((name for name in names if stages.get(name) is None), None)
    if unfinished is None:
        return Status("complete")
    return stage_status(store, f"{version.folder}/{unfinished}", unfinished, now)


def stage_status(store: Store, folder: str, stage: str, now: float) -> Status:
    """Return the status of the unfinished *stage* in *folder*."""
    progress = read_progress(store, folder, now)
    if progress is None:
        return Status("waiting", stage)
    status = Status("failed" if progress.failed else "running", stage, progress)
    pace = (now - progress.started) / max(progress.done, 1)
    if status.kind == "running" and status.idle_seconds > max(_MIN_IDLE, _IDLE_FACTOR * pace):
        return Status("idle", stage, progress)
    return status
