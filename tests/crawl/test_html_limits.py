"""Pages of any structure take bounded time and memory; what is refused or cut is counted."""

import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from vecap_tasks.crawl.candidates import extract, read_stats
from vecap_tasks.crawl.html import nesting, parser
from vecap_tasks.crawl.html.parser import Document, Page
from vecap_tasks.crawl.sources.link import ALTTEXT_CHARS, Link, Stats, shorten
from vecap_tasks.errors import Failure

N = 30_000


def found(html):
    return Document(Page("http://site.example/", html.encode(), None, (), "test")).found()


def distinct(tag, count):
    return "".join(f"<{tag} a={number}>" for number in range(count))


@pytest.mark.timeout(60)  # without the limits, most take minutes
@pytest.mark.parametrize(
    ("html", "reason"),
    [
        ("<div>" * N, "too_deep"),
        ("<div>" * N + "</div>" * N, "too_deep"),
        ("<custom-tag>" * N, "too_deep"),
        ("<DIV>" * N, "too_deep"),
        (distinct("font", N), "too_deep"),
        ("<li><section>" * N, "too_deep"),
        ("<table><tr><td>" * N, "too_deep"),
        ("<b><div></b>" * N, "too_deep"),
        ("<div>" * 400 + "<i></b></x>" * N, "too_deep"),
        ("<div>" * 500 + "<div></div>" * 10 * N, "too_deep"),
        ("<p>" + distinct("font", 400) + "</p>" + "<p>x</p>" * N, "too_deep"),
        ("<img " + " ".join(f"a{number}=1" for number in range(N)) + ">", "too_many_attributes"),
        ("<img " + " ".join(f"<a{number}=1" for number in range(N)) + ">", "too_many_attributes"),
        (distinct("body", N).replace(" a=", " a"), "too_many_attributes"),
    ],
)
def test_pages_that_take_quadratic_time_are_refused(html, reason):
    with pytest.raises(Failure) as failure:
        found(html)
    assert failure.value.reason == reason


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "html",
    [
        "<p>x" * N, "<ul>" + "<li>x" * N, "<dl>" + "<dt>x<dd>y" * N, "<table><tr>" + "<td>x" * N, "<br>" * N,
        "<table>" + "<tr><td><table><tr><td>x</table>" * N, "<a href=x>y" * N, "<div><p>x</div>" * N,
        "<p><font size=2>x" * N, "<svg>" + "<path d='x'/>" * N + "</svg>", "<b>x</b>" * N, "<div>" * 500,
        "<script>" + "if (a<b && b <c) { x = '<div>'; }" * N + "</script>", "<!-- <div> -->" * N, "<" * N,
        "<style>" + "<div>" * N + "</style>", "<select>" + "<option>x" * N + "</select>", "x <!--" * N + "-->",
        "<select>" + "<option value=1>x</option>" * N + "</select>", "<x>" * 600, "<picture>" * 500 + "<source>" * N,
        "<figure><figcaption>x" * 250 + "<i>y</i>" * N + "</figcaption></figure>" * 250,
    ],
)  # fmt: skip
def test_long_pages_with_little_nesting_are_read(html):
    page = found(html + "<img src=/a.jpg alt='A dog'>")
    assert [(image.url, image.alttext) for image in page.images] == [("http://site.example/a.jpg", "A dog")]


@pytest.mark.timeout(60)
def test_pictures_with_many_sources_and_images_take_linear_time():
    page = found("<picture>" + "".join(f"<source srcset='{n}.jpg {n}w'>" for n in range(9000)) + "<img src=a>" * 9000)
    assert len(page.images) == 9000
    assert page.images[0].url == "http://site.example/8999.jpg"
    assert len(page.images[0].alternatives) == 7


def test_a_page_at_the_limit_of_depth_is_read():
    closed = "<i>x</i>" * nesting._MIN_TAGS
    depth = nesting.MAX_DEPTH - 3  # below html and body, with the <i>
    assert found("<div>" * depth + closed).images == []
    with pytest.raises(Failure, match="too_deep"):
        found("<div>" * (depth + 1) + closed)


def test_captions_of_nested_figures_are_read_up_to_a_limit_per_page(monkeypatch):
    monkeypatch.setattr(parser, "_FIGCAPTIONS_CHARS", 20)
    page = found("<figure><figcaption>" + "x" * 20 + "<figure><img src=1><figcaption>y" * 5)
    assert page.unread_figcaptions > 0
    assert found("<figure><img src=1><figcaption>a</figure>" * 9).unread_figcaptions == 0


def test_texts_are_cut_and_counted():
    html = f"<html lang={'x' * 99}><title>{'ä' * 2000}</title><figure><img src=a alt='{'é' * 20_000}'>"
    page = found(html + f"<figcaption>{'b ' * 20_000}")
    (image,) = page.images
    stats = Stats()
    link = shorten(Link(image.url, image.alttext, None, page.title, image.figcaption, image.language, "test"), stats)
    lengths = {name: len(getattr(link, name)) for name in ("alttext", "page_title", "figcaption", "language")}
    assert lengths == {"alttext": 10_000, "page_title": 1_000, "figcaption": 10_000, "language": 64}
    assert stats.counters == {"cut.caption": 1, "cut.page_title": 1, "cut.figcaption": 1, "cut.language": 1}
    assert shorten(link, stats) is link


class ListOfLinks:
    """A source that yields many links with long texts."""

    def read(self, part, stats):
        for number in range(2_000):
            text = f"{number} " + "x" * ALTTEXT_CHARS
            yield Link(f"http://site.example/{number}", text, None, text, text, text, part)


def test_batches_of_links_are_bounded_by_bytes(tmp_path):
    path = Path(tmp_path / "links.parquet")
    extract(ListOfLinks(), "part", path)
    metadata = pq.read_metadata(path)
    assert metadata.num_rows == 2_000
    assert metadata.num_row_groups > 1
    assert read_stats(metadata).counters["cut.caption"] == 2_000
    assert sys.getsizeof(pq.read_table(path)["page_title"][0].as_py()) < 1_200
