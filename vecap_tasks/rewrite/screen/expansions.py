"""Names that stand for unusual words of an AltText: longer forms of names, abbreviations and translations."""

from __future__ import annotations

import re
from functools import lru_cache

from vecap_tasks.core.word_lists import read_table, read_words
from vecap_tasks.rewrite.screen.concepts import is_listed, is_noun
from vecap_tasks.rewrite.screen.names import (
    BRANDS,
    EVERYDAY,
    GIVEN_NAMES,
    KNOWN_NAMES,
    NAME_PARTS,
    REGIONS,
    SPELLED_OUT,
    Name,
    is_similar,
    plain,
)
from vecap_tasks.rewrite.screen.text import DATA, FUNCTION, NUMBER_WORDS, PLAIN, WORD, stem, words

_ORDINARY = read_words(DATA, "ordinary") | FUNCTION | EVERYDAY | NAME_PARTS | frozenset(NUMBER_WORDS)
_ORDINARY_STEMS = frozenset(map(stem, _ORDINARY)) | PLAIN
_ENDINGS = ("ing", "tion", "ness", "less", "able", "ally", "ment", "ism", "wear", "ware")  # of ordinary words
_LINKS = frozenset({"of", "the", "de", "la", "le", "del", "di", "da", "do", "van", "von", "der", "den", "and", "el"})
_GAP = re.compile(r" |-|\. |\.| & |/")  # between two words of one name
_FOREIGN = frozenset(
    word for code, line in read_table(DATA, "sentence_words").items() if code != "en" for word in line.split()
) - frozenset(read_table(DATA, "sentence_words")["en"].split())
_NONE: frozenset[str] = frozenset()
_MIN_LONG = 4  # letters of a word in another script or language that says something
_NUMERALS = {"1": "one", "2": "two", "3": "three", "4": "four", "5": "five", "7": "seven"}


def is_expansion(name: Name, alttext: str, vec: str, text: str) -> bool:
    """Return whether *name*, a word of *text*, can stand for an unusual word of the AltText.

    An unusual word is no ordinary English word and not in the VeC. *name* can be a further part of a name that the
    AltText states, or what a short form means, or a translation. Common given names, brands, cities and countries are
    only accepted as what a short form means.

    >>> cases = (
    ...     ("mahomes pass", "Patrick", "Patrick Mahomes"),
    ...     ("xb1 pad", "Xbox", "Xbox One"),
    ...     ("Rotkäppchen und der Wolf", "Riding", "Little Red Riding Hood"),
    ...     ("wolf painting", "Riding", "Little Red Riding Hood"),
    ...     ("Kate at a premiere", "Winslet", "Kate Winslet"),
    ... )
    >>> [is_expansion(Name(part, "", "", text.index(part)), alttext, "", text) for alttext, part, text in cases]
    [True, True, True, False, False]
    """
    unusual, codes = _unusual(alttext, vec), _codes(alttext)
    if not unusual and not codes:
        return False
    run = _run(text, name.start)
    lower = name.text.lower()
    if _completes(lower, run, unusual):
        return True
    unused = _unused(unusual, text)
    if any(_abbreviates(word, run) for word in codes.union(unused)):
        return True
    if lower in REGIONS:
        return not GIVEN_NAMES.union(BRANDS, unused).issuperset(unusual)  # where a place lies
    if lower in KNOWN_NAMES or not unused:
        return False
    if _is_foreign(alttext, unusual):
        return True
    return not GIVEN_NAMES.isdisjoint(run) and not GIVEN_NAMES.issuperset(unused)  # with the name of a work


def is_ordinary(word: str) -> bool:
    """Return whether *word* (lower case) is an ordinary English word or a number."""
    if word.isdigit() or word in _ORDINARY:
        return True
    base = stem(word)
    if base in _ORDINARY_STEMS or is_listed(base) or is_noun(word) or is_noun(base):
        return True
    return word.isascii() and word.endswith(_ENDINGS)


@lru_cache(maxsize=64)
def _unusual(alttext: str, vec: str) -> tuple[str, ...]:
    """Return the words of the AltText that are no ordinary words and not in the VeC."""
    known = words(vec)
    found = [word for word in words(alttext) if len(word) > 1 and not is_ordinary(word)]
    return tuple(dict.fromkeys(word for word in found if word not in known))


@lru_cache(maxsize=64)
def _codes(alttext: str) -> frozenset[str]:
    """Return the short words in capitals, such as COD, unless most words are in capitals."""
    row = WORD.findall(alttext)
    found = [word.lower() for word in row if word.isupper() and 2 < len(word) < 7]
    return frozenset(found if 2 * len(found) <= len(row) + 1 else ()).difference(EVERYDAY)


def _run(text: str, start: int) -> list[str]:
    """Return the words in lower case of the name that has a word at *start*, with the words that link them."""
    found = list(WORD.finditer(text))
    position = next(index for index, match in enumerate(found) if match.end() > start)
    first, last = position, position
    while first and _belongs(text, found[first - 1], found[first]):
        first -= 1
    while last + 1 < len(found) and _belongs(text, found[last], found[last + 1]):
        last += 1
    run = [match.group().lower().removesuffix("'s").removesuffix("’s") for match in found[first : last + 1]]
    while run and run[0] in _LINKS:
        del run[0]
    while run and run[-1] in _LINKS:
        del run[-1]
    return run


def _belongs(text: str, left: re.Match[str], right: re.Match[str]) -> bool:
    """Return whether two consecutive words are part of one name."""
    if not _GAP.fullmatch(text[left.end() : right.start()]):
        return False
    return all(m.group()[0].isupper() or m.group()[0].isdigit() or m.group() in _LINKS for m in (left, right))


def _completes(lower: str, run: list[str], unusual: tuple[str, ...]) -> bool:
    """Return whether the AltText states an unusual word of the name that *lower* is a part of: Patrick Mahomes.

    A common given name says too little about the surname, and a brand about the product. A place is enough for an
    ordinary word: Kansas City Chiefs.
    """
    if lower in KNOWN_NAMES and lower not in GIVEN_NAMES:
        return False
    vague = BRANDS | GIVEN_NAMES if is_ordinary(lower) else KNOWN_NAMES
    stated = frozenset(plain(word) for word in unusual).union(*(SPELLED_OUT.get(word, _NONE) for word in unusual))
    return any(
        word not in vague and len(word) > 2 and any(is_similar(plain(word), other) for other in stated)
        for word in run
        if word != lower and word not in _LINKS and not is_ordinary(word)
    )


def _unused(unusual: tuple[str, ...], text: str) -> list[str]:
    """Return the unusual words that *text* does not state."""
    present = [plain(word) for word in words(text)]
    joined = "".join(present)
    return [
        word
        for word in unusual
        if plain(word) not in joined
        and SPELLED_OUT.get(word, _NONE).isdisjoint(present)
        and not any(len(other) > 2 and is_similar(plain(word), other) for other in present)
    ]


def _abbreviates(short: str, run: list[str]) -> bool:
    """Return whether *short* is a short form of the words of a name, from one of them on: bkk, gsw, xb1."""
    if not 2 < len(short) < 7 or not short.isascii():
        return False
    letters = "".join(_NUMERALS.get(letter, letter) for letter in short if letter.isalnum())
    row = [plain(word) for word in run]
    for start, word in enumerate(row):
        if word[0] == letters[0] and _is_subsequence(letters, "".join(row[start:])):
            return True
    return False


def _is_subsequence(letters: str, word: str) -> bool:
    rest = iter(word)
    return all(letter in rest for letter in letters)


def _is_foreign(alttext: str, unusual: tuple[str, ...]) -> bool:
    """Return whether most words of the AltText are in another language than English."""
    row = [word for word in words(alttext) if not word.isdigit() and len(word) > 1]
    telling = [word for word in unusual if word not in KNOWN_NAMES]
    if not telling:
        return False
    foreign = sum(word in _FOREIGN for word in row)
    signs = foreign or any(not word.isascii() and len(word) >= _MIN_LONG for word in telling)
    return 2 * (len(telling) + foreign) > len(row) and (len(telling) > 1 or bool(signs))
