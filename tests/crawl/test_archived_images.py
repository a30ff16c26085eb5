"""Images that the WARC files hold themselves are not asked of the web again."""

import gzip
import json

import pytest

from tests.crawl.conftest import crawl, stage_of
from tests.crawl.test_crawl_stage import SITE, rows_of
from tests.crawl.test_warc import packed, record, warc_record
from tests.crawl.test_warc_records import arc_head, arc_record
from tests.crawl.web import image


def png(color="red", size=(40, 30)):
    return image(size=size, color=color)


def picture(name, body, head=b"", fields="", kind="response", status=b"200 OK"):
    """A record of an image, with more WARC *fields*."""
    made = record(body, SITE + name, head, status, b"image/png").decode("latin-1")
    made = made.replace("WARC-Type: response\r\n", f"WARC-Type: {kind}\r\n{fields}", 1)
    return made.encode("latin-1")


def page(*names):
    return record(b"".join(b"<img src=%s alt='%s'>" % (name.encode(), name.encode()) for name in names))


def source(*paths, **more):
    return {"kind": "warc", "paths": [str(path) for path in paths], **more}


@pytest.mark.parametrize("pack", [packed, lambda *records: b"".join(records)], ids=["gzip", "plain"])
def test_images_of_the_same_file_are_taken_from_it(web, configure, tmp_path, pack):
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (png("blue")[:20], png("blue")[20:]))
    data = pack(
        picture("a.png", png(size=(300, 200))),
        page("a.png", "b.png", "c.png", "web.png", "broken.png", "noai.png"),
        picture("b.png", chunked + b"0\r\n\r\n", b"Transfer-Encoding: chunked\r\n"),
        picture("c.png", gzip.compress(png("green")), b"Content-Encoding: gzip\r\n"),
        picture("broken.png", b"<html>"),
        picture("noai.png", png("pink"), b"X-Robots-Tag: noai\r\n"),
        picture("web.png", b"gone", status=b"404 Not Found"),
    )
    (tmp_path / "x.warc").write_bytes(data)
    web.image("/web.png", color="white")
    stage, manifest = crawl(configure(source(tmp_path / "x.warc")))
    rows = {row["caption"]: row for row in rows_of(stage, manifest)}
    assert {name: row["error_message"] for name, row in rows.items()} == {
        "a.png": None, "b.png": None, "c.png": None, "web.png": None, "broken.png": "not_an_image: html",
        "noai.png": "opt_out: noai",
    }  # fmt: skip
    assert (rows["a.png"]["original_width"], rows["a.png"]["original_bytes"]) == (300, len(png(size=(300, 200))))
    assert rows["b.png"]["original_bytes"] == len(png("blue"))
    assert rows["web.png"]["stored_in"] is None
    assert (manifest.counters["held"], manifest.counters["stored"]) == (5, 5)
    assert web.asked_for_images() == {"site.example/web.png": 1}


def test_an_image_may_lie_in_another_file_than_its_page(web, configure, tmp_path):
    (tmp_path / "a.warc.gz").write_bytes(packed(page("a.png", "b.png")))
    (tmp_path / "b.arc.gz").write_bytes(packed(arc_head(), arc_record(png(), SITE + "a.png", "image/png")))
    (tmp_path / "c.warc.gz").write_bytes(packed(picture("a.png", png("blue")), picture("b.png", png("blue")), page()))
    stage, manifest = crawl(configure(source(tmp_path / "*.*.gz")))
    rows = rows_of(stage, manifest)
    # The first of several records of an address, in the order of the files.
    assert [row["stored_in"].rsplit("/")[-1] for row in rows] == ["b.arc.gz", "c.warc.gz"]
    assert manifest.counters["success"] == 2
    assert not web.asked


def test_revisits_lead_to_the_image_they_mean(web, configure, tmp_path):
    digest = "WARC-Payload-Digest: sha1:AAAA\r\n"
    (tmp_path / "a.warc.gz").write_bytes(
        packed(
            page("a.png", "same.png", "moved.png", "later.png", "lost.png"),
            picture("a.png", png("red"), fields=digest),
            picture("b.png", png("blue")),
            picture("same.png", b"", fields=digest, kind="revisit"),
            picture("moved.png", b"", fields=f"WARC-Refers-To-Target-URI: <{SITE}b.png>\r\n", kind="revisit"),
            picture("lost.png", b"", fields="WARC-Payload-Digest: sha1:BBBB\r\n", kind="revisit"),
        )
    )
    later = picture("later.png", png("green"), fields="WARC-Payload-Digest: sha1:CCCC\r\n")
    again = picture("later.png", b"", fields="WARC-Payload-Digest: sha1:CCCC\r\n", kind="revisit")
    unchanged = b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n"  # the profile server-not-modified
    bare = [warc_record("revisit", block, SITE + "b.png", "application/http") for block in (unchanged, b"")]
    page_again = warc_record("revisit", b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n")
    (tmp_path / "b.warc.gz").write_bytes(packed(again, later, *bare, page_again))
    stage, manifest = crawl(configure(source(tmp_path / "*.warc.gz")))
    rows = {row["caption"]: row for row in rows_of(stage, manifest)}
    assert {name: row["error_message"] for name, row in rows.items()} == {
        "a.png": None, "same.png": None, "moved.png": None, "later.png": None, "lost.png": "http_404",
    }  # fmt: skip
    assert rows["same.png"]["sha256"] == rows["a.png"]["sha256"] != rows["moved.png"]["sha256"]
    assert (manifest.counters["held"], manifest.counters["revisited"]) == (3, 6)


def test_what_cannot_be_taken_is_fetched(web, configure, tmp_path):
    together = gzip.compress(page("a.png", "b.png", "cut.png") + picture("a.png", png("blue")))
    cut = packed(picture("cut.png", png("blue")[:50], fields="WARC-Truncated: length\r\n"))
    (tmp_path / "x.warc.gz").write_bytes(together + cut)
    for name in ("/a.png", "/b.png", "/cut.png"):
        web.image(name)
    _, manifest = crawl(configure(source(tmp_path / "x.warc.gz")))
    counters = manifest.counters
    assert (counters["held_skipped.packed_together"], counters["held_skipped.truncated"]) == (1, 1)
    assert counters["success"] == 3
    assert "stored" not in counters
    assert web.asked["site.example/a.png"] == 1


def test_all_images_are_fetched_if_one_says_so(web, configure, tmp_path):
    (tmp_path / "x.warc").write_bytes(page("a.png") + picture("a.png", png("blue")))
    web.image("/a.png")
    stage, manifest = crawl(configure(source(tmp_path / "x.warc", stored_images=False)))
    assert rows_of(stage, manifest)[0]["stored_in"] is None
    assert web.asked["site.example/a.png"] == 1
    assert manifest.counters["page_skipped.not_html"] == 1


@pytest.mark.parametrize("change", ["shorter", "other", "gone"])
def test_a_file_that_is_not_what_it_was_costs_its_rows(web, configure, tmp_path, change):
    path = tmp_path / "x.warc.gz"
    path.write_bytes(packed(page("a.png"), picture("a.png", png())))
    config = configure(source(path))
    stage_of(config).plan()
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(packed(page("a.png")) if change == "shorter" else packed(page("a.png")) + b"x" * 1000)
    stage, manifest = crawl(config)
    (row,) = rows_of(stage, manifest)
    assert row["error_message"].partition(":")[0] == "not_stored"
    assert not web.asked


def test_the_names_of_files_hold_no_path(configure, tmp_path, monkeypatch):
    monkeypatch.setenv("WARCS", str(tmp_path))
    (tmp_path / "x.warc").write_bytes(page("a.png") + picture("a.png", png()))
    stage, manifest = crawl(configure(source("${WARCS}/x.warc")))
    assert rows_of(stage, manifest)[0]["stored_in"] == "${WARCS}/x.warc"
    assert str(tmp_path) not in json.dumps(manifest.content)
