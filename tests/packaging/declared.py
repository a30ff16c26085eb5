"""Dependencies declared in `pyproject.toml`, by extra; `core` for the base installation."""

from __future__ import annotations

import tomllib
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import REPOSITORY

PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
_TEXTS: dict[str, list[str]] = {"core": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}


def requirements(extra: str) -> list[Requirement]:
    """Return the requirements of *extra* itself, without those of included extras."""
    return [requirement for requirement in map(Requirement, _TEXTS[extra]) if requirement.name != PROJECT["name"]]


def packages(extra: str) -> set[str]:
    """Return the package names that *extra* itself declares."""
    return {canonicalize_name(requirement.name) for requirement in requirements(extra)}


def included(extra: str) -> set[str]:
    """Return *extra* and all extras that it includes, recursively."""
    extras = {extra}
    for text in _TEXTS[extra]:
        requirement = Requirement(text)
        if requirement.name == PROJECT["name"]:
            extras = extras.union(*map(included, requirement.extras))
    return extras


def provided(extra: str) -> set[str]:
    """Return all package names that an installation with *extra* declares."""
    return set().union(*map(packages, included(extra) | {"core"}))
