"""A page, record, sitemap or image that crashes its parser or never ends fails alone, with a reason and a warning."""

import pytest

from tests.crawl import broken_functions
from tests.crawl.conftest import crawl, stage_of
from tests.crawl.test_crawl_stage import SITE, rows_of
from tests.crawl.test_warc import gzip_records, record
from tests.crawl.test_wat import INFO, page_record
from tests.crawl.web import Answer, image
from vecap_tasks.config import LimitsConfig
from vecap_tasks.core.isolation import pool
from vecap_tasks.crawl.image import decode_pool
from vecap_tasks.crawl.previous_crawl import is_permanent
from vecap_tasks.crawl.sources import site, warc, wat

LIMITS = {"cpu_seconds": 0.5}


@pytest.fixture(autouse=True)
def _broken_functions(monkeypatch):
    for owner, name, function in (
        (site, "EXTRACT", "extract"),
        (site, "PARSE_SITEMAP", "parse_sitemap"),
        (warc, "EXTRACT", "extract"),
        (wat, "READ_RECORD", "read_record"),
        (decode_pool, "_DECODE", "decode_and_hash"),
    ):
        monkeypatch.setattr(owner, name, f"{broken_functions.MODULE}:{function}")
    yield
    pool.close()


@pytest.mark.parametrize(
    ("fault", "reason", "message"),
    [("CRASH", "crashed", "crashed: SIGABRT"), ("LOOP", "cpu_limit", "cpu_limit: 0.5 s")],
)
def test_an_image_and_a_page_of_a_site(web, configure, seeds, caplog, fault, reason, message):
    web.page("/", "<a href=/b>2</a><a href=/c>3</a><img src=/a.png alt=a><img src=/bad.png alt=b>")
    web.page("/b", f"<img src=/c.png alt={fault}>")
    web.page("/c", "<img src=/d.png alt=d>")
    for number, name in enumerate(("a", "bad", "d")):
        body = image(size=(40 + number, 30)) + fault.encode() * (name == "bad")
        web.answers[f"/{name}.png"] = Answer(body, headers={"Content-Type": "image/png"})
    stage, manifest = crawl(configure(seeds(SITE, max_depth=2), limits=LIMITS))
    rows = [(row["caption"], row["status"], row["error_message"]) for row in rows_of(stage, manifest)]
    assert rows == [("a", "success", None), ("b", "failed_to_resize", message), ("d", "success", None)]
    assert (manifest.counters["pages"], manifest.counters[f"page_skipped.{reason}"]) == (2, 1)
    assert manifest.counters[f"error.{reason}"] == 1
    warnings = [record.getMessage() for record in caplog.records if "attempts" in record.getMessage()]
    assert warnings == [f"{SITE}{name}: {message} after 2 attempts; skipped" for name in ("b", "bad.png")]


def test_a_sitemap(web, configure, caplog):
    web.answers["/s.txt"] = Answer(b"CRASH")
    web.answers["/t.txt"] = Answer(SITE.encode())
    web.page("/", "<img src=/a.png alt=a>")
    stage = stage_of(configure({"kind": "site", "sitemaps": [SITE + "s.txt", SITE + "t.txt"], "max_depth": 0}))
    stage.plan()
    assert stage._stats.counters["sitemap_skipped.crashed"] == stage._stats.counters["pages"] == 1
    assert f"sitemap {SITE}s.txt: crashed: SIGABRT" in caplog.text


@pytest.mark.parametrize("kind", ["warc", "wat"])
def test_a_record(configure, tmp_path, caplog, kind):
    bad = [{"path": "IMG@/src", "url": "/c.png", "alt": "CRASH"}]
    records = {
        "warc": [record(b"<img src=a.png>"), record(b"<img alt=CRASH>", SITE + "b"), record(b"<img src=b.png>")],
        "wat": [INFO, page_record(), page_record(bad, SITE + "b"), page_record()],
    }
    (tmp_path / f"x.{kind}.gz").write_bytes(gzip_records(*records[kind]))
    stage = stage_of(configure({"kind": kind, "paths": [str(tmp_path / f"x.{kind}.gz")]}))
    stage.plan()
    counters = stage._stats.counters
    assert (counters["pages"], counters["images"], counters["page_skipped.crashed"]) == (2, 2, 1)
    assert caplog.text.count(f"{SITE}b: crashed: SIGABRT after 2 attempts; skipped") == 1


def test_limits_do_not_change_the_fingerprint(configure, seeds):
    config, other = configure(seeds(SITE)), configure(seeds(SITE), limits=LIMITS)
    assert other.crawl.limits == LimitsConfig(**LIMITS)
    assert config.crawl.identity() == other.crawl.identity()
    assert "limits" not in config.crawl.identity()


def test_rows_that_exceeded_a_limit_are_retried():
    assert not any(map(is_permanent, ("cpu_limit", "memory_limit", "stalled", "crashed")))
