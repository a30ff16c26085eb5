"""Language rule: by script, and within a script by a language identification model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from operator import itemgetter

from vecap_tasks.core.word_lists import read_table, read_words
from vecap_tasks.rewrite.screen.identification import MIN_PROBABILITY, known_languages, probabilities
from vecap_tasks.rewrite.screen.text import DATA, Answer, unquoted

_SCRIPTS = {
    "latin": "A-Za-zÀ-ɏḀ-ỿ",
    "cyrillic": "Ѐ-ԯ",
    "greek": "Ͱ-Ͽἀ-῿",
    "arabic": "؀-ۿݐ-ݿﭐ-﷿ﹰ-ﻼ",
    "hebrew": "֐-׿",
    "han": "㐀-䶿一-鿿\uf900-\ufaff",
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
# Scripts that several languages share, so that the model decides. Han: only whether a text is Japanese.
_SHARED = frozenset({"latin", "cyrillic", "arabic", "devanagari", "han"})
_CASELESS = frozenset({"arabic", "devanagari", "han"})
_MIN_OWN_SHARE = 0.2  # of the letters, for Latin names to be ignored in another script
_MIN_HAN = 8  # weight of letters; shorter texts in Han characters can be names in Korean and Japanese texts
_LATIN_NAME = re.compile(r"(?<![A-Za-zÀ-ɏ])[A-ZÀ-ÖØ-Þ][A-Za-zÀ-ɏ]*")

_COMMON_WORDS = {code: frozenset(words.split()) for code, words in read_table(DATA, "sentence_words").items()}
# By language: the words that are no common words of any other language.
_UNIQUE_WORDS = {
    code: words - frozenset[str]().union(*(other for name, other in _COMMON_WORDS.items() if name != code))
    for code, words in _COMMON_WORDS.items()
}
# By language: codes that the model confuses with it, because they write nearly the same.
_CLOSE = {
    **{"no": ("nn",), "nb": ("no", "nn"), "nn": ("no",), "id": ("ms",), "ms": ("id",), "zh": ("yue", "wuu")},
    **{"hr": ("bs", "sh", "sr"), "bs": ("hr", "sh", "sr"), "sr": ("bs", "hr", "sh"), "pt": ("gl",), "gl": ("pt",)},
}
_PARTICLES = read_words(DATA, "name_particles")
_PUNCTUATION = ".,;:!?…\"'“”„‚‘’«»‹›()[]{}–—-|/*&¿¡、。・「」"

# Chosen on the captions of `python -m benchmarks.languages`.
_MIN_WORDS = 4
_FEW_WORDS = 6  # fewer words are often a title, and need more evidence
_MIN_TOP = 0.2  # probability of the most likely other language; the mean of a text as it is and in lower case
_MIN_TOP_FEW = 0.5
_MIN_RATIO = 5.0  # probability of all other languages over that of the wanted ones; geometric mean, as above
_MIN_RATIO_FEW = 50.0
_PART_WORDS = 4
_MAX_WANTED_IN_PART = 0.6  # a part of the text that is more likely in a wanted language keeps it
_OWN_WORDS = 2  # different common words of a wanted language keep a text

Probabilities = Callable[[str], Mapping[str, float]]


def language(answer: Answer) -> str | None:
    """Reject a text whose script or language is not one of `languages`.

    A script counts if most letters are in it. Within a script, the model decides. Quotations do not count. Names,
    short titles, texts with parts in a wanted language, and other uncertain texts are kept.

    >>> language(Answer("Un chat noir est assis sur le canapé"))
    'language'
    >>> language(Answer("Ein roter Hund vor dem Schloß"))
    'language'
    >>> language(Answer("一只猫坐在垫子上"))
    'language'
    >>> language(Answer("Schloss Neuschwanstein at dusk"))
    >>> language(Answer("富士山 at dawn"))
    >>> language(Answer("The poster of the film La vie en rose"))
    >>> language(Answer("El Paso, Los Angeles and Le Palais de la Musique et des Congrès"))
    """
    wanted = answer.settings.languages
    return "language" if wanted and is_foreign(answer.text, wanted) else None


def is_foreign(text: str, wanted: tuple[str, ...], identify: Probabilities = probabilities) -> bool:
    """Return whether *text* is in none of the *wanted* languages; uncertain texts are not.

    *identify* returns the probability of each language code.

    >>> is_foreign("富士山の日の出", ("ja",)), is_foreign("富士山の日の出", ("zh",))
    (False, True)
    >>> is_foreign("Canon EOS R6 のレンズ", ("ja",)), is_foreign("Hauptstraße", ("xx",))
    (False, False)
    """
    scripts = _scripts_of(wanted)
    if text.isascii():
        if "latin" not in scripts:
            return any(map(str.isalpha, text))
        return _is_other_language(text, "latin", wanted, identify)
    found = _scripts(text)
    if _is_other_script(text, found, scripts):
        return True
    script = max(found, key=lambda name: found[name])
    if script == "han" and ("zh" in wanted or found["kana"] or found["han"] < _MIN_HAN):
        return False
    return script in _SHARED and _is_other_language(text, script, wanted, identify)


@lru_cache(maxsize=16)
def _scripts_of(languages: tuple[str, ...]) -> frozenset[str]:
    return frozenset[str]().union(*(_SCRIPTS_OF.get(code, _LATIN) for code in languages))


def _scripts(text: str) -> dict[str, int]:
    return {name: len(letters.findall(text)) * (1 + (name in _DOUBLE_WEIGHT)) for name, letters in _LETTERS.items()}


def _is_other_script(text: str, found: dict[str, int], scripts: frozenset[str]) -> bool:
    """Return whether most letters are in other scripts. Latin names do not count in a text of another script."""
    total = sum(found.values())
    foreign = sum(count for script, count in found.items() if script not in scripts)
    if "han" in scripts and "kana" not in scripts and 4 * found["kana"] > found["han"] + found["kana"]:
        return True  # Japanese is no Chinese
    if scripts == {"hangul", "han"} and not found["hangul"] and found["han"] >= _MIN_HAN:
        return True  # Korean texts are not only in Han characters
    if 2 * foreign > total and "latin" not in scripts and total - foreign >= _MIN_OWN_SHARE * total:
        names = sum(map(len, _LATIN_NAME.findall(text)))
        foreign, total = foreign - names, total - names
    return 2 * foreign > total


def _is_other_language(text: str, script: str, wanted: tuple[str, ...], identify: Probabilities) -> bool:
    tokens = _tokens(text, _scripts_of(wanted))
    count = len(tokens) if script != "han" else sum(map(len, tokens)) // 2
    if count < _MIN_WORDS or _has_words(tokens, wanted, _UNIQUE_WORDS) or not _are_known(wanted):
        return False
    wanted = tuple(dict.fromkeys((*wanted, *(close for code in wanted for close in _CLOSE.get(code, ())))))
    plain = tokens if script in _CASELESS else _without_names(tokens)
    if not plain:
        return False
    min_top, min_ratio = (_MIN_TOP_FEW, _MIN_RATIO_FEW) if count < _FEW_WORDS else (_MIN_TOP, _MIN_RATIO)
    whole = " ".join(tokens)
    first = identify(whole)
    ratio = _ratio(first, wanted)
    if ratio < 1:
        return False
    second = identify(whole.lower())
    other, top = _most_likely(first, wanted)
    if ratio * _ratio(second, wanted) < min_ratio**2 or top + _most_likely(second, wanted)[1] < 2 * min_top:
        return False
    other_words = _COMMON_WORDS.get(other, frozenset())
    if _has_words(tokens, wanted, {code: _COMMON_WORDS.get(code, frozenset()) - other_words for code in wanted}):
        return False
    parts = _parts(tokens) if script != "han" else []
    return all(_share(identify(" ".join(part).lower()), wanted) <= _MAX_WANTED_IN_PART for part in (*parts, plain))


@lru_cache(maxsize=16)
def _are_known(languages: tuple[str, ...]) -> bool:
    """Return whether the model knows all *languages*; otherwise only the script counts."""
    return all(not known_languages().isdisjoint((code, *_CLOSE.get(code, ()))) for code in languages)


def _tokens(text: str, scripts: frozenset[str]) -> list[str]:
    """Return the words in *scripts*, without quotations; in lower case if *text* is in capitals."""
    letters = [_LETTERS[script] for script in scripts]
    words = (word.strip(_PUNCTUATION) for word in unquoted(text.lower() if text.isupper() else text).split())
    return [word for word in words if any(letter.search(word) for letter in letters)]


def _has_words(tokens: Sequence[str], wanted: tuple[str, ...], common: Mapping[str, frozenset[str]]) -> bool:
    return any(len(common[code].intersection(tokens)) >= _OWN_WORDS for code in wanted if code in common)


def _share(likely: Mapping[str, float], wanted: tuple[str, ...]) -> float:
    return sum(likely.get(code, 0.0) for code in wanted)


def _ratio(likely: Mapping[str, float], wanted: tuple[str, ...]) -> float:
    """Return the probability of the other languages over that of the *wanted* ones."""
    share = _share(likely, wanted)
    return (sum(likely.values()) - share) / max(share, MIN_PROBABILITY)


def _most_likely(likely: Mapping[str, float], wanted: tuple[str, ...]) -> tuple[str, float]:
    """Return the most likely language that is not *wanted*, and its probability; ("", 0) without one."""
    return max(
        ((code, value) for code, value in likely.items() if code not in wanted), key=itemgetter(1), default=("", 0.0)
    )


def _parts(tokens: Sequence[str]) -> list[Sequence[str]]:
    """Split *tokens* into at least two parts of similar length; parts of one word are left out."""
    count = max(2, -(-len(tokens) // _PART_WORDS))
    bounds = [number * len(tokens) // count for number in range(count + 1)]
    parts = [tokens[start:end] for start, end in pairwise(bounds)]
    return [part for part in parts if len(part) > 1]


def _without_names(tokens: Sequence[str]) -> list[str]:
    """Return the words that are no names: those in lower case, but no particles inside a name, and an initial word.

    >>> _without_names("Un tableau de Vincent van Gogh et La Tour".split())
    ['un', 'tableau', 'de']
    """
    name = [not token[0].islower() for token in tokens]
    kept = []
    for index, token in enumerate(tokens):
        if name[index]:
            if index == 0 and not name[1] and tokens[1] not in _PARTICLES:
                kept.append(token.lower())
        elif token not in _PARTICLES or not _is_inside_name(name, tokens, index):
            kept.append(token)
    return kept


def _is_inside_name(name: Sequence[bool], tokens: Sequence[str], index: int) -> bool:
    """Return whether the particle at *index* is between two capitalized words, with only particles in between."""
    before = index - 1
    while before >= 0 and tokens[before] in _PARTICLES:
        before -= 1
    after = index + 1
    while after < len(tokens) and tokens[after] in _PARTICLES:
        after += 1
    return before >= 0 and after < len(tokens) and name[before] and name[after]
