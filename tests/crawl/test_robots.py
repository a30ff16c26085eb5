"""robots.txt (RFC 9309) and opt-outs."""

import time

import pytest

from vecap_tasks.crawl.http.robots import opted_out, parse_robots, product_token

HOST = "http://site.example"


def allows(text, path, product="vecap"):
    return parse_robots(text.encode(), product).allows(HOST + path)


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/fish", "/fish.html", True),
        ("/fish", "/catfish", False),
        ("/fish/", "/fish", False),
        ("/*.php", "/folder/any.php.file?x", True),
        ("/*.php$", "/a.php", True),
        ("/*.php$", "/a.php?x=1", False),
        ("/fish*.php", "/fishheads/catfish.php?x", True),
        ("/a*b*c$", "/axbxbxc", True),
        ("/a$", "/ab", False),
        ("/a/%62", "/a/b", True),
        ("/caf\u00e9", "/caf%C3%A9", True),
        ("/a%2Fb", "/a/b", False),
        ("/private?x=", "/private?x=1", True),
        ("/$", "/", True),
        ("*", "/any", True),
    ],
)
def test_robots_patterns(pattern, path, matches):
    assert allows(f"user-agent: *\ndisallow: {pattern}", path) is not matches


def test_the_longest_rule_wins_and_allow_wins_a_tie():
    rules = "User-agent: *\nDisallow: /a\nAllow: /a/b\nDisallow: /a/b/c\nAllow: /same\nDisallow: /same"
    assert [allows(rules, path) for path in ("/a/x", "/a/b/x", "/a/b/c", "/same", "/other")] == [
        False, True, False, True, True,
    ]  # fmt: skip


def test_own_groups_are_merged_and_override_the_general_group():
    rules = """\ufeff
        User-agent: other
        User-Agent: VeCap/2.0   # us, in another spelling
        Disallow: /one
        User-agent: *
        Disallow: /
        User-agent: vecap
        Disallow: /two
    """
    assert [allows(rules, path) for path in ("/one", "/two", "/three")] == [False, False, True]
    assert not allows(rules, "/three", "someone")
    assert allows(rules, "/robots.txt", "someone")


def test_empty_disallow_allows_and_other_lines_are_ignored():
    assert allows("User-agent: *\nCrawl-delay: 10\nDisallow:\nSitemap: http://x/\nnonsense", "/a")
    assert allows("", "/a")
    assert not allows("user-agent: *\r\rdisallow: /a\r", "/a")


def delay(text, product="vecap"):
    return parse_robots(text.encode(), product).delay


def test_crawl_delay_comes_from_our_group():
    rules = "User-agent: *\nCrawl-delay: 1\nDisallow: /b\n\nUser-agent: vecap\nCrawl-delay: 2.5\nDisallow: /a\n"
    assert (delay(rules), delay(rules, "someone")) == (2.5, 1)
    assert delay("User-agent: *\nCrawl-delay: soon\nCrawl-delay: -1\nCrawl-delay: 1e9\nDisallow: /a") is None
    assert not allows("User-agent: vecap\nCrawl-delay: 5\nUser-agent: other\nDisallow: /", "/a")  # RFC 9309: one group


@pytest.mark.timeout(60)
def test_no_pattern_takes_exponential_time():
    assert allows("user-agent: *\ndisallow: /" + "*a" * 500 + "$", "/" + "a" * 5000 + "b")


def test_product_token():
    assert product_token("vecap/0.1 (+https://example.org)") == "vecap"
    assert product_token("My-Crawler") == "my-crawler"


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        (["noai"], "noai"),
        (["index, NoImageAI"], "noimageai"),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST, noai"], "noai"),
        (["unavailable_after: Fri, 25 Jun 2030 15:00:00 PST", "noimageindex"], "noimageindex"),
        (["otherbot: noindex"], None),
        (["otherbot: noindex, noai, vecap: none"], "none"),
        (["vecap: noai"], "noai"),
        (["max-image-preview: none, nofollow"], None),
        (["nosnippet", "all"], None),
        (["noml"], "noml"),
        (["unavailable_after: Wed, 03 Dec 2025 13:09:53 GMT, NOML"], "noml"),
        (["unavailable_after: 2030-01-01T00:00:00+01:00,none"], "none"),
        (["vecap: unavailable_after: Wed, 03 Dec 2025 13:09:53 GMT, noimageai"], "noimageai"),
        (["otherbot: unavailable_after: 03 Dec 2025 13:09:53 GMT, noai"], None),
        (["tdm-reservation: 1"], "tdm-reservation"),
        (["tdm-reservation: 0"], None),
        (["content-usage: train-ai=n"], "content-usage"),
        (["Content-Usage: search=y, Train-AI=N"], "content-usage"),
        (["content-usage: bots=n"], "content-usage"),
        (["content-usage: bots=n, train-ai=y"], None),
        (["content-usage: train-ai=y, train-genai=n"], "content-usage"),
        (["content-usage: train-ai=y", "content-usage: train-ai=n"], "content-usage"),
        (["content-usage: search=n"], None),
        (["content-usage: train-ai"], None),
        (["content-usage: noai"], None),
        (["content-signal: search=yes,ai-train=no"], "content-signal"),
        (["content-signal: ai-train=yes, ai-input=no, search=no"], None),
        (["content-signal: "], None),
        ([], None),
    ],
)
def test_opt_outs(values, rule):
    assert opted_out(values, "vecap") == rule


@pytest.mark.parametrize("value", ["," * 250_000, "a:" * 99_999, "content-usage: " + "train-ai=y," * 20_000])
def test_checking_opt_outs_has_a_limit(value):
    start = time.process_time()
    assert opted_out([value] * 20, "vecap") is None
    assert opted_out(["x"] * 100_000 + ["noai"], "vecap") is None
    assert time.process_time() - start < 0.2


def reserves(text, path, product="vecap"):
    return parse_robots(text.encode(), product).reserves(HOST + path)


def test_training_preferences_of_robots_txt_are_rules_of_their_group():
    rules = "User-agent: *\nContent-Signal: search=yes, ai-train=no\nAllow: /\n\nUser-agent: vecap\nDisallow: /b\n"
    assert reserves(rules, "/a", "someone")
    assert not reserves(rules, "/a")
    assert allows(rules, "/a", "someone")
    assert reserves("Content-Usage: train-ai=n\n" + rules, "/a")  # before the first group
    assert not allows("User-agent: other\nContent-Usage: train-ai=n\nUser-agent: *\nDisallow: /", "/a")
    assert allows("User-agent: other\nContent-Usage: train-ai=n\nUser-agent: *\nDisallow: /", "/a", "other")


@pytest.mark.parametrize(
    ("path", "reserved"),
    [
        ("/", True),
        ("/free/a.png", False),
        ("/free/shut/a.png", True),
        ("/free/a.gif", True),
        ("/search/a.png", True),
        ("/tie", True),
        ("/a-*.png", False),
    ],
)
def test_the_longest_training_preference_applies(path, reserved):
    rules = """
        User-Agent: *
        Content-Usage: bots=n
        Content-usage: /free/ train-ai=y
        Content-usage: /free/shut/   train-ai=n, search=y
        Content-usage: /free/*.gif$\ttrain-ai=n  # a comment
        Content-usage: /search/ search=y
        Content-usage: /tie train-ai=y
        Content-usage: /tie train-ai=n
        Content-usage: /a-%2A train-ai=y
        Content-usage: /nothing
    """
    assert reserves(rules, path) is reserved
