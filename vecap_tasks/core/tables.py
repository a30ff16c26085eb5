"""Parquet files whose bytes depend on their rows alone, and DuckDB over the files of a store."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    import duckdb

    from vecap_tasks.core.store import Store


ROW_GROUP = 100_000
_TABLE_ROW_GROUP = 122_880  # of DuckDB's own tables


def write_rows(batches: Iterable[pa.RecordBatch], schema: pa.Schema, path: Path) -> int:
    """Write *batches*, whatever their sizes, to the new file *path* in row groups of `ROW_GROUP`; return the rows.

    Columns are taken by name and cast to *schema*. Raises pyarrow.ArrowInvalid where they do not fit, such as a null
    in a column that has none.
    """
    rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd", store_schema=False) as writer:
        waiting: list[pa.Table] = []
        held = 0
        for batch in batches:
            waiting.append(_fit(batch, schema))
            held += batch.num_rows
            while held >= ROW_GROUP:
                table = pa.concat_tables(waiting)
                writer.write_table(table.slice(0, ROW_GROUP).combine_chunks(), row_group_size=ROW_GROUP)
                waiting, held = [table.slice(ROW_GROUP)], held - ROW_GROUP
                rows += ROW_GROUP
        if held:
            writer.write_table(pa.concat_tables(waiting).combine_chunks(), row_group_size=ROW_GROUP)
    return rows + held


def write_sorted(connection: duckdb.DuckDBPyConnection, query: str, order: str, path: Path) -> int:
    """Have DuckDB write the rows of *query*, by the columns of *order*, to the new file *path*; return the rows.

    No row passes through Python. The bytes depend on the rows alone, whatever the threads and the memory, as long as
    *order* leaves no two rows alike: the rows go into a table first, which is kept in groups of one size, and one
    thread copies it. Straight out of a sort, ten million rows came in row groups of changing sizes.
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
            raise pa.ArrowInvalid(f"the column {field.name} has {column.null_count} nulls, and must have none")
        columns.append(column.cast(field.type))
    return pa.Table.from_arrays(columns, schema=schema)


@contextmanager
def connect(
    store: Store, memory_limit: str = "1GB", threads: int | None = None, work: Path | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Give what `open_connection` returns, and close it afterwards.

    Raises OSError for a file that DuckDB cannot read or write within the block.
    """
    import duckdb

    with open_connection(store, memory_limit, threads, work) as connection:
        try:
            yield connection
        except duckdb.IOException as error:
            if os.strerror(errno.ENOSPC) in str(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            raise OSError(f"DuckDB: {error}") from error


def open_connection(
    store: Store, memory_limit: str = "1GB", threads: int | None = None, work: Path | None = None
) -> duckdb.DuckDBPyConnection:
    """Open an in-memory DuckDB that reads `store.query_path(…)`.

    What exceeds *memory_limit* spills into a private folder inside *work*, by default inside the folder for temporary
    files (`TMPDIR`); it is deleted with the connection. DuckDB's own default is `.tmp` in the working directory, which
    a container cannot write.

    DuckDB's own S3 support is an extension that is downloaded at run time; pyarrow's needs no download.
    """
    import duckdb

    spill = tempfile.mkdtemp(prefix="vecap-duckdb-", dir=work)
    connection = duckdb.connect(":memory:", config={"memory_limit": memory_limit, "temp_directory": spill})
    weakref.finalize(connection, shutil.rmtree, spill, ignore_errors=True)
    connection.execute("SET preserve_insertion_order = true")
    connection.execute("SET enable_progress_bar = false")  # it goes to standard output, between what is printed there
    if threads is not None:
        connection.execute(f"SET threads = {threads}")
    if store.remote:
        connection.register_filesystem(_s3(store))
    return connection


def create_view(
    connection: duckdb.DuckDBPyConnection, store: Store, view: str, names: Sequence[str], schema: pa.Schema
) -> None:
    """Make *view* of the store's parquet files *names*, with the column `filename`; of no files, an empty one."""
    if not names:
        connection.register(view, schema.append(pa.field("filename", pa.string())).empty_table())
        return
    files = scan([store.query_path(name) for name in names])
    connection.execute(f"CREATE VIEW {view} AS SELECT * FROM {files}")  # noqa: S608


def scan(paths: Sequence[str], *, union_by_name: bool = False) -> str:
    """Return SQL that reads the parquet files *paths* with the column `filename`, which holds these paths.

    A path is taken literally. Left to itself, DuckDB reads other folders where one is named `g[o]`, and overwrites the
    column `key` with 1 below a folder `key=1`.
    """
    files = ", ".join("'" + escape(path).replace("'", "''") + "'" for path in paths)
    return f"read_parquet([{files}], filename = true, hive_partitioning = false, union_by_name = {union_by_name})"


def _s3(store: Store) -> object:
    from fsspec.implementations.arrow import ArrowFSWrapper

    class ArrowS3(ArrowFSWrapper):  # type: ignore[misc]
        protocol = "s3"

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return path.removeprefix("s3://").rstrip("/")

    return ArrowS3(store.filesystem)
