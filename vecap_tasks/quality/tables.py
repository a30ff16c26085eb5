"""Where a version has the tables that the stage quality reads and makes."""

from __future__ import annotations

import re

from vecap_tasks.dataset.manifest import Manifest

VERDICTS_FILE = "verdicts.parquet"
_SHARD_FILE = re.compile(r"[0-9]+\.parquet")


def shard_tables(crawl: Manifest) -> list[str]:
    """Return where the store has the tables of the crawl's shards, in their order."""
    return [name for name in crawl.files_ending(".parquet") if _SHARD_FILE.fullmatch(name.rsplit("/", 1)[1])]
