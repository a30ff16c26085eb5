"""Canonical URLs."""

from hashlib import sha256
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from vecap_tasks.crawl.candidates import shard_names
from vecap_tasks.crawl.http.url import absolute, canonical
from vecap_tasks.crawl.sources.link import uid
from vecap_tasks.errors import Failure


@pytest.mark.parametrize(
    ("written", "canonical_url"),
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
        ("http://[2001:0db8:0:0::0001]/", "http://[2001:db8::1]/"),
        ("http://2130706433/a", "http://127.0.0.1/a"),
        ("http://0x7f.1/a", "http://127.0.0.1/a"),
        ("http://0300.0250.0.1./a", "http://192.168.0.1/a"),
        ("http://0x/", "http://0.0.0.0/"),
        ("http:///a.jpg", "http://a.jpg/"),
        ("http://straße.example/", "http://xn--strae-oqa.example/"),
        ("http://xn--strae-oqa.example:8080/a", "http://xn--strae-oqa.example:8080/a"),
        ("http://i❤.example", "http://xn--i-7iq.example/"),
        ("http://faß。example/", "http://xn--fa-hia.example/"),
        ("http://a_b.example/", "http://a_b.example/"),
        ("http://example.com/a//b/", "http://example.com/a//b/"),
        ("http://example.com/?", "http://example.com/"),
        ("http://example.com/?it's", "http://example.com/?it%27s"),
        ("http://example.com/\ud800?\udfff", "http://example.com/%EF%BF%BD?%EF%BF%BD"),
    ],
)
def test_equivalent_urls_have_one_canonical_form(written, canonical_url):
    assert canonical(written) == canonical_url
    assert canonical(canonical_url) == canonical_url


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
def test_references_resolve_as_in_browsers(reference, address):
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
        ("http://[::1/", "bad_url"),
        ("http://[fe80::1%25eth0]/", "bad_url"),
        ("http://256.1.1.1/", "bad_url"),
        ("http://1.2.3.4.5/", "bad_url"),
        ("http://xn--/", "bad_url"),
        ("http://xn--a.example/", "bad_url"),
        ("http://a..example/", "bad_url"),
        ("http://example.com/" + "é" * 2000, "bad_url"),
        ("http://" + "a" * 64 + ".example/", "bad_url"),
        ("", "bad_url"),
        ("http://example.com/" + "a" * 9000, "bad_url"),
    ],
)
def test_invalid_urls_have_a_reason(reference, reason):
    with pytest.raises(Failure) as failure:
        absolute(reference, "http://example.com/")
    assert failure.value.reason == reason


MARKS = ["/", "//", "..", ".", "%", "%2e", "%2F", "?", "#", "@", ":", "[", "]", "\\", "&=", "\t", " "]
PARTS = ["http:", "https:", "::1", ":80", "example.com", "127.1", "0x7f", "é", "ｅ", "。", "xn--", "99999999", "a" * 70]
PIECES = st.one_of(st.text(max_size=8), st.sampled_from(MARKS), st.sampled_from(PARTS))
WRITTEN = st.lists(PIECES, max_size=8).map("".join)
LABELS = st.from_regex(r"[a-z]([a-z0-9]{0,9}[a-z])?", fullmatch=True)
HOSTS = st.lists(LABELS, min_size=2, max_size=4).map(".".join)
PATHS = st.lists(st.text(st.sampled_from("abz09-._~ /;=\u00e9\u4e2d")), max_size=4).map("/".join)


@settings(deadline=None, max_examples=300)
@given(WRITTEN, st.sampled_from(["", "http://", "HTTPS://h", "http://h/"]))
def test_any_text_is_canonical_or_a_failure(text, start):
    try:
        url = canonical(start + text)
    except Failure:
        return
    assert canonical(url) == url == absolute(url, "http://other.example/x")
    assert url.isascii()
    assert not set(url) & set(' \t\r\n"<>\\^`{|}#')
    parts = urlsplit(url)
    assert parts.scheme in ("http", "https")
    assert parts.hostname
    assert parts.path.startswith("/")
    assert (parts.scheme, parts.port) not in {("http", 80), ("https", 443)}
    assert not {".", ".."} & set(parts.path.split("/"))
    requested = URL(url, encoded=True)  # as in the request
    assert requested.raw_host
    assert url.endswith(requested.raw_path_qs)


@settings(deadline=None, max_examples=300)
@given(WRITTEN)
def test_any_reference_is_a_canonical_url_or_a_failure(text):
    try:
        url = absolute(text, "http://example.com/a/b?c")
    except Failure:
        return
    assert canonical(url) == url


@settings(deadline=None)
@given(HOSTS, PATHS, st.sampled_from([("http", ":80"), ("https", ":443"), ("http", ""), ("https", ":8443")]), st.data())
def test_equivalent_urls_are_equal_after_normalization(host, path, place, data):
    scheme, port = place
    path = path.rstrip(" ")  # not part of the URL
    plain = canonical(f"{scheme}://{host}{port}/{path}")
    letters = "".join(data.draw(st.sampled_from([c.upper(), c]), label="host") for c in host)
    escaped = "".join(
        data.draw(st.sampled_from([f"%{ord(c):02x}", f"%{ord(c):02X}", c]), label="path") if c in "abz09-_~" else c
        for c in path
    )
    spelled = f"{scheme.upper()}://{letters}{port}/x/../{escaped}#{data.draw(st.text(max_size=3))}"
    assert canonical(spelled) == plain


@pytest.mark.parametrize(
    ("codec", "reference", "url"),
    [
        ("cp1252", "/é?q=é&x=%E9#é", "http://example.com/%C3%A9?q=%E9&x=%E9"),
        ("cp1251", "?q=я…中", "http://example.com/?q=%FF%85%26%2320013%3B"),
        ("cp932", "i?表=ソ", "http://example.com/i?%95%5C=%83%5C"),
        ("gbk", "i?狗𠀀", "http://example.com/i?%B9%B7%26%23131072%3B"),
        ("gb18030", "i?𠀀", "http://example.com/i?%952%826"),
        ("iso2022_jp", "i?犬", "http://example.com/i?%1B$B8$%1B(B"),
        (None, "i?é", "http://example.com/i?%C3%A9"),
    ],
)
def test_queries_are_encoded_in_the_encoding_of_the_page(codec, reference, url):
    assert absolute(reference, "http://example.com/", codec) == url


def test_uid_identifies_url_and_alttext():
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
