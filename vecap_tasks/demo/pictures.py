"""Image files of the miniature web: scenes in common formats and sizes, and defective files.

The bytes of a file depend only on its scene, its `Encoding` and its defect.
"""

import io
import random
import struct
import zlib
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from vecap_tasks.demo.draw import draw
from vecap_tasks.demo.scene import Scene

Format = Literal["JPEG", "PNG", "WEBP", "GIF"]
Defect = Literal["none", "truncated", "html", "empty", "tiny", "banner", "huge"]
SUFFIXES: dict[Format, str] = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif"}

# Header dimensions of the huge files, pixels per side: far above any sensible limit, while the files are small.
HUGE_PNG_SIDE, HUGE_GIF_SIDE = 20_000, 65_000
TINY_SIDES = (1, 2, 16, 24)
BANNER_SIZE = (728, 60)

_FORMAT_WEIGHTS: dict[Format, int] = {"JPEG": 70, "PNG": 12, "WEBP": 12, "GIF": 6}
_SIDES = (224, 256, 256, 288, 320, 320, 384, 400, 448, 512)
_EXIF_ORIENTATION = 0x0112
_ROTATED = 6
_ERROR_PAGE = b"<!doctype html>\n<html><head><title>Not available</title></head><body>Come back later.</body></html>\n"


@dataclass(frozen=True, slots=True)
class Encoding:
    """File format of an image. `side` is in pixels; `variant` is a format-specific option.

    Variants: "turned" (JPEG stored rotated, with an EXIF orientation), "cmyk" and "progressive" (JPEG),
    "alpha" and "palette" (PNG), else "plain".
    """

    format: Format
    side: int
    quality: int
    variant: str = "plain"

    @property
    def suffix(self) -> str:
        """File name extension, without a dot."""
        return SUFFIXES[self.format]


def sample_encoding(rng: random.Random) -> Encoding:
    """Draw format, size and quality from the miniature web's distribution."""
    chosen = rng.choices(list(_FORMAT_WEIGHTS), list(_FORMAT_WEIGHTS.values()))[0]
    variants = {"JPEG": ("turned", "cmyk", "progressive"), "PNG": ("alpha", "palette")}.get(chosen, ())
    variant = rng.choice(variants) if variants and rng.random() < 0.12 else "plain"
    return Encoding(chosen, rng.choice(_SIDES), rng.randint(70, 95), variant)


def render(scene: Scene, encoding: Encoding, defect: Defect = "none") -> bytes:
    """Return the bytes of the image file."""
    if defect == "html":
        return _ERROR_PAGE
    if defect == "empty":
        return b""
    if defect == "huge":
        return _huge_gif() if encoding.format == "GIF" else _huge_png()
    if defect == "tiny":
        side = TINY_SIDES[scene.layout_seed % len(TINY_SIDES)]
        return _encode(Image.new("RGB", (side, side), (200, 200, 200)), encoding)
    image = draw(scene, encoding.side)
    if defect == "banner":
        width, height = BANNER_SIZE
        image = image.resize((width, width)).crop((0, width // 2 - height // 2, width, width // 2 + height // 2))
    content = _encode(image, encoding)
    if defect == "truncated":
        return content[: len(content) * (30 + scene.layout_seed % 50) // 100]
    return content


def _encode(image: Image.Image, encoding: Encoding) -> bytes:
    out = io.BytesIO()
    if encoding.format == "JPEG":
        exif = Image.Exif()
        if encoding.variant == "turned":
            exif[_EXIF_ORIENTATION] = _ROTATED
            image = image.transpose(Image.Transpose.ROTATE_90)
        if encoding.variant == "cmyk":
            image = image.convert("CMYK")
        progressive = encoding.variant == "progressive"
        image.save(out, "JPEG", quality=encoding.quality, progressive=progressive, exif=exif)
    elif encoding.format == "PNG":
        if encoding.variant == "alpha":
            image.putalpha(255)
        elif encoding.variant == "palette":
            image = image.quantize(128)
        image.save(out, "PNG", compress_level=3)
    elif encoding.format == "WEBP":
        image.save(out, "WEBP", quality=encoding.quality, method=1)
    else:
        image.quantize(128).save(out, "GIF")
    return out.getvalue()


def _huge_png() -> bytes:
    """Return a valid one-bit black PNG: about 50 kB that decode to 400 million pixels."""
    compressor = zlib.compressobj(6)
    row = b"\0" * (1 + HUGE_PNG_SIDE // 8)
    block = row * 100
    rows = b"".join(compressor.compress(block) for _ in range(HUGE_PNG_SIDE // 100)) + compressor.flush()
    header = struct.pack(">IIBBBBB", HUGE_PNG_SIDE, HUGE_PNG_SIDE, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _huge_gif() -> bytes:
    """Return a valid GIF of one pixel on a logical screen of `HUGE_GIF_SIDE` pixels per side."""
    screen = struct.pack("<HHBBB", HUGE_GIF_SIDE, HUGE_GIF_SIDE, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + screen + frame + b";"
