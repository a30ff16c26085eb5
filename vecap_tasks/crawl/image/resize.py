"""Resizes images and converts them to 8-bit sRGB on white: bit depth, palettes, transparency, color profiles."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageCms

from vecap_tasks.errors import Failure

if TYPE_CHECKING:  # pydantic takes long to import, and child processes do not need it
    from vecap_tasks.config import ImageConfig

_PNG_DEPTH = 24  # offset of bit depth and color type
_PNG_GRAY, _PNG_RGB = 0, 2
_SRGB = ImageCms.createProfile("sRGB")
_MODES = ("L", "RGB", "CMYK", "LA", "RGBA")
_GRAY16_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
# Cached transforms by size of the profile: the web has few profiles, and building a transform takes longer than
# applying it. Large profiles, of printers, have large tables.
_MAX_SMALL_TRANSFORMS, _MAX_LARGE_TRANSFORMS = 64, 4
_SMALL_PROFILE = 64 << 10  # bytes
_MAX_PROFILE = 16 << 20  # bytes; larger ones are ignored
_SRGB_TOLERANCE = 2  # of 255: largest difference from sRGB for which a profile counts as sRGB
_PROBE = np.stack(np.meshgrid(*[np.arange(0, 256, 51)] * 3), axis=-1).reshape(36, 6, 3).astype(np.uint8)
# libjpeg halves an image while it decodes, and box averaging reduces other images, down to this multiple of the target
# size; the filter does the rest.
_REDUCING_GAP = 1.5
_FILTER = Image.Resampling.HAMMING
_SPACES = {"RGB": "RGB", "L": "GRAY"}
# libjpeg-turbo has SIMD code for scales 1/8, 2/8, 4/8 and 8/8. Scaling to 5/8, 6/8 or 7/8 is slower than full decoding,
# and 3/8 is slower than 4/8.
_FAST_EIGHTHS = (1, 2, 4, 8)
# Largest ratio to the target size at which bilinear interpolation (two pixels per axis) is accurate, and at which the
# sharper bicubic filter shows no aliasing. Above, all pixels are averaged, which takes five times as long.
_MAX_LINEAR_RATIO = 1.7
_MAX_CUBIC_RATIO = 1.25


def to_8bit(image: Image.Image) -> Image.Image:
    """Return *image* in mode L, RGB, CMYK, LA or RGBA. Raises Failure for unsupported pixel types."""
    if image.mode in _GRAY16_MODES:
        return _gray_to_8bit(image)
    if image.mode in ("I", "F", "LAB"):
        raise Failure("unsupported", {"I": "32-bit", "F": "floating point", "LAB": "CIELAB"}[image.mode] + " pixels")
    if image.has_transparency_data:
        return image if image.mode in ("LA", "RGBA") else image.convert("RGBA")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in _MODES else image.convert("RGB")


def _gray_to_8bit(image: Image.Image) -> Image.Image:
    """Return 16-bit gray as 8-bit, with alpha if one value is marked transparent."""
    values = np.asarray(image)
    gray = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int):
        return gray
    return Image.merge("LA", (gray, Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))))


def composite_on_white(image: Image.Image) -> Image.Image:
    """Return *image* (a mode of `to_8bit`) without alpha, on white."""
    if image.mode not in ("LA", "RGBA"):
        return image
    layer = image.convert("RGBA")
    background = Image.new("RGBA", layer.size, "white")
    background.alpha_composite(layer)
    return background.convert(image.mode.removesuffix("A"))


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return *image* (L, RGB or CMYK) as sRGB, converted with its ICC *profile*.

    An invalid profile or one for other channels is ignored, as in browsers. CMYK without a profile is converted as ink
    on white.
    """
    transform = _transform(profile, image.mode) if profile else None
    if transform is None:
        return image.convert("RGB")
    return ImageCms.applyTransform(image, transform) or image.convert("RGB")


def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    if len(profile) > _MAX_PROFILE:
        return None
    return (_small_transform if len(profile) <= _SMALL_PROFILE else _large_transform)(profile, mode)


def _build_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from *mode* to sRGB; None for an unusable profile or one that equals sRGB.

    Transforms are stateless, so threads share them.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, _SRGB, mode, "RGB")
        if mode != "RGB":
            return transform
        converted = ImageCms.applyTransform(Image.fromarray(_PROBE), transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    difference = np.abs(np.asarray(converted).astype(int) - _PROBE).max()
    return transform if difference > _SRGB_TOLERANCE else None


_small_transform = lru_cache(maxsize=_MAX_SMALL_TRANSFORMS)(_build_transform)
_large_transform = lru_cache(maxsize=_MAX_LARGE_TRANSFORMS)(_build_transform)


cv2.setNumThreads(1)  # shards are decoded in parallel; OpenCV's own threads would compete


def decode_scaled(image: Image.Image, body: bytes, config: ImageConfig) -> np.ndarray:
    """Return the first frame of *image*, opened from *body*: sRGB, uint8 [height, width, 3], shorter side at most
    `config.size` pixels."""
    target = _target_size(image.size, config.size)
    if config.scaling == "fast" and image.format == "JPEG" and image.mode in _SPACES and target != image.size:
        pixels = _scaled_jpeg(image, body, target)
        if pixels is not None:
            profile = image.info.get("icc_profile")
            return pixels if profile is None and image.mode == "RGB" else _srgb_pixels(Image.fromarray(pixels), profile)
    return _resized(_with_exact_transparency(image, body), target)


def _scaled_jpeg(image: Image.Image, body: bytes, target: tuple[int, int]) -> np.ndarray | None:
    """Return pixels [height, width(, 3)], None if the JPEG is invalid; Pillow then reports the cause."""
    width, height = _decode_size(image.size, target)
    space = _SPACES[image.mode]
    try:
        pixels = simplejpeg.decode_jpeg(body, space, min_height=height, min_width=width, min_factor=1)
    except ValueError:
        return None
    if space == "GRAY":
        pixels = pixels[:, :, 0]
    ratio = pixels.shape[1] / target[0]
    by = (
        cv2.INTER_CUBIC
        if ratio <= _MAX_CUBIC_RATIO
        else cv2.INTER_LINEAR
        if ratio <= _MAX_LINEAR_RATIO
        else cv2.INTER_AREA
    )
    return np.asarray(cv2.resize(pixels, target, interpolation=by))


def _decode_size(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """Return the size to decode to: the smallest multiple of 1/8 that covers *target*, or a size that is faster to
    decode unless it is too large to filter fast."""
    sizes = {eighths: (-(-size[0] * eighths // 8), -(-size[1] * eighths // 8)) for eighths in range(1, 9)}
    least = next((n for n, (width, height) in sizes.items() if width >= target[0] and height >= target[1]), 8)
    fast = next(n for n in _FAST_EIGHTHS if n >= least)
    return sizes[fast if sizes[fast][0] <= _MAX_LINEAR_RATIO * target[0] else least]


def _with_exact_transparency(image: Image.Image, body: bytes) -> Image.Image:
    """Return a PNG whose transparent color (tRNS) matches its pixels, where Pillow's does not.

    Pillow scales gray pixels of 2 and 4 bits to 8 bits but not their transparent value, and rounds RGB pixels of 16
    bits, so that the transparent color matches none.
    """
    value = image.info.get("transparency")
    if image.format != "PNG" or value is None:
        return image
    depth, color_type = body[_PNG_DEPTH], body[_PNG_DEPTH + 1]
    if color_type == _PNG_GRAY and depth in (2, 4):
        image.info["transparency"] = value * 255 // (2**depth - 1)
    elif color_type == _PNG_RGB and depth == 16:
        pixels = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is not None and pixels.dtype == np.uint16 and pixels.shape[2:] == (4,):
            converted = Image.fromarray(np.right_shift(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA), 8).astype(np.uint8))
            converted.info["icc_profile"] = image.info.get("icc_profile")
            return converted
    return image


def _resized(image: Image.Image, target: tuple[int, int]) -> np.ndarray:
    smaller = target != image.size
    if image.format in ("JPEG", "MPO") and smaller:
        image.draft(None, (int(_REDUCING_GAP * target[0]), int(_REDUCING_GAP * target[1])))
    image.load()
    profile = image.info.get("icc_profile")
    resized = to_8bit(image)
    if smaller:
        rotated = (resized.width < resized.height) != (target[0] < target[1])  # Pillow rotates a TIFF when it loads it
        resized = resized.resize(target[::-1] if rotated else target, _FILTER, reducing_gap=_REDUCING_GAP)
    return _srgb_pixels(composite_on_white(resized), profile)


def _srgb_pixels(resized: Image.Image, profile: bytes | None) -> np.ndarray:
    return np.asarray(to_srgb(resized, profile))


def _target_size(size: tuple[int, int], short: int) -> tuple[int, int]:
    """Return *size* scaled to a shorter side of *short*; smaller sizes are unchanged."""
    if min(size) <= short:
        return size
    other = max(1, round(max(size) * short / min(size)))
    return (short, other) if size[0] <= size[1] else (other, short)
