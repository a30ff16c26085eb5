"""PNGs: bit depths, transparency, profiles, and corrupt or malicious chunks."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import ExifTags, Image

from tests.data.images.icc import P3, encoded, linear_gray_profile, rgb_profile, shown
from tests.data.images.picture import ORANGE, SIZE, Made, chunk, marked, noise, plain, png, saved

_WHITE = (255, 255, 255)


def pngs() -> Iterator[Made]:
    yield from _depths()
    yield from _transparent()
    yield from _chunks()
    yield from _lies()


def _rows(pixel: bytes, size: tuple[int, int] = SIZE) -> bytes:
    return (b"\0" + pixel * size[0]) * size[1]


def _depths() -> Iterator[Made]:
    yield Made("plain.png", saved(plain(), "PNG"), "8-bit RGB")
    yield Made("one-bit.png", saved(plain("1", 1), "PNG"), "1-bit black and white", color=_WHITE)
    yield Made("two-bit.png", png(SIZE, 2, 0, (b"\0" + b"\xaa" * 12) * 32), "2-bit gray", color=(170, 170, 170))
    palette = chunk(b"PLTE", bytes(3) + bytes(ORANGE))
    yield Made("four-bit.png", png(SIZE, 4, 3, (b"\0" + b"\x11" * 24) * 32, palette), "4-bit palette")
    missing = png(SIZE, 8, 3, _rows(b"\7"), palette)
    yield Made("palette-too-short.png", missing, "indices that the palette does not have", color=None)
    gray = np.full((SIZE[1], SIZE[0]), 0x80FF, np.uint16)
    yield Made("gray-16.png", saved(Image.fromarray(gray), "PNG"), "16-bit gray", color=(128, 128, 128))
    wide = _rows(struct.pack(">HHH", *(value * 257 for value in ORANGE)))
    yield Made("rgb-16.png", png(SIZE, 16, 2, wide), "16-bit RGB")
    half = _rows(struct.pack(">HHHH", 65535, 0, 0, 32768))
    yield Made("rgba-16.png", png(SIZE, 16, 6, half), "16-bit RGB, half transparent", color=(255, 127, 127))
    interlaced = _interlaced()
    yield Made("interlaced.png", interlaced, "Adam7, in one pass of a single pixel", size=(1, 1))


def _interlaced() -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 1))
    data = chunk(b"IDAT", zlib.compress(b"\0" + bytes(ORANGE)))
    return b"\x89PNG\r\n\x1a\n" + head + data + chunk(b"IEND", b"")


def _transparent() -> Iterator[Made]:
    none = plain("RGBA", (0, 0, 0, 0))
    yield Made("transparent.png", saved(none, "PNG"), "wholly transparent black", color=_WHITE)
    half = saved(plain("RGBA", (255, 0, 0, 128)), "PNG")
    yield Made("half.png", half, "half transparent red", color=(255, 127, 127))
    large = Image.new("RGBA", (1200, 800), (0, 0, 0, 0))
    large.paste((*ORANGE, 255), (0, 0, 600, 400))
    yield Made("large-transparent.png", saved(large, "PNG"), "large, transparent but for a quarter", size=(384, 256))
    yield Made("gray-alpha.png", saved(plain("LA", (0, 0)), "PNG"), "gray with alpha", color=_WHITE)
    deep = png(SIZE, 16, 4, _rows(struct.pack(">HH", 0, 0)))
    yield Made("gray-alpha-16.png", deep, "16-bit gray with alpha", color=_WHITE)
    palette = saved(plain("P", 0), "PNG", transparency=0)
    yield Made("palette-transparent.png", palette, "a palette with a transparent color", color=_WHITE)
    key = saved(plain("RGB", (0, 0, 0)), "PNG", transparency=(0, 0, 0))
    yield Made("color-key.png", key, "a color that stands for transparency", color=_WHITE)
    hole = png(SIZE, 16, 0, _rows(b"\x12\x34"), chunk(b"tRNS", b"\x12\x34"))
    yield Made("gray-16-key.png", hole, "a 16-bit gray that stands for transparency", color=_WHITE)


def _chunks() -> Iterator[Made]:
    wide = saved(plain(), "PNG", icc_profile=rgb_profile(P3))
    yield Made("display-p3.png", wide, "Display P3", color=shown(ORANGE, P3))
    light = encoded(np.full(3, 100 / 255))
    gray = saved(plain("L", 100), "PNG", icc_profile=linear_gray_profile())
    yield Made("gray-profile.png", gray, "gray by a profile of linear light", color=light)
    words = np.full((SIZE[1], SIZE[0]), 100 * 257, np.uint16)
    deep = saved(Image.fromarray(words), "PNG", icc_profile=linear_gray_profile())
    yield Made("gray-16-profile.png", deep, "16-bit gray by a profile of linear light", color=light)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    turned = marked().transpose(Image.Transpose.ROTATE_90)
    yield Made("orientation-6.png", saved(turned, "PNG", exif=exif), "EXIF orientation 6")
    frames = [plain(), plain(color=(0, 0, 255))]
    moving = saved(frames[0], "PNG", save_all=True, append_images=frames[1:])
    yield Made("animated.png", moving, "an animation of two frames")
    rows = _rows(bytes(ORANGE))
    yield Made("gamma.png", png(SIZE, 8, 2, rows, chunk(b"gAMA", struct.pack(">I", 100000))), "a gamma, taken for sRGB")
    yield Made("unknown-chunk.png", png(SIZE, 8, 2, rows, chunk(b"abCd", b"?" * 40)), "a chunk that nobody knows")
    bad = png(SIZE, 8, 2, rows, chunk(b"tEXt", b"a\0b")[:-1] + b"?")
    yield Made("bad-note.png", bad, "a wrong checksum in a note")


def _lies() -> Iterator[Made]:
    rows = _rows(bytes(ORANGE))
    bomb = png((60000, 60000), 8, 2, bytes(1000))
    yield Made("huge.png", bomb, "a header of 3,600 million pixels", "too_many_pixels")
    large = png((20000, 8000), 8, 2, bytes(1000))
    yield Made("large-header.png", large, "a header of 160 million pixels", "too_many_pixels: 20000x8000")
    yield Made("no-width.png", png((0, 32), 8, 2, b""), "a width of 0", "damaged")
    yield Made("short-rows.png", png(SIZE, 8, 2, rows[: len(rows) // 2]), "half of its rows, whole otherwise")
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(9_000_000), 9))
    yield Made("text-bomb.png", png(SIZE, 8, 2, rows, text), "a note that unpacks to 9 MB")
    profile = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(9_000_000), 9))
    yield Made("profile-bomb.png", png(SIZE, 8, 2, rows, profile), "a profile that unpacks to 9 MB")
    good = saved(noise(), "PNG")
    yield Made("cut.png", good[: len(good) // 2], "cut short in its data", "truncated")
    place = good.index(b"IDAT") + 400
    broken = good[:place] + bytes([good[place] ^ 0xFF]) + good[place + 1 :]
    yield Made("broken-data.png", broken, "a wrong byte in its data", "damaged")
    yield Made("only-header.png", good[:33], "a header alone", "damaged")
    yield Made("text-mode.png", good.replace(b"\r\n", b"\n"), "line ends changed on the way", "damaged")
    page = b"<script>alert(1)</script>"
    yield Made("and-html.png", saved(plain(), "PNG") + page, "a page after the end")
