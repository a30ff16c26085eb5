"""Airflow of one installation: `airflow.cfg` with its own keys, login, pools and REST API."""

from __future__ import annotations

import base64
import configparser
import io
import json
import os
import secrets
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vecap_tasks.errors import VecapError, format_error
from vecap_tasks.local import postgres
from vecap_tasks.local.settings import HOST, REPOSITORY, Settings, write_private

_SECONDS = 30
# A proxy from the environment has no business between two processes of one machine.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
USER = "admin"
_SINCE = "since"
PARALLELISM = 4


class ApiError(VecapError):
    """The service answered, and said no. `status` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def is_answering(url: str, seconds: float = 2) -> bytes | None:
    """Return the body that *url* answers with, or None where it does not (yet) answer with success."""
    try:
        with _opener.open(url, timeout=seconds) as response:
            body: bytes = response.read()
            return body
    except OSError:  # URLError, HTTPError and time-outs are of this kind
        return None


@dataclass(frozen=True, slots=True)
class Api:
    """Airflow's REST interface with a token."""

    url: str
    token: str

    @classmethod
    def login(cls, url: str, user: str, password: str) -> Api:
        """Raises VecapError where nothing answers or the login is refused."""
        answer = _request(f"{url}/auth/token", "POST", {"username": user, "password": password}, None)
        return cls(url, answer["access_token"])

    def get(self, path: str) -> Any:
        """Return the JSON at *path*. Raises Refused, and VecapError where nothing answers."""
        return _request(self.url + path, "GET", None, self.token)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return _request(self.url + path, "POST", body, self.token)

    def patch(self, path: str, body: dict[str, Any]) -> Any:
        return _request(self.url + path, "PATCH", body, self.token)


def _request(url: str, method: str, body: dict[str, Any] | None, token: str | None) -> Any:
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers=headers, method=method)  # noqa: S310 (always http)
    try:
        with _opener.open(request, timeout=_SECONDS) as response:
            text = response.read()
    except urllib.error.HTTPError as error:
        detail = " ".join(error.read().decode("utf-8", "replace").split())[:400]
        raise ApiError(error.code, f"{method} {url} was refused with {error.code}: {detail}") from error
    except OSError as error:
        raise VecapError(f"nothing answers at {url} ({error}); start the services with `make up`") from error
    return json.loads(text) if text else None


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
        print(format_error(error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
