"""The fast path of URL normalization gives the same result as the slow path."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vecap_tasks.crawl.http.url import absolute, fast_path, slow_path

BASES = st.sampled_from(
    [
        "http://site.example/",
        "https://site.example/folder/page.html",
        "https://site.example:8443/folder/?q=a/b",
        "http://site.example/a;b/c;d?e;f",
        "http://192.0.2.7/x/y",
        "http://[2001:db8::1]/x/y",
        "http://site.example",
    ]
)
WRITTEN = (
    "/ // . .. ... ./ ../ a b.jpg .hidden ? # : ; & = % %20 %2e %2E %41 %C3%A9 %c3 %zz \\ @ + ~ _ - , ! ' ( * é [ ] "
    "http: https: HTTP: //else.example //ELSE.example //else.example:80 //user@else.example //1.2.3.4 //0x7f.1 "
    "//a..b //xn--a.example //a--b.example //a_b.example http://else.example https://else.example. http://else data: 中"
)
PIECES = st.sampled_from(WRITTEN.split())


@given(BASES, st.lists(PIECES, max_size=7).map("".join))
@example("http://site.example", "/x")
@example("http://site.example", "x")
@example("http://site.example/", "")
@example("http://site.example/a?b", "?")
@example("http://site.example/a?b", "c?")
@example("http://site.example/", "http://else.example")
def test_the_fast_path_equals_the_slow_path(base, reference):
    plain = fast_path(reference, base)
    if plain is not None:
        assert plain == slow_path(reference, base) == absolute(reference, base)


@pytest.mark.parametrize(
    "reference", ["/a/b-1.jpg?w=3&h=4", "c.jpg", "//cdn.example.net/x%20y.png", "https://cdn.example.net/%C3%A9.webp"]
)
def test_common_urls_take_the_fast_path(reference):
    assert fast_path(reference, "https://www.site.example/folder/page.html?x=1") is not None
