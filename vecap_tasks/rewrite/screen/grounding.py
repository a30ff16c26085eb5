"""A fused caption against its sources: it keeps what is seen (`drops_vec`) and makes nothing up (`invented`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Set
from difflib import SequenceMatcher

from vecap_tasks.core.word_lists import read_lines, read_table, read_words
from vecap_tasks.rewrite.screen.text import (
    DATA,
    FUNCTION,
    NAMEABLE,
    NUMBER_WORDS,
    PLAIN,
    WORD,
    Answer,
    content_words,
    stem,
    words,
)

SPELLED_OUT = {short: frozenset(words.split()) for short, words in read_table(DATA, "spelled_out").items()}
EVERYDAY = read_words(DATA, "everyday")
_COUNTS = {
    **{word: number for word, number in NUMBER_WORDS.items() if len(word) > 2},
    **{str(number): number for number in range(1, 101)},
    **{"duo": 2, "both": 2, "trio": 3, "quartet": 4},
}

_NUMBER = re.compile(r"\d+")
_THOUSANDS = re.compile(r"(?<=\d)[,.](?=\d{3}\b)")
_CENTURY = re.compile(r"\b\d+(?:st|nd|rd|th)[- ]century\b", re.IGNORECASE)
_TITLED = 0.7  # share of capitalized words from which on capitals say nothing
_PREFIX = 4  # letters in common that make two words one: Italy and Italian
_ALIKE = 0.75  # likeness of two spellings of one name
_NAMED = 0.7  # what a concept counts that a name may stand for
_UNKNOWN = 0.5  # what a word of no known concept counts
_MOST = 11  # concepts of a VeC that are asked for: a caption is short, however much a VeC tells
_NAMEABLE = frozenset(stem(word) for word in NAMEABLE)


def _read() -> dict[str, frozenset[str]]:
    """Return the concepts of each stem, named by their first word."""
    roles = " ".join(read_words(DATA, "roles"))
    table = "\n".join(read_lines(DATA, "concepts")).replace("\n ", " ").replace("{roles}", roles)
    made: dict[str, set[str]] = {}
    for number, line in enumerate(table.split("\n")):
        for word in line.split():
            made.setdefault(stem(word), set()).add(f"{line.split()[0]} {number}")
    for word, count in _COUNTS.items():
        made.setdefault(stem(word), set()).add(f"count {count}")
    return {word: frozenset(concepts) for word, concepts in made.items()}


_CONCEPTS = _read()


def concepts(stems: Iterable[str]) -> frozenset[str]:
    """Return the names of the concepts that any of *stems* may stand for; none for words that the table lacks.

    >>> [bool(concepts((a,)) & concepts((b,))) for a, b in (("puppy", "dog"), ("crimson", "red"), ("two", "duo"))]
    [True, True, True]
    >>> concepts(("dog",)) & concepts(("cat",))
    frozenset()
    """
    return frozenset().union(*(_CONCEPTS[word] for word in stems if word in _CONCEPTS))


def drops_vec(answer: Answer) -> str | None:
    """Fewer than `min_vec_kept` of the VeC's concepts are left, by their own words or by others.

    A name from the AltText may stand for one of them. Of a long VeC no more is asked than of one of `_MOST` concepts.

    >>> vec = "two red tulips left of a blue mug on grass"
    >>> drops_vec(Answer("Two red Belvo tulips by a blue mug on the grass", alttext="Belvo tulips", vec=vec))
    >>> drops_vec(Answer("Buy Belvo tulips now", alttext="Belvo tulips", vec=vec))
    'drops_vec'
    >>> drops_vec(Answer("A pair of scarlet Belvo blossoms by a cup", alttext="Belvo tulips", vec=vec))
    >>> drops_vec(Answer("Jack White on stage", alttext="Jack White", vec="a man standing on a stage"))
    """
    wanted = content_words(answer.vec) - PLAIN
    if not wanted:
        return None
    said, given = content_words(answer.text), content_words(answer.alttext)
    own, named = concepts(said - given), concepts(said & given)
    kept, lost = 0.0, []
    for word in wanted:
        if _among(word, said) or not own.isdisjoint(concepts((word,))):
            kept += 1
        elif not named.isdisjoint(concepts((word,))):
            kept += _NAMED
        else:
            lost.append(word)
    if said & given - wanted and not _NAMEABLE.isdisjoint(lost):
        kept += _NAMED
    # A word from nowhere, of no concept that is known, may say in another way what is lost; one that is known does not.
    unknown = [word for word in said - given - PLAIN if not concepts((word,)) and not _among(word, wanted)]
    kept += _UNKNOWN * min(len(unknown), len(lost))
    return "drops_vec" if kept < answer.settings.min_vec_kept * min(len(wanted), _MOST) else None


def _among(word: str, others: Set[str]) -> bool:
    """Whether *word* is there, or begins another, or begins with it: garden and gardener, skate and skateboard."""
    return word in others or any(
        (other.startswith(word) if len(word) < len(other) else word.startswith(other))
        for other in others
        if min(len(word), len(other)) >= _PREFIX
    )


def invented(answer: Answer) -> str | None:
    """More than `max_new_names` names and numbers that neither the AltText nor the VeC has.

    A name is a word with a capital that does not begin a sentence; in a text that capitalizes most words only numbers
    count, as in a language that gives every noun a capital. Other spellings, abbreviations written out and derived
    forms are no new names.

    >>> given = {"alttext": "Ford Edge SEL 2017, Roseville MN", "vec": "a black car in a parking lot"}
    >>> invented(Answer("A black 2017 Ford Edge SEL in a parking lot in Roseville, Minnesota", **given))
    >>> invented(Answer("A black Toyota Edge in a parking lot", **given))
    'invented'
    >>> invented(Answer("A black 2019 Ford Edge in a parking lot", **given))
    'invented'
    """
    if not answer.data:
        return None
    allowed = answer.settings.max_new_names
    numbers = _known_numbers(answer.data)
    new = [number for number in _numbers(answer.text) if not _known_number(number, numbers)]
    names = [] if "de" in answer.settings.languages else list(_names(answer.text))
    if not names:
        return "invented" if len(new) > allowed else None
    known = frozenset(words(answer.data))
    new += [name for name in names if name.lower() not in known and not _known_name(name, known, answer)]
    return "invented" if len(new) > allowed else None


def _numbers(text: str) -> list[str]:
    """Return the numbers of *text*, decimals as two, without leading noughts, thousands joined."""
    plain = _THOUSANDS.sub("", _CENTURY.sub(" ", text))
    return [number.lstrip("0") or "0" for number in _NUMBER.findall(plain)]


def _known_numbers(data: str) -> frozenset[str]:
    spelled = {str(NUMBER_WORDS[word]) for word in words(data) if word in NUMBER_WORDS}
    parts = {number.lstrip("0") or "0" for number in _NUMBER.findall(data)}
    return frozenset({*_numbers(data), *parts, *spelled})


def _known_number(number: str, known: frozenset[str]) -> bool:
    """Whether a number is there, whole, as the year that "2009-10" and "'85" mean, or run together with others."""
    if number in known:
        return True
    if len(number) == 4 and number[:2] in ("18", "19", "20"):
        return (number[2:].lstrip("0") or "0") in known
    return len(number) >= 2 and any(number in other for other in known if len(other) > 4)


def _names(text: str) -> Iterator[str]:
    """Give the words with a capital that begin no sentence and no quotation."""
    found = list(WORD.finditer(text))
    cased = [match.group() for match in found if len(match.group()) > 3]
    if not cased or (len(cased) > 3 and sum(not word.islower() for word in cased) > _TITLED * len(cased)):
        return
    for match in found[1:]:
        word = match.group()
        bare = word.removesuffix("'s").removesuffix("’s")
        if bare == bare.lower() or len(bare) < 2 or bare[0].isdigit():
            continue
        before = text[: match.start()].rstrip()
        if before[-1:] in ".!?:\"“'‘(…" and not re.search(r"\b(?:[A-Z]|St|Mt|Dr|Mr|Mrs|Ms|vs|No|Jr|Sr|Ft)\.$", before):
            continue
        yield bare


def _known_name(name: str, known: frozenset[str], answer: Answer) -> bool:
    low = name.lower()
    if low in EVERYDAY or low in FUNCTION or low in NUMBER_WORDS:
        return True
    if stem(low) in {stem(word) for word in known}:
        return True
    written = "".join(character for character in answer.data.lower() if character.isalnum())
    if len(low) > 2 and low.replace("'", "").replace("’", "") in written:
        return True  # find-my-past, FindMyPast
    if any(low in SPELLED_OUT.get(word, ()) for word in known):
        return True
    if any(word in SPELLED_OUT.get(low, ()) for word in known):
        return True
    if _initials(name, answer):
        return True
    for word in known:
        if len(word) < 3 or word in FUNCTION:
            continue
        common = next((n for n, (a, b) in enumerate(zip(low, word, strict=False)) if a != b), min(len(low), len(word)))
        if common >= _PREFIX and 2 * common >= max(len(low), len(word)):
            return True
        if len(low) > 3 and abs(len(low) - len(word)) < 4 and SequenceMatcher(None, low, word).ratio() >= _ALIKE:
            return True
    return False


def _initials(name: str, answer: Answer) -> bool:
    """Whether *name* is short for words in a row of the sources, or one of those that a short form there stands for."""
    if name.isupper():
        given = words(answer.data)
        rows = ("".join(word[0] for word in given), "".join(word[0] for word in given if word not in FUNCTION))
        return 1 < len(name) < 7 and any(name.lower() in row for row in rows)
    capitals = [word for word in WORD.findall(answer.text) if word[0].isupper()]
    for short in (word for word in WORD.findall(answer.data) if word.isupper() and 1 < len(word) < 7):
        for start in range(len(capitals) - len(short) + 1):
            row = capitals[start : start + len(short)]
            if name in row and "".join(word[0] for word in row) == short:
                return True
    return False
