"""The crawl stage, from pages on a real server to published files."""

import functools
import http.server
import io
import json
import threading
from contextlib import contextmanager

import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from tests.core.factories import flip_bit
from tests.crawl.conftest import crawl, stage_of
from tests.crawl.test_warc import gzip_records, record
from tests.crawl.web import Answer, cut, hang, image
from vecap_tasks.core.schemas import CANDIDATES, CRAWL, DUPLICATES
from vecap_tasks.core.store import Store
from vecap_tasks.core.tar import read_samples
from vecap_tasks.errors import CorruptError, VecapError

SITE = "http://site.example/"


def rows_of(stage, manifest):
    names = [name for name in manifest.files_ending(".parquet") if name.rsplit("/", 1)[1][0].isdigit()]
    tables = [pq.read_table(stage.store.path(name)) for name in names]
    assert all(table.schema.equals(CRAWL) for table in tables)
    return [row for table in tables for row in table.to_pylist()]


@pytest.fixture
def small_web(web):
    """A page whose images have different outcomes, a linked page, and one on another host."""
    web.page(
        "/",
        """<title>Home</title><html lang=en><a href=two.html>2</a><a href=http://else.example/>3</a>
        <img src=red.png alt="A red thing"><img src=red.png alt="A red thing"><img src=red.png alt="Otherwise">
        <img src=copy.png alt="The same picture"><img src=none.png alt=lost><img src=text.png alt=text>
        <img src=cut.png alt=cut><img src=drip.png><img src=shut/a.png alt=""><img src="data:image/png;base64,x">""",
    )
    web.page("/two.html", "<a href=/#again>1</a><img src=blue.png alt='Blau: ßtraße \u4e2d'><img src=blue.png>")
    web.page("else.example/", "<img src=never.png>")
    web.image("/red.png", size=(300, 200))
    web.image("/copy.png", size=(300, 200))
    web.image("/blue.png", color="blue")
    web.answers |= {
        "/text.png": Answer(b"<html>", headers={"Content-Type": "image/png"}),
        "/cut.png": cut,
        "/robots.txt": Answer(b"User-agent: *\nDisallow: /shut/"),
    }
    return web


def test_every_row_has_its_status(small_web, configure, seeds):
    small_web.answers["/drip.png"] = hang
    stage, manifest = crawl(configure(seeds(SITE), {"deadline": 1.5}, shard_size=4))
    rows = rows_of(stage, manifest)
    outcomes = [(row["key"], row["url"].removeprefix(SITE), row["caption"], row["error_message"]) for row in rows]
    assert outcomes == [
        ("000000000", "red.png", "A red thing", None),
        ("000000001", "red.png", "Otherwise", None),
        ("000000002", "copy.png", "The same picture", None),
        ("000000003", "none.png", "lost", "http_404"),
        ("000010000", "text.png", "text", "not_an_image: html"),
        ("000010001", "cut.png", "cut", "incomplete"),
        ("000010002", "drip.png", None, "timeout"),
        ("000010003", "shut/a.png", "", "robots"),
        ("000020000", "blue.png", "Blau: ßtraße 中", None),
        ("000020001", "blue.png", None, None),
    ]
    assert (
        manifest.counters
        == {
            "pages": 2,
            "images": 12,
            "candidates": 10,
            "repeated": 1,
            "skipped.scheme": 1,
            "success": 5,
            "failed_to_download": 4,
            "failed_to_resize": 1,
            "duplicates": 3,
            **{f"error.{reason}": 1 for reason in ("http_404", "not_an_image", "incomplete", "timeout", "robots")},
        }
        or "page_skipped.not_html" not in manifest.counters
    )
    assert {row["page_title"] for row in rows[:8]} == {"Home"}
    assert {row["source"] for row in rows} == {SITE}
    assert small_web.request_counts["site.example/red.png"] == 1
    assert small_web.request_counts["else.example/"] == 0


def test_output_files_match_img2dataset(small_web, configure, seeds):
    stage, manifest = crawl(configure(seeds(SITE), shard_size=4))
    assert [(entry.path, entry.rows) for entry in manifest.files] == [
        ("00000.parquet", 4), ("00000.tar", 3), ("00000_stats.json", None),
        ("00001.parquet", 4), ("00001_stats.json", None),
        ("00002.parquet", 2), ("00002.tar", 2), ("00002_stats.json", None),
        ("candidates.json", None), ("duplicates.parquet", 3),
    ]  # fmt: skip
    stats = json.loads(stage.store.read(manifest.file("00000_stats.json")))
    assert (stats["count"], stats["successes"], stats["failed_to_download"]) == (4, 3, 1)
    assert stats["status_dict"] == {"success": 3, "http_404": 1}
    rows = {row["key"]: row for row in rows_of(stage, manifest)}
    path = stage.store.path(manifest.file("00002.tar"))
    for sample in webdataset.WebDataset(path, shardshuffle=False, empty_check=False):
        row = rows[sample["__key__"]]
        assert sample["txt"].decode() == (row["caption"] or "")
        assert json.loads(sample["json"]) == row
        assert Image.open(io.BytesIO(sample["jpg"])).size == (row["width"], row["height"])
    assert json.loads(stage.store.read(manifest.file("candidates.json")))["counters"]["candidates"] == 10
    candidates = pq.read_table(stage.store.path(f"{stage.folder}/_candidates/00001.parquet"))
    assert candidates.schema.equals(CANDIDATES)
    assert candidates["uid"].to_pylist() == [row["uid"] for key, row in rows.items() if key.startswith("00001")]


def test_equal_images_are_duplicates_of_the_first(small_web, configure, seeds):
    stage, manifest = crawl(configure(seeds(SITE), shard_size=4))
    uids = {row["key"]: row["uid"] for row in rows_of(stage, manifest)}
    table = pq.read_table(stage.store.path(manifest.file("duplicates.parquet")))
    assert table.schema.equals(DUPLICATES)
    assert [(row["key"], row["duplicate_of"]) for row in table.to_pylist()] == [
        ("000000001", uids["000000000"]),
        ("000000002", uids["000000000"]),
        ("000020001", uids["000020000"]),
    ]


def test_the_digest_is_independent_of_order_and_restarts(small_web, configure, seeds, tmp_path):
    config = configure(seeds(SITE), shard_size=3)
    manifest = crawl(config)[1]
    other = config.model_copy(update={"root": str(tmp_path / "other")})
    stage = stage_of(other)
    shards = stage.plan()
    stage.run(shards[2])
    resumed = stage_of(other)  # as in a new process
    assert resumed.plan() == [shards[0], shards[1], shards[3]]
    for shard in reversed(resumed.plan()):
        resumed.run(shard)
    assert resumed.commit().digest == manifest.digest


def test_page_changes_after_planning_do_not_change_the_candidates(small_web, configure, seeds):
    config = configure(seeds(SITE))
    stage_of(config).plan()
    small_web.page("/", "<img src=other.png>")
    manifest = crawl(config)[1]
    assert manifest.counters["candidates"] == 10
    assert small_web.request_counts["site.example/"] == 1


def test_corrupt_links_and_candidates_are_made_again(small_web, configure, seeds, tmp_path):
    config = configure(seeds(SITE), shard_size=3)
    expected = crawl(config)[1].digest
    stage = stage_of(config.model_copy(update={"root": str(tmp_path / "other")}))
    (part,) = stage.preparations()
    stage.prepare(part)
    (links,) = [name for name in stage.store.files(f"{stage.folder}/_links") if name.endswith(".parquet")]
    flip_bit(stage.store, f"{stage.folder}/_links/{links}")
    with pytest.raises(VecapError, match=rf"_links/{links} is corrupt: .*; it was removed, run the same command again"):
        stage_of(stage.config).plan()
    stage_of(stage.config).plan()
    candidates = f"{stage.folder}/_candidates/00001.parquet"
    flip_bit(stage.store, candidates)
    with pytest.raises(CorruptError, match=rf"^{candidates} is corrupt"):
        stage_of(stage.config).run("00001")
    with pytest.raises(CorruptError, match=rf"^{candidates} is corrupt"):
        stage_of(stage.config).plan()
    assert crawl(stage.config)[1].digest == expected


def test_a_changed_index_of_the_candidates_is_an_error(small_web, configure, seeds):
    stage = stage_of(configure(seeds(SITE), shard_size=3))
    stage.plan()
    index = f"{stage.folder}/_candidates/index.json"
    flip_bit(stage.store, index)
    with pytest.raises(CorruptError, match=rf"^{index} is corrupt: .*; restore it, or delete {index} and run"):
        stage_of(stage.config).plan()
    stage.store.remove(index)
    assert stage_of(stage.config).plan() == ["00000", "00001", "00002", "00003"]
    assert small_web.request_counts["site.example/"] == 1


def test_candidates_are_made_again_after_a_kill_between_two_shards(small_web, configure, seeds, monkeypatch):
    config = configure(seeds(SITE), shard_size=3)
    expected = crawl(config)[1]
    stage = stage_of(config.model_copy(update={"dataset": "killed"}))
    upload = Store.upload

    def dying(store, name, source):
        if name.endswith("_candidates/00002.parquet"):
            raise KeyboardInterrupt
        upload(store, name, source)

    monkeypatch.setattr(Store, "upload", dying)
    with pytest.raises(KeyboardInterrupt):
        stage.plan()
    monkeypatch.setattr(Store, "upload", upload)
    assert stage.store.files(f"{stage.folder}/_candidates") == ["00000.parquet", "00001.parquet"]
    assert crawl(stage.config)[1].files == expected.files


def test_max_depth_and_max_pages_limit_the_crawl(web, configure, seeds):
    for number in range(6):
        web.page(f"/{number}", f"<a href=/{number + 1}>next</a><a href=/x{number}>x</a><img src=i{number}.png>")
    assert crawl(configure(seeds(SITE + "0", max_depth=0)))[1].counters["pages"] == 1
    deep = configure(seeds(SITE + "0", max_depth=3))
    assert crawl(deep.model_copy(update={"dataset": "deep"}))[1].counters["pages"] == 4
    few = configure(seeds(SITE + "0", max_depth=9, max_pages=2))
    assert crawl(few.model_copy(update={"dataset": "few"}))[1].counters["pages"] == 2


def test_an_unreachable_site_is_a_one_line_error(web, configure, seeds):
    with pytest.raises(
        VecapError, match=r"no seed or sitemap leads to a page: http://site.example/: http_404"
    ) as error:
        stage_of(configure(seeds(SITE))).plan()
    assert "\n" not in str(error.value)
    web.answers["/"] = Answer(b"x", headers={"Content-Type": "text/plain"})
    with pytest.raises(VecapError, match="not_html"):
        stage_of(configure(seeds(SITE))).plan()
    with pytest.raises(VecapError, match=r"crawl\.source\.seeds"):
        stage_of(configure(seeds("ftp://site.example/"))).plan()


def test_pages_that_opt_out_yield_no_images(web, configure, seeds):
    web.page("/", "<meta name=robots content='noai, nofollow'><img src=a.png><img src=b.png>")
    manifest = crawl(configure(seeds(SITE)))[1]
    assert manifest.counters["skipped.page_opt_out"] == 2
    assert manifest.counters["candidates"] == 0
    assert [entry.path for entry in manifest.files] == ["candidates.json", "duplicates.parquet"]


def test_a_warc_crawl_records_its_input_files(web, configure, tmp_path):
    data = gzip_records(record(b"<img src=a.png alt='a dog'>"), record(b"<img src=/a.png alt='a dog'>", SITE + "b/"))
    (tmp_path / "2026-01-01.warc.gz").write_bytes(data)
    web.image("/a.png")
    source = {"kind": "warc", "paths": ["${VECAP_HOME}/{interval}.warc.gz"]}
    stage, manifest = crawl(configure(source))
    (row,) = rows_of(stage, manifest)
    assert (row["status"], row["page_url"], row["source"]) == ("success", SITE, "${VECAP_HOME}/2026-01-01.warc.gz")
    assert [(item.name, item.bytes) for item in manifest.inputs] == [("${VECAP_HOME}/2026-01-01.warc.gz", len(data))]
    assert manifest.counters["repeated"] == 1
    assert str(tmp_path) not in json.dumps(manifest.content)


def test_a_truncated_warc_publishes_nothing(configure, tmp_path):
    data = gzip_records(record(), record())
    (tmp_path / "x.warc.gz").write_bytes(data[:-9])
    stage = stage_of(configure({"kind": "warc", "paths": [str(tmp_path / "x.warc.gz")]}))
    with pytest.raises(VecapError, match="is truncated"):
        stage.plan()
    assert stage.store.files(stage.folder) == []


def test_images_keep_page_order_regardless_of_response_times(web, configure, seeds):
    web.page("/", "".join(f"<img src=/{n}.png alt='number {n}'>" for n in range(300)))
    for number in range(300):
        web.answers[f"/{number}.png"] = Answer(image(color=(number % 256, number // 256, 7)))
    stage, manifest = crawl(configure(seeds(SITE), shard_size=128))
    rows = rows_of(stage, manifest)
    assert [row["caption"] for row in rows] == [f"number {n}" for n in range(300)]
    assert manifest.counters["success"] == 300
    with stage.store.open(manifest.file("00001.tar")) as stream:
        keys = [sample.key for sample in read_samples(stream)]
    assert keys == [f"00001{n:04d}" for n in range(128)]


@contextmanager
def serve_folder(folder):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def normalize_spaces(text):
    return " ".join((text or "").split())


def test_crawl_of_a_textbook(shared_data, configure, seeds):
    folder = shared_data / "openstax-anthropology"
    with serve_folder(folder) as port:
        source = seeds("http://book.example/index.html")
        stage, manifest = crawl(configure(source, {"connect_to": {"*.example": f"127.0.0.1:{port}"}}))
    found = {(row["page_url"], row["url"], normalize_spaces(row["caption"])) for row in rows_of(stage, manifest)}
    listed = [json.loads(line) for line in (folder / "ATTRIBUTION.jsonl").read_text().splitlines()]
    site = "http://book.example/"
    assert {(site + item["page"], site + item["image"], normalize_spaces(item["alt"])) for item in listed} == found
    assert (manifest.counters["pages"], manifest.counters["success"]) == (46, 118)


def test_crawl_of_a_real_page(shared_data, configure, seeds):
    with serve_folder(shared_data / "gutenberg-18304-h") as port:
        source = seeds("http://book.example/18304-h.htm", max_depth=0)
        stage, manifest = crawl(configure(source, {"connect_to": {"*.example": f"127.0.0.1:{port}"}}))
    rows = rows_of(stage, manifest)
    assert len(rows) == manifest.counters["success"] == 68
    assert len({normalize_spaces(row["caption"]) for row in rows} - {""}) == 66


def test_crawl_of_a_common_crawl_page(shared_data, configure, free_port):
    source = {"kind": "warc", "paths": [str(shared_data / "warc" / "cc-whirlwind.warc.gz")]}
    stage, manifest = crawl(configure(source, {"connect_to": {"*": f"127.0.0.1:{free_port}"}}))
    rows = rows_of(stage, manifest)
    assert manifest.counters["images"] == 13
    assert sum(bool(row["caption"]) for row in rows) == 7
    assert {row["error_message"] for row in rows} == {"connection_refused: robots.txt"}
