"""Pages from WARC files, valid and corrupt."""

import gzip
import io
import zlib
from hashlib import sha256

import pytest
from fastwarc.warc import WarcRecord, WarcRecordType

from tests.crawl.conftest import stage_of
from vecap_tasks.config import WarcSource
from vecap_tasks.crawl.sources.link import Stats
from vecap_tasks.crawl.sources.warc import ArchivedPage, WarcFiles
from vecap_tasks.errors import VecapError

HTML = b"<title>t</title><img src=a.png alt='a dog'>"


def record(body=HTML, url="http://site.example/", head=b"", status=b"200 OK", content=b"text/html; charset=utf-8"):
    block = b"HTTP/1.1 " + status + b"\r\nContent-Type: " + content + b"\r\n" + head + b"\r\n" + body
    return warc_record("response", block, url, "application/http; msgtype=response")


def warc_record(kind, block, url="http://site.example/", content="text/plain"):
    head = (
        f"WARC/1.1\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2026-01-01T00:00:00Z\r\n"
        f"WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-000000000000>\r\nContent-Type: {content}\r\n"
        f"Content-Length: {len(block)}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def all_pages(source):
    stats = Stats()
    items = [item for part in source.parts() for item in source.items(part, stats)]
    return [item for item in items if isinstance(item, ArchivedPage)], stats


@pytest.fixture
def read(tmp_path, demo_config):
    def pages(data, name="x.warc"):
        (tmp_path / name).write_bytes(data)
        source = WarcFiles(demo_config, WarcSource(kind="warc", paths=[str(tmp_path / name)]), "2026-01-01")
        return all_pages(source)

    return pages


def gzip_records(*records):
    return b"".join(gzip.compress(item, mtime=0) for item in records)


@pytest.mark.parametrize("pack", [gzip_records, lambda *records: b"".join(records)], ids=["gzip", "plain"])
def test_html_responses_are_pages(read, pack):
    data = pack(
        warc_record("warcinfo", b"software: test\r\n"),
        warc_record("request", b"GET / HTTP/1.1\r\nHost: site.example\r\n\r\n", content="application/http"),
        record(),
        record(url="<http://SITE.example:80/b>", head=b"X-Robots-Tag: noai\r\nx-robots-tag: nofollow\r\n"),
        record(url="http://site.example/gone", status=b"404 Not Found"),
        record(url="http://site.example/a.png", content=b"image/png"),
        record(url="dns:site.example"),
        warc_record("resource", b"<img src=r.png>", "http://site.example/resource", "text/html"),
    )
    pages, stats = read(data)
    assert [page.url for page in pages] == [
        "http://site.example/",
        "http://site.example/b",
        "http://site.example/resource",
    ]
    assert pages[0].response.body(1 << 20) == HTML
    assert pages[0].response.charset == "utf-8"
    assert pages[1].response.robots_tags == ("noai", "nofollow")
    assert stats.counters == {f"page_skipped.{reason}": 1 for reason in ("http_404", "scheme")} | {"held": 1}
    assert [(item.digest, item.bytes) for item in stats.inputs] == [(sha256(data).hexdigest(), len(data))]


def test_response_bodies_are_decoded(read):
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (HTML[:10], HTML[10:])) + b"0\r\n\r\n"
    pages, _ = read(
        gzip_records(
            record(gzip.compress(HTML), head=b"Content-Encoding: gzip\r\n"),
            record(gzip.compress(HTML[:9]) + gzip.compress(HTML[9:]), head=b"Content-Encoding: gzip\r\n"),
            record(zlib.compress(HTML), head=b"Content-Encoding: deflate\r\n"),
            record(chunked, head=b"Transfer-Encoding: chunked\r\n"),
        )
    )
    assert [page.response.body(1 << 20) for page in pages] == [HTML] * 4


def test_an_invalid_encoding_fails_only_its_page(tmp_path, demo_config):
    broken = gzip.compress(HTML * 100)[:60] + b"\xff" * 40
    for coding in (b"gzip", b"br", b"gzip, gzip"):
        data = gzip_records(record(broken, head=b"Content-Encoding: %s\r\n" % coding), record())
        (tmp_path / "x.warc.gz").write_bytes(data)
        source = WarcFiles(demo_config, WarcSource(kind="warc", paths=[str(tmp_path / "x.warc.gz")]), "x")
        stats = Stats()
        assert [link.alttext for link in source.read(source.parts()[0], stats)] == ["a dog"]
        assert stats.counters == {"pages": 1, "images": 1, "page_skipped.bad_encoding": 1}


def test_bodies_stored_decoded_are_accepted(read):
    pages, _ = read(gzip_records(record(head=b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n")))
    assert [page.response.body(1 << 20) for page in pages] == [HTML]


def test_decompression_bombs_are_skipped(tmp_path, configure):
    bomb = gzip.compress(b" " * 3_000_000)
    (tmp_path / "x.warc").write_bytes(record(bomb, head=b"Content-Encoding: gzip\r\n") + record())
    source = {"kind": "warc", "paths": [str(tmp_path / "x.warc")]}
    config = configure(source, {"max_bytes": 1_000_000})
    files = WarcFiles(config, config.crawl.source, "2026-01-01")
    stats = Stats()
    assert len(list(files.read(files.parts()[0], stats))) == 1
    assert stats.counters == {"pages": 1, "images": 1, "page_skipped.too_large": 1}


@pytest.mark.parametrize("pack", [gzip_records, lambda *records: b"".join(records)], ids=["gzip", "plain"])
def test_a_file_truncated_within_a_record_is_an_error(read, pack):
    first, second = pack(record()), pack(record(url="http://site.example/b"))
    # Truncation between two records, or in the line breaks after an uncompressed one, cannot be detected.
    slack = 2 if pack is not gzip_records else 0
    for length in range(len(first) + 1, len(first + second) - slack, 7):
        with pytest.raises(VecapError, match=r"x\.warc is (truncated|corrupt).*record [23], byte \d+"):
            read((first + second)[:length])


def test_corrupt_files_are_errors(read):
    data = bytearray(gzip_records(record(), record()))
    data[len(data) * 3 // 4] ^= 0xFF
    with pytest.raises(VecapError, match="corrupt or not a WARC"):
        read(bytes(data))
    with pytest.raises(VecapError, match="not a WARC"):
        read(b"<html>not a WARC file</html>")
    with pytest.raises(VecapError, match="no Content-Length"):
        read(b"WARC/1.0\r\nWARC-Type: response\r\n\r\n")


def test_a_file_without_responses_is_an_error_that_lists_its_records(read):
    with pytest.raises(VecapError, match=r"contains no pages \(1 metadata, 1 warcinfo\); .*WAT"):
        read(gzip_records(warc_record("warcinfo", b"x"), warc_record("metadata", b"{}")))
    with pytest.raises(VecapError, match=r"contains no pages \(no records\)"):
        read(b"")


def test_records_written_by_fastwarc_are_read(read):
    warc = WarcRecord()
    warc.init_headers(record_type=WarcRecordType.response)
    warc.headers["WARC-Target-URI"] = "http://site.example/"
    warc.headers["Content-Type"] = "application/http; msgtype=response"
    warc.set_bytes_content(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + HTML)
    out = io.BytesIO()
    warc.write(out)
    assert [page.response.body(1 << 20) for page in read(out.getvalue())[0]] == [HTML]


def test_sources_have_no_machine_specific_names(tmp_path, demo_config, monkeypatch):
    monkeypatch.setenv("WARCS", str(tmp_path))
    for name in ("2026-01-01-b.warc", "2026-01-01-a.warc", "2026-01-02-a.warc"):
        (tmp_path / name).write_bytes(record())
    paths = ["${WARCS}/{interval}-*.warc", "${WARCS}/{interval}-a.warc"]
    source = WarcFiles(demo_config, WarcSource(kind="warc", paths=paths), "2026-01-01")
    stats = Stats()
    assert [link.source for part in source.parts() for link in source.read(part, stats)] == [
        "${WARCS}/2026-01-01-a.warc",
        "${WARCS}/2026-01-01-b.warc",
    ]
    assert [item.name for item in stats.inputs] == ["${WARCS}/2026-01-01-a.warc", "${WARCS}/2026-01-01-b.warc"]


@pytest.mark.parametrize("path", ["none.warc", "*.warc", "ftp://site.example/a.warc"])
def test_a_missing_file_is_a_one_line_error(configure, path):
    with pytest.raises(VecapError, match=r"crawl\.source\.paths") as error:
        stage_of(configure({"kind": "warc", "paths": [path]})).plan()
    assert "\n" not in str(error.value)


def test_real_warc_files(shared_data, demo_config):
    def pages(name):
        source = WarcSource(kind="warc", paths=[str(shared_data / "warc" / name)])
        return all_pages(WarcFiles(demo_config, source, "x"))[0]

    assert [page.url for page in pages("cc-whirlwind.warc.gz")] == ["https://an.wikipedia.org/wiki/Escopete"]
    for name in ("cc-whirlwind.warc.wat.gz", "cc-whirlwind.warc.wet.gz"):
        with pytest.raises(VecapError, match="contains no pages"):
            pages(name)


def test_common_crawl_link_extraction_test_file(shared_data, demo_config):
    source = WarcSource(kind="warc", paths=[str(shared_data / "warc" / "cc-link-extraction-test.warc")])
    files, stats = WarcFiles(demo_config, source, "x"), Stats()
    links = list(files.read(files.parts()[0], stats))
    site = "http://www.example.com/"
    assert [(link.url, link.alttext, link.page_url, link.page_title) for link in links] == [
        (site + "image.png", "IMG@/src", site + "html4.html", "Test XHTML Link Extraction"),
        (site + "image.gif", "IMG@/longdesc", site + "html4.html", "Test XHTML Link Extraction"),
        (site + "jackbox/img/thumbs/4.jpg", "responsive lightbox", site + "data-href.examples.html", None),
        (
            "https://img.example.org/view?id=867&res=10x16",
            'image URL containing escaped ampersand ("&amp;")',
            site + "link-extraction-test-unescaped-entities.xhtml",
            'Title – "Title" written using character entities',
        ),
    ]
    assert stats.counters == {"pages": 9, "images": 4}
