"""Requests to the services on this machine: is it there, and Airflow's REST interface."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from vecap_tasks.errors import VecapError

_SECONDS = 30
# A proxy from the environment has no business between two processes of one machine.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Refused(VecapError):
    """The service answered, and said no. `status` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def answers(url: str, seconds: float = 2) -> bytes | None:
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
        raise Refused(error.code, f"{method} {url} was refused with {error.code}: {detail}") from error
    except OSError as error:
        raise VecapError(f"nothing answers at {url} ({error}); start the services with `make up`") from error
    return json.loads(text) if text else None
