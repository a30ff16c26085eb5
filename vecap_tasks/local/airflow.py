"""Airflow of one installation: `airflow.cfg`, keys, login, pools and REST API client."""

from __future__ import annotations

import base64
import configparser
import io
import json
import os
import secrets
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vecap_tasks.errors import VecapError, format_error
from vecap_tasks.local import postgres
from vecap_tasks.local.settings import HOST, REPOSITORY, Settings, write_private

_REQUEST_TIMEOUT = 30
_REPETITIONS, _REPETITION_PAUSE = 3, 1.0  # of a request that a busy server answered with an error; seconds
_SERVER_ERROR = 500
# Ignores proxy settings of the environment: all services are on this machine.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
USER = "admin"
_INSTALLED_FILE = "since"
PARALLELISM = 4


class ApiError(VecapError):
    """The service returned an HTTP error. `status` is the HTTP status code."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def http_probe(url: str, timeout: float = 2) -> bytes | None:
    """Return the response body of *url*, or None if the request fails."""
    try:
        with _opener.open(url, timeout=timeout) as response:
            body: bytes = response.read()
            return body
    except OSError:  # includes URLError, HTTPError and timeouts
        return None


@dataclass(frozen=True, slots=True)
class Api:
    """Client of Airflow's REST API with a token."""

    url: str
    token: str

    @classmethod
    def login(cls, url: str, user: str, password: str) -> Api:
        """Log in. Raises ApiError if the login is rejected, VecapError if the connection fails."""
        response = _request(f"{url}/auth/token", "POST", {"username": user, "password": password}, None)
        return cls(url, response["access_token"])

    def get(self, path: str) -> Any:
        """Return the JSON at *path*. Raises ApiError for an HTTP error, VecapError if the connection fails.

        A busy server reports errors of its own (5xx) now and then, so such a request is repeated.
        """
        for _ in range(_REPETITIONS):
            try:
                return _request(self.url + path, "GET", None, self.token)
            except ApiError as error:
                if error.status < _SERVER_ERROR:
                    raise
                time.sleep(_REPETITION_PAUSE)
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
        with _opener.open(request, timeout=_REQUEST_TIMEOUT) as response:
            text = response.read()
    except urllib.error.HTTPError as error:
        detail = " ".join(error.read().decode("utf-8", "replace").split())[:400]
        raise ApiError(error.code, f"{method} {url} returned HTTP {error.code}: {detail}") from error
    except OSError as error:
        raise VecapError(f"Cannot connect to {url} ({error}); start the services with `make up`") from error
    return json.loads(text) if text else None


@dataclass(frozen=True, slots=True)
class Pool:
    """A concurrency limit shared by the tasks of all runs."""

    name: str
    slots: int
    description: str


POOLS = (
    Pool("captioning", 2, "Shard groups captioned concurrently; set to the number of Dask workers."),
    Pool("gpu", 2, "Models trained or evaluated concurrently; set to the number of GPUs (or CPU cores)."),
)


def write_settings(settings: Settings) -> None:
    """Write `airflow.cfg`, readable only by its owner. Keys and password are generated on the first call and kept."""
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
            # Detect a killed task process after half a minute instead of five.
            "task_instance_heartbeat_timeout": "30",
            "orphaned_tasks_check_interval": "30",
        },
        "dag_processor": {"parsing_processes": "1", "min_file_process_interval": "60", "refresh_interval": "60"},
        "logging": {"base_log_folder": str(settings.logs / "airflow"), "colored_console_log": "False"},
        "usage_data_collection": {"enabled": "False"},
    }
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_dict(sections)
    # Airflow interpolates values, so escape percent signs.
    for section in parser.sections():
        for name, value in parser.items(section):
            parser[section][name] = value.replace("%", "%%")
    text = io.StringIO()
    parser.write(text)
    write_private(home / "airflow.cfg", text.getvalue())


def installation_time(settings: Settings) -> str:
    """Return when the installation first started, in ISO format. Scheduled runs start from there.

    Earlier intervals need a backfill. Otherwise Airflow immediately schedules the previous day, which has no crawl.
    """
    file = settings.airflow_home / _INSTALLED_FILE
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(datetime.now(UTC).isoformat(timespec="seconds"), encoding="utf-8")
    return file.read_text(encoding="utf-8")


def password(settings: Settings) -> str:
    """Return the password of user `admin`. Raises VecapError before the first start."""
    file = _password_file(settings.airflow_home)
    try:
        value = json.loads(file.read_text(encoding="utf-8"))[USER]
    except (OSError, ValueError, KeyError) as error:
        raise VecapError(f"{file} has no password for {USER}; start the services with `make up`") from error
    return str(value)


def api(settings: Settings) -> Api:
    """Return a client of Airflow's REST API, logged in as `admin`. Raises VecapError if the connection fails."""
    return Api.login(settings.airflow.url, USER, password(settings))


def create_pools(settings: Settings) -> None:
    """Create missing pools. Existing pools keep their size."""
    connection = api(settings)
    existing = {pool["name"] for pool in connection.get("/api/v2/pools?limit=100")["pools"]}
    for pool in POOLS:
        if pool.name not in existing:
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
    stored: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    return stored


def main() -> int:
    try:
        create_pools(Settings.from_environment())
    except VecapError as error:
        print(format_error(error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
