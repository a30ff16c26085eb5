"""The check of a source before the crawl, and what a source does not read: the store, links, empty folder names."""

from __future__ import annotations

import json
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.crawl.conftest import crawl, stage_of
from tests.crawl.web import image
from vecap_tasks.config import parse_config
from vecap_tasks.crawl.candidates import open_source
from vecap_tasks.crawl.sources.link import Stats
from vecap_tasks.errors import ConfigError, PermanentError, VecapError

RED, BLUE = image("JPEG", color="red"), image("PNG", color="blue")
PHOTOS = {"kind": "folder", "path": "${VECAP_HOME}/photos"}


@pytest.fixture
def write(tmp_path):
    """Return a function that writes files, by path."""

    def write(files):
        for name, data in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return tmp_path

    return write


def check(config):
    for _, run in stage_of(config).checks():
        run()


def links(config):
    source, found = open_source(config, "2026-01-01"), []
    for part in source.parts():
        found += source.read(part, Stats())
    return found


def test_one_usable_part_is_enough(write, configure):
    write(
        {"photos/cats/1.jpg": RED, "lists/a.csv": "url,caption\n,x\n", "lists/b.csv": "url\nhttp://a.example/1.jpg\n"}
    )
    check(configure(PHOTOS))
    write({"photos/0.jpg": b"x" * 9000})
    check(configure(PHOTOS, {"max_bytes": 8000}))
    lists = {"kind": "urls", "paths": ["${VECAP_HOME}/lists/*.csv"]}
    check(configure(lists))
    write({"lists/b.csv": "url\nno\n"})
    with pytest.raises(PermanentError, match=r"a\.csv has no rows with a URL"):
        check(configure(lists))
    write({f"lists/{name}.csv": "url\nno\n" for name in "cd"})
    check(configure(lists))  # the check reads only the first files


def test_no_usable_image_in_any_part_is_an_error(write, configure):
    write({"photos/0.jpg": b"x" * 9000, "photos/cats/1.jpg": b"x" * 9000})
    with pytest.raises(
        PermanentError, match=r"photos has no usable image \(2 images, 2 skipped\.too_large\); .*source"
    ):
        check(configure(PHOTOS, {"max_bytes": 8000}))


def test_local_rows_of_a_list_are_located_before_the_crawl(write, configure):
    write({"photos/a.jpg": RED, "list.csv": "url\nphotos/b.jpg\n"})
    source = {"kind": "urls", "paths": ["${VECAP_HOME}/list.csv"], "allow_folders": ["${VECAP_HOME}/photos"]}
    with pytest.raises(PermanentError, match=r"'photos/b\.jpg' cannot be read \(no_such_file\).*allow_folders"):
        check(configure(source))
    write({"list.csv": "url\nphotos/b.jpg\nphotos/a.jpg\n"})
    check(configure(source))
    with pytest.raises(PermanentError, match=r"folder \$\{VECAP_HOME\}/photo does not exist"):
        check(configure(source | {"allow_folders": ["${VECAP_HOME}/photo"]}))


def test_the_advice_is_not_to_set_what_is_set(write, configure, caplog):
    write({"photos/a.jpg": RED, "list.csv": "url\nftp://a.example/x\n"})
    source = {"kind": "urls", "paths": ["${VECAP_HOME}/list.csv"]}
    links(configure(source))
    assert "set crawl.source.allow_folders" in caplog.text
    caplog.clear()
    links(configure(source | {"allow_folders": ["${VECAP_HOME}/photos"]}))
    assert "no row has a usable URL" in caplog.text
    assert "allow_folders" not in caplog.text


def test_the_store_and_hidden_folders_inside_the_source_are_not_read(write, configure, tmp_path):
    rows = pa.table({"image": pa.array([RED], pa.binary()), "text": ["x"]})
    for folder in ("photos", "photos/versions/demo/2026-01-01/crawl", "photos/.cache"):
        write({f"{folder}/samples.png": BLUE})
        pq.write_table(rows, tmp_path / folder / "train.parquet")
    inside = {"root": str(tmp_path / "photos/versions")}
    config = configure({"kind": "hf", "path": "${VECAP_HOME}/photos"}).model_copy(update=inside)
    assert open_source(config, "2026-01-01").parts() == ["${VECAP_HOME}/photos/train.parquet"]
    around = config.model_copy(update={"root": str(tmp_path)})
    assert len(open_source(around, "2026-01-01").parts()) == 2, "a store around the source excludes nothing"
    for table in (tmp_path / "photos").rglob("*.parquet"):
        table.unlink()
    config = configure(PHOTOS).model_copy(update=inside)
    assert [json.loads(link.kept)["file_name"] for link in links(config)] == ["samples.png"]
    shared = configure(PHOTOS).model_copy(update={"root": str(tmp_path / "photos"), "dataset": "versions"})
    assert len(links(shared)) == 1


def test_a_pattern_that_matches_the_store_is_a_warning(write, configure, tmp_path, caplog):
    config = configure({"kind": "urls", "paths": ["${VECAP_HOME}/**/*.csv"]})
    config = config.model_copy(update={"root": str(tmp_path / "versions")})
    write({"list.csv": "url\nhttp://a.example/1.jpg\n"})
    with caplog.at_level(logging.WARNING):
        check(config)
        assert "in the store" not in caplog.text
        write({f"versions/{config.dataset}/2026-01-01/x.csv": "url\nhttp://a.example/1.jpg\n"})
        check(config)
    assert caplog.text.count("is in the store (root:") == 1


def test_links_do_not_lead_out_of_a_source(write, configure, tmp_path):
    write({"photos/a.jpg": RED, "list.csv": "file,caption\na.jpg,secret\n", "split/metadata.csv": "file_name\nb.jpg\n"})
    write({"hf/train/c.jpg": RED, "split/b.jpg": RED})
    (tmp_path / "photos/captions.csv").symlink_to(tmp_path / "list.csv")
    with pytest.raises(PermanentError, match=r"captions\.csv cannot be read: outside_folder; copy .*source\.captions"):
        links(configure(PHOTOS))
    assert len(links(configure(PHOTOS | {"captions": "captions.csv"}))) == 1, "a named table may be anywhere"
    (tmp_path / "hf/other").symlink_to(tmp_path / "split")
    dataset = configure({"kind": "hf", "path": "${VECAP_HOME}/hf"})
    with pytest.raises(PermanentError, match="no parquet files"):
        links(dataset)
    (tmp_path / "hf/train/metadata.csv").symlink_to(tmp_path / "list.csv")
    with pytest.raises(PermanentError, match=r"train/metadata\.csv cannot be read: outside_folder"):
        links(dataset)


@pytest.mark.parametrize(
    "source",
    [
        {"kind": "urls", "paths": ["list.csv"], "allow_folders": [""]},
        {"kind": "urls", "paths": ["list.csv"], "allow_folders": ["file://"]},
        {"kind": "folder", "path": ""},
        {"kind": "hf", "path": " "},
    ],
)
def test_an_empty_folder_name_is_refused(tmp_path, source):
    with pytest.raises(ConfigError, match="name a folder"):
        parse_config({"dataset": "x", "root": "store", "crawl": {"source": source}}, tmp_path)


def test_the_root_folder_is_not_the_folder_of_the_configuration(write, configure):
    write({"photos/a.jpg": RED, "list.csv": f"url\n{write({})}/photos/a.jpg\n"})
    config = configure({"kind": "urls", "paths": ["${VECAP_HOME}/list.csv"], "allow_folders": ["/"]})
    assert len(links(config)) == 1
    assert open_source(configure(PHOTOS | {"path": "/"}), "2026-01-01")._root.as_posix() == "/"


@pytest.mark.parametrize(
    ("name", "text", "keep"),
    [
        ("list.txt", "http://a.example/1.jpg\n", ["sku"]),
        ("list.json", '{"http://a.example/1.jpg": "a boat"}', ["sku"]),
        ("list.jsonl", '{"url": "http://a.example/1.jpg", "sku": 1}\n{"url": "http://a.example/2.jpg"}\n', ["skv"]),
        ("list.json", '[{"url": "http://a.example/1.jpg", "sku": 1}]', ["skv"]),
    ],
)
def test_a_column_to_keep_that_a_list_does_not_have_is_an_error(write, configure, name, text, keep):
    write({name: text})
    source = {"kind": "urls", "paths": [f"${{VECAP_HOME}}/{name}"], "keep_columns": keep}
    with pytest.raises(VecapError, match=rf"{name} has no column 'sk[uv]' \(columns: url.*set crawl\.source\.keep_col"):
        crawl(configure(source))


def test_a_folder_with_a_table_in_the_format_of_coco_is_told_what_to_write(write, configure):
    write({"photos/a.jpg": RED, "photos/coco.json": '{"images": [{"file_name": "a.jpg"}], "annotations": [{"id": 1}]}'})
    with pytest.raises(VecapError, match=r'COCO.*convert it to JSON lines such as \{"file_name": "1\.jpg", "caption"'):
        links(configure(PHOTOS | {"captions": "coco.json"}))


def test_a_list_of_file_names_keeps_them(write, configure):
    write({"photos/a.jpg": RED, "photos/list.txt": "a.jpg\n"})
    (found,) = links(configure(PHOTOS | {"captions": "list.txt"}))
    assert json.loads(found.kept) == {"file_name": "a.jpg"}


def test_kept_values_with_private_data_are_null(write, configure):
    row = "a.jpg,A boat,jane(at)studio.example,0113 496 0371,7,S1"
    write({"photos/a.jpg": RED, "photos/list.csv": f"file,caption,alttext,phone,id,sku\n{row}\n"})
    config = configure(PHOTOS | {"keep_columns": ["file_name", "alttext", "phone", "id", "sku"]})
    source, stats = open_source(config, "2026-01-01"), Stats()
    (found,) = source.read(source.parts()[0], stats)
    assert json.loads(found.kept) == {"file_name": "a.jpg", "alttext": None, "phone": None, "id": "7", "sku": "S1"}
    assert stats.counters["dropped.kept_private_data"] == 2


def test_a_file_name_with_an_email_address_is_not_kept(write, configure):
    write({"photos/jane@mail.com.jpg": RED, "photos/b.jpg": BLUE, "photos/b.json": '{"description": "A blue square"}'})
    found = links(configure(PHOTOS))
    assert [json.loads(link.kept)["file_name"] for link in found] == ["b.jpg", None]
    assert found[0].alttext == "A blue square", "the docs list `description`"


def test_a_file_that_changes_but_keeps_its_length_fails_alone(write, configure, tmp_path):
    write({"photos/a.jpg": RED, "photos/b.jpg": BLUE})
    stage = stage_of(configure(PHOTOS))
    (shard,) = stage.plan()
    (tmp_path / "photos/a.jpg").write_bytes(RED[:-40] + bytes(40))
    counters = stage.run(shard).counters
    assert (counters["success"], counters["error.not_stored"]) == (1, 1)
