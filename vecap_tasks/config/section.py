"""A part of the configuration, and what of it decides the bytes that are made."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Runtime:
    """Marks a field that does not change the bytes a stage makes."""


class Section(BaseModel):
    """A part of the configuration: unknown names and later changes are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def identity(self) -> dict[str, Any]:
        """Return the fields that decide what is made, as plain JSON values, `Runtime` fields left out."""
        made: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            if any(mark is Runtime or isinstance(mark, Runtime) for mark in field.metadata):
                continue
            value = getattr(self, name)
            made[name] = value.identity() if isinstance(value, Section) else _plain(value)
        return made


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return value.identity()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
