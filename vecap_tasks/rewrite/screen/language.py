"""Which language a text is in: by its script, and for Latin letters by the words that every sentence of one needs."""

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
_DENSE = frozenset({"han", "kana", "hangul"})  # a letter says as much as two of another script
_WRITTEN = {
    **dict.fromkeys(("ru", "uk", "bg", "sr", "mk", "be", "kk", "mn"), frozenset({"cyrillic"})),
    **dict.fromkeys(("ar", "fa", "ur", "ps"), frozenset({"arabic"})),
    **dict.fromkeys(("hi", "mr", "ne"), frozenset({"devanagari"})),
    **{"el": frozenset({"greek"}), "he": frozenset({"hebrew"}), "zh": frozenset({"han"}), "th": frozenset({"thai"})},
    **{"ja": frozenset({"han", "kana"}), "ko": frozenset({"hangul", "han"}), "hy": frozenset({"armenian"})},
    **{"ka": frozenset({"georgian"}), "bn": frozenset({"bengali"}), "ta": frozenset({"tamil"})},
}
_LATIN = frozenset({"latin"})

_COMMON = {code: frozenset(words.split()) for code, words in read_table(DATA, "sentence_words").items()}
_ANY = frozenset[str]().union(*_COMMON.values())
_PARTICLE = "de la del di da do dos das van der den von le les el los las du des y e et und en of zu"
_PARTICLES = frozenset(_PARTICLE.split())
_BEGIN = "un une uno una ein eine een en ett um uma et"  # a caption begins so, a title seldom
_BEGINS = frozenset(_BEGIN.split())
_ENOUGH, _FEWEST = 3, 2


def language(answer: Answer) -> str | None:
    """Most letters are of a script that none of `languages` is written in, or the sentence is of another language.

    Of words that are capitalized, as names and titles are, only the first counts; a caption with fewer than three
    words that tell (two, where it begins with "Un" or "Ein") is left alone.

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
    return "language" if "latin" in scripts and _another(answer.text, wanted) else None


@lru_cache(maxsize=16)
def _scripts_of(languages: tuple[str, ...]) -> frozenset[str]:
    return frozenset[str]().union(*(_WRITTEN.get(code, _LATIN) for code in languages))


def _scripts(text: str) -> dict[str, int]:
    return {name: len(letters.findall(text)) * (1 + (name in _DENSE)) for name, letters in _LETTERS.items()}


def _another(text: str, wanted: tuple[str, ...]) -> bool:
    known = [_COMMON[code] for code in wanted if code in _COMMON]
    if not known:
        return False  # a language whose words are not listed is judged by its script alone
    tokens = _telling(text)
    own = known[0].union(*known[1:])
    if sum(token in _ANY and token not in own for token in tokens) < _FEWEST:
        return False
    ours = max(sum(token in common for token in tokens) for common in known)
    for code, common in _COMMON.items():
        if code in wanted:
            continue
        theirs = [token for token in tokens if token in common]
        telling = [token for token in theirs if token not in own]
        enough = _FEWEST if tokens[:1] and tokens[0] in _BEGINS and tokens[0] in common else _ENOUGH
        if len(telling) >= enough and len(set(telling)) > 1 and len(theirs) >= 2 * ours:
            return True
    return False


def _telling(text: str) -> list[str]:
    """Return the words that may tell the language: in lower case as written, and not inside a name."""
    raw = WORD.findall(text.replace("'", " ").replace("’", " "))
    if text.isupper():
        return [word.lower() for word in raw]
    upper = [word[:1].isupper() for word in raw]
    kept = []
    for place, word in enumerate(raw):
        if upper[place]:
            if place == 0 and len(raw) > 1 and (not upper[1] or word.lower() in _BEGINS):
                kept.append(word.lower())
            continue
        if word in _PARTICLES and _inside_name(upper, raw, place):
            continue
        kept.append(word)
    return kept


def _inside_name(upper: list[bool], raw: list[str], place: int) -> bool:
    """Whether a particle stands between two capitalized words, with none but particles in between."""
    before = place - 1
    while before >= 0 and raw[before] in _PARTICLES:
        before -= 1
    after = place + 1
    while after < len(raw) and raw[after] in _PARTICLES:
        after += 1
    return before >= 0 and after < len(raw) and upper[before] and upper[after]
