"""Character encoding of a page, in browser order: byte order mark, HTTP header, meta element, then detection."""

from __future__ import annotations

import codecs
import re
from functools import lru_cache

import webencodings
from charset_normalizer import from_bytes

_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_META = re.compile(rb"<meta[^>]{0,300}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]+)", re.IGNORECASE)
_META_BYTES = 4096  # the standard says 1,024; some pages declare the charset later
_XML = re.compile(rb"<\?xml[^>]{0,300}?encoding\s*=\s*[\"']([A-Za-z0-9_.:-]+)")
_XML_UTF16 = ((b"<\0?\0x\0", "utf-16-le"), (b"\0<\0?\0x", "utf-16-be"))
_GUESS_BYTES = 1 << 16
# Labels that are no labels of the WHATWG Encoding Standard, or that it forbids because of risks in browsers only.
_MORE_LABELS = {
    "latin-1": "windows-1252",
    "utf-16-le": "utf-16le",
    "utf-16-be": "utf-16be",
    "csiso2022kr": "iso2022_kr",
    "iso-2022-kr": "iso2022_kr",
    "hz-gb-2312": "hz",
    "x-user-defined": "windows-1252",  # as the standard reads it in a meta element
}
_FORBIDDEN = "replacement"
_DECODERS = {"gbk": "gb18030"}  # the standard decodes both alike and encodes gbk without four-byte sequences
# Web encodings to detect; Python also has codecs that are not web encodings.
_DETECTED = [
    "utf_8", "cp1252", "cp1251", "cp1250", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "cp874", "cp866",
    "cp932", "euc_jp", "iso2022_jp", "gb18030", "big5hkscs", "cp949", "koi8_r", "koi8_u", "iso8859_2", "iso8859_5",
    "iso8859_7", "iso8859_15",
]  # fmt: skip


def to_utf8(body: bytes, header: str | None) -> bytes:
    """Return *body* in UTF-8, with U+FFFD for invalid bytes; *header* is the charset of the HTTP header.

    A body that is valid UTF-8 is returned unchanged.
    """
    return decode_page(body, header)[0]


def decode_page(body: bytes, header: str | None) -> tuple[bytes, str | None]:
    """Return *body* as `to_utf8` does, and the Python codec of the queries in its URLs (None: UTF-8)."""
    for bom, name in _BOMS:
        if body.startswith(bom):
            return body[len(bom) :].decode(name, "replace").encode(), None
    codec = _codec(header or "") or _declared_codec(body[:_META_BYTES])
    if codec in (None, "utf-8"):
        try:
            body.decode("utf-8")
        except UnicodeDecodeError:
            codec = codec or _detect(body)
        else:
            return body, None
    text = _decode(body, codec)
    return text.encode("utf-8", "replace"), None if codec.startswith("utf") else codec


def _decode(body: bytes, codec: str) -> str:
    codec = _DECODERS.get(codec, codec)
    if codec.startswith("cp125") or codec == "cp874":
        return codecs.charmap_decode(body, "replace", _windows_table(codec))[0]
    return body.decode(codec, "replace")


@lru_cache
def _windows_table(codec: str) -> str:
    """Return the 256 characters of a Windows encoding; the standard maps undefined bytes to control characters."""
    characters = bytes(range(256)).decode(codec, "replace")
    return "".join(
        chr(byte) if character == "\ufffd" and byte < 0xA0 else character for byte, character in enumerate(characters)
    )


def _declared_codec(head: bytes) -> str | None:
    """Return the codec that the page declares: the first known label of a meta element, else of the XML declaration."""
    for start, codec in _XML_UTF16:
        if head.startswith(start):
            return codec
    labels = [match[1] for match in _META.finditer(head)]
    if declaration := _XML.match(head):
        labels.append(declaration[1])
    for label in labels:
        named = _codec(label.decode("ascii"))
        if named and not named.startswith("utf-16"):  # an ASCII-readable declaration rules out UTF-16
            return named
    return None


def _detect(body: bytes) -> str:
    guess = from_bytes(body[:_GUESS_BYTES], cp_isolation=_DETECTED).best()
    return guess.encoding if guess else "cp1252"


@lru_cache(maxsize=256)
def _codec(label: str) -> str | None:
    """Return the Python codec for *label*, None if the standard does not define it."""
    label = label.strip("\t\n\f\r \"'").lower()
    encoding = webencodings.lookup(_MORE_LABELS.get(label, label))
    if encoding is None or encoding.name == _FORBIDDEN:
        return _MORE_LABELS.get(label)
    return str(encoding.codec_info.name)
