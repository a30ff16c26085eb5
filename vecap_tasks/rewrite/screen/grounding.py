"""Rules that compare a fused caption with its sources: it keeps the VeC (`drops_vec`) and adds nothing (`invented`)."""

from __future__ import annotations

import re
from functools import lru_cache

from vecap_tasks.core.word_lists import read_lines, read_table, read_words
from vecap_tasks.rewrite.screen.concepts import Stems, is_synonym_known, meaning_of
from vecap_tasks.rewrite.screen.expansions import is_expansion
from vecap_tasks.rewrite.screen.names import is_known, names
from vecap_tasks.rewrite.screen.numbers import new_numbers
from vecap_tasks.rewrite.screen.text import (
    DATA,
    FUNCTION,
    NAMEABLE,
    PLAIN,
    Answer,
    stem,
    words,
)

# What a word of the VeC that the caption keeps counts. The credits were fitted to labeled captions.
_SAME = 1.0  # in the same word
_SYNONYM = 0.6  # in a word that the AltText does not have
_SHARED_SYNONYM = 0.4  # in a word of the AltText
_LIGHT_CREDIT = 0.3  # for a frequent word
# What counts for the caption as a whole
_SUBJECT_CREDIT = 0.3  # if it keeps the first concept of the VeC
_NAME_CREDIT = 0.3  # if a name can replace a lost concept
_OWN_CREDIT = 2.3  # times the share of its words, without those of the AltText, that state something of the VeC
_FEW = 3  # words without those of the AltText that say little
_SHORT_CREDIT = 1.6  # for a VeC that says hardly anything
_BASE = -0.1
_COPY = -0.8  # if all words are in the AltText
_CONFLICT = -0.12  # for each word with a known concept that is in neither source
_STATEMENT = -1.4  # for a phrase of a text that does not describe a picture
_LIGHT_WEIGHT = 0.6
_MAX_WEIGHT = 3.0  # weight of a VeC's concepts that counts, because captions are short
_SHORT_WEIGHT = 2.0
_FEW_ADDED, _MANY_LOST = 1, 5  # words of the VeC
_NAMEABLE = frozenset(stem(word) for word in NAMEABLE)
_LIGHT = frozenset(stem(word) for word in read_words(DATA, "light"))
# What two texts have in common in any language: words that begin alike, or characters of scripts without spaces.
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
    concept. The share of the caption's words without those of the AltText that state something of the VeC counts
    for it; concepts from neither source, and phrases of encyclopedias, news and shops, count against it. A caption that
    adds hardly anything of a long VeC to the AltText is rejected.
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
    total = len(vec_words) - (1 - _LIGHT_WEIGHT) * len(_LIGHT & vec_words.keys())
    needed = minimum * min(total, _MAX_WEIGHT) - _BASE - _STATEMENT * _statements(answer.text)
    needed -= _SHORT_CREDIT if total <= _SHORT_WEIGHT else 0.0
    text_words, source_words = _content(answer.text), _content(answer.alttext)
    own = text_words.keys() - source_words.keys()
    if _SAME * len((own & vec_words.keys()) - _LIGHT) >= needed - _CONFLICT * len(own):
        return None  # whatever the other words mean
    shared = text_words.keys() & source_words.keys()
    return "drops_vec" if _adds_little(vec_words, own, shared) or _kept(vec_words, own, shared) < needed else None


def _adds_little(vec_words: dict[str, None], own: set[str], shared: set[str]) -> bool:
    """Return whether the caption adds one word of the VeC to the AltText at most, and loses many."""
    own_stems, shared_stems = Stems(own), Stems(shared)
    added = lost = 0
    for word in vec_words:
        sense = meaning_of(word)
        if own_stems.match(word) or own_stems.meaning.matches(sense):
            added += 1
        elif word not in _LIGHT and not (shared_stems.match(word) or shared_stems.meaning.matches(sense)):
            lost += 1
    return added <= _FEW_ADDED and lost >= _MANY_LOST


def _content(text: str) -> dict[str, None]:
    """Return the stems of the words that say something, in their sequence."""
    return dict.fromkeys(filter(None, map(_telling_stem, words(text))))


@lru_cache(maxsize=65536)
def _telling_stem(word: str) -> str | None:
    """Return the stem of a word that says something, or None."""
    found = None if word in FUNCTION else stem(word)
    return None if found in PLAIN else found


def _kept(vec_words: dict[str, None], own: set[str], shared: set[str]) -> float:
    """Return what the VeC's concepts that the caption keeps count, less what counts against it.

    The words of the caption are its *own*, or *shared* with the AltText.
    """
    own_stems, shared_stems, vec_stems = Stems(own), Stems(shared), Stems(vec_words)
    lost = []
    kept = 0.0 if own else _COPY
    for word in vec_words:
        sense = meaning_of(word)
        if own_stems.match(word):
            kept += _LIGHT_CREDIT if word in _LIGHT else _SAME
        elif own_stems.meaning.matches(sense):
            kept += _LIGHT_CREDIT if word in _LIGHT else _SYNONYM
        elif shared_stems.match(word):
            kept += _SHARED_SYNONYM if word in _LIGHT else _SAME
        elif shared_stems.meaning.matches(sense):
            kept += _SHARED_SYNONYM
        else:
            lost.append(word)
    if next((word for word in vec_words if word not in _LIGHT), next(iter(vec_words))) not in lost:
        kept += _SUBJECT_CREDIT
    if not shared <= vec_words.keys() and not _NAMEABLE.isdisjoint(lost):
        kept += _NAME_CREDIT
    new = [word for word in own if not vec_stems.match(word) and not vec_stems.meaning.matches(meaning_of(word))]
    kept += _CONFLICT * sum(map(is_synonym_known, new))
    return kept + _OWN_CREDIT * (len(own) - len(new)) / (len(own) + _FEW)


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
    for name in names(answer.text, known_only="de" in answer.settings.languages):
        if new > allowed:
            break
        new += not (
            is_known(name, answer.alttext, answer.data, answer.text)
            or is_expansion(name, answer.alttext, answer.vec, answer.text)
        )
    return "invented" if new > allowed else None


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
