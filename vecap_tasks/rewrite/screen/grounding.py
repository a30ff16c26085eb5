"""Rules that compare a fused caption with its sources: it keeps the VeC (`drops_vec`) and adds nothing (`invented`)."""

from __future__ import annotations

from vecap_tasks.core.word_lists import read_lines, read_words
from vecap_tasks.rewrite.screen.concepts import has_match, is_synonym_known, meaning, meaning_of
from vecap_tasks.rewrite.screen.names import is_known, names
from vecap_tasks.rewrite.screen.numbers import new_numbers
from vecap_tasks.rewrite.screen.overlap import have_little_in_common, is_english
from vecap_tasks.rewrite.screen.text import (
    DATA,
    FUNCTION,
    NAMEABLE,
    PLAIN,
    Answer,
    stem,
    words,
)

_SHARED_CREDIT = 0.8  # for a concept that the AltText states too
_NAME_CREDIT = 0.3  # for a concept that a name can replace
_SUBJECT_CREDIT = 0.3  # for the first concept of the VeC
_UNKNOWN_CREDIT = 0.15  # for a word without a known concept, which can paraphrase a lost one
_SHORT_CREDIT = 0.45  # for a VeC that says hardly anything
_CONFLICT = 0.15  # for a word with a known concept that is in neither source
_STATEMENT = 1.0  # for a phrase of a text that does not describe a picture
_LIGHT_WEIGHT = 0.6
_MAX_WEIGHT = 3.0  # weight of a VeC's concepts that counts, because captions are short
_SHORT_WEIGHT = 2.0
_NAMEABLE = frozenset(stem(word) for word in NAMEABLE)
_LIGHT = frozenset(stem(word) for word in read_words(DATA, "light"))


def _read_statements() -> dict[str, list[tuple[str, ...]]]:
    """Return the phrases that describe no picture, by their first word."""
    found: dict[str, list[tuple[str, ...]]] = {}
    for phrase in "\n".join(read_lines(DATA, "statements")).replace("\n", " ").split(","):
        tokens = tuple(phrase.split())
        found.setdefault(tokens[0], []).append(tokens)
    return found


_STATEMENTS = _read_statements()


def drops_vec(answer: Answer) -> str | None:
    """Reject a caption that keeps less than `min_vec_kept` of the VeC's concepts, in the same words or in synonyms.

    Frequent words weigh less; at most `_MAX_WEIGHT` of a long VeC counts. A name from the AltText can replace a
    concept. Concepts from neither source, and phrases of encyclopedias, news and shops, count against the caption.
    In languages without lists of concepts, a caption is rejected if it has hardly any word in common with the VeC.

    >>> vec = "two red tulips left of a blue mug on grass"
    >>> drops_vec(Answer("Two red Belvo tulips by a blue mug on the grass", alttext="Belvo tulips", vec=vec))
    >>> drops_vec(Answer("Buy Belvo tulips now", alttext="Belvo tulips", vec=vec))
    'drops_vec'
    >>> drops_vec(Answer("A pair of scarlet Belvo blossoms by a cup", alttext="Belvo tulips", vec=vec))
    >>> drops_vec(Answer("Jack White on stage", alttext="Jack White", vec="a man standing on a stage"))
    """
    minimum = answer.settings.min_vec_kept
    if not answer.vec or not minimum:
        return None
    if not is_english(answer.vec, answer.settings.languages):
        return "drops_vec" if have_little_in_common(answer.text, answer.vec) else None
    vec_words = _content(answer.vec)
    if not vec_words:
        return None
    needed = minimum * min(sum(map(_weight, vec_words)), _MAX_WEIGHT) + _STATEMENT * _statements(answer.text)
    text_words, source_words = _content(answer.text), _content(answer.alttext)
    own = frozenset(word for word in text_words if word not in source_words)
    if sum(_weight(word) for word in own if word in vec_words) >= needed + _CONFLICT * len(own):
        return None  # whatever the other words mean
    return "drops_vec" if _kept(vec_words, own, frozenset(text_words).difference(own)) < needed else None


def _content(text: str) -> dict[str, None]:
    """Return the stems of the words that say something, in their sequence."""
    return dict.fromkeys(item for word in words(text) if word not in FUNCTION and (item := stem(word)) not in PLAIN)


def _weight(word: str) -> float:
    return _LIGHT_WEIGHT if word in _LIGHT else 1.0


def _kept(vec_words: dict[str, None], own: frozenset[str], shared: frozenset[str]) -> float:
    """Return the weight of the VeC's concepts that the caption keeps, less what counts against it.

    The words of the caption are its *own*, or *shared* with the AltText.
    """
    vec_set = frozenset(vec_words)
    own_meaning, shared_meaning = meaning(own), meaning(shared)
    vec_meaning = meaning(vec_words)
    new = [word for word in own if not has_match(word, vec_set) and not vec_meaning.matches(meaning_of(word))]
    kept, kept_shared, total, lost = 0.0, 0.0, 0.0, []
    for word in vec_words:
        total += _weight(word)
        if has_match(word, own) or own_meaning.matches(meaning_of(word)):
            kept = min(kept + _weight(word), len(own) - len(new))
        elif has_match(word, shared) or shared_meaning.matches(meaning_of(word)):
            kept_shared += _weight(word) * _SHARED_CREDIT
        else:
            lost.append(word)
    kept += kept_shared
    if not shared <= vec_set and not _NAMEABLE.isdisjoint(lost):
        kept += _NAME_CREDIT
    if next((word for word in vec_words if word not in _LIGHT), next(iter(vec_words))) not in lost:
        kept += _SUBJECT_CREDIT
    conflicts = [word for word in new if is_synonym_known(word)]
    kept += _UNKNOWN_CREDIT * min(len(new) - len(conflicts), len(lost))
    kept -= _CONFLICT * sum(map(_weight, conflicts))
    return kept + (_SHORT_CREDIT if total <= _SHORT_WEIGHT else 0.0)


def _statements(text: str) -> int:
    """Return the number of phrases that tell something instead of describing a picture; at most 2."""
    tokens = words(text)
    found = f"^{tokens[0]}" in _STATEMENTS if tokens else 0
    for index, token in enumerate(tokens):
        if token in _STATEMENTS:
            found += any(tokens[index : index + len(phrase)] == phrase for phrase in _STATEMENTS[token])
    return min(2, found)


def invented(answer: Answer) -> str | None:
    """Reject more than `max_new_names` names and numbers that are in neither the AltText nor the VeC.

    A name is a capitalized word that does not start a sentence. In German, only names that are no ordinary words
    count, and in texts that capitalize most words, only numbers. Other spellings, languages and formats, expanded
    abbreviations and derived forms are not new.

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
    new = len(new_numbers(answer.text, answer.data))
    for name, following in names(answer.text, known_only="de" in answer.settings.languages):
        if new > allowed:
            break
        new += not is_known(name, following, answer.alttext, answer.data, answer.text)
    return "invented" if new > allowed else None
