"""A perceptual hash: 64 bits that survive scaling, recompression and small changes of an image."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

_SIDE = 32
_LOW = 8
_SCALE = 1 << 12
# The first rows of the DCT-II of 32 points in whole numbers: sums of them are exact in float64, in whatever order they
# are added, so that a coefficient that is zero by symmetry has no rounding error that would decide its bit.
_COSINES = np.rint(
    _SCALE * np.cos(np.pi / _SIDE * np.outer(np.arange(_LOW), np.arange(_SIDE) + 0.5)) * np.sqrt(2 / _SIDE)
)
# Of the median of all coefficients, in gray levels. Where half of them are no larger than what JPEG and rounding
# leave on an even ground, half of the bits say nothing.
_NOISE = 1.5


def phash(pixels: np.ndarray) -> str | None:
    """Return the hash of *pixels* (RGB, uint8 [height, width, 3]) as 16 hex digits, most significant first; None for a
    picture too flat."""
    gray = Image.fromarray(np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)))
    small = gray.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC, reducing_gap=2)
    low = _COSINES @ np.asarray(small, np.float64) @ _COSINES.T
    if _median(np.abs(low)) < _NOISE * _SCALE * _SCALE:
        return None
    return np.packbits(low > _median(low)).tobytes().hex()


def _median(values: np.ndarray) -> float:
    """Return what np.median does of 64 values; for so few most of its time is preparation."""
    ordered = np.sort(values, axis=None)
    return float(ordered[31] + ordered[32]) / 2
