"""Bytes to a JPEG of the wanted size, upright, in sRGB, on white.

What the file's header claims is checked before its pixels are decoded. The same bytes give the same JPEG.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from vecap_tasks.config import ImageConfig
from vecap_tasks.crawl.failure import Failure

# What the web shows in <img>. Formats that hold other files, such as ICO, are left out: their header is not the
# picture's, so that a cap read from it is none.
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "JPEG2000")
# What Pillow's decoders raise on damaged files.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError)
_MAX_SIDE = 65_500  # of a JPEG
_ORIENTATION = ExifTags.Base.Orientation
_TURNS = {  # EXIF orientation to what makes the picture upright; the last four swap width and height
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_CHARS = 500
# Left out of `exif`: where somebody stood, thumbnails and makers' binary notes.
_EXIF_PRIVATE = frozenset({"GPSInfo", "MakerNote", "ExifOffset", "UserComment", "BodySerialNumber", "CameraOwnerName"})
_SRGB = ImageCms.createProfile("sRGB")

# The cap of the configuration holds; Pillow's own would refuse what the configuration allows.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True, slots=True)
class Picture:
    """What is known of an image that was decoded: sizes in pixels, all of the upright picture."""

    width: int
    height: int
    original_width: int
    original_height: int
    original_format: str
    exif: str  # JSON object of strings


def decode(body: bytes, config: ImageConfig) -> tuple[Picture, bytes]:
    """Decode *body*; return what is known of it and the JPEG. Raises Failure saying why it cannot be used."""
    if not body:
        raise Failure("empty")
    try:
        image = Image.open(io.BytesIO(body), formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise Failure("not_an_image") from error
    except (*_BROKEN, struct.error, zlib.error) as error:
        raise Failure("damaged") from error
    with image:
        width, height = image.size
        if width * height > config.max_pixels:
            raise Failure("too_many_pixels", f"{width}x{height}")
        exif = _exif(image)
        orientation = exif.get(_ORIENTATION)
        kind = "JPEG" if image.format == "MPO" else str(image.format)
        try:
            small = _small(image, config.size)
        except (*_BROKEN, struct.error, zlib.error) as error:
            cut = isinstance(error, EOFError | struct.error) or "truncated" in str(error)
            raise Failure("truncated" if cut else "damaged") from error
        except MemoryError as error:
            raise Failure("too_many_pixels", f"{width}x{height}") from error
    if orientation in _TURNS:
        small = small.transpose(_TURNS[orientation])
    if max(small.size) > _MAX_SIDE:
        raise Failure("too_long", f"{width}x{height}")
    if orientation in _TURNS and orientation > 4:
        width, height = height, width
    small.info.clear()  # comments and profiles of the original
    out = io.BytesIO()
    small.save(out, "JPEG", quality=config.quality, optimize=False, progressive=False, subsampling="4:2:0")
    return Picture(*small.size, width, height, kind, _exif_json(exif)), out.getvalue()


def _small(image: Image.Image, size: int) -> Image.Image:
    """Return the first frame in sRGB, its shorter side *size* or less."""
    short, long = sorted(image.size)
    if image.format in ("JPEG", "MPO") and short > 2 * size:
        # libjpeg halves while it decodes; twice the wanted size is kept, so that the filter below decides.
        image.draft(None, (image.width * 2 * size // short, image.height * 2 * size // short))
    image.load()
    profile = image.info.get("icc_profile")
    flat = _flat(image)
    if short > size:
        other = max(1, round(long * size / short))
        target = (size, other) if flat.width <= flat.height else (other, size)
        flat = flat.resize(target, Image.Resampling.LANCZOS)
    return _srgb(flat, profile)


def _flat(image: Image.Image) -> Image.Image:
    """Return *image* as RGB, L or CMYK: 16 bits brought to 8, transparency laid on white."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float64)  # 16 bits, in whatever mode and byte order
        return Image.fromarray(np.clip(values / 257, 0, 255).round().astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise Failure("unsupported", "floating point pixels")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, "white")
        ground.alpha_composite(layer)
        return ground.convert("RGB")
    return image if image.mode in ("L", "CMYK") else image.convert("RGB")


def _srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, _SRGB, outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass  # a profile that cannot be used, or is for other channels: the picture is shown as browsers show it
    return image.convert("RGB")


def _exif(image: Image.Image) -> Image.Exif:
    try:
        return image.getexif()
    except (*_BROKEN, struct.error, zlib.error):
        return Image.Exif()


def _exif_json(exif: Image.Exif) -> str:
    """Return the tags of the picture and of its exposure by name, values as text."""
    values: dict[int, Any] = dict(exif)
    try:
        values |= exif.get_ifd(ExifTags.IFD.Exif)
    except (*_BROKEN, struct.error, zlib.error):
        pass
    named: dict[str, str] = {}
    for tag, value in values.items():
        name = ExifTags.TAGS.get(tag)
        if name is None or name in _EXIF_PRIVATE:
            continue
        text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
        text = text.strip("\x00 ")
        if text.isprintable() and len(text) <= _EXIF_CHARS:
            named[name] = text
    return json.dumps(named, sort_keys=True, ensure_ascii=False)
