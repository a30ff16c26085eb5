"""Seeds of lists in all formats, and of evaluation sets."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from decimal import Decimal
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.fuzz_bytes import NUMBERS
from benchmarks.fuzz_text import KEYS, URLS, caption, number, text_lines, url, value

LIST_TOKENS = (
    b",", b"\t", b'"', b'""', b"\n", b"\r\n", b"url,caption\n", b"URL\tTEXT\n", b"http://a.example/1.jpg,a cat\n",
    b"NaN", b"\\N", b";", b"|", b"'", b"{", b"}", b"[", b"]", b'"url":', b'"annotations":[', b"\x00", b"9" * 400,
    b"\xff", b"\r",
)  # fmt: skip
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
            (pa.string(), text), (pa.string(), text), (pa.large_string(), text), (pa.binary(), raw),
            (pa.large_binary(), raw),
            (pa.binary(4), lambda: random.randbytes(4)), (pa.int64(), whole), (pa.uint8(),
            lambda: random.randrange(256)),
            (pa.float64(), real), (pa.float32(), lambda: random.choice((0.5, float("nan")))), (pa.null(), lambda: None),
            (pa.bool_(), lambda: random.random() < 0.5), (pa.decimal128(38, 5),
            lambda: Decimal(random.randrange(10**9))),
            (pa.decimal256(70, 5), lambda: Decimal(10**60)), (pa.timestamp("s"), whole), (pa.timestamp("ns", "UTC"),
            whole),
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
        label = lambda: random.choice(("cat", "0", "1", "9", "²", "١", number(random)))  # noqa: E731
        text = (lambda: caption(random, 6)) if name == "caption" else label
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
                ({"filename": image(), "filepath": random.choice(("", "d", 5, [])), "split": random.choice(("test",
                "val", [], 5)),
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
    b",", b'"', b"\n", b"image,caption\n", b"image,label\n", b"#0\t", b"a.jpg", b"b.jpg,", b"{}", b"{c}", b"\x85",
    b"\x00", b'{"images":[', b'"sentences":[', b'"raw":', b'"split":"test"', b"[", b"]", b"{", b"}", b"\xe2\x80\xa8",
    b"\xff", b"../",
)  # fmt: skip
