"""Pre-rendered training images, with labels for each patch.

Images are processed like crawled ones: drawn at some size, JPEG-compressed, scaled down.
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
# Labels of each patch and their number of classes: object kind (the last class: nothing), color, group, count of that
# group, its relation to the other group (the last class: no other group), and ground.
QUESTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("kind", len(KINDS) + 1),
    ("color", len(COLORS)),
    ("group", 2),
    ("count", 3),
    ("relation", len(RELATIONS) + 1),
    ("ground", len(GROUNDS)),
)
IGNORED: Final = -100
# A patch closer to an object's center than the first share of its side shows the object; beyond the second share it
# does not; in between the label is ignored.
_INSIDE, _OUTSIDE = 0.36, 0.56
_CHUNK: Final = 500


@dataclass(frozen=True, slots=True)
class Pool:
    """`n` images: pixels uint8 (n, 96, 96, 3), answers int8 (n, questions, patches), and their scenes."""

    scenes: tuple[Scene, ...]
    pixels: NDArray[np.uint8]
    answers: NDArray[np.int8]


def make_pool(count: int, split: Split, seed: int, workers: int) -> Pool:
    """Draw `count` scenes of a split. The result does not depend on the number of workers."""
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
    """Return the scene drawn at a random size, after one or two JPEG passes, at the tower's resolution."""
    image = through_jpeg(draw(scene, rng.randint(140, 384)), rng.randint(75, 96))
    if rng.random() < 0.5:
        side = rng.randint(128, 288)
        image = through_jpeg(image.resize((side, side), Image.Resampling.BICUBIC), rng.randint(85, 96))
    return image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def through_jpeg(image: Image.Image, quality: int) -> Image.Image:
    """Return the image after JPEG compression with this quality (0-95)."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def answer(scene: Scene) -> NDArray[np.int8]:
    """Return the labels of each patch, int8 (questions, patches), `IGNORED` without a label."""
    centers = (np.arange(GRID) + 0.5) / GRID
    answers = np.full((len(QUESTIONS), GRID, GRID), IGNORED, np.int8)
    answers[0] = len(KINDS)
    answers[-1] = GROUNDS.index(scene.ground)
    for placement in layout(scene):
        group = scene.groups[placement.group]
        distance = np.maximum(abs(centers[None, :] - placement.x), abs(centers[:, None] - placement.y)) / placement.side
        answers[0][(distance < _OUTSIDE) & (answers[0] == len(KINDS))] = IGNORED
        values = (
            KINDS.index(group.kind),
            COLORS.index(group.color),
            placement.group,
            group.count - 1,
            _relation(scene, placement.group),
        )
        for question, value in enumerate(values):
            answers[question][distance < _INSIDE] = value
    return answers.reshape(len(QUESTIONS), GRID * GRID)


def _relation(scene: Scene, group: int) -> int:
    """Return a group's relation to the other one as an index into `RELATIONS`; `len(RELATIONS)` without another."""
    if scene.relation is None:
        return len(RELATIONS)
    return RELATIONS.index(scene.relation if group == 0 else OPPOSITE[scene.relation])
