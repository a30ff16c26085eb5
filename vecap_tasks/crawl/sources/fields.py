"""The named fields of a header, of a WARC record or of an HTTP answer: `Name: value` a line.

Archives hold what servers really sent, so lines may end in a line feed alone, be folded, or hold no colon.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_FOLD = re.compile(r"\r?\n[ \t]+")
_END = re.compile(rb"\r?\n\r?\n")


@dataclass(frozen=True, slots=True)
class Fields:
    """Values by the names in lower case, in the order written."""

    values: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def parse(cls, header: bytes) -> Fields:
        """Read the lines after the first, which is no field; a line without a colon says nothing."""
        text = header.decode("utf-8", "replace")
        if "\n " in text or "\n\t" in text:
            text = _FOLD.sub(" ", text)
        values: dict[str, list[str]] = {}
        for line in text.split("\n")[1:]:
            name, colon, value = line.partition(":")
            if colon:
                values.setdefault(name.strip().lower(), []).append(value.strip())
        return cls(values)

    def get(self, name: str) -> str:
        """Return the first value of the field *name*, given in lower case; "" where there is none."""
        values = self.values.get(name)
        return values[0] if values else ""

    def all(self, name: str) -> tuple[str, ...]:
        return tuple(self.values.get(name, ()))


def split(block: bytes) -> tuple[bytes, int]:
    """Return the header of an HTTP message, and where its body begins."""
    end = _END.search(block)
    return (block[: end.start()], end.end()) if end else (block, len(block))
