"""No request goes to an address of our own network, whatever a page, a redirect, a name server or a proxy says."""

import asyncio
import socket

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from tests.crawl.test_fetcher import URL, _keep, get, reason
from tests.crawl.web import Answer, Web
from vecap_tasks.config import parse_config
from vecap_tasks.crawl.http.fetcher import Fetcher
from vecap_tasks.crawl.http.ssrf import AddressGuard
from vecap_tasks.errors import ConfigError, Failure


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
    assert AddressGuard(["127.8.0.0/16"]).allows(address) is allowed


def test_a_network_that_is_none_is_an_error_of_the_configuration(demo_config):
    values = demo_config.model_dump()
    values["crawl"]["fetch"]["allow_networks"] = ["127.0.0.0/40"]
    with pytest.raises(ConfigError, match="allow_networks"):
        parse_config(values, demo_config.base)


@pytest.fixture
def machine():
    """A server on every address of this machine: 127.0.0.1, which tests allow, and 127.0.0.2, which they do not."""
    with Web("0.0.0.0") as server:
        yield server


class Names(AbstractResolver):
    """A name server whose answers change: to the n-th question the n-th, and then the last."""

    def __init__(self, port, *answers):
        self._port, self._answers = port, list(answers)

    async def resolve(self, host, port=0, family=socket.AF_INET):
        given = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [
            ResolveResult(hostname=host, host=ip, port=self._port, family=socket.AF_INET, proto=0, flags=0)
            for ip in given.split()
        ]

    async def close(self):
        pass


def follow(config, names, waits):
    """Get the same address after each of *waits*; return what came, failures as their messages."""

    async def main():
        found = []
        async with Fetcher(config, names) as fetcher:
            for wait in waits:
                await asyncio.sleep(wait)
                try:
                    found.append((await fetcher.get(URL, _keep)).body)
                except Failure as failure:
                    found.append(failure.message)
        return found

    return asyncio.run(main())


def test_a_name_that_is_bound_again_to_the_inside_is_not_reached(machine, fetch_config):
    machine.answers["/a.png"] = Answer(b"x", headers={"Connection": "close"})
    config = fetch_config(allow_networks=["127.0.0.1/32"], robots=False, tdmrep=False, dns_ttl=1)
    names = Names(machine.port, "127.0.0.1", "127.0.0.2")
    assert follow(config, names, (0, 1.2)) == [b"x", "forbidden_address"]
    assert machine.reached == {"127.0.0.1"}


def test_of_several_addresses_of_a_name_only_those_outside_are_tried(machine, fetch_config):
    machine.answers["/a.png"] = Answer(b"x")
    config = fetch_config(allow_networks=["127.0.0.1/32"], robots=False, tdmrep=False)
    for answer in ("127.0.0.2 127.0.0.1", "127.0.0.1 127.0.0.2", "127.0.0.2"):
        follow(config, Names(machine.port, answer), (0,))
    assert machine.reached <= {"127.0.0.1"}


@pytest.mark.parametrize(
    "host",
    ["127.0.0.2", "127.2", "2130706434", "0x7f000002", "0x7f.2", "0177.0.0.2", "[::ffff:127.0.0.2]", "[::ffff:7f00:2]"],
)
def test_a_redirect_to_any_spelling_of_the_inside_is_not_followed(machine, fetch_config, host):
    machine.answers["/a.png"] = Answer(status=302, headers={"Location": f"http://{host}:{machine.port}/secret"})
    connect_to = {"*.example": f"127.0.0.1:{machine.port}"}
    config = fetch_config(connect_to=connect_to, allow_networks=["127.0.0.1/32"], robots=False, tdmrep=False)
    assert reason(config) == "forbidden_address"
    assert machine.reached == {"127.0.0.1"}
    inside = fetch_config(connect_to=connect_to, allow_networks=["127.0.0.0/8"], robots=False, tdmrep=False)
    assert reason(inside) == "http_404"


def test_proxies_of_the_environment_are_not_asked(web, fetch_config, monkeypatch):
    with Web() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        web.image("/a.png")
        assert get(fetch_config()).content_type == "image/png"
        assert reason(fetch_config(), f"http://169.254.169.254:{web.port}/") == "forbidden_address: robots.txt"
        assert not proxy.asked
