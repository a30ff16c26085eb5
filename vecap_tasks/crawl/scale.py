"""Pixels of the wanted size, upright or not, in sRGB on white.

Two ways lead there. `fine` decodes down to one and a half times the wanted size at most and filters the rest, which
keeps as much of a picture as an area filter over all of it. `fast` is for JPEGs, of which the web is full: libjpeg
scales by eighths while it decodes, so that little is left to do. benchmarks/decode.py has what both cost and keep.
"""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from vecap_tasks.config import ImageConfig
from vecap_tasks.crawl.colour import flat, on_white, srgb

# libjpeg halves a picture while it decodes, and others are averaged over whole pixels, as long as this many times the
# wanted size is left for the filter.
_GAP = 1.5
_FILTER = Image.Resampling.HAMMING
_SPACES = {"RGB": "RGB", "L": "GRAY"}
_MOST_BY_CUBIC = 1.5  # a cubic filter leaves out pixels of a picture that is made smaller than by this

cv2.setNumThreads(1)  # shards are decoded side by side; threads of its own would only get in their way


def scaled(image: Image.Image, body: bytes, config: ImageConfig) -> Image.Image:
    """Return the first frame of *image*, which was opened from *body*, its shorter side `config.size` or less."""
    target = _target(image.size, config.size)
    if config.scaling == "fast" and image.format == "JPEG" and image.mode in _SPACES and target != image.size:
        pixels = _by_eighths(body, _SPACES[image.mode], target)
        if pixels is not None:
            return srgb(Image.fromarray(pixels), image.info.get("icc_profile"))
    return _filtered(image, target)


def _by_eighths(body: bytes, space: str, target: tuple[int, int]) -> np.ndarray | None:
    """Return the pixels [height, width(, 3)], None where the JPEG is not in order: Pillow then says what it lacks."""
    width, height = target
    try:
        pixels = simplejpeg.decode_jpeg(body, space, min_height=height, min_width=width, min_factor=1)
    except ValueError:
        return None
    if space == "GRAY":
        pixels = pixels[:, :, 0]
    by = cv2.INTER_CUBIC if pixels.shape[1] <= _MOST_BY_CUBIC * width else cv2.INTER_AREA
    return np.asarray(cv2.resize(pixels, target, interpolation=by))


def _filtered(image: Image.Image, target: tuple[int, int]) -> Image.Image:
    smaller = target != image.size
    if image.format in ("JPEG", "MPO") and smaller:
        image.draft(None, (int(_GAP * target[0]), int(_GAP * target[1])))
    image.load()
    profile = image.info.get("icc_profile")
    picture = flat(image)
    if smaller:
        turned = (picture.width < picture.height) != (target[0] < target[1])  # a TIFF is turned when it is loaded
        picture = picture.resize(target[::-1] if turned else target, _FILTER, reducing_gap=_GAP)
    return srgb(on_white(picture), profile)


def _target(size: tuple[int, int], short: int) -> tuple[int, int]:
    """Return *size* with a shorter side of *short*, or as it is where that is no smaller."""
    if min(size) <= short:
        return size
    other = max(1, round(max(size) * short / min(size)))
    return (short, other) if size[0] <= size[1] else (other, short)
