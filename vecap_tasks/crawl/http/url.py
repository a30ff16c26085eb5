"""Canonical URLs, so that the same image has the same uid in every crawl.

URLs are parsed and joined as in browsers (WHATWG URL, UTS 46). The canonical form then follows RFC 3986, section 6.2.2:
no fragment, no empty query, uppercase percent-encoding only where required. The order of the query is kept.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from ada_url import join_url, normalize_url

from vecap_tasks.errors import Failure

_SCHEMES = ("http", "https")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_PATH = _UNRESERVED | frozenset(b"/:@!$&'()*+,;=")
_QUERY = (_PATH | frozenset(b"?")) - frozenset(b"'")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})|([^A-Za-z0-9._~-])")
_STRIPPED = "".join(map(chr, range(33)))  # C0 control characters and space
_TAB_OR_NEWLINE = re.compile(r"[\t\n\r]")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_SCHEME_CHARS = 100  # longer schemes are unknown
_URL = re.compile(r"(https?)://([^/?]*)([^?]*)\??(.*)", re.DOTALL)
_PORT = re.compile(r":[0-9]+\Z")
_LABEL = r"(?!xn--(?:\.|\Z))[a-z0-9_-]{1,63}"  # the standard allows more characters and lengths than DNS
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?|\[[0-9a-f:.]+\]")
_MAX_HOST = 253
_NON_ASCII = re.compile(r"[^\x00-\x7f]+")
_MAX_CHARS = 8_000  # servers refuse longer request lines
# Most URLs are canonical already and need no parsing. Excluded: hosts whose last label starts with a digit (may be
# IPv4). %80 and above, and %20, must stay encoded.
_CANONICAL = re.compile(
    r"https?://(?:[a-z0-9-]{1,63}\.){1,8}[a-z][a-z0-9-]{0,62}"
    r"/(?:[A-Za-z0-9._~/:@!$&'()*+,;=-]|%(?:[89A-F][0-9A-F]|20))*"
    r"(?:\?(?:[A-Za-z0-9._~/:@!$&()*+,;=?-]|%(?:[89A-F][0-9A-F]|20))+)?"
)


def absolute(reference: str, base: str, codec: str | None = None) -> str:
    """Return the canonical URL of *reference* relative to *base*; with an empty *base* it must be absolute.

    *codec* is the Python codec in which a page that is not UTF-8 writes queries. Raises Failure: `scheme` if it is not
    HTTP (data:, javascript:, blob: …), `bad_url` if it is not a valid URL.
    """
    return fast_path(reference, base) or slow_path(reference, base, codec)


def slow_path(reference: str, base: str, codec: str | None = None) -> str:
    """Return the result of `absolute` for any URL."""
    start = _TAB_OR_NEWLINE.sub("", reference[: 2 * _SCHEME_CHARS].lstrip(_STRIPPED))
    scheme = _SCHEME.match(start)
    if scheme and scheme[1].lower() not in _SCHEMES:
        raise Failure("scheme", scheme[1].lower()[:20])
    text = _TAB_OR_NEWLINE.sub("", reference.strip(_STRIPPED))
    if not text:
        raise Failure("bad_url", "empty")
    if len(text) > _MAX_CHARS:
        raise Failure("bad_url", "too long")
    if not scheme and not base:
        raise Failure("scheme", "")
    if not text.isascii():
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # replaces lone surrogates
        if codec is not None:
            text = _encode_query(text, codec)
    try:
        return _normalize(join_url(base, text) if base else normalize_url(text))
    except ValueError as error:
        raise Failure("bad_url") from error


def fast_path(reference: str, base: str) -> str | None:
    """Return the result of `absolute` for common URLs at a fraction of the cost; None for others."""
    root = base.find("/", 8)
    if reference.startswith(("http://", "https://")):
        url = reference
    elif root < 0 or reference[:1] in "?#.":
        return None
    elif reference.startswith("//"):
        url = base[: base.find(":") + 1] + reference
    elif reference.startswith("/"):
        url = base[:root] + reference
    elif ":" in reference:
        return None
    else:
        url = f"{base.partition('?')[0].rpartition('/')[0]}/{reference}"
    if len(url) > _MAX_CHARS or "/." in url or "xn--" in url:
        return None
    return url if _CANONICAL.fullmatch(url) else None


def canonical(url: str) -> str:
    """Return the canonical form of the absolute HTTP URL *url*. Raises Failure as `absolute` does."""
    return absolute(url, "")


def host_of(url: str) -> str:
    """Return the host of a canonical *url*, with its port if it is not the default."""
    return urlsplit(url).netloc


def _normalize(url: str) -> str:
    """Return the canonical form of *url*, which the URL standard's serializer wrote."""
    parts = _URL.fullmatch(url.partition("#")[0])
    if parts is None:
        raise Failure("scheme", url.partition(":")[0][:20])
    scheme, host, path, query = parts.groups()
    if "@" in host:
        raise Failure("bad_url", "credentials")  # a request would send them
    name = _PORT.sub("", host)
    if not _HOST.fullmatch(name) or len(name) > _MAX_HOST:
        raise Failure("bad_url", "host")
    if "xn--" in name and not _is_encoded_once(name):
        raise Failure("bad_url", "host")
    path = _escape(path, _PATH) or "/"
    normalized = f"{scheme}://{host}{path}{'?' if query else ''}{_escape(query, _QUERY)}"
    if len(normalized) > _MAX_CHARS:
        raise Failure("bad_url", "too long")
    return normalized


def _is_encoded_once(name: str) -> bool:
    """Return whether encoding the Unicode form of *name* gives *name* again. Raises ValueError if it has none."""
    labels = name.split(".")
    decoded = [label[4:].encode().decode("punycode") if label.startswith("xn--") else label for label in labels]
    return normalize_url(f"http://{'.'.join(decoded)}/") == f"http://{name}/"


def _encode_query(text: str, codec: str) -> str:
    """Percent-encode the query in *codec*, and characters that it lacks as `&#…;` (WHATWG URL, 'percent-encode')."""
    rest, hash_mark, fragment = text.partition("#")
    path, mark, query = rest.partition("?")

    def replace(match: re.Match[str]) -> str:
        encoded = b"".join(_encode_character(character, codec) for character in match[0])
        return "".join(chr(byte) if byte in _QUERY or byte == ord("%") else f"%{byte:02X}" for byte in encoded)

    return path + mark + _NON_ASCII.sub(replace, query) + hash_mark + fragment


def _encode_character(character: str, codec: str) -> bytes:
    try:
        return character.encode(codec)
    except UnicodeEncodeError:
        return b"%%26%%23%d%%3B" % ord(character)


def _escape(text: str, allowed: frozenset[int]) -> str:
    def replace(match: re.Match[bytes]) -> bytes:
        if match[1] is not None:
            byte = int(match[1], 16)
            return bytes([byte]) if byte in _UNRESERVED else b"%%%02X" % byte
        byte = match[2][0]
        return match[2] if byte in allowed else b"%%%02X" % byte

    return _ESCAPE.sub(replace, text.encode()).decode("ascii")
