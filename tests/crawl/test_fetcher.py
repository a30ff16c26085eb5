"""Downloads from a real server with realistic behavior."""

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


async def keep(download):
    return download


def get_all(config, *urls):
    """Download *urls* concurrently with one fetcher; return the downloads or failures."""

    async def main():
        async with Fetcher(config) as fetcher:
            return await asyncio.gather(*(fetcher.get(url, keep) for url in urls), return_exceptions=True)

    return asyncio.run(main())


def get(config, url=URL):
    return get_all(config, url)[0]


def failure_message(config, url=URL):
    failure = get(config, url)
    assert isinstance(failure, Failure), failure
    return failure.message


def test_requests_have_the_original_host_and_the_user_agent(web, fetch_config):
    web.image("/a.png")
    download = get(fetch_config(user_agent="vecap-test/1.0 (+https://example.org)"))
    assert isinstance(download, Download)
    assert (download.url, download.content_type) == (URL, "image/png")
    assert web.request_counts["site.example/a.png"] == 1
    assert web.agents == {"vecap-test/1.0 (+https://example.org)"}


def test_statuses_other_than_200_are_failures(web, fetch_config):
    web.answers |= {"/empty": Answer(status=204), "/gone": Answer(status=410), "/loop": Answer(status=304)}
    found = [
        failure_message(fetch_config(), f"http://site.example{path}") for path in ("/none", "/empty", "/gone", "/loop")
    ]
    assert found == ["http_404", "http_204", "http_410", "http_304"]


def test_slow_responses_end_at_the_deadline(web, fetch_config):
    web.answers["/a.png"] = hang
    assert failure_message(fetch_config(deadline=0.5, robots=False)) == "timeout"


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
def test_bodies_above_max_bytes_are_rejected(web, fetch_config, answer):
    web.answers["/a.png"] = answer
    assert failure_message(fetch_config(max_bytes=200_000)) == "too_large"


def test_a_body_of_max_bytes_is_accepted(web, fetch_config):
    web.answers["/a.png"] = Answer(b"x" * 200_000)
    assert len(get(fetch_config(max_bytes=200_000)).body) == 200_000


def test_a_truncated_body_is_a_failure(web, fetch_config):
    web.answers["/a.png"] = cut
    assert failure_message(fetch_config()) == "incomplete"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_temporary_failures_are_retried(web, fetch_config, status):
    web.answers["/a.png"] = Answer(b"at last", first=(Answer(status=status),))
    assert get(fetch_config(retries=1)).body == b"at last"
    assert web.request_counts["site.example/a.png"] == 2


def test_permanent_failures_are_not_retried(web, fetch_config):
    assert failure_message(fetch_config(retries=3)) == "http_404"
    assert web.request_counts["site.example/a.png"] == 1


def test_retry_after_is_honored(web, fetch_config):
    web.answers["/a.png"] = Answer(b"x", first=(Answer(status=503, headers={"Retry-After": "1"}),))
    start = time.monotonic()
    assert get(fetch_config(retries=1)).body == b"x"
    assert time.monotonic() - start >= 1


def test_retry_after_beyond_the_deadline_fails_at_once(web, fetch_config):
    web.answers["/a.png"] = Answer(status=429, headers={"Retry-After": "3600"})
    assert failure_message(fetch_config(retries=5)) == "http_429"
    assert web.request_counts["site.example/a.png"] == 1


def test_redirects_are_followed(web, fetch_config):
    web.answers |= {
        "/a.png": Answer(status=302, headers={"Location": "//other.example/b.png#x"}),
        "other.example/b.png": Answer(b"there"),
        "/round": Answer(status=301, headers={"Location": "/round"}),
        "/file": Answer(status=301, headers={"Location": "file:///etc/passwd"}),
    }
    download = get(fetch_config())
    assert (download.url, download.body) == ("http://other.example/b.png", b"there")
    assert failure_message(fetch_config(), "http://site.example/round") == "too_many_redirects"
    assert failure_message(fetch_config(), "http://site.example/file") == "bad_redirect: scheme: file"


def test_unreachable_hosts_are_failures(fetch_config, free_port):
    unreachable = fetch_config(connect_to={"*.example": f"127.0.0.1:{free_port}"}, robots=False)
    assert failure_message(unreachable) == "connection_refused"
    assert failure_message(fetch_config(connect_to={}, robots=False), "http://no-such-host.invalid/") == "dns"


def test_robots_txt_is_obeyed_and_read_once_per_host(web, fetch_config):
    web.image("/a.png")
    web.image("/private/a.png")
    web.answers["site.example/robots.txt"] = Answer(b"User-agent: vecap\nDisallow: /private")
    urls = ["http://site.example/a.png", "http://site.example/private/a.png", "http://other.example/private/a.png"]
    allowed, refused, other = get_all(fetch_config(), *urls, *urls)[:3]
    assert isinstance(allowed, Download)
    assert str(refused) == "robots"
    assert isinstance(other, Download)
    assert web.request_counts["site.example/robots.txt"] == 1
    assert web.request_counts["site.example/private/a.png"] == 0
    assert isinstance(get(fetch_config(robots=False), urls[1]), Download)


@pytest.mark.parametrize(
    ("status", "outcome"), [(404, None), (403, None), (429, "http_429: robots.txt"), (503, "http_503: robots.txt")]
)
def test_a_missing_robots_txt_allows_and_a_server_error_forbids(web, fetch_config, status, outcome):
    web.image("/a.png")
    web.answers["/robots.txt"] = Answer(status=status)
    found = get(fetch_config())
    assert (str(found) if isinstance(found, Failure) else None) == outcome


def test_robots_txt_applies_to_redirect_targets(web, fetch_config):
    web.answers |= {
        "/a.png": Answer(status=302, headers={"Location": "http://shut.example/b.png"}),
        "shut.example/robots.txt": Answer(b"User-agent: *\nDisallow: /"),
        "shut.example/b.png": Answer(b"x"),
    }
    assert failure_message(fetch_config()) == "robots"
    assert web.request_counts["shut.example/b.png"] == 0


def test_an_unreachable_robots_txt_fails_the_images_of_its_host(fetch_config, free_port):
    dead = fetch_config(connect_to={"*.example": f"127.0.0.1:{free_port}"})
    assert failure_message(dead) == "connection_refused: robots.txt"


def test_opt_out_headers_are_obeyed(web, fetch_config):
    web.answers["/a.png"] = Answer(b"x", headers={"X-Robots-Tag": "unavailable_after: 1 Jan 2030 0:00:00 GMT, noai"})
    assert failure_message(fetch_config()) == "opt_out: noai"
    assert get(fetch_config(robots=False)).body == b"x"


def test_an_invalid_connect_to_is_an_error():
    with pytest.raises(ConfigError, match="connect_to"):
        get(FetchConfig(connect_to={"*": "127.0.0.1"}))


@pytest.mark.parametrize(
    "agent",
    ["", " ", "vecap", "Mozilla/5.0 (X11; Linux x86_64)", "(+https://example.org)", "a/1 (+https://x.example)\r\nX: y"],
)
def test_a_user_agent_without_name_and_contact_is_rejected(home, agent):
    with pytest.raises(ConfigError, match=r"crawl\.fetch\.user_agent: give a name and a contact") as error:
        load_config(DEMO, [f"crawl.fetch.user_agent={json.dumps(agent)}"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("agent", ["my-bot/1.0 (+https://example.org/bot)", "bot (mailto:crawl@example.org)"])
def test_a_contact_is_a_url_or_an_email_address(agent):
    assert FetchConfig(user_agent=agent).user_agent == agent


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, lambda body: zlib.compress(body)[2:-4]])
def test_compressed_bodies_are_decompressed(web, fetch_config, pack):
    coding = "gzip" if pack is gzip.compress else "deflate"
    web.answers["/a.png"] = Answer(pack(b"picture" * 99), headers={"Content-Encoding": coding})
    assert get(fetch_config()).body == b"picture" * 99


def test_a_decompression_bomb_stops_at_max_bytes(web, fetch_config):
    web.answers["/a.png"] = bomb(256 << 20)
    assert len(web.answers["/a.png"].body) < 1 << 20
    tracemalloc.start()
    try:
        assert failure_message(fetch_config(max_bytes=1 << 20)) == "too_large"
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20


def test_invalid_compressed_bodies_are_failures(web, fetch_config):
    web.answers["/a.png"] = Answer(gzip.compress(b"picture" * 99)[:-12], headers={"Content-Encoding": "gzip"})
    assert failure_message(fetch_config()) == "bad_encoding: cut short"


def test_reset_connections_are_retried(web, fetch_config):
    attempts = []

    async def reset_once(request):
        attempts.append(request)
        return await (reset(request) if len(attempts) == 1 else web._answer(request.clone(rel_url="/b.png")))

    web.answers |= {"/a.png": reset_once, "/b.png": Answer(b"x"), "/never.png": reset}
    assert get(fetch_config(retries=1)).body == b"x"
    assert failure_message(fetch_config(), "http://site.example/never.png") in ("connection_reset", "incomplete")


def test_a_body_longer_than_content_length_is_a_failure(web, fetch_config):
    async def send_too_much(request):
        request.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhalf and more")
        request.transport.close()
        await asyncio.sleep(1)

    web.answers["/a.png"] = send_too_much
    assert failure_message(fetch_config(robots=False, tdmrep=False)) == "bad_response"


def test_dns_results_expire(web, fetch_config):
    web.answers["/a.png"] = Answer(image(), headers={"Connection": "close"})
    lookups = []

    class FakeResolver(Resolver):
        async def resolve(self, host, port=0, family=0):
            lookups.append(host)
            return await super().resolve(host, port, family)

    async def main(config):
        async with Fetcher(config, FakeResolver(config.connect_to)) as fetcher:
            for wait in (0, 0, 1.2):
                await asyncio.sleep(wait)
                await fetcher.get(URL, keep)

    asyncio.run(main(fetch_config(robots=False, tdmrep=False, dns_ttl=1)))
    assert lookups == ["site.example"] * 2
