"""Perceptual hash: 64 bits that survive scaling, recompression and small changes of an image."""

from __future__ import annotations

import cv2
import numpy as np

_SIDE = 32
_LOW = 8
# Averaging all pixels takes three times as long as first interpolating to this side, which changes few bits up to the
# ratio.
_MIDDLE = 128
_MAX_LINEAR_RATIO = 3
_SCALE = 1 << 12
# The first rows of a 32-point DCT-II in integers. Their sums are exact in float64 in any order, so that coefficients
# that are zero by symmetry have no rounding error that would decide their bit.
_COSINES = np.rint(
    _SCALE * np.cos(np.pi / _SIDE * np.outer(np.arange(_LOW), np.arange(_SIDE) + 0.5)) * np.sqrt(2 / _SIDE)
)
# Minimum median of the absolute coefficients, in gray levels. Below it, half of the bits are JPEG and rounding noise.
_NOISE = 1.5


def phash(pixels: np.ndarray) -> str | None:
    """Return the hash of *pixels* (RGB, uint8 [height, width, 3]) as 16 hex digits, most significant first; None for
    flat images."""
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    if max(gray.shape) <= _MAX_LINEAR_RATIO * _MIDDLE:
        gray = cv2.resize(gray, (_MIDDLE, _MIDDLE), interpolation=cv2.INTER_LINEAR)
    small = cv2.resize(gray, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    low = _COSINES @ np.asarray(small, np.float64) @ _COSINES.T
    if _median(np.abs(low)) < _NOISE * _SCALE * _SCALE:
        return None
    return np.packbits(low > _median(low)).tobytes().hex()


def _median(values: np.ndarray) -> float:
    """Return the median of 64 values, faster than np.median."""
    ordered = np.sort(values, axis=None)
    return float(ordered[31] + ordered[32]) / 2
