"""Concepts of English words: synonyms (`concepts.txt`, numbers) and a hierarchy of nouns (`nouns.txt`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from functools import cache

from vecap_tasks.core.word_lists import read_lines, read_words
from vecap_tasks.rewrite.screen.text import DATA, NUMBER_WORDS, stem

_COUNTS = {
    **{word: number for word, number in NUMBER_WORDS.items() if len(word) > 2},
    **{str(number): number for number in range(1, 101)},
    **{"duo": 2, "both": 2, "trio": 3, "quartet": 4},
}
_MAX_SIBLINGS = 25  # words below a concept up to which they can stand for each other: hat, cap
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
    """Return what a stem can mean; empty for an unknown stem."""
    return _table().get(word, _UNKNOWN)


def is_synonym_known(word: str) -> bool:
    """Return whether the synonyms of a stem are listed, so that it means something else than unlisted words."""
    return word in _synonyms()


@cache
def _noun_words() -> frozenset[str]:
    return frozenset(word for _, words, _ in _nouns() for word in words)


def is_noun(word: str) -> bool:
    """Return whether *word* is an ordinary noun."""
    return word in _noun_words()


def has_match(word: str, others: Set[str]) -> bool:
    """Return whether *word* is in *others* or shares a prefix with one: garden and gardener."""
    return word in others or any(
        (other.startswith(word) if len(word) < len(other) else word.startswith(other))
        for other in others
        if min(len(word), len(other)) >= _MIN_PREFIX
    )


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
