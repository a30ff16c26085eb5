"""One address, one spelling."""

from hashlib import sha256

import pytest

from vecap_tasks.crawl.address import absolute, canonical
from vecap_tasks.crawl.candidates import shard_names
from vecap_tasks.crawl.failure import Failure
from vecap_tasks.crawl.links import uid


@pytest.mark.parametrize(
    ("written", "spelling"),
    [
        ("HTTP://Example.COM:80/a", "http://example.com/a"),
        ("https://example.com:443", "https://example.com/"),
        ("https://example.com:8443/x", "https://example.com:8443/x"),
        ("http://example.com/a/./b/../c.jpg#top", "http://example.com/a/c.jpg"),
        ("http://example.com/%7euser/%e4%b8%ad", "http://example.com/~user/%E4%B8%AD"),
        ("http://example.com/中 x.jpg?q=é", "http://example.com/%E4%B8%AD%20x.jpg?q=%C3%A9"),
        ("http://example.com/100%.jpg", "http://example.com/100%25.jpg"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://[2001:DB8::1]/", "http://[2001:db8::1]/"),
        ("http://example.com/a%2Fb?x=1&y=%2f", "http://example.com/a%2Fb?x=1&y=%2F"),
    ],
)
def test_spellings_of_one_address_become_one(written, spelling):
    assert canonical(written) == spelling
    assert canonical(spelling) == spelling


@pytest.mark.parametrize(
    ("reference", "address"),
    [
        ("../b.jpg", "http://example.com/b.jpg"),
        ("//cdn.example/b.jpg", "http://cdn.example/b.jpg"),
        ("?w=2", "http://example.com/a/page.html?w=2"),
        (" \n/b\n.jpg ", "http://example.com/b.jpg"),
        ("\\img\\b.jpg", "http://example.com/img/b.jpg"),
        ("/../../b.jpg", "http://example.com/b.jpg"),
    ],
)
def test_references_are_read_as_browsers_read_them(reference, address):
    assert absolute(reference, "http://example.com/a/page.html") == address


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("data:image/gif;base64,R0lGOD", "scheme"),
        ("javascript:void(0)", "scheme"),
        ("file:///etc/passwd", "scheme"),
        ("http://user:secret@example.com/a.jpg", "bad_url"),
        ("http://exa mple.com/", "bad_url"),
        ("http://example.com:99999/", "bad_url"),
        ("http:///a.jpg", "bad_url"),
        ("http://[::1/", "bad_url"),
        ("", "bad_url"),
        ("http://example.com/" + "a" * 9000, "bad_url"),
    ],
)
def test_what_cannot_be_fetched_says_why(reference, reason):
    with pytest.raises(Failure) as failure:
        absolute(reference, "http://example.com/")
    assert failure.value.reason == reason


def test_uid_names_image_and_alttext_together():
    url = "http://example.com/a.jpg"
    assert uid(url, None) == uid(url, "")
    assert len({uid(url, None), uid(url, "a dog"), uid(url, "a dog "), uid(url + "a", " dog")}) == 4
    assert uid(url, "a dog") == sha256(b"http://example.com/a.jpg\0a dog").hexdigest()[:32]


def test_shard_names_sort_as_numbers():
    assert shard_names(0, 10) == []
    assert shard_names(11, 10) == ["00000", "00001"]
    many = shard_names(100_001, 1)
    assert many == sorted(many)
    assert many[-1] == "100000"
