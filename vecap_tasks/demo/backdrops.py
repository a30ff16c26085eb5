"""The eight grounds of the miniature web: one texture each, painted once and cropped for each image.

Textures are paler or grayer than any object's color, so that a green cat is visible on grass.
"""

from collections.abc import Callable
from functools import cache
from random import Random
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from vecap_tasks.demo.pen import Rgb

_SIDE: Final = 720
_VIEW: Final = 480
# Downscaling factors of the stored textures, so that small images are not cropped from a large texture.
_LEVELS: Final = (1, 2, 4)


def _noise(seed: int, cell: int) -> NDArray[np.float32]:
    """Return smooth noise of shape (side, side), zero mean, about unit range, with blobs of `cell` pixels."""
    random = np.random.Generator(np.random.PCG64(seed))
    coarse = random.integers(0, 256, (_SIDE // cell + 2, _SIDE // cell + 2), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    return np.asarray(smooth, dtype=np.float32) / 127.5 - 1.0


def _texture(color: Rgb, *layers: tuple[int, int, float]) -> Image.Image:
    """Return a flat color with layers of noise: (seed, blob size in pixels, strength in gray levels)."""
    level = np.zeros((_SIDE, _SIDE), np.float32)
    for seed, cell, strength in layers:
        level += strength * _noise(seed, cell)
    pixels = np.asarray(color, np.float32) + level[:, :, None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _sky(image: Image.Image, top: Rgb, low: Rgb, horizon: int) -> None:
    """Fill the rows above the horizon with a gradient."""
    share = np.linspace(0, 1, horizon, dtype=np.float32)[:, None, None]
    band = np.asarray(top, np.float32) * (1 - share) + np.asarray(low, np.float32) * share
    image.paste(Image.fromarray(np.repeat(band, _SIDE, axis=1).astype(np.uint8)), (0, 0))


def _clouds(image: Image.Image, rng: Random, horizon: int) -> None:
    layer = Image.new("L", image.size, 0)
    pen = ImageDraw.Draw(layer)
    for _ in range(7):
        x, y = rng.randrange(_SIDE), rng.randrange(40, horizon - 20)
        for _ in range(5):
            dx, dy, r = rng.randint(-40, 40), rng.randint(-8, 8), rng.randint(14, 26)
            pen.ellipse((x + dx - 1.6 * r, y + dy - r / 2, x + dx + 1.6 * r, y + dy + r / 2), fill=170)
    image.paste((255, 255, 255), (0, 0), layer.filter(ImageFilter.GaussianBlur(5)))


def _grass() -> Image.Image:
    image, rng = _texture((158, 192, 122), (1, 60, 9), (2, 7, 5)), Random(1)
    pen = ImageDraw.Draw(image)
    for _ in range(2600):
        x, y = rng.randrange(_SIDE), rng.randrange(200, _SIDE)
        height = 5 + (y - 200) // 36
        shade = rng.choice(((134, 174, 100), (178, 206, 140), (144, 182, 112)))
        pen.line((x, y, x + rng.randint(-4, 4), y - height), fill=shade, width=3)
    _sky(image, (186, 214, 236), (226, 238, 242), 200)
    _clouds(image, rng, 180)
    return image


def _sand() -> Image.Image:
    image, rng = _texture((229, 208, 166), (3, 50, 7), (4, 3, 7)), Random(2)
    pen = ImageDraw.Draw(image)
    for row in range(230, _SIDE, 34):
        points = [(x, row + 7 * np.sin(x / 42 + row) + rng.randint(-2, 2)) for x in range(0, _SIDE + 20, 20)]
        pen.line(points, fill=(214, 190, 146), width=5, joint="curve")
    _sky(image, (206, 226, 238), (244, 236, 220), 190)
    return image


def _snow() -> Image.Image:
    image, rng = _texture((226, 232, 240), (5, 90, 8), (6, 20, 4)), Random(3)
    _sky(image, (186, 196, 212), (212, 220, 230), 230)
    pen = ImageDraw.Draw(image)
    for x, y, r in ((90, 300, 170), (420, 330, 210), (690, 300, 160)):
        pen.ellipse((x - r, y - r / 2, x + r, y + r / 2), fill=(226, 232, 240))
    for _ in range(420):
        x, y, r = rng.randrange(_SIDE), rng.randrange(_SIDE), rng.randint(2, 5)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=(252, 253, 255))
    return image


def _water() -> Image.Image:
    image, rng = _texture((126, 190, 206), (7, 80, 9)), Random(4)
    pen = ImageDraw.Draw(image)
    for _ in range(330):
        x, y = rng.randrange(-20, _SIDE), rng.randrange(190, _SIDE)
        width = 14 + (y - 190) // 9
        shade = rng.choice(((164, 214, 224), (106, 172, 192), (186, 226, 232)))
        pen.arc((x, y, x + width, y + width * 0.3), 200, 340, fill=shade, width=4)
    _sky(image, (214, 228, 238), (246, 240, 228), 170)
    return image


def _road() -> Image.Image:
    image = _texture((142, 142, 148), (8, 60, 6), (9, 2, 10))
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 168, _SIDE, 208), fill=(188, 184, 176))
    for x in range(0, _SIDE, 60):
        pen.line((x, 168, x - 10, 208), fill=(160, 156, 150), width=3)
    for x in range(-40, _SIDE, 150):
        pen.polygon([(x, 430), (x + 86, 430), (x + 80, 450), (x - 8, 450)], fill=(226, 226, 222))
    _sky(image, (200, 210, 222), (226, 228, 230), 168)
    for x, height in ((20, 90), (150, 60), (280, 110), (430, 70), (560, 100)):
        pen.rectangle((x, 168 - height, x + 96, 168), fill=(178, 184, 194))
    return image


def _wood() -> Image.Image:
    image, rng = _texture((198, 162, 122), (10, 40, 5)), Random(6)
    pen = ImageDraw.Draw(image)
    for index, row in enumerate(range(170, _SIDE, 58)):
        tone = rng.randint(-12, 12)
        pen.rectangle((0, row, _SIDE, row + 58), fill=(198 + tone, 162 + tone, 122 + tone))
        for _ in range(12):
            x, y, length = rng.randrange(_SIDE), row + rng.randint(6, 52), rng.randint(30, 120)
            pen.line((x, y, x + length, y), fill=(184 + tone, 148 + tone, 108 + tone), width=3)
        pen.line((0, row, _SIDE, row), fill=(146, 112, 78), width=5)
        for x in range(90 + 130 * (index % 3), _SIDE, 330):
            pen.line((x, row, x, row + 58), fill=(146, 112, 78), width=5)
    pen.rectangle((0, 0, _SIDE, 150), fill=(232, 226, 212))
    for x in range(20, _SIDE, 48):
        pen.line((x, 0, x, 150), fill=(222, 214, 198), width=10)
    pen.rectangle((0, 150, _SIDE, 170), fill=(248, 246, 240))
    return image


def _brick() -> Image.Image:
    image, rng = _texture((214, 206, 198), (11, 3, 8)), Random(7)
    pen = ImageDraw.Draw(image)
    for index, row in enumerate(range(0, _SIDE, 44)):
        for x in range(-96 + 48 * (index % 2), _SIDE, 96):
            tone = rng.randint(-14, 14)
            pen.rectangle((x, row, x + 88, row + 37), fill=(186 + tone, 132 + tone, 116 + tone))
    pen.rectangle((0, 610, _SIDE, _SIDE), fill=(190, 188, 184))
    pen.line((0, 610, _SIDE, 610), fill=(150, 146, 142), width=6)
    return image


def _night() -> Image.Image:
    image, rng = _texture((52, 58, 92), (12, 90, 6)), Random(8)
    _sky(image, (34, 38, 72), (88, 92, 134), _SIDE)
    pen = ImageDraw.Draw(image)
    for _ in range(190):
        x, y, r = rng.randrange(_SIDE), rng.randrange(600), rng.choice((1.5, 2, 2, 3.5))
        pen.ellipse((x - r, y - r, x + r, y + r), fill=(240, 238, 214))
    for x, y, r in ((90, 740, 190), (380, 760, 240), (660, 740, 180)):
        pen.ellipse((x - r, y - r / 2, x + r, y + r / 2), fill=(40, 50, 66))
    return image


_PAINTERS: Final[dict[str, Callable[[], Image.Image]]] = {
    "on grass": _grass,
    "on sand": _sand,
    "in snow": _snow,
    "on water": _water,
    "on a road": _road,
    "on a wooden floor": _wood,
    "in front of a brick wall": _brick,
    "under a night sky": _night,
}


@cache
def _levels(ground: str) -> tuple[Image.Image, ...]:
    texture = _PAINTERS[ground]()
    return tuple(texture.reduce(level) if level > 1 else texture for level in _LEVELS)


def backdrop(ground: str, size: int, rng: Random) -> Image.Image:
    """Return a view of the ground, RGB, `size` by `size` pixels, with random position, zoom, flip and brightness."""
    side = _VIEW * rng.uniform(0.9, 1.3)
    left, top = rng.uniform(0, _SIDE - side), rng.uniform(0, (_SIDE - side) * 0.8)
    mirrored, light = rng.random() < 0.5, rng.uniform(0.93, 1.05)
    index = max((i for i, level in enumerate(_LEVELS) if side / level >= size), default=0)
    level = _LEVELS[index]
    box = (left / level, top / level, (left + side) / level, (top + side) / level)
    view = _levels(ground)[index].resize((size, size), Image.Resampling.BILINEAR, box=box)
    if mirrored:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return view.point(lambda value: min(255, round(value * light)))
