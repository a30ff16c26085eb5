"""Create MLflow's SQLite file whole or not at all, after any kill and with several first runs at once."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from fcntl import LOCK_EX, flock
from pathlib import Path

from vecap_tasks.errors import VecapError

_OWN_ROWS = ("alembic_version", "workspaces")  # tables in which MLflow's migrations write rows
_LEFTOVERS = ("-journal", "-wal", "-shm")  # SQLite would apply those of a killed process to the new file


def ensure_database(file: Path, artifacts: str) -> None:
    """Make *file* a database with MLflow's tables, unless it holds data. Its default experiment stores in *artifacts*.

    MLflow itself makes the tables in dozens of transactions and cannot resume between them: a database without data is
    replaced. Raises VecapError where *file* is not a SQLite database or cannot be written.
    """
    try:
        if _holds_data(file):
            return
        with Path(f"{file}.lock").open("a") as lock:
            flock(lock, LOCK_EX)  # the kernel releases it however its holder ends
            if not _holds_data(file):  # another process may have been first
                _make(file, artifacts)
    except sqlite3.DatabaseError as error:
        raise VecapError(f"cannot read {file}: {error}; restore it, or change mlflow.tracking_uri") from error
    except OSError as error:
        raise VecapError(f"cannot write {file}: {error.strerror}; change mlflow.tracking_uri") from error


def _holds_data(file: Path) -> bool:
    """Return whether any table has rows; one that MLflow has ever opened has its default experiment."""
    if not file.exists():
        return False
    with closing(sqlite3.connect(file, timeout=60)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return any(
            database.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone()  # noqa: S608 - the database's own names
            for name in tables
            if name not in _OWN_ROWS
        )


def _make(file: Path, artifacts: str) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    new = file.with_name(f"{file.name}.new")
    new.unlink(missing_ok=True)
    for suffix in _LEFTOVERS:
        Path(f"{new}{suffix}").unlink(missing_ok=True)
    SqlAlchemyStore(f"sqlite:///{new}", artifacts).engine.dispose()
    for suffix in _LEFTOVERS:
        Path(f"{file}{suffix}").unlink(missing_ok=True)
    new.replace(file)
