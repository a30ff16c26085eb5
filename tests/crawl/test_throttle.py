"""The pace that is kept with each host, and that one slow host holds up no other."""

import asyncio
from itertools import pairwise

import pytest

from tests.crawl.test_fetcher import URL, get, get_all, reason
from tests.crawl.web import Answer, drip
from vecap_tasks.crawl.http import throttle
from vecap_tasks.crawl.http.fetcher import Download
from vecap_tasks.errors import Failure


@pytest.fixture
def plain(fetch_config):
    """Fetching that asks for nothing but what a test asks for."""
    return lambda **values: fetch_config(**({"robots": False, "tdmrep": False} | values))


def moments(web, name):
    return [moment for moment, asked in web.begun if asked.startswith(name)]


def gaps(web, name):
    return [later - earlier for earlier, later in pairwise(moments(web, name))]


def urls(count, host="site.example"):
    return [f"http://{host}/{number}" for number in range(count)]


def serve(web, count):
    web.answers |= {f"/{number}": Answer(b"x") for number in range(count)}


def test_requests_to_one_host_keep_their_distance_and_others_do_not_wait(web, plain):
    serve(web, 8)
    found = get_all(plain(host_delay=0.2), *urls(5), *urls(8, "other.example")[:1])
    assert all(isinstance(one, Download) for one in found)
    assert min(gaps(web, "site.example")) > 0.19
    assert moments(web, "other.example")[0] < moments(web, "site.example")[1]


def test_a_host_that_wants_distance_holds_no_slot_of_others(web, plain):
    serve(web, 8)
    get_all(plain(host_delay=0.5, connections=1), *urls(3), *(f"http://{n}.example/{n}" for n in range(8)))
    others = [moment for moment, name in web.begun if not name.startswith("site.")]
    assert max(others) < moments(web, "site.example")[-1]


def test_crawl_delay_is_kept_up_to_the_cap(web, fetch_config):
    serve(web, 3)
    web.answers["/robots.txt"] = Answer(b"User-agent: *\nCrawl-delay: 3600")
    get_all(fetch_config(max_crawl_delay=0.3, tdmrep=False), *urls(3))
    assert min(gaps(web, "site.example")[1:]) > 0.29  # the first is from robots.txt on, which told of it


def test_all_of_a_host_waits_when_it_asks_for_a_pause(web, plain):
    serve(web, 6)
    web.answers["/0"] = Answer(b"x", first=(Answer(status=429, headers={"Retry-After": "1"}),))
    found = get_all(plain(retries=1, connections_per_host=1), *urls(6))
    assert [one.body for one in found] == [b"x"] * 6
    assert gaps(web, "site.example")[0] > 0.9
    assert web.asked["site.example/0"] == 2


@pytest.mark.parametrize("first", ["soon", None])
def test_a_429_without_a_usable_retry_after_is_tried_again_later(web, plain, first):
    headers = {"Retry-After": first} if first else {}
    web.answers["/a.png"] = Answer(b"x", first=(Answer(status=429, headers=headers),))
    assert get(plain(retries=1)).body == b"x"
    assert gaps(web, "site.example")[0] > 0.2


def test_a_host_that_asks_for_a_longer_pause_than_the_deadline_is_asked_no_more(web, plain):
    serve(web, 9)
    web.answers["/0"] = Answer(status=429, headers={"Retry-After": "3600"})
    first, *others = get_all(plain(retries=5, connections_per_host=1), *urls(9))
    assert first.message == "http_429"
    assert {str(other) for other in others} == {"http_429: the host asked for a pause"}
    assert len(web.begun) == 1


def test_slow_hosts_harm_no_other_row_and_the_run_ends(web, plain, monkeypatch):
    """5 of 100 hosts drip a byte a second, with fewer slots than they would hold."""
    monkeypatch.setattr(throttle, "_QUICK", 0.1)
    web.answers["/a.png"] = Answer(b"x")
    web.answers |= {f"{n}.example/a.png": drip for n in range(0, 100, 20)}
    found = get_all(plain(connections=4, deadline=4), *(f"http://{n}.example/a.png" for n in range(100)))
    harmed = {n: str(one) for n, one in enumerate(found) if not isinstance(one, Download)}
    assert harmed == dict.fromkeys(range(0, 100, 20), "timeout")
    dripping = {moment for moment, name in web.begun if web.answers.get(name) is drip}
    good = {moment for moment, _ in web.begun} - dripping
    assert max(good) < min(dripping) + 4, "none of them waited for a dripping one to end"


def test_slow_requests_are_bounded_too(monkeypatch):
    monkeypatch.setattr(throttle, "_QUICK", 0.01)
    monkeypatch.setattr(throttle, "_SLOW", 2)

    async def main():
        slots = throttle.Slots(2)
        at_once = most = 0

        async def one():
            nonlocal at_once, most
            async with slots.one():
                at_once += 1
                most = max(most, at_once)
                await asyncio.sleep(0.2)
                at_once -= 1

        await asyncio.gather(*(one() for _ in range(20)))
        return most

    assert asyncio.run(main()) == 2 + 2 * 2


def test_a_host_that_gives_no_answers_is_left_alone(web, plain):
    """Its images would take 10 deadlines one after the other."""
    web.answers |= {f"slow.example/{n}": drip for n in range(40)}
    serve(web, 40)
    config = plain(deadline=2, host_failures=3, connections_per_host=4)
    found = get_all(config, *urls(40, "slow.example"), *urls(40))
    told = [str(one) for one in found[:40]]
    assert 4 <= told.count("timeout") <= 6, "three that count, and those under way by then"
    assert told.count("timeout") + told.count("host_silent: timeout") == 40
    assert all(isinstance(one, Download) for one in found[40:])


def test_a_host_that_answers_now_and_then_is_not_left_alone(web, plain):
    serve(web, 12)
    web.answers |= {f"/{n}": drip for n in range(0, 12, 2)}
    found = get_all(plain(deadline=0.3, host_failures=2, connections_per_host=1), *urls(12))
    assert [str(one) for one in found if isinstance(one, Failure)] == ["timeout"] * 6


def test_a_refusal_that_passes_leaves_no_host_alone(plain, free_port):
    nobody = plain(connect_to={"*.example": f"127.0.0.1:{free_port}"}, host_failures=1)
    assert {str(one) for one in get_all(nobody, *urls(20))} == {"connection_refused"}
    assert reason(nobody, URL) == "connection_refused"
