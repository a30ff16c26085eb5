"""MLflow's server or SQLite database: a check that it answers, and creation that survives kills and concurrent runs."""

from __future__ import annotations

import base64
import sqlite3
import ssl
import urllib.error
import urllib.request
from contextlib import closing
from fcntl import LOCK_EX, flock
from http.client import HTTPException, InvalidURL
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from vecap_tasks.errors import VecapError

TEMPORARY_STATUSES = (429, 500, 502, 503, 504)
_OWN_ROWS = ("alembic_version", "workspaces")  # tables that MLflow's migrations fill
_LEFTOVERS = ("-journal", "-wal", "-shm")  # SQLite would apply those of a killed process to the new file


class Unavailable(VecapError):
    """MLflow does not answer now; a retry can succeed."""


def check_server(uri: str, timeout: float) -> None:
    """Raise Unavailable if no MLflow server answers at *uri* within *timeout* seconds, VecapError if *uri* is wrong."""
    parts = urlsplit(uri)
    credentials, _, host = parts.netloc.rpartition("@")
    headers = {}
    if credentials:
        headers["Authorization"] = f"Basic {base64.b64encode(unquote(credentials).encode()).decode()}"
    health = urlunsplit(parts._replace(netloc=host, path=f"{parts.path}/health"))
    try:
        request = urllib.request.Request(health, headers=headers)  # noqa: S310 - http or https, see the caller
        with urllib.request.urlopen(request, timeout=timeout):  # noqa: S310
            return
    except (urllib.error.URLError, OSError, ValueError, HTTPException) as error:
        status = error.code if isinstance(error, urllib.error.HTTPError) else 503
        is_wrong = isinstance(error, ValueError | InvalidURL) or isinstance(
            getattr(error, "reason", None), ssl.SSLCertVerificationError
        )
        raise (VecapError if is_wrong or status not in TEMPORARY_STATUSES else Unavailable)(
            f"no MLflow server answers at {uri} ({error}); start it, or change mlflow.tracking_uri"
        ) from error


def ensure_database(file: Path, artifacts: str) -> None:
    """Create *file* as a database with MLflow's tables, unless it has data. *artifacts* is its default artifact URI.

    MLflow creates its tables in dozens of transactions and cannot resume after a crash, so a database without data is
    replaced. Raises VecapError if *file* is not a SQLite database or cannot be written.
    """
    try:
        if _has_data(file):
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        with Path(f"{file}.lock").open("a") as lock:
            flock(lock, LOCK_EX)  # the kernel releases it even if the process is killed
            if not _has_data(file):  # another process may have created it
                _create_database(file, artifacts)
    except sqlite3.DatabaseError as error:
        raise VecapError(f"cannot read {file}: {error}; restore it, or change mlflow.tracking_uri") from error
    except OSError as error:
        raise VecapError(f"cannot write {file}: {error.strerror}; change mlflow.tracking_uri") from error


def _has_data(file: Path) -> bool:
    """Return whether any table has rows; MLflow adds its default experiment when it first opens a database."""
    if not file.exists():
        return False
    with closing(sqlite3.connect(file, timeout=60)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return any(
            database.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone()  # noqa: S608 - the database's own names
            for name in tables
            if name not in _OWN_ROWS
        )


def _create_database(file: Path, artifacts: str) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    new = file.with_name(f"{file.name}.new")
    new.unlink(missing_ok=True)
    for suffix in _LEFTOVERS:
        Path(f"{new}{suffix}").unlink(missing_ok=True)
    SqlAlchemyStore(f"sqlite:///{new}", artifacts).engine.dispose()
    for suffix in _LEFTOVERS:
        Path(f"{file}{suffix}").unlink(missing_ok=True)
    new.replace(file)
