"""Downloads from a real server that behaves as real servers do."""

import asyncio
import gzip
import json
import time
import tracemalloc
import zlib

import pytest

from tests.conftest import DEMO
from tests.crawl.web import Answer, bomb, cut, endless, hang, image, reset
from vecap_tasks.config import FetchConfig, load_config
from vecap_tasks.crawl.http.fetcher import Download, Fetcher
from vecap_tasks.crawl.http.ssrf import Resolver
from vecap_tasks.errors import ConfigError, Failure

URL = "http://site.example/a.png"


async def _keep(download):
    return download


def get_all(config, *urls):
    """Download *urls* at once with one fetcher; return what came, failures as values."""

    async def main():
        async with Fetcher(config) as fetcher:
            return await asyncio.gather(*(fetcher.get(url, _keep) for url in urls), return_exceptions=True)

    return asyncio.run(main())


def get(config, url=URL):
    return get_all(config, url)[0]


def reason(config, url=URL):
    failure = get(config, url)
    assert isinstance(failure, Failure), failure
    return failure.message


def test_a_download_keeps_host_and_says_who_we_are(web, fetch_config):
    web.image("/a.png")
    download = get(fetch_config(user_agent="vecap-test/1.0 (+https://example.org)"))
    assert isinstance(download, Download)
    assert (download.url, download.content_type) == (URL, "image/png")
    assert web.asked["site.example/a.png"] == 1
    assert web.agents == {"vecap-test/1.0 (+https://example.org)"}


def test_answers_other_than_200_are_failures(web, fetch_config):
    web.answers |= {"/empty": Answer(status=204), "/gone": Answer(status=410), "/loop": Answer(status=304)}
    found = [reason(fetch_config(), f"http://site.example{path}") for path in ("/none", "/empty", "/gone", "/loop")]
    assert found == ["http_404", "http_204", "http_410", "http_304"]


def test_a_server_that_drips_ends_at_the_deadline(web, fetch_config):
    web.answers["/a.png"] = hang
    assert reason(fetch_config(deadline=0.5, robots=False)) == "timeout"


def test_waiting_for_a_slot_is_not_part_of_the_deadline(web, fetch_config):
    async def slow(request):
        await asyncio.sleep(0.4)
        return await web._answer(request.clone(rel_url="/fast"))

    web.answers |= {"/slow": slow, "/fast": Answer(b"x")}
    urls = [f"http://site.example/slow?{n}" for n in range(8)]
    web.answers |= {url.removeprefix("http://site.example"): slow for url in urls}
    downloads = get_all(fetch_config(deadline=2, connections_per_host=1), *urls)
    assert [download.body for download in downloads] == [b"x"] * 8


@pytest.mark.parametrize("answer", [endless, Answer(b"x" * 200_001)])
def test_bodies_over_the_cap_are_refused(web, fetch_config, answer):
    web.answers["/a.png"] = answer
    assert reason(fetch_config(max_bytes=200_000)) == "too_large"


def test_a_body_of_just_the_cap_is_taken(web, fetch_config):
    web.answers["/a.png"] = Answer(b"x" * 200_000)
    assert len(get(fetch_config(max_bytes=200_000)).body) == 200_000


def test_a_body_that_is_cut_short_is_no_download(web, fetch_config):
    web.answers["/a.png"] = cut
    assert reason(fetch_config()) == "incomplete"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_failures_are_tried_again(web, fetch_config, status):
    web.answers["/a.png"] = Answer(b"at last", first=(Answer(status=status),))
    assert get(fetch_config(retries=1)).body == b"at last"
    assert web.asked["site.example/a.png"] == 2


def test_lasting_failures_are_not_tried_again(web, fetch_config):
    assert reason(fetch_config(retries=3)) == "http_404"
    assert web.asked["site.example/a.png"] == 1


def test_retry_after_is_honored(web, fetch_config):
    web.answers["/a.png"] = Answer(b"x", first=(Answer(status=503, headers={"Retry-After": "1"}),))
    start = time.monotonic()
    assert get(fetch_config(retries=1)).body == b"x"
    assert time.monotonic() - start >= 1


def test_retry_after_beyond_the_deadline_ends_it_at_once(web, fetch_config):
    web.answers["/a.png"] = Answer(status=429, headers={"Retry-After": "3600"})
    assert reason(fetch_config(retries=5)) == "http_429"
    assert web.asked["site.example/a.png"] == 1


def test_redirects_are_followed_to_their_end(web, fetch_config):
    web.answers |= {
        "/a.png": Answer(status=302, headers={"Location": "//other.example/b.png#x"}),
        "other.example/b.png": Answer(b"there"),
        "/round": Answer(status=301, headers={"Location": "/round"}),
        "/file": Answer(status=301, headers={"Location": "file:///etc/passwd"}),
    }
    download = get(fetch_config())
    assert (download.url, download.body) == ("http://other.example/b.png", b"there")
    assert reason(fetch_config(), "http://site.example/round") == "too_many_redirects"
    assert reason(fetch_config(), "http://site.example/file") == "bad_redirect: scheme: file"


def test_nobody_there(fetch_config, free_port):
    nobody = fetch_config(connect_to={"*.example": f"127.0.0.1:{free_port}"}, robots=False)
    assert reason(nobody) == "connection_refused"
    assert reason(fetch_config(connect_to={}, robots=False), "http://no-such-host.invalid/") == "dns"


def test_robots_txt_is_obeyed_and_read_once_per_host(web, fetch_config):
    web.image("/a.png")
    web.image("/private/a.png")
    web.answers["site.example/robots.txt"] = Answer(b"User-agent: vecap\nDisallow: /private")
    urls = ["http://site.example/a.png", "http://site.example/private/a.png", "http://other.example/private/a.png"]
    allowed, refused, other = get_all(fetch_config(), *urls, *urls)[:3]
    assert isinstance(allowed, Download)
    assert str(refused) == "robots"
    assert isinstance(other, Download)
    assert web.asked["site.example/robots.txt"] == 1
    assert web.asked["site.example/private/a.png"] == 0
    assert isinstance(get(fetch_config(robots=False), urls[1]), Download)


@pytest.mark.parametrize(("status", "outcome"), [(404, None), (403, None), (503, "robots: robots.txt answers 503")])
def test_missing_robots_txt_allows_and_a_failing_one_forbids(web, fetch_config, status, outcome):
    web.image("/a.png")
    web.answers["/robots.txt"] = Answer(status=status)
    found = get(fetch_config())
    assert (str(found) if isinstance(found, Failure) else None) == outcome


def test_robots_txt_counts_on_the_way_of_a_redirect(web, fetch_config):
    web.answers |= {
        "/a.png": Answer(status=302, headers={"Location": "http://shut.example/b.png"}),
        "shut.example/robots.txt": Answer(b"User-agent: *\nDisallow: /"),
        "shut.example/b.png": Answer(b"x"),
    }
    assert reason(fetch_config()) == "robots"
    assert web.asked["shut.example/b.png"] == 0


def test_robots_txt_of_a_dead_host_is_the_failure_of_its_images(fetch_config, free_port):
    dead = fetch_config(connect_to={"*.example": f"127.0.0.1:{free_port}"})
    assert reason(dead) == "connection_refused: robots.txt"


def test_opt_out_headers_are_obeyed(web, fetch_config):
    web.answers["/a.png"] = Answer(b"x", headers={"X-Robots-Tag": "unavailable_after: 1 Jan 2030 0:00:00 GMT, noai"})
    assert reason(fetch_config()) == "opt_out: noai"
    assert get(fetch_config(robots=False)).body == b"x"


def test_a_connect_to_that_cannot_be_read_is_an_error():
    with pytest.raises(ConfigError, match="connect_to"):
        get(FetchConfig(connect_to={"*": "127.0.0.1"}))


@pytest.mark.parametrize(
    "agent",
    ["", " ", "vecap", "Mozilla/5.0 (X11; Linux x86_64)", "(+https://example.org)", "a/1 (+https://x.example)\r\nX: y"],
)
def test_who_does_not_say_who_crawls_and_where_to_complain_is_refused(home, agent):
    with pytest.raises(ConfigError, match=r"crawl\.fetch\.user_agent: say who crawls") as error:
        load_config(DEMO, [f"crawl.fetch.user_agent={json.dumps(agent)}"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("agent", ["my-bot/1.0 (+https://example.org/bot)", "bot (mailto:crawl@example.org)"])
def test_a_contact_is_an_address_of_the_web_or_of_a_mailbox(agent):
    assert FetchConfig(user_agent=agent).user_agent == agent


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, lambda body: zlib.compress(body)[2:-4]])
def test_packed_bodies_are_unpacked(web, fetch_config, pack):
    coding = "gzip" if pack is gzip.compress else "deflate"
    web.answers["/a.png"] = Answer(pack(b"picture" * 99), headers={"Content-Encoding": coding})
    assert get(fetch_config()).body == b"picture" * 99


def test_a_bomb_is_not_unpacked_past_the_cap(web, fetch_config):
    web.answers["/a.png"] = bomb(256 << 20)
    assert len(web.answers["/a.png"].body) < 1 << 20
    tracemalloc.start()
    try:
        assert reason(fetch_config(max_bytes=1 << 20)) == "too_large"
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20


def test_what_says_it_is_packed_and_is_broken_is_no_download(web, fetch_config):
    web.answers["/a.png"] = Answer(gzip.compress(b"picture" * 99)[:-12], headers={"Content-Encoding": "gzip"})
    assert reason(fetch_config()) == "bad_encoding: cut short"


def test_a_connection_that_is_reset_is_tried_again(web, fetch_config):
    tries = []

    async def once(request):
        tries.append(request)
        return await (reset(request) if len(tries) == 1 else web._answer(request.clone(rel_url="/b.png")))

    web.answers |= {"/a.png": once, "/b.png": Answer(b"x"), "/never.png": reset}
    assert get(fetch_config(retries=1)).body == b"x"
    assert reason(fetch_config(), "http://site.example/never.png") in ("connection_reset", "incomplete")


def test_more_than_the_length_that_is_promised_is_no_answer(web, fetch_config):
    async def lie(request):
        request.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhalf and more")
        request.transport.close()
        await asyncio.sleep(1)

    web.answers["/a.png"] = lie
    assert reason(fetch_config(robots=False, tdmrep=False)) == "bad_response"


def test_no_lookup_is_kept_for_ever(web, fetch_config):
    web.answers["/a.png"] = Answer(image(), headers={"Connection": "close"})
    asked = []

    class Names(Resolver):
        async def resolve(self, host, port=0, family=0):
            asked.append(host)
            return await super().resolve(host, port, family)

    async def main(config):
        async with Fetcher(config, Names(config.connect_to)) as fetcher:
            for wait in (0, 0, 1.2):
                await asyncio.sleep(wait)
                await fetcher.get(URL, _keep)

    asyncio.run(main(fetch_config(robots=False, tdmrep=False, dns_ttl=1)))
    assert asked == ["site.example"] * 2
