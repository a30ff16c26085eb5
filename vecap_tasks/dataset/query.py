"""DuckDB over a store: one connection that reads its files, local or on S3, within a memory limit."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

if TYPE_CHECKING:
    from vecap_tasks.dataset.store import Store


@contextmanager
def connect(
    store: Store, memory_limit: str = "1GB", threads: int | None = None, work: Path | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Give what `open_connection` returns, and close it afterwards.

    Raises OSError for a file that DuckDB cannot read or write within the block.
    """
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
