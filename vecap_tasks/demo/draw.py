"""Draws a scene: layout and image of its objects."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Final

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from vecap_tasks.demo.animals_plants import ANIMALS, PLANTS
from vecap_tasks.demo.backdrops import backdrop
from vecap_tasks.demo.objects import THINGS, VEHICLES
from vecap_tasks.demo.pen import PAINTS, UNITS, Drawing, Pen
from vecap_tasks.demo.scene import COLORS, KINDS, Scene

DRAWINGS: Final[dict[str, Drawing]] = ANIMALS | VEHICLES | PLANTS | THINGS
_SUPERSAMPLE: Final = 3
# Share of the sprite's side that the drawing takes; the rest is margin for outline and shadow.
DRAWN_SHARE: Final = 0.86


def sprite(kind: str, color: str, side: int) -> Image.Image:
    """Return one object, RGBA, `side` by `side` pixels: drawing, outline and soft shadow, transparent elsewhere."""
    drawn = round(side * DRAWN_SHARE)
    large = drawn * _SUPERSAMPLE
    paint = PAINTS[color]
    image = Image.new("RGBA", (large, large), (*paint.base, 0))
    DRAWINGS[kind](Pen(ImageDraw.Draw(image), large / UNITS), paint)
    margin = (side - drawn) // 2
    canvas = Image.new("RGBA", (side, side), (*paint.base, 0))
    canvas.paste(image.reduce(_SUPERSAMPLE), (margin, margin))
    body = canvas.getchannel("A")

    lit = Image.linear_gradient("L").resize((side, side)).point(lambda level: 255 - level // 7)
    shaded = ImageChops.multiply(canvas.convert("RGB"), Image.merge("RGB", (lit, lit, lit)))
    edge = body.filter(ImageFilter.GaussianBlur(side * 0.014)).point(lambda level: min(255, level * 5))
    edge = ImageChops.lighter(edge, body)
    shadow = ImageChops.offset(edge, round(side * 0.015), round(side * 0.03))
    shadow = shadow.filter(ImageFilter.GaussianBlur(side * 0.02)).point(lambda level: level * 2 // 5)

    result = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    result.putalpha(shadow)
    outline = Image.new("RGBA", (side, side), (*paint.line, 0))
    outline.putalpha(edge)
    result = Image.alpha_composite(result, outline)
    shaded.putalpha(body)
    return Image.alpha_composite(result, shaded)


# Sides in pixels of the cached sprites; each object is scaled down from the next larger one.
_SPRITE_SIDES: Final = (40, 56, 80, 112, 160, 224)


@dataclass(frozen=True, slots=True)
class Placement:
    """Position of one object of group `group`: center and side relative to the image side, rotation in degrees."""

    group: int
    x: float
    y: float
    side: float
    angle: float
    mirrored: bool


def draw(scene: Scene, size: int) -> Image.Image:
    """Return the scene as an RGB image of `size` by `size` pixels."""
    image = backdrop(scene.ground, size, Random(scene.layout_seed ^ 0x5EED))
    for placement in layout(scene):
        group = scene.groups[placement.group]
        _stamp(image, group.kind, group.color, placement)
    return image


def _stamp(image: Image.Image, kind: str, color: str, at: Placement) -> None:
    """Paste one object, rotated and mirrored."""
    side = at.side * image.width
    source = _sprite(kind, color, next((s for s in _SPRITE_SIDES if s >= side), _SPRITE_SIDES[-1]))
    half = math.ceil(side * 0.56)
    scale = source.width / side
    cos, sin = math.cos(math.radians(at.angle)) * scale, math.sin(math.radians(at.angle)) * scale
    flip = -1 if at.mirrored else 1
    left, top = round(at.x * image.width) - half, round(at.y * image.width) - half
    middle = source.width / 2
    # Maps each output pixel back to the sprite, relative to the center.
    matrix = (
        flip * cos,
        flip * sin,
        middle - flip * (cos + sin) * half,
        -sin,
        cos,
        middle - (cos - sin) * half,
    )
    stamp = source.transform((2 * half, 2 * half), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    image.paste(stamp, (left, top), stamp)


@lru_cache(maxsize=4 * len(KINDS) * len(COLORS))
def _sprite(kind: str, color: str, side: int) -> Image.Image:
    return sprite(kind, color, side)


def layout(scene: Scene) -> tuple[Placement, ...]:
    """Return the placement of each object. Two groups take opposite halves, so that their relation is unambiguous."""
    rng = Random(scene.layout_seed)
    counts = tuple(group.count for group in scene.groups)
    if scene.relation is None:
        return tuple(_place(rng, 0, x, y, side) for x, y, side in _single_group(rng, counts[0]))
    upright = scene.relation in ("to the left of", "to the right of")
    first_is_low = scene.relation in ("to the left of", "above")
    placements = []
    for index, count in enumerate(counts):
        across = 0.26 if (index == 0) == first_is_low else 0.74
        for along, off, side in _half(rng, count):
            x, y = (across + off, along) if upright else (along, across + off)
            placements.append(_place(rng, index, x, y, side))
    return tuple(placements)


def _place(rng: Random, group: int, x: float, y: float, side: float) -> Placement:
    """Rotate and mirror at random, and keep the object inside the image."""
    margin = side / 2
    return Placement(
        group=group,
        x=min(max(x, margin), 1 - margin),
        y=min(max(y, margin), 1 - margin),
        side=side,
        angle=rng.uniform(-9, 9),
        mirrored=rng.random() < 0.5,
    )


def _single_group(rng: Random, count: int) -> list[tuple[float, float, float]]:
    """Return the centers and sides of the objects of a scene with one group."""
    if count == 1:
        side = rng.uniform(0.45, 0.75)
        return [(rng.uniform(0.35, 0.65), rng.uniform(0.35, 0.65), side)]
    side = rng.uniform(0.36, 0.46) if count == 2 else rng.uniform(0.32, 0.4)
    if count == 2:
        angle = rng.uniform(0, math.pi)
        radius = 0.26
        return [(0.5 + s * radius * math.cos(angle), 0.5 + s * radius * math.sin(angle), side) for s in (-1, 1)]
    if rng.random() < 0.5:
        angle = rng.uniform(0, 2 * math.pi)
        angles = [angle + step * 2 * math.pi / 3 for step in range(3)]
        return [(0.5 + 0.27 * math.cos(a), 0.5 + 0.27 * math.sin(a), side) for a in angles]
    side, line = min(side, 0.33), rng.uniform(0.3, 0.7)
    return [((2 * step + 1) / 6, line + rng.uniform(-0.12, 0.12), side) for step in range(3)]


def _half(rng: Random, count: int) -> list[tuple[float, float, float]]:
    """Return, for the objects of one of two groups: position along their half, offset across it, and side."""
    if count == 1:
        return [(rng.uniform(0.36, 0.64), rng.uniform(-0.02, 0.02), rng.uniform(0.38, 0.48))]
    side, step = (rng.uniform(0.34, 0.44), 0.48) if count == 2 else (rng.uniform(0.31, 0.34), 0.335)
    return [
        (
            0.5 + step * (index - (count - 1) / 2) + rng.uniform(-0.01, 0.01),
            rng.uniform(-0.07, 0.07),
            side,
        )
        for index in range(count)
    ]
