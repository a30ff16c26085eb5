"""Pixels of any kind to sRGB: 16 bits to 8, palettes resolved, transparency laid on white, profiles applied."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

from vecap_tasks.crawl.failure import Failure

_SRGB = ImageCms.createProfile("sRGB")
_MODES = ("L", "RGB", "CMYK", "LA", "RGBA")
_WORDS = ("I;16", "I;16L", "I;16B", "I;16N")
_PROFILES = 64  # transforms kept: the web has few profiles, and to make a transform takes longer than to apply it
_SAME = 2  # of 255: how far from sRGB a profile may lead for its picture to be taken as sRGB
_PROBE = np.stack(np.meshgrid(*[np.arange(0, 256, 51)] * 3), axis=-1).reshape(36, 6, 3).astype(np.uint8)


def flat(image: Image.Image) -> Image.Image:
    """Return *image* in one of the modes L, RGB, CMYK, LA and RGBA. Raises Failure for pixels that are no colours."""
    if image.mode in _WORDS:
        return _bytes(image)
    if image.mode in ("I", "F", "LAB"):
        raise Failure("unsupported", {"I": "32-bit", "F": "floating point", "LAB": "CIELAB"}[image.mode] + " pixels")
    if image.has_transparency_data:
        return image if image.mode in ("LA", "RGBA") else image.convert("RGBA")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in _MODES else image.convert("RGB")


def _bytes(image: Image.Image) -> Image.Image:
    """Return 16-bit grey as 8-bit; where one of its values stands for transparency, with alpha."""
    words = np.asarray(image)
    grey = Image.fromarray(((words.astype(np.uint32) + 128) // 257).astype(np.uint8))
    hole = image.info.get("transparency")
    if not isinstance(hole, int):
        return grey
    return Image.merge("LA", (grey, Image.fromarray(np.where(words == hole, 0, 255).astype(np.uint8))))


def on_white(image: Image.Image) -> Image.Image:
    """Return *image* (a mode of `flat`) without alpha."""
    if image.mode not in ("LA", "RGBA"):
        return image
    layer = image.convert("RGBA")
    ground = Image.new("RGBA", layer.size, "white")
    ground.alpha_composite(layer)
    return ground.convert(image.mode.removesuffix("A"))


def srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return *image* (L, RGB or CMYK) as RGB in sRGB, through the ICC *profile* that it came with.

    A profile that cannot be used, or is for other channels, counts for nothing, as in browsers. CMYK without a profile
    is converted as ink on white.
    """
    transform = _transform(profile, image.mode) if profile else None
    if transform is None:
        return image.convert("RGB")
    return ImageCms.applyTransform(image, transform) or image.convert("RGB")


@lru_cache(maxsize=_PROFILES)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return what brings *mode* to sRGB; None for a profile of no use, and for one that is sRGB.

    Transforms have no state, so that threads share them.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, _SRGB, mode, "RGB")
        if mode != "RGB":
            return transform
        shown = ImageCms.applyTransform(Image.fromarray(_PROBE), transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    apart = np.abs(np.asarray(shown).astype(int) - _PROBE).max()
    return transform if apart > _SAME else None
