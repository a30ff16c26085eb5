"""Pixels of the wanted size in sRGB on white: bit depth, palettes, transparency, color profiles."""

from __future__ import annotations

import io
from functools import lru_cache

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageCms

from vecap_tasks.config import ImageConfig
from vecap_tasks.errors import Failure

_SRGB = ImageCms.createProfile("sRGB")
_MODES = ("L", "RGB", "CMYK", "LA", "RGBA")
_WORDS = ("I;16", "I;16L", "I;16B", "I;16N")
_PROFILES = 64  # transforms kept: the web has few profiles, and to make a transform takes longer than to apply it
_SAME = 2  # of 255: how far from sRGB a profile may lead for its picture to be taken as sRGB
_PROBE = np.stack(np.meshgrid(*[np.arange(0, 256, 51)] * 3), axis=-1).reshape(36, 6, 3).astype(np.uint8)
# libjpeg halves a picture while it decodes, and others are averaged over whole pixels, as long as this many times the
# wanted size is left for the filter.
_GAP = 1.5
_FILTER = Image.Resampling.HAMMING
_SPACES = {"RGB": "RGB", "L": "GRAY"}
# libjpeg-turbo has vector instructions for whole, half and quarter pictures; to scale to 5, 6 or 7 eighths it takes
# longer than to decode all of it, and longer to three eighths than to a half.
_QUICK = (1, 2, 4, 8)
# How many times larger than wanted a picture may be for two pixels a side to stand for all of them, and for a cubic
# filter, which is sharper, to show no false patterns. Beyond, all pixels are averaged, which takes five times as long.
_MOST_BY_LINEAR = 1.7
_MOST_BY_CUBIC = 1.25


def is_flat(image: Image.Image) -> Image.Image:
    """Return *image* in one of the modes L, RGB, CMYK, LA and RGBA. Raises Failure for pixels that are no colors."""
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
    """Return 16-bit gray as 8-bit; where one of its values stands for transparency, with alpha."""
    words = np.asarray(image)
    gray = Image.fromarray(((words.astype(np.uint32) + 128) // 257).astype(np.uint8))
    hole = image.info.get("transparency")
    if not isinstance(hole, int):
        return gray
    return Image.merge("LA", (gray, Image.fromarray(np.where(words == hole, 0, 255).astype(np.uint8))))


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


cv2.setNumThreads(1)  # shards are decoded side by side; threads of its own would only get in their way


def scaled(image: Image.Image, body: bytes, config: ImageConfig) -> np.ndarray:
    """Return the first frame of *image*, which was opened from *body*: sRGB, uint8 [height, width, 3], the shorter
    side `config.size` pixels or less."""
    target = _target(image.size, config.size)
    if config.scaling == "fast" and image.format == "JPEG" and image.mode in _SPACES and target != image.size:
        pixels = _by_eighths(image, body, target)
        if pixels is not None:
            profile = image.info.get("icc_profile")
            return pixels if profile is None and image.mode == "RGB" else _in_srgb(Image.fromarray(pixels), profile)
    return _filtered(image, target)


def _by_eighths(image: Image.Image, body: bytes, target: tuple[int, int]) -> np.ndarray | None:
    """Return the pixels [height, width(, 3)], None where the JPEG is not in order: Pillow then says what it lacks."""
    width, height = _decoded(image.size, target)
    space = _SPACES[image.mode]
    try:
        pixels = simplejpeg.decode_jpeg(body, space, min_height=height, min_width=width, min_factor=1)
    except ValueError:
        return None
    if space == "GRAY":
        pixels = pixels[:, :, 0]
    times = pixels.shape[1] / target[0]
    by = (
        cv2.INTER_CUBIC if times <= _MOST_BY_CUBIC else cv2.INTER_LINEAR if times <= _MOST_BY_LINEAR else cv2.INTER_AREA
    )
    return np.asarray(cv2.resize(pixels, target, interpolation=by))


def _decoded(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """Return the size to decode to: the least number of eighths that is no smaller than *target*, or what is quicker
    to decode and not so much larger that it would take longer to filter."""
    sizes = {eighths: (-(-size[0] * eighths // 8), -(-size[1] * eighths // 8)) for eighths in range(1, 9)}
    least = next((n for n, (width, height) in sizes.items() if width >= target[0] and height >= target[1]), 8)
    quick = next(n for n in _QUICK if n >= least)
    return sizes[quick if sizes[quick][0] <= _MOST_BY_LINEAR * target[0] else least]


def _filtered(image: Image.Image, target: tuple[int, int]) -> np.ndarray:
    smaller = target != image.size
    if image.format in ("JPEG", "MPO") and smaller:
        image.draft(None, (int(_GAP * target[0]), int(_GAP * target[1])))
    image.load()
    profile = image.info.get("icc_profile")
    picture = is_flat(image)
    if smaller:
        turned = (picture.width < picture.height) != (target[0] < target[1])  # a TIFF is turned when it is loaded
        picture = picture.resize(target[::-1] if turned else target, _FILTER, reducing_gap=_GAP)
    return _in_srgb(on_white(picture), profile)


def _in_srgb(picture: Image.Image, profile: bytes | None) -> np.ndarray:
    return np.asarray(srgb(picture, profile))


def _target(size: tuple[int, int], short: int) -> tuple[int, int]:
    """Return *size* with a shorter side of *short*, or as it is where that is no smaller."""
    if min(size) <= short:
        return size
    other = max(1, round(max(size) * short / min(size)))
    return (short, other) if size[0] <= size[1] else (other, short)
