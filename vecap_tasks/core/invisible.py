"""Characters without a visible glyph and look-alikes, with which a text can hide what it says from a search."""

from __future__ import annotations

import re
import unicodedata

# Default_Ignorable_Code_Point of DerivedCoreProperties.txt, Unicode 17.0: characters without a visible glyph.
_DEFAULT_IGNORABLE = (
    *((0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F)),
    *((0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF)),
    *((0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF)),
)
IGNORABLE = frozenset(code for first, last in _DEFAULT_IGNORABLE for code in range(first, last + 1))

# Characters that are written for ASCII digits, hyphens and dots, and invisible ones.
_HYPHENS, _DOTS, _SLASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u30fc", "•·∙⋅・", "\u2044\u2215"
_FOLD = str.maketrans(
    dict.fromkeys(_HYPHENS, "-")
    | dict.fromkeys(_DOTS, ".")
    | dict.fromkeys(IGNORABLE, "")
    | dict.fromkeys(_SLASHES, "/")
)
_RANGES = "".join(f"{chr(first)}-{chr(last)}" for first, last in _DEFAULT_IGNORABLE)
# Characters other than digits that `fold` changes, in the syntax of RE2.
FOLDED = f"[{_RANGES}{_HYPHENS}{_DOTS}{_SLASHES}\uff01-\uff5e\u00a0\u2000-\u200a\u202f\u3000]"
_IS_FOLDED = re.compile(rf"{FOLDED}|(?![0-9])\d")


def fold(text: str) -> str:
    """Return *text* with ASCII digits, hyphens and dots, and without invisible characters."""
    if not _IS_FOLDED.search(text):
        return text
    text = unicodedata.normalize("NFKC", text.translate(_FOLD)).translate(_FOLD)
    return "".join(str(unicodedata.digit(c)) if not c.isascii() and c.isdecimal() else c for c in text)
