"""Content codings: as named, or not applied at all; bounded in output, members and layers."""

import gzip
import os
import time
import zlib

import brotli
import pytest

from tests.crawl.web import image
from vecap_tasks.crawl.http.content_encoding import decode_body
from vecap_tasks.errors import Failure

PAGE = b"<!DOCTYPE html><title>A plain page</title>" + b"<p>with text</p>\n" * 200
LIMIT = 1 << 20


def reason(body, *codings):
    with pytest.raises(Failure) as error:
        decode_body(body, "", codings, LIMIT)
    return error.value.message


@pytest.mark.parametrize("coding", ["br", "gzip", "x-gzip", "deflate", "zstd", "unknown"])
@pytest.mark.parametrize(
    "body",
    [PAGE, "<p>日本語</p>".encode(), PAGE.decode().encode("utf-16"), image(), image("JPEG"), image("WEBP"), b""],
)
def test_a_body_without_the_coding_it_names_is_unchanged(coding, body):
    assert decode_body(body, "", (coding,), LIMIT) == body


def test_every_text_survives_a_wrong_coding():
    for first in range(32, 256):
        body = bytes((first,)) + PAGE
        assert decode_body(body, "", ("br",), LIMIT) == body


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        ("br", brotli.compress(PAGE)),
        ("gzip", gzip.compress(PAGE[:1000]) + gzip.compress(PAGE[1000:1001]) + gzip.compress(PAGE[1001:])),
        ("deflate", zlib.compress(PAGE)),
        ("deflate", zlib.compress(PAGE, wbits=10)),
        ("deflate", zlib.compress(PAGE, wbits=-15)),
    ],
)
def test_codings_are_removed(coding, packed):
    assert decode_body(packed, "", (coding,), LIMIT) == PAGE
    assert decode_body(gzip.compress(packed), "", (coding, "gzip"), LIMIT) == PAGE


def test_corrupt_bodies_are_refused():
    noise = b"\x00" + os.urandom(500)
    assert reason(gzip.compress(noise)[:-9], "gzip") == "bad_encoding: cut short"
    assert reason(b"\x0b" + brotli.compress(noise * 9)[1:-20], "br") == "bad_encoding"
    assert reason(b"\x78\x9c\x00" + noise, "deflate") == "bad_encoding"


@pytest.mark.parametrize("body", [brotli.compress(bytes(64 << 20)), gzip.compress(bytes(64 << 20))], ids=["br", "gzip"])
def test_output_is_limited(body):
    assert reason(body, "gzip" if body[:1] == b"\x1f" else "br") == "too_large"


def test_members_and_layers_are_limited():
    start = time.perf_counter()
    assert reason(gzip.compress(b"") * 1_000_000, "gzip") == "bad_encoding: more than 10,000 gzip members"
    assert reason(PAGE, *["gzip"] * 6) == "bad_encoding: more than 5 codings"
    assert time.perf_counter() - start < 5


def test_a_truncated_policy_file_yields_its_start():
    packed = gzip.compress(PAGE)
    assert decode_body(packed, "", ("gzip",), 99, truncate=True) == PAGE[:100]
    assert PAGE.startswith(decode_body(packed[:-20], "", ("gzip",), LIMIT, truncate=True))
