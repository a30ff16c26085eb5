"""Images from webdataset tars, valid and corrupt."""

import gzip
import io
import json
import tarfile
from hashlib import sha256

import pyarrow.parquet as pq
import pytest
import webdataset

from tests.crawl.conftest import crawl, stage_of
from tests.crawl.web import image
from vecap_tasks.config import WebdatasetSource
from vecap_tasks.crawl.shard_images import read_archived
from vecap_tasks.crawl.sources.link import Stats
from vecap_tasks.crawl.sources.webdataset import WebdatasetFiles
from vecap_tasks.errors import Failure, VecapError

RED, BLUE, GREEN = image("JPEG", color="red"), image("PNG", color="blue"), image("WEBP", color="green")


def tar_of(members, **options):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", **options) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.fixture
def read(tmp_path, configure):
    """Return a function that reads *data* as a tar and returns links, image bytes and counters."""

    def links(data, name="00000.tar"):
        (tmp_path / name).write_bytes(data)
        config = configure({"kind": "webdataset", "paths": ["${VECAP_HOME}/" + name]})
        source, stats = WebdatasetFiles(config, config.crawl.source, "2026-01-01"), Stats()
        found = [link for part in source.parts() for link in source.read(part, stats)]
        skipped = sum(count for name, count in stats.counters.items() if name.startswith("skipped."))
        assert stats.counters["images"] == len(found) + skipped
        (item,) = stats.inputs
        assert (item.name, item.digest) == ("${VECAP_HOME}/" + name, sha256(data).hexdigest())
        return found, [read_archived(config, link.stored) for link in found], dict(stats.counters)

    return links


def test_img2dataset_shards_keep_their_metadata(read):
    values = {
        "caption": "a dog", "url": "http://A.example:80/1.jpg", "key": "000000000", "status": "success",
        "width": 40, "sha256": "ab" * 32, "uid": "0123456789abcdef" * 2, "clip_l14_similarity_score": 0.25,
    }  # fmt: skip
    members = [("000000000.jpg", RED), ("000000000.json", json.dumps(values).encode()), ("000000000.txt", b"a dog")]
    (link,), bodies, _ = read(tar_of(members))
    assert (link.url, link.alttext, link.uid) == ("http://a.example/1.jpg", "a dog", "0123456789abcdef" * 2)
    assert json.loads(link.scores) == {"clip_l14_similarity_score": 0.25, "source_sha256": "ab" * 32}
    assert bodies == [RED]


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_images_and_captions_are_found_by_extension(read, layout):
    long = "d/" * 80 + "long"  # needs an extra tar header
    members = [
        ("d", b""), ("a.jpg", RED), ("a.txt", "ein Höhlenhund".encode()),
        ("b.PNG", BLUE), ("b.JSON", b'{"TEXT": "text"}'),
        ("c.webp", GREEN), ("c.json", b'{"alttext": "alt", "text": ""}'),
        ("d.jpeg", RED), ("d.json", b'{"caption": null}'),
        (f"{long}.jpg", BLUE), (f"{long}.cls", b"7"), ("e.seg.png", RED), ("e.txt", b"no image"),
        ("f.png", BLUE), ("f.jpg", RED), ("f.json", b"{"), ("g.png", BLUE), ("g.txt", b"\xff"),
        ("h.jpg", RED), ("h.json", b"[1]"),
    ]  # fmt: skip
    if layout == tarfile.USTAR_FORMAT:
        members = [(name.replace(long, "long"), data) for name, data in members]
    links, bodies, counters = read(tar_of(members, format=layout))
    assert [link.alttext for link in links] == ["ein Höhlenhund", "text", "alt", None, None]
    assert bodies == [RED, BLUE, GREEN, RED, BLUE]
    assert counters == {"images": 9, "skipped.no_image": 1, "skipped.bad_json": 2, "skipped.not_utf8": 1}


def test_an_image_without_url_is_identified_by_its_digest(read, configure):
    members = [("a.jpg", RED), ("b.jpg", RED), ("b.json", b'{"url": "file:///etc/passwd"}'), ("c.jpg", BLUE)]
    links, _, _ = read(tar_of(members))
    urls = [link.url for link in links]
    assert urls[0] == urls[1] != urls[2]
    assert all(url.startswith("ni:///sha-256;") for url in urls)
    assert [link.url for link in read(tar_of(members), "moved.tar")[0]] == urls


def test_tars_written_by_webdataset_are_read(read, tmp_path):
    with webdataset.TarWriter(str(tmp_path / "made.tar")) as writer:
        for number in range(3):
            writer.write({"__key__": f"{number:05d}", "jpg": RED, "json": {"caption": f"number {number}"}})
    links, bodies, _ = read((tmp_path / "made.tar").read_bytes())
    assert [link.alttext for link in links] == ["number 0", "number 1", "number 2"]
    assert bodies == [RED] * 3


def test_a_truncated_tar_is_an_error(read):
    whole = tar_of([("a.jpg", RED), ("a.txt", b"x" * 600), ("b.jpg", BLUE), ("b.txt", b"y")])
    content = len(whole.rstrip(b"\0"))
    read(whole[: (content // 512 + 1) * 512 + 1024])  # padding blocks of zeros may be missing
    for length in (0, 100, 512, 600, content // 2, content - 600, content, (content // 512 + 1) * 512 + 512):
        with pytest.raises(VecapError, match=r"00000\.tar (is truncated|is corrupt|is empty)") as error:
            read(whole[:length])
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(tar_of([("a.jpg", RED)])), "compressed with gzip; decompress it"),
        (b"no tar" * 200, "corrupt at byte 0: invalid tar header"),
        (tar_of([("a.jpg", RED)])[:1536] + b"junk" * 256, "corrupt at byte 1536"),
        (tar_of([("a.jpg", RED)]) + tar_of([("b.jpg", RED)]), "several tars, the second from byte 10240"),
        (tar_of([("a.jpg", RED), ("a.jpg", BLUE)]), "contains a.jpg twice"),
        (tar_of([("a.jpg", RED), ("b.jpg", BLUE), ("a.txt", b"a")]), "other samples between the members of a; write"),
    ],
    ids=["gzip", "no tar", "junk", "two in one", "twice", "not adjacent"],
)
def test_unusable_tars_are_one_line_errors(read, data, message):
    with pytest.raises(VecapError, match=message) as error:
        read(data)
    assert "\n" not in str(error.value)


def test_a_crawl_of_tars_sends_no_requests(web, configure, tmp_path):
    web.image("/1.jpg")
    samples = [("a.jpg", RED), ("a.json", b'{"url": "http://a.example/1.jpg", "caption": "one"}')]
    samples += [("b.png", BLUE), ("b.txt", b"two"), ("c.jpg", RED[:200]), ("c.txt", b"cut")]
    (tmp_path / "2026-01-01-0.tar").write_bytes(tar_of(samples))
    (tmp_path / "2026-01-01-1.tar").write_bytes(tar_of([("z.jpg", RED), ("z.txt", b"three"), *samples]))
    stage, manifest = crawl(configure({"kind": "webdataset", "paths": ["${VECAP_HOME}/{interval}-*.tar"]}))
    table = pq.read_table(stage.store.path(manifest.file("00000.parquet")))
    assert table["caption"].to_pylist() == ["one", "two", "cut", "three"]
    assert table["status"].to_pylist() == ["success", "success", "failed_to_resize", "success"]
    assert table["sha256"].to_pylist()[0] == sha256(RED).hexdigest()
    assert table["stored_in"].to_pylist()[3] == "${VECAP_HOME}/2026-01-01-1.tar"
    counters = manifest.counters
    assert (counters["images"], counters["candidates"], counters["repeated"], counters["duplicates"]) == (7, 4, 3, 1)
    assert not web.request_counts
    assert str(tmp_path) not in json.dumps(manifest.content)


def test_crawl_shards_can_be_a_source(web, configure, seeds, tmp_path):
    web.page("/", "<img src=a.png alt='a dog'><img src=b.png>")
    web.image("/a.png")
    web.image("/b.png", color="blue")
    stage, manifest = crawl(configure(seeds("http://site.example/")))
    path = stage.store.path(manifest.file("00000.tar"))
    config = configure({"kind": "webdataset", "paths": [path]}).model_copy(update={"dataset": "again"})
    again, taken = crawl(config)
    first, second = (
        pq.read_table(s.store.path(m.file("00000.parquet"))) for s, m in ((stage, manifest), (again, taken))
    )
    for name in ("uid", "url"):
        assert first[name].equals(second[name])


def test_tars_on_s3(s3_bucket, web, configure):
    import boto3

    data = tar_of([("a.jpg", RED), ("a.txt", b"one"), ("b.png", BLUE), ("b.txt", b"two")])
    client = boto3.client("s3")
    client.put_object(Bucket=s3_bucket, Key="wds/2026-01-01.tar", Body=data)
    stage = stage_of(configure({"kind": "webdataset", "paths": [f"s3://{s3_bucket}/wds/{{interval}}*.tar"]}))
    (shard,) = stage.plan()
    assert stage.run(shard).counters["success"] == 2
    manifest = stage.commit()
    (item,) = manifest.inputs
    assert (item.name, item.digest) == (f"s3://{s3_bucket}/wds/2026-01-01.tar", sha256(data).hexdigest())
    assert not web.request_counts


def test_an_image_missing_from_its_tar_is_a_failure(configure, tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(tar_of([("a.jpg", RED)]))
    config = configure({"kind": "webdataset", "paths": ["${VECAP_HOME}/x.tar"]})
    source = WebdatasetFiles(config, WebdatasetSource(kind="webdataset", paths=["${VECAP_HOME}/x.tar"]), "x")
    (link,) = source.read(source.parts()[0], Stats())
    small = configure({"kind": "webdataset", "paths": ["x"]}, {"max_bytes": 10})
    with pytest.raises(Failure, match="too_large"):
        read_archived(small, link.stored)
    path.write_bytes(b"short")
    with pytest.raises(Failure, match="not_stored: the file is shorter than it was"):
        read_archived(config, link.stored)
    path.unlink()
    with pytest.raises(Failure, match="not_stored: there is no such file"):
        read_archived(config, link.stored)


def test_a_text_that_is_too_large_fails_only_its_sample(read, monkeypatch):
    monkeypatch.setattr("vecap_tasks.crawl.sources.webdataset.MAX_TEXT", 100)
    links, _, counters = read(tar_of([("a.jpg", RED), ("a.txt", b"x" * 101), ("b.jpg", BLUE), ("b.txt", b"b")]))
    assert [link.alttext for link in links] == ["b"]
    assert counters == {"images": 2, "skipped.large_text": 1}


def test_captions_in_lists_are_counted(read):
    members = [("a.jpg", RED), ("a.json", b'{"caption": ["one", "two"]}'), ("b.jpg", BLUE), ("b.json", b'{"text": {}}')]
    links, _, counters = read(tar_of(members))
    assert [link.alttext for link in links] == ["one", None]
    assert counters == {"images": 2, "dropped.caption_variants": 1, "dropped.caption": 1}


def test_the_key_and_fields_are_kept(configure, tmp_path):
    members = [("a/7.jpg", RED), ("a/7.json", b'{"caption": "x", "id": 7, "tags": ["a", "\xc3\xa9"], "n": 1.5}')]
    (tmp_path / "x.tar").write_bytes(tar_of([*members, ("a/8.jpg", BLUE)]))
    keep = ["__key__", "id", "tags", "n"]
    source = {"kind": "webdataset", "paths": ["${VECAP_HOME}/x.tar"], "keep_columns": keep}
    stage, manifest = crawl(configure(source))
    table = pq.read_table(stage.store.path(manifest.file("00000.parquet")))
    assert [json.loads(kept) for kept in table["kept"].to_pylist()] == [
        {"__key__": "a/7", "id": 7, "tags": ["a", "é"], "n": 1.5},
        {"__key__": "a/8", "id": None, "tags": None, "n": None},
    ]
    _, without = crawl(configure(source | {"keep_columns": []}).model_copy(update={"dataset": "without"}))
    assert "keep_columns" not in without.config["source"], "the fingerprint of an earlier release stays valid"
