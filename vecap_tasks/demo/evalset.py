"""Held-out evaluation set of the miniature web: images of scenes that occur in no crawl and no training set.

    images/<number>.jpg    images, 256 pixels per side
    captions.csv           header `image,caption`; one caption per row, two rows per image; for retrieval
    names.csv              the same images, one caption each that names the varieties: "a Marlow terrier on grass"
    labels.csv             header `image,label`; images of one kind of object; for zero-shot classification
    varieties.csv          the same images, labeled with the head noun of their variety: "terrier"
    classes.txt            labels of labels.csv, one per line, including those that do not occur
    varieties.txt          labels of varieties.csv
    templates.txt          one template per line, with `{}` as the class placeholder

`image` is a path relative to the folder. The files are UTF-8 with \n at line ends.
"""

import csv
import io
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vecap_tasks.demo.names import HEADS, choose_name
from vecap_tasks.demo.pictures import Encoding, render
from vecap_tasks.demo.scene import KINDS, Scene, describe, sample_scene, sample_single
from vecap_tasks.demo.varieties import VARIETIES_PER_KIND, varieties, with_variety

TEMPLATES = ("a {}", "a photo of a {}", "a picture of a {}", "one or more of a {}", "an image with a {}")
_ENCODING = Encoding("JPEG", 256, 95)
# With the 1,080 of these that are classified, an interval of zero-shot accuracy is at most 3 points to each side.
EVALUATION_IMAGES = 1440
# Share of images used for retrieval; the others show one kind and are classified.
_RETRIEVAL_SHARE = 0.25


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
    named: list[tuple[str, str]] = []
    labels: list[tuple[str, str]] = []
    heads: list[tuple[str, str]] = []
    (out / "images").mkdir(parents=True, exist_ok=True)
    for number, scene in enumerate([*described, *classified]):
        image = f"images/{number:05d}.jpg"
        (out / image).write_bytes(render(scene, _ENCODING))
        if number < len(described):
            captions += [(image, caption) for caption in _captions(scene, rng)]
            named.append((image, _named_caption(scene, rng)))
        else:
            kind = scene.groups[0].kind
            labels.append((image, kind))
            heads.append((image, HEADS[kind][varieties(scene)[0]]))
        report(number + 1, images)
    _write_csv(out / "captions.csv", ("image", "caption"), captions)
    _write_csv(out / "names.csv", ("image", "caption"), named)
    _write_csv(out / "labels.csv", ("image", "label"), labels)
    _write_csv(out / "varieties.csv", ("image", "label"), heads)
    _write_lines(out / "classes.txt", KINDS)
    _write_lines(out / "varieties.txt", [head for kind in KINDS for head in HEADS[kind]])
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
    """Return scenes of one group, cycling through kinds and varieties so that the classes have nearly equal size."""
    return [
        with_variety(sample_single(rng, KINDS[index % len(KINDS)], "eval"), index // len(KINDS) % VARIETIES_PER_KIND)
        for index in range(number)
    ]


def _captions(scene: Scene, rng: random.Random) -> list[str]:
    """Return the canonical caption, and the same in other words."""
    caption = describe(scene)
    return [caption, rng.choice(("a picture of {}", "{}, nothing else", "this image shows {}")).format(caption)]


def _named_caption(scene: Scene, rng: random.Random) -> str:
    """Return a caption as on a web page: a name for each group, and neither kind, color nor number."""
    names = [
        choose_name(group.kind, rng, variety).text
        for group, variety in zip(scene.groups, varieties(scene), strict=True)
    ]
    phrases = [f"{'an' if name[0] in 'AEIOU' else 'a'} {name}" for name in names]
    return f"{f' {scene.relation} '.join(phrases)} {scene.ground}"


def _write_csv(path: Path, header: tuple[str, str], rows: Sequence[tuple[str, str]]) -> None:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([header, *rows])
    path.write_text(out.getvalue(), encoding="utf-8", newline="")


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="")
