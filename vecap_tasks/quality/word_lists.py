"""Texts of only known words, such as what a page calls every image, or its menu.

The words are data files, one per language and topic. English words count in every language: many pages mix them. Words
of two other languages do not count together, because what is a function word in one is a name in another.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from vecap_tasks.core.word_lists import read_words

_PACKAGE = "vecap_tasks.quality"
MAX_WORDS = 40  # in a text of only known words
_MIN_LETTERS = 3
_MAX_JOINED = 60  # characters of a word of joined parts
_MAX_PART = 14  # characters
_UNSPACED = frozenset({"zh", "ja", "ko"})  # parts of words are joined without spaces
_IS_NUMBER = re.compile(r"\d+(?:x\d+|px|k|mb)?")
_FINAL_NUMBER = re.compile(r"(?:(?<=[\u2e80-\ud7ff])|(?<=..)(?<!\d))\d+$", re.DOTALL)


def languages(topic: str) -> list[str]:
    """Return the languages with a list of *topic*, English first."""
    names = (file.name.removesuffix(".txt") for file in files(_PACKAGE).joinpath("data", topic).iterdir())
    return sorted(names, key=lambda name: (name != "en", name))


def words_of(topics: Iterable[str], language: str) -> frozenset[str]:
    """Return the words of *topics* in *language*."""
    lists = (read_words(_PACKAGE, f"{topic}/{language}") for topic in topics if language in languages(topic))
    return frozenset[str]().union(*lists)


def all_words(topics: tuple[str, ...]) -> list[str]:
    """Return the words of *topics* in all languages, sorted."""
    return sorted(frozenset[str]().union(*(words_of(topics, language) for language in languages(topics[0]))))


@dataclass(frozen=True, slots=True)
class KnownWords:
    """Words by language. The words of languages without spaces are parts, of which each word can have several."""

    english: frozenset[str]
    spaced: dict[str, frozenset[str]]
    parts: dict[str, frozenset[str]]

    def contain(self, words: Sequence[str]) -> bool:
        """Return whether all *words*, in lower case, are of one language, English, or numbers.

        A number may follow a word of two or more letters without a blank, as in `image001`. At least one word has three
        letters: `Il-76` is an aircraft, although `il` is an article.
        """
        if len(words) > MAX_WORDS:
            return False
        names = [_FINAL_NUMBER.sub("", _undotted(word)) for word in words if not _IS_NUMBER.fullmatch(word)]
        if all(len(name) < _MIN_LETTERS and name.isascii() for name in names):
            return False
        other = [word for word in names if word not in self.english]
        if any(known.issuperset(other) for known in self.spaced.values()):
            return True
        return any(_are_joined(other, parts, len(other) < len(names)) for parts in self.parts.values())


def _are_joined(words: Sequence[str], parts: frozenset[str], standalone: bool) -> bool:
    """Return whether each of *words* is a sequence of *parts*.

    A part of one character only links others, unless it is listed with `=`: 가 and 수 are particles, but 가수 is a
    singer. At least one part that stands alone is needed, unless *standalone* says that the text has another word.
    """
    for word in words:
        kind = _joins(word, parts)
        if kind is None:
            return False
        standalone = standalone or kind
    return standalone


def _joins(word: str, parts: frozenset[str]) -> bool | None:
    """Return whether *word* is a sequence of *parts* with one that stands alone, None for any other word."""
    if len(word) > _MAX_JOINED:
        return None
    reached: dict[int, bool] = {0: False}  # position -> whether a part before it stands alone
    for start in range(len(word)):
        if start not in reached:
            continue
        for end in range(start + 1, min(len(word), start + _MAX_PART) + 1):
            part = word[start:end]
            alone = part in parts if len(part) > 1 else f"={part}" in parts
            if alone or part in parts:
                reached[end] = reached.get(end, False) or reached[start] or alone
    return reached.get(len(word))


@cache
def known_words(topics: tuple[str, ...]) -> KnownWords:
    """Return the words of *topics*."""
    lists = {language: words_of(topics, language) for language in languages(topics[0])}
    spaced = {language: words for language, words in lists.items() if language not in _UNSPACED}
    return KnownWords(lists["en"], spaced, {language: lists[language] for language in _UNSPACED})


def words_digest(topics: tuple[str, ...]) -> str:
    """Return a digest of the words of *topics* by language, 16 hex digits."""
    lists = (f"{language}: {' '.join(sorted(words_of(topics, language)))}" for language in languages(topics[0]))
    return hashlib.sha256("\n".join(lists).encode()).hexdigest()[:16]


def _undotted(word: str) -> str:
    """Return *word* without the dot that the Turkish capital İ leaves in lower case."""
    return word.replace("i\u0307", "i")
