"""Concepts of English words: synonyms (`concepts.txt`, numbers) and a hierarchy of nouns (`nouns.txt`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache

from vecap_tasks.core.word_lists import read_lines, read_words
from vecap_tasks.rewrite.screen.text import DATA, MAX_WORD, NUMBER_WORDS, stem

_COUNTS = {
    **{word: number for word, number in NUMBER_WORDS.items() if len(word) > 2},
    **{str(number): number for number in range(1, 101)},
    **{"duo": 2, "both": 2, "trio": 3, "quartet": 4},
}
_MAX_SIBLINGS = 25  # words below a concept up to which they can stand for each other: hat, cap
_MIN_PART = 3  # length of the second part of a compound; the first is longer
_MIN_PREFIX = 4  # length of a common prefix that makes two words match: Italy, Italian


@dataclass(frozen=True, slots=True)
class Meaning:
    """Concepts of words: those they can stand for (`near`), and more general ones (`far`)."""

    near: frozenset[str]
    far: frozenset[str]

    def matches(self, other: Meaning) -> bool:
        """Return whether two meanings share a concept that is near for at least one of them."""
        return not (
            self.near.isdisjoint(other.near) and self.near.isdisjoint(other.far) and self.far.isdisjoint(other.near)
        )


_UNKNOWN = Meaning(frozenset(), frozenset())


def meaning(stems: Iterable[str]) -> Meaning:
    """Return what any of *stems* can mean; empty for unknown stems.

    >>> pairs = (("puppy", "dog"), ("crimson", "red"), ("two", "duo"), ("otter", "animal"), ("dog", "cat"))
    >>> [meaning((a,)).matches(meaning((b,))) for a, b in pairs]
    [True, True, True, True, False]
    """
    near: set[str] = set()
    far: set[str] = set()
    for word in stems:
        item = meaning_of(word)
        near |= item.near
        far |= item.far
    return Meaning(frozenset(near), frozenset(far))


def meaning_of(word: str) -> Meaning:
    """Return what a stem can mean, including the parts of a compound without synonyms; empty for an unknown stem.

    >>> [meaning_of("lakesid").matches(meaning_of(stem(word))) for word in ("lake", "truck")]
    [True, False]
    """
    return _meaning_of(word) if len(word) <= MAX_WORD else _UNKNOWN


@lru_cache(maxsize=16384)
def _meaning_of(word: str) -> Meaning:
    table = _table()
    known = table.get(word, _UNKNOWN)
    for end in range(len(word) - _MIN_PART, _MIN_PART, -1):
        first, second = table.get(stem(word[:end])), table.get(word[end:])
        if first and second:
            if word in _synonyms():  # surfboards are boards, but a rainbow is no bow
                return known if len(word) - end == _MIN_PART else Meaning(known.near | second.near, known.far)
            return Meaning(known.near | first.near | second.near, known.far | first.far | second.far)
    return known


def is_listed(word: str) -> bool:
    """Return whether a stem itself, not only its parts, has a meaning."""
    return word in _table()


def is_synonym_known(word: str) -> bool:
    """Return whether the synonyms of a stem are listed, so that it means something else than unlisted words."""
    return word in _synonyms()


@cache
def _noun_words() -> frozenset[str]:
    return frozenset(word for _, words, _ in _nouns() for word in words)


def is_noun(word: str) -> bool:
    """Return whether *word* is an ordinary noun."""
    return word in _noun_words()


class Stems:
    """Stems of a text, and what they mean."""

    def __init__(self, stems: Iterable[str]) -> None:
        self._stems = frozenset(stems)
        self._by_prefix: dict[str, list[str]] = {}
        for word in self._stems:
            if len(word) >= _MIN_PREFIX:
                self._by_prefix.setdefault(word[:_MIN_PREFIX], []).append(word)
        self.meaning = meaning(self._stems)

    def match(self, word: str) -> bool:
        """Return whether *word* is one of the stems or begins one, or begins with one: garden and gardener.

        >>> [Stems(("gardener", "red")).match(word) for word in ("garden", "red", "reddish", "pond")]
        [True, True, False, False]
        """
        if word in self._stems:
            return True
        others = self._by_prefix.get(word[:_MIN_PREFIX])
        return others is not None and any(word.startswith(other) or other.startswith(word) for other in others)


@cache
def _synonyms() -> dict[str, set[str]]:
    """Return the concept names of each stem; a concept is named by its first word."""
    roles = " ".join(read_words(DATA, "roles"))
    text = "\n".join(read_lines(DATA, "concepts")).replace("\n ", " ").replace("{roles}", roles)
    table: dict[str, set[str]] = {}
    for number, line in enumerate(text.split("\n")):
        for word in line.split():
            table.setdefault(stem(word), set()).add(f"{line.split()[0]} {number}")
    for word, count in _COUNTS.items():
        table.setdefault(stem(word), set()).add(f"count {count}")
    return table


@cache
def _table() -> dict[str, Meaning]:
    """Return the meaning of each known stem."""
    near = {word: set(names) for word, names in _synonyms().items()}
    far: dict[str, set[str]] = {}
    rows = list(_nouns())
    parents = {name: above for name, _, above in rows if name != "+"}
    sizes: Counter[str] = Counter()
    for name, words, above in rows:
        for concept in {*_ancestors(above, parents), *([name] if name != "+" else [])}:
            sizes[concept] += len(words)
    for name, words, above in rows:
        close = {concept for concept in above if sizes[concept] < _MAX_SIBLINGS}
        wide = _ancestors(above, parents) - close
        for word in map(stem, words):
            near.setdefault(word, set()).update(close, [name] if name != "+" else [])
            far.setdefault(word, set()).update(wide)
    roles = frozenset.intersection(*(frozenset(near[word]) for word in map(stem, ("singer", "worker"))))
    for word, general in far.items():
        if "person" in general and word not in _synonyms():
            near[word] |= roles
    return {word: Meaning(frozenset(near[word]), frozenset(far.get(word, ()))) for word in near}


def _nouns() -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield name, words and the concepts above, of each line of `nouns.txt`."""
    for line in read_lines(DATA, "nouns"):
        name, _, rest = line.partition(":")
        words, _, above = rest.partition("<")
        yield name, words.split(), above.split()


def _ancestors(above: Iterable[str], parents: dict[str, list[str]]) -> set[str]:
    found: set[str] = set()
    waiting = list(above)
    while waiting:
        concept = waiting.pop()
        if concept not in found:
            found.add(concept)
            waiting += parents[concept]
    return found
