"""Words as screening compares them: in lower case, without inflection, and those that say nothing left out."""

from __future__ import annotations

import re
from functools import lru_cache

from vecap_tasks.word_lists import read_table, read_words

DATA = "vecap_tasks.rewrite.screen"

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_CLITIC = re.compile(r"['’](?:s|re|ve|ll|d|m)?$")


FUNCTION = read_words(DATA, "function")
NAMEABLE = read_words(DATA, "nameable")
NUMBER_WORDS = {word: int(number) for word, number in read_table(DATA, "numbers").items()}
_IRREGULAR = read_table(DATA, "irregular")


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
