"""Canonical URLs, so that the same image has the same uid in every crawl.

RFC 3986, sections 6.2.2 and 6.2.3: lowercase scheme and host, host in IDNA form or as an IP address, no default port,
no fragment, no dot segments, uppercase percent-encoding only where required. The order of the query is kept.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from urllib.parse import urljoin, urlsplit

import idna

from vecap_tasks.errors import Failure

_DEFAULT_PORTS = {"http": 80, "https": 443}
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_PATH = _UNRESERVED | frozenset(b"/:@!$&'()*+,;=")
_QUERY = _PATH | frozenset(b"?")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})|([^A-Za-z0-9._~-])")
_TAB_OR_NEWLINE = re.compile(r"[\t\n\r]")
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*):")
_HOST = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?\Z")
_IPV4_LIKE = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)\.?\Z")  # browsers also read a host that ends in a number as IPv4
_MAX_HOST = 253
_MAX_CHARS = 8_000  # servers refuse longer request lines
# Most URLs are canonical already and need no parsing. Excluded: hosts whose last label starts with a digit (may be
# IPv4), and parameters (`;`), which parsers read differently. %80 and above, and %20, must stay encoded.
_CANONICAL = re.compile(
    r"https?://(?:[a-z0-9-]{1,63}\.){1,8}[a-z][a-z0-9-]{0,62}"
    r"/(?:[A-Za-z0-9._~/:@!$&'()*+,=-]|%(?:[89A-F][0-9A-F]|20))*"
    r"(?:\?(?:[A-Za-z0-9._~/:@!$&'()*+,;=?-]|%(?:[89A-F][0-9A-F]|20))+)?"
)


def absolute(reference: str, base: str) -> str:
    """Return the canonical URL of *reference* relative to *base*.

    Raises Failure: `scheme` if it is not HTTP (data:, javascript:, blob: …), `bad_url` if it is not a valid URL.
    """
    if plain := fast_path(reference, base):
        return plain
    text = _TAB_OR_NEWLINE.sub("", reference).strip("\x00\x0c\x0b ")
    scheme = _SCHEME.match(text)
    if scheme and scheme[1].lower() not in _DEFAULT_PORTS:
        raise Failure("scheme", scheme[1].lower()[:20])
    if not text:
        raise Failure("bad_url", "empty")
    if len(text) > _MAX_CHARS:
        raise Failure("bad_url", "too long")
    path, mark, query = text.partition("?")
    text = path.replace("\\", "/") + mark + query  # as browsers do
    try:
        return canonical(text if scheme else urljoin(base, text))
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
    if len(url) > _MAX_CHARS or "/." in url or url.find("//", 8) >= 0:  # urljoin treats the last two specially
        return None
    return url if _CANONICAL.fullmatch(url) else None


def canonical(url: str) -> str:
    """Return the canonical form of the absolute HTTP URL *url*. Raises Failure as `absolute` does."""
    if url.startswith(("http://", "https://")) and (plain := fast_path(url, url)):
        return plain
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise Failure("bad_url") from error
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        raise Failure("scheme", scheme[:20])
    if parts.username is not None or parts.password is not None:
        raise Failure("bad_url", "credentials")  # a request would send them
    host = _host(parts.hostname or "")
    suffix = f":{port}" if port is not None and port != _DEFAULT_PORTS[scheme] else ""
    path = _escape(_remove_dot_segments(parts.path), _PATH) or "/"
    mark = "?" if parts.query else ""
    return f"{scheme}://{host}{suffix}{path}{mark}{_escape(parts.query, _QUERY)}"


def host_of(url: str) -> str:
    """Return the host of a canonical *url*, with its port if it is not the default."""
    return urlsplit(url).netloc


def _host(name: str) -> str:
    """Return the canonical form of a host name or IP address."""
    lowered = name.lower()
    try:
        if ":" in lowered:
            if "%" in lowered:  # zone IDs are machine-specific
                raise Failure("bad_url", "host")
            return f"[{ipaddress.IPv6Address(lowered)}]"
        if not lowered.isascii():
            lowered = idna.encode(lowered, uts46=True).decode("ascii")
        if "xn--" in lowered:
            lowered.encode("ascii").decode("idna")  # raises if it is invalid
        if not _HOST.match(lowered) or len(lowered) > _MAX_HOST:
            raise Failure("bad_url", "host")
        if _IPV4_LIKE.match(lowered):
            return socket.inet_ntoa(socket.inet_aton(lowered.removesuffix(".")))
    except (ValueError, OSError) as error:  # IDNAError and UnicodeError are ValueErrors
        raise Failure("bad_url", "host") from error
    return lowered


def _remove_dot_segments(path: str) -> str:
    """Remove dot segments (RFC 3986, 5.2.4)."""
    segments: list[str] = []
    parts = path.split("/")
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        plain = part.replace("%2E", ".").replace("%2e", ".")
        if plain == "..":
            if len(segments) > 1:
                segments.pop()
        elif plain != ".":
            segments.append(part)
            continue
        if last:
            segments.append("")
    return "/".join(segments)


def _escape(text: str, allowed: frozenset[int]) -> str:
    def replace(match: re.Match[bytes]) -> bytes:
        if match[1] is not None:
            byte = int(match[1], 16)
            return bytes([byte]) if byte in _UNRESERVED else b"%%%02X" % byte
        byte = match[2][0]
        return match[2] if byte in allowed else b"%%%02X" % byte

    return _ESCAPE.sub(replace, text.encode("utf-8", "replace")).decode("ascii")
