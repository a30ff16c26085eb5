"""Images in the WARC files are used instead of being downloaded."""

import gzip
import json

import pytest

from tests.crawl.conftest import crawl, stage_of
from tests.crawl.test_crawl_stage import SITE, rows_of
from tests.crawl.test_warc import gzip_records, record, warc_record
from tests.crawl.test_warc_records import arc_head, arc_record
from tests.crawl.web import image
from vecap_tasks.crawl.sources.link import uid


def png(color="red", size=(40, 30)):
    return image(size=size, color=color)


def image_record(name, body, head=b"", fields="", kind="response", status=b"200 OK"):
    """Return a record of an image, with additional WARC *fields*."""
    data = record(body, SITE + name, head, status, b"image/png").decode("latin-1")
    data = data.replace("WARC-Type: response\r\n", f"WARC-Type: {kind}\r\n{fields}", 1)
    return data.encode("latin-1")


def page(*names):
    return record(b"".join(b"<img src=%s alt='%s'>" % (name.encode(), name.encode()) for name in names))


def source(*paths, **more):
    return {"kind": "warc", "paths": [str(path) for path in paths], **more}


@pytest.mark.parametrize("pack", [gzip_records, lambda *records: b"".join(records)], ids=["gzip", "plain"])
def test_images_in_the_same_archive_are_not_downloaded(web, configure, tmp_path, pack):
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (png("blue")[:20], png("blue")[20:]))
    data = pack(
        image_record("a.png", png(size=(300, 200))),
        page("a.png", "b.png", "c.png", "web.png", "broken.png", "noai.png", "usage.png", "signal.png"),
        image_record("b.png", chunked + b"0\r\n\r\n", b"Transfer-Encoding: chunked\r\n"),
        image_record("c.png", gzip.compress(png("green")), b"Content-Encoding: gzip\r\n"),
        image_record("broken.png", b"<html>"),
        image_record("noai.png", png("pink"), b"X-Robots-Tag: noai\r\n"),
        image_record("usage.png", png("tan"), b"Content-Usage: train-ai=n\r\n"),
        image_record("signal.png", png("navy"), b"Content-Signal: ai-train=no\r\n"),
        image_record("web.png", b"gone", status=b"404 Not Found"),
    )
    (tmp_path / "x.warc").write_bytes(data)
    web.image("/web.png", color="white")
    stage, manifest = crawl(configure(source(tmp_path / "x.warc")))
    rows = {row["caption"]: row for row in rows_of(stage, manifest)}
    assert {name: row["error_message"] for name, row in rows.items()} == {
        "a.png": None, "b.png": None, "c.png": None, "web.png": None, "broken.png": "not_an_image: html",
        "noai.png": "opt_out: noai",
        "usage.png": "opt_out: content-usage",
        "signal.png": "opt_out: content-signal",
    }  # fmt: skip
    assert (rows["a.png"]["original_width"], rows["a.png"]["original_bytes"]) == (300, len(png(size=(300, 200))))
    assert rows["b.png"]["original_bytes"] == len(png("blue"))
    assert rows["web.png"]["stored_in"] is None
    assert (manifest.counters["held"], manifest.counters["stored"]) == (7, 7)
    assert web.image_requests() == {"site.example/web.png": 1}


def test_the_largest_archived_image_of_a_srcset_is_used(web, configure, tmp_path):
    data = gzip_records(
        record(
            b"<img src=small.png srcset='medium.png 1.5x, large.png 2x' alt=first>"
            b"<img src=small.png alt=plain><img src=web-small.png srcset='web-large.png 2x' alt=web>"
            b"<picture><source srcset='gone.webp 900w, kept.png 300w'><img src=small.png></picture>"
            b"<img src=twice.png srcset='web.png 2x' alt=twice><img src=twice.png alt=twice>"
        ),
        *(image_record(name, png(color)) for name, color in (("small.png", "blue"), ("medium.png", "green"))),
        image_record("kept.png", png("black")),
        image_record("twice.png", png("white")),
    )
    (tmp_path / "x.warc.gz").write_bytes(data)
    web.image("/web-large.png", color="red")
    stage, manifest = crawl(configure(source(tmp_path / "x.warc.gz")))
    rows = {row["url"].removeprefix(SITE): row for row in rows_of(stage, manifest)}
    assert {name: row["caption"] for name, row in rows.items()} == {
        "medium.png": "first", "small.png": "plain", "web-large.png": "web", "kept.png": None, "twice.png": "twice",
    }  # fmt: skip
    assert all(row["uid"] == uid(row["url"], row["caption"]) for row in rows.values())
    assert (manifest.counters["stored"], manifest.counters["success"], manifest.counters["repeated"]) == (4, 5, 1)
    assert web.image_requests() == {"site.example/web-large.png": 1}


def test_images_in_other_archives_of_the_source_are_used(web, configure, tmp_path):
    (tmp_path / "a.warc.gz").write_bytes(gzip_records(page("a.png", "b.png")))
    (tmp_path / "b.arc.gz").write_bytes(gzip_records(arc_head(), arc_record(png(), SITE + "a.png", "image/png")))
    (tmp_path / "c.warc.gz").write_bytes(
        gzip_records(image_record("a.png", png("blue")), image_record("b.png", png("blue")), page())
    )
    stage, manifest = crawl(configure(source(tmp_path / "*.*.gz")))
    rows = rows_of(stage, manifest)
    # The first record of a URL is used, in file order.
    assert [row["stored_in"].rsplit("/")[-1] for row in rows] == ["b.arc.gz", "c.warc.gz"]
    assert manifest.counters["success"] == 2
    assert not web.request_counts


def test_revisit_records_resolve_to_the_original_image(web, configure, tmp_path):
    digest = "WARC-Payload-Digest: sha1:AAAA\r\n"
    (tmp_path / "a.warc.gz").write_bytes(
        gzip_records(
            page("a.png", "same.png", "moved.png", "later.png", "lost.png"),
            image_record("a.png", png("red"), fields=digest),
            image_record("b.png", png("blue")),
            image_record("same.png", b"", fields=digest, kind="revisit"),
            image_record("moved.png", b"", fields=f"WARC-Refers-To-Target-URI: <{SITE}b.png>\r\n", kind="revisit"),
            image_record("lost.png", b"", fields="WARC-Payload-Digest: sha1:BBBB\r\n", kind="revisit"),
        )
    )
    later = image_record("later.png", png("green"), fields="WARC-Payload-Digest: sha1:CCCC\r\n")
    again = image_record("later.png", b"", fields="WARC-Payload-Digest: sha1:CCCC\r\n", kind="revisit")
    unchanged = b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n"  # the profile server-not-modified
    bare = [warc_record("revisit", block, SITE + "b.png", "application/http") for block in (unchanged, b"")]
    page_again = warc_record("revisit", b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n")
    (tmp_path / "b.warc.gz").write_bytes(gzip_records(again, later, *bare, page_again))
    stage, manifest = crawl(configure(source(tmp_path / "*.warc.gz")))
    rows = {row["caption"]: row for row in rows_of(stage, manifest)}
    assert {name: row["error_message"] for name, row in rows.items()} == {
        "a.png": None, "same.png": None, "moved.png": None, "later.png": None, "lost.png": "http_404",
    }  # fmt: skip
    assert rows["same.png"]["sha256"] == rows["a.png"]["sha256"] != rows["moved.png"]["sha256"]
    assert (manifest.counters["held"], manifest.counters["revisited"]) == (3, 6)


def test_images_that_cannot_be_read_separately_are_downloaded(web, configure, tmp_path):
    together = gzip.compress(page("a.png", "b.png", "cut.png") + image_record("a.png", png("blue")))
    cut = gzip_records(image_record("cut.png", png("blue")[:50], fields="WARC-Truncated: length\r\n"))
    (tmp_path / "x.warc.gz").write_bytes(together + cut)
    for name in ("/a.png", "/b.png", "/cut.png"):
        web.image(name)
    _, manifest = crawl(configure(source(tmp_path / "x.warc.gz")))
    counters = manifest.counters
    assert (counters["held_skipped.packed_together"], counters["held_skipped.truncated"]) == (1, 1)
    assert counters["success"] == 3
    assert "stored" not in counters
    assert web.request_counts["site.example/a.png"] == 1


def test_stored_images_false_downloads_all_images(web, configure, tmp_path):
    (tmp_path / "x.warc").write_bytes(page("a.png") + image_record("a.png", png("blue")))
    web.image("/a.png")
    stage, manifest = crawl(configure(source(tmp_path / "x.warc", stored_images=False)))
    assert rows_of(stage, manifest)[0]["stored_in"] is None
    assert web.request_counts["site.example/a.png"] == 1
    assert manifest.counters["page_skipped.not_html"] == 1


@pytest.mark.parametrize("change", ["shorter", "other", "gone"])
def test_rows_fail_if_the_archive_has_changed(web, configure, tmp_path, change):
    path = tmp_path / "x.warc.gz"
    path.write_bytes(gzip_records(page("a.png"), image_record("a.png", png())))
    config = configure(source(path))
    stage_of(config).plan()
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(
            gzip_records(page("a.png")) if change == "shorter" else gzip_records(page("a.png")) + b"x" * 1000
        )
    stage, manifest = crawl(config)
    (row,) = rows_of(stage, manifest)
    assert row["error_message"].partition(":")[0] == "not_stored"
    assert not web.request_counts


def test_archive_names_contain_no_local_path(configure, tmp_path, monkeypatch):
    monkeypatch.setenv("WARCS", str(tmp_path))
    (tmp_path / "x.warc").write_bytes(page("a.png") + image_record("a.png", png()))
    stage, manifest = crawl(configure(source("${WARCS}/x.warc")))
    assert rows_of(stage, manifest)[0]["stored_in"] == "${WARCS}/x.warc"
    assert str(tmp_path) not in json.dumps(manifest.content)
