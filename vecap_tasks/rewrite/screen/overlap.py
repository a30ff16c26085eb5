"""What two texts have in common in any language: words that begin alike, or characters of scripts without spaces."""

from __future__ import annotations

import re
from functools import lru_cache

from vecap_tasks.core.word_lists import read_table
from vecap_tasks.rewrite.screen.text import DATA, words

_COMMON_WORDS = {code: frozenset(line.split()) for code, line in read_table(DATA, "sentence_words").items()}
_ALL_COMMON_WORDS = frozenset[str]().union(*_COMMON_WORDS.values())
_CHARACTERS = re.compile(r"[㐀-䶿一-鿿\uf900-\ufaffァ-ヺー]")  # Han and katakana: hiragana is mostly grammar
_NO_SPACES = re.compile(r"[぀-ヿ㐀-䶿一-鿿\uf900-\ufaff฀-๿຀-໿ក-៿က-႟]")
_COMMON_CHARACTERS = frozenset(
    "一二三个個的了在是着著有和与與上下中里裡前后後边邊旁这這那人子大小者方色面张張只條条名位座"
)
_HANGUL = re.compile(r"[가-힯]")
_MIN_LETTERS, _MIN_SHARE = 4, 0.6  # of the common beginning of two words, and of the longer one
_MIN_CHARACTERS = 6  # of a text without spaces that can be judged
_MIN_WORDS = 4  # of a text that can be judged


def is_english(text: str, languages: tuple[str, ...]) -> bool:
    """Return whether *text* is English, given the languages that it can be in; none given means any.

    >>> [is_english("a dog in the snow", ("de", "en")), is_english("ein Hund im Schnee", ("de", "en"))]
    [True, False]
    """
    if languages == ("en",):
        return True
    if not text.isascii() and sum(map(str.isascii, text)) < 0.8 * len(text):
        return False
    tokens = words(text)
    english = sum(word in _COMMON_WORDS["en"] for word in tokens)
    codes = languages or tuple(_COMMON_WORDS)
    others = max((sum(w in _COMMON_WORDS.get(code, ()) for w in tokens) for code in codes if code != "en"), default=0)
    return english > others or (english == others and "en" in languages)


def have_little_in_common(text: str, description: str) -> bool:
    """Return whether *text* shares (almost) nothing with *description*. Short descriptions are not judged.

    >>> have_little_in_common("Ein Hund tobt im Schnee", "ein brauner Hund rennt durch tiefen Schnee")
    False
    >>> have_little_in_common("Jetzt günstig online bestellen", "ein brauner Hund rennt durch tiefen Schnee")
    True
    >>> have_little_in_common("白猫睡在红沙发上", "一只白色的猫躺在红色的沙发上")
    False
    """
    if _NO_SPACES.search(description):
        wanted, found = _characters(description), _characters(text)
        return len(wanted) >= _MIN_CHARACTERS and len(wanted & found) < 2
    wanted, found = _telling_words(description), _telling_words(text)
    return len(wanted) >= _MIN_WORDS and not any(_alike(word, other) for word in wanted for other in found)


@lru_cache(maxsize=1024)
def _characters(text: str) -> frozenset[str]:
    """Return the Han and katakana characters, or pairs of characters of other scripts without spaces."""
    found = frozenset(_CHARACTERS.findall(text)) - _COMMON_CHARACTERS
    joined = "".join(words(text))
    pairs = (joined[index : index + 2] for index in range(len(joined) - 1))
    return found | {pair for pair in pairs if pair.isalpha() and not _CHARACTERS.search(pair) and "฀" <= pair[0] <= "႟"}


def _telling_words(text: str) -> frozenset[str]:
    return frozenset(word for word in words(text) if len(word) > 1 and word not in _ALL_COMMON_WORDS)


def _alike(word: str, other: str) -> bool:
    """Return whether two words are equal or begin alike, or one contains the other: Schloss, Wasserschloss."""
    if word == other:
        return True
    short, long = sorted((word, other), key=len)
    if _HANGUL.match(word):  # two syllables are a word; particles follow it
        return len(short) > 1 and short[:2] == long[:2]
    if len(short) < _MIN_LETTERS:
        return False
    if short in long:
        return True
    common = next((n for n, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    return common >= _MIN_LETTERS and common >= _MIN_SHARE * len(short)
