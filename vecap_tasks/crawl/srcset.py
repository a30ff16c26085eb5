"""The attribute `srcset`: several addresses of one image, each with a width or a density (HTML, 4.8.4.2.1)."""

from __future__ import annotations

import re
from typing import NamedTuple

_SPACE = " \t\n\r\f"
# What nearly all are: an address and its width.
_USUAL = re.compile(r"[ \t\n\r\f,]*([^ \t\n\r\f]*[^ \t\n\r\f,])[ \t\n\r\f]+(\d+)w[ \t\n\r\f]*(?:,|\Z)")
_ADDRESS = re.compile(r"[ \t\n\r\f,]*([^ \t\n\r\f]+)")
_DESCRIPTORS = re.compile(r"(?:\([^)]*\)|[^,(])*")


class Choice(NamedTuple):  # for speed, as Link
    """One address with its width in pixels (`800w`) or its density (`2x`; 1 where neither is written)."""

    address: str
    width: int | None
    density: float


def parse_srcset(text: str) -> list[Choice]:
    """Return the choices in the order written; those whose descriptors cannot be read are left out."""
    choices: list[Choice] = []
    position = 0
    while True:
        while match := _USUAL.match(text, position):
            choices.append(Choice(match[1], int(match[2]), 1.0))
            position = match.end()
        match = _ADDRESS.match(text, position)
        if not match:
            break
        position = match.end()
        address = match[1]
        if address.endswith(","):
            choices.append(Choice(address.rstrip(","), None, 1.0))
            continue
        descriptors = _DESCRIPTORS.match(text, position)
        written = descriptors[0] if descriptors else ""
        position += len(written)
        if choice := _choice(address, written.split()):
            choices.append(choice)
    return [choice for choice in choices if choice.address]


def largest(choices: list[Choice]) -> str | None:
    """Return the address of the widest, or where no width is written of the densest; the first of equals."""
    if not choices:
        return None
    best = max(choices, key=lambda choice: (choice.width or 0, choice.density))
    return best.address


def _choice(address: str, descriptors: list[str]) -> Choice | None:
    width: int | None = None
    density = 1.0
    for word in descriptors:
        value, unit = word[:-1], word[-1]
        try:
            if unit == "w":
                width = int(value)
            elif unit == "x":
                density = float(value)
            elif unit != "h":
                return None
        except ValueError:
            return None
    return Choice(address, width, density)
