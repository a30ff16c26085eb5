"""Links from WAT files, valid and corrupt."""

import json

import pytest

from tests.crawl.conftest import crawl, stage_of
from tests.crawl.test_crawl_stage import SITE, rows_of
from tests.crawl.test_warc import gzip_records, warc_record
from vecap_tasks.config import WatSource
from vecap_tasks.crawl.sources.link import Stats
from vecap_tasks.crawl.sources.wat import WatFiles
from vecap_tasks.errors import VecapError

RED = {"path": "IMG@/src", "url": "red.png", "alt": "A red thing"}


def page_record(links=(RED,), url=SITE, status="200", headers=None, **head):
    html = {"Head": head, "Links": list(links)} if links is not None else {"Head": head}
    answer = {"Response-Message": {"Status": status}, "Headers": headers or {}, "HTML-Metadata": html}
    return envelope({"HTTP-Response-Metadata": answer}, url)


def envelope(payload, url=SITE):
    body = {"Envelope": {"Payload-Metadata": payload, "WARC-Header-Metadata": {"WARC-Target-URI": url}}}
    return metadata(json.dumps(body, ensure_ascii=False).encode(), url)


def metadata(block, url=SITE):
    return warc_record("metadata", block, url, "application/json")


REQUEST = envelope({"HTTP-Request-Metadata": {"Headers": {}}})
INFO = warc_record("warcinfo", b"format: WARC File Format 1.0\r\n", "x.wat.gz", "application/warc-fields")


@pytest.fixture
def read(tmp_path, demo_config):
    def links(*records):
        (tmp_path / "x.wat.gz").write_bytes(gzip_records(INFO, *records))
        section = WatSource(kind="wat", paths=[str(tmp_path / "x.wat.gz")])
        source, stats = WatFiles(demo_config, section, "2026-01-01"), Stats()
        return [link for part in source.parts() for link in source.read(part, stats)], stats.counters

    return links


def test_images_have_url_title_and_alttext(read):
    others = [{"path": "A@/href", "url": "/x", "text": "x"}, {"path": "IMG@/srcset", "url": "y 2x"}, "junk", {}]
    found, counters = read(
        REQUEST,
        page_record([RED, *others, {"path": "IMG@/src", "url": "//e.example/b.png"}], Base="/base/", Title=" The\n t "),
        page_record([{"path": "IMG@/src", "url": "c.png", "alt": ""}], url=SITE + "folder/page.html", Base="data:x"),
        page_record([{"path": "IMG@/src", "url": "data:image/gif;base64,R0"}, {"path": "IMG@/src", "url": 7}]),
        page_record(None),
    )
    assert [(link.url, link.alttext, link.page_url, link.page_title) for link in found] == [
        (SITE + "base/red.png", "A red thing", SITE, "The t"),
        ("http://e.example/b.png", None, SITE, "The t"),
        (SITE + "folder/c.png", "", SITE + "folder/page.html", None),
    ]
    assert counters == {"pages": 4, "images": 5, "skipped.scheme": 1, "skipped.bad_url": 1}


@pytest.mark.parametrize(
    "opt_out",
    [
        {"Metas": [{"name": "viewport", "content": "x"}, {"name": " ROBOTS", "content": "nofollow, noai"}]},
        {"headers": {"x-robots-TAG": "noimageai"}},
        {"headers": {"content-usage": "train-ai=n"}},
        {"headers": {"Content-Signal": ["search=yes", "ai-train=no"]}},
        {"headers": {"X-Robots-Tag": ["nofollow", "unavailable_after: 25 Jun 2030, noai"]}},
    ],
)
def test_pages_that_opt_out_yield_no_images(read, opt_out):
    found, counters = read(page_record(**opt_out), page_record([RED, RED]))
    assert [link.url for link in found] == [SITE + "red.png"] * 2
    assert counters["skipped.page_opt_out"] == 1


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (b"{not json", "bad_json"),
        (b"", "bad_json"),
        (b"[]", "bad_json"),
        (b'{"Envelope": {"Payload-Metadata": null}}', "bad_json"),
        (b'{"Envelope": {"Payload-Metadata": {"HTTP-Response-Metadata": 7}}}', "bad_json"),
        (b'{"Envelope": {"Payload-Metadata": {}}, "lone": "\\ud800"}', "bad_json"),
        (b'{"Envelope": {"Payload-Metadata": {"HTTP-Response-Metadata": {}}}}', "not_html"),
    ],
)
def test_an_invalid_record_fails_only_itself(read, block, reason):
    found, counters = read(page_record(), metadata(block), page_record())
    assert len(found) == 2
    assert counters == {"pages": 2, "images": 2, f"page_skipped.{reason}": 1}


def test_responses_that_are_not_pages_are_counted(read):
    _, counters = read(page_record(status="404"), page_record(url="dns:site.example"), page_record())
    assert counters == {"pages": 1, "images": 1, "page_skipped.http_404": 1, "page_skipped.scheme": 1}


def test_a_file_without_links_is_an_error(read, shared_data, demo_config):
    with pytest.raises(VecapError, match=r"x\.wat\.gz contains no links: none of its 3 records") as error:
        read(REQUEST, page_record(None))
    assert "\n" not in str(error.value)
    path = shared_data / "warc" / "cc-whirlwind.warc.wat.gz"
    source = WatFiles(demo_config, WatSource(kind="wat", paths=[str(path)]), "x")
    with pytest.raises(VecapError, match=r"[^x]\.warc\.wat\.gz contains no links: none of its 2 records"):
        list(source.read(source.parts()[0], Stats()))


def test_a_crawl_from_a_wat_file(web, configure, tmp_path):
    (tmp_path / "x.wat.gz").write_bytes(gzip_records(INFO, REQUEST, page_record([RED, RED], Title="Home")))
    web.image("/red.png")
    source = {"kind": "wat", "paths": ["${VECAP_HOME}/x.wat.gz"]}
    stage, manifest = crawl(configure(source))
    (row,) = rows_of(stage, manifest)
    assert (row["status"], row["caption"], row["page_title"]) == ("success", "A red thing", "Home")
    assert row["source"] == manifest.inputs[0].name == "${VECAP_HOME}/x.wat.gz"


def test_a_truncated_wat_file_publishes_nothing(configure, tmp_path):
    (tmp_path / "x.wat.gz").write_bytes(gzip_records(INFO, page_record(), page_record())[:-3])
    stage = stage_of(configure({"kind": "wat", "paths": [str(tmp_path / "x.wat.gz")]}))
    with pytest.raises(VecapError, match=r"x\.wat\.gz is truncated at record 3"):
        stage.plan()
    assert stage.store.files(stage.folder) == []
