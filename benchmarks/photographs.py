"""Synthetic photographs, so that image measures are reproducible."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

_GRAIN = 4.0  # of a sensor, gray levels


def photograph(number: int, size: tuple[int, int]) -> Image.Image:
    """Return the image *number*, deterministic: large soft shapes, finer ones on top, edges, grain."""
    random = np.random.default_rng(number)
    width, height = size
    image = np.full((height, width, 3), 128, np.float32)
    cells = 3
    while cells < min(size) / 2:
        coarse = random.normal(0, 120 / cells**0.7, (cells * height // width + 1, cells, 3)).clip(-127, 127)
        layer = Image.fromarray((coarse + 128).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
        image += np.asarray(layer, np.float32) - 128
        cells *= 2
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    for _ in range(6):
        a, b, c = random.normal(0, 1, 3)
        image[a * (rows - height / 2) + b * (columns - width / 2) > c * height / 4] += random.normal(0, 25, 3)
    image += random.normal(0, _GRAIN, (height, width, 1))
    return Image.fromarray(image.clip(0, 255).astype(np.uint8))


def as_jpeg(image: Image.Image, quality: int = 85) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()
