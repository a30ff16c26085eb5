"""How Airflow is set up for one installation: its `airflow.cfg` with keys of its own, its login, its pools.

The settings lie in `airflow.cfg` rather than in the environment, so that the `airflow` command does what the
services do once `AIRFLOW_HOME` names the folder:

    AIRFLOW_HOME=.vecap/services/airflow airflow backfill create --dag-id vecap_dataset …
"""

from __future__ import annotations

import base64
import configparser
import io
import json
import os
import secrets
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vecap_tasks.errors import VecapError, one_line
from vecap_tasks.services import postgres
from vecap_tasks.services.http import Api
from vecap_tasks.services.settings import HOST, REPOSITORY, Settings, write_private

USER = "admin"
_SINCE = "since"
PARALLELISM = 4


@dataclass(frozen=True, slots=True)
class Pool:
    """A limit that tasks share, whatever their run."""

    name: str
    slots: int
    description: str


POOLS = (
    Pool("captioning", 2, "Groups of shards that are captioned at once: one for each Dask worker keeps all busy."),
    Pool("gpu", 2, "Models trained or evaluated at once: one for each GPU, or for each core where there is none."),
)


def write_settings(settings: Settings) -> None:
    """Write `airflow.cfg`, readable by its owner alone. The keys and the password are drawn once and then kept."""
    home = settings.airflow_home
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    keys = _keys(home)
    sections: dict[str, dict[str, str]] = {
        "core": {
            "dags_folder": str(settings.dags),
            "plugins_folder": str(REPOSITORY / "plugins"),
            "executor": "LocalExecutor",
            "parallelism": str(PARALLELISM),
            "load_examples": "False",
            "dags_are_paused_at_creation": "False",
            "fernet_key": keys["fernet_key"],
            "simple_auth_manager_users": f"{USER}:admin",
            "simple_auth_manager_passwords_file": str(_password_file(home)),
            "execution_api_server_url": f"{settings.airflow.url}/execution/",
            "default_task_retry_delay": "10",
        },
        "database": {"sql_alchemy_conn": postgres.url(settings, "airflow")},
        "api": {
            "host": HOST,
            "port": str(settings.airflow.number),
            "base_url": settings.airflow.url,
            "secret_key": keys["secret_key"],
        },
        "api_auth": {"jwt_secret": keys["jwt_secret"]},
        "scheduler": {
            "scheduler_idle_sleep_time": "0.2",
            # A task whose process was killed is noticed after half a minute, not after five.
            "task_instance_heartbeat_timeout": "30",
            "orphaned_tasks_check_interval": "30",
        },
        "dag_processor": {"parsing_processes": "1", "min_file_process_interval": "60", "refresh_interval": "60"},
        "logging": {"base_log_folder": str(settings.logs / "airflow"), "colored_console_log": "False"},
        "usage_data_collection": {"enabled": "False"},
    }
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_dict(sections)
    # Airflow interpolates what it reads, so a percent sign is doubled.
    for section in parser.sections():
        for name, value in parser.items(section):
            parser[section][name] = value.replace("%", "%%")
    text = io.StringIO()
    parser.write(text)
    write_private(home / "airflow.cfg", text.getvalue())


def installed(settings: Settings) -> str:
    """Return when the installation was first started, in ISO format: from then on the clock makes runs.

    What lies before is for backfills. Without that, Airflow makes a run for the day before at once, whose crawl
    nobody has.
    """
    file = settings.airflow_home / _SINCE
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(datetime.now(UTC).isoformat(timespec="seconds"), encoding="utf-8")
    return file.read_text(encoding="utf-8")


def password(settings: Settings) -> str:
    """Return the password of the user `admin`. Raises VecapError before the first start."""
    file = _password_file(settings.airflow_home)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))[USER]
    except (OSError, ValueError, KeyError) as error:
        raise VecapError(f"{file} holds no password of {USER}; start the services with `make up`") from error
    return str(found)


def api(settings: Settings) -> Api:
    """Return Airflow's REST interface, logged in as `admin`. Raises VecapError where it does not answer."""
    return Api.login(settings.airflow.url, USER, password(settings))


def make_pools(settings: Settings) -> None:
    """Create the pools that are missing; one that a user resized stays as it is."""
    connection = api(settings)
    there = {pool["name"] for pool in connection.get("/api/v2/pools?limit=100")["pools"]}
    for pool in POOLS:
        if pool.name not in there:
            body = {"name": pool.name, "slots": pool.slots, "description": pool.description, "include_deferred": False}
            connection.post("/api/v2/pools", body)


def _password_file(home: Path) -> Path:
    return home / "passwords.json"


def _keys(home: Path) -> dict[str, str]:
    file = home / "keys.json"
    if not file.exists():
        keys = {
            "fernet_key": base64.urlsafe_b64encode(os.urandom(32)).decode(),
            "secret_key": secrets.token_hex(32),
            "jwt_secret": secrets.token_hex(32),
        }
        write_private(file, json.dumps(keys))
    if not _password_file(home).exists():
        write_private(_password_file(home), json.dumps({USER: secrets.token_urlsafe(12)}))
    keys_read: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    return keys_read


def main() -> int:
    try:
        make_pools(Settings.from_environment())
    except VecapError as error:
        print(one_line(error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
