"""Rows by page and filter, and single images from a shard."""

import io
import json

import pytest

from tests.quality.factories import INTERVAL, Row, configure, give_captions, give_crawl, picture, run, stage, use_given
from vecap_tasks.core import samples as core_samples
from vecap_tasks.core.samples import Filter, Samples, find_member, read_image
from vecap_tasks.core.tar import TarWriter
from vecap_tasks.core.version import Version
from vecap_tasks.errors import CorruptError, VecapError

ROWS = [
    *(Row(caption=f"Beagle no. {n} at the fair", language="en" if n % 2 else "de") for n in range(30)),
    Row(status="failed_to_download", error_message="http_404"),
    Row(caption="<script>alert(1)</script> Heron & friends"),
]
NO_VEC = f"{4:032x}"
CRAWL = f"given/{INTERVAL}/crawl"  # folder of the stage


@pytest.fixture
def samples(tmp_path, monkeypatch):
    use_given(monkeypatch)
    config = configure(tmp_path)
    give_crawl(tmp_path, ROWS)
    run("crawl", config)
    run("quality", config)
    give_captions(config, only_alttext=[NO_VEC])
    run("rewrite", config)
    return Samples(stage("rewrite", config).store, Version(config.dataset, INTERVAL, 1, ""))


def test_pages_are_consecutive_and_report_the_total(samples):
    pages = [samples.page(Filter(), first, 12) for first in (0, 12, 24, 36)]
    keys = [row.key for page in pages for row in page.rows]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys) == pages[0].total == 31
    assert [len(page.rows) for page in pages] == [12, 12, 7, 0]


def test_filters_work_individually_and_combined(samples):
    assert samples.page(Filter(text="BEAGLE NO. 7 "), 0, 9).total == 1
    assert samples.page(Filter(text="%"), 0, 9).total == 0, "the text is not a pattern"
    assert samples.page(Filter(host="host1.example"), 0, 99).total == 11
    assert samples.page(Filter(language="de"), 0, 99).total == 15
    both = samples.page(Filter(language="de", host="host1.example", text="beagle"), 0, 99)
    assert {int(row.uid, 16) % 6 for row in both.rows} == {4}
    (fallen,) = samples.page(Filter(reason="vecap_from=alttext"), 0, 9).rows
    assert (fallen.uid, fallen.vec) == (NO_VEC, None)
    with pytest.raises(VecapError, match="invalid reason"):
        samples.page(Filter(reason="key = key OR 1=1"), 0, 9)


def test_a_row_has_the_crawled_and_the_generated_columns(samples):
    row = samples.row(f"{31:032x}")
    assert row.caption == "<script>alert(1)</script> Heron & friends"
    assert row.url == "https://host1.example/31.jpg"
    assert row.vec_model == "tiny-vec"
    assert samples.row("f" * 32) is None


def test_reasons_count_the_sources_of_texts(samples):
    assert [(count.value, count.rows) for count in samples.reasons["vecap_from"]] == [("llm", 30), ("alttext", 1)]
    hosts = {count.value: count.rows for count in samples.hosts}
    assert hosts == {"host0.example": 10, "host1.example": 11, "host2.example": 10}
    assert [count.value for count in samples.languages] == ["de", "en"]


@pytest.mark.parametrize("limit", ["_MAX_COUNTED_ROWS", "_MAX_COUNTED_FILES"])
def test_a_large_version_has_rows_but_no_counts(samples, monkeypatch, limit):
    monkeypatch.setattr(core_samples, limit, 0)
    assert (samples.reasons["vecap_from"], samples.hosts, samples.languages) == ((), (), ())
    assert len(samples.page(Filter(), 0, 5).rows) == 5


def test_a_version_without_captions_is_an_error(tmp_path, monkeypatch):
    use_given(monkeypatch)
    config = configure(tmp_path)
    give_crawl(tmp_path, ROWS)
    run("crawl", config)
    with pytest.raises(VecapError, match=r"has no captions; run `vecap rewrite --version .*` first"):
        Samples(stage("crawl", config).store, Version(config.dataset, INTERVAL, 1, ""))


def test_each_image_is_found_by_its_key_only(samples, tmp_path):
    store = stage("crawl", configure(tmp_path)).store
    for number in range(30):
        key = f"{number // 10:05d}{number % 10:04d}"
        assert read_image(store, CRAWL, key) == picture(number)
    for key in ("000030000", "000019999", "999990000", "../../etc/passwd", ""):
        assert read_image(store, CRAWL, key) is None


def test_a_changed_image_is_not_shown(tmp_path, monkeypatch):
    use_given(monkeypatch)
    config = configure(tmp_path)
    give_crawl(tmp_path, ROWS[:2], hashed=True)
    crawl, store = run("crawl", config), stage("crawl", config).store
    assert read_image(store, crawl.location, "000000000") == picture(0)
    name = crawl.file("00000.tar")
    store.put(name, store.read(name).replace(picture(0), picture(0)[:-1] + b"\0"))
    with pytest.raises(CorruptError, match=rf"^{name} is corrupt: the image of 000000000 differs from its sha256"):
        read_image(store, crawl.location, "000000000")


@pytest.mark.parametrize("sizes", [[10], [0, 1, 511, 512, 513], [70_000] * 40, [5, 300_000, 5, 5, 200_000] * 8])
def test_members_of_any_size_are_found_by_binary_search(tmp_path, sizes):
    # Image bytes that look like tar headers have a wrong checksum.
    bodies = {f"{number * 3:09d}": (b"ustar\x00" * (size // 6 + 1))[:size] for number, size in enumerate(sizes)}
    with TarWriter(tmp_path / "a.tar") as tar:
        for key, body in bodies.items():
            tar.write(key, {"jpg": body, "txt": b"text", "json": json.dumps({"key": key}).encode()})
    data = (tmp_path / "a.tar").read_bytes()
    for key, body in bodies.items():
        assert find_member(io.BytesIO(data), key, "jpg") == body
        assert find_member(io.BytesIO(data), key, "json") == json.dumps({"key": key}).encode()
        assert find_member(io.BytesIO(data), f"{int(key) + 1:09d}", "jpg") is None
        assert find_member(io.BytesIO(data), key, "png") is None
    assert find_member(io.BytesIO(b""), "000000000", "jpg") is None
