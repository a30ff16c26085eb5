"""Records of WARC and ARC files from any stream, and their offsets."""

import gzip
import io
import time
import tracemalloc
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.crawl.test_warc import HTML, gzip_records, record, warc_record
from vecap_tasks.crawl.warc.records import Records, parse_response
from vecap_tasks.errors import Failure, VecapError

KINDS = frozenset({"response", "resource", "metadata"})


def arc_record(body=HTML, url="http://site.example/", kind="text/html"):
    block = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\n\r\n%s" % (kind.encode(), body)
    return f"{url} 192.0.2.1 20080430204825 {kind} {len(block)}\n".encode() + block + b"\n"


def arc_head():
    block = b"1 0 test\nURL IP-address Archive-date Content-type Archive-length\n\n"
    return f"filedesc://x.arc 0.0.0.0 20080430204825 text/plain {len(block)}\n".encode() + block + b"\n"


class SlowStream(io.RawIOBase):
    """An unseekable stream that returns a few bytes at a time, like a network stream."""

    def __init__(self, data, step):
        self._data, self._step, self._at = data, step, 0

    def read(self, size=-1):
        piece = self._data[self._at : self._at + self._step]
        self._at += len(piece)
        return piece


def all_records(data, max_bytes=1 << 20, stream=io.BytesIO):
    records = Records(stream(data), "x.warc", KINDS, max_bytes)
    return list(records), records


THREE = (warc_record("warcinfo", b"software: test\r\n"), record(), record(url="http://site.example/b"))


@pytest.mark.parametrize("pack", [gzip_records, lambda *records: b"".join(records)], ids=["gzip", "plain"])
@pytest.mark.parametrize("step", [2, 100, 1 << 20])
def test_records_can_be_read_from_their_offsets(pack, step):
    data = pack(*THREE)
    found, records = all_records(data, stream=lambda data: SlowStream(data, step))
    assert [item.kind for item in found] == ["warcinfo", "response", "response"]
    assert b"".join(data[item.offset : item.offset + item.length] for item in found) == data
    for item in found[1:]:
        (single,) = all_records(data[item.offset : item.offset + item.length])[0]
        assert parse_response(single).body(1 << 20) == parse_response(item).body(1 << 20) == HTML
        assert (single.url, single.fields) == (item.url, item.fields)
    assert (records.input().digest, records.input().bytes) == (sha256(data).hexdigest(), len(data))


def test_records_that_share_a_gzip_member_have_no_offset():
    found, _ = all_records(gzip.compress(b"".join(THREE)) + gzip_records(record()))
    assert [item.offset is None for item in found] == [True, True, True, False]
    assert [item.block is None for item in found] == [True, False, False, False]
    half = gzip.compress(THREE[1][:50]) + gzip.compress(THREE[1][50:])
    (item,) = all_records(half)[0]
    assert (item.offset, item.length) == (0, len(half))


def test_records_above_max_bytes_are_skipped():
    found, records = all_records(gzip_records(record(b"x" * 5000), record()), max_bytes=1000)
    assert [item.block is None for item in found] == [True, False]
    assert records.number == 2


def test_memory_is_independent_of_the_file_size():
    film = warc_record("response", b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n\r\n" + bytes(150_000_000))
    data = gzip_records(film, *[record(b"x" * 100_000)] * 300)
    del film
    tracemalloc.start()
    try:
        records = Records(io.BytesIO(data), "x.warc", KINDS, 1_000_000)
        assert sum(item.block is not None for item in records) == 300
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40_000_000  # the output of one decompression step at the best compression ratio, and copies of it


@pytest.mark.parametrize("pack", [gzip_records, lambda *records: b"".join(records)], ids=["gzip", "plain"])
def test_arc_files_are_read(pack):
    data = pack(
        arc_head(),
        arc_record(),
        arc_record(b"<p>", "http://site.example/with blank"),
        b"http://site.example/v2 192.0.2.1 20080430204825 text/html 200 - - 1234567890 x.arc 3\n<p>\n",
    )
    found, _ = all_records(data)
    assert [(item.kind, item.url) for item in found] == [
        ("filedesc", "filedesc://x.arc"),
        ("response", "http://site.example/"),
        ("response", "http://site.example/with blank"),
        ("response", "http://site.example/v2"),
    ]
    assert [parse_response(item).status for item in found[1:]] == [200, 200, None]
    assert [parse_response(item).content_type for item in found[1:]] == ["text/html"] * 3
    single = data[found[2].offset : found[2].offset + found[2].length]
    assert [item.block for item in all_records(single)[0]] == [found[2].block]
    with pytest.raises(VecapError, match=r"x\.warc is truncated at record 4, byte \d+"):
        all_records(data[:-9])


@given(st.data())
def test_truncation_of_a_gzipped_file_is_reported_with_its_record(data):
    whole = gzip_records(*THREE)
    starts = [item.offset for item in all_records(whole)[0]]
    at = data.draw(st.integers(2, len(whole) - 1).filter(lambda at: at not in starts))
    number = sum(start <= at for start in starts)
    with pytest.raises(VecapError, match=rf"x\.warc is truncated at record {number}, byte {starts[number - 1]};"):
        all_records(whole[:at])


@pytest.mark.parametrize("ends", [(b"\r\n", b"\r\n"), (b"\n", b"\n"), (b"\n", b"\r\n"), (b"\r\n", b"\n")])
@pytest.mark.parametrize("step", [3, 1 << 20])
def test_headers_end_at_the_first_blank_line(ends, step):
    line, blank = ends
    block = b"A: b\n\nC: d\r\n\r\nbody"
    header = line.join((b"WARC/1.0", b"WARC-Type: response", b"Content-Length: %d" % len(block)))
    data = (header + line + blank + block + b"\r\n\r\n") * 2
    found, _ = all_records(data, stream=lambda data: SlowStream(data, step))
    assert [item.block for item in found] == [block, block]
    with pytest.raises(VecapError, match="no Content-Length"):
        all_records(b"WARC/1.0\r\n\r\nContent-Length: 0\r\n\r\n")


def test_real_world_headers_are_parsed():
    block = b"HTTP/1.1 200\nCONTENT-TYPE : text/html;\n\t charset = 'utf-8' ; x=y\nno colon\n"
    block += b"X-Robots-Tag: a\nTDM-Reservation: 1\nX-Robots-Tag: b\n\nbody"
    ((item,), _) = all_records(warc_record("response", block, "<http://site.example/>", "application/http"))
    answer = parse_response(item)
    assert (answer.status, answer.content_type, answer.charset) == (200, "text/html", "utf-8")
    assert (answer.robots_tags, answer.raw, item.url) == (
        ("a", "b", "tdm-reservation: 1"),
        b"body",
        "http://site.example/",
    )
    ((item,), _) = all_records(warc_record("response", b"HTTP/1.1 what\r\n" + b"A: " + b"x" * 100_000))
    assert (parse_response(item).status, parse_response(item).raw) == (0, b"")


@pytest.mark.parametrize("version", [b"WARC/0.17", b"WARC/0.18", b"WARC/1.1", b"WARC/2.0"])
def test_all_versions_with_named_fields_are_read(version):
    data = record().replace(b"WARC/1.1", version)
    assert data.startswith(version)
    (item,) = all_records(data)[0]
    assert parse_response(item).body(1 << 20) == HTML


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"something else\r\n" + b"x" * 400_000, "record 1, byte 0: no record starts here"),
        (b"x" * (3 << 20), "record 1, byte 0: no record starts here"),
        (b"WARC/one\r\n\r\n" + b"x" * 400_000, "record 1, byte 0: no record starts here"),
        (record() + b"WARX/1.0\r\n" + b"x" * 400_000, f"record 2, byte {len(record())}: no record starts here"),
        (b"WARC/1.0\r\nContent-Length: " + b"9" * 5_000 + b"\r\n\r\n", "record 1, byte 0: the record has no Content-L"),
        (b"WARC/1.0\r\n" + b"A: b\r\n" * 200_000, "record 1, byte 0: the record header has no end"),
        (gzip.compress(b"something else\r\n" * 9, mtime=0), "record 1, byte 0: no record starts here"),
    ],
)
def test_invalid_files_are_reported_with_record_and_byte(data, message):
    with pytest.raises(VecapError, match=message) as error:
        all_records(data)
    assert "\n" not in str(error.value)


def test_blank_lines_between_records_are_skipped_fast():
    start = time.process_time()
    data = record() + gzip.decompress(gzip.compress(b"\r\n" * 20_000_000)) + record()
    assert len(all_records(gzip.compress(data, 1))[0]) == 2
    assert len(all_records(b"\n\r\n" + record())[0]) == 1
    assert time.process_time() - start < 5


def test_a_long_http_header_fails_only_its_record():
    long = warc_record("response", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 60_000 + b"\r\nbody")
    found, _ = all_records(long + record())
    with pytest.raises(Failure, match="bad_response: the header exceeds 262,144 bytes"):
        parse_response(found[0])
    assert parse_response(found[1]).status == 200


def test_training_opt_outs_are_collected():
    block = b"HTTP/1.1 200 OK\r\nContent-Usage: train-ai=n\r\nCONTENT-SIGNAL: ai-train=no\r\n\r\n"
    ((item,), _) = all_records(warc_record("response", block))
    assert parse_response(item).robots_tags == ("content-signal: ai-train=no", "content-usage: train-ai=n")
