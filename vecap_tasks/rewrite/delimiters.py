"""Finds the delimiters around a prompt's placeholders, and removes them from the data.

The delimiters come from the prompt itself, so that a prompt can use any quotation marks, brackets, tags, fences or
marker words of any language. A mark that could close a placeholder cannot occur in the data, in any spelling that looks
like it. Sentence punctuation after a placeholder is no delimiter.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache

from vecap_tasks.rewrite.sanitize import fold, label_pattern, literal, remove

PLACEHOLDER = re.compile(r"\{(\w+)\}")
_LABEL = re.compile(r"^[^\S\n]*([^\n{}:：]{1,40}?)[^\S\n]*[:：][^\n]*\{(?:alttext|vec)\}", re.MULTILINE)
_TAG = re.compile(r"<\s*/?\s*([\w:.-]+)[^<>\n]*>|\[\s*/?\s*(\w+)\s*\]")
_SENTENCE = ".,;:!?…-–—。，、；：！？．·"
# Marks of a family close each other's openings, in folded text.
_FAMILIES = ('"', "'`", "<>«»", "()", "[]", "{}", "「」『』")
_FAMILY = {mark: family for family in _FAMILIES for mark in family} | {"`": "`"}
_PAIRS = {"(": ")", "[": "]", "{": "}", "「": "」", "『": "』", "<": ">"}


def close_delimiters(text: str, value: str) -> str:
    """Return *value* without anything that closes a delimiter of the prompt *text*, or repeats one of its labels.

    A double quotation mark becomes an apostrophe, a label ("Alt text:") loses its colon, and other marks become spaces.
    """
    marks = _marks(text)
    return value if marks is None else remove(value, marks)


@lru_cache(maxsize=64)
def _marks(text: str) -> re.Pattern[str] | None:
    """Return the pattern, in folded text, of everything that closes a placeholder of the prompt *text*."""
    characters: set[str] = set()
    words: set[str] = set()
    for before, after in _surroundings(text):
        characters |= _unclosed(before) | _closing(before, after)
        words |= {*before.split()[-1:], *after.split()[:1]}
    labels = dict.fromkeys(_LABEL.findall(text))
    tags = {name for match in _TAG.finditer(text) for name in match.groups() if name}
    markers, capitals = {*_markers(words)}, {*_capitals(words)}
    patterns = [label_pattern(labels)] if labels else []
    if tags:
        names = _alternatives(tags)
        patterns.append(rf"[<«]\s*/?\s*(?:{names})(?![\w-])[^<>«»]*[>»]?|\[\s*/?\s*(?:{names})\s*\]")
    if markers:
        patterns.append(_alternatives(markers))
    if capitals:
        patterns.append(rf"(?P<capitals>\b(?:{_alternatives(capitals)})\b)")
    if '"' in characters and "'" not in characters:
        patterns.append('(?P<quote>")')
        characters.remove('"')
    if characters:
        patterns.append(f"[{re.escape(''.join(sorted(characters)))}]")
    return re.compile("|".join(patterns)) if patterns else None


def _alternatives(texts: Iterable[str]) -> str:
    return "|".join(map(literal, sorted(texts, key=lambda text: (-len(text), text))))


def _surroundings(text: str) -> Iterator[tuple[str, str]]:
    """Yield the text before and after each placeholder, without tags, up to the line's end or the next placeholder.

    A placeholder that begins or ends a line is also next to the line above or below.
    """
    for match in PLACEHOLDER.finditer(text):
        above, _, before = text[: match.start()].rpartition("\n")
        after, _, below = text[match.end() :].partition("\n")
        before = before if before.strip() else above.rpartition("\n")[2] + "\n"
        after = after if after.strip() else "\n" + below.partition("\n")[0]
        yield _TAG.sub("", PLACEHOLDER.split(before)[-1]), _TAG.sub("", PLACEHOLDER.split(after)[0])


def _unclosed(before: str) -> set[str]:
    """Return the quotation marks and brackets, with their families, that are open at the end of *before*."""
    opened: set[str] = set()
    marks = re.sub(r"(?<=\w)'(?=\w)", "", fold(before))  # no apostrophes
    for mark in {*marks} & _FAMILY.keys():
        closing = _PAIRS.get(mark)
        others = mark in _PAIRS.values()
        if marks.count(mark) > marks.count(closing) if closing else marks.count(mark) % 2 and not others:
            opened |= {*_FAMILY[mark]}
    return opened


def _closing(before: str, after: str) -> set[str]:
    """Return the marks that follow a placeholder directly, with their families."""
    run, last = _symbols(after), fold(before.rstrip()[-1:])
    families = {mark for mark in run if mark in _FAMILY and (mark not in _PAIRS or last in _FAMILY)}
    if families:
        return {other for mark in families for other in _FAMILY[mark]}
    return {run} if len(run) == 1 and (run not in _SENTENCE or run == last) else set()


def _symbols(text: str) -> str:
    """Return the punctuation and symbols with which *text* begins, folded."""
    text = text.lstrip()
    end = next((index for index, character in enumerate(text) if not _is_symbol(character)), len(text))
    return fold(text[:end])


def _is_symbol(character: str) -> bool:
    return unicodedata.category(character)[0] in "PS"


def _markers(words: Iterable[str]) -> Iterator[str]:
    """Yield the fences (`---`, `%%`) and marker words with symbols that no sentence has (`@alt@`) of *words*."""
    for word in words:
        core = word.strip(_SENTENCE)
        symbols = {character for character in core if _is_symbol(character)} - {*_SENTENCE}
        if {*fold(word)} & _FAMILY.keys():
            continue
        if all(map(_is_symbol, word)):
            if len(word) > 1 and {*word} - {*".…!?"}:
                yield word
        elif symbols:
            yield core


def _capitals(words: Iterable[str]) -> Iterator[str]:
    """Yield the words in capitals (`END`) of *words*, except labels."""
    cores = (word.strip(_SENTENCE) for word in words if word[-1] not in ":：")
    return (core for core in cores if len(core) > 1 and core.isupper() and core.isalnum())
