"""What `pyproject.toml` declares: packages by name, `core` for what every installation has."""

from __future__ import annotations

import tomllib
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import REPOSITORY

PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
_TEXTS: dict[str, list[str]] = {"core": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}


def requirements(extra: str) -> list[Requirement]:
    """Return what *extra* itself declares, without the extras that it includes."""
    return [made for made in map(Requirement, _TEXTS[extra]) if made.name != PROJECT["name"]]


def packages(extra: str) -> set[str]:
    """Return the names that *extra* itself declares."""
    return {canonicalize_name(one.name) for one in requirements(extra)}


def included(extra: str) -> set[str]:
    """Return *extra* and all extras that it includes, at any depth."""
    found = {extra}
    for text in _TEXTS[extra]:
        requirement = Requirement(text)
        if requirement.name == PROJECT["name"]:
            found = found.union(*map(included, requirement.extras))
    return found


def provided(extra: str) -> set[str]:
    """Return the names of all that an installation with *extra* declares."""
    return set().union(*map(packages, included(extra) | {"core"}))
