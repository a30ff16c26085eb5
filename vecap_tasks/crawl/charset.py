"""The charset of a page, found as browsers do it: byte order mark, HTTP header, meta element, then a guess."""

from __future__ import annotations

import codecs
import re

from charset_normalizer import from_bytes

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_META = re.compile(rb"<meta[^>]{0,300}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]+)", re.IGNORECASE)
_META_BYTES = 4096  # the standard says 1,024; pages that put more before it are read as they are meant
_GUESS_BYTES = 1 << 16
# Labels that mean a wider encoding than their name says (WHATWG Encoding Standard, section 4.2).
_WIDER = {
    "iso-8859-1": "windows-1252",
    "iso8859-1": "windows-1252",
    "latin1": "windows-1252",
    "latin-1": "windows-1252",
    "us-ascii": "windows-1252",
    "ascii": "windows-1252",
    "iso-8859-9": "windows-1254",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "x-gbk": "gb18030",
    "shift_jis": "cp932",
    "shift-jis": "cp932",
    "x-sjis": "cp932",
    "euc-kr": "cp949",
    "ks_c_5601-1987": "cp949",
    "big5": "big5hkscs",
}


def to_utf8(body: bytes, header: str | None) -> bytes:
    """Return *body* in UTF-8, with U+FFFD for bytes that do not fit; *header* is the charset of the HTTP header.

    A page that is in UTF-8 already, as most are, is returned as it is, and not made into text in between.
    """
    for mark, name in _MARKS:
        if body.startswith(mark):
            return body[len(mark) :].decode(name, "replace").encode()
    codec = _codec(header)
    if codec is None and (meta := _META.search(body[:_META_BYTES])):
        codec = _codec(meta[1].decode("ascii"))
        if codec and codec.startswith("utf-16"):  # a page whose meta can be read is not UTF-16
            codec = None
    if codec in (None, "utf-8"):
        try:
            body.decode("utf-8")
        except UnicodeDecodeError:
            codec = codec or _guess(body)
        else:
            return body
    return body.decode(codec, "replace").encode("utf-8", "replace")


def _guess(body: bytes) -> str:
    guess = from_bytes(body[:_GUESS_BYTES]).best()
    return guess.encoding if guess else "windows-1252"


def _codec(label: str | None) -> str | None:
    if not label:
        return None
    name = label.strip().strip("\"'").lower()
    name = _WIDER.get(name, name)
    try:
        info = codecs.lookup(name)
    except (LookupError, ValueError):
        return None
    return info.name if info._is_text_encoding else None
