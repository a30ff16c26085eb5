"""Crawls of sitemaps on a real server, and parsing of sitemaps."""

import gzip

import pytest

from tests.conftest import DEMO
from tests.crawl.conftest import crawl, stage_of
from tests.crawl.test_crawl_stage import SITE, rows_of
from tests.crawl.web import Answer
from vecap_tasks.config import load_config
from vecap_tasks.crawl.sources import sitemap
from vecap_tasks.crawl.sources.sitemap import parse_sitemap
from vecap_tasks.errors import ConfigError, Failure, VecapError

XMLNS = (
    "xmlns='http://www.sitemaps.org/schemas/sitemap/0.9' xmlns:image='http://www.google.com/schemas/sitemap-image/1.1'"
)


def urlset(*addresses):
    listed = "".join(f"<url><loc>\n {address} </loc><lastmod>2026-01-01</lastmod></url>" for address in addresses)
    return f"<?xml version='1.0' encoding='UTF-8'?><urlset {XMLNS}>{listed}</urlset>".encode()


def index(*addresses):
    listed = "".join(f"<sitemap><loc>{address}</loc></sitemap>" for address in addresses)
    return f"<sitemapindex {XMLNS}>{listed}</sitemapindex>".encode()


@pytest.fixture
def sitemaps():
    return lambda *paths, **more: {"kind": "site", "sitemaps": [SITE + path for path in paths], **more}


def test_a_sitemap_index_yields_only_pages_of_its_host(web, configure, sitemaps):
    web.answers |= {
        "/sitemap.xml": Answer(index(SITE + "a.xml.gz", "b.txt", SITE + "gone.xml", "http://else.example/c.xml")),
        "/a.xml.gz": Answer(gzip.compress(urlset(SITE + "1", SITE + "2", "http://else.example/3", "mailto:a@b"))),
        "/b.txt": Answer(f"\ufeff{SITE}2\r\n\r\n{SITE}4\n".encode()),
    }
    for number in range(1, 6):
        web.page(f"/{number}", f"<a href=/5>5</a><img src={number}.png alt='number {number}'>")
        web.image(f"/{number}.png", color=(number, 0, 0))
    stage, manifest = crawl(configure(sitemaps("sitemap.xml", max_depth=0)))
    assert [row["caption"] for row in rows_of(stage, manifest)] == ["number 1", "number 2", "number 4"]
    assert {row["source"] for row in rows_of(stage, manifest)} == {SITE + "sitemap.xml"}
    assert [item.name for item in manifest.inputs] == [SITE + "sitemap.xml"]
    counters = manifest.counters
    assert (counters["pages"], counters["page_skipped.other_host"], counters["page_skipped.scheme"]) == (3, 2, 1)
    assert counters["sitemap_skipped.http_404"] == 1
    assert not [name for name in web.request_counts if name.startswith("else.example")]


def test_seeds_and_sitemaps_yield_each_page_once(web, configure, sitemaps):
    web.page("/", "<a href=/1>1</a><img src=0.png>")
    web.page("/1", "<img src=1.png>")
    web.page("/2", "<a href=/3>3</a><img src=2.png>")
    web.page("/3", "<img src=3.png>")
    web.answers["/s.xml"] = Answer(urlset(SITE + "1", SITE + "2", SITE + "2"))
    stage, manifest = crawl(configure(sitemaps("s.xml", seeds=[SITE], max_depth=1)))
    assert [row["url"].removeprefix(SITE) for row in rows_of(stage, manifest)] == ["0.png", "1.png", "2.png", "3.png"]
    assert [item.name for item in manifest.inputs] == [SITE, SITE + "s.xml"]
    assert web.request_counts["site.example/1"] == web.request_counts["site.example/2"] == 1


def test_max_pages_limits_sitemap_pages(web, configure, sitemaps):
    web.answers["/s.xml"] = Answer(index(SITE + "a.xml", SITE + "never.xml"))
    web.answers["/a.xml"] = Answer(urlset(*(f"{SITE}{number}" for number in range(9))))
    for number in range(9):
        web.page(f"/{number}", "<img src=x.png>")
    assert crawl(configure(sitemaps("s.xml", max_pages=3)))[1].counters["pages"] == 3
    assert web.request_counts["site.example/never.xml"] == 0


def test_robots_txt_applies_to_sitemaps_and_their_pages(web, configure, sitemaps):
    web.answers |= {
        "/robots.txt": Answer(b"User-agent: *\nDisallow: /shut"),
        "/s.xml": Answer(urlset(SITE + "shut/1", SITE + "2")),
        "/shut.xml": Answer(urlset(SITE + "2")),
    }
    web.page("/2", "<img src=x.png>")
    _, manifest = crawl(configure(sitemaps("s.xml", "shut.xml", max_depth=0)))
    assert manifest.counters["page_skipped.robots"] == manifest.counters["sitemap_skipped.robots"] == 1
    assert web.request_counts["site.example/shut.xml"] == web.request_counts["site.example/shut/1"] == 0


def test_noindex_on_a_sitemap_does_not_apply_to_its_pages(web, configure, sitemaps):
    """Many servers send noindex with sitemaps. On a page it applies, as does noai on a sitemap."""
    web.answers |= {
        "/s.xml": Answer(urlset(SITE + "1", SITE + "2"), headers={"X-Robots-Tag": "noindex"}),
        "/no.xml": Answer(urlset(SITE + "3"), headers={"X-Robots-Tag": "noindex, noai"}),
    }
    web.page("/1", "<img src=1.png alt=one>")
    web.page("/2", "<img src=2.png alt=two>", **{"X-Robots-Tag": "noindex"})
    stage, manifest = crawl(configure(sitemaps("s.xml", "no.xml", max_depth=0)))
    assert [row["caption"] for row in rows_of(stage, manifest)] == ["one"]
    assert manifest.counters["page_skipped.opt_out"] == manifest.counters["sitemap_skipped.opt_out"] == 1
    assert web.request_counts["site.example/3"] == 0


def test_sitemap_cycles_end(web, configure, sitemaps):
    web.answers["/s.xml"] = Answer(index(SITE + "s.xml", SITE + "t.xml", SITE + "t.xml"))
    web.answers["/t.xml"] = Answer(index(SITE + "s.xml"))
    with pytest.raises(VecapError, match=r"leads to a page: http://site.example/s.xml: lists no page on site"):
        stage_of(configure(sitemaps("s.xml"))).plan()
    assert web.request_counts["site.example/t.xml"] == 1


def test_a_missing_sitemap_is_a_one_line_error(web, configure, sitemaps):
    with pytest.raises(VecapError, match=r"http://site.example/s.xml: http_404.*crawl\.source\.sitemaps") as error:
        stage_of(configure(sitemaps("s.xml"))).plan()
    assert "\n" not in str(error.value)
    with pytest.raises(VecapError, match=r"crawl\.source\.sitemaps: ftp://x/ is not an HTTP URL"):
        stage_of(configure({"kind": "site", "sitemaps": ["ftp://x/"]})).plan()


def test_a_site_needs_seeds_or_sitemaps(home):
    with pytest.raises(ConfigError, match=r"crawl\.source.*a site needs seeds or sitemaps"):
        load_config(DEMO, ["crawl.source={kind: site}"])


def test_sitemap_urls_are_parsed():
    body = f"""<s:urlset xmlns:s='http://www.sitemaps.org/schemas/sitemap/0.9' {XMLNS.split()[1]}>
        <s:url><s:loc><![CDATA[http://a/?x=1&y=2]]></s:loc>
            <image:image><image:loc>http://a/image.png</image:loc></image:image></s:url>
        <s:url><s:loc>http://a/?x=1&amp;y=2&#x20;</s:loc></s:url><s:url><s:loc/></s:url></s:urlset>"""
    assert parse_sitemap(body.encode()).pages == ["http://a/?x=1&y=2"] * 2
    assert parse_sitemap(b"\xef\xbb\xbf\n <urlset><url><loc>http://a/</loc></url></urlset>").pages == ["http://a/"]
    latin = "<?xml version='1.0' encoding='iso-8859-1'?><urlset><url><loc>http://a/é</loc></url></urlset>"
    assert parse_sitemap(latin.encode("latin-1")).pages == ["http://a/é"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<urlset><url><loc>http://a/</loc", "bad_xml"),
        (b"<urlset>" + b"<a>" * 200, "bad_xml"),
        (b"not found", "not_a_sitemap"),
        (b"<!DOCTYPE html><html><p>no such page</html>", "not_a_sitemap"),
        (b"<rss><channel><link>http://a/</link></channel></rss>", "not_a_sitemap"),
        (gzip.compress(urlset("http://a/"), mtime=0)[:-20], "bad_encoding"),
        (gzip.compress(b"\n" * 2000, mtime=0), "too_large"),
        (b"\n" * 2000, "too_large"),
    ],
)
def test_invalid_sitemaps_have_a_reason(monkeypatch, body, reason):
    monkeypatch.setattr(sitemap, "MAX_BYTES", 1000)
    with pytest.raises(Failure) as error:
        parse_sitemap(body)
    assert error.value.reason == reason


def test_unescaped_ampersands_in_urls_are_accepted():
    body = b"""<urlset><url><loc>http://a/?x=1&y=2&amp;z=3&#38;w</loc></url>
        <url><loc><![CDATA[http://a/?x=1&y=2]]></loc></url></urlset>"""
    assert parse_sitemap(body).pages == ["http://a/?x=1&y=2&z=3&w", "http://a/?x=1&y=2"]


@pytest.mark.parametrize("codec", ["gb2312", "shift_jis", "utf-16", "utf-16-le", "utf-16-be", "iso8859-5"])
def test_the_declared_encoding_of_a_sitemap_is_used(codec):
    path = "\u0434\u043e\u043c"
    body = f"<?xml version='1.0' encoding='{codec}'?><urlset><url><loc>http://a/{path}</loc></url></urlset>"
    assert parse_sitemap(body.encode(codec)).pages == [f"http://a/{path}"]


@pytest.mark.parametrize("label", ["undefined", "idna", "punycode", "base64", "x-nobody-knows", "utf-16"])
def test_impossible_encodings_are_ignored(label):
    body = f"<?xml version='1.0' encoding='{label}'?><urlset><url><loc>http://a/\xe9</loc></url></urlset>"
    assert parse_sitemap(body.encode()).pages == ["http://a/\xe9"]


@pytest.mark.parametrize(
    ("inside", "pages"),
    [
        ("<url><loc>http://a/?x&y;z&nbsp;</loc></url>", ["http://a/?x&y;z&nbsp;"]),
        ("<url><loc>http://a/1</loc><title>\x08 &eacute;</title></url>", ["http://a/1"]),
        ("<url><loc>http://a/1</loc><title><![CDATA[\x0b &]]></title></url>", ["http://a/1"]),
        (
            "<url><loc>http://a/1</loc><image:image><image:loc>http://a/i</image:loc></image:image></url>",
            ["http://a/1"],
        ),
        ("<url><loc>http://a/<b/>1</loc></url>", ["http://a/1"]),
    ],
)
def test_sitemaps_that_are_nearly_xml_are_read(inside, pages):
    found = parse_sitemap(f"<urlset>{inside}</urlset>".encode())
    assert (found.pages, found.fault) == (pages, None)


@pytest.mark.parametrize(
    "rest", ["<url><loc>http://a/2", "<url></loc></url></urlset>", "<x a='" + "y" * (2 << 20), "<a>" * 200]
)
def test_urls_before_an_error_count(web, configure, sitemaps, rest):
    web.answers["/s.xml"] = Answer(urlset(SITE + "1").replace(b"</urlset>", rest.encode()))
    web.page("/1", "<img src=1.png alt=one>")
    stage, manifest = crawl(configure(sitemaps("s.xml", max_depth=0)))
    assert [row["caption"] for row in rows_of(stage, manifest)] == ["one"]
    assert manifest.counters["sitemap_truncated.bad_xml"] == 1


def test_the_number_of_urls_is_limited(monkeypatch):
    monkeypatch.setattr(sitemap, "_MAX_URLS", 3)
    for body in (urlset(*["http://a/"] * 9), b"http://a/\n" * 9):
        found = parse_sitemap(body)
        assert (found.pages, str(found.fault)) == (["http://a/"] * 3, "too_many_urls")


def test_preferences_of_robots_txt_apply_to_pages_not_to_their_sitemap(web, configure, sitemaps):
    rules = b"User-agent: *\nContent-Usage: train-ai=n\nContent-Usage: /free train-ai=y"
    web.answers |= {"/robots.txt": Answer(rules), "/s.xml": Answer(urlset(SITE + "1", SITE + "free"))}
    web.page("/free", "<img src=free.png alt=free>")
    stage, manifest = crawl(configure(sitemaps("s.xml", max_depth=0)))
    assert [row["error_message"] for row in rows_of(stage, manifest)] == ["http_404"]
    assert manifest.counters["page_skipped.opt_out"] == 1


def test_sitemaps_of_several_gzip_members_are_read():
    body = urlset("http://a/1", "http://a/2")
    packed = gzip.compress(body[:150], mtime=0) + gzip.compress(body[150:], mtime=0)
    assert parse_sitemap(packed + bytes(9)).pages == ["http://a/1", "http://a/2"]
    with pytest.raises(Failure, match="bad_encoding"):
        parse_sitemap(packed[:-9])


def test_entity_expansion_attacks_are_rejected():
    grow = "".join(f"<!ENTITY e{n} '{f'&e{n - 1};' * 10}'>" for n in range(1, 12))
    body = f"<!DOCTYPE urlset [<!ENTITY e0 '{'x' * 50}'>{grow}]><urlset><url><loc>&e11;</loc></url></urlset>"
    with pytest.raises(Failure, match="bad_xml"):
        parse_sitemap(body.encode())
