"""The URLs of an image: attributes for lazy loading, `srcset`, `<source>` elements, and the best of them."""

import pytest

from vecap_tasks.crawl.html.parser import Document, Page

SITE = "http://site.example/"


def urls(html):
    """Return the paths of the URLs of the only image, the best first."""
    (image,) = Document(Page(SITE, html.encode(), None, (), "test")).found().images
    return [url.removeprefix(SITE) for url in (image.url, *image.alternatives)]


@pytest.mark.parametrize(
    "attributes",
    [
        "src=data:image/gif;base64,R0 data-photo-url=/real.jpg",
        "data-theme-lazy-src=/real.jpg",
        "src=/1x1.gif data-accelerated-lazy-src=/real.jpg",
        "data-cfsrc=/real.jpg",
        "src=/loading.svg data-hires=/real.jpg",
        "src=/spacer.png data-image='/real.jpg?w=9#x'",
        "src=/a.jpg class='x lazyload' data-picture=real.jpg",
        "src=/grey.png data-sizes-set='/real.jpg 900w, /small.jpg 300w'",
        "src=/t.gif data-lazy-srcset='/small.jpg 300w, /real.jpg 900w'",
        "src=/t.gif data-src-large=/real.jpg",
        "src=/t.gif data-original=real.jpg data-thumb=/thumb.jpg",
        "data-thumbnail=/thumb.jpg data-full=/real.jpg",
        "src='' data-echo=/real.jpg",
        "src=/real.jpg data-hover-src=/hover.jpg",
        "src=/real.jpg data-placeholder-src=/tiny.jpg lowsrc=/low.jpg",
        "src=/real.jpg data-image-title=IMG_001.jpg data-large-file=/larger.jpg",
        "src=/real.jpg longdesc=/wiki/File:Real.jpg onerror=\"this.src='/error.jpg'\" title=photo.jpg",
        'src=/real.jpg data-lazy-loaded=true data-src-set=yes data-json=\'{"src": "/x.jpg"}\'',
        "src=/real.jpg data-lazy-type=image data-text='see /x.jpg 2x'",
    ],
)
def test_the_attribute_with_the_real_image_is_used(attributes):
    assert urls(f"<img alt='A dog' {attributes}>")[0].partition("?")[0] == "real.jpg"


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        ("<source srcset=wide.jpg media='(min-width: 900px)'><img src=1x1.jpg>", ["wide.jpg", "1x1.jpg"]),
        ("<source srcset='a.webp 900w'><img src=s.jpg srcset='b.jpg 1200w'>", ["b.jpg", "a.webp", "s.jpg"]),
        ("<source srcset=phone.jpg media='(max-width: 600px)'><img src=desk.jpg>", ["desk.jpg", "phone.jpg"]),
        ("<source srcset=a.jxl type=image/jxl><img src=s.jpg>", ["s.jpg"]),
        ("<source srcset='a.avif 2x' type=image/avif><source srcset='b.webp 2x'><img src=s.jpg>",
         ["a.avif", "b.webp", "s.jpg"]),
        ("<source data-srcset=a.jpg><img src=data:,>", ["a.jpg"]),
        ("<source srcset=data:,x><img src=s.jpg>", ["s.jpg"]),
        ("<p><source srcset=a.jpg></p><img src=s.jpg>", ["s.jpg"]),
    ],
)  # fmt: skip
def test_sources_of_a_picture_precede_the_image(picture, expected):
    assert urls(f"<picture>{picture}</picture>") == expected
    assert urls(f"<video>{picture.partition('<img')[0]}</video><img src=s.jpg>") == ["s.jpg"]


def test_alternatives_are_distinct_sorted_and_bounded():
    assert urls("<img src=a.jpg srcset='a.jpg 1x, b.jpg 2x, b.jpg#x 3x, data:,x 9x'>") == ["b.jpg", "a.jpg"]
    many = ", ".join(f"{width}.jpg {width}w" for width in range(1, 50))
    assert urls(f"<img src=s.jpg srcset='{many}'>") == [f"{width}.jpg" for width in range(49, 41, -1)]


def test_placeholders_are_no_alternatives():
    assert urls("<img src=pixel.gif data-src=real.jpg data-srcset='big.jpg 2x'>") == ["big.jpg", "real.jpg"]
