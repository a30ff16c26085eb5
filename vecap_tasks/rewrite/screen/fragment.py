"""Incomplete beginnings and endings of texts, by language; `data/endings` and `data/beginnings` have one file each.

A line of such a file is one of

    word word ...     words that cannot end (begin) a caption
    word: word ...    such a word; after the colon, the words before (after) it that complete it, as in "made of"
    ~ expression      a regular expression for incomplete endings (beginnings)
    ! expression      a regular expression for complete texts in spite of the above

Words and expressions match lower case letters only: "The Man Who Was" is a title.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from vecap_tasks.core.word_lists import read_lines, read_table
from vecap_tasks.rewrite.screen.text import DATA, Answer, words

_FALLBACK = "en"  # models use English whatever the prompt says
_MIN_FALLBACK_WORDS = 2
_TAIL = 240  # characters that the expressions for complete endings read
_SHORT_TAIL = 60  # characters that the expressions for incomplete endings read
_EDGES = ",.;:\"'“”„‚‘’«»()[]"
_NEVER = re.compile(r"(?!)")
_COMMON_WORDS = {code: frozenset(value.split()) for code, value in read_table(DATA, "sentence_words").items()}
_LANGUAGES = frozenset(
    path.name.removesuffix(".txt") for path in files(DATA).joinpath("data", "endings").iterdir() if path.is_file()
)
_SCRIPTS = (
    ("ja", re.compile("[\u3040-\u30ff]")),
    ("ko", re.compile("[\uac00-\ud7a3]")),
    ("zh", re.compile("[\u4e00-\u9fff]")),
    ("ru", re.compile("[\u0400-\u04ff]")),
)
_OF_SCRIPT = frozenset(code for code, _ in _SCRIPTS)


@dataclass(frozen=True, slots=True)
class _Rules:
    """The lines of one file. *words* maps a word to the neighbors that complete it."""

    words: dict[str, frozenset[str]]
    incomplete: re.Pattern[str]
    complete: re.Pattern[str]


@lru_cache(maxsize=64)
def _rules(kind: str, language: str) -> _Rules:
    """Return the rules in `data/KIND/LANGUAGE.txt`; *kind* is `endings` or `beginnings`."""
    found: dict[str, frozenset[str]] = {}
    incomplete, complete = [], []
    for line in read_lines(DATA, f"{kind}/{language}"):
        if line.startswith("~"):
            incomplete.append(line[1:].strip())
        elif line.startswith("!"):
            complete.append(line[1:].strip())
        else:
            head, _, neighbors = line.partition(":")
            found.update(dict.fromkeys(head.split(), frozenset(neighbors.split())))
    shape = "(?:{})$" if kind == "endings" else "^(?:{})"
    patterns = (re.compile(shape.format("|".join(parts))) if parts else _NEVER for parts in (incomplete, complete))
    return _Rules(found, *patterns)


def incomplete_ending(answer: Answer) -> bool:
    """Return whether the text stops in the middle of a phrase; False if a source ends with the same words.

    >>> from vecap_tasks.config import ScreenConfig
    >>> incomplete_ending(Answer("A cat on a mat and the"))
    True
    >>> incomplete_ending(Answer("The stuff dreams are made of"))
    False
    >>> incomplete_ending(Answer("Der Zug fährt gleich ab", settings=ScreenConfig(languages=("de",))))
    False
    >>> incomplete_ending(Answer("Ein Zug und eine", settings=ScreenConfig(languages=("de",))))
    True
    """
    text = answer.text.rstrip()
    return any(_ends_incomplete(text, _rules("endings", code)) for code in _languages(answer)) and not any(
        words(source)[-3:] == words(text)[-3:] for source in (answer.alttext, answer.vec) if source
    )


def incomplete_beginning(answer: Answer) -> bool:
    """Return whether the text begins in mid-sentence; False if a source begins with the same words.

    >>> incomplete_beginning(Answer("and is parked next to a house"))
    True
    >>> incomplete_beginning(Answer("And Then There Were None on a windowsill"))
    False
    """
    text = answer.text.lstrip(" .…")
    return any(_begins_incomplete(text, _rules("beginnings", code)) for code in _languages(answer)) and not any(
        words(source)[:3] == words(text)[:3] for source in (answer.alttext, answer.vec) if source
    )


def _ends_incomplete(text: str, rules: _Rules) -> bool:
    end = text.rsplit(None, 2)[-2:]
    last = end[-1].replace("’", "'").rpartition("'")[2].lstrip(_EDGES) if end else ""
    before = end[0].strip(_EDGES).lower() if len(end) > 1 else ""
    found = last in rules.words and before not in rules.words[last]
    found = found or rules.incomplete.search(text, max(0, len(text) - _SHORT_TAIL)) is not None
    return found and not rules.complete.search(text[-_TAIL:])


def _begins_incomplete(text: str, rules: _Rules) -> bool:
    first, _, rest = text.partition(" ")
    first = first.replace("’", "'").rstrip(_EDGES)
    after = rest.partition(" ")[0].strip(_EDGES).lower()
    found = bool(after) and first in rules.words and after not in rules.words[first]
    return (found or rules.incomplete.match(text) is not None) and not rules.complete.match(text)


def _languages(answer: Answer) -> tuple[str, ...]:
    """Return the language of the text as a tuple: a configured one, or English; empty without data for it.

    English needs two common words more than zero if it is not configured, and more than any configured language has.
    """
    wanted = answer.settings.languages or tuple(sorted(_LANGUAGES))
    if wanted == (_FALLBACK,):
        return wanted
    if not answer.text.isascii():
        for code, letters in _SCRIPTS:
            if code in wanted and letters.search(answer.text):
                return (code,)
    tokens = answer.text.replace("'", " ").replace("’", " ").lower().split()
    counts = {code: sum(token in _COMMON_WORDS.get(code, ()) for token in tokens) for code in wanted}
    counts = {code: count for code, count in counts.items() if code not in _OF_SCRIPT}
    english = sum(token in _COMMON_WORDS[_FALLBACK] for token in tokens)
    best = max(counts, key=counts.__getitem__, default=None)
    if best is None or (english >= _MIN_FALLBACK_WORDS and english > counts[best]):
        return (_FALLBACK,) if english >= _MIN_FALLBACK_WORDS else ()
    return (best,) if best in _LANGUAGES else ()
