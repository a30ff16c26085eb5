"""Pictures made as photographs are, so that a measure of them can be repeated anywhere."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

_GRAIN = 4.0  # of a sensor, gray levels


def photograph(number: int, size: tuple[int, int]) -> Image.Image:
    """Return the picture *number*, the same at each call: large soft shapes, finer ones upon them, edges, grain."""
    random = np.random.default_rng(number)
    width, height = size
    picture = np.full((height, width, 3), 128, np.float32)
    cells = 3
    while cells < min(size) / 2:
        coarse = random.normal(0, 120 / cells**0.7, (cells * height // width + 1, cells, 3)).clip(-127, 127)
        layer = Image.fromarray((coarse + 128).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
        picture += np.asarray(layer, np.float32) - 128
        cells *= 2
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    for _ in range(6):
        a, b, c = random.normal(0, 1, 3)
        picture[a * (rows - height / 2) + b * (columns - width / 2) > c * height / 4] += random.normal(0, 25, 3)
    picture += random.normal(0, _GRAIN, (height, width, 1))
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def as_jpeg(picture: Image.Image, quality: int = 85) -> bytes:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    return out.getvalue()
