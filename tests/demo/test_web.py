"""The miniature web: the same seed gives the same bytes, and the ledger matches the files."""

import datetime as dt
import hashlib
import io
import json
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin

import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType
from PIL import Image, UnidentifiedImageError

from vecap_tasks.config import ImageConfig
from vecap_tasks.crawl.image.decode import decode
from vecap_tasks.demo.evalset import write_evalset
from vecap_tasks.demo.scene import KINDS, parse, split
from vecap_tasks.demo.web import HOSTS, OPT_OUT_HOST, DayLedger, file_of, generate_day
from vecap_tasks.errors import Failure

DAY = dt.date(2026, 1, 1)
IMAGES = 240


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


def lines_of(ledger: DayLedger) -> list[dict]:
    return [json.loads(line) for line in ledger.truth.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def web(tmp_path_factory) -> tuple[Path, DayLedger]:
    out = tmp_path_factory.mktemp("web")
    return out, generate_day(out, DAY, seed=3, images=IMAGES)


@pytest.fixture(scope="module")
def truth(web) -> list[dict]:
    return lines_of(web[1])


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_processes(tmp_path):
    for name, processes in (("a", 1), ("b", 3)):
        generate_day(tmp_path / name, DAY, seed=5, images=40, processes=processes)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    generate_day(tmp_path / "c", DAY, seed=6, images=40)
    assert digest(tmp_path / "c") != digest(tmp_path / "a")


def test_ledger_counts_the_written_references_and_pages(web, truth):
    _, ledger = web
    assert ledger.references == len(truth) == IMAGES
    assert ledger.expected == dict(Counter(line["expect"] for line in truth))
    assert ledger.pages == len({line["page"] for line in truth})


def test_every_url_has_a_file_unless_it_is_not_found(web, truth):
    for line in truth:
        assert file_of(web[0], line["url"]).is_file() == (line["fate"] != "not_found"), line["url"]


def test_images_match_the_ledger(web, truth):
    shown = {line["url"]: line for line in truth if line["fate"] != "not_found"}
    assert {line["expect"] for line in truth} >= {"keep", "duplicate", "not_found", "too_large", "too_small", "damaged"}
    for url, line in shown.items():
        content = file_of(web[0], url).read_bytes()
        match line["expect"]:
            case "not_an_image":
                with pytest.raises(UnidentifiedImageError):
                    Image.open(io.BytesIO(content))
            case "damaged":
                with pytest.raises(OSError, match="truncated"):
                    Image.open(io.BytesIO(content)).load()
            case "too_large":
                assert len(content) < 200_000
                with pytest.raises(Failure, match="too_many_pixels"):
                    decode(content, ImageConfig())
            case "too_small":
                assert max(Image.open(io.BytesIO(content)).size) <= 24
            case "bad_aspect":
                width, height = Image.open(io.BytesIO(content)).size
                assert width / height > 4
            case "duplicate":
                assert content == file_of(web[0], line["same_as"]).read_bytes()
                assert line["same_as"] in shown
            case _:
                image = Image.open(io.BytesIO(content))
                image.load()
                assert 224 <= min(image.size) <= 512


def test_near_duplicates_have_different_bytes(web, truth):
    near = [line for line in truth if line["fate"] == "near_duplicate"]
    assert near
    for line in near:
        assert file_of(web[0], line["url"]).read_bytes() != file_of(web[0], line["same_as"]).read_bytes()


def test_scenes_are_from_the_crawl_split(truth):
    for line in truth:
        scene = parse(line["caption"])
        assert scene is not None
        assert split(scene) == "crawl"


class ImageTags(HTMLParser):
    """Collects image URLs and AltTexts like a browser that runs scripts."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.base, self.found = url, set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "base":
            self.base = urljoin(self.base, values["href"])
        if tag == "img":
            self.found.add((urljoin(self.base, values.get("data-src") or values["src"]), values.get("alt")))


def test_warc_is_valid_and_its_pages_contain_the_ledgers_images(web, truth):
    expected: dict[str, set] = {}
    for line in truth:
        expected.setdefault(line["page"], set()).add((line["url"], line["alttext"]))
    charsets = set()
    with web[1].warc.open("rb") as stream:
        for record in ArchiveIterator(stream, record_types=WarcRecordType.response, verify_digests=True):
            assert record.record_date.date() == DAY
            url = record.headers["WARC-Target-URI"]
            body = record.reader.read()
            assert body == file_of(web[0], url).read_bytes()
            head = body[:200].decode("ascii", "ignore")
            charset = record.http_charset or (
                head.split('charset="')[1].split('"')[0] if "charset=" in head else "utf-8"
            )
            charsets.add(charset.lower())
            tags = ImageTags(url)
            tags.feed(body.decode(charset))
            assert tags.found == expected.pop(url)
    assert not expected
    assert len(charsets) >= 3


def test_a_quarter_of_a_days_images_is_carried_over(web, tmp_path):
    out, first = web
    second = generate_day(tmp_path, DAY + dt.timedelta(days=1), seed=3, images=IMAGES)
    before = {line["url"]: line for line in lines_of(first)}
    carried = [line for line in lines_of(second) if line["carried"]]
    assert len(carried) == IMAGES // 4
    for line in carried:
        assert line["alttext"] == before[line["url"]]["alttext"]
        if line["fate"] != "not_found":
            assert file_of(out, line["url"]).read_bytes() == file_of(tmp_path, line["url"]).read_bytes()


def test_on_a_bad_day_all_downloads_fail_and_the_next_day_is_unchanged(tmp_path):
    bad = generate_day(tmp_path, DAY, seed=3, images=40, bad=True)
    after = generate_day(tmp_path, DAY + dt.timedelta(days=1), seed=3, images=40)
    assert set(bad.expected) == {"not_an_image", "not_found"}
    for line in lines_of(bad):
        file = file_of(tmp_path, line["url"])
        assert file.is_file() == (line["fate"] == "html"), line["url"]
        assert not file.is_file() or file.read_bytes().startswith(b"<!doctype html>")
    separate = generate_day(tmp_path / "separate", DAY + dt.timedelta(days=1), seed=3, images=40)
    assert separate.warc.read_bytes() == after.warc.read_bytes()
    for line in lines_of(after):
        if line["fate"] != "not_found":
            assert (
                file_of(tmp_path, line["url"]).read_bytes() == file_of(tmp_path / "separate", line["url"]).read_bytes()
            )


def test_a_day_without_images_is_rejected(tmp_path):
    with pytest.raises(ValueError, match="at least one image"):
        generate_day(tmp_path, DAY, seed=1, images=0)


def test_robots_and_opt_outs_are_written(web):
    sites = web[0] / "sites"
    assert "Disallow: /members/" in (sites / HOSTS[0] / "robots.txt").read_text()
    assert "noai" in (sites / OPT_OUT_HOST / "_headers").read_text()


def test_evaluation_set_is_held_out_complete_and_reproducible(tmp_path):
    counts = write_evalset(tmp_path / "a", 1, 60)
    write_evalset(tmp_path / "b", 1, 60)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    captions = (tmp_path / "a/captions.csv").read_text().splitlines()
    labels = (tmp_path / "a/labels.csv").read_text().splitlines()
    assert captions[0] == "image,caption"
    assert labels[0] == "image,label"
    assert (len(captions) - 1, len(labels) - 1) == (counts.captions, counts.labels)
    canonical = [line.split(",", 1)[1] for line in captions[1::2]]
    scenes = [parse(caption) for caption in canonical]
    assert len(set(canonical)) == len(canonical)
    assert all(scene is not None and split(scene) == "eval" for scene in scenes)
    assert (tmp_path / "a/classes.txt").read_text().split() == list(KINDS)
    assert all("{}" in line for line in (tmp_path / "a/templates.txt").read_text().splitlines())
    for line in (*captions[1:], *labels[1:]):
        assert Image.open(tmp_path / "a" / line.split(",")[0]).size == (256, 256)
