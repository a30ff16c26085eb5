"""Writes the files of one shard in img2dataset's layout: images in a tar, all rows in a table, and stats."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from vecap_tasks.core.manifest import ShardOutput
from vecap_tasks.core.schemas import CRAWL, KEPT, with_kept
from vecap_tasks.core.tables import write_rows
from vecap_tasks.core.tar import TarWriter
from vecap_tasks.crawl.shard_images import FAILED_TO_DOWNLOAD, FAILED_TO_RESIZE, SUCCESS, Outcome, Spool

pa.array([0])  # pyarrow imports pandas with its first array, if installed; do it before downloads start


def write_shard(shard: str, candidates: pa.Table, outcomes: Sequence[Outcome], spool: Spool, work: Path) -> ShardOutput:
    """Write `<shard>.tar`, `.parquet` and `_stats.json` into *work*; *outcomes* has one entry per row.

    A shard without images gets no tar, because webdataset fails on empty tars.
    """
    rows = [candidate | _columns(outcome) for candidate, outcome in zip(candidates.to_pylist(), outcomes, strict=True)]
    statuses = Counter(row["status"] for row in rows)
    reasons = Counter((row["error_message"] or SUCCESS).partition(":")[0] for row in rows)
    table, tar, stats = f"{shard}.parquet", f"{shard}.tar", f"{shard}_stats.json"
    schema = with_kept(CRAWL, KEPT.name in candidates.column_names)
    write_rows(pa.Table.from_pylist(rows, schema=schema).to_batches(), schema, work / table)
    files: dict[str, int | None] = {table: len(rows), stats: None}
    if statuses[SUCCESS]:
        files[tar] = statuses[SUCCESS]
        with TarWriter(work / tar) as writer:
            for row, outcome in zip(rows, outcomes, strict=True):
                if row["status"] == SUCCESS:
                    writer.write(row["key"], _members(row, spool.read(outcome.offset, outcome.length)))
    (work / stats).write_text(_stats(len(rows), statuses, reasons), encoding="utf-8")
    counters = {name: statuses[name] for name in (SUCCESS, FAILED_TO_DOWNLOAD, FAILED_TO_RESIZE)}
    counters |= {f"error.{reason}": count for reason, count in reasons.items() if reason != SUCCESS}
    return ShardOutput(files, counters)


def _columns(outcome: Outcome) -> dict[str, Any]:
    """Return the columns that CRAWL adds to CANDIDATES."""
    image = outcome.image
    return {
        "status": outcome.status,
        "error_message": outcome.failure.message if outcome.failure else None,
        "width": image and image.width,
        "height": image and image.height,
        "original_width": image and image.original_width,
        "original_height": image and image.original_height,
        "original_format": image and image.original_format,
        "original_bytes": outcome.original_bytes,
        "exif": image and image.exif,
        "sha256": outcome.sha256,
        "jpeg_sha256": image and image.jpeg_sha256,
        "phash": image and image.phash,
    }


def _members(row: dict[str, Any], jpeg: bytes) -> dict[str, bytes]:
    text = (row["caption"] or "").encode("utf-8")
    return {"jpg": jpeg, "txt": text, "json": json.dumps(row, ensure_ascii=False).encode("utf-8")}


def _stats(rows: int, statuses: Counter[str], reasons: Counter[str]) -> str:
    """Return img2dataset's stats. Times are null, because this file is part of a digest; receipts have them."""
    body = {
        "count": rows,
        "successes": statuses[SUCCESS],
        "failed_to_download": statuses[FAILED_TO_DOWNLOAD],
        "failed_to_resize": statuses[FAILED_TO_RESIZE],
        "duration": None,
        "start_time": None,
        "end_time": None,
        "status_dict": dict(sorted(reasons.items())),
    }
    return json.dumps(body, indent=1) + "\n"
