"""Pictures to train on, drawn ahead, with what each patch of them shows.

The picture goes the way of a crawled one before the vision tower sees it: drawn at some size, JPEG, scaled down.
"""

import io
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from random import Random
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vecap_tasks.demo.draw import draw, layout
from vecap_tasks.demo.scene import COLORS, GROUNDS, KINDS, OPPOSITE, RELATIONS, Scene, Split, sample_scene

SIDE: Final = 96
PATCH: Final = 12
GRID: Final = SIDE // PATCH
# What is asked of each patch, and the number of answers: what covers it (the last answer: nothing), its color,
# the group it belongs to, that group's count, how that group stands to the other (the last: no other) and the ground.
QUESTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("kind", len(KINDS) + 1),
    ("color", len(COLORS)),
    ("group", 2),
    ("count", 3),
    ("relation", len(RELATIONS) + 1),
    ("ground", len(GROUNDS)),
)
IGNORED: Final = -100
# A patch within this share of an object's side from its center shows the object; beyond the second it does not;
# between the two it is not asked.
_INSIDE, _OUTSIDE = 0.36, 0.56
_CHUNK: Final = 500


@dataclass(frozen=True, slots=True)
class Pool:
    """`n` pictures: pixels uint8 (n, 96, 96, 3), answers int8 (n, questions, patches), and their scenes."""

    scenes: tuple[Scene, ...]
    pixels: NDArray[np.uint8]
    answers: NDArray[np.int8]


def make_pool(count: int, split: Split, seed: int, workers: int) -> Pool:
    """Draw `count` scenes of a split. The same seed gives the same pool whatever the number of workers."""
    chunks = [(min(_CHUNK, count - start), split, seed + start) for start in range(0, count, _CHUNK)]
    with ProcessPoolExecutor(workers) as executor:
        parts = list(executor.map(_make_chunk, *zip(*chunks, strict=True)))
    return Pool(
        scenes=tuple(scene for part in parts for scene in part.scenes),
        pixels=np.concatenate([part.pixels for part in parts]),
        answers=np.concatenate([part.answers for part in parts]),
    )


def _make_chunk(count: int, split: Split, seed: int) -> Pool:
    rng = Random(seed)
    scenes = tuple(sample_scene(rng, split) for _ in range(count))
    pixels = np.stack([np.asarray(_as_crawled(scene, rng)) for scene in scenes])
    return Pool(scenes, pixels, np.stack([answer(scene) for scene in scenes]))


def _as_crawled(scene: Scene, rng: Random) -> Image.Image:
    """The scene drawn at some size, once or twice through JPEG, at the tower's resolution."""
    picture = through_jpeg(draw(scene, rng.randint(140, 384)), rng.randint(75, 96))
    if rng.random() < 0.5:
        side = rng.randint(128, 288)
        picture = through_jpeg(picture.resize((side, side), Image.Resampling.BICUBIC), rng.randint(85, 96))
    return picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def through_jpeg(picture: Image.Image, quality: int) -> Image.Image:
    """The picture after JPEG at this quality (0-95)."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def answer(scene: Scene) -> NDArray[np.int8]:
    """The right answers for each patch, int8 (questions, patches), `IGNORED` where there is none."""
    centers = (np.arange(GRID) + 0.5) / GRID
    answers = np.full((len(QUESTIONS), GRID, GRID), IGNORED, np.int8)
    answers[0] = len(KINDS)
    answers[-1] = GROUNDS.index(scene.ground)
    for place in layout(scene):
        group = scene.groups[place.group]
        distance = np.maximum(abs(centers[None, :] - place.x), abs(centers[:, None] - place.y)) / place.side
        answers[0][(distance < _OUTSIDE) & (answers[0] == len(KINDS))] = IGNORED
        values = (
            KINDS.index(group.kind),
            COLORS.index(group.color),
            place.group,
            group.count - 1,
            _relation(scene, place.group),
        )
        for question, value in enumerate(values):
            answers[question][distance < _INSIDE] = value
    return answers.reshape(len(QUESTIONS), GRID * GRID)


def _relation(scene: Scene, group: int) -> int:
    """How a group stands to the other one, an index into `RELATIONS`; one past them where there is no other."""
    if scene.relation is None:
        return len(RELATIONS)
    return RELATIONS.index(scene.relation if group == 0 else OPPOSITE[scene.relation])
