"""A part of the configuration, and what of it decides the bytes that are made."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Runtime:
    """Marks a field that does not change the bytes a stage makes."""


class Kind:
    """Marks a field of which the part before a colon alone decides the bytes: `cuda` of `cuda:1`."""


class Section(BaseModel):
    """A part of the configuration: unknown names and later changes are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def identity(self) -> dict[str, Any]:
        """Return the fields that decide what is made, as plain JSON values, `Runtime` fields left out."""
        made: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            if Runtime in field.metadata:
                continue
            value = getattr(self, name)
            made[name] = value.partition(":")[0] if Kind in field.metadata else _plain(value)
        return made


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return value.identity()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


_DEVICE = re.compile(r"[a-z][a-z0-9_]*(:[0-9]+)?")


def _device(name: str) -> str:
    if name == "auto" or not _DEVICE.fullmatch(name):
        raise ValueError("the device decides bytes, so it is named: write cpu, or cuda for workers with a GPU")
    return name


Device = Annotated[
    str,
    AfterValidator(_device),
    Kind,
    Field(
        description="cpu, cuda, cuda:1 or another torch device; a worker without it fails. Its kind, such as cuda, is "
        "part of the fingerprint, as rounding follows it."
    ),
]
