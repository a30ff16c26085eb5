"""Values that are not text, names and encodings of URL lists: rows with counters, or one clear line."""

from __future__ import annotations

import csv
import datetime
import io
import json
import tracemalloc
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vecap_tasks.config import Config, UrlSource
from vecap_tasks.core.files import SourceFile
from vecap_tasks.crawl.sources import list_file
from vecap_tasks.crawl.sources.link import Stats
from vecap_tasks.crawl.sources.table_rows import read_rows
from vecap_tasks.crawl.sources.url_list import UrlFiles
from vecap_tasks.errors import VecapError

Read = Callable[..., tuple[list[tuple[str, str | None]], dict[str, int]]]
URLS = [f"http://a.example/{number}" for number in range(4)]


@pytest.fixture
def read(tmp_path: Path, demo_config: Config) -> Read:
    """Return a function that reads *data* as file *name* and returns (URL, caption) by row, and the counters."""

    def rows(name: str, data: bytes, **settings: Any) -> tuple[list[tuple[str, str | None]], dict[str, int]]:
        (tmp_path / name).write_bytes(data)
        section = UrlSource(kind="urls", paths=[str(tmp_path / name)], **settings)
        source, stats = UrlFiles(demo_config, section, "2026-01-01"), Stats()
        found = [(link.url, link.alttext) for part in source.parts() for link in source.read(part, stats)]
        counters = Counter(stats.counters)
        rows = counters.pop("images")
        assert rows == len(found) + sum(n for name, n in counters.items() if name.startswith("skipped."))
        return found, dict(counters)

    return rows


def parquet(columns: dict[str, Any] | pa.Table, **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns) if isinstance(columns, dict) else columns, out, **options)
    return out.getvalue()


CAPTIONS: list[Any] = [["one", "uno", None], [], None, [None, "two"]]


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "json"])
def test_the_first_text_of_a_list_is_the_caption(read: Read, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"url": url, "caption": caption} for url, caption in zip(URLS, CAPTIONS, strict=True)]
    data = {
        "parquet": parquet({"url": URLS, "caption": pa.array(CAPTIONS, pa.list_(pa.string()))}),
        "jsonl": "\n".join(map(json.dumps, rows)).encode(),
        "json": json.dumps(rows).encode(),
    }[kind]
    found, counters = read(f"x.{kind}", data)
    assert found == list(zip(URLS, ["one", None, None, "two"], strict=True))
    assert counters == {"dropped.caption_variants": 1}
    assert caplog.text.count("values not used: 1 × caption_variants") == 1


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.list_(pa.binary())])
def test_binary_columns_are_utf8(read: Read, kind: pa.DataType) -> None:
    texts = ["a café".encode(), b"\xff", None, b""]
    cells = [None if text is None else [text] for text in texts] if pa.types.is_list(kind) else texts
    urls = pa.array([url.encode() for url in URLS], pa.binary())
    found, counters = read("x.parquet", parquet({"url": urls, "caption": pa.array(cells, kind)}))
    assert found == [(URLS[0], "a café"), (URLS[2], None), (URLS[3], "")]
    assert counters == {"skipped.not_utf8": 1}


@pytest.mark.parametrize(
    "cells",
    [
        [{"en": "a dog"}, {"en": "a cat"}, None, None],
        [True and datetime.date(2020, 1, 1), datetime.date(2020, 1, 2), None, None],
        pa.array([2**62, 0, None, None], pa.timestamp("us")),
        [[["nested"]], [["lists"]], None, None],
    ],
    ids=["struct", "date", "year 148,000", "nested"],
)
def test_captions_that_are_not_text_are_counted(read: Read, cells: Any, caplog: pytest.LogCaptureFixture) -> None:
    found, counters = read("x.parquet", parquet({"url": URLS, "caption": cells}))
    assert found == [(url, None) for url in URLS]
    assert counters == {"dropped.caption": 2}
    assert "values not used: 2 × caption" in caplog.text


def test_scores_and_uids_that_are_not_used_are_counted(read: Read) -> None:
    rows = [
        {"url": URLS[0], "uid": "7", "similarity": "high", "sha256": "x"},
        {"url": URLS[1], "uid": "ab" * 16, "similarity": float("inf"), "sha256": ""},
        {"url": URLS[2], "uid": None, "similarity": float("nan"), "sha256": None},
        {"url": URLS[3], "similarity": [0.5]},
    ]
    assert read("x.json", json.dumps(rows).encode())[1] == {"dropped.uid": 1, "dropped.score": 3, "dropped.sha256": 1}
    table = {"url": URLS[:2], "caption": ["a", "b"], "similarity": pa.array([Decimal("0.5"), None])}
    assert read("x.parquet", parquet(table))[1] == {}


def test_a_url_that_is_not_text_fails_its_row_or_names_the_column(read: Read) -> None:
    lines = [{"url": {"src": URLS[0]}, "caption": "a"}, {"url": [URLS[1]], "caption": "b"}]
    found, counters = read("x.jsonl", "\n".join(map(json.dumps, lines)).encode())
    assert found == [(URLS[1], "b")]
    assert counters == {"skipped.bad_url": 1, "dropped.url": 1}
    with pytest.raises(VecapError, match=r"column image has struct<.*set crawl\.source\.url_column"):
        read("x.parquet", parquet({"image": [{"bytes": b"", "path": "a.jpg"}], "caption": ["a"]}))


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_blanks_around_names_do_not_matter(read: Read, kind: str) -> None:
    separator = {"csv": ", ", "tsv": "\t "}.get(kind, "")
    data = f'url {separator}Caption \n{URLS[0]}{separator}"one, two"\n'.encode()
    if kind == "parquet":
        data = parquet({" url": [URLS[0]], "Caption ": ["one, two"]})
    assert read(f"x.{kind}", data) == ([(URLS[0], "one, two")], {})
    assert read(f"x.{kind}", data, caption_column="Caption")[0] == [(URLS[0], "one, two")]


@pytest.mark.parametrize("name", ["caption", "url"])
def test_a_repeated_column_is_one_clear_line(read: Read, name: str) -> None:
    names = ["url", "caption", name]
    table = pa.Table.from_arrays([pa.array(URLS), pa.array(["a"] * 4), pa.array(["b"] * 4)], names)
    for kind, data in (("parquet", parquet(table)), ("csv", f"{','.join(names)}\n{URLS[0]},a,b\n".encode())):
        with pytest.raises(VecapError, match=rf"x\.{kind} has 2 columns {name}; keep only one"):
            read(f"x.{kind}", data)
    others = pa.Table.from_arrays(
        [pa.array(URLS), pa.array(["a"] * 4)] + [pa.array(["b"] * 4)] * 2, ["url", "caption", "x", "x"]
    )
    assert len(read("x.parquet", parquet(others))[0]) == 4


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_byte_order_mark_and_numbers_that_are_not_finite_are_read(read: Read, mark: str) -> None:
    rows = f'{{"url": "{URLS[0]}", "caption": "a", "similarity": NaN}}, {{"url": "{URLS[1]}", "caption": -Infinity}}'
    array = f"{mark}[{rows}]"
    assert read("x.json", array.encode())[0] == [(URLS[0], "a"), (URLS[1], "-inf")]
    lines = f'{mark}{{"url": "{URLS[0]}", "caption": "a"}}\n{mark}{{"url": "{URLS[1]}", "caption": "b"}}\n'
    assert read("x.jsonl", lines.encode())[0] == [(URLS[0], "a"), (URLS[1], "b")]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "txt", "json", "jsonl"])
def test_the_encoding_of_utf_16_files_is_named(read: Read, kind: str, encoding: str) -> None:
    if encoding == "utf-32" and kind == "txt":
        pytest.skip("one of the combinations is enough")
    with pytest.raises(VecapError, match=r"is encoded in UTF-(16|32)(LE|BE)?; convert it to UTF-8"):
        read(f"x.{kind}", f"url,caption\n{URLS[0]},a\n".encode(encoding))


def test_large_fields_are_rows(read: Read) -> None:
    data = io.StringIO()
    csv.writer(data).writerows([("url", "caption"), (URLS[0], "a"), (URLS[1], "word " * 60_000), (URLS[2], "c")])
    found, _ = read("x.csv", data.getvalue().encode())
    assert [len(caption or "") for _, caption in found] == [1, 300_000, 1]


def test_a_line_that_is_too_long_fails_only_its_row(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_file, "MAX_LINE", 100)
    long = json.dumps({"url": URLS[1], "caption": "x" * 1_000})
    lines = "\n".join([json.dumps({"url": URLS[0]}), long, json.dumps({"url": URLS[2]})])
    assert read("x.jsonl", lines.encode()) == ([(URLS[0], None), (URLS[2], None)], {"skipped.large_row": 1})
    assert read("x.txt", f"{URLS[0]}\n{'x' * 101}\n{URLS[2]}".encode())[1] == {"skipped.large_row": 1}
    with pytest.raises(VecapError, match="line 2 is too long"):
        read("x.csv", f"url,caption\n{URLS[0]},{'x' * 200}\n".encode())


IMAGES = {"images": [{"id": 1, "coco_url": URLS[0], "flickr_url": URLS[1]}]}
LICENSES = {"info": {"url": URLS[2]}, "licenses": [{"url": URLS[3], "id": 1}]}


def test_coco_is_named_and_licenses_are_never_images(read: Read) -> None:
    annotations = {"annotations": [{"image_id": 1, "id": 3, "caption": "a"}]}
    for body in (LICENSES | IMAGES | annotations, annotations | IMAGES | LICENSES):
        with pytest.raises(VecapError, match=r"x\.json is in COCO's format.*convert it to JSON lines"):
            read("x.json", json.dumps(body).encode())
    with pytest.raises(VecapError, match=r"unknown JSON layout.*found the arrays licenses"):
        read("x.json", json.dumps(LICENSES).encode())
    rows = [{"url": URLS[0], "caption": "a"}]
    assert read("x.json", json.dumps(LICENSES | {"rows": rows}).encode())[0] == [(URLS[0], "a")]
    assert read("x.json", json.dumps(LICENSES | {"rows": [{"url": URLS[0]}]}).encode())[0] == [(URLS[0], None)]


@pytest.mark.parametrize("levels", [150, 250, 5_000])
def test_the_depth_of_json_has_a_limit(read: Read, levels: int) -> None:
    deep = f'{{"url": "{URLS[0]}", "more": {"[" * levels}{"]" * levels}, "text": "[{{"}}'
    good = json.dumps({"url": URLS[1], "text": "[" * 500})
    expected = [URLS[0], URLS[1]] if levels == 150 else [URLS[1]]
    for name, data in (("x.jsonl", f"{deep}\n{good}\n"), ("x.json", f"[{deep},{good}]")):
        assert [url for url, _ in read(name, data.encode())[0]] == expected


@pytest.mark.parametrize("dictionary", [True, False])
def test_large_values_of_parquet_are_read_in_bounded_memory(tmp_path: Path, dictionary: bool) -> None:
    count, rows = (1, 1_000) if dictionary else (100, 100)
    texts = [chr(97 + number % 26) * 500_000 for number in range(count)] * (rows // count)
    data = parquet({"url": ["http://a.example/1"] * rows, "caption": texts}, use_dictionary=dictionary)
    (tmp_path / "x.parquet").write_bytes(data)
    file = SourceFile("x.parquet", str(tmp_path / "x.parquet"), len(data))
    del texts
    arrow = pa.total_allocated_bytes()
    tracemalloc.start()
    peak = 0
    try:
        for number, row in enumerate(read_rows(file, UrlSource(kind="urls", paths=["x"]), Stats())):
            assert len(row.caption or "") == 500_000
            if number % 50 == 0:
                peak = max(peak, pa.total_allocated_bytes() - arrow)
        peak += tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert number == rows - 1
    assert peak < 128 << 20


@pytest.mark.parametrize("header", ["x" * 50_000 + ",y", ",".join("x" * 50_000)], ids=["long", "many"])
def test_a_message_shows_the_beginning_of_long_headers(read: Read, header: str) -> None:
    with pytest.raises(VecapError, match="has no URL column") as error:
        read("x.csv", f"{header}\n".encode())
    assert len(str(error.value)) < 1_000


def test_malformed_statistics_of_a_column_do_not_end_the_process(read: Read) -> None:
    """pyarrow aborts when it is asked for the sizes of this column."""
    data = (Path(__file__).parents[1] / "data" / "lists" / "size_statistics.parquet").read_bytes()
    with pytest.raises(VecapError, match=r"list\.parquet is corrupt or truncated: .*; download the file again"):
        read("list.parquet", data)
