"""`docker-compose.yml` as Compose reads it: variables expanded, anchors merged, one `Service` each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import REPOSITORY

FILE = REPOSITORY / "docker-compose.yml"
_VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)(?::([-?])([^}]*))?\})")


class Unset(Exception):
    """A required variable is not set."""


@dataclass(frozen=True, slots=True)
class Service:
    """One service; `needs` maps dependencies to their conditions, `health` is the health check command."""

    name: str
    body: dict[str, Any]

    @property
    def environment(self) -> dict[str, str]:
        return {name: str(value) for name, value in self.body.get("environment", {}).items()}

    @property
    def command(self) -> list[str]:
        return list(self.body.get("command", []))

    @property
    def needs(self) -> dict[str, str]:
        return {name: dependency["condition"] for name, dependency in self.body.get("depends_on", {}).items()}

    @property
    def health(self) -> list[str]:
        kind, *words = self.body["healthcheck"]["test"] if "healthcheck" in self.body else [""]
        return ["sh", "-c", *words] if kind == "CMD-SHELL" else words

    @property
    def target(self) -> str | None:
        """Target of our Dockerfile that the image is built from; None for third-party images."""
        for prefix in ("vecap-",):
            if self.body["image"].startswith(prefix):
                return str(self.body["image"]).removeprefix(prefix).partition(":")[0]
        return None

    @property
    def profiles(self) -> list[str]:
        return list(self.body.get("profiles", []))

    @property
    def job(self) -> bool:
        return self.body.get("restart") == "no"


def read_compose(variables: Mapping[str, str], file: Path = FILE) -> tuple[dict[str, Service], dict[str, Any]]:
    """Return the services by name, and the whole document. Raises Unset, naming the variable, like Compose."""
    document = _fill(yaml.safe_load(file.read_text(encoding="utf-8")), variables)
    return {name: Service(name, body) for name, body in document["services"].items()}, document


def variables_of(text: str) -> dict[str, bool]:
    """Return the variables in *text*, and whether each is required."""
    required: dict[str, bool] = {}
    for _, name, kind, _ in _VARIABLE.findall(text):
        if name:
            required[name] = required.get(name, False) or kind == "?"
    return required


def _fill(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _fill(inner, variables) for key, inner in value.items()}
    if isinstance(value, list):
        return [_fill(inner, variables) for inner in value]
    if not isinstance(value, str):
        return value

    def expand(match: re.Match[str]) -> str:
        dollar, name, kind, rest = match.groups()
        if dollar:
            return "$"
        value = variables.get(name, "")
        if not value and kind == "?":
            raise Unset(f"{name} {rest}")
        return value or (rest or "")

    return _VARIABLE.sub(expand, value)
