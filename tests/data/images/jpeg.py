"""JPEGs: codings, colors, orientations, profiles, and corrupt or malicious files."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
from PIL import ExifTags, Image

from tests.data.images.icc import P3, SRGB, cmyk_profile, encoded, linear_gray_profile, rgb_profile, shown
from tests.data.images.picture import ORANGE, Made, marked, noise, plain, saved, segment

_TURNED = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # EXIF orientation to the inverse Pillow transposition
_RED = (254, 0, 0)


def jpegs() -> Iterator[Made]:
    yield from _codings()
    yield from _inks()
    yield from _orientations()
    yield from _profiles()
    yield from _lies()


def _codings() -> Iterator[Made]:
    yield Made("plain.jpg", saved(plain(), "JPEG", quality=95), "baseline, 4:2:0")
    yield Made("progressive.jpg", saved(plain(), "JPEG", quality=95, progressive=True), "progressive")
    yield Made("full-chroma.jpg", saved(plain(), "JPEG", quality=95, subsampling="4:4:4"), "4:4:4")
    yield Made("restarts.jpg", saved(plain(), "JPEG", quality=95, restart_marker_rows=1), "restart markers")
    yield Made("rgb.jpg", saved(plain(), "JPEG", quality=95, keep_rgb=True), "stored as RGB, Adobe transform 0")
    gray = saved(plain("L", 90), "JPEG", quality=95)
    yield Made("gray.jpg", gray, "one component", color=(90, 90, 90))
    large = saved(marked((1200, 800)), "JPEG", quality=80)
    yield Made("large.jpg", large, "large enough to be made smaller while it is decoded", size=(384, 256))
    long = saved(plain(size=(2000, 4)), "JPEG", quality=90)
    yield Made("long.jpg", long, "two thousand by four pixels", size=(2000, 4))
    yield Made("pixel.jpg", saved(plain(size=(1, 1)), "JPEG", quality=95), "one pixel", size=(1, 1))
    two = [plain(), plain(color=(0, 0, 255))]
    yield Made("two.mpo", saved(two[0], "MPO", save_all=True, append_images=two[1:], quality=95), "two pictures in one")
    thumbnail = saved(plain(), "JPEG", quality=95, exif=_exif_with_thumbnail())
    yield Made("thumbnail.jpg", thumbnail, "a JPEG within its EXIF")


def _inks() -> Iterator[Made]:
    cmyk = saved(plain("CMYK", (0, 255, 255, 0)), "JPEG", quality=95)
    yield Made("cmyk.jpg", cmyk, "CMYK, inverted as Adobe does", color=(255, 0, 0))
    start, end = segment(cmyk, b"\xff\xee")
    yield Made("cmyk-no-adobe.jpg", cmyk[:start] + cmyk[end:], "CMYK without Adobe's marker", color=(255, 0, 0))
    # The file has Y, Cb and Cr of cyan, the inverse of red; Pillow inverts the values it writes.
    ycck = saved(plain("CMYK", (255 - 179, 255 - 171, 255, 0)), "JPEG", quality=95)
    start, end = segment(ycck, b"\xff\xee")
    yield Made("ycck.jpg", ycck[: end - 1] + b"\2" + ycck[end:], "YCCK, Adobe transform 2", color=(255, 0, 0))


def _orientations() -> Iterator[Made]:
    for orientation, turn in _TURNED.items():
        stored = marked().transpose(Image.Transpose(turn))
        body = saved(stored, "JPEG", quality=95, exif=_exif(orientation))
        yield Made(f"orientation-{orientation}.jpg", body, f"EXIF orientation {orientation}")
    yield Made("orientation-9.jpg", saved(marked(), "JPEG", quality=95, exif=_exif(9)), "an orientation that is none")
    broken = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\3\0\0\0\1\0\6\0\0"
    body = saved(plain(), "JPEG", quality=95, exif=broken)
    yield Made("exif-broken.jpg", body, "EXIF of 65,535 tags that ends after the first, orientation 6", size=(32, 48))


def _profiles() -> Iterator[Made]:
    p3, cmyk, gray = rgb_profile(P3), cmyk_profile(), linear_gray_profile()
    wide = saved(plain(), "JPEG", quality=95, icc_profile=p3)
    yield Made("display-p3.jpg", wide, "Display P3", color=shown(ORANGE, P3))
    yield Made("srgb.jpg", saved(plain(), "JPEG", quality=95, icc_profile=rgb_profile(SRGB)), "sRGB by a profile")
    light = encoded(np.full(3, 100 / 255))
    linear = saved(plain("L", 100), "JPEG", quality=95, icc_profile=gray)
    yield Made("gray-profile.jpg", linear, "gray by a profile of linear light", color=light)
    inks = saved(plain("CMYK", (0, 255, 255, 0)), "JPEG", quality=95, icc_profile=cmyk)
    yield Made("cmyk-profile.jpg", inks, "CMYK by a profile of gray inks: two inks are L* 50", color=(119, 119, 119))
    for name, body, says in (
        ("profile-cut.jpg", p3[:200], "a profile that is cut short"),
        ("profile-text.jpg", b"no profile at all", "a profile that is text"),
        ("profile-of-ink.jpg", cmyk, "a profile for CMYK in RGB"),
        ("profile-of-gray.jpg", gray, "a profile for gray in RGB"),
        ("profile-zeros.jpg", p3[:128] + bytes(len(p3) - 128), "a profile without a single tag"),
    ):
        yield Made(name, saved(plain(), "JPEG", quality=95, icc_profile=body), says)
    odd = saved(plain("L", 90), "JPEG", quality=95, icc_profile=p3)
    yield Made("profile-of-rgb-in-gray.jpg", odd, "a profile for RGB in gray", color=(90, 90, 90))


def _lies() -> Iterator[Made]:
    good = saved(noise(), "JPEG", quality=95)
    start, end = segment(good, b"\xff\xc0")

    def sized(width: int, height: int) -> bytes:
        return good[: start + 5] + struct.pack(">HH", height, width) + good[start + 9 : end]

    huge = sized(65500, 65500) + good[end:]
    yield Made("huge.jpg", huge, "a header of four thousand million pixels", "too_many_pixels")
    wide = sized(20000, 8000) + good[end:]
    yield Made("large-header.jpg", wide, "a header of 160 million pixels", "too_many_pixels: 20000x8000")
    no_height = sized(48, 0) + good[end:]
    yield Made("no-height.jpg", no_height, "a height of 0, to be told after the scan", "damaged")
    yield Made("two-sizes.jpg", good[:start] + sized(3000, 3000) + good[start:], "two frame headers", "damaged")
    first = sized(48, 32) + sized(3000, 3000)[start:] + good[end:]
    yield Made("two-sizes-large-last.jpg", first, "two frame headers, the large one last", "damaged")
    progressive = saved(plain(), "JPEG", quality=95, progressive=True)
    scan, _ = segment(progressive, b"\xff\xda")
    empty = progressive[progressive.rindex(b"\xff\xda") : -2]
    bomb = progressive[:-2] + empty * 300 + progressive[-2:]
    assert scan
    yield Made("scans.jpg", bomb, "three hundred scans", "too_many_scans")
    yield Made("cut.jpg", good[: len(good) * 2 // 3], "cut short in its scan", "truncated")
    yield Made("cut-in-header.jpg", good[:100], "cut short in its tables", "damaged")
    yield Made("no-end.jpg", saved(plain(), "JPEG", quality=95)[:-2], "without its end marker", "truncated")
    yield Made("leading-text.jpg", b"\r\n" + good, "line ends before the first byte", "not_an_image")
    archive = b"PK\5\6" + bytes(18)
    yield Made("and-zip.jpg", saved(plain(), "JPEG", quality=95) + archive, "an archive after the end")
    script = b"<?php system($_GET['x']); ?>"
    yield Made("and-php.jpg", saved(plain(), "JPEG", quality=95, comment=script), "a script as its comment")
    start, end = segment(good, b"\xff\xc4")
    yield Made("no-tables.jpg", good[:start] + good[good.index(b"\xff\xda") :], "no Huffman tables", color=None)


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def _exif_with_thumbnail() -> bytes:
    small = saved(plain(color=(0, 0, 255), size=(16, 16)), "JPEG")
    entries = struct.pack(">HHII", 0x0201, 4, 1, 44) + struct.pack(">HHII", 0x0202, 4, 1, len(small))
    first = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", 0) + struct.pack(">I", 14)
    return first + struct.pack(">H", 2) + entries + struct.pack(">I", 0) + small
