"""Non-image files that servers send instead of an image."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tests.data.images.picture import Made, plain, saved


def disguises() -> Iterator[Made]:
    yield Made("empty.jpg", b"", "no byte at all", "empty")
    page = b"\xef\xbb\xbf\n<!DOCTYPE html><html><body>Not found</body></html>"
    yield Made("page.jpg", page, "a page", "not_an_image: html")
    drawing = b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>'
    yield Made("drawing.png", drawing, "SVG", "not_an_image: svg")
    yield Made(
        "fault.jpg", b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML", "not_an_image: xml"
    )
    yield Made("answer.jpg", b'{"error": "expired"}', "JSON", "not_an_image: json")
    yield Made("paper.jpg", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj", "PDF", "not_an_image: pdf")
    yield Made("archive.png", b"PK\3\4" + bytes(30), "an archive", "not_an_image: zip")
    yield Made("packed.jpg", b"\x1f\x8b\x08" + bytes(20), "gzip", "not_an_image: gzip")
    yield Made("icon.png", saved(plain(size=(16, 16)), "ICO"), "an icon", "not_an_image: ico")
    phone = struct.pack(">I", 24) + b"ftypheic" + bytes(12)
    yield Made("phone.jpg", phone, "HEIC", "not_an_image: heic")
    film = struct.pack(">I", 24) + b"ftypisom" + bytes(12)
    yield Made("film.jpg", film, "a film", "not_an_image: video")
    yield Made("text.png", b"Rate limit exceeded. Try again later.", "text", "not_an_image")
    yield Made("zeros.jpg", bytes(64), "zeros", "not_an_image")
    yield Made("start.jpg", b"\xff\xd8\xff\xe0" + bytes(20), "a JPEG's first bytes, then zeros", "damaged")
