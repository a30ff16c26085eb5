"""Images from local folders: a table of captions, files next to the images, and what must not be read."""

import json
import os
from collections import Counter
from hashlib import sha256

import pyarrow.parquet as pq
import pytest

from tests.crawl.conftest import crawl, stage_of
from tests.crawl.web import image
from vecap_tasks.crawl import shard_images
from vecap_tasks.crawl.candidates import open_source
from vecap_tasks.crawl.http.fetcher import FetcherThread
from vecap_tasks.crawl.shard_images import ImageRequest, Spool, download_all, image_reader
from vecap_tasks.crawl.sources.link import ByteRange, Stats
from vecap_tasks.errors import Failure, VecapError

RED, BLUE = image("JPEG", color="red"), image("PNG", color="blue")


@pytest.fixture
def write(tmp_path):
    """Return a function that writes files, by path, into the folder `photos`."""
    folder = tmp_path / "photos"
    folder.mkdir()

    def write(files):
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return folder

    return write


@pytest.fixture
def read(configure):
    """Return a function that reads all parts of a source and returns (caption, kept, bytes) of each row, and counters.

    The counters are checked: every row is yielded or skipped.
    """

    def read(**source):
        config = configure({"kind": "folder", "path": "${VECAP_HOME}/photos"} | source)
        files, counters = open_source(config, "2026-01-01"), Counter()
        rows = []
        body = image_reader(config, "2026-01-01")
        for part in files.parts():
            stats = Stats()
            rows += [
                (link.alttext, link.kept and json.loads(link.kept), body(link.stored))
                for link in files.read(part, stats)
            ]
            counters += stats.counters
        skipped = sum(count for name, count in counters.items() if name.startswith("skipped."))
        assert counters["images"] == len(rows) + skipped
        return rows, dict(counters)

    return read


def test_the_rows_of_a_table_name_the_images(write, read, tmp_path):
    (tmp_path / "secret.jpg").write_bytes(RED)
    folder = write({"a.jpg": RED, "more/b.JPG": RED, "c.png": BLUE, "not listed.webp": RED, "a.txt": "not used"})
    (folder / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (folder / "in.jpg").symlink_to("a.jpg")
    (folder / "outside").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.jpg")
    names = [
        "a.jpg", "a.jpg", "more/b.JPG", r"more\b.JPG", str(folder / "c.png"), "in.jpg", "more/../c.png",
        "none.jpg", "../secret.jpg", str(tmp_path / "secret.jpg"), "out.jpg", "outside/secret.jpg", "../nothing",
        "more", "pipe.jpg", "x" * 300, "", "${VECAP_HOME}/secret.jpg", "file:///etc/passwd",
    ]  # fmt: skip
    lines = [f'"{name}",text {number},{number}' for number, name in enumerate(names)]
    (folder / "captions.csv").write_text("\n".join(["filename,description,sku", *lines, "short"]) + "\n")
    rows, counters = read(keep_columns=["sku", "file_name"])
    assert [caption for caption, *_ in rows] == [f"text {number}" for number in range(7)]
    assert [body for *_, body in rows] == [RED, RED, RED, RED, BLUE, RED, BLUE]
    assert [kept["file_name"] for _, kept, _ in rows] == names[:7]
    assert rows[1][1]["sku"] == "1"
    assert counters == {
        "images": 20, "skipped.no_such_file": 2, "skipped.outside_folder": 6, "skipped.not_a_file": 2,
        "skipped.bad_file_name": 1, "skipped.no_image": 1, "skipped.bad_row": 1, "unlisted": 1,
        "folder_skipped.link": 1,
    }  # fmt: skip


def test_captions_next_to_the_images(write, read, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    folder = write(
        {
            "1.jpg": RED, "1.txt": "\ufeffa red square", "2.JPEG": RED, "2.TXT": "upper case",
            "3.png": BLUE, "3.json": '{"caption": "from json", "id": 3}',
            "4.png": BLUE, "4.json": '{"caption": "other", "id": [4]}', "4.txt": "the text comes first",
            "5.jpg": RED, "6.jpg": RED, "6.json": "{", "7.jpg": RED, "7.txt": b"\xff", "8.jpg": RED, "8.json": "[]",
            "9.jpg": b"", ".hidden.jpg": RED, ".cache/x.jpg": RED, "notes.txt": "no image", "sub/a/1.jpg": RED,
            "sub/a/1.txt": "below", "z.pdf": b"no image",
        }
    )  # fmt: skip
    (folder / "l.jpg").symlink_to("1.jpg")
    (folder / "l.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "linked").symlink_to("sub")
    (folder / "9.jpg").rename(folder / os.fsdecode(b"9\xff.jpg"))
    rows, counters = read(keep_columns=["file_name", "id"])
    assert [(caption, kept["file_name"], kept["id"]) for caption, kept, _ in rows] == [
        ("a red square", "1.jpg", None),
        ("upper case", "2.JPEG", None),
        ("from json", "3.png", 3),
        ("the text comes first", "4.png", [4]),
        (None, "5.jpg", None),
        ("below", "sub/a/1.jpg", None),
    ]
    assert counters == {
        "images": 11, "skipped.bad_json": 2, "skipped.not_utf8": 2, "skipped.outside_folder": 1,
        "folder_skipped.link": 1,
    }  # fmt: skip


def test_names_match_in_either_unicode_form_and_from_a_table_elsewhere(write, read, tmp_path):
    write({"caf\u00e9.jpg": RED, "e\u0301te\u0301.jpg": BLUE})
    (tmp_path / "list.csv").write_text("image,text\ncafe\u0301.jpg,a\n\u00e9t\u00e9.jpg,b\nphotos/caf\u00e9.jpg,c\n")
    rows, counters = read(captions="../list.csv")
    assert [(caption, body) for caption, _, body in rows] == [("a", RED), ("b", BLUE), ("c", RED)]
    assert counters == {"images": 3}


@pytest.mark.parametrize(
    ("files", "source", "message"),
    [
        ({}, {"path": "${VECAP_HOME}/none"}, r"folder \$\{VECAP_HOME\}/none does not exist .*crawl\.source\.path"),
        ({}, {"path": "s3://bucket/photos"}, r"does not exist on this machine"),
        ({"a.txt": "x"}, {}, r"has no images \(.*\.jpg.*\); change crawl\.source\.path"),
        (
            {"a.csv": "x", "b.jsonl": "x"},
            {},
            r"several tables \(a\.csv, b\.jsonl\); name one in crawl\.source\.captions",
        ),
        ({"a.jpg": RED}, {"captions": "c.csv"}, r"photos/c\.csv does not exist; correct crawl\.source\.captions"),
        ({"c.csv": "x;y\n1;2\n"}, {}, r"no column with file names \(columns: x;y\); set crawl\.source\.image_column"),
        ({"c.csv": "file,x\n1,2\n"}, {"keep_columns": ["id"]}, r"no column 'id' .*set crawl\.source\.keep_columns"),
        ({"c.csv": "file,x\n1,2\n"}, {"caption_column": "id"}, r"no column 'id' .*set crawl\.source\.caption_column"),
        (
            {"c.csv": "file,text\nq.jpg,a\n"},
            {},
            r"names no image that can be read: 1 no_such_file; .* name is 'q\.jpg'",
        ),
        ({"c.csv": ""}, {}, r"c\.csv is empty"),
    ],
    ids=str,
)
def test_a_folder_that_cannot_be_used_is_a_one_line_error(write, read, files, source, message):
    write(files)
    with pytest.raises(VecapError, match=message) as error:
        read(**source)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_files_and_folders_fail_alone(write, read):
    folder = write({"a.jpg": RED, "b.jpg": RED, "sub/c.jpg": RED, "sub/d/e.jpg": RED})
    (folder / "b.jpg").chmod(0)
    (folder / "sub/d").chmod(0)
    try:
        rows, counters = read()
    finally:
        (folder / "sub/d").chmod(0o700)
    assert len(rows) == 2
    assert counters == {"images": 3, "skipped.unreadable": 1, "folder_skipped.unreadable": 1}


def test_a_crawl_of_a_folder(write, configure, web, tmp_path):
    folder = write({f"{n:02d}.jpg": image("JPEG", color=(40 * n, 200 - 30 * n, 90)) for n in range(5)})
    write({"sub/x.jpg": RED, "sub/x.txt": "in a subfolder", "sub/broken.jpg": RED[:200], "sub/broken.txt": "broken"})
    config = configure({"kind": "folder", "path": "${VECAP_HOME}/photos"}, shard_size=3)
    stage, manifest = crawl(config)
    assert (manifest.counters["images"], manifest.counters["success"], manifest.counters["failed_to_resize"]) == (
        7,
        6,
        1,
    )
    table = pq.read_table([stage.store.path(manifest.file(f"0000{n}.parquet")) for n in range(3)]).to_pylist()
    assert [json.loads(row["kept"])["file_name"] for row in table] == [
        *(f"{n:02d}.jpg" for n in range(5)), "sub/broken.jpg", "sub/x.jpg",
    ]  # fmt: skip
    assert table[6]["stored_in"] == "${VECAP_HOME}/photos/sub/x.jpg"
    assert table[6]["sha256"] == sha256(RED).hexdigest()
    assert not web.request_counts
    assert str(tmp_path) not in json.dumps(manifest.content)
    files = {"broken.jpg": RED[:200], "x.jpg": RED}
    sums = "".join(f"{sha256(data).hexdigest()}  ${{VECAP_HOME}}/photos/sub/{name}\n" for name, data in files.items())
    assert manifest.inputs[1].digest == sha256(sums.encode()).hexdigest(), "as sha256sum prints them"

    again = stage_of(config.model_copy(update={"root": str(tmp_path / "again")}))
    for part in reversed(again.preparations()):
        again.prepare(part)
    for shard in reversed(again.plan()):
        again.run(shard)
    assert again.commit().digest == manifest.digest, "the order of work does not matter"
    assert folder.is_dir()


def test_a_file_that_changes_during_the_crawl_fails_alone(write, configure, tmp_path):
    folder = write({f"{n}.jpg": image("JPEG", color=(60 * n, 80, 90)) for n in range(4)})
    (tmp_path / "secret.jpg").write_bytes((folder / "2.jpg").read_bytes())
    stage = stage_of(configure({"kind": "folder", "path": "${VECAP_HOME}/photos"}))
    (shard,) = stage.plan()
    (folder / "0.jpg").unlink()
    (folder / "1.jpg").write_bytes(RED + b"more")
    (folder / "2.jpg").unlink()
    (folder / "2.jpg").symlink_to(tmp_path / "secret.jpg")
    counters = stage.run(shard).counters
    assert (counters["success"], counters["error.not_stored"]) == (1, 3)


def test_few_images_are_in_memory_at_a_time(configure, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_images, "_STORED_IMAGES", 5)
    counts = Counter()

    class CountingSpool(Spool):
        def append(self, data):
            counts["decoded"] += 1
            return super().append(data)

    def read(stored):
        counts["read"] += 1
        counts["most"] = max(counts["most"], counts["read"] - counts["decoded"])
        return RED

    config = configure({"kind": "folder", "path": "photos"})
    requests = [ImageRequest(f"ni:///{n}", ByteRange(f"{n}.jpg", 0, 1)) for n in range(40)]
    spool = CountingSpool(tmp_path / "spool")
    fetcher = FetcherThread(config.crawl.fetch)
    outcomes = fetcher.run(lambda fetcher: download_all(requests, config, fetcher, spool, read))
    spool.close()
    assert {outcome.status for outcome in outcomes.values()} == {"success"}
    assert counts["read"] == 40
    assert counts["most"] <= 5


def test_a_list_of_urls_names_local_files_only_in_allowed_folders(write, configure, web, tmp_path):
    web.image("/1.jpg")
    folder = write({"a.jpg": RED, "b c.png": BLUE})
    (tmp_path / "secret.jpg").write_bytes(RED)
    local = ["photos/a.jpg", (folder / "b c.png").as_uri(), "secret.jpg", "/etc/passwd"]
    rows = [f"{name},text {n},{n}" for n, name in enumerate(["http://a.example/1.jpg", *local, "ftp://y"])]
    (tmp_path / "list.csv").write_text("\n".join(["url,caption,id", *rows]))
    source = {"kind": "urls", "paths": ["${VECAP_HOME}/list.csv"]}
    _, closed = crawl(configure(source))
    assert (closed.counters["candidates"], closed.counters["skipped.scheme"]) == (1, 5)
    allowed = source | {"allow_folders": ["${VECAP_HOME}/photos"], "keep_columns": ["id"]}
    stage, manifest = crawl(configure(allowed).model_copy(update={"dataset": "open"}))
    counters = manifest.counters
    assert (counters["success"], counters["skipped.outside_folder"], counters["skipped.scheme"]) == (3, 2, 1)
    table = pq.read_table(stage.store.path(manifest.file("00000.parquet"))).to_pylist()
    assert [json.loads(row["kept"]) for row in table] == [{"id": "0"}, {"id": "1"}, {"id": "2"}]
    assert web.request_counts["a.example/1.jpg"] == 2


def test_a_local_file_is_read_up_to_max_bytes(write, configure):
    write({"a.jpg": RED, "b.jpg": RED + b"x" * 5000})
    config = configure({"kind": "folder", "path": "${VECAP_HOME}/photos"}, {"max_bytes": len(RED)})
    _, manifest = crawl(config)
    assert (manifest.counters["success"], manifest.counters["skipped.too_large"]) == (1, 1)
    read = image_reader(config, "2026-01-01")
    with pytest.raises(Failure, match="not_stored: the folder is not configured"):
        read(ByteRange("elsewhere/a.jpg", 0, 10))
