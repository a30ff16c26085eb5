"""The settings that two versions differ in: what their `version.json` are bound to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vecap_tasks.dataset.store import Store
from vecap_tasks.dataset.version import Version, read_config

_DIGEST = re.compile(r"[0-9a-f]{16,}")


@dataclass(frozen=True, slots=True)
class Change:
    """One setting that differs; None where it does not exist."""

    key: str
    a: Any
    b: Any

    def __str__(self) -> str:
        return f"{self.key} {_short(self.a)} -> {_short(self.b)}"


def changed_settings(store: Store, a: Version, b: Version) -> tuple[Change, ...]:
    """Return what decides the content of *b* otherwise than of *a*, digests of models and prompts included, by key."""
    one, other = (dict(_flat(read_config(store, version))) for version in (a, b))
    keys = sorted(one.keys() | other.keys())
    return tuple(Change(key, one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key))


def _short(value: Any) -> str:
    """Return *value* for a line; of a digest the beginning."""
    return repr(value[:12]) if isinstance(value, str) and _DIGEST.fullmatch(value) else repr(value)


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, value
