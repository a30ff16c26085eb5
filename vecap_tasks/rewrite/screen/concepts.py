"""Concepts of pictures and the words that may stand for each: a puppy is a dog, crimson is red, a pair is two.

The table is our own, of what pictures mostly show. A line is a concept; a word may belong to several, and two words
mean the same where they share one, so that a general word goes with each of its kinds. Words that exclude each other
(man and woman, red and blue, cat and dog) share none.
"""

from __future__ import annotations

from collections.abc import Iterable

from vecap_tasks.rewrite.screen.words import DATA, NUMBER_WORDS, stem
from vecap_tasks.word_lists import read_lines, read_words

_COUNTS = {
    **{word: number for word, number in NUMBER_WORDS.items() if len(word) > 2},
    **{str(number): number for number in range(1, 101)},
    **{"duo": 2, "both": 2, "trio": 3, "quartet": 4},
}


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
