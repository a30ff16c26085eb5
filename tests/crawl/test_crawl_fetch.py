"""Downloads from a real server that behaves as real servers do."""

import asyncio
import time

import pytest

from tests.crawl.web import Answer, cut, endless, hang
from vecap_tasks.config import FetchConfig, parse_config
from vecap_tasks.crawl.failure import Failure
from vecap_tasks.crawl.fetch import Download, Fetcher
from vecap_tasks.crawl.guard import Guard
from vecap_tasks.errors import ConfigError

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
    start = time.monotonic()
    assert reason(fetch_config(deadline=0.5, robots=False)) == "timeout"
    assert time.monotonic() - start < 2


def test_waiting_for_a_slot_is_not_part_of_the_deadline(web, fetch_config):
    async def slow(request):
        await asyncio.sleep(0.15)
        return await web._answer(request.clone(rel_url="/fast"))

    web.answers |= {"/slow": slow, "/fast": Answer(b"x")}
    urls = [f"http://site.example/slow?{n}" for n in range(8)]
    web.answers |= {url.removeprefix("http://site.example"): slow for url in urls}
    downloads = get_all(fetch_config(deadline=0.5, connections_per_host=1), *urls)
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


def test_retry_after_is_honoured(web, fetch_config):
    web.answers["/a.png"] = Answer(b"x", first=(Answer(status=503, headers={"Retry-After": "1"}),))
    start = time.monotonic()
    assert get(fetch_config(retries=1)).body == b"x"
    assert 1 <= time.monotonic() - start < 3


def test_retry_after_beyond_the_deadline_ends_it_at_once(web, fetch_config):
    web.answers["/a.png"] = Answer(status=429, headers={"Retry-After": "3600"})
    start = time.monotonic()
    assert reason(fetch_config(retries=5)) == "http_429"
    assert time.monotonic() - start < 2


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


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"])
def test_own_network_is_not_reached(web, fetch_config, host):
    web.answers["/a.png"] = Answer(b"secret")
    guarded = fetch_config(allow_networks=[], robots=False)
    assert reason(guarded, f"http://{host}:{web.port}/a.png") == "forbidden_address"
    assert not web.asked


def test_other_spellings_of_own_addresses_are_not_reached(web, fetch_config):
    guarded = fetch_config(allow_networks=[], robots=False)
    for host in ("2130706433", "127.1", "0x7f.0.0.1", "0177.0.0.1"):
        assert reason(guarded, f"http://{host}:{web.port}/a.png") in ("bad_url", "forbidden_address", "dns")
    assert not web.asked


def test_a_redirect_to_a_forbidden_address_is_not_followed(web, fetch_config):
    web.answers["/a.png"] = Answer(status=302, headers={"Location": "http://169.254.169.254/latest/meta-data/"})
    assert reason(fetch_config(robots=False)) == "forbidden_address"


def test_a_name_that_points_inside_is_not_reached(web, fetch_config):
    assert reason(fetch_config(allow_networks=["10.0.0.0/8"], robots=False)) == "forbidden_address"
    assert not web.asked


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.0.1", False),
        ("100.100.100.200", False),
        ("169.254.169.254", False),
        ("168.63.129.16", False),
        ("192.0.0.192", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("fe80::1%eth0", False),
        ("fd00:ec2::254", False),
        ("ff02::1", False),
        ("::", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::5db8:d822", True),
        ("2002:7f00:1::", False),
        ("127.8.0.1", True),
    ],
)
def test_which_addresses_are_allowed(address, allowed):
    assert Guard(["127.8.0.0/16"]).allows(address) is allowed


def test_a_network_that_is_none_is_an_error_of_the_configuration(demo_config):
    values = demo_config.model_dump()
    values["crawl"]["fetch"]["allow_networks"] = ["127.0.0.0/40"]
    with pytest.raises(ConfigError, match="allow_networks"):
        parse_config(values, demo_config.base)


def test_a_connect_to_that_cannot_be_read_is_an_error():
    with pytest.raises(ConfigError, match="connect_to"):
        get(FetchConfig(connect_to={"*": "127.0.0.1"}))
