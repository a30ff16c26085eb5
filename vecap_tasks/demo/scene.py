"""The scenes of the miniature web: what can be in a picture, and how it is said in words.

A scene holds one or two groups of like objects (kind, color, count), where two groups stand to each other, and
a ground. `describe` is the one canonical caption of a scene and `parse` reads it back, so a caption can be marked
word by word against the picture that it belongs to. Nothing here draws: see `draw.py`.
"""

import hashlib
import random
import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

Split = Literal["train", "crawl", "eval"]

# Kind -> plural. The order is the order of mention: of two groups the one whose kind stands first here is the
# subject ("a cat to the left of a house"), so that every picture has exactly one canonical caption.
PLURALS: dict[str, str] = {
    "cat": "cats",
    "dog": "dogs",
    "rabbit": "rabbits",
    "elephant": "elephants",
    "bird": "birds",
    "owl": "owls",
    "fish": "fish",
    "turtle": "turtles",
    "snail": "snails",
    "butterfly": "butterflies",
    "car": "cars",
    "bus": "buses",
    "truck": "trucks",
    "train": "trains",
    "bicycle": "bicycles",
    "boat": "boats",
    "plane": "planes",
    "rocket": "rockets",
    "tree": "trees",
    "cactus": "cactuses",
    "flower": "flowers",
    "mushroom": "mushrooms",
    "apple": "apples",
    "carrot": "carrots",
    "house": "houses",
    "castle": "castles",
    "tent": "tents",
    "chair": "chairs",
    "lamp": "lamps",
    "clock": "clocks",
    "cup": "cups",
    "teapot": "teapots",
    "bottle": "bottles",
    "guitar": "guitars",
    "drum": "drums",
    "umbrella": "umbrellas",
    "hat": "hats",
    "shoe": "shoes",
    "kite": "kites",
    "key": "keys",
}
KINDS: tuple[str, ...] = tuple(PLURALS)
COLORS: tuple[str, ...] = (
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "brown",
    "black",
    "white",
)
GROUNDS: tuple[str, ...] = (
    "on grass",
    "on sand",
    "in snow",
    "on water",
    "on a road",
    "on a wooden floor",
    "in front of a brick wall",
    "under a night sky",
)
RELATIONS: tuple[str, ...] = ("to the left of", "to the right of", "above", "below")
OPPOSITE: dict[str, str] = {
    "to the left of": "to the right of",
    "to the right of": "to the left of",
    "above": "below",
    "below": "above",
}
NUMBERS: tuple[str, ...] = ("one", "two", "three")
MAX_COUNT = len(NUMBERS)

# Shares of the hash space in percent; `eval` takes what is left.
_TRAIN_SHARE, _CRAWL_SHARE = 60, 30
_TWO_GROUPS_SHARE = 0.7
_SEED_SPACE = 2**31


@dataclass(frozen=True, slots=True)
class Group:
    """`count` (1 to 3) objects of one kind and color."""

    kind: str
    color: str
    count: int

    def __post_init__(self) -> None:
        """Raise ValueError for a word or a count outside the vocabularies."""
        if self.kind not in PLURALS or self.color not in COLORS or not 1 <= self.count <= MAX_COUNT:
            raise ValueError(f"no such group of objects: {self.count} {self.color} {self.kind}")


@dataclass(frozen=True, slots=True)
class Scene:
    """One or two groups on a ground; `relation` is that of the first group to the second, None for one group.

    Two groups are of different kinds, in the order of `KINDS`. `layout_seed` decides everything that the caption
    does not say: positions, sizes, shading, texture.
    """

    groups: tuple[Group, ...]
    relation: str | None
    ground: str
    layout_seed: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for a scene that has no canonical caption."""
        if self.ground not in GROUNDS:
            raise ValueError(f"no such ground: {self.ground}")
        if len(self.groups) == 1 and self.relation is None:
            return
        if len(self.groups) != 2 or self.relation not in RELATIONS:
            raise ValueError(f"a scene has one group, or two and a relation: {self.groups}, {self.relation}")
        first, second = self.groups
        if KINDS.index(first.kind) >= KINDS.index(second.kind):
            raise ValueError(f"two groups differ in kind and stand in the order of KINDS: {self.groups}")


def sample_scene(rng: random.Random, split: Split | None = None) -> Scene:
    """Draw a scene at random; with `split`, one whose content belongs to that split."""
    return _sample_of(rng, split)


def _sample_of(rng: random.Random, wanted: Split | None) -> Scene:
    while True:
        scene = _sample(rng)
        if wanted is None or split(scene) == wanted:
            return scene


def _sample(rng: random.Random) -> Scene:
    kinds = rng.sample(range(len(KINDS)), 2 if rng.random() < _TWO_GROUPS_SHARE else 1)
    groups = tuple(Group(KINDS[kind], rng.choice(COLORS), rng.randint(1, MAX_COUNT)) for kind in sorted(kinds))
    relation = rng.choice(RELATIONS) if len(groups) == 2 else None
    return Scene(groups, relation, rng.choice(GROUNDS), rng.randrange(_SEED_SPACE))


def split(scene: Scene) -> Split:
    """The split a scene's content belongs to, whatever its layout: training, crawls or evaluation.

    By a stable hash of the caption, so a combination seen in training is in no crawl and no evaluation set.
    """
    digest = hashlib.sha256(describe(scene).encode()).digest()
    place = int.from_bytes(digest[:8], "big") % 100
    if place < _TRAIN_SHARE:
        return "train"
    return "crawl" if place < _TRAIN_SHARE + _CRAWL_SHARE else "eval"


def describe_group(group: Group) -> str:
    """Such as "an orange cat" or "two red cats"."""
    if group.count == 1:
        return f"{'an' if group.color[0] in 'aeiou' else 'a'} {group.color} {group.kind}"
    return f"{NUMBERS[group.count - 1]} {group.color} {PLURALS[group.kind]}"


def describe(scene: Scene) -> str:
    """The canonical caption in lower case: "two red cats to the left of a blue car on grass"."""
    words = [describe_group(scene.groups[0])]
    if scene.relation is not None:
        words += [scene.relation, describe_group(scene.groups[1])]
    return " ".join([*words, scene.ground])


@cache
def _pattern() -> re.Pattern[str]:
    singular, plural = "|".join(PLURALS), "|".join(PLURALS.values())
    group = rf"(an?|{'|'.join(NUMBERS)}) ({'|'.join(COLORS)}) ({plural}|{singular})"
    return re.compile(rf"{group}(?: ({'|'.join(RELATIONS)}) {group})? ({'|'.join(GROUNDS)})\.?")


def parse(caption: str) -> Scene | None:
    """The scene that a caption describes, with layout seed 0, or None if it is not in the form of `describe`.

    A caption whose groups stand in the other order is read as the same scene, with the relation turned round.
    """
    found = _pattern().fullmatch(" ".join(caption.lower().split()))
    if found is None:
        return None
    number, color, noun, relation, number2, color2, noun2, ground = found.groups()
    groups = [_read_group(number, color, noun)]
    if relation is not None:
        groups.append(_read_group(number2, color2, noun2))
    if any(group is None for group in groups):
        return None
    read = [group for group in groups if group is not None]
    if relation is not None and read[0].kind == read[1].kind:
        return None
    if relation is not None and KINDS.index(read[0].kind) > KINDS.index(read[1].kind):
        read.reverse()
        relation = OPPOSITE[relation]
    return Scene(tuple(read), relation, ground)


def _read_group(number: str, color: str, noun: str) -> Group | None:
    count = NUMBERS.index(number) + 1 if number in NUMBERS else 1
    for kind, plural in PLURALS.items():
        if noun == (kind if count == 1 else plural):
            return Group(kind, color, count)
    return None
