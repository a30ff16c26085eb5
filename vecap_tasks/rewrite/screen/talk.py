"""Assistant talk in the languages of the lists: phrases of refusals, preambles and leaks, and words of preambles.

`data/talk/LANGUAGE.txt` has the phrases of a language; its first lines explain the syntax. A phrase is compiled into a
regular expression without nested repetition, and into the starts of words that it requires. Most captions have none of
them, so that no expression runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from itertools import pairwise

from vecap_tasks.core.word_lists import read_lines
from vecap_tasks.rewrite.screen.phrases import Phrase, PhraseSyntax, read_phrase
from vecap_tasks.rewrite.screen.text import DATA, Answer, unquoted

_FOLDER = files(DATA).joinpath("data", "talk")
LISTED = tuple(sorted(path.name.removesuffix(".txt") for path in _FOLDER.iterdir() if path.name.endswith(".txt")))
_UNSPACED = frozenset({"zh", "ja", "ko"})  # words have no boundaries, or many endings
_SENTENCE_END = re.compile(r"[.!?…。！？]+(?!\w)")
_DEFINITION = re.compile(r"([a-z_]+) *=")
_WORD = re.compile(r"[^\W_]+")  # also splits at apostrophes
_GROUP_IN_GROUP = re.compile(r"\{([a-z_]+)\}")
_KEY_CHARS = 3
_KEY_CHARS_UNSPACED = 2
_KEY = re.compile(rf"\b\w{{1,{_KEY_CHARS}}}")
_MAX_EMPTY_CHARS = 80
_COMMON_KEY = 20  # a key of function words is as frequent as this many others
GROUPS = ("assent", "opening", "label", "result", "of_task", "small")


@dataclass(frozen=True, slots=True)
class WordGroup:
    """Words, and starts of words (`stem*`)."""

    words: frozenset[str]
    starts: tuple[str, ...]

    def has(self, word: str) -> bool:
        return word in self.words or word.startswith(self.starts)


@dataclass(frozen=True, slots=True)
class Talk:
    """The phrases of a language by section, the word groups, and an index of the phrases by required start of word."""

    language: str
    phrases: dict[str, tuple[Phrase, ...]]
    index: dict[str, tuple[tuple[str, Phrase], ...]]
    groups: dict[str, WordGroup]
    all_groups: WordGroup
    tokens: re.Pattern[str]  # a word of a head

    def keys(self, text: str) -> frozenset[str]:
        """Return the keys that phrases can require."""
        if self.language in _UNSPACED:
            return frozenset(map("".join, pairwise(text))).union(text)
        return frozenset(_KEY.findall(text))

    def words(self, text: str) -> Iterator[str]:
        """Yield the words of a head; in a language without spaces, what no group has is one word per character."""
        return (match.group() for match in self.tokens.finditer(text))


@lru_cache(maxsize=16)
def talk_of(languages: tuple[str, ...]) -> tuple[Talk, ...]:
    """Return the lists of *languages* and of English; the lists of all languages if *languages* is empty."""
    wanted = {*languages, "en"} if languages else {*LISTED}
    return tuple(_read(language) for language in LISTED if language in wanted)


def languages_without_lists(languages: tuple[str, ...]) -> tuple[str, ...]:
    """Return the codes of *languages* that have no lists; screening finds talk in them only in English."""
    return tuple(language for language in languages if language not in LISTED)


@lru_cache(maxsize=32)
def _read(language: str) -> Talk:
    spaced = language not in _UNSPACED
    syntax = PhraseSyntax(spaced, _KEY_CHARS if spaced else _KEY_CHARS_UNSPACED)
    phrases: dict[str, list[Phrase]] = {}
    sources: dict[str, str] = {}
    section = ""
    for text in _joined_lines(read_lines(DATA, f"talk/{language}")):
        definition = _DEFINITION.match(text)
        if text.startswith("["):
            section = text.strip("[]")
        elif definition and not section:
            sources[definition[1]] = text[definition.end() :].strip()
        elif not section:
            raise ValueError(f"data/talk/{language}.txt: the line {text!r} is in no [section]; add it to one.")
        else:
            phrases.setdefault(section, []).append(read_phrase(text, sources, syntax))
    groups = {group: _word_group(sources.get(group, ""), sources) for group in GROUPS}
    all_groups = WordGroup(
        frozenset[str]().union(*(group.words for group in groups.values())),
        tuple(start for group in groups.values() for start in group.starts),
    )
    common = {word[: syntax.key_chars] for word in groups["small"].words}
    return Talk(
        language,
        {title: tuple(found) for title, found in phrases.items()},
        _index(phrases, common),
        groups,
        all_groups,
        _WORD if spaced else _tokens(all_groups),
    )


def _index(phrases: dict[str, list[Phrase]], common: set[str]) -> dict[str, tuple[tuple[str, Phrase], ...]]:
    """Return the phrases and their sections by the keys that are least frequent."""

    def frequency(keys: frozenset[str]) -> int:
        return len(keys) + _COMMON_KEY * len(keys & common)

    index: dict[str, list[tuple[str, Phrase]]] = {}
    for section, found in phrases.items():
        for phrase in found:
            for key in min(phrase.keys, key=frequency):
                index.setdefault(key, []).append((section, phrase))
    return {key: tuple(found) for key, found in index.items()}


def _joined_lines(lines: Iterable[str]) -> list[str]:
    """Return the lines; one that starts with `|` continues the line before."""
    joined: list[str] = []
    for line in map(str.strip, lines):
        if joined and line.startswith("|"):
            joined[-1] += f" {line}"
        else:
            joined.append(line)
    return joined


def _word_group(source: str, sources: dict[str, str]) -> WordGroup:
    source = _GROUP_IN_GROUP.sub(lambda group: sources[group[1]], source)
    words = [word.strip() for word in source.split("|") if word.strip()]
    starts = tuple(word[:-1] for word in words if word.endswith("*"))
    return WordGroup(frozenset(word for word in words if not word.endswith("*")), starts)


def _tokens(group: WordGroup) -> re.Pattern[str]:
    known = sorted(map(re.escape, (*group.words, *group.starts)), key=len, reverse=True)
    return re.compile("|".join([*known, r"[^\W_]"]))


@lru_cache(maxsize=1024)  # all rules share a few texts
def masked(text: str) -> str:
    """Return *text* in lower case with U+FFFC for each quoted character; the length stays the same."""
    return unquoted(text).replace("İ", "i").lower().replace("’", "'")


@lru_cache(maxsize=1024)
def _found(text: str, languages: tuple[str, ...]) -> dict[str, dict[Phrase, None]]:
    found: dict[str, dict[Phrase, None]] = {}
    for talk in talk_of(languages):
        keys = talk.keys(text)
        for key in talk.index.keys() & keys:
            for section, phrase in talk.index[key]:
                if all(not required.isdisjoint(keys) for required in phrase.keys):
                    found.setdefault(section, {})[phrase] = None
    return found


def found_phrases(text: str, languages: tuple[str, ...], *sections: str) -> tuple[Phrase, ...]:
    """Return the phrases of *sections* that *text* (masked) can match, because it has their keys."""
    found = _found(text, languages)
    return tuple(phrase for section in sections for phrase in found.get(section, ()))


def matches(answer: Answer, *sections: str) -> Iterator[re.Match[str]]:
    """Yield the phrases of *sections* in a text. Quoted text and text of the sources do not count."""
    text = masked(answer.text)
    for phrase in found_phrases(text, answer.settings.languages, *sections):
        for match in phrase.pattern.finditer(text):
            if not answer.quotes(match.group()):
                yield match


def is_empty_answer(answer: Answer) -> bool:
    """Return whether the text, or the text after its label, says only that there is no answer: `null`, `keine`."""
    text = masked(answer.text)
    phrases = found_phrases(text, answer.settings.languages, "empty") if len(text) <= _MAX_EMPTY_CHARS else ()
    if not phrases:
        return False
    label, colon, value = text.replace("：", ":").rpartition(":")
    values = [text, value] if colon and is_head(label, answer) else [text]
    for part in (part.strip(" .!\"'“”*_`()[]<>。！-–") for part in values):
        if any(phrase.pattern.fullmatch(part) for phrase in phrases):
            return not answer.quotes(part)
    return False


def is_head(text: str, answer: Answer, alone: bool = False) -> bool:
    """Return whether *text*, the start of the masked answer, can only be before a caption: `sure! the caption is`.

    Each sentence has only words of preambles, or a phrase of the section `preamble`. The last one must name the answer
    or be an assent; if *alone*, it can be any opening.
    """
    talks = talk_of(answer.settings.languages)
    phrases = found_phrases(masked(answer.text), answer.settings.languages, "preamble", "closing")
    openings = ("assent", "opening") if alone else ("assent",)
    sentences = [sentence for sentence in _SENTENCE_END.split(text) if not sentence.isspace() and sentence]
    return bool(sentences) and all(
        _is_talk(sentence, talks, phrases, openings if index == len(sentences) - 1 else ())
        for index, sentence in enumerate(sentences)
    )


def _is_talk(
    sentence: str, talks: tuple[Talk, ...], phrases: tuple[Phrase, ...], last_openings: tuple[str, ...]
) -> bool:
    first, comma, rest = sentence.partition(",")
    if comma and is_opening(first, talks):
        sentence = rest  # "Sure, 캡션": the opening can be English
    return any(_has_only_head_words(sentence, talk, last_openings) for talk in talks) or any(
        phrase.pattern.search(sentence) for phrase in phrases
    )


def _has_only_head_words(sentence: str, talk: Talk, last_openings: tuple[str, ...]) -> bool:
    """Return whether all words are in the groups.

    In the last sentence, which has *last_openings*, a word also has to name the answer, or it has only openings.
    """
    if not all(map(talk.all_groups.has, talk.words(sentence))):
        return False
    words, groups = list(talk.words(sentence)), talk.groups
    if not words or not last_openings:
        return bool(words)
    if any(map(groups["label"].has, words)):
        return True
    of_task = sum(map(groups["of_task"].has, words))
    return of_task > 1 or (of_task > 0 and any(map(groups["result"].has, words))) or _opens(words, talk, last_openings)


def is_opening(sentence: str, talks: tuple[Talk, ...], groups: tuple[str, ...] = ("assent", "opening")) -> bool:
    """Return whether *sentence* has only words of *groups* such as `of course` and small words of a language."""
    return any(
        all(map(talk.all_groups.has, talk.words(sentence))) and _opens(list(talk.words(sentence)), talk, groups)
        for talk in talks
    )


def _opens(words: list[str], talk: Talk, groups: tuple[str, ...]) -> bool:
    found = [any(talk.groups[group].has(word) for group in groups) for word in words]
    return any(found) and all(opens or talk.groups["small"].has(word) for opens, word in zip(found, words, strict=True))
