"""Which language a text is in: by its script, and for Latin letters by the words that every sentence of one needs."""

from __future__ import annotations

import re
from functools import lru_cache

from vecap_tasks.rewrite.screen.answer import Answer
from vecap_tasks.rewrite.screen.words import WORD

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

_SENTENCE = {
    "en": "the a an of and with in on at is are to for from by that his her its their it as has this who while near",
    "de": "der die das den dem des ein eine einen einem einer eines und mit auf von vor im am zum zur ist sind nicht "
    "für aus über unter neben bei sich auch wird an in zwei",
    "fr": "le la les des du un une et dans avec sur est au aux pour qui par en son sa ses sont devant elle deux d l "
    "de ce",
    "es": "el la los las un una y con del en de por para que se su sobre está al están es junto dos frente",
    "it": "il lo la gli le un una e di del della dei delle con nel nella sul sulla che per è da in su al due davanti",
    "pt": "o a os as um uma e com do da dos das no na em de por para que se sobre está ao ele duas dois são",
    "nl": "de het een en van met op in voor aan bij naar zijn is uit over naast door wordt twee staat",
    "sv": "en ett och med på av i som är för den till vid två från sitter står",
    "da": "en et og med på af i som er for den til ved to fra sidder står det",
    "no": "en et og med på av i som er for den til ved to fra sitter står det",
    "pl": "w z po na i się jest do przed obok oraz ze nad pod od przy dwa który",
    "cs": "v na a se je s u před vedle pod nad který jsou dva po z",
    "tr": "bir ve ile için bu olan üzerinde önünde iki da de",
    "ro": "un o și cu pe în de la lângă care este sunt din două",
    "id": "yang di dan dengan untuk dari sebuah seorang pada ini itu dua",
    "hu": "egy a az és van egyik előtt mellett két hogy",
    "vi": "một và của trên với người trong là có các những",
    "fi": "ja on jossa joka hän se kanssa edessä kaksi ovat",
}
_COMMON = {language: frozenset(words.split()) for language, words in _SENTENCE.items()}
_ANY = frozenset[str]().union(*_COMMON.values())
_PARTICLE = "de la del di da do dos das van der den von le les el los las du des y e et und en of zu"
_PARTICLES = frozenset(_PARTICLE.split())
_BEGIN = "un une uno una ein eine een en ett um uma et"  # a caption begins so, a title seldom
_BEGINS = frozenset(_BEGIN.split())
_ENOUGH, _FEWEST = 3, 2


def language(answer: Answer) -> str | None:
    """Most letters are of a script that none of `languages` is written in, or the sentence is of another language.

    Of words that are capitalised, as names and titles are, only the first counts; a caption with fewer than three
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
    """Whether a particle stands between two capitalised words, with none but particles in between."""
    before = place - 1
    while before >= 0 and raw[before] in _PARTICLES:
        before -= 1
    after = place + 1
    while after < len(raw) and raw[after] in _PARTICLES:
        after += 1
    return before >= 0 and after < len(raw) and upper[before] and upper[after]
