"""Bytes to a JPEG of the wanted size, upright, in sRGB, on white; with EXIF and what other formats look like."""

from __future__ import annotations

import io
import json
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from vecap_tasks.config import ImageConfig
from vecap_tasks.crawl.image.phash import phash
from vecap_tasks.crawl.image.resize import scaled
from vecap_tasks.errors import Failure

_HEAD = 1024  # bytes looked at, in lower case
_IMAGES = (
    b"\xff\xd8\xff", b"\x89png", b"gif8", b"ii*\0", b"mm\0*", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjp  ",
)  # fmt: skip
_STARTS = (
    (b"%pdf", "pdf"),
    (b"pk\x03\x04", "zip"),
    (b"\x1f\x8b", "gzip"),
    (b"{", "json"),
    (b"8bps", "psd"),
    (b"\xff\x0a", "jxl"),
    (b"\0\0\0\x0cjxl ", "jxl"),
    (b"\0\0\1\0", "ico"),
    (b"\x1ae\xdf\xa3", "webm"),
)
_TAGS = ((b"<svg", "svg"), (b"<html", "html"), (b"<!doctype html", "html"), (b"<body", "html"), (b"<?xml", "xml"))
_HEIF = frozenset({b"heic", b"heix", b"mif1", b"msf1"})
_MAX_CHARS = 500  # of one EXIF value; what is longer is no note on a picture
# EXIF fields that say where somebody stood, and binary ones: thumbnails, makers' notes.
_PRIVATE = frozenset({"GPSInfo", "MakerNote", "ExifOffset", "UserComment", "BodySerialNumber", "CameraOwnerName"})
# What Pillow raises on a damaged file or block; AssertionError for a PNG with a palette that it does not have.
BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, AttributeError,
    AssertionError, RuntimeError, ZeroDivisionError, struct.error, zlib.error,
)  # fmt: skip
# What the web shows in <img>. Formats that hold other files, such as ICO, are left out: their header is not the
# picture's, so that a cap read from it is none.
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "JPEG2000")
_MAX_SIDE = 65_500  # of a JPEG
# A progressive JPEG repeats the whole picture in each scan, and an empty scan takes a few bytes: a small file could
# ask for hours. Encoders write some ten scans, at most a few dozen.
_MAX_SCANS = 100
_START_OF_SCAN = b"\xff\xda"  # cannot stand within a scan's data
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


def looks_like_image(body: bytes) -> bool:
    """Return whether *body* has the first bytes of a format that is decoded here, so that it must be damaged."""
    head = body[:12].lower()
    webp, avif = head[:4] == b"riff" and head[8:] == b"webp", head[4:] in (b"ftypavif", b"ftypavis")
    return webp or avif or head.startswith(_IMAGES)


def sniff_mismatch(body: bytes) -> str:
    """Return the kind of *body*, which is no image, in one word; empty where it is none that is known here."""
    head = body[:_HEAD].lower()
    if head[4:8] == b"ftyp":
        return "heic" if head[8:12] in _HEIF else "video"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for start, kind in _STARTS:
        if head.startswith(start) or text.startswith(start):
            return kind
    return next((kind for tag, kind in _TAGS if tag in text), "") if text.startswith(b"<") else ""


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
        if name is None or name in _PRIVATE or (isinstance(value, bytes | str | tuple) and len(value) > _MAX_CHARS):
            continue
        text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
        text = text.strip("\x00 ")
        if text.isprintable() and len(text) <= _MAX_CHARS:
            named[name] = text
    return json.dumps(named, sort_keys=True, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """What is known of an image that was decoded: sizes in pixels, all of the upright picture."""

    width: int
    height: int
    original_width: int
    original_height: int
    original_format: str
    exif: str  # JSON object of strings
    phash: str | None  # 16 hex digits, None for a picture that is too flat for one


def decode(body: bytes, config: ImageConfig) -> tuple[DecodedImage, bytes]:
    """Decode *body*; return what is known of it and the JPEG. Raises Failure saying why it cannot be used."""
    if not body:
        raise Failure("empty")
    with _open(body) as image:
        width, height = image.size
        if width * height > config.max_pixels:
            raise Failure("too_many_pixels", f"{width}x{height}")
        kind = "JPEG" if image.format == "MPO" else str(image.format)
        if kind == "JPEG" and not _in_one_scan(image, body) and body.count(_START_OF_SCAN) > _MAX_SCANS:
            raise Failure("too_many_scans")
        exif = read_exif(image)
        told = exif_json(exif)
        try:
            pixels = scaled(image, body, config)
            # Pillow turns a TIFF itself, and takes the orientation out.
            orientation = (read_exif(image) if kind == "TIFF" else exif).get(_ORIENTATION)
        except BROKEN as error:
            cut = isinstance(error, EOFError | struct.error) or "truncated" in str(error)
            raise Failure("truncated" if cut else "damaged") from error
        except MemoryError as error:
            raise Failure("too_many_pixels", f"{width}x{height}") from error
    if orientation in _TURNS:
        pixels = np.asarray(Image.fromarray(pixels).transpose(_TURNS[orientation]))
    if max(pixels.shape) > _MAX_SIDE:
        raise Failure("too_long", f"{width}x{height}")
    if orientation in _TURNS and orientation > 4:
        width, height = height, width
    small = pixels.shape[1], pixels.shape[0]
    return DecodedImage(*small, width, height, kind, told, phash(pixels)), _jpeg(pixels, config.quality)


def _jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """Return *pixels* as a JPEG: OpenCV writes the bytes that Pillow would, and makes no copy of the pixels."""
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    ]
    return bytes(cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)[1])


def _in_one_scan(image: Image.Image, body: bytes) -> bool:
    """Say whether the first scan of a JPEG holds all of it: libjpeg reads no other then.

    Pillow has read the header to the end of the segment that begins the scan; it tells how many components it has.
    """
    if not isinstance(image, JpegImageFile) or image.fp is None or image.info.get("progressive"):
        return False
    size = 6 + 2 * image.layers
    begin = image.fp.tell() - size
    return begin > 0 and body[begin : begin + 3] == bytes((0, size, image.layers))


def _open(body: bytes) -> Image.Image:
    """Read the header. Pillow refuses by itself what has more pixels than any configuration may allow.

    Pillow checks the sums of a PNG's data only when asked, and on an image that cannot be decoded afterwards.
    """
    try:
        image = Image.open(io.BytesIO(body), formats=_FORMATS)
        if image.format == "PNG":
            image.verify()
            image = Image.open(io.BytesIO(body), formats=_FORMATS)
        return image
    except UnidentifiedImageError as error:
        if looks_like_image(body):
            raise Failure("damaged") from error
        raise Failure("not_an_image", sniff_mismatch(body)) from error
    except Image.DecompressionBombError as error:
        raise Failure("too_many_pixels", "more than any configuration allows") from error
    except BROKEN as error:
        raise Failure("damaged") from error
