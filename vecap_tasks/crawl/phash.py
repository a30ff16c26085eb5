"""A perceptual hash: 64 bits that stay nearly the same when a picture is scaled, recompressed or slightly changed.

The pHash of Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010), in the form that the
package imagehash gave currency: 32x32 grey, a DCT, its 8x8 lowest frequencies, each against their median.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

_SIDE = 32
_LOW = 8
_SCALE = 1 << 12
# The first rows of the DCT-II of 32 points in whole numbers: sums of them are exact, so that a coefficient that is
# zero by symmetry has no rounding error that would decide its bit, on whatever processor.
_COSINES = np.rint(
    _SCALE * np.cos(np.pi / _SIDE * np.outer(np.arange(_LOW), np.arange(_SIDE) + 0.5)) * np.sqrt(2 / _SIDE)
).astype(np.int64)
# Of the median of all coefficients, in grey levels. Where half of them are no larger than what JPEG and rounding
# leave on an even ground, half of the bits say nothing.
_NOISE = 1.5


def phash(image: Image.Image) -> str | None:
    """Return the hash of *image* (RGB) as 16 hex digits, most significant first; None for a picture too flat."""
    grey = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BICUBIC, reducing_gap=2)
    low = _COSINES @ np.asarray(grey, np.int64) @ _COSINES.T
    if np.median(np.abs(low)) < _NOISE * _SCALE * _SCALE:
        return None
    return np.packbits(low > np.median(low)).tobytes().hex()
