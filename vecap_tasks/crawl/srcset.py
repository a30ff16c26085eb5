"""The attribute `srcset`: several addresses of one image, each with a width or a density (HTML, 4.8.4.2.1)."""

from __future__ import annotations

import re
from typing import NamedTuple

# What nearly all are: an address and its width. Neither this nor the others go back over what they matched (`*+`),
# so that the time is linear, whatever the text.
_USUAL = re.compile(r"[ \t\n\r\f,]*+([^ \t\n\r\f]*[^ \t\n\r\f,])[ \t\n\r\f]++([1-9][0-9]{0,8})w[ \t\n\r\f]*+(?:,|\Z)")
_ADDRESS = re.compile(r"[ \t\n\r\f,]*+([^ \t\n\r\f]++)")
_DESCRIPTORS = re.compile(r"(?:\([^)]*+(?:\)|\Z)|[^,(]++)*+")
# Browsers leave out a candidate whose number is beyond theirs; no image is that wide, or a screen that dense.
_NUMBER = re.compile(
    r"(?P<whole>0*[1-9][0-9]{0,8})(?P<unit>[wh])"
    r"|(?P<density>-?(?:[0-9]{1,9}|[0-9]{0,9}\.[0-9]{1,20})(?:[eE][+-]?[0-9]{1,2})?)x"
)


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
    return choices


def largest(choices: list[Choice]) -> str | None:
    """Return the address of the widest, or where no width is written of the densest; the first of equals."""
    if not choices:
        return None
    best = max(choices, key=lambda choice: (choice.width or 0, choice.density))
    return best.address


def _choice(address: str, descriptors: list[str]) -> Choice | None:
    """Return the choice that the standard makes of it, None for one that it leaves out."""
    width = height = 0
    density: float | None = None
    for word in descriptors:
        number = _NUMBER.fullmatch(word)
        if number is None or density is not None:
            return None
        if number["unit"] == "w" and not width:
            width = int(number["whole"])
        elif number["unit"] == "h" and not height:
            height = int(number["whole"])
        elif number["density"] and not width and not height:
            density = float(number["density"])
        else:
            return None
    if (height and not width) or (density or 0) < 0:
        return None
    return Choice(address, width or None, 1.0 if density is None else density)
