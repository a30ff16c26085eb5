"""Seeds of archives: WARC, ARC and WAT files, and webdataset tars."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Sequence
from random import Random
from typing import Any

from benchmarks.fuzz_bytes import NUMBERS, mutate
from benchmarks.fuzz_images import small_image
from benchmarks.fuzz_text import URLS, caption, number, response, url, value

WARC_TOKENS = (
    b"WARC/1.0\r\n", b"WARC/1.1\r\n", b"WARC/0.18\r\n", b"\r\n\r\n", b"\r\n", b"WARC-Type: response\r\n", b"\n",
    b" folded\r\n", b"WARC-Type: revisit\r\n", b"Content-Length: 0\r\n", b"WARC-Target-URI: <http://a.example/>\r\n",
    b"HTTP/1.1 200 OK\r\n", b"filedesc://x 0.0.0.0 20200101000000 text/plain 5\n", b"WARC-Truncated: length\r\n",
    b"\x1f\x8b", b"HTTP/", b"Content-Type: application/http; msgtype=response\r\n",
    b"http://a.example/ 1.2.3.4 20200101000000 text/html 5\nhello\n",
)  # fmt: skip
TAR_TOKENS = (
    b"\0" * 512,
    b"ustar\0",
    b"ustar  \0",
    b"\x80",
    b"\xff" * 12,
    b"30 mtime=1\n",
    b"a.jpg\0",
    b"00000000000\0",
)


def warc(random: Random) -> bytes:
    """Return a WARC or ARC file, plain or of gzip members, with headers that can be wrong."""
    if random.random() < 0.15:
        return _arc(random)
    members = [_warc_record(random, *_content(random)) for _ in range(random.choice((1, 2, 4)))]
    return _pack(random, members)


def _content(random: Random) -> tuple[bytes, bytes]:
    kind = random.choice((*[b"response"] * 12, b"resource", b"revisit", b"warcinfo", b"metadata", b"x"))
    body = small_image(random) if random.random() < 0.3 else None
    media = random.choice((b"image/png", b"image/jpeg")) if body else None
    return kind, response(random, body, media)


def _warc_record(random: Random, kind: bytes, block: bytes, target: bytes | None = None) -> bytes:
    length = len(block)
    if random.random() < 0.04:
        length = random.choice((0, length - 1, length + 1, length * 2, 2**40, 2**70, -1))
    target = target or random.choice(URLS).encode("utf-8", "surrogatepass")
    lines = [
        random.choice((b"WARC/1.0", b"WARC/1.1") * 40 + (b"WARC/0.18", b"WARC/2")),
        b"WARC-Type: " + kind,
        b"WARC-Target-URI: " + random.choice((target, b"<" + target + b">")),
        b"Content-Length: " + (random.choice(NUMBERS) if random.random() < 0.02 else b"%d" % length),
        b"Content-Type: application/http; msgtype=response",
        *random.sample(
            (b"WARC-Payload-Digest: sha1:AAAA", b"WARC-Truncated: length",
            b"WARC-Refers-To-Target-URI: http://a.example/",
             b"no colon", b" folded", b"WARC-Date: x", b"X: " + b"y" * 2000, b"Content-Length: 3"), random.choice((0,
             0, 1, 3))
        ),
    ]  # fmt: skip
    line_end = random.choice((b"\r\n", b"\r\n", b"\r\n", b"\n"))
    return line_end.join(lines) + line_end * 2 + block + line_end * random.choice((2,) * 60 + (1, 0, 5))


def _arc(random: Random) -> bytes:
    head = b"filedesc://x.arc 0.0.0.0 20200101000000 text/plain 8\n1 0 test\n\n"
    members = [head]
    for _ in range(random.randrange(1, 4)):
        block = response(random)
        length = len(block) + random.choice((0, 0, 0, 0, 0, 1, -1, 10**9))
        address = random.choice(URLS).encode("utf-8", "surrogatepass")
        members.append(address + b" 1.2.3.4 20200101000000 text/html %d\n" % length + block + b"\n")
    return _pack(random, members)


def _pack(random: Random, members: Sequence[bytes]) -> bytes:
    """Return *members* plain, each gzipped, or gzipped together, with members that can be damaged or repeated."""
    members = [
        mutate(random, member, WARC_TOKENS, lambda random: b"WARC/1.0\r\n") if random.random() < 0.06 else member
        for member in members
    ]
    choice = random.random()
    if choice < 0.35:
        return b"".join(members)
    if choice < 0.45:
        return gzip.compress(b"".join(members), 1, mtime=0)
    packed = [gzip.compress(member, 1, mtime=0) for member in members]
    if random.random() < 0.15:
        index = random.randrange(len(packed))
        member = packed[index]
        packed[index] = random.choice(
            (
                member[: len(member) // 2],
                member[:-8] + bytes(8),
                member + b"junk",
                member * 3,
                b"",
                gzip.compress(b"", mtime=0),
            )
        )
    return b"".join(packed)


def wat(random: Random) -> bytes:
    """Return a WAT file: metadata records with JSON."""
    members = []
    for _ in range(random.choice((1, 2, 4))):
        links = [
            {"path": random.choice(("IMG@/src", "IMG@/src", "A@/href", 5)), "url": random.choice((url(random),
            value(random))),
             "alt": random.choice((caption(random, 6), value(random)))} for _ in range(random.randrange(5))
        ]  # fmt: skip
        head = {
            "Title": random.choice((caption(random, 5), value(random))),
            "Base": random.choice((url(random), value(random))),
            "Metas": random.choice(([{"name": "robots", "content": "noai"}], [{"name": value(random)}], value(random))),
        }
        html = {
            "Head": random.choice((*[head] * 9, value(random))),
            "Links": random.choice((*[links] * 15, value(random))),
        }
        reply: Any = {
            "Response-Message": {"Status": random.choice(("200", "200", "404", 200, None))},
            "Headers": random.choice(({"X-Robots-Tag": value(random)}, value(random))),
            "HTML-Metadata": random.choice((*[html] * 15, value(random))),
        }
        envelope = {
            "Payload-Metadata": {"HTTP-Response-Metadata": random.choice((*[reply] * 15, value(random)))},
            "WARC-Header-Metadata": random.choice((*[{"WARC-Target-URI": "http://a.example/p"}] * 15, value(random))),
        }
        body = json.dumps({"Envelope": random.choice((*[envelope] * 15, value(random)))})
        if random.random() < 0.1:
            body = body.replace("200", random.choice(("[" * 2000, '{"a":' * 500, "9" * 5000, "1e999", "NaN")), 1)
        members.append(_warc_record(random, b"metadata", body.encode("utf-8", "surrogatepass"), b"http://a.example/p"))
    return _pack(random, members)


def tar(random: Random) -> bytes:
    """Return a webdataset tar, then edit header fields with a correct or a stale checksum."""
    out = io.BytesIO()
    kinds = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    headers = (
        {random.choice(("path", "size", "GNU.sparse.size", "mtime", "comment")): number(random)}
        if random.random() < 0.2
        else {}
    )
    with tarfile.open(fileobj=out, mode="w", format=random.choice(kinds)) as archive:
        for index in range(random.choice((0, 1, 2, 4))):
            key = random.choice((f"{index:05}", f"{index:05}", "a", "d/e", "x" * 80, "é", "", "."))
            for kind, data in _sample(random).items():
                info = tarfile.TarInfo(f"{key}.{kind}")
                info.size = len(data)
                info.type = random.choice(
                    (tarfile.REGTYPE,) * 12 + (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.GNUTYPE_SPARSE, b"x", b"L")
                )
                info.pax_headers = headers
                archive.addfile(info, io.BytesIO(data))
    data = bytearray(out.getvalue())
    if random.random() < 0.5:
        for _ in range(random.choice((1, 1, 2))):
            _edit_header(random, data)
    return bytes(data)


def _sample(random: Random) -> dict[str, bytes]:
    members = {"jpg": small_image(random), "txt": caption(random, 9).encode("utf-8", "replace")}
    members["json"] = json.dumps({"caption": caption(random, 5), "url": url(random), "uid": "ab" * 16}).encode()
    if random.random() < 0.3:
        members["json"] = json.dumps(value(random)).encode() if random.random() < 0.8 else b"[" * 3000
    members["cls"] = random.choice((b"0", b"1\n", b"5", b"\xd9\xa1", b"\xc2\xb2", b"cat", b"9" * 5000, b""))
    names = random.sample(sorted(members), random.choice((1, 2, 3, 4, 4, 4)))
    return {random.choice((name, name, name, name.upper(), "png", "webp")): members[name] for name in names}


_TAR_FIELDS = (
    (0, 100),
    (100, 8),
    (108, 8),
    (116, 8),
    (124, 12),
    (136, 12),
    (148, 8),
    (156, 1),
    (157, 100),
    (257, 8),
    (345, 155),
)


def _edit_header(random: Random, data: bytearray) -> None:
    """Change one field of a header in *data*; the checksum is usually correct again afterwards."""
    starts = [start for start in range(0, len(data) - 511, 512) if data[start + 257 : start + 262] == b"ustar"]
    if not starts:
        return
    start = random.choice(starts)
    offset, size = random.choice(_TAR_FIELDS)
    field = random.choice(
        (b"", b"\xff" * size, b"\x80" + bytes(max(0, size - 2)) + b"\x01", b"7" * size, b"-1", b"-777777777", b" 12 ",
        b"9",
         random.randbytes(size), b"\x80" + b"\xff" * (size - 1), b"x", b"g", b"L", b"K", b"S", b"5", b"1",
         b"\xff" + bytes(size - 1),
         b"00000000012\0", b"1_0")
    )  # fmt: skip
    data[start + offset : start + offset + size] = field[:size].ljust(size, b"\0")
    if random.random() < 0.85 and offset != 148:
        data[start + 148 : start + 156] = b" " * 8
        data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
