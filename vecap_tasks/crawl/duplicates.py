"""Images whose bytes another row of the version has already, found by their sha256. The first by key is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vecap_tasks.crawl.download import SUCCESS
from vecap_tasks.dataset.parquet import write_rows
from vecap_tasks.dataset.query import connect, create_view
from vecap_tasks.dataset.schemas import CRAWL, DUPLICATES
from vecap_tasks.dataset.store import Store

_BATCH = 100_000


def write_duplicates(store: Store, tables: Sequence[str], work: Path, path: Path) -> int:
    """Write DUPLICATES for the shards' *tables* (names in the store) to *path*; return the rows."""
    with connect(store) as connection:
        connection.execute(f"SET temp_directory = '{work / 'duckdb'}'")
        create_view(connection, store, "crawl", tables, CRAWL)
        found = connection.sql(f"""
            SELECT key, uid, kept AS duplicate_of, 'exact' AS kind FROM (
                SELECT key, uid, first_value(uid) OVER same AS kept, row_number() OVER same AS place
                FROM crawl WHERE status = '{SUCCESS}' WINDOW same AS (PARTITION BY sha256 ORDER BY key)
            ) WHERE place > 1 ORDER BY key""")  # noqa: S608 - nothing but our own constant
        return write_rows(found.to_arrow_reader(_BATCH), DUPLICATES, path)
