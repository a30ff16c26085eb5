"""What a body that Pillow does not open is, as far as its first bytes tell: for people who read the reasons."""

from __future__ import annotations

_HEAD = 1024  # bytes looked at, in lower case
_IMAGES = (
    b"\xff\xd8\xff", b"\x89png", b"gif8", b"ii*\0", b"mm\0*", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjp  ",
)  # fmt: skip
_STARTS = (
    (b"%pdf", "pdf"),
    (b"pk\x03\x04", "zip"),
    (b"\x1f\x8b", "gzip"),
    (b"{", "json"),
    (b"8bps", "psd"),
    (b"\xff\x0a", "jxl"),
    (b"\0\0\0\x0cjxl ", "jxl"),
    (b"\0\0\1\0", "ico"),
    (b"\x1ae\xdf\xa3", "webm"),
)
_TAGS = ((b"<svg", "svg"), (b"<html", "html"), (b"<!doctype html", "html"), (b"<body", "html"), (b"<?xml", "xml"))
_HEIF = frozenset({b"heic", b"heix", b"mif1", b"msf1"})


def begins_as_image(body: bytes) -> bool:
    """Return whether *body* has the first bytes of a format that is decoded here, so that it must be damaged."""
    head = body[:12].lower()
    webp, avif = head[:4] == b"riff" and head[8:] == b"webp", head[4:] in (b"ftypavif", b"ftypavis")
    return webp or avif or head.startswith(_IMAGES)


def disguise(body: bytes) -> str:
    """Return the kind of *body*, which is no image, in one word; empty where it is none that is known here."""
    head = body[:_HEAD].lower()
    if head[4:8] == b"ftyp":
        return "heic" if head[8:12] in _HEIF else "video"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for start, kind in _STARTS:
        if head.startswith(start) or text.startswith(start):
            return kind
    return next((kind for tag, kind in _TAGS if tag in text), "") if text.startswith(b"<") else ""
