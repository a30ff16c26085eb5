"""Numbers of a text, and whether the sources of a caption state them in any of the usual formats."""

from __future__ import annotations

import re
from functools import lru_cache

from vecap_tasks.core.word_lists import read_words
from vecap_tasks.rewrite.screen.text import DATA, NUMBER_WORDS, words

UNITS = read_words(DATA, "units")
_NUMBER = re.compile(r"\d+")
_THOUSANDS = re.compile(r"(?<=\d)[,.'’\u00a0\u202f ](?=\d{3}(?!\d))")
_CENTURY = re.compile(r"\b\d+(?:st|nd|rd|th)[- ]century\b", re.IGNORECASE)
_SCALED = re.compile(r"(\d+)(?:[.,](\d+))?\s?(k|tsd|thousand|m|mio|mill?|million|bn|billion)\b", re.IGNORECASE)
_SCALES = {"k": 3, "tsd": 3, "thousand": 3, "bn": 9, "billion": 9}  # powers of ten; 6 for the others
_DECIMAL = re.compile(r"(?<![\d.,])(\d+)[.,](\d{1,2})(?![\d.,])")
_COMPACT = re.compile(r"(?<!\d)(?:\d{6}|\d{8})(?!\d)")
_MULTIPLIERS = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
_SMALL_NUMBER = 3  # numbers in words up to which a measure need not be stated


def new_numbers(text: str, data: str) -> list[str]:
    """Return the numbers of *text*, in digits or of a measure in words, that the sources *data* do not state.

    >>> new_numbers("a house for 185,000 euros", "Haus 185 000 €, 4 Zi.")
    []
    >>> new_numbers("12 April 2013, 16,000 miles", "8021_hockey_041213 16k mi")
    []
    >>> new_numbers("a mouse of six grams, 2 tails and 3.5 legs", "a mouse with two tails")
    ['3', '5', '6']
    """
    found = _numbers(text)
    measured = _measured(text)
    if not found and not measured:
        return []
    known = _known_numbers(data)
    if _SCALED.search(text):
        text = _SCALED.sub(lambda match: " " if _scaled(*match.groups()) in known else match.group(), text)
        found, measured = _numbers(text), _measured(text)
    return [number for number in dict.fromkeys((*found, *measured)) if not _is_known(number, known)]


def states_number(number: int, data: str) -> bool:
    """Return whether the sources state *number*, such as that of a month."""
    return str(number) in _known_numbers(data)


def _digits(number: str) -> str:
    return number.lstrip("0") or "0"


def _numbers(text: str) -> list[str]:
    """Return the numbers of *text*: decimals as two, without leading zeros, with thousands joined."""
    if not _NUMBER.search(text):
        return []
    plain = _THOUSANDS.sub("", _CENTURY.sub(" ", text))
    return [_digits(number) for number in _NUMBER.findall(plain)]


def _scaled(whole: str, fraction: str | None, scale: str) -> str:
    """Return a number such as 1.2 million without its scale."""
    power = _SCALES.get(scale.lower(), 6)
    return _digits(whole + (fraction or "")[:power].ljust(power, "0"))


def _measured(text: str) -> list[str]:
    """Return the numbers in words that a unit of measure follows: six grams."""
    tokens = words(text)
    found: list[str] = []
    if UNITS.isdisjoint(tokens):
        return found
    for index, token in enumerate(tokens[1:], start=1):
        if token in UNITS:
            number = _spelled(tokens[max(0, index - 5) : index])
            if number is not None and number > _SMALL_NUMBER:
                found.append(str(number))
    return found


def _spelled(tokens: tuple[str, ...]) -> int | None:
    """Return the number that the last of *tokens* spell: ("two", "hundred", "five") is 205; None if there is none."""
    total, current, seen = 0, 0, False
    start = len(tokens)
    while start and (
        tokens[start - 1] in _MULTIPLIERS or (len(tokens[start - 1]) > 2 and tokens[start - 1] in NUMBER_WORDS)
    ):
        start -= 1
    for token in tokens[start:]:
        seen = True
        scale = _MULTIPLIERS.get(token)
        if scale is None:
            current += NUMBER_WORDS[token]
        elif scale == 100:
            current = max(1, current) * scale
        else:
            total, current = total + max(1, current) * scale, 0
    return total + current if seen else None


@lru_cache(maxsize=256)
def _known_numbers(data: str) -> frozenset[str]:
    """Return every number that *data* states: in digits or words, scaled, rounded units, and in compact dates."""
    tokens = words(data)
    found = {_digits(number) for number in _NUMBER.findall(data)} | set(_numbers(data))
    for index, token in enumerate(tokens, start=1):
        if token in NUMBER_WORDS:
            found.add(str(NUMBER_WORDS[token]))
            spelled = _spelled(tokens[max(0, index - 5) : index])
            found.update([] if spelled is None else [str(spelled)])
    for whole, fraction, scale in _SCALED.findall(data):
        found.add(_scaled(whole, fraction, scale))
    for whole, fraction in _DECIMAL.findall(data):  # 0.5 kg, 1.5 m, 2.3 cm
        found.update(_digits(whole + fraction.ljust(power, "0")) for power in (1, 2, 3) if power >= len(fraction))
    for date in _COMPACT.findall(data):
        parts = [date[start : start + 2] for start in range(0, len(date), 2)]
        found.update(map(_digits, parts))
        found.update((date[:4], date[4:]))
    return frozenset(found)


def _is_known(number: str, known: frozenset[str]) -> bool:
    """Return whether *number* is known: as such, as the year in "2009-10" or "'85", or as part of a longer number."""
    if number in known:
        return True
    if len(number) == 4 and number[:2] in ("18", "19", "20"):
        return _digits(number[2:]) in known
    if number.endswith("000") and number[:-3] in known:  # 0.5 kg are 500 g, 2 km are 2000 m
        return True
    return len(number) >= 2 and any(number in other for other in known if len(other) > 4)
