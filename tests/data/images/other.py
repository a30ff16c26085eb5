"""GIF, WebP, AVIF, BMP, TIFF and JPEG 2000."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
from PIL import ExifTags, Image

from tests.data.images.icc import P3, rgb_profile, shown
from tests.data.images.picture import ORANGE, SIZE, Made, marked, noise, plain, riff, saved

_WHITE = (255, 255, 255)
_FRAMES = [plain(color=color) for color in (ORANGE, (0, 0, 255), (0, 255, 0))]


def others() -> Iterator[Made]:
    yield from _gifs()
    yield from _webps()
    yield from _avifs()
    yield from _bmps()
    yield from _tiffs()
    yield from _jp2s()


def _gif(screen: tuple[int, int], frame: tuple[int, int, int, int], start: bytes = b"GIF89a") -> bytes:
    """Return a GIF with one orange frame (x, y, width, height) and a clear code before each pixel."""
    x, y, width, height = frame
    palette = bytes(ORANGE) + b"\0\0\xff"
    head = start + struct.pack("<HHBBB", *screen, 0x80, 1, 0) + palette
    codes = [code for _ in range(width * height) for code in (4, 0)] + [5]
    bits = "".join(format(code, "03b")[::-1] for code in codes)
    data = bytes(int(bits[at : at + 8][::-1], 2) for at in range(0, len(bits), 8))
    blocks = b"".join(bytes([len(data[at : at + 255])]) + data[at : at + 255] for at in range(0, len(data), 255))
    return head + b"," + struct.pack("<HHHHB", x, y, width, height, 0) + b"\2" + blocks + b"\0;"


def _gifs() -> Iterator[Made]:
    yield Made("plain.gif", saved(plain(), "GIF"), "one frame")
    yield Made("animated.gif", saved(_FRAMES[0], "GIF", save_all=True, append_images=_FRAMES[1:]), "three frames")
    clear = saved(plain("RGBA", (0, 0, 0, 0)), "GIF")
    yield Made("transparent.gif", clear, "wholly transparent", color=_WHITE)
    yield Made("interlaced.gif", saved(marked(), "GIF", interlace=True), "interlaced")
    yield Made("small-frame.gif", _gif((48, 32), (0, 0, 24, 16)), "a frame smaller than its screen")
    yield Made("large-frame.gif", _gif((4, 4), (0, 0, 24, 16)), "a frame larger than its screen", size=(24, 16))
    far = _gif((1, 1), (0, 0, 8, 8)).replace(b",\0\0\0\0\x08\0\x08\0", b",\0\0\0\0\xff\xff\xff\xff")
    yield Made("huge-frame.gif", far, "a screen of one pixel, a frame of four thousand million", "too_many_pixels")
    script = _gif((10799, 4), (0, 0, 8, 4)) + b"*/=1;alert(1)"
    assert script[6:8] == b"/*"
    yield Made("and-script.gif", script, "a script too: its width starts a comment", size=(10799, 4), color=None)
    only = b"GIF89a/*\n\n*/=1;alert(1)//" + bytes(20)
    yield Made("only-script.gif", only, "a script with a picture's first bytes", "damaged")
    yield Made("no-frame.gif", _gif((48, 32), (0, 0, 1, 1))[:19] + b";", "a screen without a frame", "damaged")
    cut = saved(noise(), "GIF")
    yield Made("cut.gif", cut[: len(cut) // 2], "cut short", "truncated")


def _webps() -> Iterator[Made]:
    lossy = saved(plain(), "WEBP", quality=95)
    yield Made("plain.webp", lossy, "lossy")
    yield Made("lossless.webp", saved(plain(), "WEBP", lossless=True), "lossless")
    clear = saved(plain("RGBA", (0, 0, 0, 0)), "WEBP", lossless=True)
    yield Made("transparent.webp", clear, "wholly transparent", color=_WHITE)
    moving = saved(_FRAMES[0], "WEBP", save_all=True, append_images=_FRAMES[1:], lossless=True)
    yield Made("animated.webp", moving, "three frames")
    wide = saved(plain(), "WEBP", lossless=True, icc_profile=rgb_profile(P3))
    yield Made("display-p3.webp", wide, "Display P3", color=shown(ORANGE, P3))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 8
    turned = marked().transpose(Image.Transpose.ROTATE_270)
    yield Made("orientation-8.webp", saved(turned, "WEBP", lossless=True, exif=exif), "EXIF orientation 8")
    frame = (lossy[12:16], lossy[20:])

    def canvas(width: int, height: int) -> bytes:
        return bytes((0, 0, 0, 0)) + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]

    huge = riff((b"VP8X", canvas(16384, 16384)), frame)
    yield Made("huge.webp", huge, "a canvas of 268 million pixels", "too_many_pixels")
    lie = riff((b"VP8X", canvas(8, 8)), frame)
    yield Made("small-canvas.webp", lie, "a canvas smaller than its frame", "damaged")
    cut = saved(noise(), "WEBP", quality=95)
    yield Made("cut.webp", cut[: len(cut) // 2], "cut short", "damaged")


def _avifs() -> Iterator[Made]:
    yield Made("plain.avif", saved(plain(), "AVIF", quality=90), "one picture")
    clear = saved(plain("RGBA", (0, 0, 0, 0)), "AVIF", quality=90)
    yield Made("transparent.avif", clear, "wholly transparent", color=_WHITE)
    moving = saved(_FRAMES[0], "AVIF", save_all=True, append_images=_FRAMES[1:], quality=90)
    yield Made("animated.avif", moving, "three frames")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    turned = marked().transpose(Image.Transpose.ROTATE_90)
    yield Made("turned.avif", saved(turned, "AVIF", quality=90, exif=exif), "turned by the container")
    cut = saved(noise(), "AVIF", quality=90)
    yield Made("cut.avif", cut[: len(cut) // 2], "cut short", "damaged")


def _bmp(size: tuple[int, int], bits: int, data: bytes, compression: int = 0, palette: bytes = b"") -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, *size, 1, bits, compression, len(data), 2835, 2835, len(palette) // 4, 0)
    start = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + header + palette + data


def _bmps() -> Iterator[Made]:
    yield Made("plain.bmp", saved(plain(), "BMP"), "24-bit")
    yield Made("one-bit.bmp", saved(plain("1", 1), "BMP"), "1-bit", color=_WHITE)
    orange = bytes(ORANGE[::-1])
    upper = (orange * 24 + b"\xff" * 72) * 16 + b"\xff" * 144 * 16
    yield Made("top-down.bmp", _bmp((48, -32), 24, upper), "rows from the top")
    runs = (b"\x30\0" + b"\0\0") * 32 + b"\0\1"
    yield Made("runs.bmp", _bmp(SIZE, 8, runs, 1, orange + b"\0"), "run-length coded")
    high = struct.pack("<H", (26 << 10) | (13 << 5) | 6)
    yield Made("fifteen-bit.bmp", _bmp(SIZE, 16, high * 48 * 32), "5 bits a color", color=(214, 107, 49))
    yield Made("huge.bmp", _bmp((60000, 60000), 24, bytes(90)), "3,600 million pixels", "too_many_pixels")
    yield Made("cut.bmp", saved(noise(), "BMP")[:2000], "cut short", "truncated")


def _tiffs() -> Iterator[Made]:
    yield Made("lzw.tif", saved(plain(), "TIFF", compression="tiff_lzw"), "LZW")
    yield Made("jpeg.tif", saved(plain(), "TIFF", compression="jpeg", quality=95), "JPEG within TIFF")
    cmyk = saved(plain("CMYK", (0, 255, 255, 0)), "TIFF")
    yield Made("cmyk.tif", cmyk, "CMYK", color=(255, 0, 0))
    gray = Image.fromarray(np.full((SIZE[1], SIZE[0]), 0x8080, np.uint16))
    yield Made("gray-16.tif", saved(gray, "TIFF"), "16-bit gray", color=(128, 128, 128))
    light = Image.fromarray(np.full((SIZE[1], SIZE[0]), 0.5, np.float32))
    yield Made("float.tif", saved(light, "TIFF"), "floating point", "unsupported: floating point pixels")
    yield Made("lab.tif", saved(Image.new("LAB", SIZE), "TIFF"), "CIELAB", "unsupported: CIELAB pixels")
    long = Image.fromarray(np.full((SIZE[1], SIZE[0]), 7, np.int32))
    yield Made("gray-32.tif", saved(long, "TIFF"), "32-bit gray", "unsupported: 32-bit pixels")
    pages = saved(_FRAMES[0], "TIFF", save_all=True, append_images=_FRAMES[1:])
    yield Made("pages.tif", pages, "three pages")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    turned = marked().transpose(Image.Transpose.ROTATE_90)
    yield Made("orientation-6.tif", saved(turned, "TIFF", exif=exif), "orientation 6")
    body = saved(plain(), "TIFF")
    width = struct.pack("<HHI", 0x100, 4, 1)
    at = body.index(width) + len(width)
    lie = body[:at] + struct.pack("<I", 5_000_000) + body[at + 4 :]
    yield Made("wide-lie.tif", lie, "a width of five million", "too_many_pixels: 5000000x32")
    yield Made("cut.tif", saved(noise(), "TIFF")[:1500], "cut short", "truncated")


def _jp2s() -> Iterator[Made]:
    good = saved(plain(), "JPEG2000")
    yield Made("plain.jp2", good, "JPEG 2000")
    clear = saved(plain("RGBA", (0, 0, 0, 0)), "JPEG2000")
    yield Made("transparent.jp2", clear, "wholly transparent", color=_WHITE)
    stream = saved(plain(), "JPEG2000", no_jp2=True)
    yield Made("codestream.j2k", stream, "a codestream without its box")
    at = good.index(b"ihdr") + 4
    lie = good[:at] + struct.pack(">II", 4, 4) + good[at + 8 :]
    yield Made("small-header.jp2", lie, "a header smaller than its picture", "damaged")
