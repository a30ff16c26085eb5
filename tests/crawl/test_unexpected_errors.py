"""An unexpected exception in the handling of external data fails only its own row."""

import json
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.crawl import broken_functions
from tests.crawl.conftest import crawl, stage_of
from tests.crawl.test_crawl_stage import SITE, rows_of
from tests.crawl.test_warc import gzip_records, record
from tests.crawl.test_wat import INFO, page_record
from tests.crawl.test_webdataset import tar_of
from tests.crawl.web import Answer, image
from vecap_tasks import outages
from vecap_tasks.core.isolation import pool
from vecap_tasks.crawl.http import fetcher, robots_cache
from vecap_tasks.crawl.image import decode_pool
from vecap_tasks.crawl.previous_crawl import is_permanent
from vecap_tasks.crawl.sources import columns, site, url_list, warc, wat, webdataset
from vecap_tasks.errors import Failure, OutageError, VecapError, failure_of


@pytest.fixture
def inject_error(monkeypatch):
    """Return a function that makes function *name* of *owner* raise *error* if an argument contains *mark*."""

    def make(owner, name, mark, error=None):
        real = getattr(owner, name)

        def function(*args, **kwargs):
            if any(mark in (value if isinstance(value, str) else repr(value)) for value in args):
                raise error or KeyError("mark")
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, function)

    return make


@pytest.fixture
def break_function(monkeypatch):
    """Return a function that replaces a function of child processes, named by constant *name* of *owner*."""

    def make(owner, name, function):
        monkeypatch.setattr(owner, name, f"{broken_functions.MODULE}:{function}")

    yield make
    pool.close()


@pytest.fixture
def two_pages(web):
    """A site with two images on its first page and one on its second."""
    web.page("/", "<a href=/bad>2</a><img src=/a.png alt=a><img src=/bad.png alt=b>")
    web.page("/bad", "<img src=/c.png alt=c>")
    for number, name in enumerate(("a", "bad", "c")):
        web.answers[f"/{name}.png"] = Answer(image(size=(40 + number, 30)), headers={"Content-Type": "image/png"})
    return web


def read_counters(config):
    """Return the counters of reading the source."""
    stage = stage_of(config)
    stage.plan()
    return stage._stats.counters


@pytest.mark.parametrize(
    "error",
    [
        AssertionError(), ArithmeticError(), IndexError("x"), KeyError("x"), OverflowError(), RecursionError(),
        RuntimeError(), StopIteration(), TypeError(), UnicodeError(), ValueError(), struct.error(), zlib.error(),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_an_unexpected_exception_is_a_reason_and_is_logged_once(error, caplog):
    failure = failure_of(error, "http://site.example/")
    assert failure.message == f"unexpected: {type(error).__name__}"
    assert [entry.levelname for entry in caplog.records] == ["WARNING"]
    assert "http://site.example/: unexpected " + type(error).__name__ in caplog.text


def test_failures_are_returned_and_internal_errors_are_raised(caplog):
    failure = Failure("bad_url")
    assert failure_of(failure, "x") is failure
    for error in (VecapError("x"), OSError(28, "No space left"), MemoryError(), executor_shutdown_error()):
        with pytest.raises(type(error)) as raised:
            failure_of(error, "x")
        assert raised.value is error
    assert not caplog.text


def executor_shutdown_error():
    """Return the error of an executor that was shut down, as when the process exits."""
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(RuntimeError) as refused:
        executor.submit(len, "")
    return refused.value


def test_unexpected_failures_are_retried():
    assert not is_permanent("unexpected")


@pytest.mark.parametrize("depth", [1, 2])  # with 1 the links of the second page are not extracted
def test_unexpected_error_in_a_page(two_pages, configure, seeds, break_function, caplog, depth):
    break_function(site, "EXTRACT", "extract")
    two_pages.page("/bad", "<img src=/c.png alt=KEY_ERROR>")
    stage, manifest = crawl(configure(seeds(SITE, max_depth=depth)))
    assert [row["caption"] for row in rows_of(stage, manifest)] == ["a", "b"]
    assert (manifest.counters["pages"], manifest.counters["page_skipped.unexpected"]) == (1, 1)
    assert caplog.text.count("http://site.example/bad: unexpected KeyError") == 1


def test_unexpected_error_in_an_image_of_a_page(two_pages, configure, seeds, break_function):
    break_function(site, "EXTRACT", "extract_without_image")
    stage, manifest = crawl(configure(seeds(SITE)))
    assert [row["caption"] for row in rows_of(stage, manifest)] == ["a", "c"]
    assert (manifest.counters["pages"], manifest.counters["skipped.unexpected"]) == (2, 1)


@pytest.mark.parametrize("part", ["decoding", "download"])
def test_unexpected_error_in_a_download(two_pages, configure, seeds, inject_error, break_function, caplog, part):
    if part == "decoding":
        break_function(decode_pool, "_DECODE", "decode_and_hash")
        two_pages.answers["/bad.png"] = Answer(image() + b"KEY_ERROR")
    else:
        inject_error(fetcher, "opted_out", "odd")
        two_pages.answers["/bad.png"].headers["X-Robots-Tag"] = "odd"
    stage, manifest = crawl(configure(seeds(SITE)))
    assert [row["error_message"] for row in rows_of(stage, manifest)] == [None, "unexpected: KeyError", None]
    assert manifest.counters["error.unexpected"] == 1
    assert caplog.text.count("http://site.example/bad.png: unexpected KeyError") == 1


def test_connection_errors_fail_the_row_and_not_the_stage(two_pages, configure, seeds, inject_error):
    inject_error(fetcher, "opted_out", "odd", OSError(113, "No route to host"))
    two_pages.answers["/bad.png"].headers["X-Robots-Tag"] = "odd"
    stage, manifest = crawl(configure(seeds(SITE)))
    assert [row["error_message"] for row in rows_of(stage, manifest)] == [None, "connection_reset", None]


def test_unexpected_error_in_robots_txt(two_pages, configure, seeds, inject_error, caplog):
    two_pages.page("/", "<img src=/a.png alt=a><img src=http://bad.example/a.png><img src=http://bad.example/c.png>")
    two_pages.answers["bad.example/robots.txt"] = Answer(b"bad")
    inject_error(robots_cache, "parse_robots", "bad")
    stage, manifest = crawl(configure(seeds(SITE)))
    assert [row["error_message"] for row in rows_of(stage, manifest)] == [None, *["unexpected: KeyError"] * 2]
    assert caplog.text.count("robots.txt of http://bad.example: unexpected KeyError") == 1
    assert not two_pages.request_counts["bad.example/a.png"]


def test_unexpected_error_in_a_redirect_and_a_sitemap(two_pages, configure, inject_error, break_function):
    two_pages.answers |= {"/s.txt": Answer(f"{SITE}bad\n{SITE}".encode()), "/t.txt": Answer(b"KEY_ERROR")}
    break_function(site, "PARSE_SITEMAP", "parse_sitemap")
    inject_error(fetcher, "absolute", "odd")
    two_pages.answers["/bad"] = Answer(status=302, headers={"Location": "odd"})
    sitemaps = [SITE + "t.txt", SITE + "s.txt"]
    stage, manifest = crawl(configure({"kind": "site", "sitemaps": sitemaps, "max_depth": 0}))
    assert [row["caption"] for row in rows_of(stage, manifest)] == ["a", "b"]
    assert manifest.counters["sitemap_skipped.unexpected"] == manifest.counters["page_skipped.unexpected"] == 1


def test_unexpected_error_in_a_record(two_pages, configure, inject_error, break_function, tmp_path, caplog):
    inject_error(warc, "parse_response", "/bad")
    break_function(wat, "READ_RECORD", "read_record")
    (tmp_path / "x.warc.gz").write_bytes(gzip_records(record(b"<img src=a.png>"), record(url=SITE + "bad"), record()))
    links = [{"path": "IMG@/src", "url": "data:x"}, {"path": "IMG@/src", "url": "/bad.png"}]
    (tmp_path / "x.wat.gz").write_bytes(
        gzip_records(INFO, page_record(), page_record(links, SITE + "two"), page_record())
    )
    for kind, images in (("warc", 2), ("wat", 2)):
        config = configure({"kind": kind, "paths": [str(tmp_path / f"x.{kind}.gz")]})
        counters = read_counters(config.model_copy(update={"dataset": kind}))
        assert (counters["pages"], counters["images"], counters["page_skipped.unexpected"]) == (2, images, 1)
        assert "skipped.scheme" not in counters
    assert "x.warc.gz: http://site.example/bad: unexpected KeyError" in caplog.text
    assert "x.wat.gz: http://site.example/two: unexpected KeyError" in caplog.text


@pytest.mark.parametrize(("owner", "name"), [(url_list, "absolute"), (columns, "_is_unicode")])
def test_unexpected_error_in_a_row_of_a_url_list(configure, inject_error, tmp_path, caplog, owner, name):
    inject_error(owner, name, "bad")
    rows = [{"url": f"http://site.example/{name}.png"} for name in ("a", "bad", "c")]
    (tmp_path / "x.json").write_text(json.dumps(rows))
    counters = read_counters(configure({"kind": "urls", "paths": [str(tmp_path / "x.json")]}))
    assert counters == {"images": 3, "candidates": 2, "repeated": 0, "skipped.unexpected": 1}
    assert "http://site.example/bad.png: unexpected KeyError" in caplog.text


def test_unexpected_error_in_a_sample_of_a_tar(configure, inject_error, tmp_path):
    inject_error(webdataset, "absolute", "bad")
    members = [("a.jpg", image("JPEG")), ("b.jpg", image("JPEG", color="blue")), ("b.json", b'{"url": "bad"}')]
    (tmp_path / "x.tar").write_bytes(tar_of([*members, ("c.jpg", image("JPEG", color="lime"))]))
    counters = read_counters(configure({"kind": "webdataset", "paths": [str(tmp_path / "x.tar")]}))
    assert (counters["images"], counters["candidates"], counters["skipped.unexpected"]) == (3, 2, 1)


def test_a_full_disk_stops_the_shard(two_pages, configure, seeds, break_function):
    break_function(decode_pool, "_DECODE", "decode_and_hash")
    two_pages.answers["/bad.png"] = Answer(image() + b"DISK_FULL")
    stage = stage_of(configure(seeds(SITE)))
    (shard,) = stage.plan()
    outages.set_timeout(0)
    with pytest.raises(OutageError, match="No space left"):
        stage.run(shard)
