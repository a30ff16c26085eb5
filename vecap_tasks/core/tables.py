"""Parquet files with deterministic bytes, and DuckDB over the files of a store."""

from __future__ import annotations

import errno
import os
import re
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    import duckdb

    from vecap_tasks.core.store import Store
from vecap_tasks.core.temporary import temporary_folder
from vecap_tasks.errors import OutageError
from vecap_tasks.outages import full_disk

_OUTAGE = re.compile(r"^(?:[\w.]+\.)?OutageError: (.+)$", re.MULTILINE)
ROW_GROUP = 100_000
_TABLE_ROW_GROUP = 122_880  # DuckDB's default


def write_rows(batches: Iterable[pa.RecordBatch], schema: pa.Schema, path: Path) -> int:
    """Write *batches* of any size to the new file *path* in row groups of `ROW_GROUP`; return the number of rows.

    Columns are selected by name and cast to *schema*. Raises pyarrow.ArrowInvalid if they do not fit, such as a null
    in a non-nullable column.
    """
    rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd", store_schema=False) as writer:
        pending: list[pa.Table] = []
        count = 0
        for batch in batches:
            pending.append(_fit(batch, schema))
            count += batch.num_rows
            while count >= ROW_GROUP:
                table = pa.concat_tables(pending)
                writer.write_table(table.slice(0, ROW_GROUP).combine_chunks(), row_group_size=ROW_GROUP)
                pending, count = [table.slice(ROW_GROUP)], count - ROW_GROUP
                rows += ROW_GROUP
        if count:
            writer.write_table(pa.concat_tables(pending).combine_chunks(), row_group_size=ROW_GROUP)
    return rows + count


def write_sorted(connection: duckdb.DuckDBPyConnection, query: str, order: str, path: Path) -> int:
    """Write the rows of *query*, sorted by the columns *order*, to the new file *path*; return the number of rows.

    DuckDB writes the file. If *order* is unique per row, the bytes depend only on the rows, not on threads or memory:
    one thread copies them from a temporary table with fixed row groups. Written directly from the sort, ten million
    rows had varying row groups.
    """
    threads, ordered = connection.execute(
        "SELECT current_setting('threads'), current_setting('preserve_insertion_order')"
    ).fetchall()[0]
    connection.execute("SET preserve_insertion_order = true")
    connection.execute(f"CREATE OR REPLACE TEMP TABLE to_be_written AS {query} ORDER BY {order}")
    connection.execute("SET threads = 1")
    written = connection.execute(
        f"COPY to_be_written TO $1 (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {_TABLE_ROW_GROUP})", [str(path)]
    ).fetchall()[0][0]
    connection.execute("DROP TABLE to_be_written")
    connection.execute(f"SET threads = {threads}; SET preserve_insertion_order = {ordered}")
    return int(written)


def _fit(batch: pa.RecordBatch, schema: pa.Schema) -> pa.Table:
    columns = []
    for field in schema:
        column = batch.column(field.name)
        if not field.nullable and column.null_count:
            raise pa.ArrowInvalid(f"the column {field.name} has {column.null_count} nulls but is not nullable")
        columns.append(column.cast(field.type))
    return pa.Table.from_arrays(columns, schema=schema)


@contextmanager
def connect(
    store: Store, memory_limit: str = "1GB", threads: int | None = None, work: Path | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield the connection of `open_connection`, and close it afterwards.

    Raises OSError for a file that DuckDB cannot read or write in the block, and OutageError if object storage does not
    answer. DuckDB reports errors of its file system, which is in Python, as text.
    """
    with open_connection(store, memory_limit, threads, work) as connection, translate_errors():
        yield connection


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise an error of DuckDB in the block as OSError or OutageError, as `connect` describes, if it is one."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        if outage := _OUTAGE.search(str(error)):
            raise OutageError(outage[1]) from error
        if full_disk(error, "") is not None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        if isinstance(error, duckdb.IOException):
            raise OSError(f"DuckDB: {error}") from error
        raise


def open_connection(
    store: Store, memory_limit: str = "1GB", threads: int | None = None, work: Path | None = None
) -> duckdb.DuckDBPyConnection:
    """Open an in-memory DuckDB that reads `store.query_path(…)`.

    Data beyond *memory_limit* spills to a private folder in *work*, by default in the system's temporary folder
    (`TMPDIR`); it is deleted with the connection. DuckDB's own default is `.tmp` in the working directory, which may
    be read-only in a container.

    Object storage is read with obstore, because DuckDB downloads its own extensions at run time.
    """
    import duckdb

    stack = ExitStack()
    spill = stack.enter_context(temporary_folder(work))
    connection = duckdb.connect(":memory:", config={"memory_limit": memory_limit, "temp_directory": str(spill)})
    weakref.finalize(connection, stack.close)
    connection.execute("SET preserve_insertion_order = true")
    connection.execute("SET enable_progress_bar = false")  # it would write to standard output
    if threads is not None:
        connection.execute(f"SET threads = {threads}")
    if store.remote:
        from vecap_tasks.core.store import ObjectFiles

        connection.register_filesystem(ObjectFiles(store.scheme, remember=True))
    return connection


def create_view(
    connection: duckdb.DuckDBPyConnection, store: Store, view: str, names: Sequence[str], schema: pa.Schema
) -> None:
    """Create or replace *view* over the store's Parquet files *names*, with `filename`; empty without files.

    Text columns of *schema* that earlier releases did not write are null.
    """
    view_files(connection, view, [store.query_path(name) for name in names], schema)


def view_files(connection: duckdb.DuckDBPyConnection, view: str, paths: Sequence[str], schema: pa.Schema) -> None:
    """Create *view* over the Parquet files *paths*, as `create_view` does."""
    if not paths:
        connection.register(view, schema.append(pa.field("filename", pa.string())).empty_table())
        return
    files = scan(paths)
    written = {name for name, *_ in connection.execute(f"DESCRIBE SELECT * FROM {files}").fetchall()}  # noqa: S608
    texts = [field.name for field in schema if pa.types.is_string(field.type)]
    missing = "".join(f", CAST(NULL AS VARCHAR) AS {name}" for name in texts if name not in written)
    connection.execute(f"CREATE OR REPLACE VIEW {view} AS SELECT *{missing} FROM {files}")  # noqa: S608


def scan(paths: Sequence[str], *, union_by_name: bool = False) -> str:
    """Return SQL that reads the Parquet files *paths*, with the path in the column `filename`.

    Paths are literal. By default DuckDB expands globs such as `g[o]`, and overwrites the column `key` with 1 in a
    folder `key=1`.
    """
    files = ", ".join("'" + escape(path).replace("'", "''") + "'" for path in paths)
    return f"read_parquet([{files}], filename = true, hive_partitioning = false, union_by_name = {union_by_name})"


def files_at(files: Iterable[tuple[str, int]], first: int, count: int) -> tuple[list[str], int]:
    """Return those of *files* (names and numbers of rows) with the rows *first* to *first* + *count*, and how many rows
    to skip in them."""
    found: list[str] = []
    start = skipped = 0
    for name, rows in files:
        if start < first + count and start + rows > first:
            skipped = skipped if found else first - start
            found.append(name)
        start += rows
    return found, skipped
