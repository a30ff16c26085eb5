"""The image files of the miniature web: scenes in the formats and sizes that pages use, and files that are wrong.

A file is a function of its scene and its `Encoding`, so that the same two always give the same bytes.
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
Damage = Literal["none", "truncated", "html", "empty", "tiny", "banner", "huge"]
SUFFIXES: dict[Format, str] = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif"}

# Header dimensions of the huge files, in pixels a side: far above any sensible pixel cap, while the files are small.
HUGE_PNG_SIDE, HUGE_GIF_SIDE = 20_000, 65_000
TINY_SIDES = (1, 2, 16, 24)
BANNER_SIZE = (728, 60)

_FORMAT_WEIGHTS: dict[Format, int] = {"JPEG": 70, "PNG": 12, "WEBP": 12, "GIF": 6}
_SIDES = (224, 256, 256, 288, 320, 320, 384, 400, 448, 512)
_EXIF_ORIENTATION = 0x0112
_TURNED = 6
_ERROR_PAGE = b"<!doctype html>\n<html><head><title>Not available</title></head><body>Come back later.</body></html>\n"


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a scene is put into a file. `side` is in pixels; `variant` is one of the oddities a format has.

    Variants: "turned" (JPEG stored on its side with an EXIF orientation), "cmyk" and "progressive" (JPEG),
    "alpha" and "palette" (PNG), else "plain".
    """

    format: Format
    side: int
    quality: int
    variant: str = "plain"

    @property
    def suffix(self) -> str:
        """The file name's ending, without a dot."""
        return SUFFIXES[self.format]


def sample_encoding(rng: random.Random) -> Encoding:
    """Draw format, size and quality as the miniature web's pages have them."""
    chosen = rng.choices(list(_FORMAT_WEIGHTS), list(_FORMAT_WEIGHTS.values()))[0]
    variants = {"JPEG": ("turned", "cmyk", "progressive"), "PNG": ("alpha", "palette")}.get(chosen, ())
    variant = rng.choice(variants) if variants and rng.random() < 0.12 else "plain"
    return Encoding(chosen, rng.choice(_SIDES), rng.randint(70, 95), variant)


def render(scene: Scene, encoding: Encoding, damage: Damage = "none") -> bytes:
    """The bytes of the file."""
    if damage == "html":
        return _ERROR_PAGE
    if damage == "empty":
        return b""
    if damage == "huge":
        return _huge_gif() if encoding.format == "GIF" else _huge_png()
    if damage == "tiny":
        side = TINY_SIDES[scene.layout_seed % len(TINY_SIDES)]
        return _encode(Image.new("RGB", (side, side), (200, 200, 200)), encoding)
    picture = draw(scene, encoding.side)
    if damage == "banner":
        width, height = BANNER_SIZE
        picture = picture.resize((width, width)).crop((0, width // 2 - height // 2, width, width // 2 + height // 2))
    content = _encode(picture, encoding)
    if damage == "truncated":
        return content[: len(content) * (30 + scene.layout_seed % 50) // 100]
    return content


def _encode(picture: Image.Image, encoding: Encoding) -> bytes:
    out = io.BytesIO()
    if encoding.format == "JPEG":
        exif = Image.Exif()
        if encoding.variant == "turned":
            exif[_EXIF_ORIENTATION] = _TURNED
            picture = picture.transpose(Image.Transpose.ROTATE_90)
        if encoding.variant == "cmyk":
            picture = picture.convert("CMYK")
        progressive = encoding.variant == "progressive"
        picture.save(out, "JPEG", quality=encoding.quality, progressive=progressive, exif=exif)
    elif encoding.format == "PNG":
        if encoding.variant == "alpha":
            picture.putalpha(255)
        elif encoding.variant == "palette":
            picture = picture.quantize(128)
        picture.save(out, "PNG", compress_level=3)
    elif encoding.format == "WEBP":
        picture.save(out, "WEBP", quality=encoding.quality, method=1)
    else:
        picture.quantize(128).save(out, "GIF")
    return out.getvalue()


def _huge_png() -> bytes:
    """A valid one-bit PNG that is all black: some 50 kB that decode to 400 million pixels."""
    packer = zlib.compressobj(6)
    row = b"\0" * (1 + HUGE_PNG_SIDE // 8)
    block = row * 100
    rows = b"".join(packer.compress(block) for _ in range(HUGE_PNG_SIDE // 100)) + packer.flush()
    header = struct.pack(">IIBBBBB", HUGE_PNG_SIDE, HUGE_PNG_SIDE, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _huge_gif() -> bytes:
    """A valid GIF of one pixel on a logical screen of `HUGE_GIF_SIDE` a side."""
    screen = struct.pack("<HHBBB", HUGE_GIF_SIDE, HUGE_GIF_SIDE, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + screen + frame + b";"
