"""EXIF as far as it tells of the picture and its exposure, as JSON; nothing of where and by whom it was taken."""

from __future__ import annotations

import json
import struct
import zlib
from contextlib import suppress
from typing import Any

from PIL import ExifTags, Image

_CHARS = 500  # of one value; what is longer is no note on a picture
# Where somebody stood, thumbnails and makers' binary notes.
_PRIVATE = frozenset({"GPSInfo", "MakerNote", "ExifOffset", "UserComment", "BodySerialNumber", "CameraOwnerName"})
# What Pillow raises on a damaged file or block; AssertionError for a PNG with a palette that it does not have.
BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, AttributeError,
    AssertionError, RuntimeError, ZeroDivisionError, struct.error, zlib.error,
)  # fmt: skip


def read_exif(image: Image.Image) -> Image.Exif:
    """Return the tags of *image*, none where the block is damaged: the picture is good without."""
    try:
        return image.getexif()
    except BROKEN:
        return Image.Exif()


def exif_json(exif: Image.Exif) -> str:
    """Return the tags of the picture and of its exposure by name, values as text."""
    values: dict[int, Any] = {}
    with suppress(*BROKEN):
        values |= dict(exif)
    with suppress(*BROKEN):
        values |= exif.get_ifd(ExifTags.IFD.Exif)
    named: dict[str, str] = {}
    for tag, value in values.items():
        name = ExifTags.TAGS.get(tag)
        if name is None or name in _PRIVATE or (isinstance(value, bytes | str | tuple) and len(value) > _CHARS):
            continue
        text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
        text = text.strip("\x00 ")
        if text.isprintable() and len(text) <= _CHARS:
            named[name] = text
    return json.dumps(named, sort_keys=True, ensure_ascii=False)
