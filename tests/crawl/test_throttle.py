"""Throttling per host; slow hosts do not delay others."""

import asyncio
from itertools import pairwise

import pytest

from tests.crawl.test_fetcher import URL, failure_message, get, get_all
from tests.crawl.web import Answer, drip
from vecap_tasks.crawl.http import throttle
from vecap_tasks.crawl.http.fetcher import Download
from vecap_tasks.errors import Failure


@pytest.fixture
def config_without_robots(fetch_config):
    """Return a function for fetch settings without requests for policy files."""
    return lambda **values: fetch_config(**({"robots": False, "tdmrep": False} | values))


def request_times(web, name):
    return [moment for moment, url in web.request_times if url.startswith(name)]


def gaps(web, name):
    return [later - earlier for earlier, later in pairwise(request_times(web, name))]


def urls(count, host="site.example"):
    return [f"http://{host}/{number}" for number in range(count)]


def serve(web, count):
    web.answers |= {f"/{number}": Answer(b"x") for number in range(count)}


def test_host_delay_applies_per_host(web, config_without_robots):
    serve(web, 8)
    results = get_all(config_without_robots(host_delay=0.2), *urls(5), *urls(8, "other.example")[:1])
    assert all(isinstance(result, Download) for result in results)
    assert min(gaps(web, "site.example")) > 0.19
    assert request_times(web, "other.example")[0] < request_times(web, "site.example")[1]


def test_a_delayed_host_holds_no_global_slot(web, config_without_robots):
    serve(web, 8)
    get_all(
        config_without_robots(host_delay=0.5, connections=1), *urls(3), *(f"http://{n}.example/{n}" for n in range(8))
    )
    others = [moment for moment, name in web.request_times if not name.startswith("site.")]
    assert max(others) < request_times(web, "site.example")[-1]


def test_crawl_delay_is_honored_up_to_the_maximum(web, fetch_config):
    serve(web, 3)
    web.answers["/robots.txt"] = Answer(b"User-agent: *\nCrawl-delay: 3600")
    get_all(fetch_config(max_crawl_delay=0.3, tdmrep=False), *urls(3))
    assert min(gaps(web, "site.example")[1:]) > 0.29  # the first gap follows robots.txt


def test_retry_after_pauses_the_whole_host(web, config_without_robots):
    serve(web, 6)
    web.answers["/0"] = Answer(b"x", first=(Answer(status=429, headers={"Retry-After": "1"}),))
    results = get_all(config_without_robots(retries=1, connections_per_host=1), *urls(6))
    assert [result.body for result in results] == [b"x"] * 6
    assert gaps(web, "site.example")[0] > 0.9
    assert web.request_counts["site.example/0"] == 2


@pytest.mark.parametrize("first", ["soon", None])
def test_a_429_without_a_valid_retry_after_is_retried(web, config_without_robots, first):
    headers = {"Retry-After": first} if first else {}
    web.answers["/a.png"] = Answer(b"x", first=(Answer(status=429, headers=headers),))
    assert get(config_without_robots(retries=1)).body == b"x"
    assert gaps(web, "site.example")[0] > 0.2


def test_a_pause_beyond_the_deadline_fails_the_host(web, config_without_robots):
    serve(web, 9)
    web.answers["/0"] = Answer(status=429, headers={"Retry-After": "3600"})
    first, *others = get_all(config_without_robots(retries=5, connections_per_host=1), *urls(9))
    assert first.message == "http_429"
    assert {str(other) for other in others} == {"http_429: the host asked for a pause"}
    assert len(web.request_times) == 1


def test_slow_hosts_do_not_block_others(web, config_without_robots, monkeypatch):
    """5 of 100 hosts send a byte per second; there are only 4 slots."""
    monkeypatch.setattr(throttle, "_SLOW_AFTER", 0.1)
    web.answers["/a.png"] = Answer(b"x")
    web.answers |= {f"{n}.example/a.png": drip for n in range(0, 100, 20)}
    results = get_all(
        config_without_robots(connections=4, deadline=4), *(f"http://{n}.example/a.png" for n in range(100))
    )
    failed = {n: str(result) for n, result in enumerate(results) if not isinstance(result, Download)}
    assert failed == dict.fromkeys(range(0, 100, 20), "timeout")
    dripping = {moment for moment, name in web.request_times if web.answers.get(name) is drip}
    good = {moment for moment, _ in web.request_times} - dripping
    assert max(good) < min(dripping) + 4, "no host waited for a slow one to finish"


def test_slow_requests_are_limited(monkeypatch):
    monkeypatch.setattr(throttle, "_SLOW_AFTER", 0.01)
    monkeypatch.setattr(throttle, "_MAX_SLOW_RATIO", 2)

    async def main():
        slots = throttle.Slots(2)
        active = peak = 0

        async def request():
            nonlocal active, peak
            async with slots.acquire():
                active += 1
                peak = max(peak, active)
                await asyncio.sleep(0.2)
                active -= 1

        await asyncio.gather(*(request() for _ in range(20)))
        return peak

    assert asyncio.run(main()) == 2 + 2 * 2


def test_unresponsive_hosts_are_suspended(web, config_without_robots):
    """Its images would take 10 deadlines in sequence."""
    web.answers |= {f"slow.example/{n}": drip for n in range(40)}
    serve(web, 40)
    config = config_without_robots(deadline=2, host_failures=3, connections_per_host=4)
    results = get_all(config, *urls(40, "slow.example"), *urls(40))
    messages = [str(result) for result in results[:40]]
    assert 4 <= messages.count("timeout") <= 6, "three counted failures, and those in flight"
    assert messages.count("timeout") + messages.count("host_silent: timeout") == 40
    assert all(isinstance(result, Download) for result in results[40:])


def test_hosts_that_respond_sometimes_are_not_suspended(web, config_without_robots):
    serve(web, 12)
    web.answers |= {f"/{n}": drip for n in range(0, 12, 2)}
    results = get_all(config_without_robots(deadline=0.3, host_failures=2, connections_per_host=1), *urls(12))
    assert [str(result) for result in results if isinstance(result, Failure)] == ["timeout"] * 6


def test_brief_refusals_do_not_suspend_a_host(config_without_robots, free_port):
    unreachable = config_without_robots(connect_to={"*.example": f"127.0.0.1:{free_port}"}, host_failures=1)
    assert {str(result) for result in get_all(unreachable, *urls(20))} == {"connection_refused"}
    assert failure_message(unreachable, URL) == "connection_refused"
