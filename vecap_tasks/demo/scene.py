"""Scenes of the miniature web: what an image can show, and its canonical caption.

A scene has one or two groups of equal objects (kind, color, count), the relation between two groups, and a ground.
`describe` returns the canonical caption of a scene and `parse` inverts it, so that captions can be scored word by
word. `draw.py` draws scenes.
"""

import hashlib
import random
import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

Split = Literal["train", "crawl", "eval"]

# Kind -> plural. The order defines the canonical caption: of two groups, the one whose kind comes first here is the
# subject ("a cat to the left of a house").
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

# Shares of the hash space in percent; `eval` takes the rest.
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
        """Raise ValueError for a word or count outside the vocabulary."""
        if self.kind not in PLURALS or self.color not in COLORS or not 1 <= self.count <= MAX_COUNT:
            raise ValueError(f"Unknown group: {self.count} {self.color} {self.kind}")


@dataclass(frozen=True, slots=True)
class Scene:
    """One or two groups on a ground; `relation` is that of the first group to the second, None for one group.

    Two groups have different kinds, in the order of `KINDS`. `layout_seed` determines everything the caption does not
    mention: positions, sizes, shading, texture.
    """

    groups: tuple[Group, ...]
    relation: str | None
    ground: str
    layout_seed: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for a scene without a canonical caption."""
        if self.ground not in GROUNDS:
            raise ValueError(f"Unknown ground: {self.ground}")
        if len(self.groups) == 1 and self.relation is None:
            return
        if len(self.groups) != 2 or self.relation not in RELATIONS:
            raise ValueError(f"A scene needs one group, or two and a relation: {self.groups}, {self.relation}")
        first, second = self.groups
        if KINDS.index(first.kind) >= KINDS.index(second.kind):
            raise ValueError(f"Two groups must differ in kind and follow the order of KINDS: {self.groups}")


def sample_scene(rng: random.Random, split: Split | None = None) -> Scene:
    """Draw a random scene, from `split` if given."""
    return _sample_from(rng, split)


def _sample_from(rng: random.Random, wanted: Split | None) -> Scene:
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
    """Return the split of a scene's content, independent of its layout.

    A stable hash of the caption decides, so that a combination seen in training occurs in no crawl or evaluation set.
    """
    digest = hashlib.sha256(describe(scene).encode()).digest()
    percentile = int.from_bytes(digest[:8], "big") % 100
    if percentile < _TRAIN_SHARE:
        return "train"
    return "crawl" if percentile < _TRAIN_SHARE + _CRAWL_SHARE else "eval"


def describe_group(group: Group) -> str:
    """Return a phrase such as "an orange cat" or "two red cats"."""
    if group.count == 1:
        return f"{'an' if group.color[0] in 'aeiou' else 'a'} {group.color} {group.kind}"
    return f"{NUMBERS[group.count - 1]} {group.color} {PLURALS[group.kind]}"


def describe(scene: Scene) -> str:
    """Return the canonical caption in lower case: "two red cats to the left of a blue car on grass"."""
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
    """Return the scene that a caption describes, with layout seed 0, or None if it does not have `describe`'s form.

    A caption with the groups in the opposite order gives the same scene, with the relation inverted.
    """
    match = _pattern().fullmatch(" ".join(caption.lower().split()))
    if match is None:
        return None
    number, color, noun, relation, number2, color2, noun2, ground = match.groups()
    groups = [_read_group(number, color, noun)]
    if relation is not None:
        groups.append(_read_group(number2, color2, noun2))
    if any(group is None for group in groups):
        return None
    parsed = [group for group in groups if group is not None]
    if relation is not None and parsed[0].kind == parsed[1].kind:
        return None
    if relation is not None and KINDS.index(parsed[0].kind) > KINDS.index(parsed[1].kind):
        parsed.reverse()
        relation = OPPOSITE[relation]
    return Scene(tuple(parsed), relation, ground)


def _read_group(number: str, color: str, noun: str) -> Group | None:
    count = NUMBERS.index(number) + 1 if number in NUMBERS else 1
    for kind, plural in PLURALS.items():
        if noun == (kind if count == 1 else plural):
            return Group(kind, color, count)
    return None
