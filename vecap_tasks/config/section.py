"""The base class of configuration sections, and the markers that decide what enters a fingerprint."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Runtime:
    """Marks a field that does not change a stage's output bytes."""


class Kind:
    """Marks a field of which only the part before the colon is in the fingerprint: `cuda` of `cuda:1`."""


class Section(BaseModel):
    """A configuration section. Unknown settings and mutation are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def identity(self) -> dict[str, Any]:
        """Return the fields that decide the output as JSON values, without `Runtime` fields."""
        result: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            if Runtime in field.metadata:
                continue
            value = getattr(self, name)
            result[name] = value.partition(":")[0] if Kind in field.metadata else _plain(value)
        return result


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
        raise ValueError("the device affects the output, so name it: cpu, or cuda for workers with a GPU")
    return name


Device = Annotated[
    str,
    AfterValidator(_device),
    Kind,
    Field(
        description="torch device, such as cpu, cuda or cuda:1; a worker without it fails. The device type is part of "
        "the fingerprint because it affects rounding."
    ),
]
