"""Held-out evaluation set of the miniature web: images of scenes that occur in no crawl and no training set.

    images/<number>.jpg    images, 256 pixels per side
    captions.csv           header `image,caption`; one caption per row, several rows per image; for retrieval
    labels.csv             header `image,label`; images of one kind of object; for zero-shot classification
    classes.txt            one class per line, including labels that do not occur
    templates.txt          one template per line, with `{}` as the class placeholder

`image` is a path relative to the folder. The files are UTF-8 with \n at line ends.
"""

import csv
import io
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vecap_tasks.demo.names import choose_name, insert_name
from vecap_tasks.demo.pictures import Encoding, render
from vecap_tasks.demo.scene import KINDS, Scene, describe, sample_scene

TEMPLATES = ("a {}", "a photo of a {}", "a picture of a {}", "one or more of a {}", "an image with a {}")
_ENCODING = Encoding("JPEG", 256, 95)
# Share of images used for retrieval; the others show one kind and are classified.
_RETRIEVAL_SHARE = 0.6
_NAMED_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class EvalSet:
    """Counts of what `write_evalset` wrote."""

    images: int
    captions: int
    labels: int


def write_evalset(
    out: Path, seed: int, images: int, report: Callable[[int, int], None] = lambda done, total: None
) -> EvalSet:
    """Write the evaluation set of `images` images to `out`; the same arguments give the same bytes.

    Every retrieval image has a unique caption. *report* takes the number of images that are written, and of all. Raises
    ValueError for fewer than two images.
    """
    if images < 2:
        raise ValueError(f"An evaluation set needs at least two images, not {images}")
    rng = random.Random(f"evaluation {seed}")
    described = _scenes(rng, round(images * _RETRIEVAL_SHARE))
    classified = _single_scenes(rng, images - len(described))
    captions: list[tuple[str, str]] = []
    labels: list[tuple[str, str]] = []
    (out / "images").mkdir(parents=True, exist_ok=True)
    for number, scene in enumerate([*described, *classified]):
        image = f"images/{number:05d}.jpg"
        (out / image).write_bytes(render(scene, _ENCODING))
        if number < len(described):
            captions += [(image, caption) for caption in _captions(scene, rng)]
        else:
            labels.append((image, scene.groups[0].kind))
        report(number + 1, images)
    _write_csv(out / "captions.csv", ("image", "caption"), captions)
    _write_csv(out / "labels.csv", ("image", "label"), labels)
    _write_lines(out / "classes.txt", KINDS)
    _write_lines(out / "templates.txt", TEMPLATES)
    return EvalSet(images, len(captions), len(labels))


def _scenes(rng: random.Random, number: int) -> list[Scene]:
    """Return scenes of the evaluation split, all with different content."""
    scenes: dict[str, Scene] = {}
    while len(scenes) < number:
        scene = sample_scene(rng, "eval")
        scenes.setdefault(describe(scene), scene)
    return list(scenes.values())


def _single_scenes(rng: random.Random, number: int) -> list[Scene]:
    """Return scenes of one group, cycling through the kinds so that the classes have nearly equal size."""
    scenes: list[Scene] = []
    while len(scenes) < number:
        scene = sample_scene(rng, "eval")
        if len(scene.groups) == 1 and scene.groups[0].kind == KINDS[len(scenes) % len(KINDS)]:
            scenes.append(scene)
    return scenes


def _captions(scene: Scene, rng: random.Random) -> list[str]:
    """Return the canonical caption and a second one, with a proper name or in other words."""
    caption = describe(scene)
    if rng.random() < _NAMED_SHARE:
        return [caption, insert_name(caption, choose_name(rng.choice(scene.groups).kind, rng))]
    return [caption, rng.choice(("a picture of {}", "{}, nothing else", "this image shows {}")).format(caption)]


def _write_csv(path: Path, header: tuple[str, str], rows: Sequence[tuple[str, str]]) -> None:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([header, *rows])
    path.write_text(out.getvalue(), encoding="utf-8", newline="")


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="")
