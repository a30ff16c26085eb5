"""Text utilities of the screening rules: answers with their inputs, words and stems."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from vecap_tasks.config import ScreenConfig
from vecap_tasks.core.word_lists import read_table, read_words

DATA = "vecap_tasks.rewrite.screen"

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_CLITIC = re.compile(r"['’](?:s|re|ve|ll|d|m)?$")
_SPACED = r"[^\W\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7a3]"  # a letter that can be beside an apostrophe
_QUOTED = re.compile(
    r"[\"“„”][^\"“„”]*[\"“”]|«[^«»]*»|»[^«»]*«|‹[^‹›]*›|「[^「」]*」|『[^『』]*』|《[^《》]*》|〈[^〈〉]*〉"
    rf"|(?<!{_SPACED})['‘‚][^'‘’‚]*(?:['’]{_SPACED}[^'‘’‚]*)*['‘’](?!{_SPACED})"
)
_ALL_QUOTED = re.compile(r"[\"“„][^\"“„”]*[\"“”]|'[^']*'|«[^«»]*»|»[^«»]*«|「[^「」]*」|『[^『』]*』")
QUOTED_CHARACTER = "\ufffc"  # replaces a character inside quotation marks

FUNCTION = read_words(DATA, "function")
NAMEABLE = read_words(DATA, "nameable")
NUMBER_WORDS = {word: int(number) for word, number in read_table(DATA, "numbers").items()}
_IRREGULAR = read_table(DATA, "irregular")
_DEFAULTS = ScreenConfig()
MAX_WORD = 100  # characters


@lru_cache(maxsize=1024)  # all rules share a few texts
def words(text: str) -> tuple[str, ...]:
    """Return the words in lower case; hyphens separate words, apostrophes do not."""
    return tuple(word.lower() for word in WORD.findall(text))


@lru_cache(maxsize=1024)
def plain_words(text: str) -> frozenset[str]:
    """Return the words in lower case, split at apostrophes too, for fast prefilters."""
    return frozenset(part for word in words(text) for part in word.replace("’", "'").split("'"))


def content_words(text: str) -> frozenset[str]:
    """Return the stems of all words except function words.

    >>> sorted(content_words("The two foxes' dishes and a glass, standing beside the mug"))
    ['dish', 'fox', 'glass', 'mug', 'stand', 'two']
    """
    return frozenset(stem(word) for word in words(text) if word not in FUNCTION)


def stem(word: str) -> str:
    """Return *word* (lower case) without plural, possessive or verb endings; the stem need not be a word.

    More than `MAX_WORD` characters are no word, and returned as they are.

    >>> [stem(word) for word in ("cities", "wearing", "sitting", "parked", "rides", "men's", "glass", "ring")]
    ['city', 'wear', 'sit', 'park', 'rid', 'man', 'glass', 'ring']
    """
    return _stem(word) if len(word) <= MAX_WORD else word


@lru_cache(maxsize=65536)
def _stem(word: str) -> str:
    word = _CLITIC.sub("", word)
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) > 4 and word.endswith("ies"):
        word = word[:-3] + "y"
    elif len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes", "zes")):
        word = word[:-2]
    elif len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    elif len(word) > 5 and word.endswith("ing"):
        word = _undouble(word[:-3])
    elif len(word) > 4 and word.endswith("ed"):
        word = _undouble(word[:-2])
    word = word.removesuffix("e") if len(word) > 3 else word
    return _IRREGULAR.get(word, word)


def _undouble(word: str) -> str:
    """Undo a doubled final consonant: "sitt" of sitting."""
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz" else word


PLAIN = frozenset(stem(word) for word in read_words(DATA, "plain"))


@dataclass(frozen=True, slots=True)
class Answer:
    """A generated text on one line. `ended` is False at the token limit; `prompt` does not include the data.

    `alttext` and `vec` are the LLM's inputs; both are empty for a VLM.
    """

    text: str
    ended: bool = True
    prompt: str = ""
    alttext: str = ""
    vec: str = ""
    settings: ScreenConfig = _DEFAULTS

    @property
    def data(self) -> str:
        """The sources that the answer can quote."""
        return f"{self.alttext}\n{self.vec}" if self.alttext or self.vec else ""

    def quotes(self, phrase: str) -> bool:
        """Return whether the AltText or the VeC contains the words of *phrase* in sequence."""
        tokens = " ".join(words(phrase)) if self.data else ""
        return bool(tokens) and f" {tokens} " in f" {' '.join(words(self.data))} "


# A rule returns None to keep a text, or the name of the problem.
Rule = Callable[[Answer], str | None]


def one_of(*patterns: str) -> re.Pattern[str]:
    """Compile *patterns* as case-insensitive alternatives."""
    return re.compile("|".join(patterns), re.IGNORECASE)


def without_quotes(text: str) -> str:
    """Return *text* without quotation marks around the whole text."""
    return text[1:-1].strip() if _ALL_QUOTED.fullmatch(text) else text


def unquoted(text: str) -> str:
    """Return *text* with U+FFFC for each character of quoted parts, such as the words on a sign.

    >>> unquoted('A sign with "No"').replace(QUOTED_CHARACTER, "_")
    'A sign with ____'
    >>> unquoted("‘금연’이라고 적힌 팻말").replace(QUOTED_CHARACTER, "_")
    '____이라고 적힌 팻말'
    """
    if _ALL_QUOTED.fullmatch(text):
        text = f" {text[1:-1]} "
    return _QUOTED.sub(lambda quoted: QUOTED_CHARACTER * len(quoted.group()), text)
