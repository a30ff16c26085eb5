"""Text as screening rules see it: the answer with its inputs, and words without inflection or stop words."""

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
_QUOTED = re.compile(r"[\"“][^\"“”]*[\"”]|(?<!\w)['‘][^'‘’]*(?:['’]\w[^'‘’]*)*['’](?!\w)")
_ALL_QUOTED = re.compile(r"\"[^\"]*\"|“[^“”]*”|'[^']*'")

FUNCTION = read_words(DATA, "function")
NAMEABLE = read_words(DATA, "nameable")
NUMBER_WORDS = {word: int(number) for word, number in read_table(DATA, "numbers").items()}
_IRREGULAR = read_table(DATA, "irregular")
_DEFAULTS = ScreenConfig()


@lru_cache(maxsize=1024)  # every rule asks for the same few texts
def words(text: str) -> tuple[str, ...]:
    """Return the words in lower case; a hyphen parts two, an apostrophe does not."""
    return tuple(word.lower() for word in WORD.findall(text))


@lru_cache(maxsize=1024)
def plain_words(text: str) -> frozenset[str]:
    """Return the words in lower case, parted at apostrophes too, as a first look at a text wants them."""
    return frozenset(part for word in words(text) for part in word.replace("’", "'").split("'"))


def content_words(text: str) -> frozenset[str]:
    """Return the stems of the words that name something.

    >>> sorted(content_words("The two foxes' dishes and a glass, standing beside the mug"))
    ['dish', 'fox', 'glass', 'mug', 'stand', 'two']
    """
    return frozenset(stem(word) for word in words(text) if word not in FUNCTION)


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """Return the lower-case *word* without the ending of a plural, a possessive or a verb; not always a word itself.

    >>> [stem(word) for word in ("cities", "wearing", "sitting", "parked", "rides", "men's", "glass", "ring")]
    ['city', 'wear', 'sit', 'park', 'rid', 'man', 'glass', 'ring']
    """
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
        word = _single(word[:-3])
    elif len(word) > 4 and word.endswith("ed"):
        word = _single(word[:-2])
    word = word.removesuffix("e") if len(word) > 3 else word
    return _IRREGULAR.get(word, word)


def _single(word: str) -> str:
    """Undo the doubling of a last consonant: "sitt" of sitting."""
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz" else word


PLAIN = frozenset(stem(word) for word in read_words(DATA, "plain"))


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's text on one line. `ended` is False where it ran into its token limit; `prompt` is without the data.

    `alttext` and `vec` are what the LLM was given to fuse; both are empty for a VLM's answer.
    """

    text: str
    ended: bool = True
    prompt: str = ""
    alttext: str = ""
    vec: str = ""
    settings: ScreenConfig = _DEFAULTS

    @property
    def data(self) -> str:
        """What the answer may quote: a phrase that stands here is no slip of the model."""
        return f"{self.alttext}\n{self.vec}" if self.alttext or self.vec else ""

    def quotes(self, phrase: str) -> bool:
        """Whether the words of *phrase* stand in a row in the AltText or the VeC."""
        said = " ".join(words(phrase)) if self.data else ""
        return bool(said) and f" {said} " in f" {' '.join(words(self.data))} "


# A rule answers None, for a text that it keeps, or the name of what is wrong.
Rule = Callable[[Answer], str | None]


def one_of(*patterns: str) -> re.Pattern[str]:
    """Compile the *patterns* as alternatives that do not look at case."""
    return re.compile("|".join(patterns), re.IGNORECASE)


def without_quotes(text: str) -> str:
    """Return *text* without quotation marks around all of it."""
    return text[1:-1].strip() if _ALL_QUOTED.fullmatch(text) else text


def unquoted(text: str) -> str:
    """Return *text* without what stands in quotation marks: the words of a sign, not of who describes it."""
    return _QUOTED.sub(" … ", without_quotes(text))
