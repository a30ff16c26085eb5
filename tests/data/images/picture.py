"""Shared by the generators: a file with its expected result, source images, and parts of containers."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

Color = tuple[int, int, int]
ORANGE: Color = (208, 104, 48)
SIZE = (48, 32)


@dataclass(frozen=True, slots=True)
class Made:
    """A file and its expected result: failure with `reason`, or an image of `size` with `color` in the center of the
    upper left quarter; color None is not checked."""

    name: str
    body: bytes
    says: str
    reason: str | None = None
    size: tuple[int, int] = SIZE
    color: Color | None = ORANGE


def plain(mode: str = "RGB", color: object = ORANGE, size: tuple[int, int] = SIZE) -> Image.Image:
    return Image.new(mode, size, color)


def marked(size: tuple[int, int] = SIZE) -> Image.Image:
    """Return a white image with an orange upper left quarter."""
    image = Image.new("RGB", size, "white")
    image.paste(ORANGE, (0, 0, size[0] // 2, size[1] // 2))
    return image


def noise(size: tuple[int, int] = SIZE) -> Image.Image:
    values = np.random.default_rng(7).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(values)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a PNG chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(size: tuple[int, int], depth: int, kind: int, rows: bytes, *more: bytes) -> bytes:
    """Return a PNG with the chunks *more* and the unfiltered *rows*, each with its filter byte."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + body


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """Return a WebP of *chunks* (name, data)."""
    body = b"WEBP"
    for name, data in chunks:
        body += name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def segment(body: bytes, marker: bytes) -> tuple[int, int]:
    """Return start and end of the first segment with *marker* in a JPEG."""
    start = body.index(marker)
    return start, start + 2 + struct.unpack(">H", body[start + 2 : start + 4])[0]
