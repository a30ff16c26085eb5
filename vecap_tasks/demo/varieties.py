"""Varieties: the four looks of each kind, which differ in shape, marking or part.

A variety is an index (0 to 3) into the looks of its kind, and into the head nouns of its proper names (`names.HEADS`).
Images show it, and AltText with a name tells it; captions of the VLM name the kind only. The variety of a group follows
from the layout seed, like everything else that the canonical caption does not mention.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Final, Literal

from PIL import Image, ImageChops, ImageDraw

from vecap_tasks.demo.pen import UNITS, Paint, Pen
from vecap_tasks.demo.scene import Scene

Look = Literal["plain", "tall", "squat", "striped", "spotted", "banded", "badge", "pennant"]

VARIETIES_PER_KIND: Final = 4
_STRETCHED: Final = 0.62  # share of the width of a tall object, and of the height of a squat one

# Kind -> looks, in the order of the kind's head nouns.
LOOKS: Final[dict[str, tuple[Look, Look, Look, Look]]] = {
    "cat": ("striped", "plain", "squat", "badge"),
    "dog": ("plain", "spotted", "badge", "tall"),
    "rabbit": ("tall", "spotted", "plain", "badge"),
    "elephant": ("badge", "spotted", "plain", "squat"),
    "bird": ("plain", "striped", "spotted", "tall"),
    "owl": ("plain", "striped", "squat", "badge"),
    "fish": ("plain", "striped", "badge", "squat"),
    "turtle": ("banded", "plain", "tall", "pennant"),
    "snail": ("tall", "plain", "badge", "spotted"),
    "butterfly": ("spotted", "striped", "squat", "badge"),
    "car": ("striped", "squat", "pennant", "plain"),
    "bus": ("plain", "tall", "striped", "badge"),
    "truck": ("plain", "banded", "pennant", "tall"),
    "train": ("striped", "plain", "badge", "squat"),
    "bicycle": ("squat", "pennant", "plain", "striped"),
    "boat": ("plain", "pennant", "squat", "banded"),
    "plane": ("plain", "striped", "tall", "badge"),
    "rocket": ("banded", "plain", "badge", "tall"),
    "tree": ("squat", "plain", "banded", "pennant"),
    "cactus": ("plain", "striped", "squat", "badge"),
    "flower": ("tall", "striped", "plain", "badge"),
    "mushroom": ("plain", "banded", "squat", "badge"),
    "apple": ("striped", "plain", "tall", "badge"),
    "carrot": ("plain", "tall", "badge", "banded"),
    "house": ("plain", "banded", "squat", "pennant"),
    "castle": ("tall", "plain", "pennant", "spotted"),
    "tent": ("tall", "banded", "plain", "pennant"),
    "chair": ("spotted", "plain", "badge", "tall"),
    "lamp": ("badge", "plain", "tall", "striped"),
    "clock": ("plain", "squat", "pennant", "spotted"),
    "cup": ("plain", "striped", "tall", "badge"),
    "teapot": ("pennant", "plain", "spotted", "squat"),
    "bottle": ("plain", "squat", "striped", "badge"),
    "guitar": ("plain", "striped", "squat", "badge"),
    "drum": ("squat", "plain", "spotted", "pennant"),
    "umbrella": ("spotted", "plain", "pennant", "squat"),
    "hat": ("banded", "plain", "tall", "badge"),
    "shoe": ("plain", "spotted", "badge", "squat"),
    "kite": ("plain", "tall", "striped", "badge"),
    "key": ("plain", "squat", "badge", "banded"),
}


def varieties(scene: Scene) -> tuple[int, ...]:
    """Return the variety of each group, 0 to 3, all equally frequent."""
    rng = random.Random(scene.layout_seed ^ 0xF0CA1)
    return tuple(rng.randrange(VARIETIES_PER_KIND) for _ in scene.groups)


def with_variety(scene: Scene, variety: int) -> Scene:
    """Return the scene with the next layout in which the first group has this variety."""
    while varieties(scene)[0] != variety:
        scene = replace(scene, layout_seed=scene.layout_seed + 1)
    return scene


def shape(image: Image.Image, look: Look, paint: Paint) -> Image.Image:
    """Return a drawing, RGBA, made narrower or lower within the same square."""
    if look not in ("tall", "squat"):
        return image
    short = round(image.width * _STRETCHED)
    size = (short, image.height) if look == "tall" else (image.width, short)
    result = Image.new("RGBA", image.size, (*paint.base, 0))
    result.paste(image.resize(size, Image.Resampling.BILINEAR), ((image.width - size[0]) // 2, image.height - size[1]))
    return result


def mark(image: Image.Image, look: Look, paint: Paint) -> Image.Image:
    """Return a drawing, RGBA, with the marking or part of the *look*."""
    overlay = Image.new("RGBA", image.size, (*paint.dark, 0))
    pen = Pen(ImageDraw.Draw(overlay), image.width / UNITS)
    if look == "badge":
        pen.oval(paint.ink, 50, 56, 21)
        pen.oval(paint.light, 50, 56, 15)
        pen.oval(paint.ink, 50, 56, 6)
    elif look == "pennant":
        pen.line(paint.ink, 5, (50, 2), (50, 44))
        pen.poly(paint.light, (52, 2), (96, 16), (52, 32))
        pen.line(paint.ink, 3, (52, 2), (96, 16), (52, 32))
    elif look in ("striped", "spotted", "banded"):
        if look == "striped":
            for x in range(-90, 110, 24):
                pen.line(paint.dark, 10, (x, 102), (x + 100, -2))
        elif look == "spotted":
            for row, y in enumerate(range(6, 100, 18)):
                for x in range(6 + 12 * (row % 2), 106, 24):
                    pen.oval(paint.dark, x, y, 6.5)
        else:
            for y in (24, 52, 80):
                pen.box(paint.dark, 0, y, 100, y + 13)
        overlay.putalpha(ImageChops.darker(overlay.getchannel("A"), image.getchannel("A")))
    return Image.alpha_composite(image, overlay)
