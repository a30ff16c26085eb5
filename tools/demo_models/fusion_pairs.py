"""What the fusion model learns from: AltText and VeC on one side, the caption that keeps both on the other.

Every pair is made from a scene: its AltText by the miniature web's own writer, its VeC by `describe`, sometimes
with a VLM's errors, and the caption by `insert_name`. Names are coined without end, so that the model learns to
copy rather than to know them; prose without any name teaches it to leave a text that says nothing of the picture.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pydoc_data.topics import topics

from vecap_tasks.demo.alttext import SHARES, AltText, Namer, Wording, write_alttext
from vecap_tasks.demo.names import HEADS, ProperName, choose_name, coin, insert_name, is_set_aside
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

# Categories with nothing to keep are learned in a moment: they are drawn less often than the web writes them.
_TRAIN_SHARES = {**SHARES, "missing": 0, "empty": 30, "file_name": 40, "generic": 20, "boilerplate": 25, "long": 60}
_PROSE_SHARE = 0.12
# The second cycle's share of names, mostly two at once, among words of every sort.
_FRAMED_SHARE = 0.4
_JOINTS = (" and ", ", ", " / ", " - ", " | ", ": ", " with ", " seen with ", " next to ", " & ", " + ", " by a ")
_BRACKETS = ("({})", "[{}]", '"{}"', "{}.", "{}!", "#{}", "{},", "{}:", "{} -", "{} |")
_ERROR_SHARE = 0.2
_CONSONANTS, _VOWELS = "bcdfghjklmnpqrstvwxyz", "aeiouy"


@dataclass(frozen=True, slots=True)
class Pair:
    """One example: `caption` is `vec` with those `names` of the AltText put in that it has a noun for."""

    alttext: str
    vec: str
    caption: str
    names: tuple[ProperName, ...]
    category: str


def known_name(kind: str, rng: random.Random) -> ProperName:
    """A name of the miniature web's own pool."""
    return choose_name(kind, rng)


def coined_name(kind: str, rng: random.Random) -> ProperName:
    """A name for training: of the pool, coined from the same syllables but not set aside, or of random letters."""
    draw = rng.random()
    if draw < 0.3:
        return choose_name(kind, rng)
    if draw < 0.65:
        proper = coin(rng)
        while is_set_aside(proper):
            proper = coin(rng)
    else:
        proper = _letters(rng)
    if rng.random() < 0.05:
        proper = f"{proper} {rng.randint(1, 999)}"
    return ProperName(kind, f"{proper} {rng.choice(HEADS[kind])}")


def unseen_name(kind: str, rng: random.Random) -> ProperName:
    """A name with a proper part that training never sees: its syllables are known, their combination is not."""
    proper = coin(rng)
    while not is_set_aside(proper):
        proper = coin(rng)
    return ProperName(kind, f"{proper} {rng.choice(HEADS[kind])}")


def strange_name(kind: str, rng: random.Random) -> ProperName:
    """A name of random letters: "Wuqotrib tulip"."""
    return ProperName(kind, f"{_letters(rng)} {rng.choice(HEADS[kind])}")


def _letters(rng: random.Random) -> str:
    word = ""
    for _ in range(rng.randint(2, 4)):
        word += rng.choice(_CONSONANTS) + rng.choice(_VOWELS) + (rng.choice(_CONSONANTS) if rng.random() < 0.3 else "")
    word = word.capitalize()
    return f"{word} {_letters(rng)}" if rng.random() < 0.1 else word


def prose() -> tuple[str, ...]:
    """Lines of plain English prose that every Python has on board: the words of its language reference."""
    text = " ".join(topics[key] for key in sorted(topics))
    lines = re.findall(r"[A-Z][a-z]+(?: [a-z]{1,12},?){3,24}", text)
    return tuple(dict.fromkeys(lines))


def pairs(rng: random.Random, framed: bool = False) -> Iterator[Pair]:
    """Training examples without end, on scenes of the split `train` only.

    `framed` mixes in AltTexts that no template has: one or two names with words and marks of any sort around them.
    """
    lines = prose()
    while True:
        scene = sample_scene(rng, "train")
        if framed and rng.random() < _FRAMED_SHARE:
            alttext = _framed_alttext(scene, rng, lines)
        elif rng.random() < _PROSE_SHARE:
            alttext = _prose_alttext(scene, rng, lines)
        else:
            category = rng.choices(list(_TRAIN_SHARES), list(_TRAIN_SHARES.values()))[0]
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
    """Examples without end on scenes of `split`; AltTexts that are missing have nothing to fuse and are left out."""
    while True:
        scene = sample_scene(rng, split)
        alttext = write_alttext(scene, rng, namer=namer, wording=wording, category=category)
        if alttext.text is not None:
            yield make_pair(alttext, describe(scene))


def make_pair(alttext: AltText, vec: str) -> Pair:
    """The example of an AltText and a VeC: names that the VeC has no noun for are left out of the caption."""
    words = set(vec.split())
    names = tuple(name for name in alttext.names if not words.isdisjoint((name.kind, PLURALS[name.kind])))
    caption = vec
    for name in names:
        caption = insert_name(caption, name)
    return Pair(" ".join((alttext.text or "").split()), vec, caption, names, alttext.category)


def _prose_alttext(scene: Scene, rng: random.Random, lines: tuple[str, ...]) -> AltText:
    """Plain prose, sometimes with a proper part that belongs to nothing, sometimes with a name that fits."""
    words = rng.choice(lines).split()
    place = rng.randrange(len(words) + 1)
    draw = rng.random()
    if draw < 0.35:
        name = coined_name(rng.choice(scene.groups).kind, rng)
        return AltText(" ".join([*words[:place], name.text, *words[place:]]), "prose", (name,))
    if draw < 0.65:
        words[place:place] = [rng.choice((_letters(rng), coin(rng), rng.choice(KINDS), rng.choice(COLORS)))]
    return AltText(" ".join(words), "prose")


def _framed_alttext(scene: Scene, rng: random.Random, lines: tuple[str, ...]) -> AltText:
    """The names of all groups, in any order, between words that do not belong to them."""
    groups = list(scene.groups)
    rng.shuffle(groups)
    names = [coined_name(group.kind, rng) for group in groups]
    said = rng.choice(_JOINTS).join(name.text for name in names)
    if rng.random() < 0.3:
        said = rng.choice(_BRACKETS).format(said)
    before = _frame(rng, lines) if rng.random() < 0.6 else ""
    # A capitalized word just before a name would be read as part of it.
    if before and before.split()[-1][0].isupper() and before[-1].isalpha():
        before += rng.choice((":", ",", " -", " |", " the", " a", " -", "."))
    after = _frame(rng, lines) if rng.random() < 0.6 else ""
    return AltText(" ".join(part for part in (before, said, after) if part), "framed", tuple(names))


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
    """A description with what a small VLM gets wrong: kinds, repetition, order, an end that is missing."""
    groups = list(scene.groups)
    draw = rng.random()
    if draw < 0.4:
        place = rng.randrange(len(groups))
        groups[place] = replace(groups[place], kind=rng.choice(KINDS), color=rng.choice(COLORS))
        return _say(groups, scene.relation, scene.ground)
    if draw < 0.7 and scene.relation is not None:
        return _say(groups[::-1], OPPOSITE[scene.relation], scene.ground)
    words = describe(scene).split()
    if draw < 0.85:
        return " ".join(words[: rng.randint(3, len(words))])
    place = rng.randrange(len(words))
    return " ".join([*words[:place], words[place], *words[place:]])


def _say(groups: list[Group], relation: str | None, ground: str) -> str:
    words = [describe_group(groups[0])]
    if relation is not None:
        words += [relation, describe_group(groups[1])]
    return " ".join([*words, ground])
