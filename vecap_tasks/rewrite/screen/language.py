"""Language rule: by script, and for Latin script by the common words of each language."""

from __future__ import annotations

import re
from functools import lru_cache

from vecap_tasks.core.word_lists import read_table
from vecap_tasks.rewrite.screen.text import DATA, WORD, Answer

_SCRIPTS = {
    "latin": "A-Za-zÀ-ɏḀ-ỿ",
    "cyrillic": "Ѐ-ԯ",
    "greek": "Ͱ-Ͽἀ-῿",
    "arabic": "؀-ۿݐ-ݿﭐ-﷿ﹰ-ﻼ",
    "hebrew": "֐-׿",
    "han": "㐀-䶿一-鿿豈-﫿",
    "kana": "぀-ヿ",
    "hangul": "가-힯ᄀ-ᇿ",
    "thai": "฀-๿",
    "devanagari": "ऀ-ॿ",
    "armenian": "԰-֏",
    "georgian": "Ⴀ-ჿ",
    "bengali": "ঀ-৿",
    "tamil": "஀-௿",
}
_LETTERS = {name: re.compile(f"[{ranges}]") for name, ranges in _SCRIPTS.items()}
_DOUBLE_WEIGHT = frozenset({"han", "kana", "hangul"})  # one character counts as two of another script
_SCRIPTS_OF = {
    **dict.fromkeys(("ru", "uk", "bg", "sr", "mk", "be", "kk", "mn"), frozenset({"cyrillic"})),
    **dict.fromkeys(("ar", "fa", "ur", "ps"), frozenset({"arabic"})),
    **dict.fromkeys(("hi", "mr", "ne"), frozenset({"devanagari"})),
    **{"el": frozenset({"greek"}), "he": frozenset({"hebrew"}), "zh": frozenset({"han"}), "th": frozenset({"thai"})},
    **{"ja": frozenset({"han", "kana"}), "ko": frozenset({"hangul", "han"}), "hy": frozenset({"armenian"})},
    **{"ka": frozenset({"georgian"}), "bn": frozenset({"bengali"}), "ta": frozenset({"tamil"})},
}
_LATIN = frozenset({"latin"})

_COMMON_WORDS = {code: frozenset(words.split()) for code, words in read_table(DATA, "sentence_words").items()}
_ALL_COMMON_WORDS = frozenset[str]().union(*_COMMON_WORDS.values())
_PARTICLE_LIST = "de la del di da do dos das van der den von le les el los las du des y e et und en of zu"
_PARTICLES = frozenset(_PARTICLE_LIST.split())
_FIRST_WORD_LIST = "un une uno una ein eine een en ett um uma et"  # start captions, but rarely titles
_FIRST_WORDS = frozenset(_FIRST_WORD_LIST.split())
_MIN_WORDS, _MIN_WORDS_AFTER_ARTICLE = 3, 2


def language(answer: Answer) -> str | None:
    """Reject a text whose script or language is not one of `languages`.

    A script counts if most letters are in it. Of capitalized words, which can be names, only the first counts. A
    decision needs at least three distinctive words, or two after an initial article such as "Un" or "Ein".

    >>> language(Answer("Un chat noir est assis sur le canapé"))
    'language'
    >>> language(Answer("Ein roter Hund vor dem Schloß"))
    'language'
    >>> language(Answer("一只猫坐在垫子上"))
    'language'
    >>> language(Answer("富士山 at dawn"))
    >>> language(Answer("The poster of the film La vie en rose"))
    >>> language(Answer("El Paso, Los Angeles and Le Palais de la Musique et des Congrès"))
    """
    wanted = answer.settings.languages
    if not wanted:
        return None
    scripts = _scripts_of(wanted)
    if not (answer.text.isascii() and "latin" in scripts):
        found = _scripts(answer.text)
        foreign = sum(count for script, count in found.items() if script not in scripts)
        if 2 * foreign > sum(found.values()):
            return "language"
    return "language" if "latin" in scripts and _is_other_language(answer.text, wanted) else None


@lru_cache(maxsize=16)
def _scripts_of(languages: tuple[str, ...]) -> frozenset[str]:
    return frozenset[str]().union(*(_SCRIPTS_OF.get(code, _LATIN) for code in languages))


def _scripts(text: str) -> dict[str, int]:
    return {name: len(letters.findall(text)) * (1 + (name in _DOUBLE_WEIGHT)) for name, letters in _LETTERS.items()}


def _is_other_language(text: str, wanted: tuple[str, ...]) -> bool:
    known = [_COMMON_WORDS[code] for code in wanted if code in _COMMON_WORDS]
    if not known:
        return False  # without word lists, only the script counts
    tokens = _language_words(text)
    own = known[0].union(*known[1:])
    if sum(token in _ALL_COMMON_WORDS and token not in own for token in tokens) < _MIN_WORDS_AFTER_ARTICLE:
        return False
    wanted_count = max(sum(token in common for token in tokens) for common in known)
    for code, common in _COMMON_WORDS.items():
        if code in wanted:
            continue
        other_words = [token for token in tokens if token in common]
        distinctive = [token for token in other_words if token not in own]
        minimum = (
            _MIN_WORDS_AFTER_ARTICLE if tokens[:1] and tokens[0] in _FIRST_WORDS and tokens[0] in common else _MIN_WORDS
        )
        if len(distinctive) >= minimum and len(set(distinctive)) > 1 and len(other_words) >= 2 * wanted_count:
            return True
    return False


def _language_words(text: str) -> list[str]:
    """Return the words that can identify the language: lower case, and not inside a name."""
    raw = WORD.findall(text.replace("'", " ").replace("’", " "))
    if text.isupper():
        return [word.lower() for word in raw]
    upper = [word[:1].isupper() for word in raw]
    kept = []
    for index, word in enumerate(raw):
        if upper[index]:
            if index == 0 and len(raw) > 1 and (not upper[1] or word.lower() in _FIRST_WORDS):
                kept.append(word.lower())
            continue
        if word in _PARTICLES and _is_inside_name(upper, raw, index):
            continue
        kept.append(word)
    return kept


def _is_inside_name(upper: list[bool], raw: list[str], index: int) -> bool:
    """Return whether the particle at *index* is between two capitalized words, with only particles in between."""
    before = index - 1
    while before >= 0 and raw[before] in _PARTICLES:
        before -= 1
    after = index + 1
    while after < len(raw) and raw[after] in _PARTICLES:
        after += 1
    return before >= 0 and after < len(raw) and upper[before] and upper[after]
