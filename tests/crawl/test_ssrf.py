"""No page, redirect, name server or proxy can direct requests to the local network."""

import asyncio
import ipaddress
import socket

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from tests.crawl.conftest import crawl
from tests.crawl.test_fetcher import URL, failure_message, get, keep
from tests.crawl.web import Answer, Web
from vecap_tasks.config import FetchConfig, parse_config
from vecap_tasks.crawl.http.fetcher import Fetcher
from vecap_tasks.crawl.http.ssrf import AddressGuard
from vecap_tasks.errors import ConfigError, Failure


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"])
def test_local_addresses_are_blocked(web, fetch_config, host):
    web.answers["/a.png"] = Answer(b"secret")
    guarded = fetch_config(allow_networks=[], robots=False)
    assert failure_message(guarded, f"http://{host}:{web.port}/a.png") == "forbidden_address"
    assert not web.request_counts


def test_other_notations_of_local_addresses_are_blocked(web, fetch_config):
    guarded = fetch_config(allow_networks=[], robots=False)
    for host in ("2130706433", "127.1", "0x7f.0.0.1", "0177.0.0.1"):
        assert failure_message(guarded, f"http://{host}:{web.port}/a.png") in ("bad_url", "forbidden_address", "dns")
    assert not web.request_counts


def test_redirects_to_forbidden_addresses_are_blocked(web, fetch_config):
    web.answers["/a.png"] = Answer(status=302, headers={"Location": "http://169.254.169.254/latest/meta-data/"})
    assert failure_message(fetch_config(robots=False)) == "forbidden_address"


def test_names_that_resolve_to_forbidden_addresses_are_blocked(web, fetch_config):
    assert failure_message(fetch_config(allow_networks=["10.0.0.0/8"], robots=False)) == "forbidden_address"
    assert not web.request_counts


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
        ("2002:5db8:d822::1", True),
        ("2001:0:5db8:d822:0:0:a247:27dd", True),  # Teredo: server and client are public
        ("2001:0:5db8:d822:0:0:80ff:fffe", False),  # client 127.0.0.1
        ("2001:0:a00:1:0:0:a247:27dd", False),  # server 10.0.0.1
        ("::ffff:127.8.0.1", True),
        ("64:ff9b::7f08:1", True),
        ("127.8.0.1", True),
        ("2620:0:861:ed1a::1", True),
        ("192.0.1.1", True),
    ],
)
def test_which_addresses_are_allowed(address, allowed):
    assert AddressGuard(["127.8.0.0/16"]).allows(address) is allowed


# The IANA IPv4 and IPv6 Special-Purpose Address Registries, deprecated blocks, multicast and reserved ranges.
SPECIAL = """
    0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.0.8/32 192.0.2.0/24
    192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15 198.51.100.0/24
    203.0.113.0/24 224.0.0.0/4 240.0.0.0/4 255.255.255.255/32
    ::/128 ::1/128 ::/96 64:ff9b:1::/48 100::/64 100:0:0:1::/64 2001:1::/32 2001:2::/48 2001:3::/32 2001:4:112::/48
    2001:10::/28 2001:20::/28 2001:30::/28 2001:db8::/32 2620:4f:8000::/48 3fff::/20 4000::/3 5f00::/16 fc00::/7
    fe80::/10 fec0::/10 ff00::/8
"""


@pytest.mark.parametrize("network", SPECIAL.split())
def test_special_purpose_addresses_are_blocked(network):
    block = ipaddress.ip_network(network)
    ends = (block[0], block[block.num_addresses // 2], block[-1])
    assert not any(AddressGuard([]).allows(str(address)) for address in ends)
    assert all(AddressGuard([network]).allows(str(address)) for address in ends)


def test_an_invalid_network_is_a_configuration_error(demo_config):
    values = demo_config.model_dump()
    values["crawl"]["fetch"]["allow_networks"] = ["127.0.0.0/40"]
    with pytest.raises(ConfigError, match="allow_networks"):
        parse_config(values, demo_config.base)


@pytest.fixture
def all_interfaces():
    """A server on all interfaces: tests allow 127.0.0.1 and forbid 127.0.0.2."""
    with Web("0.0.0.0") as server:
        yield server


class FakeResolver(AbstractResolver):
    """A name server whose n-th lookup returns the n-th answer, later ones the last."""

    def __init__(self, port, *answers):
        self._port, self._answers = port, list(answers)

    async def resolve(self, host, port=0, family=socket.AF_INET):
        addresses = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [
            ResolveResult(hostname=host, host=ip, port=self._port, family=socket.AF_INET, proto=0, flags=0)
            for ip in addresses.split()
        ]

    async def close(self):
        pass


def get_repeatedly(config, resolver, waits):
    """Get the same URL after each of *waits* seconds; return the bodies or failure messages."""

    async def main():
        results = []
        async with Fetcher(config, resolver) as fetcher:
            for wait in waits:
                await asyncio.sleep(wait)
                try:
                    results.append((await fetcher.get(URL, keep)).body)
                except Failure as failure:
                    results.append(failure.message)
        return results

    return asyncio.run(main())


def test_dns_rebinding_is_blocked(all_interfaces, fetch_config):
    all_interfaces.answers["/a.png"] = Answer(b"x", headers={"Connection": "close"})
    config = fetch_config(allow_networks=["127.0.0.1/32"], robots=False, tdmrep=False, dns_ttl=1)
    resolver = FakeResolver(all_interfaces.port, "127.0.0.1", "127.0.0.2")
    assert get_repeatedly(config, resolver, (0, 1.2)) == [b"x", "forbidden_address"]
    assert all_interfaces.local_addresses == {"127.0.0.1"}


def test_only_allowed_addresses_of_a_name_are_used(all_interfaces, fetch_config):
    all_interfaces.answers["/a.png"] = Answer(b"x")
    config = fetch_config(allow_networks=["127.0.0.1/32"], robots=False, tdmrep=False)
    for answer in ("127.0.0.2 127.0.0.1", "127.0.0.1 127.0.0.2", "127.0.0.2"):
        get_repeatedly(config, FakeResolver(all_interfaces.port, answer), (0,))
    assert all_interfaces.local_addresses <= {"127.0.0.1"}


@pytest.mark.parametrize(
    "host",
    ["127.0.0.2", "127.2", "2130706434", "0x7f000002", "0x7f.2", "0177.0.0.2", "[::ffff:127.0.0.2]", "[::ffff:7f00:2]"],
)
def test_redirects_to_any_notation_of_a_forbidden_address_are_blocked(all_interfaces, fetch_config, host):
    all_interfaces.answers["/a.png"] = Answer(
        status=302, headers={"Location": f"http://{host}:{all_interfaces.port}/secret"}
    )
    connect_to = {"*.example": f"127.0.0.1:{all_interfaces.port}"}
    config = fetch_config(connect_to=connect_to, allow_networks=["127.0.0.1/32"], robots=False, tdmrep=False)
    assert failure_message(config) == "forbidden_address"
    assert all_interfaces.local_addresses == {"127.0.0.1"}
    inside = fetch_config(connect_to=connect_to, allow_networks=["127.0.0.0/8"], robots=False, tdmrep=False)
    assert failure_message(inside) == "http_404"


def test_proxy_environment_variables_are_ignored(web, fetch_config, monkeypatch):
    with Web() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        web.image("/a.png")
        assert get(fetch_config()).content_type == "image/png"
        assert failure_message(fetch_config(), f"http://169.254.169.254:{web.port}/") == "forbidden_address: robots.txt"
        assert not proxy.request_counts


@pytest.mark.parametrize(
    ("agent", "real"),
    [
        (FetchConfig().user_agent, False),
        ("bot/1 (+http://www.Example.com/bot)", False),
        ("bot/1 (bot@crawler.test)", False),
        ("bot/1 (+https://example.org/bot; me@lab.edu)", True),
        ("bot/1 (+https://myexample.org/bot)", True),
    ],
)
def test_a_contact_at_a_reserved_name_is_none(agent, real):
    assert FetchConfig(user_agent=agent).has_contact == real


def test_public_sites_are_not_contacted_without_a_contact(all_interfaces, fetch_config, configure, seeds, monkeypatch):
    monkeypatch.setattr(AddressGuard, "allows", lambda self, address: True)  # as if 127.0.0.1 were public
    all_interfaces.page("/", "<img src=a.png>")
    connect_to = {"*.example": f"127.0.0.1:{all_interfaces.port}"}
    fetch = {"connect_to": connect_to, "allow_networks": []}
    with pytest.raises(ConfigError) as error:
        crawl(configure(seeds("http://site.example/"), fetch))
    assert str(error.value).startswith("crawl.fetch.user_agent has no contact of yours")
    assert not all_interfaces.request_counts
    fetch["user_agent"] = "bot/1 (+https://lab.edu/bot)"
    crawl(configure(seeds("http://site.example/"), fetch))
    assert all_interfaces.request_counts
