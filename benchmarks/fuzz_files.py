"""Seeds of files: lists in all formats, parquet, WARC, ARC and WAT archives, webdataset tars, evaluation sets."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from decimal import Decimal
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.fuzz_bytes import NUMBERS, mutate
from benchmarks.fuzz_images import small_image
from benchmarks.fuzz_text import KEYS, URLS, caption, number, response, text_lines, url, value

LIST_TOKENS = (
    b",", b"\t", b'"', b'""', b"\n", b"\r\n", b"url,caption\n", b"URL\tTEXT\n", b"http://a.example/1.jpg,a cat\n", b"NaN",
    b"\\N", b";", b"|", b"'", b"{", b"}", b"[", b"]", b'"url":', b'"annotations":[', b"\x00", b"9" * 400, b"\xff", b"\r",
)  # fmt: skip
WARC_TOKENS = (
    b"WARC/1.0\r\n", b"WARC/1.1\r\n", b"WARC/0.18\r\n", b"\r\n\r\n", b"\r\n", b"WARC-Type: response\r\n", b"\n", b" folded\r\n",
    b"WARC-Type: revisit\r\n", b"Content-Length: 0\r\n", b"WARC-Target-URI: <http://a.example/>\r\n", b"HTTP/1.1 200 OK\r\n",
    b"filedesc://x 0.0.0.0 20200101000000 text/plain 5\n", b"WARC-Truncated: length\r\n", b"\x1f\x8b", b"HTTP/",
    b"Content-Type: application/http; msgtype=response\r\n", b"http://a.example/ 1.2.3.4 20200101000000 text/html 5\nhello\n",
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
_LIST_KEYS = (
    "url",
    "caption",
    "TEXT",
    "URL",
    "image_url",
    "alt",
    "uid",
    "sha256",
    "similarity",
    "x y",
    "",
    "ключ",
    " url",
)


def rows(random: Random) -> list[list[str]]:
    """Return a header and rows of cells, some rows too short or too long."""
    names = random.sample(_LIST_KEYS, random.randrange(1, 6)) if random.random() < 0.4 else ["url", "caption"]
    if random.random() < 0.1:
        names.append(random.choice(names))
    table = [names]
    for _ in range(random.choice((0, 1, 3, 10))):
        cells = [random.choice((url(random), caption(random, 6), number(random)[:50], "")) for _ in names]
        table.append([*cells, "x"] if random.random() < 0.05 else cells[: random.randrange(1, 9)])
    return table


def table_list(random: Random, comma: str) -> bytes:
    """Return a CSV or TSV list."""
    out = io.StringIO(newline="")
    quoting = random.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    writer = csv.writer(out, delimiter=comma, quoting=quoting, lineterminator=random.choice(("\n", "\r\n", "\r")))
    writer.writerows(rows(random)[random.random() < 0.15 :])
    codec = random.choice(("utf-8",) * 6 + ("utf-8-sig", "utf-16", "cp1252", "utf-32"))
    return out.getvalue().encode(codec, "surrogatepass" if codec.startswith("utf-8") else "replace")


def _record(random: Random) -> Any:
    if random.random() < 0.1:
        return value(random)
    return {random.choice(_LIST_KEYS[:9] + KEYS): random.choice((url, caption, value))(random) for _ in range(4)} | {
        "url": random.choice((url(random), None, value(random)))
    }


def json_list(random: Random) -> bytes:
    """Return JSON with rows: an array, an object with an array, or an object of URL to caption."""
    records = [_record(random) for _ in range(random.choice((0, 1, 3, 8)))]
    pairs = {url(random): caption(random, 5) for _ in range(4)}
    body = random.choice((records, records, {"info": value(random), "annotations": records}, pairs, value(random)))
    text = json.dumps(body, ensure_ascii=random.random() < 0.5, indent=random.choice((None, None, 1)))
    if random.random() < 0.1:
        depth = random.choice((10, 500, 5_000, 50_000))
        text = text[:-1] + ("," if len(text) > 2 else "") + random.choice(("[", '{"a":')) * depth + "]"
    if random.random() < 0.1:
        text = text.replace("1", NUMBERS[random.randrange(len(NUMBERS))].decode(), 3)
    return text.encode("utf-8", "surrogatepass")


def json_lines(random: Random) -> bytes:
    lines = [
        json.dumps(_record(random), ensure_ascii=random.random() < 0.5) for _ in range(random.choice((0, 1, 3, 8)))
    ]
    if random.random() < 0.1:
        lines.append(random.choice(("[" * 5000, '{"url":' * 3000, "9" * 5000, '{"url": ' + "9" * 5000 + "}", "{")))
    return text_lines(random, lines)


def text_list(random: Random) -> bytes:
    return text_lines(random, [url(random) for _ in range(random.randrange(12))])


def _leaf(random: Random) -> tuple[pa.DataType, Callable[[], Any]]:
    text = lambda: random.choice((url(random), caption(random, 5), "")).encode("utf-8", "replace").decode()  # noqa: E731
    raw = lambda: random.choice((text().encode(), b"\xff\xfe", b""))  # noqa: E731
    whole = lambda: random.choice((0, 1, -1, 2**62, -(2**63)))  # noqa: E731
    real = lambda: random.choice((0.5, float("nan"), float("inf"), -0.0, 1e300))  # noqa: E731
    return random.choice(
        (
            (pa.string(), text), (pa.string(), text), (pa.large_string(), text), (pa.binary(), raw), (pa.large_binary(), raw),
            (pa.binary(4), lambda: random.randbytes(4)), (pa.int64(), whole), (pa.uint8(), lambda: random.randrange(256)),
            (pa.float64(), real), (pa.float32(), lambda: random.choice((0.5, float("nan")))), (pa.null(), lambda: None),
            (pa.bool_(), lambda: random.random() < 0.5), (pa.decimal128(38, 5), lambda: Decimal(random.randrange(10**9))),
            (pa.decimal256(70, 5), lambda: Decimal(10**60)), (pa.timestamp("s"), whole), (pa.timestamp("ns", "UTC"), whole),
            (pa.timestamp("us", "Mars/Base"), whole), (pa.date32(), lambda: random.choice((0, 2**31 - 1, -(2**31)))),
            (pa.date64(), lambda: random.choice((0, 86_400_000 * 10**8))), (pa.time64("us"), lambda: 5),
            (pa.duration("s"), whole), (pa.string_view(), text), (pa.uint64(), lambda: 2**64 - 1),
            (pa.float16(), lambda: 0.5),
        )
    )  # fmt: skip


def _column(random: Random, count: int) -> pa.Array:
    """Return a column of a random type, possibly nested or dictionary-encoded."""
    kind, make = _leaf(random)
    values: list[Any] = [None if random.random() < 0.1 else make() for _ in range(count)]
    shape = random.random()
    if shape < 0.1:
        array = pa.array([[item, item] for item in values], pa.list_(kind))
        return (
            array
            if random.random() < 0.5
            else pa.array([[x] for x in array.to_pylist()], pa.list_(array.type))
            if (kind == pa.string())
            else array
        )
    array = pa.array(values, kind)
    if shape < 0.15:
        return pa.StructArray.from_arrays([array, array], ["url", "caption"])
    if shape < 0.2 and kind in (pa.string(), pa.int64(), pa.binary()):
        return array.dictionary_encode()
    if shape < 0.25 and kind == pa.string():
        return pa.array([[("k", item)] for item in values], pa.map_(pa.string(), pa.string()))
    return array


def parquet(random: Random) -> bytes:
    """Return a parquet file with columns of random types, names that can repeat, and random options."""
    for _ in range(20):
        try:
            return _parquet(random)
        except (pa.ArrowException, ValueError, OverflowError):  # a type or value that parquet cannot store
            continue
    return b"PAR1PAR1"


def _parquet(random: Random) -> bytes:
    count = random.choice((0, 1, 3, 20))
    names = random.sample(_LIST_KEYS, random.randrange(1, 4)) + random.choice(
        ([], ["url"], ["url", "caption"], ["caption"])
    )
    columns = []
    for name in names:
        if name == "url" and random.random() < 0.5:
            texts = [random.choice(URLS).encode("utf-8", "replace").decode() for _ in range(count)]
            columns.append(pa.array(texts, pa.string()))
        else:
            columns.append(_column(random, count))
    out = io.BytesIO()
    pq.write_table(
        pa.Table.from_arrays(columns, names=names),
        out,
        compression=random.choice(("none", "snappy", "zstd", "gzip")),
        use_dictionary=random.random() < 0.5,
        row_group_size=random.choice((1, 5, 1000, 1000)),
        data_page_version=random.choice(("1.0", "2.0")),
        store_schema=random.random() < 0.5,
        write_page_checksum=random.random() < 0.3,
    )
    return out.getvalue()


def warc(random: Random) -> bytes:
    """Return a WARC or ARC file, plain or of gzip members, with headers that can be wrong."""
    if random.random() < 0.15:
        return _arc(random)
    members = [_warc_record(random, *_content(random)) for _ in range(random.choice((1, 2, 4)))]
    return _pack(random, members)


def _content(random: Random) -> tuple[bytes, bytes]:
    kind = random.choice(
        (b"response", b"response", b"response", b"resource", b"revisit", b"warcinfo", b"metadata", b"x")
    )
    body = small_image(random) if random.random() < 0.3 else None
    media = random.choice((b"image/png", b"image/jpeg")) if body else None
    return kind, response(random, body, media)


def _warc_record(random: Random, kind: bytes, block: bytes, target: bytes | None = None) -> bytes:
    length = len(block)
    if random.random() < 0.04:
        length = random.choice((0, length - 1, length + 1, length * 2, 2**40, 2**70, -1))
    target = target or random.choice(URLS).encode("utf-8", "surrogatepass")
    lines = [
        random.choice((b"WARC/1.0", b"WARC/1.1") * 12 + (b"WARC/0.18", b"WARC/2")),
        b"WARC-Type: " + kind,
        b"WARC-Target-URI: " + random.choice((target, b"<" + target + b">")),
        b"Content-Length: " + (random.choice(NUMBERS) if random.random() < 0.02 else b"%d" % length),
        b"Content-Type: application/http; msgtype=response",
        *random.sample(
            (b"WARC-Payload-Digest: sha1:AAAA", b"WARC-Truncated: length", b"WARC-Refers-To-Target-URI: http://a.example/",
             b"no colon", b" folded", b"WARC-Date: x", b"X: " + b"y" * 2000, b"Content-Length: 3"), random.choice((0, 0, 1, 3))
        ),
    ]  # fmt: skip
    line_end = random.choice((b"\r\n", b"\r\n", b"\r\n", b"\n"))
    return line_end.join(lines) + line_end * 2 + block + line_end * random.choice((2,) * 20 + (1, 0, 5))


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
        mutate(random, member, WARC_TOKENS, lambda random: b"WARC/1.0\r\n") if random.random() < 0.1 else member
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
            {"path": random.choice(("IMG@/src", "IMG@/src", "A@/href", 5)), "url": random.choice((url(random), value(random))),
             "alt": random.choice((caption(random, 6), value(random)))} for _ in range(random.randrange(5))
        ]  # fmt: skip
        head = {
            "Title": random.choice((caption(random, 5), value(random))),
            "Base": random.choice((url(random), value(random))),
            "Metas": random.choice(([{"name": "robots", "content": "noai"}], [{"name": value(random)}], value(random))),
        }
        html = {
            "Head": random.choice((head, value(random))),
            "Links": random.choice((links, links, links, value(random))),
        }
        reply: Any = {
            "Response-Message": {"Status": random.choice(("200", "200", "404", 200, None))},
            "Headers": random.choice(({"X-Robots-Tag": value(random)}, value(random))),
            "HTML-Metadata": random.choice((html, html, html, value(random))),
        }
        envelope = {
            "Payload-Metadata": {"HTTP-Response-Metadata": random.choice((reply, reply, reply, value(random)))},
            "WARC-Header-Metadata": random.choice(({"WARC-Target-URI": "http://a.example/p"}, value(random))),
        }
        body = json.dumps({"Envelope": random.choice((envelope, envelope, envelope, value(random)))})
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
        (b"", b"\xff" * size, b"\x80" + bytes(max(0, size - 2)) + b"\x01", b"7" * size, b"-1", b"-777777777", b" 12 ", b"9",
         random.randbytes(size), b"\x80" + b"\xff" * (size - 1), b"x", b"g", b"L", b"K", b"S", b"5", b"1", b"\xff" + bytes(size - 1),
         b"00000000012\0", b"1_0")
    )  # fmt: skip
    data[start + offset : start + offset + size] = field[:size].ljust(size, b"\0")
    if random.random() < 0.85 and offset != 148:
        data[start + 148 : start + 156] = b" " * 8
        data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])


IMAGES = ("a.jpg", "b.jpg", "c d.jpg")  # the files of the evaluation sets


def evaluation(random: Random) -> bytes:
    """Return the name of a reader and its file, separated by a line feed."""
    kind = random.choice(
        ("captions.csv", "labels.csv", "tokens.txt", "names.txt", "names.json", "templates.txt", "karpathy.json")
    )
    image = lambda: random.choice((*IMAGES, *IMAGES, "missing.jpg", "../a.jpg", "/etc/hostname", "a\0b", ""))  # noqa: E731
    count = random.choice((0, 1, 3, 8))
    if kind in ("captions.csv", "labels.csv"):
        name = "caption" if kind == "captions.csv" else "label"
        text = lambda: (
            caption(random, 6) if name == "caption" else random.choice(("cat", "0", "1", "9", "²", "١", number(random)))
        )  # noqa: E731
        lines = [f"image,{name}", *(f'{image()},"{text()}"' for _ in range(count))]
        data = text_lines(random, lines)
    elif kind == "tokens.txt":
        data = text_lines(
            random, [f"{image()}#{random.choice((0, 1, 'x', '²'))}\t{caption(random, 6)}" for _ in range(count)]
        )
    elif kind == "karpathy.json":
        sentence = lambda: random.choice(({"raw": caption(random, 5)}, {"raw": value(random)}, {}, value(random)))  # noqa: E731
        images = [
            random.choice(
                ({"filename": image(), "filepath": random.choice(("", "d", 5, [])), "split": random.choice(("test", "val", [], 5)),
                  "sentences": [sentence() for _ in range(random.randrange(3))]}, value(random))
            )
            for _ in range(count)
        ]  # fmt: skip
        good = [{"filename": IMAGES[0], "split": "test", "sentences": [{"raw": "a cat"}]}]
        body = random.choice(({"images": good + images, "dataset": "x"}, {"images": images}, value(random)))
        data = json.dumps(body, ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass")
    elif kind == "names.json":
        body = random.choice((["cat", "dog"], {"en": ["cat"], "x": [1]}, value(random)))
        data = json.dumps(body).encode()
        if random.random() < 0.1:
            data = random.choice((b"[" * 50_000, b"9" * 5000, b"\xff", b"\xef\xbb\xbf[]"))
    else:
        template = lambda: random.choice(("a photo of {}", "{c}", "{} {}", "{0}", "{", caption(random, 4)))  # noqa: E731
        data = text_lines(random, [template() if kind == "templates.txt" else caption(random, 3) for _ in range(count)])
    return kind.encode() + b"\n" + data


EVALUATION_TOKENS = (
    b",", b'"', b"\n", b"image,caption\n", b"image,label\n", b"#0\t", b"a.jpg", b"b.jpg,", b"{}", b"{c}", b"\x85", b"\x00",
    b'{"images":[', b'"sentences":[', b'"raw":', b'"split":"test"', b"[", b"]", b"{", b"}", b"\xe2\x80\xa8", b"\xff", b"../",
)  # fmt: skip
