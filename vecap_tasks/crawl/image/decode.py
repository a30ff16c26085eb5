"""Decodes image files and encodes them as upright sRGB JPEGs on white; reads EXIF and detects non-image files."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from vecap_tasks.crawl.image.containers import decoded_size, read_png
from vecap_tasks.crawl.image.decoded import DecodedImage, DecodeResult
from vecap_tasks.crawl.image.resize import decode_scaled
from vecap_tasks.errors import Failure

if TYPE_CHECKING:  # pydantic takes long to import, and child processes do not need it
    from vecap_tasks.config import ImageConfig

_SNIFF_BYTES = 1024  # bytes
_IMAGE_SIGNATURES = (
    b"\xff\xd8\xff", b"\x89png", b"gif8", b"ii*\0", b"mm\0*", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjp  ",
)  # fmt: skip
_SIGNATURES = (
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
_MAX_CHARS = 500  # of one EXIF value; longer values are not descriptions
# EXIF fields that reveal locations or identify the camera or owner, and binary fields.
_PRIVATE = frozenset({"GPSInfo", "MakerNote", "ExifOffset", "UserComment", "BodySerialNumber", "CameraOwnerName"})
# Exceptions that Pillow raises on corrupt files; AssertionError for a PNG whose palette is missing.
PILLOW_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, AttributeError,
    AssertionError, RuntimeError, ZeroDivisionError, struct.error, zlib.error,
)  # fmt: skip
# Formats that browsers show in <img>. Containers such as ICO are excluded: their header does not state the size of the
# image, so the pixel limit cannot be checked.
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "JPEG2000")
_MAX_SIDE = 65_500  # of a JPEG
# Each scan of a progressive JPEG covers the whole image, and an empty scan takes a few bytes, so a small file could
# take hours. Encoders write about ten scans, at most a few dozen.
_MAX_SCANS = 100
_START_OF_SCAN = b"\xff\xda"  # never occurs in scan data
_ORIENTATION = ExifTags.Base.Orientation
_TRANSPOSE = {  # EXIF orientation to the transposition that undoes it; the last four swap width and height
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def looks_like_image(body: bytes) -> bool:
    """Return whether *body* starts like a supported image format."""
    head = body[:12].lower()
    webp, avif = head[:4] == b"riff" and head[8:] == b"webp", head[4:] in (b"ftypavif", b"ftypavis")
    return webp or avif or head.startswith(_IMAGE_SIGNATURES)


def sniff_mismatch(body: bytes) -> str:
    """Return the file type of the non-image *body* in one word, empty if unknown."""
    head = body[:_SNIFF_BYTES].lower()
    if head[4:8] == b"ftyp":
        return "heic" if head[8:12] in _HEIF else "video"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for start, kind in _SIGNATURES:
        if head.startswith(start) or text.startswith(start):
            return kind
    return next((kind for tag, kind in _TAGS if tag in text), "") if text.startswith(b"<") else ""


def read_exif(image: Image.Image) -> Image.Exif:
    """Return the EXIF tags of *image*, empty if the block is corrupt."""
    for name in ("xmp", "XML:com.adobe.xmp"):  # Pillow takes the orientation from XMP; browsers do not
        image.info.pop(name, None)
    try:
        return image.getexif()
    except PILLOW_ERRORS:
        return Image.Exif()


def exif_json(exif: Image.Exif) -> str:
    """Return the image and exposure tags as a JSON object of name to text."""
    values: dict[int, Any] = {}
    with suppress(*PILLOW_ERRORS):
        values |= dict(exif)
    with suppress(*PILLOW_ERRORS):
        values |= exif.get_ifd(ExifTags.IFD.Exif)
    tags: dict[str, str] = {}
    for tag, value in values.items():
        name = ExifTags.TAGS.get(tag)
        if name is None or name in _PRIVATE or (isinstance(value, bytes | str | tuple) and len(value) > _MAX_CHARS):
            continue
        text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
        text = text.strip("\x00 ")
        if text.isprintable() and len(text) <= _MAX_CHARS:
            tags[name] = text
    return json.dumps(tags, sort_keys=True, ensure_ascii=False)


def decode(body: bytes, config: ImageConfig) -> tuple[DecodedImage, bytes]:
    """Return the metadata and the JPEG of the image file *body*. Raises Failure with the reason if it is unusable."""
    if not body:
        raise Failure("empty")
    with _open(body) as (image, body):
        width, height = image.size
        largest = decoded_size(image, body)
        if largest[0] * largest[1] > config.max_pixels:
            raise Failure("too_many_pixels", f"{largest[0]}x{largest[1]}")
        kind = "JPEG" if image.format == "MPO" else str(image.format)
        if kind == "JPEG" and not _is_single_scan(image, body) and body.count(_START_OF_SCAN) > _MAX_SCANS:
            raise Failure("too_many_scans")
        exif = read_exif(image)
        exif_text = exif_json(exif)
        try:
            pixels = decode_scaled(image, body, config)
            # Pillow rotates TIFFs itself and removes the orientation.
            orientation = (read_exif(image) if kind == "TIFF" else exif).get(_ORIENTATION)
        except PILLOW_ERRORS as error:
            truncated = isinstance(error, EOFError | struct.error) or "truncated" in str(error)
            raise Failure("truncated" if truncated else "damaged") from error
        except MemoryError as error:
            raise Failure("too_many_pixels", f"{width}x{height}") from error
    if orientation in _TRANSPOSE:
        pixels = np.asarray(Image.fromarray(pixels).transpose(_TRANSPOSE[orientation]))
    if max(pixels.shape) > _MAX_SIDE:
        raise Failure("too_long", f"{width}x{height}")
    if orientation in _TRANSPOSE and orientation > 4:
        width, height = height, width
    size = pixels.shape[1], pixels.shape[0]
    jpeg = _jpeg(pixels, config.quality)
    return DecodedImage(*size, width, height, kind, exif_text, hashlib.sha256(jpeg).hexdigest(), phash(pixels)), jpeg


def decode_and_hash(body: bytes, config: ImageConfig) -> DecodeResult:
    """Return what `decode` returns or the Failure that it raises, and the hash of *body*."""
    sha256 = hashlib.sha256(body).hexdigest()
    try:
        image, jpeg = decode(body, config)
    except Failure as failure:
        return DecodeResult(sha256, None, b"", failure)
    return DecodeResult(sha256, image, jpeg, None)


def _jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """Return *pixels* as a JPEG. OpenCV writes the same bytes as Pillow, without copying the pixels."""
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    ]
    return bytes(cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)[1])


def _is_single_scan(image: Image.Image, body: bytes) -> bool:
    """Return whether the first scan of a JPEG contains all components, so that libjpeg reads no other scan.

    Pillow has read the header up to the end of the start-of-scan segment.
    """
    if not isinstance(image, JpegImageFile) or image.fp is None or image.info.get("progressive"):
        return False
    size = 6 + 2 * image.layers
    begin = image.fp.tell() - size
    return begin > 0 and body[begin : begin + 3] == bytes((0, size, image.layers))


@contextmanager
def _open(body: bytes) -> Iterator[tuple[Image.Image, bytes]]:
    """Give the image with its header read, and the bytes to decode.

    Pillow itself rejects images above the largest configurable `max_pixels`. It verifies PNG checksums only on request,
    and rejects an image for any damaged chunk, so `read_png` does this.
    """
    try:
        if body.startswith(b"\x89PNG\r\n\x1a\n"):
            body = read_png(body)
        image = Image.open(io.BytesIO(body), formats=_FORMATS)
    except UnidentifiedImageError as error:
        if looks_like_image(body):
            raise Failure("damaged") from error
        raise Failure("not_an_image", sniff_mismatch(body)) from error
    except Image.DecompressionBombError as error:
        raise Failure("too_many_pixels", "more than any configuration allows") from error
    except PILLOW_ERRORS as error:
        raise Failure("damaged") from error
    with image:
        yield image, body


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
