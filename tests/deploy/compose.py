"""`docker-compose.yml` as Compose reads it: variables filled in, anchors merged, one `Service` each."""

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
    """A variable that the file insists on."""


@dataclass(frozen=True, slots=True)
class Service:
    """One service; `needs` are the services that it waits for with the condition, `health` the command that asks it."""

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
        return {name: one["condition"] for name, one in self.body.get("depends_on", {}).items()}

    @property
    def health(self) -> list[str]:
        kind, *words = self.body["healthcheck"]["test"] if "healthcheck" in self.body else [""]
        return ["sh", "-c", *words] if kind == "CMD-SHELL" else words

    @property
    def target(self) -> str | None:
        """The target of our Dockerfile that its image is built from; None for an image of others."""
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
    """Return the services by name, and the whole file. Raises Unset, naming the variable, as Compose does."""
    whole = _fill(yaml.safe_load(file.read_text(encoding="utf-8")), variables)
    return {name: Service(name, body) for name, body in whole["services"].items()}, whole


def variables_of(text: str) -> dict[str, bool]:
    """Return the variables that *text* names, and whether it insists on each."""
    found: dict[str, bool] = {}
    for _, name, kind, _ in _VARIABLE.findall(text):
        if name:
            found[name] = found.get(name, False) or kind == "?"
    return found


def _fill(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _fill(inner, variables) for key, inner in value.items()}
    if isinstance(value, list):
        return [_fill(inner, variables) for inner in value]
    if not isinstance(value, str):
        return value

    def one(match: re.Match[str]) -> str:
        dollar, name, kind, rest = match.groups()
        if dollar:
            return "$"
        found = variables.get(name, "")
        if not found and kind == "?":
            raise Unset(f"{name} {rest}")
        return found or (rest or "")

    return _VARIABLE.sub(one, value)
