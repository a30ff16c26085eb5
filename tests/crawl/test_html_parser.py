"""Extraction of images and links from a page."""

import pytest
from webencodings.labels import LABELS

from vecap_tasks.crawl.html import charset
from vecap_tasks.crawl.html.image_urls import parse_srcset
from vecap_tasks.crawl.html.parser import Document, Page
from vecap_tasks.crawl.http.url import absolute


def document(html, url="http://site.example/folder/page.html", charset=None):
    return Document(Page(url, html if isinstance(html, bytes) else html.encode(), charset, (), "test"))


def images(html, **page):
    return document(html, **page).found().images


def image_paths(html, **page):
    return [image.url.removeprefix("http://site.example/") for image in images(html, **page)]


def test_alttext_is_kept_as_written_and_missing_differs_from_empty():
    found = images('<img src=a alt=" A &lt;b&gt; &eacute;\n x "><img src=b alt=""><img src=c><img src=d alt>')
    assert [image.alttext for image in found] == [" A <b> é\n x ", "", None, ""]


def test_image_urls_are_relative_to_the_base_element():
    assert image_paths("<img src=a.jpg>") == ["folder/a.jpg"]
    assert image_paths('<base href="/other/"><img src=a.jpg>') == ["other/a.jpg"]
    assert image_paths('<base href="data:x"><img src=a.jpg>') == ["folder/a.jpg"]


@pytest.mark.parametrize(
    ("html", "path"),
    [
        ('<img src=s.jpg srcset="a.jpg 200w, b.jpg 800w, c.jpg 400w">', "b.jpg"),
        ('<img src=s.jpg srcset="a.jpg, b.jpg 2x">', "b.jpg"),
        ('<img src=s.jpg srcset="nonsense.jpg 3q">', "s.jpg"),
        ('<img src="data:image/gif;base64,R0" data-src=late.jpg>', "late.jpg"),
        ("<img src=blank.gif data-original=late.jpg>", "late.jpg"),
        ("<img src=blank.gif data-lazy-src=late.jpg loading=lazy>", "late.jpg"),
        ("<img src=real.jpg data-src='  ' data-srcset=''>", "real.jpg"),
        ("<IMG SRC=s.jpg SRCSET='a.jpg 1x,b.jpg 2x'>", "b.jpg"),
        ("<image src=s.jpg>", "s.jpg"),
        ('<img src=blank.gif data-srcset="a.jpg 1x, b.jpg 2x">', "b.jpg"),
        ("<picture><source srcset='big.webp 900w'><img src=s.jpg></picture>", "big.webp"),
        ("<picture><source srcset='a.jpg 1w, b.jpg 900w'><img alt=x></picture>", "b.jpg"),
        ("<picture><source srcset=a.jpg><img src='data:image/gif;base64,R0'></picture>", "a.jpg"),
    ],
)
def test_the_best_url_of_an_image_is_used(html, path):
    assert image_paths(html, url="http://site.example/") == [path]


def test_srcset_urls_may_contain_commas():
    candidates = parse_srcset("/w_300,h_200/a.jpg 300w, /w_600,h_400/a.jpg 600w 400h")
    assert [candidate.url for candidate in candidates] == ["/w_300,h_200/a.jpg", "/w_600,h_400/a.jpg"]
    assert parse_srcset(" , ,") == []


@pytest.mark.parametrize(
    "descriptors",
    [
        "9" * 5000 + "w", "10000000000w", "9" * 5000 + "x", "1e999x", "nanx", "-1x", "0w", "1_0w", "+5w", "٣w",
        "1.x", "w", "5w 6w", "5w 1x", "5h", "5w 5h 5h", "(5w)", "5w (",
    ],
)  # fmt: skip
def test_invalid_srcset_candidates_are_skipped(descriptors):
    assert [candidate.url for candidate in parse_srcset(f"a.jpg {descriptors}")] == []
    assert image_paths(f"<img src=/s.jpg srcset='/a.jpg {descriptors}'>") == ["s.jpg"]


@pytest.mark.parametrize(
    ("descriptors", "width", "density"),
    [("007w", 7, 1), ("5h 6w", 6, 1), (".5x", None, 0.5), ("1.5e1x", None, 15), ("-0x", None, 0), ("", None, 1)],
)
def test_valid_srcset_candidates_are_parsed(descriptors, width, density):
    assert parse_srcset(f"a.jpg {descriptors}") == [("a.jpg", width, density)]


@pytest.mark.timeout(60)  # a quadratic algorithm takes hours
@pytest.mark.parametrize(
    "text",
    ["," * 10**6, "a" + "," * 10**6, "x (y, " * 10**5, "a " + "(" * 10**6, "a" + " " * 10**6 + "b", "a 1w b" * 10**5],
)
def test_srcset_parsing_takes_linear_time(text):
    parse_srcset(text)


def test_images_without_a_url_are_counted_by_reason():
    found = document("<img alt=x><img src='data:image/gif;base64,R0'><img src=about:blank><img src='http://'>").found()
    assert found.images == []
    assert found.skipped == {"no_address": 1, "scheme": 2, "bad_url": 1}


def test_figcaption_language_and_title_are_extracted():
    html = """<html lang=en><title> A \n title </title><img src=1><div lang=fr-CA><figure><p><img src=2></p>
        <figcaption>Une <i>jolie</i>\n image</figcaption></figure></div><figure><img src=3></figure>"""
    document_ = document(html).found()
    assert document_.title == "A title"
    assert [(image.figcaption, image.language) for image in document_.images] == [
        (None, "en"),
        ("Une jolie image", "fr-CA"),
        (None, "en"),
    ]


def test_the_closest_language_applies():
    found = document(
        "<html lang=en><img src=1 lang=de><p xml:lang=it><img src=2></p><figure lang=fr><img src=3 lang=''>"
    ).found()
    assert [(image.url[-1], image.language) for image in found.images] == [("1", "de"), ("2", "it"), ("3", "fr")]


@pytest.mark.parametrize(
    ("body", "header"),
    [
        ("<img src=a alt='café “x”'>".encode(), None),
        ("<meta charset=windows-1252><img src=a alt='café “x”'>".encode("cp1252"), None),
        ("<meta charset=iso-8859-1><img src=a alt='café “x”'>".encode("cp1252"), None),
        ("<meta charset=utf-8><img src=a alt='café “x”'>".encode("cp1252"), "windows-1252"),
        (
            "<meta http-equiv=Content-Type content='text/html; charset=utf-8'><img src=a alt='café “x”'>".encode(),
            "x-no",
        ),
        ("\ufeff<img src=a alt='café “x”'>".encode("utf-16-le"), "utf-8"),
        ("<img src=a alt='café “x”'>".encode(), "utf-8"),
    ],
)
def test_charset_from_bom_header_meta_or_content(body, header):
    assert images(body, charset=header)[0].alttext == "café “x”"


@pytest.mark.parametrize("by", ["header", "meta"])
@pytest.mark.parametrize(
    "label",
    [
        "undefined",
        "idna",
        "punycode",
        "unicode_escape",
        "raw_unicode_escape",
        "utf-7",
        "utf-32",
        "base64",
        "rot13",
        "no",
    ],
)
def test_labels_unknown_to_the_encoding_standard_are_ignored(label, by):
    meta = f"<meta charset={label}>" if by == "meta" else ""
    body = f"{meta}<img src=a alt='café \\x41 “x” +AGE-'>".encode()
    assert images(body, charset=label if by == "header" else None)[0].alttext == "café \\x41 “x” +AGE-"


@pytest.mark.parametrize(
    ("label", "codec", "text"),
    [
        ("sjis", "cp932", "①犬"), ("Windows-31J", "cp932", "①犬"), ("korean", "cp949", "똠방"),
        ("gb_2312", "gb18030", "㐀狗"), ("x-cp1251", "cp1251", "собака"), ("iso-8859-8-i", "iso8859-8", "כלב"),
        ("tis-620", "cp874", "หมา…"),
        ("latin5", "cp1254", "köpek “ş”"), ("koi8-ru", "koi8-u", "їжак"), (" ISO_8859-2 ", "iso8859-2", "pies żółty"),
    ],
)  # fmt: skip
def test_labels_follow_the_encoding_standard(label, codec, text):
    assert images(f"<img src=a alt='{text}'>".encode(codec), charset=label)[0].alttext == text


def test_every_codec_decodes_any_bytes():
    all_bytes = bytes(range(256)) * 2
    for label in LABELS:
        assert charset.to_utf8(all_bytes, label).decode()
        assert absolute("/?é中\U0001f600", "http://site.example", charset.decode_page(all_bytes, label)[1])


def test_undefined_bytes_of_windows_encodings_are_control_characters():
    assert images(b"<img src=a alt='\x81\x80'>", charset="ascii")[0].alttext == "\x81€"
    assert images(b"<img src=a alt='\x81\xaa'>", charset="windows-1253")[0].alttext == "\x81\ufffd"


def test_queries_are_encoded_in_the_encoding_of_the_page():
    body = "<base href='/ä/'><img src='ж?ж=1'><a href='?ж中'>".encode("cp1251", "xmlcharrefreplace")
    page = document(body, charset="windows-1251")
    assert [image.url for image in page.found().images] == ["http://site.example/%C3%A4/%D0%B6?%E6=1"]
    assert page.links() == ["http://site.example/%C3%A4/?%E6%26%2320013%3B"]
    assert image_paths("\ufeff<img src='/?ж'>".encode("utf-16-le"), charset="koi8-r") == ["?%D0%B6"]


def test_the_first_known_charset_declaration_applies():
    text = "<img src=a alt='żółty'>"
    assert images(f"<meta charset=idna><meta charset=iso-8859-2>{text}".encode("iso8859-2"))[0].alttext == "żółty"
    xhtml = f"<?xml version='1.0' encoding='iso-8859-2'?><html>{text}"
    assert images(xhtml.encode("iso8859-2"))[0].alttext == "żółty"


def test_the_charset_is_detected_if_not_declared():
    text = "<p>" + "Съешь же ещё этих мягких французских булок, да выпей чаю. " * 20 + "<img src=a alt='собака'>"
    assert images(text.encode("cp1251"))[0].alttext == "собака"


def test_invalid_markup_is_parsed():
    assert image_paths("<p><img src=a.jpg alt='x<b><div></p><img src='b.jpg' alt=\"y\"><im") != []
    assert image_paths(b"\x00\xff<img src=a.jpg>\x00<img src=b.jpg>") == ["folder/a.jpg", "folder/b.jpg"]
    assert image_paths(b"") == []


def test_links_are_absolute_and_distinct():
    html = "<a href=b.html#x>1</a><a href=b.html>2</a><a href=mailto:a@b>3</a><map><area href=/c></map>"
    assert document(html).links() == ["http://site.example/folder/b.html", "http://site.example/c"]


def test_nested_figures_and_languages_are_resolved_per_image():
    html = """<html lang=en><body><figure><img src=1><figcaption>Outer</figcaption>
        <figure lang=de><img src=2><img src=3 lang=fr><p><img src=4></p></figure><img src=5></figure><img src=6>"""
    assert [(image.figcaption, image.language) for image in images(html)] == [
        ("Outer", "en"), (None, "de"), (None, "fr"), (None, "de"), ("Outer", "en"), (None, "en"),
    ]  # fmt: skip


def test_the_first_base_element_with_href_applies():
    assert image_paths("<base target=x><base href=/a/><base href=/b/><img src=i>") == ["a/i"]
    assert image_paths("<base href='javascript:x'><base href=/b/><img src=i>") == ["folder/i"]


@pytest.mark.parametrize("tag", ["img", "IMG", "Img", "image"])
@pytest.mark.parametrize("codec", ["utf-8", "utf-16", "utf-16-le", "windows-1252"])
def test_images_are_found_in_any_case_and_encoding(tag, codec):
    body = f"<p>imagine <i>an</i> <input></p><{tag} src=a>".encode(codec)
    assert len(Document(Page("http://site.example/", body, codec, (), "site")).found().images) == 1


def test_entities_in_urls_and_texts_are_decoded():
    (image,) = images("<img src='/view?id=1&amp;res=2' alt='&quot;&amp;amp;&quot; &#x1F600;'>")
    assert (image.url, image.alttext) == ("http://site.example/view?id=1&res=2", '"&amp;" \U0001f600')


def test_robots_meta_elements_are_collected():
    found = document("<meta name=ROBOTS content=noai><img src=a><meta name='robots '><meta name=x content=x>").found()
    assert found.robots == ("noai", "")
