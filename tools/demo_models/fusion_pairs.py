"""Training pairs of the fusion model: AltText and VeC as input, the caption that keeps both as target.

A scene gives the AltText (by the miniature web's generator), the VeC (by `describe`, sometimes with VLM-like errors)
and the caption (by `insert_name`). An unlimited number of names is coined, so that the model learns to copy names
instead of memorizing them. Prose without names teaches it to ignore text that is unrelated to the image.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pydoc_data.topics import topics

from vecap_tasks.demo.alttext import CATEGORY_WEIGHTS, AltText, Namer, Wording, write_alttext
from vecap_tasks.demo.names import HEADS, ProperName, choose_name, coin, insert_name, is_held_out
from vecap_tasks.demo.scene import (
    COLORS,
    KINDS,
    OPPOSITE,
    PLURALS,
    Group,
    Scene,
    Split,
    describe,
    describe_group,
    sample_scene,
)

# Categories without information are easy to learn, so they are rarer than in the miniature web.
_TRAIN_WEIGHTS = {
    **CATEGORY_WEIGHTS, "missing": 0, "empty": 30, "file_name": 40, "generic": 20, "boilerplate": 25, "long": 60,
}  # fmt: skip
_PROSE_SHARE = 0.12
# In the second cycle, share of AltTexts with names (mostly two) among random words.
_FRAMED_SHARE = 0.4
_JOINTS = (" and ", ", ", " / ", " - ", " | ", ": ", " with ", " seen with ", " next to ", " & ", " + ", " by a ")
_BRACKETS = ("({})", "[{}]", '"{}"', "{}.", "{}!", "#{}", "{},", "{}:", "{} -", "{} |")
_ERROR_SHARE = 0.2
_CONSONANTS, _VOWELS = "bcdfghjklmnpqrstvwxyz", "aeiouy"


@dataclass(frozen=True, slots=True)
class Pair:
    """One example: `caption` is `vec` plus those `names` of the AltText for which it has a noun."""

    alttext: str
    vec: str
    caption: str
    names: tuple[ProperName, ...]
    category: str


def known_name(kind: str, rng: random.Random) -> ProperName:
    """Return a name of the miniature web's pool."""
    return choose_name(kind, rng)


def coined_name(kind: str, rng: random.Random) -> ProperName:
    """Return a training name: from the pool, coined and not held out, or of random letters."""
    draw = rng.random()
    if draw < 0.3:
        return choose_name(kind, rng)
    if draw < 0.65:
        proper = coin(rng)
        while is_held_out(proper):
            proper = coin(rng)
    else:
        proper = _letters(rng)
    if rng.random() < 0.05:
        proper = f"{proper} {rng.randint(1, 999)}"
    return ProperName(kind, f"{proper} {rng.choice(HEADS[kind])}")


def unseen_name(kind: str, rng: random.Random) -> ProperName:
    """Return a name whose proper part training never sees: known syllables in a new combination."""
    proper = coin(rng)
    while not is_held_out(proper):
        proper = coin(rng)
    return ProperName(kind, f"{proper} {rng.choice(HEADS[kind])}")


def strange_name(kind: str, rng: random.Random) -> ProperName:
    """Return a name of random letters: "Wuqotrib tulip"."""
    return ProperName(kind, f"{_letters(rng)} {rng.choice(HEADS[kind])}")


def _letters(rng: random.Random) -> str:
    word = ""
    for _ in range(rng.randint(2, 4)):
        word += rng.choice(_CONSONANTS) + rng.choice(_VOWELS) + (rng.choice(_CONSONANTS) if rng.random() < 0.3 else "")
    word = word.capitalize()
    return f"{word} {_letters(rng)}" if rng.random() < 0.1 else word


def prose() -> tuple[str, ...]:
    """Return lines of plain English prose from Python's language reference."""
    text = " ".join(topics[key] for key in sorted(topics))
    lines = re.findall(r"[A-Z][a-z]+(?: [a-z]{1,12},?){3,24}", text)
    return tuple(dict.fromkeys(lines))


def pairs(rng: random.Random, framed: bool = False) -> Iterator[Pair]:
    """Yield training examples forever, only from scenes of the split `train`.

    `framed` adds AltTexts of one or two names surrounded by random words and punctuation.
    """
    lines = prose()
    while True:
        scene = sample_scene(rng, "train")
        if framed and rng.random() < _FRAMED_SHARE:
            alttext = _framed_alttext(scene, rng, lines)
        elif rng.random() < _PROSE_SHARE:
            alttext = _prose_alttext(scene, rng, lines)
        else:
            category = rng.choices(list(_TRAIN_WEIGHTS), list(_TRAIN_WEIGHTS.values()))[0]
            alttext = write_alttext(scene, rng, namer=coined_name, wording="train", category=category)
        vec = _with_errors(scene, rng) if rng.random() < _ERROR_SHARE else describe(scene)
        yield make_pair(alttext, vec)


def held_out_pairs(
    rng: random.Random,
    namer: Namer,
    wording: Wording = "heldout",
    category: str | None = None,
    split: Split = "eval",
) -> Iterator[Pair]:
    """Yield examples forever from scenes of `split`, without missing AltTexts."""
    while True:
        scene = sample_scene(rng, split)
        alttext = write_alttext(scene, rng, namer=namer, wording=wording, category=category)
        if alttext.text is not None:
            yield make_pair(alttext, describe(scene))


def make_pair(alttext: AltText, vec: str) -> Pair:
    """Return the example of an AltText and a VeC; names without a noun in the VeC are left out of the caption."""
    words = set(vec.split())
    names = tuple(name for name in alttext.names if not words.isdisjoint((name.kind, PLURALS[name.kind])))
    caption = vec
    for name in names:
        caption = insert_name(caption, name)
    return Pair(" ".join((alttext.text or "").split()), vec, caption, names, alttext.category)


def _prose_alttext(scene: Scene, rng: random.Random, lines: tuple[str, ...]) -> AltText:
    """Return prose, sometimes with an unrelated proper part, sometimes with a matching name."""
    words = rng.choice(lines).split()
    position = rng.randrange(len(words) + 1)
    draw = rng.random()
    if draw < 0.35:
        name = coined_name(rng.choice(scene.groups).kind, rng)
        return AltText(" ".join([*words[:position], name.text, *words[position:]]), "prose", (name,))
    if draw < 0.65:
        words[position:position] = [rng.choice((_letters(rng), coin(rng), rng.choice(KINDS), rng.choice(COLORS)))]
    return AltText(" ".join(words), "prose")


def _framed_alttext(scene: Scene, rng: random.Random, lines: tuple[str, ...]) -> AltText:
    """Return the names of all groups, in random order, between unrelated words."""
    groups = list(scene.groups)
    rng.shuffle(groups)
    names = [coined_name(group.kind, rng) for group in groups]
    mentioned = rng.choice(_JOINTS).join(name.text for name in names)
    if rng.random() < 0.3:
        mentioned = rng.choice(_BRACKETS).format(mentioned)
    before = _frame(rng, lines) if rng.random() < 0.6 else ""
    # A capitalized word just before a name would look like part of it.
    if before and before.split()[-1][0].isupper() and before[-1].isalpha():
        before += rng.choice((":", ",", " -", " |", " the", " a", " -", "."))
    after = _frame(rng, lines) if rng.random() < 0.6 else ""
    return AltText(" ".join(part for part in (before, mentioned, after) if part), "framed", tuple(names))


def _frame(rng: random.Random, lines: tuple[str, ...]) -> str:
    words = []
    for _ in range(rng.randint(1, 5)):
        draw = rng.random()
        if draw < 0.5:
            word = rng.choice(rng.choice(lines).split()).strip(",")
        elif draw < 0.75:
            word = _letters(rng)
        else:
            word = str(rng.randint(1, 9999))
        word = rng.choice((word, word.lower(), word.capitalize()))
        words.append(rng.choice(_BRACKETS).format(word) if rng.random() < 0.2 else word)
    return " ".join(words)


def _with_errors(scene: Scene, rng: random.Random) -> str:
    """Return a description with typical errors of a small VLM: wrong kind, reordering, truncation, repetition."""
    groups = list(scene.groups)
    draw = rng.random()
    if draw < 0.4:
        position = rng.randrange(len(groups))
        groups[position] = replace(groups[position], kind=rng.choice(KINDS), color=rng.choice(COLORS))
        return _describe(groups, scene.relation, scene.ground)
    if draw < 0.7 and scene.relation is not None:
        return _describe(groups[::-1], OPPOSITE[scene.relation], scene.ground)
    words = describe(scene).split()
    if draw < 0.85:
        return " ".join(words[: rng.randint(3, len(words))])
    position = rng.randrange(len(words))
    return " ".join([*words[:position], words[position], *words[position:]])


def _describe(groups: list[Group], relation: str | None, ground: str) -> str:
    words = [describe_group(groups[0])]
    if relation is not None:
        words += [relation, describe_group(groups[1])]
    return " ".join([*words, ground])
