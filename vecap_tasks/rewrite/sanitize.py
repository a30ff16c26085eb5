"""Makes web text safe to insert into a prompt: finds chat markup by how it looks, and removes it.

Text is compared in a folded form (`fold`): compatibility characters (NFKD) and look-alikes of ASCII characters become
ASCII, accents and characters without a glyph disappear, and letters are lower case. A marker written in fullwidth,
Cyrillic or squared letters is therefore found, while the text that remains keeps its own characters.

`data/chat_tokens.txt` lists the control tokens of model families; `data/confusables.txt` lists look-alikes.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path

from vecap_tasks.core.private_data import IGNORABLE

DATA = Path(__file__).parent / "data"

_JOINERS = "\u200c\u200d"  # ignorable, but Persian, Indic scripts and emoji need them between two characters
_FIRST_JOINING = 0x600  # Arabic; Latin, Greek and Cyrillic need no joiner
_BLANK = "\u2800"  # a symbol without a visible glyph
_MAX_COMBINING = 3  # combining characters per letter
_SEPARATORS = ("Cc", "Zl", "Zp", "Zs")
_INVISIBLE = ("Cf", "Cs", "Co", "Cn")
_ESCAPE = re.compile(r"\\u\{?([0-9a-fA-F]{4,6})\}?|\\x([0-9a-fA-F]{2})")

# Roles and parts of prompts that are written as tags, such as <system> or [description].
_PARTS = (
    "user|assistant|system|human|model|bot|gpt|ai|tool|function|developer|instructions?|response|prompt|alt_?text"
    "|description|vec|caption"
)
_MARKUP = (
    # The forms of special tokens: ChatML, Gemma 4, EXAONE.
    *(r"<\|.*?\|>|<\|[\w ]*>|<[\w ]*\|>", r"\[\|.*?\|\]"),
    # Tags, any closing tag even if it is not complete, and parts of prompts in brackets.
    rf"<[a-z][\w:.-]*(?:\s+[\w:-]+\s*=[^<>]*)?\s*/?>|<(?:{_PARTS})\s[^<>]*>|[<«]\s*/\s*[\w:.-]*\s*[>»]?",
    rf"\[\s*/\s*\w+\s*\]|\[\s*(?:{_PARTS})\s*\]",
    # Headings of Alpaca, other fences; runs of brackets and very long words, which flood a model.
    r"#{2,}|`{3,}|\"{3,}|'{3,}|[-=*_~<>|()\[\]{}]{4,}|[a-z0-9]{81,}",
)
_LABELS = ("alt text", "alt-text", "alttext", "description", "caption", "vec")
_SPACES = re.compile(" {2,}")
# A line without any of these characters or runs has no marker, except a model's own tokens.
_SUSPECT = r"[<>«»\[\]|:`]|[-=*_~#\"'(){}]{2}|[a-z0-9]{81}"


class _Folding(dict[int, str]):
    """The folded form of each code point, computed on first use."""

    def __missing__(self, code: int) -> str:
        folded = self[code] = self._fold(chr(code))
        return folded

    def _fold(self, character: str) -> str:
        if ord(character) in IGNORABLE:
            return ""
        shown = "".join(
            _look_alikes().get(part, part)
            for part in unicodedata.normalize("NFKD", _look_alikes().get(character, character))
            if unicodedata.category(part) not in ("Mn", "Me")
        )
        return "".join(map(str.lower, shown)) if len(shown.lower()) == len(shown) else shown


_FOLDING = _Folding()


@lru_cache(maxsize=1)
def _look_alikes() -> dict[str, str]:
    look_alikes: dict[str, str] = {}
    for line in (DATA / "confusables.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("// "):
            plain, _, characters = line.partition(" ")
            look_alikes |= dict.fromkeys(characters, plain)
    return look_alikes


def fold(text: str) -> str:
    """Return *text* as it looks, in lower-case ASCII where a character looks like one. Its length can differ."""
    return text.lower() if text.isascii() else text.translate(_FOLDING)


def remove(line: str, marks: re.Pattern[str]) -> str:
    """Return *line* with each of *marks*, a pattern of folded text, replaced by a space, until none is left.

    The space keeps the text around a mark from forming a new one. Three groups of the pattern have a meaning: of a
    match with `colon`, only the colon is removed; `quote` becomes an apostrophe; `capitals` must be in capitals.
    """
    while True:
        kept, end, positions = [], 0, _positions(line)
        for match in marks.finditer(fold(line)):
            groups = match.groupdict()
            start = positions[match.start("colon" if groups.get("colon") else 0)]
            stop = max(positions[match.end() - 1] + 1, positions[match.end()])
            if groups.get("capitals") and not line[start:stop].isupper():
                continue
            kept += [line[end:start], "'" if groups.get("quote") else " "]
            end = stop
        if not kept:
            return line
        line = _SPACES.sub(" ", "".join([*kept, line[end:]]))


def _positions(text: str) -> Sequence[int]:
    """Return the position in *text* of each character of its folded form, and the length of *text*."""
    if text.isascii():
        return range(len(text) + 1)
    folded = (len(text[index].translate(_FOLDING)) for index in range(len(text)))
    return [*(index for index, count in enumerate(folded) for _ in range(count)), len(text)]


def clean(text: str, special_tokens: Iterable[str], limit: int) -> str:
    """Return *text* as one line of data without control or ignorable characters, *special_tokens* and chat markers.

    Escaped characters (`&lt;`, `\\u003c`) are decoded first. The line is cut to *limit* characters, at a space if one
    is near.
    """
    line = _one_line(text, limit)
    if "&" in line or "\\" in line:
        while (decoded := _decode(line)) != line:
            line = _one_line(decoded, limit)
    suspect, marks = _patterns(tuple(special_tokens))
    if suspect.search(fold(line)):
        line = " ".join(remove(line, marks).split())
    if len(line) <= limit:
        return line
    cut = line[: limit + 1].rpartition(" ")[0]
    return cut if len(cut) > limit // 2 else line[:limit].rstrip()


def _decode(line: str) -> str:
    def character(match: re.Match[str]) -> str:
        code = int(match[1] or match[2], 16)
        return chr(code) if code < 0x110000 else " "

    return html.unescape(_ESCAPE.sub(character, line))


def _one_line(text: str, limit: int) -> str:
    """Return the visible characters of *text* on one line, at most four times *limit*."""
    if text.isascii() and text.isprintable():
        return " ".join(text[: 4 * limit].split())
    return " ".join("".join(islice(_visible(text), 4 * limit)).split())


def _visible(text: str) -> Iterator[str]:
    """Yield the visible characters, and a space for each separator."""
    before, marks, joiner = " ", 0, ""
    for character in text:
        if character.isascii():
            shown = character if character.isprintable() else " "
            joiner = ""
        elif character in _JOINERS:
            joins = ord(before) >= _FIRST_JOINING and unicodedata.category(before)[0] in "LMS"
            joiner = joiner or (character if joins else "")
            continue
        else:
            shown = _visible_character(character)
        marks = marks + 1 if unicodedata.combining(character) else 0
        if shown and marks <= _MAX_COMBINING:
            if joiner:
                yield from joiner if ord(shown) >= _FIRST_JOINING and unicodedata.category(shown)[0] in "LMS" else ""
                joiner = ""
            before = shown
            yield shown


def _visible_character(character: str) -> str:
    category = unicodedata.category(character)
    if category in _SEPARATORS or character in _BLANK:
        return " "
    return "" if category in _INVISIBLE or ord(character) in IGNORABLE else character


def chat_tokens() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the control tokens and the role labels (without colon) of known model families; `{n}` is a number."""
    lines = (DATA / "chat_tokens.txt").read_text(encoding="utf-8").splitlines()
    entries = [line for line in lines if line and line.split(" ")[0] != "#"]
    labels = tuple(entry[:-1] for entry in entries if entry.endswith(":"))
    return tuple(entry for entry in entries if not entry.endswith(":")), labels


def literal(text: str) -> str:
    """Return the pattern of *text* in folded text."""
    return re.escape(fold(text))


def label_pattern(labels: Iterable[str]) -> str:
    """Return the pattern of *labels* and their colon, the group `colon`, in folded text.

    Any white space separates the words of a label. A label of a script without spaces can begin anywhere; others begin
    a word, also after a written-out line break (`\\n`).
    """
    spaced: list[str] = []
    joined: list[str] = []
    for name in labels:
        is_joined = unicodedata.category(name[0]) == "Lo" or not name[0].isalnum()
        (joined if is_joined else spaced).append(r"\s+".join(map(literal, name.split())))
    starts = [rf"(?:\b|(?<=\\[nrt]))(?:{'|'.join(spaced)})"] if spaced else []
    return rf"(?:{'|'.join([*starts, *joined])})\s*(?P<colon>:)"


@lru_cache(maxsize=8)
def _patterns(special_tokens: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return a quick pattern that matches every line with a mark, and the pattern of the marks."""
    known, roles = chat_tokens()
    suspect = re.compile(_SUSPECT)
    own = sorted({fold(token).strip() for token in special_tokens} - {""}, key=len, reverse=True)
    unusual = [re.escape(token) for token in own if not suspect.search(token)]
    tokens = sorted({*own, *map(fold, known)}, key=len, reverse=True)
    by_start: dict[str, list[str]] = {}
    for token in tokens:
        by_start.setdefault(token[0], []).append(re.escape(token[1:]).replace(r"\{n\}", r"\d+"))
    spelled = [f"{re.escape(start)}(?:{'|'.join(rest)})" for start, rest in by_start.items()]
    colon = label_pattern([*roles, *_LABELS])
    return re.compile("|".join([_SUSPECT, *unusual])), re.compile("|".join([*spelled, *_MARKUP, colon]))
