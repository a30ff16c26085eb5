"""Decoding of web images to JPEGs, and rejection of files that are not images."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from tests.crawl.web import image
from tests.data.images.picture import png
from vecap_tasks.config import ImageConfig
from vecap_tasks.crawl.image.decode import decode
from vecap_tasks.errors import Failure

CONFIG = ImageConfig(size=64)


def decode_image(body, config=CONFIG):
    picture, jpeg = decode(body, config)
    result = Image.open(io.BytesIO(jpeg))
    result.load()
    assert (result.format, result.mode, result.size) == ("JPEG", "RGB", (picture.width, picture.height))
    return picture, result


def encode(picture, kind="PNG", **options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def failure_message(body, config=CONFIG):
    with pytest.raises(Failure) as failure:
        decode(body, config)
    return failure.value.message


def is_close(result, position, color):
    return all(abs(a - b) <= 12 for a, b in zip(result.getpixel(position), color, strict=True))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF"])
def test_web_image_formats_are_decoded(kind):
    picture, result = decode_image(image(kind, (300, 200), "#c02010"))
    assert (picture.original_format, picture.original_width, picture.original_height) == (kind, 300, 200)
    assert result.size == (96, 64)
    assert is_close(result, (50, 30), (0xC0, 0x20, 0x10))


def test_small_images_are_not_enlarged():
    assert decode_image(image("PNG", (40, 30)))[1].size == (40, 30)
    assert decode_image(image("PNG", (64, 640)))[1].size == (64, 640)


def test_a_large_jpeg_keeps_its_proportions():
    picture, result = decode_image(image("JPEG", (1999, 1001)))
    assert (picture.original_width, picture.original_height) == (1999, 1001)
    assert result.size == (128, 64)


def test_transparency_is_rendered_on_white():
    for body in (
        encode(Image.new("RGBA", (20, 20), (0, 0, 0, 0))),
        encode(Image.new("LA", (20, 20), (0, 0))),
        encode(Image.new("P", (20, 20), 0), transparency=0),
        encode(Image.new("RGB", (20, 20), "black"), transparency=(0, 0, 0)),
        encode(Image.new("RGBA", (20, 20), (0, 0, 0, 0)), "WEBP", lossless=True),
    ):
        assert is_close(decode_image(body)[1], (10, 10), (255, 255, 255))
    half = decode_image(encode(Image.new("RGBA", (20, 20), (255, 0, 0, 128))))[1]
    assert is_close(half, (10, 10), (255, 127, 127))


def test_16_bit_images_become_8_bit():
    gray = Image.fromarray(np.full((20, 20), 0x8000, np.uint16))
    assert is_close(decode_image(encode(gray))[1], (10, 10), (128, 128, 128))
    assert is_close(decode_image(encode(gray, "TIFF"))[1], (10, 10), (128, 128, 128))


def test_other_color_modes_are_converted():
    assert is_close(decode_image(image("JPEG", (20, 20), (0, 255, 255, 0), "CMYK"))[1], (10, 10), (255, 0, 0))
    assert is_close(decode_image(image("PNG", (20, 20), 1, "1"))[1], (10, 10), (255, 255, 255))
    assert is_close(decode_image(image("PNG", (20, 20), 90, "L"))[1], (10, 10), (90, 90, 90))


def test_valid_color_profiles_are_applied_and_invalid_ones_ignored():
    plain = Image.new("RGB", (20, 20), (200, 100, 50))
    assert is_close(decode_image(encode(plain, icc_profile=b"no profile"))[1], (10, 10), (200, 100, 50))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert is_close(decode_image(encode(plain, icc_profile=srgb))[1], (10, 10), (200, 100, 50))
    swapped = srgb.replace(b"rXYZ", b"none", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"none", b"bXYZ", 1)
    assert is_close(decode_image(encode(plain, icc_profile=swapped))[1], (10, 10), (50, 100, 200))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = Image.new("RGB", (120, 60), "white")
    upright.paste("red", (0, 0, 40, 30))
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the inverse transpositions
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(turn[orientation]))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    picture, result = decode_image(encode(stored, "JPEG", exif=exif, quality=95))
    assert (picture.original_width, picture.original_height) == (120, 60)
    assert is_close(result, (10, 10), (254, 0, 0))
    assert is_close(result, (110, 50), (255, 255, 255))


def test_exif_is_kept_as_json_without_location():
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Camera"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] = 200
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (51.0, 30.0, 0.0)
    picture, result = decode_image(encode(Image.new("RGB", (20, 20)), "JPEG", exif=exif, comment=b"hidden"))
    assert json.loads(picture.exif) == {"ISOSpeedRatings": "200", "Make": "Camera"}
    assert not result.getexif()
    assert "comment" not in result.info
    assert decode_image(image())[0].exif == "{}"


def test_animations_use_the_first_frame():
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "lime", "blue")]
    body = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert is_close(decode_image(body)[1], (10, 10), (254, 0, 0))


def test_the_pixel_limit_is_checked_in_the_header():
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    assert failure_message(bomb + chunk(b"IDAT", zlib.compress(b"\0" * 1000))) == (
        "too_many_pixels: more than any configuration allows"
    )
    assert failure_message(image("JPEG", (101, 100)), ImageConfig(max_pixels=10_000)) == "too_many_pixels: 101x100"


def test_a_png_without_its_palette_is_damaged():
    assert failure_message(png((4, 4), 8, 3, b"\0\1\1\1\1" * 4)) == "damaged"


def test_non_images_are_identified():
    assert failure_message(b"") == "empty"
    assert failure_message(b"<html><body>Not found</body></html>") == "not_an_image: html"
    assert failure_message(b"<svg xmlns='http://www.w3.org/2000/svg'></svg>") == "not_an_image: svg"
    assert failure_message(image("ICO")) == "not_an_image: ico"
    assert failure_message(b"\xff\xd8\xff\xe0" + b"\0" * 20) in ("not_an_image", "damaged")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF"])
def test_truncated_files_are_rejected(kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 80, 3), np.uint8))
    body = encode(noise, kind)
    for length in (len(body) // 2, len(body) * 9 // 10):
        assert failure_message(body[:length]) in ("truncated", "damaged", "not_an_image")


def test_the_same_bytes_give_the_same_jpeg():
    body = image("PNG", (300, 200), "#204060")
    assert decode(body, CONFIG) == decode(body, CONFIG)
