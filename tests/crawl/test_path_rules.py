"""Path patterns of robots.txt: RFC 9309, and the cost of a check."""

import random
import re
import time
from contextlib import suppress

import pytest

from vecap_tasks.crawl.http.path_rules import PathRules, normalize_pattern, path_of
from vecap_tasks.crawl.http.robots import MAX_BYTES, parse_robots
from vecap_tasks.errors import Failure


def decide(rules, path):
    return PathRules(rules).decide(path_of(f"http://site.example{path}"))


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        (b"/a-%2A.png", "/a-*.png", True),
        (b"/a-%2a.png", "/a-%2A.png", True),
        (b"/a-%2A.png", "/a-b.png", False),
        (b"/a-*.png", "/a-*.png", True),
        (b"/price-%24", "/price-$", True),
        (b"/price-%24", "/price-$1", True),
        (b"/price-%24", "/price-", False),
        (b"/a$b", "/a$b", True),
        (b"/a$b", "/a", False),
        (b"/*%24$", "/x$", True),
        (b"/*%24$", "/x$y", False),
        (b"/caf\xe9", "/caf%E9", True),
        ("/café".encode(), "/caf%C3%A9", True),
        (b"/a b", "/a%20b", True),
        (b"/%7euser", "/~user", True),
    ],
)
def test_percent_escapes_match_literally(pattern, path, matches):
    assert decide([(False, pattern)], path) is (False if matches else None)


def expected(rules, path):
    """Return the decision by the definition: the longest match, and True on a tie."""
    matches = []
    for flag, written in rules:
        pattern = normalize_pattern(written)
        text = pattern.removesuffix(b"$")
        expression = b".*".join(map(re.escape, text.split(b"*"))) + (rb"\Z" if pattern.endswith(b"$") else b"")
        if re.match(expression, path, re.DOTALL):
            matches.append((len(pattern), flag))
    return max(matches)[1] if matches else None


def test_the_index_decides_as_the_definition():
    choose = random.Random(5)
    for _ in range(400):
        rules = [
            (choose.random() < 0.5, ("/" + "".join(choose.choices("aab/*.$", k=choose.randint(0, 8)))).encode())
            for _ in range(choose.randint(1, 30))
        ]
        index = PathRules(rules)
        for _ in range(20):
            path = path_of("http://site.example/" + "".join(choose.choices("aab/.", k=choose.randint(0, 12))))
            assert index.decide(path) == expected(rules, path), (rules, path)


SHAPES = {
    "prefixes": "Disallow: /path/{n}/",
    "wildcards": "Disallow: /*a{n}*b",
    "one suffix": "Disallow: /*/{n}/*.jpg$",
    "parameters": "Disallow: /*?*p{n}=",
    "many pieces": "Disallow: /" + "*a" * 100 + "{n}",
    "repetitive": "Disallow: /*" + "a" * 40 + "b" + "a" * 40 + "{n}",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_check_against_a_long_robots_txt_is_fast(shape):
    lines = "\n".join(SHAPES[shape].format(n=number) for number in range(20_000))
    robots = parse_robots(f"User-agent: *\n{lines}".encode()[:MAX_BYTES], "vecap")
    for path in ("/x/1234/a.jpg?b=1", "/" + "a" * 2000 + "b", "/?" + "&".join(f"p{number}=" for number in range(300))):
        seconds = []
        for _ in range(5):
            start = time.process_time()
            with suppress(Failure):  # `robots`: the comparison would cost too much
                robots.allows(f"http://site.example{path}")
            seconds.append(time.process_time() - start)
        assert min(seconds) < 0.03  # some milliseconds of CPU time; up to 200 without the index


def test_half_a_rule_at_the_size_limit_is_ignored():
    body = b"User-agent: *\n" + b"Disallow: /shut/a\n" * 40_000
    for size in range(MAX_BYTES - 18, MAX_BYTES):
        cut = b"#" * (MAX_BYTES - size) + b"\n" + body
        assert parse_robots(cut, "vecap").allows("http://site.example/shut/b")
