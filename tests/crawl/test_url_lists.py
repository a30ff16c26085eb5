"""URL lists in all formats, valid and corrupt."""

import csv
import gzip
import io
import json
import subprocess
import sys
import tracemalloc
from hashlib import sha256

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.crawl.conftest import crawl, stage_of
from tests.installation import DEMO
from vecap_tasks.config import UrlSource
from vecap_tasks.core.files import SourceFile
from vecap_tasks.crawl.sources.link import Stats
from vecap_tasks.crawl.sources.table_rows import read_rows
from vecap_tasks.crawl.sources.url_list import UrlFiles
from vecap_tasks.errors import VecapError

ROWS = [("http://a.example/1.jpg", "one, with a comma"), ("http://a.example/2.jpg", 'a "quoted" two\nin two lines')]
ROWS += [("http://a.example/3.jpg", "三 ßtraße"), ("http://a.example/4.jpg", "")]


@pytest.fixture
def read(tmp_path, demo_config):
    """Return a function that reads *data* as file *name* and returns links and counts of skipped rows."""

    def links(name, data, rows=None, **settings):
        (tmp_path / name).write_bytes(data)
        section = UrlSource(kind="urls", paths=[str(tmp_path / name)], **settings)
        source, stats = UrlFiles(demo_config, section, "2026-01-01"), Stats()
        found = [link for part in source.parts() for link in source.read(part, stats)]
        counters = stats.counters
        skipped = sum(count for reason, count in counters.items() if reason.startswith("skipped."))
        assert counters["images"] == len(found) + skipped
        if rows is not None:
            assert counters["images"] == rows
        (item,) = stats.inputs
        assert (item.digest, item.bytes) == (sha256(data).hexdigest(), len(data))
        return found, {name.removeprefix("skipped."): n for name, n in counters.items() if name != "images"}

    return links


def pairs(links):
    return [(link.url, link.alttext) for link in links]


def parquet(columns, **options):
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, **options)
    return out.getvalue()


def csv_bytes(header, rows, comma=","):
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=comma).writerows([header, *rows])
    return out.getvalue().encode()


def compress(data, pack):
    if pack == "":
        return data
    return gzip.compress(data, mtime=0) if pack == ".gz" else pa.Codec("zstd").compress(data).to_pybytes()


FORMATS = {
    "parquet": parquet({"URL": [url for url, _ in ROWS], "TEXT": [text for _, text in ROWS]}),
    "csv": csv_bytes(["id", "image_url", "caption"], [(7, *row) for row in ROWS]),
    "tsv": csv_bytes(["Alt", "url"], [row[::-1] for row in ROWS], "\t"),
    "json": json.dumps([{"url": url, "alttext": text} for url, text in ROWS], ensure_ascii=False).encode(),
    "jsonl": "".join(json.dumps({"key": url, "top_caption": text}) + "\n" for url, text in ROWS).encode(),
}


@pytest.mark.parametrize("pack", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_yields_the_same_rows_in_order(read, kind, pack):
    links, skipped = read(f"list.{kind}{pack}", compress(FORMATS[kind], pack), 4)
    assert pairs(links) == ROWS
    assert not skipped


@pytest.mark.parametrize("pack", ["", ".gz", ".zst"])
def test_a_text_file_has_one_url_per_line(read, pack):
    links, skipped = read(
        f"list.txt{pack}", compress("\ufeffhttp://a.example/ü.png\r\n\nftp://x/y\n b".encode(), pack), 4
    )
    assert pairs(links) == [("http://a.example/%C3%BC.png", None)]
    assert skipped == {"no_url": 1, "scheme": 2}


def test_headerless_cc3m_and_cc12m_tables_are_detected(read):
    cc3m = b'a "dog\thttp://a.example/1.jpg\n" cat\thttp://a.example/2.jpg\n'
    cc12m = b'http://a.example/1.jpg\ta "dog\nhttp://a.example/2.jpg\t" cat\n'
    expected = [("http://a.example/1.jpg", 'a "dog'), ("http://a.example/2.jpg", '" cat')]
    assert pairs(read("Train_GCC-training.tsv", cc3m, 2)[0]) == expected
    assert pairs(read("cc12m.tsv", cc12m, 2)[0]) == expected


def test_laion_keeps_its_scores(read):
    table = {
        "SAMPLE_ID": [1, 2], "URL": ["http://a.example/1", None], "TEXT": ["x", "y"], "NSFW": ["UNLIKELY", "NSFW"],
        "similarity": [0.25, 0.5], "punsafe": [float("nan"), 0.5], "pwatermark": [0.125, None],
    }  # fmt: skip
    (link,), skipped = read("part-00000.snappy.parquet", parquet(table), 2)
    assert json.loads(link.scores) == {"similarity": 0.25, "pwatermark": 0.125}
    assert skipped == {"no_url": 1}


def test_datacomp_keeps_uid_and_scores(read):
    uids = ["0123456789abcdef" * 2, "not one of DataComp's"]
    table = {
        "uid": uids, "url": ["http://a.example/1", "http://a.example/2"], "text": ["x", "y"],
        "original_width": [10, 10], "original_height": [10, 10], "sha256": ["ab" * 32, None],
        "clip_b32_similarity_score": pa.array([0.25, None], pa.float32()),
        "clip_l14_similarity_score": pa.array([0.5, None], pa.float32()), "face_bboxes": [[[0.0]], []],
    }  # fmt: skip
    links, _ = read("metadata.parquet", parquet(table), 2)
    assert [link.uid for link in links] == [uids[0], None]
    assert [link.alttext for link in links] == ["x", "y"]
    assert json.loads(links[0].scores) == {
        "clip_b32_similarity_score": 0.25, "clip_l14_similarity_score": 0.5, "source_sha256": "ab" * 32,
    }  # fmt: skip
    assert links[1].scores is None


def test_redcaps_annotations(read):
    annotations = [
        {"image_id": "a", "author": "b", "url": "http://a.example/1", "raw_caption": "Raw", "caption": "plain"},
        {"image_id": "b", "author": "b", "url": "http://a.example/2", "raw_caption": "Raw"},
        {"image_id": "c"},
        "no object",
    ]
    body = {"info": {"version": "1.0", "url": "http://redcaps.example"}, "annotations": annotations, "more": []}
    links, skipped = read("birding_2017.json", json.dumps(body).encode(), 4)
    assert pairs(links) == [("http://a.example/1", "plain"), ("http://a.example/2", "Raw")]
    assert skipped == {"no_url": 1, "bad_row": 1}


def test_vecap_300m_is_one_object_of_url_to_caption(read):
    body = dict(ROWS) | {"http://a.example/5": None, "nothing": "x"}
    links, skipped = read("vecap300m_00.json", json.dumps(body, indent=1).encode(), 6)
    assert pairs(links) == [*ROWS, ("http://a.example/5", None)]
    assert skipped == {"scheme": 1}


def test_json_lines_in_a_json_file_are_read(read):
    links, skipped = read("list.json", FORMATS["jsonl"] + b"\n{broken}\n[1]\n", 7)
    assert pairs(links) == ROWS
    assert skipped == {"no_url": 1, "bad_row": 2}


LONG = "1" * 5000  # more digits than Python converts
DEEP = "[" * 100_000 + "]" * 100_000
GOOD = '{"url": "http://a.example/1", "text": "x"}'


@pytest.mark.parametrize("bad", [LONG, DEEP, "nope", '"\\x"', "{1: 2}"], ids=["long", "deep", "word", "escape", "name"])
def test_an_invalid_json_value_fails_only_its_row(read, bad):
    row = f'{{"url": "http://a.example/2", "text": {bad}}}'
    for name, data in {
        "array.json": f"[{GOOD}, {row}, {bad}, {GOOD}]",
        "member.json": f'{{"info": {{"a": {bad}}}, "annotations": [{GOOD}, {row}, {bad}, {GOOD}], "more": {bad}}}',
        "lines.jsonl": f"{GOOD}\n{row}\n{bad}\n{GOOD}\n",
    }.items():
        links, skipped = read(name, data.encode(), 4)
        assert pairs(links) == [("http://a.example/1", "x")] * 2
        assert skipped == {"bad_row": 2}
    links, skipped = read("pairs.json", f'{{"http://a.example/1": "x", "http://a.example/2": {bad}}}'.encode(), 2)
    assert pairs(links) == [("http://a.example/1", "x")]
    assert skipped == {"bad_row": 1}


def test_numbers_above_64_bits_are_read(read):
    data = b'[{"url": "http://a.example/1", "id": 123456789012345678901234567890, "text": 12345678901234567890123}]'
    assert pairs(read("x.json", data, 1)[0]) == [("http://a.example/1", "12345678901234567890123")]


READ_A_LIST = """
import sys
import pyarrow as pa
from vecap_tasks.config import UrlSource, load_config
from vecap_tasks.crawl.sources.link import Stats
from vecap_tasks.crawl.sources.url_list import UrlFiles
from vecap_tasks.errors import VecapError
path, config = sys.argv[1:]
source = UrlFiles(load_config(config), UrlSource(kind="urls", paths=[path]), "2026-01-01")
try:
    print(len([link for part in source.parts() for link in source.read(part, Stats())]))
except VecapError as error:
    print(error)
print(pa.default_memory_pool().max_memory())
"""


def test_a_page_that_claims_a_gigabyte_takes_no_memory(tmp_path):
    data = parquet({"url": ["http://a.example/1.jpg"] * 3}, use_dictionary=False, compression="none")
    sizes = bytes.fromhex("15a801 15a801")  # of the first page, 84 bytes decompressed and compressed
    assert data.count(sizes) == 1
    gigabyte = bytes.fromhex("15 80a8d6b907")  # 10**9 as a zigzag number
    (tmp_path / "x.parquet").write_bytes(data.replace(sizes, 2 * gigabyte))
    command = [sys.executable, "-c", READ_A_LIST, str(tmp_path / "x.parquet"), str(DEMO)]
    message, peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert "corrupt or truncated" in message
    assert int(peak) < 10**8


def test_cells_without_a_python_type_are_empty(read):
    when = pa.array([2**62, None], pa.timestamp("us"))
    data = parquet({"url": ["http://a.example/1", "http://a.example/2"], "caption": when})
    assert pairs(read("x.parquet", data, 2)[0]) == [("http://a.example/1", None), ("http://a.example/2", None)]


@pytest.mark.parametrize("kind", ["json", "csv", "parquet"])
def test_large_files_are_read_in_bounded_memory(tmp_path, kind):
    urls, texts = [f"http://a.example/{n}" for n in range(20_000)], ["word " * 200] * 20_000
    if kind == "parquet":
        data = parquet({"url": urls, "text": texts}, use_dictionary=False, compression="none", row_group_size=1000)
    elif kind == "csv":
        data = csv_bytes(["url", "text"], zip(urls, texts, strict=True))
    else:
        data = json.dumps(dict(zip(urls, texts, strict=True))).encode()
    (tmp_path / f"large.{kind}").write_bytes(data)
    file = SourceFile(f"large.{kind}", str(tmp_path / f"large.{kind}"), len(data))
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_rows(file, UrlSource(kind="urls", paths=["x"]), Stats()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 20_000
    assert peak < len(data) * 0.6


def test_column_settings_override_detection(read):
    data = csv_bytes(["url", "caption", "real", "words", "rank"], [("no", "no", *ROWS[0], "3"), ("", "", *ROWS[1], "")])
    links, _ = read("x.csv", data, 2, url_column="real", caption_column="words", score_columns=["rank"])
    assert pairs(links) == ROWS[:2]
    assert [link.scores for link in links] == ['{"rank": 3.0}', None]
    plain = csv_bytes(["7", "eight", "http://a.example/9"], [])
    assert pairs(read("y.csv", plain, 1, url_column=2, caption_column=1)[0]) == [("http://a.example/9", "eight")]


def test_unusable_rows_are_counted_by_reason(read):
    rows = [
        b"url,caption", b"http://a.example/1,ok", b"", b",none", b"  ,blank", b"www.a.example/2,no scheme",
        b"data:image/png;base64,x", b"http://u:p@a.example/,credentials", b"http://a.example/3,\xff\xfe",
        b"http://a.example/4", b"http://a.example/5,a,b", b"http://[a.example/6,x",
    ]  # fmt: skip
    links, skipped = read("x.csv", b"\n".join(rows) + b"\n", 11)
    assert pairs(links) == [("http://a.example/1", "ok")]
    assert skipped == {"no_url": 3, "scheme": 2, "bad_url": 2, "not_utf8": 1, "bad_row": 2}


def test_invalid_utf8_fails_only_its_row(read):
    column = pa.Array.from_buffers(pa.string(), 2, pa.array([b"fine", b"\xff"]).buffers())
    data = parquet({"url": ["http://a.example/1", "http://a.example/2"], "text": column})
    assert read("x.parquet", data, 2)[1] == {"not_utf8": 1}
    lines = b'{"url": "http://a.example/1", "text": "\xe9"}\n{"url": "http://a.example/1", "text": "\\ud800"}\n'
    assert read("x.jsonl", lines, 2)[1] == {"not_utf8": 2}
    assert read("x.json", b"[" + lines.strip().replace(b"\n", b",") + b"]", 2)[1] == {"not_utf8": 2}


def test_the_locale_does_not_matter(read, monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setattr("locale.getpreferredencoding", lambda *_: "ascii")
    assert pairs(read("x.csv", FORMATS["csv"], 4)[0]) == ROWS


@pytest.mark.parametrize("pack", [".gz", ".zst"])
@pytest.mark.parametrize("kind", FORMATS)
def test_truncated_compressed_files_are_errors(read, kind, pack):
    data = compress(FORMATS[kind], pack)
    for cut in (data[: len(data) // 2], data[:-1], data + b"more"):
        with pytest.raises(VecapError, match=rf"list\.{kind}\{pack} is .*truncated") as error:
            read(f"list.{kind}{pack}", cut)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.parquet", FORMATS["parquet"][:-20], "corrupt or truncated"),
        ("x.parquet", b"PAR1 no parquet", "corrupt or truncated"),
        ("x.csv", b'url,caption\nhttp://a.example/1,"open\nhttp://a', "corrupt or truncated at line 3.*quotes: false"),
        ("x.csv", b'url,caption\nhttp://a.example/1,"a" dog\n', "corrupt or truncated at line 2.*quotes: false"),
        ("x.csv", b"url,caption\nhttp://a.example/1,a\nhttp://a", "truncated: line 3"),
        ("x.json", FORMATS["json"][:-5], "corrupt or truncated"),
        ("x.json", b'{"http://a.example/1": "x", "http://a', "corrupt or truncated"),
        ("x.json", b'{"http://a.example/1": "x"} more', "corrupt or truncated"),
        ("x.jsonl", FORMATS["jsonl"][:-5], "truncated: line 4"),
        ("x.csv", b"", "is empty"),
        ("x.csv", b"\n", r"no URL column \(columns: none\)"),
        ("x.csv.gz", gzip.compress(b"", mtime=0), r"no URL column \(columns: none\)"),
        ("x.csv", b"id,words\n1,a\n", r"no URL column \(columns: id, words\); set crawl\.source\.url_column"),
        ("x.json", b'[{"id": 1}, {"words": 2}]', r"no URL column \(columns: id"),
        ("x.jsonl", b'{"id": 1}\n', r"no URL column \(columns: id"),
        ("x.json", b'{"url": {"0": "http://a.example/1"}}', "expected an array of objects"),
        ("x.csv", b"1,a dog,http://a.example/1\n", "no header and 3 columns.*numbers from 0"),
        ("x.xlsx", b"PK", "unsupported file extension"),
    ],
)
def test_unusable_files_are_one_line_errors(read, name, data, message):
    with pytest.raises(VecapError, match=message) as error:
        read(name, data)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_an_endless_line_is_an_error(read):
    with pytest.raises(VecapError, match="line 1 is too long"):
        read("x.csv", b"a" * (1 << 24))


def test_configured_columns_must_exist(read):
    with pytest.raises(VecapError, match=r"no column 'link' \(columns: id, image_url, caption"):
        read("x.csv", FORMATS["csv"], url_column="link")
    with pytest.raises(VecapError, match=r"no column 'link' \(columns: 0, 1"):
        read("x.tsv", b"a\thttp://a.example/1\n", url_column="link")
    with pytest.raises(VecapError, match=r"no column 'alt' .*crawl\.source\.caption_column"):
        read("x.csv", FORMATS["csv"], caption_column="alt")


def test_a_table_without_captions_logs_a_warning(read, caplog):
    data = csv_bytes(["url", "was"], [("http://a.example/1", "a dog")])
    assert pairs(read("x.csv", data, 1)[0]) == [("http://a.example/1", None)]
    assert "no caption column among url, was" in caplog.text


def test_quotes_can_be_part_of_the_text(read):
    data = b'caption\turl\n"open\thttp://a.example/1\n'
    with pytest.raises(VecapError, match="quotes: false"):
        read("x.tsv", data)
    assert pairs(read("x.tsv", data, 1, quotes=False)[0]) == [("http://a.example/1", '"open')]


def test_crawl_of_a_url_list(web, configure, tmp_path):
    web.image("/1.png")
    lines = ["http://a.example/1.png,one", "http://a.example:80/1.png,one", "http://a.example/2.png,two", "x,three"]
    (tmp_path / "2026-01-01.csv").write_text("\n".join(["url,caption", *lines]) + "\n")
    stage, manifest = crawl(configure({"kind": "urls", "paths": ["${VECAP_HOME}/{interval}.csv"]}))
    counters = manifest.counters
    assert counters["images"] == 4 == counters["candidates"] + counters["repeated"] + counters["skipped.scheme"]
    assert (counters["success"], counters["error.http_404"]) == (1, 1)
    assert [item.name for item in manifest.inputs] == ["${VECAP_HOME}/2026-01-01.csv"]
    assert stage.store.exists(manifest.file("00000.tar"))


def test_url_lists_on_s3(s3_bucket, configure):
    import boto3

    client = boto3.client("s3")
    for name in ("2026-01-01/a.csv", "2026-01-01/deep/b.jsonl.gz", "2026-01-01/c.parquet", "2026-01-02/a.csv"):
        kind = name.split(".")[1]
        data = FORMATS[kind]
        client.put_object(Bucket=s3_bucket, Key=name, Body=gzip.compress(data) if name.endswith("gz") else data)
    folder = f"s3://{s3_bucket}/{{interval}}"
    config = configure({"kind": "urls", "paths": [f"{folder}/a.csv", f"{folder}/**/*.jsonl.gz", f"{folder}/*.parquet"]})
    source = UrlFiles(config, config.crawl.source, "2026-01-01")
    parts = [f"s3://{s3_bucket}/2026-01-01/{name}" for name in ("a.csv", "deep/b.jsonl.gz", "c.parquet")]
    assert source.parts() == parts
    stats = Stats()
    assert [pairs(source.read(part, stats)) for part in parts] == [ROWS, ROWS, ROWS]
    assert [item.name for item in stats.inputs] == parts
    assert stats.inputs[0].digest == sha256(FORMATS["csv"]).hexdigest()
    for missing in (f"{folder}/none.csv", f"{folder}/*.tsv", "s3://no-such-bucket/a.csv"):
        with pytest.raises(VecapError, match=r"crawl\.source\.paths") as error:
            stage_of(configure({"kind": "urls", "paths": [missing]})).plan()
        assert "\n" not in str(error.value)


def test_real_url_lists(shared_data, demo_config):
    folder = shared_data / "url-text"

    def read(name):
        source = UrlFiles(demo_config, UrlSource(kind="urls", paths=[str(folder / name)]), "x")
        stats = Stats()
        return [link for part in source.parts() for link in source.read(part, stats)], stats.counters

    for name, rows in (("test_1000.parquet", 1000), ("test_10000.parquet", 10_000)):
        links, counters = read(name)
        assert counters["images"] == rows == len(links) + counters.total() - counters["images"]
        assert len(links) > 0.99 * rows
        texts = pq.read_table(folder / name)["TEXT"].to_pylist()
        assert [link.alttext for link in links][:100] == texts[:100]
    links, counters = read("unique_images.txt")
    assert len(links) == counters["images"] == len((folder / "unique_images.txt").read_text().splitlines())
