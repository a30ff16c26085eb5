"""Assistant talk in the languages of the lists: phrases of refusals, preambles and leaks, and words of preambles.

`data/talk/LANGUAGE.txt` has the phrases of a language; its first lines explain the syntax. A phrase is compiled into a
regular expression without nested repetition, and into the words that it requires. Most captions have none of them, so
that no expression runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from itertools import chain, islice, pairwise
from operator import add

from vecap_tasks.core.word_lists import read_lines
from vecap_tasks.rewrite.screen.phrases import Phrase, read_phrase
from vecap_tasks.rewrite.screen.text import DATA, Answer, unquoted

_FOLDER = files(DATA).joinpath("data", "talk")
LISTED = tuple(sorted(path.name.removesuffix(".txt") for path in _FOLDER.iterdir() if path.name.endswith(".txt")))
_UNSPACED = frozenset({"zh", "ja", "ko"})  # words have no boundaries, or many endings
_SENTENCE_END = re.compile(r"[.!?…。！？]+(?!\w)")
_LAST_END = re.compile(r".*[.!?。！？](?!\w)")
_QUOTATION_MARK = re.compile("[\"'“”„‘‚«»‹›「『《〈]")
_DEFINITION = re.compile(r"([a-z_]+) *=")
_WORD = re.compile(r"[^\W_]+")  # also splits at apostrophes
_CJK = re.compile("[\u1100-\u11ff\u2e80-\ud7ff\uf900-\ufaff\uff00-\uffef]")
_GROUP_IN_GROUP = re.compile(r"\{([a-z_]+)\}")
_MAX_EMPTY_CHARS = 80
_COMMON_KEY = 100  # a frequent key is as frequent as this many others
_SHORT_KEY_CHARS = {True: 3, False: 1}  # of a frequent key, by whether spaces separate words
_CACHED_WORDS = 65_536
GROUPS = ("assent", "opening", "label", "result", "of_task", "small")
_STARTING_GROUPS = ("assent", "opening", "label")  # a head of one word has one of these


@dataclass(frozen=True, slots=True)
class WordGroup:
    """Words, and starts of words (`stem*`)."""

    words: frozenset[str]
    starts: tuple[str, ...]

    def has(self, word: str) -> bool:
        return word in self.words or word.startswith(self.starts)


@dataclass(frozen=True, slots=True)
class Talk:
    """The phrases of a language by section, the word groups, and the keys of each phrase that are least frequent."""

    language: str
    phrases: dict[str, tuple[Phrase, ...]]
    groups: dict[str, WordGroup]
    all_groups: WordGroup
    tokens: re.Pattern[str]  # a word of a head

    @property
    def spaced(self) -> bool:
        return self.language not in _UNSPACED

    def words(self, text: str) -> Iterator[str]:
        """Yield the words of a head; in a language without spaces, what no group has is one word per character."""
        return (match.group() for match in self.tokens.finditer(text))


class Talks:
    """The lists of some languages with an index of all phrases by required words."""

    def __init__(self, talks: tuple[Talk, ...]) -> None:
        self.all = talks
        self.spaced = tuple(talk for talk in talks if talk.spaced)
        self._index: dict[str, list[tuple[str, Phrase]]] = {}
        known: dict[bool, set[str]] = {True: set(), False: set()}
        for talk in talks:
            for section, phrases in talk.phrases.items():
                for phrase in phrases:
                    known[talk.spaced].update(*phrase.keys)
                    for key in _rarest(phrase, talk):
                        self._index.setdefault(key, []).append((section, phrase))
        self._words, self._grams = frozenset(known[True]), frozenset(known[False])
        self.keys_of_word = lru_cache(_CACHED_WORDS)(self._keys_of_word)
        self._heads = lru_cache(_CACHED_WORDS)(self._languages_with_head_word)

    def _keys_of_word(self, word: str) -> frozenset[str]:
        starts = {f"{word[:end]}*" for end in range(1, len(word) + 1)}
        return self._words & {word, *starts}

    def keys(self, text: str) -> frozenset[str]:
        """Return the keys of phrases that *text* (masked) has."""
        found = frozenset[str]().union(*map(self.keys_of_word, _WORD.findall(text)))
        if self._grams and _CJK.search(text):
            pairs = [first + second for first, second in pairwise(text)]
            found |= self._grams.intersection(chain(text, pairs, map(add, pairs, text[2:])))
        return found

    def found(self, text: str) -> dict[str, list[Phrase]]:
        """Return the phrases by section that *text* (masked) can match, because it has their keys."""
        keys = self.keys(text)
        found: dict[str, dict[Phrase, None]] = {}
        for key in keys:
            for section, phrase in self._index.get(key, ()):
                if not any(map(keys.isdisjoint, phrase.keys)):
                    found.setdefault(section, {})[phrase] = None
        return {section: list(phrases) for section, phrases in found.items()}

    def _languages_with_head_word(self, word: str) -> tuple[int, bool]:
        """Return which spaced languages have *word* in a group, as bits, and whether it can be a whole head."""
        has = [talk.all_groups.has(word) for talk in self.spaced]
        alone = any(talk.groups[group].has(word) for talk in self.spaced for group in _STARTING_GROUPS)
        return sum(1 << index for index, found in enumerate(has) if found), alone

    def that_can_have(self, text: str) -> tuple[Talk, ...]:
        """Return the lists of the languages whose script *text* can be in."""
        return self.all if _CJK.search(text) else self.spaced

    def can_begin_with_head(self, text: str) -> bool:
        """Return False if the first words of *text* (masked) exclude that it starts with words of preambles."""
        if self._grams and _CJK.search(text):
            return True
        words = [match.group() for match in islice(_WORD.finditer(text), 2)]
        if not words:
            return False
        languages, alone = self._heads(words[0])
        return alone or all(languages & self._heads(word)[0] for word in words)


def _rarest(phrase: Phrase, talk: Talk) -> frozenset[str]:
    """Return the keys of *phrase* that fewest texts have: no function words, and no short words."""
    common = talk.groups["small"].words | talk.groups["result"].words
    short = _SHORT_KEY_CHARS[talk.spaced]

    def frequency(keys: frozenset[str]) -> int:
        return len(keys) + _COMMON_KEY * sum(len(key) <= short or key in common for key in keys)

    return min(phrase.keys, key=frequency)


@lru_cache(maxsize=16)
def talks_of(languages: tuple[str, ...]) -> Talks:
    """Return the lists of *languages* and of English; the lists of all languages if *languages* is empty."""
    wanted = {*languages, "en"} if languages else {*LISTED}
    return Talks(tuple(_read(language) for language in LISTED if language in wanted))


def languages_without_lists(languages: tuple[str, ...]) -> tuple[str, ...]:
    """Return the codes of *languages* that have no lists; screening finds talk in them only in English."""
    return tuple(language for language in languages if language not in LISTED)


@lru_cache(maxsize=32)
def _read(language: str) -> Talk:
    spaced = language not in _UNSPACED
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
            phrases.setdefault(section, []).append(read_phrase(text, sources, spaced))
    groups = {group: _word_group(sources.get(group, ""), sources) for group in GROUPS}
    all_groups = WordGroup(
        frozenset[str]().union(*(group.words for group in groups.values())),
        tuple(start for group in groups.values() for start in group.starts),
    )
    return Talk(
        language,
        {title: tuple(found) for title, found in phrases.items()},
        groups,
        all_groups,
        _WORD if spaced else _tokens(all_groups),
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


def _tokens(group: WordGroup) -> re.Pattern[str]:
    known = sorted(map(re.escape, (*group.words, *group.starts)), key=len, reverse=True)
    return re.compile("|".join([*known, r"[^\W_]"]))


@lru_cache(maxsize=1024)  # all rules share a few texts
def masked(text: str) -> str:
    """Return *text* in lower case with U+FFFC for each quoted character; the length stays the same."""
    text = unquoted(text) if _QUOTATION_MARK.search(text) else text
    return text.replace("İ", "i").lower().replace("’", "'")


@lru_cache(maxsize=1024)
def _found(text: str, languages: tuple[str, ...]) -> dict[str, list[Phrase]]:
    return talks_of(languages).found(masked(text))


@lru_cache(maxsize=1024)
def _can_begin_with_head(text: str, languages: tuple[str, ...]) -> bool:
    return talks_of(languages).can_begin_with_head(masked(text))


def found_phrases(answer: Answer, *sections: str) -> list[Phrase]:
    """Return the phrases of *sections* that *answer* can match, because it has their keys."""
    found = _found(answer.text, answer.settings.languages)
    return [phrase for section in sections for phrase in found.get(section, ())] if found else []


def matches(answer: Answer, *sections: str) -> Iterator[re.Match[str]]:
    """Yield the phrases of *sections* in a text. Quoted text and text of the sources do not count."""
    phrases = found_phrases(answer, *sections)
    text = masked(answer.text) if phrases else ""
    for phrase in phrases:
        for match in phrase.pattern.finditer(text):
            if not answer.quotes(match.group()):
                yield match


def is_empty_answer(answer: Answer) -> bool:
    """Return whether the text, or the text after its label, says only that there is no answer: `null`, `keine`."""
    phrases = found_phrases(answer, "empty") if len(answer.text) <= _MAX_EMPTY_CHARS else ()
    if not phrases:
        return False
    text = masked(answer.text)
    label, colon, value = text.replace("：", ":").rpartition(":")
    values = [text, value] if colon and is_head(label, answer) else [text]
    for part in (part.strip(" .!\"'“”*_`()[]<>。！-–") for part in values):
        if any(phrase.pattern.fullmatch(part) for phrase in phrases):
            return not answer.quotes(part)
    return False


def can_begin_with_head(answer: Answer) -> bool:
    """Return False if the first words exclude that `is_head` is true for any start of the text."""
    return _can_begin_with_head(answer.text, answer.settings.languages) or bool(
        found_phrases(answer, "preamble", "closing")
    )


def is_head(text: str, answer: Answer, alone: bool = False) -> bool:
    """Return whether *text*, the start of the masked answer, can only be before a caption: `sure! the caption is`.

    Each sentence has only words of preambles, or a phrase of the section `preamble`. The last one must name the answer
    or be an assent; if *alone*, it can be any opening.
    """
    talks = talks_of(answer.settings.languages)
    phrases = found_phrases(answer, "preamble", "closing")
    openings = ("assent", "opening") if alone else ("assent",)
    sentences = [sentence for sentence in _SENTENCE_END.split(text) if not sentence.isspace() and sentence]
    return bool(sentences) and all(
        _is_talk(sentence, talks, phrases, openings if index == len(sentences) - 1 else ())
        for index, sentence in enumerate(sentences)
    )


def _is_talk(sentence: str, talks: Talks, phrases: list[Phrase], last_openings: tuple[str, ...]) -> bool:
    first, comma, rest = sentence.partition(",")
    if comma and is_opening(first, talks):
        sentence = rest  # "Sure, 캡션": the opening can be English
    if any(_has_only_head_words(sentence, talk, last_openings) for talk in talks.that_can_have(sentence)):
        return True
    sentence = sentence.lstrip()
    found = (phrase.pattern.search(sentence) for phrase in phrases)
    return any(match is not None and _begins(sentence[: match.start()], talks) for match in found)


def _begins(before: str, talks: Talks) -> bool:
    """Return whether the text *before* a phrase has only words of preambles, or none."""
    return not _WORD.search(before) or any(
        all(map(talk.all_groups.has, talk.words(before))) for talk in talks.that_can_have(before)
    )


def begins(match: re.Match[str], answer: Answer) -> bool:
    """Return whether a phrase is at the start of the masked text, or only talk is before it."""
    end = _LAST_END.match(match.string, 0, match.start())
    start = end.end() if end else 0
    talks = talks_of(answer.settings.languages)
    return _begins(match.string[start : match.start()], talks) and (end is None or is_head(end.group(), answer))


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


def is_opening(sentence: str, talks: Talks, groups: tuple[str, ...] = ("assent", "opening")) -> bool:
    """Return whether *sentence* has only words of *groups* such as `of course` and small words of a language."""
    return any(
        all(map(talk.all_groups.has, talk.words(sentence))) and _opens(list(talk.words(sentence)), talk, groups)
        for talk in talks.that_can_have(sentence)
    )


def _opens(words: list[str], talk: Talk, groups: tuple[str, ...]) -> bool:
    found = [any(talk.groups[group].has(word) for group in groups) for word in words]
    return any(found) and all(opens or talk.groups["small"].has(word) for opens, word in zip(found, words, strict=True))
