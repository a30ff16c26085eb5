"""The TDM Reservation Protocol, and caching of it and robots.txt."""

import asyncio
import gzip
import json

import pytest

from tests.crawl.test_fetcher import URL, failure_message, get, get_all, keep
from tests.crawl.web import Answer, drip
from vecap_tasks.crawl.html.parser import Document, Page
from vecap_tasks.crawl.http.fetcher import Download, Fetcher
from vecap_tasks.crawl.http.robots_cache import parse_tdmrep

TDMREP = "site.example/.well-known/tdmrep.json"
RESERVED = [
    {"location": "/", "tdm-reservation": 0},
    {"location": "/art/*.png$", "tdm-reservation": 1, "tdm-policy": "https://site.example/policy.json"},
    {"location": "/art/free/*.png$", "tdm-reservation": 0},
    {"location": "/caf\u00e9/", "tdm-reservation": "1"},
]


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/a.png", True),
        ("/art/a.png", False),
        ("/art/a.png?w=1", True),
        ("/art/free/a.png", True),
        ("/caf%C3%A9/a.png", False),
    ],
)
def test_the_longest_tdmrep_location_applies(path, allowed):
    assert parse_tdmrep(json.dumps(RESERVED).encode()).allows(f"http://site.example{path}") is allowed


@pytest.mark.parametrize("body", [b"", b"<html>", b"[" * 99_999, b"[1, null, {}]", b'[{"location": 3}]', b"7", b"\xff"])
def test_an_invalid_tdmrep_reserves_nothing(body):
    assert parse_tdmrep(body).allows(URL)


def test_tdmrep_is_read_once_per_host_and_obeyed(web, fetch_config):
    web.answers |= {TDMREP: Answer(json.dumps(RESERVED).encode()), "/art/a.png": Answer(b"x"), "/a.png": Answer(b"x")}
    reserved = "http://site.example/art/a.png"
    first, second = get_all(fetch_config(), reserved, URL, *[URL] * 8)[:2]
    assert (str(first), second.body) == ("opt_out: tdmrep.json", b"x")
    assert (web.request_counts[TDMREP], web.request_counts["site.example/art/a.png"]) == (1, 0)
    assert get(fetch_config(tdmrep=False), reserved).body == b"x"
    assert web.request_counts[TDMREP] == 1


@pytest.mark.parametrize("answer", [Answer(status=404), Answer(status=500), Answer(b"{"), drip])
def test_an_unreadable_tdmrep_reserves_nothing(web, fetch_config, answer):
    web.answers |= {TDMREP: answer, "/a.png": Answer(b"x")}
    assert isinstance(get(fetch_config(deadline=0.5)), Download)


def test_a_tdmrep_that_robots_txt_forbids_is_not_requested(web, fetch_config):
    web.answers |= {"/robots.txt": Answer(b"User-agent: *\nDisallow: /.well-known/"), "/a.png": Answer(b"x")}
    assert get(fetch_config()).body == b"x"
    assert not web.request_counts[TDMREP]


def test_the_tdm_reservation_header_is_obeyed(web, fetch_config):
    web.answers |= {
        "/a.png": Answer(b"x", headers={"TDM-Reservation": "1", "TDM-Policy": "https://site.example/policy.json"}),
        "/b.png": Answer(b"x", headers={"TDM-Reservation": "0"}),
    }
    assert failure_message(fetch_config()) == "opt_out: tdm-reservation"
    assert get(fetch_config(), "http://site.example/b.png").robots_tags == ("tdm-reservation: 0",)
    assert get(fetch_config(robots=False)).body == b"x"


def test_training_preferences_of_robots_txt_are_obeyed(web, fetch_config):
    rules = b"User-agent: *\nContent-Signal: ai-train=no\nContent-Usage: /free/ train-ai=y\n"
    web.answers |= {"/robots.txt": Answer(rules), "/a.png": Answer(b"x"), "/free/a.png": Answer(b"x")}
    assert failure_message(fetch_config()) == "opt_out: robots.txt"
    assert web.request_counts["site.example/a.png"] == 0
    assert get(fetch_config(), "http://site.example/free/a.png").body == b"x"
    assert get(fetch_config(robots=False)).body == b"x"


@pytest.mark.parametrize("status", [429, 408, 500, 503, 520])
def test_a_temporary_failure_of_robots_txt_is_retried(web, fetch_config, status):
    web.answers |= {"/robots.txt": Answer(b"", first=(Answer(status=status),) * 2), "/a.png": Answer(b"x")}
    found = get(fetch_config(retries=2)) if status != 520 else get(fetch_config(retries=0))
    assert str(found) == "http_520: robots.txt" if status == 520 else found.body == b"x"
    assert web.request_counts["site.example/a.png"] == (status != 520)


def test_retry_after_of_robots_txt_ends_the_wait(web, fetch_config):
    busy = Answer(status=429, headers={"Retry-After": "1"})
    web.answers |= {"/robots.txt": Answer(b"", first=(busy,)), "/a.png": Answer(b"x")}

    async def main():
        found = []
        async with Fetcher(fetch_config(deadline=0.9)) as fetcher:
            for wait in (0, 0, 1.1):
                await asyncio.sleep(wait)
                found += await asyncio.gather(fetcher.get(URL, keep), return_exceptions=True)
        return found

    first, second, third = asyncio.run(main())
    assert str(first) == str(second) == "http_429: robots.txt"
    assert third.body == b"x"
    assert web.request_counts["site.example/robots.txt"] == 2


def test_a_compressed_robots_txt_counts_up_to_its_limit(web, fetch_config):
    body = b"User-agent: *\nDisallow: /a.png\n" + b"# padding\n" * 100_000
    web.answers |= {
        "/robots.txt": Answer(gzip.compress(body), headers={"Content-Encoding": "gzip"}),
        "/a.png": Answer(b"x"),
        "/b.png": Answer(b"x"),
    }
    first, second = get_all(fetch_config(), URL, "http://site.example/b.png")
    assert str(first) == "robots"
    assert second.body == b"x"


def test_tdm_reservation_meta_is_collected_with_robots_meta():
    html = b"<meta name=TDM-Reservation content=1><meta name=robots content='noml'><meta name=other content=noai>"
    found = Document(Page("http://site.example/", html, None, (), "seed")).found()
    assert found.robots == ("noml", "tdm-reservation: 1")
