"""Character encoding of a page, in browser order: byte order mark, HTTP header, meta element, then detection."""

from __future__ import annotations

import codecs
import re

from charset_normalizer import from_bytes

_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_META = re.compile(rb"<meta[^>]{0,300}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]+)", re.IGNORECASE)
_META_BYTES = 4096  # the standard says 1,024; some pages declare the charset later
_XML = re.compile(rb"<\?xml[^>]{0,300}?encoding\s*=\s*[\"']([A-Za-z0-9_.:-]+)")
_XML_UTF16 = ((b"<\0?\0x\0", "utf-16-le"), (b"\0<\0?\0x", "utf-16-be"))
_GUESS_BYTES = 1 << 16
# Labels of the WHATWG Encoding Standard, section 4.2, by Python codec; several labels map to a superset encoding. Other
# labels are ignored: Python also has codecs that are not web encodings (`idna`, `punycode`, `undefined`) and that raise
# or take quadratic time with any error handler. Differences from the standard: `latin-1`, `utf-16-le` and `utf-16-be`
# are added; iso-2022-kr and hz-gb-2312 are decoded, because they are a risk only in browsers; iso-2022-cn and
# x-user-defined, which Python lacks, are unknown.
_LABELS = {
    "utf-8": "unicode-1-1-utf-8 unicode11utf8 unicode20utf8 utf-8 utf8 x-unicode20utf8",
    "utf-16-le": "csunicode iso-10646-ucs-2 ucs-2 unicode unicodefeff utf-16 utf-16-le utf-16le",
    "utf-16-be": "unicodefffe utf-16-be utf-16be",
    "cp866": "866 cp866 csibm866 ibm866",
    "cp874": "dos-874 iso-8859-11 iso8859-11 iso885911 tis-620 windows-874",
    "cp1250": "cp1250 windows-1250 x-cp1250",
    "cp1251": "cp1251 windows-1251 x-cp1251",
    "cp1252": "ansi_x3.4-1968 ascii cp1252 cp819 csisolatin1 ibm819 iso-8859-1 iso-ir-100 iso8859-1 iso88591 "
    "iso_8859-1 iso_8859-1:1987 l1 latin-1 latin1 us-ascii windows-1252 x-cp1252",
    "cp1253": "cp1253 windows-1253 x-cp1253",
    "cp1254": "cp1254 csisolatin5 iso-8859-9 iso-ir-148 iso8859-9 iso88599 iso_8859-9 iso_8859-9:1989 l5 latin5 "
    "windows-1254 x-cp1254",
    "cp1255": "cp1255 windows-1255 x-cp1255",
    "cp1256": "cp1256 windows-1256 x-cp1256",
    "cp1257": "cp1257 windows-1257 x-cp1257",
    "cp1258": "cp1258 windows-1258 x-cp1258",
    "iso8859-2": "csisolatin2 iso-8859-2 iso-ir-101 iso8859-2 iso88592 iso_8859-2 iso_8859-2:1987 l2 latin2",
    "iso8859-3": "csisolatin3 iso-8859-3 iso-ir-109 iso8859-3 iso88593 iso_8859-3 iso_8859-3:1988 l3 latin3",
    "iso8859-4": "csisolatin4 iso-8859-4 iso-ir-110 iso8859-4 iso88594 iso_8859-4 iso_8859-4:1988 l4 latin4",
    "iso8859-5": "csisolatincyrillic cyrillic iso-8859-5 iso-ir-144 iso8859-5 iso88595 iso_8859-5 iso_8859-5:1988",
    "iso8859-6": "arabic asmo-708 csiso88596e csiso88596i csisolatinarabic ecma-114 iso-8859-6 iso-8859-6-e "
    "iso-8859-6-i iso-ir-127 iso8859-6 iso88596 iso_8859-6 iso_8859-6:1987",
    "iso8859-7": "csisolatingreek ecma-118 elot_928 greek greek8 iso-8859-7 iso-ir-126 iso8859-7 iso88597 iso_8859-7 "
    "iso_8859-7:1987 sun_eu_greek",
    "iso8859-8": "csiso88598e csiso88598i csisolatinhebrew hebrew iso-8859-8 iso-8859-8-e iso-8859-8-i iso-ir-138 "
    "iso8859-8 iso88598 iso_8859-8 iso_8859-8:1988 logical visual",
    "iso8859-10": "csisolatin6 iso-8859-10 iso-ir-157 iso8859-10 iso885910 l6 latin6",
    "iso8859-13": "iso-8859-13 iso8859-13 iso885913",
    "iso8859-14": "iso-8859-14 iso8859-14 iso885914",
    "iso8859-15": "csisolatin9 iso-8859-15 iso8859-15 iso885915 iso_8859-15 l9",
    "iso8859-16": "iso-8859-16",
    "koi8-r": "cskoi8r koi koi8 koi8-r koi8_r",
    "koi8-u": "koi8-ru koi8-u",
    "mac-roman": "csmacintosh mac macintosh x-mac-roman",
    "mac-cyrillic": "x-mac-cyrillic x-mac-ukrainian",
    "gb18030": "chinese csgb2312 csiso58gb231280 gb18030 gb2312 gb_2312 gb_2312-80 gbk iso-ir-58 x-gbk",
    "big5hkscs": "big5 big5-hkscs cn-big5 csbig5 x-x-big5",
    "euc_jp": "cseucpkdfmtjapanese euc-jp x-euc-jp",
    "cp932": "csshiftjis ms932 ms_kanji shift-jis shift_jis sjis windows-31j x-sjis",
    "iso2022_jp": "csiso2022jp iso-2022-jp",
    "cp949": "cseuckr csksc56011987 euc-kr iso-ir-149 korean ks_c_5601-1987 ks_c_5601-1989 ksc5601 ksc_5601 "
    "windows-949",
    "iso2022_kr": "csiso2022kr iso-2022-kr",
    "hz": "hz-gb-2312",
}
_CODECS = {label: codec for codec, labels in _LABELS.items() for label in labels.split()}


def to_utf8(body: bytes, header: str | None) -> bytes:
    """Return *body* in UTF-8, with U+FFFD for invalid bytes; *header* is the charset of the HTTP header.

    A body that is valid UTF-8 is returned unchanged.
    """
    for bom, name in _BOMS:
        if body.startswith(bom):
            return body[len(bom) :].decode(name, "replace").encode()
    codec = _codec(header or "") or _declared_codec(body[:_META_BYTES])
    if codec in (None, "utf-8"):
        try:
            body.decode("utf-8")
        except UnicodeDecodeError:
            codec = codec or _detect(body)
        else:
            return body
    return body.decode(codec, "replace").encode("utf-8", "replace")


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
    guess = from_bytes(body[:_GUESS_BYTES]).best()
    return guess.encoding if guess else "windows-1252"


def _codec(label: str) -> str | None:
    """Return the Python codec for *label*, None if the standard does not define it."""
    return _CODECS.get(label.strip("\t\n\f\r \"'").lower())
