"""The pixel limit holds for what is decoded, ancillary PNG chunks do not matter, and only EXIF rotates an image."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.data.images.picture import ORANGE, chunk, png
from vecap_tasks.config import ImageConfig
from vecap_tasks.crawl.image.decode import DecodedImage, decode
from vecap_tasks.errors import Failure

CONFIG = ImageConfig(size=512, max_pixels=100_000)
LARGE = Image.new("RGB", (640, 480), ORANGE)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pixels(body: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(decode(body, CONFIG)[1])).convert("RGB")).astype(int)


def tiled_tiff(side: int) -> bytes:
    """A TIFF of 64 x 64 pixels whose only tile has *side* x *side* pixels."""
    entries = (
        (256, 64),
        (257, 64),
        (258, 8),
        (259, 1),
        (262, 1),
        (277, 1),
        (322, side),
        (323, side),
        (324, 8),
        (325, 64),
    )
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<I", 80) + bytes(72) + struct.pack("<H", len(entries)) + directory + bytes(4)


def avif_with_declared_size(side: int) -> bytes:
    body = saved(LARGE, "AVIF")
    assert body.count(b"ispe") == 1
    at = body.index(b"ispe") + 8
    return body[:at] + struct.pack(">II", side, side) + body[at + 8 :]


def jpeg2000_with_declared_size(side: int) -> bytes:
    body = saved(LARGE, "JPEG2000")
    at = body.index(b"ihdr") + 4
    return body[:at] + struct.pack(">II", side, side) + body[at + 8 :]


@pytest.mark.parametrize(
    "body",
    [avif_with_declared_size(64), jpeg2000_with_declared_size(64), tiled_tiff(30_000)],
    ids=["avif", "jpeg2000", "tiff"],
)
def test_the_pixel_limit_applies_to_the_decoded_size(body: bytes) -> None:
    with Image.open(io.BytesIO(body)) as image:
        assert image.size == (64, 64), "the container declares a small image"
    with pytest.raises(Failure, match=r"^too_many_pixels: (640x480|30000x30000)$"):
        decode(body, CONFIG)


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000"])
def test_an_image_within_the_limit_is_decoded(kind: str) -> None:
    image = decode(saved(LARGE, kind), ImageConfig(max_pixels=640 * 480))[0]
    assert (image.original_width, image.original_height) == (640, 480)


@pytest.mark.parametrize("cut", [0.5, 0.9, 0.99])
def test_a_truncated_avif_fails_as_one_row(cut: float) -> None:
    body = saved(LARGE, "AVIF")
    with pytest.raises(Failure):
        decode(body[: int(len(body) * cut)], CONFIG)


def orange_rows(depth: int = 8) -> bytes:
    pixel = bytes(ORANGE) if depth == 8 else b"".join(bytes((value, value)) for value in ORANGE)
    return (b"\0" + pixel * 32) * 32


CHUNKS = {
    "wrong checksum of a text": chunk(b"tEXt", b"Comment\0hello")[:-1] + b"?",
    "wrong checksum of a profile": chunk(b"iCCP", b"p\0\0" + zlib.compress(b"x" * 500))[:-1] + b"?",
    "text that unpacks to 20 MB": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(20_000_000), 9)),
    "profile that unpacks to 20 MB": chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(20_000_000), 9)),
    "profile that is not compressed": chunk(b"iCCP", b"p\0\0not zlib"),
    "time with the wrong length": chunk(b"tIME", b"1"),
}


@pytest.mark.parametrize("name", CHUNKS)
def test_a_damaged_ancillary_chunk_does_not_matter(name: str) -> None:
    body = png((32, 32), 8, 2, orange_rows(), CHUNKS[name])
    assert np.abs(pixels(body) - ORANGE).max() <= 3


def test_a_damaged_critical_chunk_does() -> None:
    body = png((32, 32), 8, 2, orange_rows())
    at = body.index(b"IDAT") + 10
    with pytest.raises(Failure, match="damaged"):
        decode(body[:at] + bytes([body[at] ^ 255]) + body[at + 1 :], CONFIG)


@pytest.mark.parametrize("depth", [2, 4])
def test_a_transparent_gray_of_few_bits_becomes_white(depth: int) -> None:
    row = b"\0" + bytes([0x55 if depth == 2 else 0x11]) * (32 * depth // 8)
    body = png((32, 32), depth, 0, row * 32, chunk(b"tRNS", struct.pack(">H", 1)))
    assert pixels(body).min() >= 253


def test_a_transparent_16_bit_color_becomes_white_and_its_neighbors_stay() -> None:
    color, near = struct.pack(">3H", 53_456, 26_728, 12_336), struct.pack(">3H", 53_457, 26_728, 12_336)
    rows = (b"\0" + color * 16 + near * 16) * 32
    made = pixels(png((32, 32), 16, 2, rows, chunk(b"tRNS", color)))
    assert made[:, :12].min() >= 250
    assert np.abs(made[:, 20:] - ORANGE).max() <= 6


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
def test_only_exif_rotates(kind: str) -> None:
    image = Image.new("RGB", (64, 32), ORANGE)
    exif = Image.Exif()
    exif[0x0112] = 6

    def size(**options: object) -> tuple[int, int]:
        made: DecodedImage = decode(saved(image, kind, **options), CONFIG)[0]
        return made.width, made.height

    assert size(exif=exif) == (32, 64)
    if kind != "PNG":
        assert size(xmp=XMP) == (64, 32)
        return
    text = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)
    made = decode(png((64, 32), 8, 2, (b"\0" + bytes(ORANGE) * 64) * 32, text), CONFIG)[0]
    assert (made.width, made.height) == (64, 32)
