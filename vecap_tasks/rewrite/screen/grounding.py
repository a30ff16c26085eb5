"""Rules that compare a fused caption with its sources: it keeps the VeC (`drops_vec`) and adds nothing (`invented`)."""

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
_MAX_CAPITALIZED = 0.7  # share of capitalized words above which capitals do not mark names
_MIN_PREFIX = 4  # length of a common prefix that makes two words match: Italy, Italian
_MIN_SIMILARITY = 0.75  # of two spellings of a name
_NAME_CREDIT = 0.7  # for a concept that a name can replace
_UNKNOWN_CREDIT = 0.5  # for a word without a known concept
_MAX_CONCEPTS = 11  # concepts of a VeC that count, because captions are short
_NAMEABLE = frozenset(stem(word) for word in NAMEABLE)


def _read_concepts() -> dict[str, frozenset[str]]:
    """Return the concept names of each stem; a concept is named by its first word."""
    roles = " ".join(read_words(DATA, "roles"))
    text = "\n".join(read_lines(DATA, "concepts")).replace("\n ", " ").replace("{roles}", roles)
    table: dict[str, set[str]] = {}
    for number, line in enumerate(text.split("\n")):
        for word in line.split():
            table.setdefault(stem(word), set()).add(f"{line.split()[0]} {number}")
    for word, count in _COUNTS.items():
        table.setdefault(stem(word), set()).add(f"count {count}")
    return {word: frozenset(concepts) for word, concepts in table.items()}


_CONCEPTS = _read_concepts()


def concepts(stems: Iterable[str]) -> frozenset[str]:
    """Return the concepts that any of *stems* can stand for; empty for unknown stems.

    >>> [bool(concepts((a,)) & concepts((b,))) for a, b in (("puppy", "dog"), ("crimson", "red"), ("two", "duo"))]
    [True, True, True]
    >>> concepts(("dog",)) & concepts(("cat",))
    frozenset()
    """
    return frozenset().union(*(_CONCEPTS[word] for word in stems if word in _CONCEPTS))


def drops_vec(answer: Answer) -> str | None:
    """Reject a caption that keeps less than `min_vec_kept` of the VeC's concepts, in the same words or in synonyms.

    A name from the AltText can replace one concept. At most `_MAX_CONCEPTS` concepts of a long VeC count.

    >>> vec = "two red tulips left of a blue mug on grass"
    >>> drops_vec(Answer("Two red Belvo tulips by a blue mug on the grass", alttext="Belvo tulips", vec=vec))
    >>> drops_vec(Answer("Buy Belvo tulips now", alttext="Belvo tulips", vec=vec))
    'drops_vec'
    >>> drops_vec(Answer("A pair of scarlet Belvo blossoms by a cup", alttext="Belvo tulips", vec=vec))
    >>> drops_vec(Answer("Jack White on stage", alttext="Jack White", vec="a man standing on a stage"))
    """
    vec_words = content_words(answer.vec) - PLAIN
    if not vec_words:
        return None
    text_words, source_words = content_words(answer.text), content_words(answer.alttext)
    text_concepts, shared_concepts = concepts(text_words - source_words), concepts(text_words & source_words)
    kept, lost = 0.0, []
    for word in vec_words:
        if _has_match(word, text_words) or not text_concepts.isdisjoint(concepts((word,))):
            kept += 1
        elif not shared_concepts.isdisjoint(concepts((word,))):
            kept += _NAME_CREDIT
        else:
            lost.append(word)
    if text_words & source_words - vec_words and not _NAMEABLE.isdisjoint(lost):
        kept += _NAME_CREDIT
    # A new word without a known concept can paraphrase a lost one; a word with a known concept cannot.
    unknown = [
        word for word in text_words - source_words - PLAIN if not concepts((word,)) and not _has_match(word, vec_words)
    ]
    kept += _UNKNOWN_CREDIT * min(len(unknown), len(lost))
    return "drops_vec" if kept < answer.settings.min_vec_kept * min(len(vec_words), _MAX_CONCEPTS) else None


def _has_match(word: str, others: Set[str]) -> bool:
    """Return whether *word* is in *others* or shares a prefix with one: garden and gardener."""
    return word in others or any(
        (other.startswith(word) if len(word) < len(other) else word.startswith(other))
        for other in others
        if min(len(word), len(other)) >= _MIN_PREFIX
    )


def invented(answer: Answer) -> str | None:
    """Reject more than `max_new_names` names and numbers that are in neither the AltText nor the VeC.

    A name is a capitalized word that does not start a sentence. In texts that capitalize most words, and in German,
    only numbers count. Other spellings, expanded abbreviations and derived forms are not new names.

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
    """Return the numbers of *text*: decimals as two, without leading zeros, with thousands joined."""
    plain = _THOUSANDS.sub("", _CENTURY.sub(" ", text))
    return [number.lstrip("0") or "0" for number in _NUMBER.findall(plain)]


def _known_numbers(data: str) -> frozenset[str]:
    spelled = {str(NUMBER_WORDS[word]) for word in words(data) if word in NUMBER_WORDS}
    parts = {number.lstrip("0") or "0" for number in _NUMBER.findall(data)}
    return frozenset({*_numbers(data), *parts, *spelled})


def _known_number(number: str, known: frozenset[str]) -> bool:
    """Return whether *number* is known: as such, as the year in "2009-10" or "'85", or as part of a longer number."""
    if number in known:
        return True
    if len(number) == 4 and number[:2] in ("18", "19", "20"):
        return (number[2:].lstrip("0") or "0") in known
    return len(number) >= 2 and any(number in other for other in known if len(other) > 4)


def _names(text: str) -> Iterator[str]:
    """Yield the capitalized words that do not start a sentence or quotation."""
    found = list(WORD.finditer(text))
    cased = [match.group() for match in found if len(match.group()) > 3]
    if not cased or (len(cased) > 3 and sum(not word.islower() for word in cased) > _MAX_CAPITALIZED * len(cased)):
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
    lower = name.lower()
    if lower in EVERYDAY or lower in FUNCTION or lower in NUMBER_WORDS:
        return True
    if stem(lower) in {stem(word) for word in known}:
        return True
    written = "".join(character for character in answer.data.lower() if character.isalnum())
    if len(lower) > 2 and lower.replace("'", "").replace("’", "") in written:
        return True  # find-my-past, FindMyPast
    if any(lower in SPELLED_OUT.get(word, ()) for word in known):
        return True
    if any(word in SPELLED_OUT.get(lower, ()) for word in known):
        return True
    if _initials(name, answer):
        return True
    for word in known:
        if len(word) < 3 or word in FUNCTION:
            continue
        common = next(
            (n for n, (a, b) in enumerate(zip(lower, word, strict=False)) if a != b), min(len(lower), len(word))
        )
        if common >= _MIN_PREFIX and 2 * common >= max(len(lower), len(word)):
            return True
        if (
            len(lower) > 3
            and abs(len(lower) - len(word)) < 4
            and SequenceMatcher(None, lower, word).ratio() >= _MIN_SIMILARITY
        ):
            return True
    return False


def _initials(name: str, answer: Answer) -> bool:
    """Return whether *name* abbreviates consecutive source words, or is one of the words of a source abbreviation."""
    if name.isupper():
        source_words = words(answer.data)
        rows = (
            "".join(word[0] for word in source_words),
            "".join(word[0] for word in source_words if word not in FUNCTION),
        )
        return 1 < len(name) < 7 and any(name.lower() in row for row in rows)
    capitals = [word for word in WORD.findall(answer.text) if word[0].isupper()]
    for short in (word for word in WORD.findall(answer.data) if word.isupper() and 1 < len(word) < 7):
        for start in range(len(capitals) - len(short) + 1):
            row = capitals[start : start + len(short)]
            if name in row and "".join(word[0] for word in row) == short:
                return True
    return False
