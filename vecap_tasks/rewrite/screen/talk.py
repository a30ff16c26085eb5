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

from vecap_tasks.core.word_lists import read_lines
from vecap_tasks.rewrite.screen.phrases import Phrase, PhraseSyntax, compile_phrase
from vecap_tasks.rewrite.screen.text import DATA, Answer, unquoted

_FOLDER = files(DATA).joinpath("data", "talk")
LISTED = tuple(sorted(path.name.removesuffix(".txt") for path in _FOLDER.iterdir() if path.name.endswith(".txt")))
_UNSPACED = frozenset({"zh", "ja", "ko"})  # words have no boundaries, or many endings
_SENTENCE_END = re.compile(r"[.!?…。！？]+(?!\w)")
_DEFINITION = re.compile(r"([a-z_]+) *=")
_WORD = re.compile(r"[^\W_]+")  # also splits at apostrophes
_GROUP_IN_GROUP = re.compile(r"\{([a-z_]+)\}")
KEY_CHARS = 3
_KEY_CHARS_UNSPACED = 2
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
    tokens: re.Pattern[str] | None  # splits a text without spaces into the words of `groups`

    def keys(self, text: str) -> frozenset[str]:
        """Return the keys that phrases can require."""
        if self.language in _UNSPACED:
            return frozenset(map("".join, zip(text, text[1:], strict=False))).union(text)
        return frozenset(word[:KEY_CHARS] for word in _WORD.findall(text))

    def words(self, text: str) -> list[str]:
        """Return the words of a head; in a language without spaces, what no group has is one word per character."""
        return _WORD.findall(text) if self.tokens is None else self.tokens.findall(text)


@lru_cache(maxsize=16)
def talk_of(languages: tuple[str, ...]) -> tuple[Talk, ...]:
    """Return the lists of *languages* and of English; the lists of all languages if *languages* is empty."""
    wanted = {*languages, "en"} if languages else {*LISTED}
    return tuple(_read(language) for language in LISTED if language in wanted)


@lru_cache(maxsize=32)
def _read(language: str) -> Talk:
    syntax = PhraseSyntax(spaced=language not in _UNSPACED, key_chars=_KEY_CHARS_UNSPACED if language in _UNSPACED else KEY_CHARS)
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
            phrases.setdefault(section, []).append(compile_phrase(text, sources, syntax))
    index: dict[str, list[tuple[str, Phrase]]] = {}
    for title, found in phrases.items():
        for phrase in found:
            for key in min(phrase.keys, key=len):
                index.setdefault(key, []).append((title, phrase))
    groups = {group: _word_group(sources.get(group, ""), sources) for group in GROUPS}
    return Talk(
        language,
        {title: tuple(found) for title, found in phrases.items()},
        {key: tuple(found) for key, found in index.items()},
        groups,
        None if syntax.spaced else _tokens(groups),
    )


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


def _tokens(groups: dict[str, WordGroup]) -> re.Pattern[str]:
    known = {word for group in groups.values() for word in (*group.words, *group.starts)}
    return re.compile("|".join([*sorted(map(re.escape, known), key=len, reverse=True), r"[^\W_]"]))


@lru_cache(maxsize=1024)  # all rules share a few texts
def masked(text: str) -> str:
    """Return *text* in lower case with U+FFFC for each quoted character; the length stays the same."""
    return unquoted(text).replace("İ", "i").lower().replace("’", "'")


@lru_cache(maxsize=1024)
def _found(text: str, languages: tuple[str, ...]) -> dict[str, tuple[Phrase, ...]]:
    """Return the phrases by section whose keys *text* (masked) has."""
    found: dict[str, dict[Phrase, None]] = {}
    for talk in talk_of(languages):
        keys = talk.keys(text)
        for key in talk.index.keys() & keys:
            for section, phrase in talk.index[key]:
                if all(not required.isdisjoint(keys) for required in phrase.keys):
                    found.setdefault(section, {})[phrase] = None
    return {section: tuple(phrases) for section, phrases in found.items()}


def matches(answer: Answer, *sections: str) -> Iterator[re.Match[str]]:
    """Yield the phrases of *sections* in a text. Quoted text and text of the sources do not count."""
    text = masked(answer.text)
    found = _found(text, answer.settings.languages)
    for section in sections:
        for phrase in found.get(section, ()):
            for match in phrase.pattern.finditer(text):
                if not answer.quotes(match.group()):
                    yield match


def is_empty_answer(answer: Answer) -> bool:
    """Return whether the text, or the text after its label, says only that there is no answer: `null`, `keine`."""
    text = masked(answer.text)
    if len(text) > _MAX_EMPTY_CHARS:
        return False
    label, colon, value = text.replace("：", ":").rpartition(":")
    values = [text, value] if colon and is_head(label, answer.settings.languages) else [text]
    for part in (part.strip(" .!\"'“”*_`()[]<>。！-–") for part in values):
        for talk in talk_of(answer.settings.languages):
            if any(phrase.pattern.fullmatch(part) for phrase in talk.phrases.get("empty", ())):
                return not answer.quotes(part)
    return False


_MAX_EMPTY_CHARS = 80


def is_head(text: str, languages: tuple[str, ...]) -> bool:
    """Return whether *text* (masked) can only be the part before a caption, such as `sure! the final caption is`.

    Each sentence has only words of preambles, or a phrase of the section `preamble`. The last one must name the answer
    or be an assent.
    """
    sentences = [sentence for sentence in _SENTENCE_END.split(text) if _WORD.search(sentence)]
    if not sentences:
        return False
    return all(_is_talk(sentence, languages, index == len(sentences) - 1) for index, sentence in enumerate(sentences))


def _is_talk(sentence: str, languages: tuple[str, ...], last: bool) -> bool:
    return any(_has_only_head_words(sentence, talk, last) for talk in talk_of(languages)) or any(
        phrase.pattern.search(sentence)
        for section in ("preamble", "closing")
        for phrase in _found(sentence, languages).get(section, ())
    )


def _has_only_head_words(sentence: str, talk: Talk, last: bool) -> bool:
    """Return whether all words are in the groups, and one names the answer; before the last sentence, none has to."""
    words, groups = talk.words(sentence), talk.groups
    if is_opening(sentence, talk, ("assent",) if last else ("assent", "opening")):
        return True
    if not words or not all(any(group.has(word) for group in groups.values()) for word in words):
        return False
    if not last or any(groups["label"].has(word) for word in words):
        return True
    of_task = sum(groups["of_task"].has(word) for word in words)
    return of_task > 1 or (of_task > 0 and any(groups["result"].has(word) for word in words))


def is_opening(sentence: str, talk: Talk, groups: tuple[str, ...] = ("assent", "opening")) -> bool:
    """Return whether *sentence* has only words of *groups* such as `of course` and small words."""
    words = talk.words(sentence)
    found = [any(talk.groups[group].has(word) for group in groups) for word in words]
    return any(found) and all(
        opens or talk.groups["small"].has(word) for opens, word in zip(found, words, strict=True)
    )
