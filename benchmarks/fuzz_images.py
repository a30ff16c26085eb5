"""Seeds of images in all formats, with edits of PNG chunks, JPEG segments and other headers."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import lru_cache
from random import Random

from PIL import Image, ImageCms

IMAGE_TOKENS = (
    b"\xff\xd8\xff", b"\xff\xd9", b"\xff\xda", b"\xff\xc4", b"\xff\xdb", b"\xff\xe1\x00\x10Exif\0\0II*\0", b"IHDR",
    b"IDAT", b"IEND", b"PLTE", b"tRNS", b"iCCP", b"eXIf", b"acTL", b"fcTL", b"RIFF", b"WEBPVP8X", b"ANIM", b"ANMF",
    b"ALPH", b"GIF89a", b"\x21\xf9\x04", b"\x2c", b"\x3b", b"II*\0", b"MM\0*", b"BM", b"ftypavif", b"ispe", b"iloc",
    b"meta", b"mdat", b"\xff\x4f\xff\x51", b"\x7f\xff",
)  # fmt: skip
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000")
_MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "RGBA", "P", "L", "LA", "1", "I;16"),
    "GIF": ("P", "L"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("RGB", "CMYK", "LAB", "I;16", "F", "1", "P"),
    "BMP": ("RGB", "P", "1"),
    "AVIF": ("RGB", "RGBA"),
    "JPEG2000": ("RGB", "L", "RGBA"),
}
_SIZES = ((1, 1), (3, 2), (17, 9), (64, 48), (300, 40))
_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@lru_cache(maxsize=1024)
def _encoded(kind: str, mode: str, size: tuple[int, int], variant: int) -> bytes:
    """Return a valid image; *variant* selects options of the encoder."""
    gradient = Image.linear_gradient("L").resize(size)
    pixels = Image.merge("RGB", (gradient, gradient.rotate(180), gradient))
    if mode == "I;16":
        image = gradient.convert("I").convert("I;16")
    elif mode == "LAB":
        image = (
            ImageCms.profileToProfile(
                pixels, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
            )
            or pixels
        )
    else:
        image = pixels.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = variant % 9
    exif[0x010E] = "text" * (variant % 200)
    options: dict[str, object] = (
        {"exif": exif.tobytes()} if variant % 2 and kind in ("JPEG", "PNG", "WEBP", "AVIF") else {}
    )
    if variant % 3 == 0 and kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
        options["icc_profile"] = _PROFILE
    if kind == "JPEG":
        options |= {"progressive": variant % 4 == 1, "subsampling": variant % 3, "restart_marker_blocks": variant % 5}
    if kind == "TIFF":
        options["compression"] = (
            ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")[variant % 5]
            if mode in ("RGB", "P")
            else "raw"
        )
        options["compression"] = "raw" if mode == "P" and options["compression"] == "jpeg" else options["compression"]
    if kind in ("GIF", "WEBP", "PNG") and variant % 7 == 0:
        options |= {"save_all": True, "append_images": [image.copy(), image.copy()]}
    if kind == "AVIF":
        options |= {"speed": 10, "max_threads": 1}
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def small_image(random: Random) -> bytes:
    """Return a small valid JPEG or PNG."""
    kind = random.choice(("JPEG", "JPEG", "PNG"))
    return _encoded(kind, random.choice(("RGB", "L")), random.choice(_SIZES[:3]), random.randrange(8))


def image(random: Random) -> bytes:
    """Return an image of a random format and mode; usually one part of its structure is edited."""
    kind = random.choice(_FORMATS[:6] if random.random() < 0.6 else _FORMATS[4:])
    data = _encoded(kind, random.choice(_MODES[kind]), random.choice(_SIZES), random.randrange(12))
    edit = _EDITS.get(kind)
    for _ in range(random.choice((0, 1, 1, 2, 4)) if edit else 0):
        data = edit(random, data) if edit else data
    return data


def _png(random: Random, data: bytes) -> bytes:
    """Edit, repeat, move, drop or insert a chunk, with a correct checksum or a wrong one."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = struct.unpack(">I", data[at : at + 4])[0]
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    if not chunks:
        return data
    index = random.randrange(len(chunks))
    name, body = chunks[index]
    big = struct.pack(">II", random.choice((0, 1, 70_000, 2**31 - 1)), random.choice((1, 5, 70_000, 2**31 - 1)))
    bomb = zlib.compress(bytes(random.choice((10_000, 5_000_000))), 9)
    new = random.choice(
        (
            (b"tEXt", b"k\0" + b"v" * 3000), (b"zTXt", b"k\0\0" + bomb), (b"iTXt", b"k\0\1\0\0\0" + bomb), (b"iCCP",
            b"k\0\0" + bomb),
            (b"tRNS", random.randbytes(random.choice((1, 2, 6, 300)))), (b"PLTE", random.randbytes(random.choice((0, 3,
            7, 768, 900)))),
            (b"acTL", struct.pack(">II", random.choice((0, 1, 2**31)), 0)), (b"fcTL", struct.pack(">IIIII", 0, 9, 9, 0,
            0) + bytes(6)),
            (b"fdAT", struct.pack(">I", 1) + zlib.compress(bytes(50))), (b"eXIf", b"II*\0" + random.randbytes(40)),
            (b"IDAT", bomb),
            (b"IHDR", big + bytes((random.choice((1, 2, 4, 8, 16)), random.randrange(7), 0, 0, random.randrange(3)))),
            (b"IEND", b""),
            (b"gAMA", b"\0\0\0\0"), (b"pHYs", bytes(9)), (b"abCD", b"x"), (name, body[: len(body) // 2]), (name,
            body * 3),
        )
    )  # fmt: skip
    match random.randrange(5):
        case 0:
            chunks[index] = new
        case 1:
            chunks.insert(index, new)
        case 2:
            del chunks[index]
        case 3:
            chunks.insert(random.randrange(len(chunks)), chunks.pop(index))
        case _:
            changed = bytearray(body or b"\0")
            changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
            chunks[index] = name, bytes(changed)
    wrong = random.randrange(len(chunks) + 1) if random.random() < 0.2 else -1
    parts = [data[:8]]
    for number, (name, body) in enumerate(chunks):
        checksum = zlib.crc32(name + body) ^ (number == wrong)
        parts.append(struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum))
    return b"".join(parts)


def _jpeg(random: Random, data: bytes) -> bytes:
    """Edit, repeat, move, drop or insert a segment, with a correct length or a wrong one."""
    segments, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        size = struct.unpack(">H", data[at + 2 : at + 4])[0]
        segments.append((data[at + 1], data[at + 4 : at + 2 + size]))
        at += 2 + size
    scan = data[at:]
    if not segments:
        return data
    index = random.randrange(len(segments))
    marker, body = segments[index]
    sides = struct.pack(">HH", random.choice((0, 1, 500, 65535)), random.choice((0, 1, 500, 65535)))
    frame = bytes((random.choice((8, 12, 0)),)) + sides + bytes((1, 1, random.choice((0x11, 0x44, 0x00, 0xFF)), 0))
    exif = b"Exif\0\0" + random.choice((b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08")) + random.randbytes(60)
    new = random.choice(
        (
            (random.choice((0xC0, 0xC1, 0xC2, 0xC3, 0xC9)), frame), (0xE1, exif), (0xE2,
            b"ICC_PROFILE\0\1\1" + _PROFILE[:300]),
            (0xEE, b"Adobe\0d\0\0\0\0" + bytes((random.randrange(3),))), (0xDD, b"\0\1"), (0xFE, b"c" * 60_000), (0xDB,
            bytes(65)),
            (0xC4, random.randbytes(40)), (0xE0, b"JFIF\0\1\1\0\0\0\0\0\0\0"), (0xE2,
            b"MPF\0II*\0" + random.randbytes(60)),
            (0xED, b"Photoshop 3.0\x008BIM" + random.randbytes(30)), (marker, body[: len(body) // 2]), (0xE1,
            b"http://ns.adobe.com/xap/1.0/\0<x"),
        )
    )  # fmt: skip
    match random.randrange(6):
        case 0:
            segments[index] = new
        case 1:
            segments.insert(index, new)
        case 2:
            del segments[index]
        case 3:
            segments.insert(random.randrange(len(segments)), segments.pop(index))
        case 4:
            scan = scan[: random.randrange(len(scan) + 1)] + scan * random.choice((0, 1, 200)) + b"\xff\xd9"
        case _:
            changed = bytearray(body or b"\0")
            changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
            segments[index] = marker, bytes(changed)
    wrong = random.randrange(len(segments) + 1) if random.random() < 0.1 else -1
    parts = [b"\xff\xd8"]
    for number, (marker, body) in enumerate(segments):
        size = random.choice((0, 1, 2, 65535)) if number == wrong else min(65535, len(body) + 2)
        parts.append(b"\xff" + bytes((marker,)) + struct.pack(">H", size) + body)
    return b"".join((*parts, scan))


def _fields(random: Random, data: bytes) -> bytes:
    """Overwrite two or four bytes near the start or the end, where sizes and offsets are."""
    changed = bytearray(data)
    area = min(len(changed), random.choice((40, 120, 400)))
    start = random.randrange(max(1, area - 4)) + random.choice((0, max(0, len(changed) - area)))
    order = random.choice(("<", ">"))
    field = random.choice(
        (
            struct.pack(order + "H", random.choice((0, 1, 3, 255, 65535))),
            struct.pack(order + "I", random.choice((0, 8, 2**16, 2**20, 2**31 - 1, 2**32 - 1))),
        )
    )
    changed[start : start + len(field)] = field
    return bytes(changed[: len(data)])


_EDITS: dict[str, Callable[[Random, bytes], bytes]] = {"PNG": _png, "JPEG": _jpeg} | dict.fromkeys(
    _FORMATS[2:], _fields
)
